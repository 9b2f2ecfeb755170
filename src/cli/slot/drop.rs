//! `txstream slot drop`.

use tokio_postgres::Client;

use super::{failure, said};
use crate::cli::output;
use crate::cli::slot_words::bytes;
use crate::cli::{ConfirmArgs, Failure};
use crate::config::Config;
use crate::relay::slot_life::{self, Droppable};

pub(super) async fn run(confirm: ConfirmArgs, client: &Client, config: &Config) -> Result<(), Failure> {
    let name = &config.relay.slot;
    let (confirmed_lsn, lag) = match slot_life::droppable(client, name).await.map_err(failure)? {
        Droppable::Slot(view) => (view.confirmed_flush_lsn, view.slot_confirmed_lag_bytes),
        Droppable::Lost { confirmed_lsn } => (confirmed_lsn, None),
    };
    let skipped =
        lag.map_or_else(|| "an unknown amount of WAL".to_owned(), |lag| format!("{} of WAL", bytes(lag)));
    let from = said(confirmed_lsn);
    output::confirm(
        &format!(
            "drop slot {name}? Every outbox row committed after {from} ({skipped} up to now) will be skipped"
        ),
        confirm,
    )?;
    slot_life::drop(client, name).await.map_err(failure)?;
    output::print(&format!("dropped slot {name}; what was committed after {from} will not be published"))
}

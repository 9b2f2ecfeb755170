//! `txstream slot status`.

use tokio_postgres::Client;

use super::{existing, failure};
use crate::cli::Failure;
use crate::cli::output::{self, Format};
use crate::cli::slot_words::rows;
use crate::config::Config;
use crate::relay::checkpoint;
use crate::relay::slot_life::{self, SlotError};

pub(super) async fn run(client: &Client, config: &Config, format: Format) -> Result<(), Failure> {
    let view = existing(client, &config.relay.slot).await?;
    if format == Format::Json {
        return output::print_json(&view);
    }
    let mut table = output::table(["SLOT", view.slot_name.as_str()]);
    for (name, value) in rows(&view) {
        table.add_row([name.to_owned(), value]);
    }
    let row = checkpoint::read(client, &view.slot_name).await.unwrap_or_default();
    if row.is_some_and(|row| row.backfill_pending && !row.dropped) {
        let error = SlotError::BackfillPending(view.slot_name.clone());
        table.add_row(["backfill".to_owned(), format!("begun and not finished; {}", error.remedy())]);
    }
    let (info, publication) = (&config.replication, &config.relay.publication);
    match slot_life::ensure_older(client, info, "txstream slot", &view, publication).await {
        Err(error @ SlotError::Younger { .. }) => {
            table.add_row(["publication".to_owned(), format!("{error}; {}", error.remedy())]);
        }
        // It is only a look: a role without the right to replicate sees the rest.
        Err(error) => tracing::debug!(error = %failure(error), "the slot's next change cannot be decoded"),
        Ok(()) => {}
    }
    output::print(&table)
}

//! `txstream slot advance`.

use tokio_postgres::Client;

use super::{failure, said};
use crate::cli::output;
use crate::cli::slot_words::bytes;
use crate::cli::{ConfirmArgs, Failure};
use crate::config::Config;
use crate::postgres::Lsn;
use crate::relay::slot_life::{self, Skips};

pub(super) async fn run(
    to: Lsn,
    confirm: ConfirmArgs,
    client: &Client,
    config: &Config,
) -> Result<(), Failure> {
    let (name, publication) = (&config.relay.slot, &config.relay.publication);
    let skips = slot_life::skips(client, name, publication, &config.outbox, to).await.map_err(failure)?;
    let Some(skips) = skips else {
        return output::print(&format!("slot {name} stands at {to} already: nothing to do"));
    };
    let what = words(&skips);
    output::confirm(&format!("advance slot {name} from {}? It skips {what}", said(skips.from)), confirm)?;
    let at = slot_life::advance(client, name, publication, to).await.map_err(failure)?;
    output::print(&format!("slot {name} stands at {at}; skipped {what}"))
}

fn words(skips: &Skips) -> String {
    let wal = skips.from.map_or_else(
        || format!("WAL up to {}", skips.to),
        |from| format!("[{from}, {}], {} of WAL", skips.to, bytes(skips.to.0.saturating_sub(from.0))),
    );
    match &skips.rows {
        Some(rows) => {
            let rows: Vec<_> = rows.iter().map(|(table, rows)| format!("{rows} rows of {table}")).collect();
            format!("{wal}, with {}", rows.join(", "))
        }
        None => format!("{wal}, with an unknown number of outbox rows"),
    }
}

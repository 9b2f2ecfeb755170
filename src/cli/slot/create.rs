//! `txstream slot create`.

use std::time::Duration;

use tokio_postgres::Client;

use super::backfill::{self, Given};
use super::failure;
use crate::cli::output;
use crate::cli::slot_words::standing;
use crate::cli::{ConfirmArgs, Failure};
use crate::config::{Config, units};
use crate::postgres::slot::{NewSlot, SlotView};
use crate::relay::slot_life::{self, CreateSlot, Created, Reset};

#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// Keep it on the standbys too (PostgreSQL 17 and later)
    #[arg(long)]
    failover: bool,
    /// Longest wait for a transaction that is still open
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = units::duration)]
    lock_timeout: Duration,
    /// Publish what is in the table already, before a relay streams
    #[arg(long)]
    backfill: bool,
    /// With --backfill: only rows that this SQL condition takes
    #[arg(long = "where", value_name = "SQL", requires = "backfill")]
    filter: Option<String>,
}

pub(super) async fn run(args: &CreateArgs, client: &Client, config: &Config) -> Result<(), Failure> {
    let CreateArgs { failover, lock_timeout, .. } = *args;
    let name = &config.relay.slot;
    let publication = &config.relay.publication;
    if args.backfill {
        let new = NewSlot { name, failover, lock_timeout };
        let reset = Reset { new, publication, outbox: &config.outbox };
        return match slot_life::begin_first(client, &reset).await.map_err(failure)? {
            // Nothing is lost or skipped by it, so nothing is asked.
            Some(survey) => {
                let given = Given { filter: args.filter.clone(), confirm: ConfirmArgs { yes: true } };
                backfill::run(client, config, &reset, &survey, given).await
            }
            None => exists(client, config, &super::existing(client, name).await?).await,
        };
    }
    let wanted = CreateSlot {
        slot: name,
        publication,
        outbox: &config.outbox,
        failover,
        lock_timeout,
        first_only: false,
    };
    match slot_life::create(client, &wanted).await.map_err(failure)? {
        Created::New { at } => output::print(&format!("created slot {name} at {at}; next: txstream relay")),
        Created::Existed(view) => exists(client, config, &view).await,
    }
}

async fn exists(client: &Client, config: &Config, view: &SlotView) -> Result<(), Failure> {
    let (info, publication) = (&config.replication, &config.relay.publication);
    slot_life::ensure_older(client, info, "txstream slot", view, publication).await.map_err(failure)?;
    output::print(&format!("slot {} exists already: {}", view.slot_name, standing(view)))
}

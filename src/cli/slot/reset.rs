//! `txstream slot reset`.

use std::time::Duration;

use tokio_postgres::Client;

use super::backfill::{self, Given};
use super::{failure, said};
use crate::cli::output;
use crate::cli::{ConfirmArgs, Failure};
use crate::config::{Config, units};
use crate::postgres::slot::NewSlot;
use crate::relay::slot_life::{self, Reset};

#[derive(Debug, clap::Args)]
pub(super) struct ResetArgs {
    /// Publish every row still in the table that may be unconfirmed, before a relay streams
    #[arg(long)]
    backfill: bool,
    /// With --backfill: only rows that this SQL condition takes
    #[arg(long = "where", value_name = "SQL", requires = "backfill")]
    filter: Option<String>,
    /// Keep the slot on the standbys too (PostgreSQL 17 and later); as before where it is not given
    #[arg(long)]
    failover: bool,
    /// Longest wait for a transaction that is still open
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = units::duration)]
    lock_timeout: Duration,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

pub(super) async fn run(args: &ResetArgs, client: &Client, config: &Config) -> Result<(), Failure> {
    let (name, publication) = (&config.relay.slot, &config.relay.publication);
    let new = NewSlot { name, failover: args.failover, lock_timeout: args.lock_timeout };
    let mut reset = Reset { new, publication, outbox: &config.outbox };
    let survey = slot_life::survey(client, &reset).await.map_err(failure)?;
    reset.new.failover |= survey.failover();
    if args.backfill {
        let given = Given { filter: args.filter.clone(), confirm: args.confirm };
        return backfill::run(client, config, &reset, &survey, given).await;
    }
    let counts = slot_life::count(client, publication, &config.outbox.tables, &survey.selection(None)).await;
    let what = match counts {
        Ok(counts) => backfill::words(&counts),
        // It only helps to decide; a role may be allowed to reset and not to read.
        Err(error) => format!("an unknown number of rows ({})", failure(error)),
    };
    output::print(&format!("the gap is [{}, {}]; {what} may lie in it", said(survey.from), said(survey.to)))?;
    let question = format!(
        "{} slot {name} at the current point? What the gap holds will not be published (--backfill publishes it)",
        if survey.drops() { "drop and create" } else { "create" }
    );
    output::confirm(&question, args.confirm)?;
    let renewed = slot_life::renew(client, &reset, &survey, None).await.map_err(failure)?;
    output::print(&format!(
        "created slot {name} at {}; skipped what lies in [{}, {}]; next: txstream relay",
        said(renewed.at),
        said(survey.from),
        said(renewed.at)
    ))
}

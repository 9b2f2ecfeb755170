//! `txstream slot create|status|drop`: the slot's life.

use std::time::Duration;

use super::connect;
use super::output::{self, Format};
use super::slot_words::{bytes, rows, standing};
use super::{ConfirmArgs, Failure, OutputArgs, WaitArgs};
use crate::config::{Config, units};
use crate::postgres::error::report;
use crate::postgres::slot::{self, SlotView};
use crate::relay::checkpoint;
use crate::relay::slot_life::{self, CreateSlot, Created, Droppable, SlotError};

/// Create, show or drop the replication slot
#[derive(Debug, clap::Args)]
pub(super) struct SlotArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create the slot; one that exists and is ours is left as it is
    Create {
        /// Keep it on the standbys too (PostgreSQL 17 and later)
        #[arg(long)]
        failover: bool,
        /// Longest wait for a transaction that is still open
        #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = units::duration)]
        lock_timeout: Duration,
    },
    /// Show what the server knows of the slot, who holds it and what it retains
    Status {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Drop the slot, after saying what will be skipped
    Drop {
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

pub(super) async fn run(args: &SlotArgs, config: &Config) -> Result<(), Failure> {
    let client = connect::postgres(&config.replication, "slot", args.wait.wait).await?;
    let name = &config.relay.slot;
    match &args.action {
        Action::Create { failover, lock_timeout } => {
            let wanted = CreateSlot {
                slot: name,
                publication: &config.relay.publication,
                outbox: &config.outbox,
                failover: *failover,
                lock_timeout: *lock_timeout,
                first_only: false,
            };
            match slot_life::create(&client, &wanted).await.map_err(failure)? {
                Created::New { at } => {
                    output::print(&format!("created slot {name} at {at}; next: txstream relay"))
                }
                Created::Existed(view) => {
                    output::print(&format!("slot {name} exists already: {}", standing(&view)))
                }
            }
        }
        Action::Status { output } => {
            let view = existing(&client, name).await?;
            match output.output {
                Format::Json => output::print_json(&view),
                Format::Table => print_status(&view),
            }
        }
        Action::Drop { confirm } => {
            let (confirmed_lsn, lag) = match slot_life::droppable(&client, name).await.map_err(failure)? {
                Droppable::Slot(view) => (view.confirmed_flush_lsn, view.slot_confirmed_lag_bytes),
                Droppable::Lost { confirmed_lsn } => (confirmed_lsn, None),
            };
            let skipped = lag.map_or_else(
                || "an unknown amount of WAL".to_owned(),
                |lag| format!("{} of WAL", bytes(lag)),
            );
            let from = confirmed_lsn.map_or_else(|| "?".to_owned(), |lsn| lsn.to_string());
            output::confirm(
                &format!(
                    "drop slot {name}? Every outbox row committed after {from} ({skipped} up to now) will be skipped"
                ),
                *confirm,
            )?;
            slot_life::drop(&client, name).await.map_err(failure)?;
            output::print(&format!(
                "dropped slot {name}; what was committed after {from} will not be published"
            ))
        }
    }
}

/// The slot, if it is ours.
pub(super) async fn existing(client: &tokio_postgres::Client, name: &str) -> Result<SlotView, Failure> {
    let (_, database) = checkpoint::whereabouts(client).await.map_err(|e| failure(e.into()))?;
    let view = slot::view(client, name).await.map_err(|e| failure(e.into()))?;
    let view = view.ok_or_else(|| failure(SlotError::Missing(name.to_owned())))?;
    view.ensure_ours(&database).map_err(|e| failure(e.into()))?;
    Ok(view)
}

/// What the exit says of an error of the slot's life.
pub(super) fn failure(error: SlotError) -> Failure {
    Failure::halted(report(&error), error.remedy())
}

fn print_status(view: &SlotView) -> Result<(), Failure> {
    let mut table = output::table(["SLOT", view.slot_name.as_str()]);
    for (name, value) in rows(view) {
        table.add_row([name.to_owned(), value]);
    }
    output::print(&table)
}

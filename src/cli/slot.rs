//! `txstream slot create|status|reset|advance|adopt|drop`: the slot's life.

mod adopt;
mod advance;
mod backfill;
mod create;
mod drop;
mod reset;
mod status;

use tokio_postgres::Client;

use super::connect;
use super::{ConfirmArgs, Failure, OutputArgs, WaitArgs};
use crate::config::Config;
use crate::postgres::Lsn;
use crate::postgres::error::report;
use crate::postgres::slot::{self, SlotView};
use crate::relay::checkpoint;
use crate::relay::slot_life::{self, SlotError};

/// Create, show, repair or drop the replication slot
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
    Create(create::CreateArgs),
    /// Show what the server knows of the slot, who holds it and what it retains
    Status {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Drop the slot and create it at the current point, after showing the gap
    Reset(reset::ResetArgs),
    /// Move the slot forward, after showing what that skips
    Advance {
        /// The position, as a halt prints it
        #[arg(value_name = "LSN")]
        to: Lsn,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Take over a slot whose identity changed (pg_upgrade, a restored copy, another program had it)
    Adopt {
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Drop the slot, after saying what will be skipped
    Drop {
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

pub(super) async fn run(args: &SlotArgs, config: &Config) -> Result<(), Failure> {
    let client = connect::postgres(&config.replication, "slot", args.wait.wait).await?;
    if !matches!(args.action, Action::Status { .. }) {
        slot_life::exclusively(&client, &config.relay.slot).await.map_err(failure)?;
    }
    match &args.action {
        Action::Create(args) => create::run(args, &client, config).await,
        Action::Status { output } => status::run(&client, config, output.output).await,
        Action::Reset(args) => reset::run(args, &client, config).await,
        Action::Advance { to, confirm } => advance::run(*to, *confirm, &client, config).await,
        Action::Adopt { confirm } => adopt::run(*confirm, &client, config).await,
        Action::Drop { confirm } => drop::run(*confirm, &client, config).await,
    }
}

/// The slot, if it is ours.
pub(super) async fn existing(client: &Client, name: &str) -> Result<SlotView, Failure> {
    let (_, database) = checkpoint::whereabouts(client).await.map_err(|e| failure(e.into()))?;
    let Some(view) = slot::view(client, name).await.map_err(|e| failure(e.into()))? else {
        let row = checkpoint::read(client, name).await.unwrap_or_default();
        return Err(failure(slot_life::missing(name, row.as_ref())));
    };
    view.ensure_ours(&database).map_err(|e| failure(e.into()))?;
    Ok(view)
}

/// What the exit says of an error of the slot's life.
pub(super) fn failure(error: SlotError) -> Failure {
    Failure::halted(report(&error), error.remedy())
}

/// A position for people.
fn said(lsn: Option<Lsn>) -> String {
    lsn.map_or_else(|| "an unknown position".to_owned(), |lsn| lsn.to_string())
}

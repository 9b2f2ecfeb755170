//! `txstream slot create|status|drop`: the slot's life.

use super::{ConfirmArgs, Failure, OutputArgs, WaitArgs};
use crate::config::Config;

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

pub(super) async fn run(_args: &SlotArgs, _config: &Config) -> Result<(), Failure> {
    std::future::ready(Err(Failure::halted("slot is not part of this build", "build from main"))).await
}

//! `txstream lag`: how far the slot is behind.

use super::{Failure, OutputArgs, WaitArgs};
use crate::config::Config;

/// Show how far the slot is behind, and what holds it
#[derive(Debug, clap::Args)]
pub(super) struct LagArgs {
    /// Refresh in place until interrupted
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

pub(super) async fn run(_args: &LagArgs, _config: &Config) -> Result<(), Failure> {
    std::future::ready(Err(Failure::halted("lag is not part of this build", "build from main"))).await
}

//! What people type and what they see: one file per command; printing and exiting live here only.
//!
//! A new command is a file with its `Args` and its `run`, a variant of [`Command`] and a line in
//! [`Arguments::run`].

mod lag;
pub mod logging;
mod migrate;
mod output;
mod relay;
mod slot;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, units};

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Bad usage or configuration, every problem at once: exit code 64.
    Usage(Vec<String>),
    /// A person must act: exit code 1.
    Halted {
        /// What happened.
        what: String,
        /// What to do about it: a command, SQL, or a setting to change.
        remedy: String,
    },
    /// A second signal of this number cut the command short: exit code 128 + n.
    Killed(u8),
}

impl Failure {
    /// A [`Failure::Halted`].
    pub fn halted(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Halted { what: what.into(), remedy: remedy.into() }
    }

    /// The process's exit code.
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(64),
            Self::Halted { .. } => ExitCode::from(1),
            Self::Killed(signal) => ExitCode::from(128_u8.saturating_add(*signal)),
        }
    }
}

/// Relays committed outbox rows from Postgres to Kafka and loses none.
#[derive(Debug, Parser)]
#[command(name = "txstream", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Relay(relay::RelayArgs),
    Migrate(migrate::MigrateArgs),
    Slot(slot::SlotArgs),
    Lag(lag::LagArgs),
}

/// How long a one-shot command waits for an absent server.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct WaitArgs {
    /// Wait this long for an absent server, like 30s
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
    pub(crate) wait: Duration,
}

/// Whether to ask before something is changed for good.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ConfirmArgs {
    /// Do it without asking
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// Shape of the result
    #[arg(long, short = 'o', value_name = "FORMAT", value_enum, default_value = "table")]
    pub(crate) output: output::Format,
}

/// A command line that asks for work.
#[derive(Debug)]
pub struct Arguments {
    command: Command,
}

impl Arguments {
    /// Does what was asked.
    ///
    /// # Errors
    /// As [`Failure`].
    pub async fn run(&self, config: &Config, set_level: logging::SetLevel) -> Result<(), Failure> {
        match &self.command {
            Command::Relay(args) => relay::run(args, config, set_level).await,
            Command::Migrate(args) => migrate::run(args, config).await,
            Command::Slot(args) => slot::run(args, config).await,
            Command::Lag(args) => lag::run(args, config).await,
        }
    }
}

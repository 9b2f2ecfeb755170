//! What people type and what they see: one file per command; printing and exiting live here only.
//!
//! A new command is a file with its `Args` and its `run`, a variant of [`Command`] and a line in
//! [`Arguments::run`].

pub mod logging;

mod admin_client;
mod breaker;
mod completions;
mod config;
mod connect;
mod dead_letter;
mod doctor;
mod flags;
mod lag;
mod man;
mod migrate;
mod outbox;
mod output;
mod relay;
mod signals;
mod slot;
mod slot_words;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{Config, Inputs, units};

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
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Halted { .. } => 1,
            Self::Killed(signal) => 128_u8.saturating_add(*signal),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(problems) => f.write_str(&problems.join("\n")),
            Self::Halted { what, remedy } => write!(f, "{what}\nwhat to do: {remedy}"),
            Self::Killed(signal) => {
                write!(f, "ended by a second signal {signal}; unconfirmed records will repeat")
            }
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
    Writer(writer::WriterArgs),
    Migrate(migrate::MigrateArgs),
    Slot(slot::SlotArgs),
    Outbox(outbox::OutboxArgs),
    DeadLetter(dead_letter::DeadLetterArgs),
    Lag(lag::LagArgs),
    Doctor(doctor::DoctorArgs),
    Verify(verify::VerifyArgs),
    Breaker(breaker::BreakerArgs),
    Config(config::ConfigArgs),
    Completions(completions::CompletionsArgs),
    /// Print the man page
    Man,
}

/// How long a one-shot command waits for an absent server.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct WaitArgs {
    /// Wait this long for an absent server, like 30s
    #[arg(long, global = true, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
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

/// A command line that asks for work with a configuration.
#[derive(Debug)]
pub struct Arguments {
    command: Command,
    given: flags::Given,
}

/// What a command line comes to.
#[derive(Debug)]
pub enum Parsed {
    /// Work to do.
    Work(Box<Arguments>),
    /// It asked about the program itself and was answered: help, version, completions, man page.
    Answered,
}

/// Understands a command line; what asks about the program itself is answered on stdout.
///
/// # Errors
/// [`Failure::Usage`] with clap's explanation.
pub fn parse<I: IntoIterator<Item: Into<OsString> + Clone>>(arguments: I) -> Result<Parsed, Failure> {
    let parsed = command().try_get_matches_from(arguments).and_then(|matches| {
        Ok(Arguments { command: Cli::from_arg_matches(&matches)?.command, given: flags::collect(&matches) })
    });
    match parsed {
        Ok(Arguments { command: Command::Completions(args), .. }) => completions::run(&args, command())?,
        Ok(Arguments { command: Command::Man, .. }) => man::run(Cli::command(), command())?,
        Ok(arguments) => return Ok(Parsed::Work(Box::new(arguments))),
        Err(error) if error.use_stderr() => return Err(Failure::Usage(vec![usage(&error)])),
        Err(error) => output::print(&answer(&error))?,
    }
    Ok(Parsed::Answered)
}

fn command() -> clap::Command {
    flags::add(Cli::command())
}

/// Help or version, which clap hands over as an error.
fn answer(error: &clap::Error) -> String {
    let text = error.render();
    let text = if output::colours(&io::stdout()) { text.ansi().to_string() } else { text.to_string() };
    text.trim_end().to_owned()
}

/// clap's text without its own prefix, which [`exit`] writes.
fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned()
}

impl Arguments {
    /// What the configuration is made from: these flags, this process's environment, `.env` here.
    ///
    /// # Errors
    /// [`Failure::Usage`] when `.env` cannot be read.
    pub fn inputs(&self) -> Result<Inputs, Failure> {
        let flags::Given { variables, properties } = self.given.clone();
        Inputs::of_process(variables, properties).map_err(Failure::Usage)
    }

    /// Does what was asked.
    ///
    /// # Errors
    /// As [`Failure`].
    pub async fn run(&self, config: &Config, set_level: logging::SetLevel) -> Result<(), Failure> {
        match &self.command {
            Command::Relay(args) => relay::run(args, config, set_level).await.inspect_err(log),
            Command::Writer(args) => writer::run(args, config, set_level).await.inspect_err(log),
            Command::Migrate(args) => migrate::run(args, config).await,
            Command::Slot(args) => slot::run(args, config).await,
            Command::Outbox(args) => outbox::run(args, config).await,
            Command::DeadLetter(args) => dead_letter::run(args, config).await,
            Command::Lag(args) => lag::run(args, config).await,
            Command::Doctor(args) => {
                let (_, oddities) = crate::config::load(&self.inputs()?).map_err(Failure::Usage)?;
                doctor::run(args, config, &oddities).await
            }
            Command::Verify(args) => verify::run(args, config).await,
            Command::Breaker(args) => breaker::run(args, config).await,
            Command::Config(args) => config::run(args, config),
            // Answered by `parse`, which needs no configuration for them.
            Command::Completions(_) | Command::Man => Ok(()),
        }
    }
}

/// The last log line of a service says what a person must do; one-shot commands only say it to the person.
fn log(failure: &Failure) {
    if let Failure::Halted { what, remedy } = failure {
        tracing::error!(remedy, "{what}");
    }
}

/// Says on stderr what failed, and gives the exit code.
pub fn exit(outcome: Result<(), Failure>) -> ExitCode {
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    let (on, off) = if output::colours(&io::stderr()) { ("\u{1b}[1;31m", "\u{1b}[0m") } else { ("", "") };
    let several = matches!(&failure, Failure::Usage(problems) if problems.len() > 1);
    let text = if several { format!("these settings are wrong:\n{failure}") } else { failure.to_string() };
    // Nothing is left to tell it to when stderr is gone.
    let _ = writeln!(io::stderr(), "{on}error:{off} {text}");
    ExitCode::from(failure.code())
}

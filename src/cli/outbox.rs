//! `txstream outbox prune`: keeps the outbox tables small.

use std::io;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::connect;
use super::output::{self, Format};
use super::{Failure, OutputArgs, WaitArgs};
use crate::config::{Config, units};
use crate::postgres::error::report;
use crate::retention::{self, Progress, Prune, PruneError, Pruned, Report};

/// Keep the outbox tables small
#[derive(Debug, clap::Args)]
pub(super) struct OutboxArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Delete old rows that the slot has confirmed, and drop whole partitions of them
    Prune {
        /// Least age of what goes, like 7d
        #[arg(long, value_name = "DURATION", value_parser = units::duration)]
        older_than: Duration,
        /// Count, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// The column that says how old a row is, if not the preset's own
        #[arg(long, value_name = "COLUMN")]
        age_column: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(super) async fn run(args: &OutboxArgs, config: &Config) -> Result<(), Failure> {
    let Action::Prune { older_than, dry_run, age_column, output } = &args.action;
    let prune = Prune {
        slot: &config.relay.slot,
        outbox: &config.outbox,
        older_than: *older_than,
        age_column: age_column.as_deref(),
        dry_run: *dry_run,
    };
    // The slot's own server, past any pooler: what is confirmed there decides what goes there.
    let mut client = connect::postgres(&config.replication, "outbox prune", args.wait.wait).await?;
    let bar = bar();
    let mut show = |progress: Progress<'_>| {
        bar.set_length(progress.pages);
        bar.set_position(progress.pages_done);
        bar.set_message(format!("{}: {} rows", progress.table, progress.rows));
    };
    let pruned = retention::prune(&mut client, &prune, &mut show).await;
    bar.finish_and_clear();
    let report = pruned.map_err(failure)?;
    match output.output {
        Format::Json => output::print_json(&report),
        Format::Table => print_table(&report),
    }
}

fn failure(error: PruneError) -> Failure {
    Failure::halted(report(&error), error.remedy())
}

/// On stderr, and only if that is a terminal.
fn bar() -> ProgressBar {
    let template = if output::colours(&io::stderr()) {
        "{bar:30.green} {percent:>3} % of the pages, {msg}"
    } else {
        "{bar:30} {percent:>3} % of the pages, {msg}"
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

fn print_table(report: &Report) -> Result<(), Failure> {
    let (deleted, dropped) =
        if report.dry_run { ("would delete", "would drop") } else { ("deleted", "dropped") };
    let mut table = output::table(["TABLE", "ROWS", "DONE"]);
    for pruned in &report.tables {
        for gone in &pruned.partitions_dropped {
            table.add_row([
                gone.partition.clone(),
                gone.rows.to_string(),
                format!("{dropped} the partition"),
            ]);
        }
        table.add_row([pruned.table.clone(), pruned.rows.rows_deleted.to_string(), deleted.to_owned()]);
        for (rows, why) in kept(pruned) {
            table.add_row([pruned.table.clone(), rows, why]);
        }
        for kept in &pruned.partitions_kept {
            table.add_row([
                kept.partition.clone(),
                String::new(),
                format!("kept the partition: {}", kept.reason),
            ]);
        }
    }
    output::print(&table)
}

/// Rows that stayed although they may be old.
fn kept(pruned: &Pruned) -> impl Iterator<Item = (String, String)> {
    [
        (pruned.rows.rows_not_confirmed, "kept: old, and not known to be confirmed"),
        (pruned.rows.rows_of_unknown_age, "kept: of unknown age"),
    ]
    .into_iter()
    .filter(|(rows, _)| *rows > 0)
    .map(|(rows, why)| (rows.to_string(), why.to_owned()))
}

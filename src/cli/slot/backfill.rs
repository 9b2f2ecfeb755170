//! The part of `slot create` and `slot reset` that publishes what is in the table, in the foreground.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::{failure, said};
use crate::cli::output;
use crate::cli::relay::relay;
use crate::cli::signals::second_signal;
use crate::cli::{ConfirmArgs, Failure};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::outbox::Preset;
use crate::postgres::replication::ReplicationConn;
use crate::relay::Board;
use crate::relay::backfill::{self, Backfill, Count, Outcome, Progress};
use crate::relay::slot_life::{self, EVERY_ROW_OF_THE_ANCESTOR, Renewed, Reset, Survey};

/// How often the progress is told where there is no terminal.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What the person gave.
pub(super) struct Given {
    pub(super) filter: Option<String>,
    pub(super) confirm: ConfirmArgs,
}

/// Shows the gap, asks, makes the slot, publishes.
pub(super) async fn run(
    client: &Client,
    config: &Config,
    reset: &Reset<'_>,
    survey: &Survey,
    given: Given,
) -> Result<(), Failure> {
    let name = reset.new.name;
    let selection = survey.selection(given.filter);
    let counts = slot_life::count(client, reset.publication, &reset.outbox.tables, &selection).await;
    let counts = counts.map_err(failure)?;
    explain(client, config, reset, survey, &counts).await?;
    let first = if survey.goes_on {
        "go on with the backfill that was broken off".to_owned()
    } else if survey.drops() {
        format!("drop and create slot {name} at the current point")
    } else {
        format!("create slot {name} at the current point")
    };
    output::confirm(&format!("{first} and publish {}?", words(&counts)), given.confirm)?;
    let connected = ReplicationConn::connect(&config.replication, "txstream slot").await;
    let mut replication = connected.map_err(|error| failure(error.into()))?;
    let Renewed { at, snapshot } =
        slot_life::renew(client, reset, survey, Some(&mut replication)).await.map_err(failure)?;
    let made = if survey.goes_on { "slot" } else { "created slot" };
    output::print(&format!("{made} {name} at {}; publishing what was committed before", said(at)))?;
    let total: u64 = counts.iter().map(|count| count.rows).sum();
    let outcome = publish(config, &Backfill { selection, snapshot }, total).await?;
    match outcome {
        Outcome::Done { rows, recovery } => {
            slot_life::finish(client, name, at, recovery).await.map_err(failure)?;
            output::print(&format!("published {rows} rows; next: txstream relay"))
        }
        Outcome::Stopped => Err(Failure::halted(
            "the backfill was stopped before its end",
            "run it again; the relay waits until then",
        )),
    }
}

/// What the question is about.
async fn explain(
    client: &Client,
    config: &Config,
    reset: &Reset<'_>,
    survey: &Survey,
    counts: &[Count],
) -> Result<(), Failure> {
    let rows = words(counts);
    if let Some(why) = survey.why_all {
        output::print(&format!("{why}, so every row of the table may be unconfirmed: {rows}"))?;
        if config.outbox.preset == Preset::Txstream {
            for table in slot_life::tables_with_status(client, reset).await.map_err(failure)? {
                output::print(&format!(
                    "{table} says itself what was published: --where \"{EVERY_ROW_OF_THE_ANCESTOR}\" leaves that out"
                ))?;
            }
        }
    } else {
        output::print(&format!(
            "the gap is [{}, {}]; {rows} may lie in it",
            said(survey.from),
            said(survey.to)
        ))?;
    }
    Ok(())
}

/// How many rows of which tables.
pub(super) fn words(counts: &[Count]) -> String {
    let count = |count: &Count| {
        format!("{}{} rows of {}", if count.more { "more than " } else { "" }, count.rows, count.table)
    };
    counts.iter().map(count).collect::<Vec<_>>().join(", ")
}

async fn publish(config: &Config, backfill: &Backfill, total: u64) -> Result<Outcome, Failure> {
    let (board, _orders) = Board::new(&config.relay.slot, &config.relay.publication);
    let relay = relay(config, false, board, Metrics::new());
    let (stop, stopped) = watch::channel(false);
    let (tell, told) = watch::channel(Progress::default());
    let shown = show(told, total);
    tokio::select! {
        done = Box::pin(backfill::run(&relay, backfill, stopped, &tell)) => {
            done.map_err(|halt| Failure::halted(halt.what, halt.remedy))
        }
        signal = second_signal(&stop, "the backfill is broken off; it has to be run again") => Err(signal),
        () = shown => Err(Failure::halted("the progress cannot be shown", "report this as a bug")),
    }
}

/// A bar on a terminal, a line in the log elsewhere.
async fn show(mut told: watch::Receiver<Progress>, total: u64) {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} rows, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    let mut said = 0;
    loop {
        let changed = timeout(SAY_EVERY, told.changed()).await;
        let rows = told.borrow_and_update().rows;
        bar.set_position(rows);
        if matches!(changed, Ok(Err(_))) {
            std::future::pending::<()>().await;
        }
        if bar.is_hidden() && (changed.is_err() || rows >= said + 100_000) {
            said = rows;
            tracing::info!(rows, total, "backfill: published so far");
        }
    }
}

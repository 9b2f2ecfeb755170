//! `txstream verify`: whether every row of the outbox is in Kafka, once and in order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::connect;
use super::output::{self, Format};
use super::{Failure, OutputArgs};
use crate::config::{Config, units};
use crate::postgres::error::report;
use crate::verify::{self, Named, Progress, Report, Since, Tell, Verify, VerifyError};

/// Compare the topics with the outbox tables: missing, duplicated, out of order
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Only rows since then: so long ago, like 7d, or a time like 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Since>,
    /// Rows in memory at once; more are compared in several passes over the topics
    #[arg(long, value_name = "ROWS", default_value = "500000", value_parser = clap::value_parser!(u64).range(1..))]
    rows_per_pass: u64,
    /// Wait this long for an absent server, and until the slot has confirmed every row, like 30s
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
    wait: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

/// A duration, or what begins like a date; Postgres reads the rest.
fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = units::duration(text) {
        return Ok(Since::Ago(ago));
    }
    let bytes = text.as_bytes();
    let is_date = bytes.len() >= 10
        && bytes.iter().take(10).enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if is_date {
        return Ok(Since::At(text.to_owned()));
    }
    Err("write it like 7d, or like 2026-01-31T12:00:00Z".to_owned())
}

pub(super) async fn run(args: &VerifyArgs, config: &Config) -> Result<(), Failure> {
    let deadline = Instant::now() + args.wait;
    let left = || deadline.saturating_duration_since(Instant::now());
    let database = connect::postgres(&config.database, "verify", left()).await?;
    let replication = connect::postgres(&config.replication, "verify", left()).await?;
    let subject = Verify {
        slot: &config.relay.slot,
        publication: &config.relay.publication,
        outbox: &config.outbox,
        kafka: &config.kafka,
        group: &config.consumer,
        since: args.since.as_ref(),
        deadline,
        rows_per_pass: args.rows_per_pass,
    };
    let bar = bar();
    let compared = verify::verify(&database, &replication, &subject, &teller(&bar)).await;
    bar.finish_and_clear();
    let report = compared.map_err(failure)?;
    match args.output.output {
        Format::Json => output::print_json(&report)?,
        Format::Table => output::print(&text(&report))?,
    }
    judge(&report)
}

fn judge(report: &Report) -> Result<(), Failure> {
    let counts = &report.counts;
    let what = [
        (counts.missing, "confirmed rows are missing in Kafka"),
        (counts.out_of_order, "records are out of order"),
    ];
    let what: Vec<String> =
        what.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if what.is_empty() {
        return match &report.slot_ended {
            Some(ended) if counts.not_confirmed > 0 => Err(Failure::halted(
                format!(
                    "{} rows are not in Kafka, and slot {} {ended}",
                    counts.not_confirmed, report.slot_name
                ),
                "txstream doctor prints the command that makes the slot; --backfill publishes what is in the table",
            )),
            _ => Ok(()),
        };
    }
    Err(Failure::halted(
        what.join(", "),
        "see \"When verify finds something\" in docs/runbook.md; the rows are still in the table",
    ))
}

fn failure(error: VerifyError) -> Failure {
    match error {
        VerifyError::Since(_) => Failure::Usage(vec![format!("{error}: {}", error.remedy())]),
        error => Failure::halted(report(&error), error.remedy()),
    }
}

/// On stderr, and only if that is a terminal.
fn bar() -> ProgressBar {
    let template = if output::colours(&io::stderr()) {
        "{bar:30.green} {percent:>3} %, {msg}"
    } else {
        "{bar:30} {percent:>3} %, {msg}"
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

fn teller(bar: &ProgressBar) -> Tell {
    let bar = bar.clone();
    Arc::new(move |progress: Progress<'_>| {
        if progress.records == 0 {
            bar.set_length(progress.of);
            bar.set_position(0);
            let pass = format!("pass {} of {}, ", progress.pass, progress.passes);
            let pass = if progress.passes > 1 { pass } else { String::new() };
            bar.set_message(format!("{pass}records of {}", progress.topic));
        } else {
            bar.inc(progress.records);
        }
    })
}

/// Two tables, and what is to be known of them in words.
fn text(report: &Report) -> String {
    let mut parts = vec![tables(report), topics(report)];
    parts.retain(|part| !part.is_empty());
    let mut notes = notes(report);
    notes.extend(named("missing", &report.missing_rows, report.counts.missing));
    notes.extend(named("out of order", &report.out_of_order_rows, report.counts.out_of_order));
    if !notes.is_empty() {
        parts.push(notes.join("\n"));
    }
    parts.join("\n\n")
}

fn tables(report: &Report) -> String {
    let mut table = output::table([
        "TABLE",
        "ROWS",
        "FOUND",
        "MISSING",
        "NOT CONFIRMED",
        "PARKED",
        "EXPIRED",
        "DUPLICATES",
        "OUT OF ORDER",
    ]);
    for of in &report.tables {
        let counts = &of.counts;
        let numbers = [
            counts.rows,
            counts.found,
            counts.missing,
            counts.not_confirmed,
            counts.parked,
            counts.expired,
            counts.duplicates,
            counts.out_of_order,
        ];
        let numbers = numbers.into_iter().map(|number| number.to_string());
        table.add_row(std::iter::once(of.table.clone()).chain(numbers));
    }
    table.to_string()
}

fn topics(report: &Report) -> String {
    if report.topics.is_empty() {
        return String::new();
    }
    let mut table = output::table(["TOPIC", "RECORDS", "WITHOUT ROW"]);
    for of in &report.topics {
        let records = if of.exists { of.records.to_string() } else { "does not exist".to_owned() };
        table.add_row([of.topic.clone(), records, of.records_without_row.to_string()]);
    }
    table.to_string()
}

fn notes(report: &Report) -> Vec<String> {
    let counts = &report.counts;
    let mut notes = Vec::new();
    if let Some(since) = &report.since {
        notes.push(format!("only rows since {since} were compared"));
    }
    if counts.expired > 0 {
        notes.push(format!(
            "expired: {} rows are not in Kafka, and their topic no longer keeps what is as old, or is compacted: whether \
             they were there once cannot be told",
            counts.expired
        ));
    }
    let on_its_way = report.slot_ended.is_none();
    if counts.not_confirmed > 0 && on_its_way {
        let at = report.confirmed_flush_lsn.as_deref().unwrap_or("nothing");
        notes.push(format!(
            "not yet confirmed: {} rows are not in Kafka, and slot {} has confirmed {at}, the rows reach to {}; \
             with --wait 30s it is waited for",
            counts.not_confirmed, report.slot_name, report.snapshot_lsn
        ));
    }
    if counts.order_not_judged > 0 {
        let reasons = if report.order_not_judged_reasons.is_empty() {
            "commits too close to each other, or of unknown time".to_owned()
        } else {
            report.order_not_judged_reasons.join("; ")
        };
        notes.push(format!("order not judged of {} records: {reasons}", counts.order_not_judged));
    }
    notes
}

fn named(what: &str, rows: &[Named], of: u64) -> Vec<String> {
    let row = |row: &Named| {
        let topic = row.topic.as_deref().unwrap_or("no topic");
        format!("{what}: {} of {}, {topic}", row.id, row.table)
    };
    let mut lines: Vec<String> = rows.iter().map(row).collect();
    let more = of.saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("{what}: and {more} more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_duration_or_a_time() {
        assert_eq!(since("7d"), Ok(Since::Ago(Duration::from_secs(7 * 86_400))));
        for text in ["2026-01-31", "2026-01-31T12:00:00Z", "2026-01-31 12:00:00+02"] {
            assert_eq!(since(text), Ok(Since::At(text.to_owned())));
        }
        for text in ["", "7", "yesterday", "now", "31.01.2026", "2026-1-31"] {
            assert!(since(text).unwrap_err().contains("7d"), "{text}");
        }
    }
}

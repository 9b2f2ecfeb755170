//! The table.

use std::fmt::Write as _;
use std::time::Duration;

use crate::backlog::Backlog;
use crate::drain::{Run, Transport};
use crate::latency::{Latency, ROWS_PER_SECOND};
use crate::machine::Machine;
use crate::markdown::{median, write_between_markers};
use crate::settings::Settings;
use crate::{PARTITIONS, TOPIC};

/// Names the lines of a Markdown file between which this report stands.
const MARKER: &str = "bench";

/// Everything measured.
pub(crate) struct Report {
    machine: Machine,
    backlog: String,
    pairs_wanted: u32,
    /// From the start of a relay to the first record.
    pub(crate) first_records: Vec<Duration>,
    /// Drains of `pg_recvlogical` and of the relay, in the order they were made.
    pub(crate) pairs: Vec<(Transport, Run, Run)>,
    /// Rows of the one big transaction, and its drain by the relay.
    pub(crate) big: Option<(u64, Run)>,
    pub(crate) latency: Option<Latency>,
}

impl Report {
    pub(crate) fn new(machine: Machine, backlog: &Backlog, settings: &Settings) -> Self {
        let Backlog { rows, commits, payload_bytes, row_bytes, .. } = backlog;
        let backlog = format!(
            "{} rows of {row_bytes} B ({payload_bytes} B of it `jsonb` payload) in {} commits, topic \
             `{TOPIC}` with {PARTITIONS} partitions, every setting of the relay at its default",
            grouped(*rows),
            grouped(*commits)
        );
        Self {
            machine,
            backlog,
            pairs_wanted: settings.pairs,
            first_records: Vec::new(),
            pairs: Vec::new(),
            big: None,
            latency: None,
        }
    }

    /// Prints the table, and writes it between the markers of the report's file.
    pub(crate) fn publish(&self, settings: &Settings) {
        let text = self.markdown();
        println!("{text}");
        match &settings.report {
            Some(path) => {
                write_between_markers(path, MARKER, &text);
                eprintln!("written to {}", path.display());
            }
            None => eprintln!("a run of less than full size: no file written"),
        }
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "{}\n\nBacklog: {}. Medians of {} alternating pairs.\n\n",
            self.machine.describe(),
            self.backlog,
            self.pairs_wanted
        );
        text.push_str("| | `pg_recvlogical` to nowhere | `txstream relay`, acknowledged by Kafka | ratio |\n|---|---|---|---|\n");
        for transport in [Transport::Tcp, Transport::UnixSocket] {
            self.drain_rows(&mut text, transport);
        }
        self.relay_rows(&mut text);
        text.push_str("\nEvery drain, `pg_recvlogical` / relay: ");
        let runs: Vec<String> = self
            .pairs
            .iter()
            .map(|(transport, received, relayed)| {
                format!(
                    "{transport} {:.2} / {:.2} s",
                    received.time.as_secs_f64(),
                    relayed.time.as_secs_f64()
                )
            })
            .collect();
        writeln!(text, "{}.", runs.join(", ")).unwrap();
        text
    }

    fn drain_rows(&self, text: &mut String, transport: Transport) {
        let pairs: Vec<&(Transport, Run, Run)> =
            self.pairs.iter().filter(|pair| pair.0 == transport).collect();
        if pairs.is_empty() {
            return;
        }
        let received = |value: fn(&Run) -> f64| median(pairs.iter().map(|pair| value(&pair.1)));
        let relayed = |value: fn(&Run) -> f64| median(pairs.iter().map(|pair| value(&pair.2)));
        let seconds = |run: &Run| run.time.as_secs_f64();
        let micros = |run: &Run| run.cpu_per_row().as_secs_f64() * 1e6;
        let drain_ratio = median(pairs.iter().map(|pair| seconds(&pair.2) / seconds(&pair.1)));
        writeln!(
            text,
            "| drain over {transport} | {:.2} s, {:.0} k events/s | {:.2} s, {:.0} k events/s | {drain_ratio:.2} |",
            received(seconds),
            received(Run::rate) / 1000.0,
            relayed(seconds),
            relayed(Run::rate) / 1000.0,
        )
        .unwrap();
        writeln!(
            text,
            "| CPU per event over {transport} | {:.1} µs | {:.1} µs | {:.2} |",
            received(micros),
            relayed(micros),
            median(pairs.iter().map(|pair| micros(&pair.2) / micros(&pair.1))),
        )
        .unwrap();
    }

    fn relay_rows(&self, text: &mut String) {
        let peak = |run: &Run| megabytes(run.usage.peak_memory_kb);
        let received = self.pairs.iter().map(|pair| peak(&pair.1)).fold(0.0, f64::max);
        let relayed = self.pairs.iter().map(|pair| peak(&pair.2)).fold(0.0, f64::max);
        writeln!(text, "| peak memory | {received:.0} MB | {relayed:.0} MB | |").unwrap();
        if !self.first_records.is_empty() {
            let first = median(self.first_records.iter().map(Duration::as_secs_f64));
            writeln!(text, "| start of the process to first record | | {first:.2} s | |").unwrap();
        }
        if let Some((rows, run)) = &self.big {
            writeln!(
                text,
                "| peak memory, one transaction of {} rows | | {:.0} MB | |",
                grouped(*rows),
                peak(run)
            )
            .unwrap();
        }
        if let Some(latency) = &self.latency {
            writeln!(
                text,
                "| commit to consumer, {} commits/s of one row: p50 / p99 / max | | {} / {} / {} ms | |\n\
                 | the same: CPU of the relay | | {:.0} % of a core | |\n\
                 | the same: the probe's own lateness, p99 | | {} ms | |",
                grouped(ROWS_PER_SECOND),
                milliseconds(latency.p50),
                milliseconds(latency.p99),
                milliseconds(latency.max),
                latency.relay_cpu * 100.0,
                milliseconds(latency.probe_late_p99)
            )
            .unwrap();
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "megabytes")]
fn megabytes(kilobytes: u64) -> f64 {
    kilobytes as f64 * 1024.0 / 1e6
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

/// 12345 as `12,345`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}

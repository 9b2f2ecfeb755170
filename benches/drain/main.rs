//! `make bench`: the relay beside `pg_recvlogical`, which receives the same WAL and throws it away.
//!
//! `pg_recvlogical` to nowhere is what the server's side of the stream can give; the relay does the
//! same and has every record acknowledged by Kafka. Both drain copies of one slot, taking turns, so
//! that machine and moment are the same; absolute figures travel badly, ratios in one run do not.
//! The result is a table, printed and written to `docs/benchmark.md`.
//!
//! What can be changed is in [`settings`].
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench reports to a person")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot go on ends with the reason")]

mod backlog;
mod drain;
mod latency;
mod machine;
#[path = "../markdown/mod.rs"]
mod markdown;
mod process;
mod report;
mod settings;
#[path = "../../tests/it/support/mod.rs"]
mod support;

use backlog::Backlog;
use drain::{Drain, Transport};
use latency::Latency;
use machine::Machine;
use report::Report;
use settings::Settings;
use support::{Database, Kafka, Postgres};

/// The topic of every row of the bench, under the default preset.
pub(crate) const TOPIC: &str = "outbox.event.order";
/// Its partitions.
pub(crate) const PARTITIONS: i32 = 6;

/// Durable as in production, and quiet: nothing but the bench writes WAL while it runs.
const POSTGRES_SETTINGS: [(&str, &str); 6] = [
    ("fsync", "on"),
    ("autovacuum", "off"),
    ("checkpoint_timeout", "1h"),
    ("max_wal_size", "32GB"),
    ("shared_buffers", "256MB"),
    ("wal_compression", "off"),
];

/// One thread: the children die with the thread that started them, and the machine is theirs.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let settings = Settings::from_environment();
    let pg_recvlogical = drain::find_pg_recvlogical();
    eprintln!("starting Postgres and Kafka");
    let postgres = Postgres::start(Postgres::default_version(), &POSTGRES_SETTINGS).await;
    // A heap as small as that of the tests' broker stops every record for 7 ms three times a second.
    let kafka = Kafka::start_stock().await;
    kafka.create_topic(TOPIC, PARTITIONS, &[]).await;
    let database = postgres.database().await;
    backlog::migrate(&database).await;

    eprintln!("writing {} rows in commits of {}", settings.rows, settings.rows_per_commit);
    let backlog = Backlog::write(&database, settings.rows, settings.rows_per_commit).await;
    let drain = Drain { database: &database, kafka: &kafka, pg_recvlogical: &pg_recvlogical };
    let mut report = Report::new(Machine::look(&database, &pg_recvlogical).await, &backlog, &settings);
    // A broker's code is compiled while it runs: on two cores that takes from the relay, and the CPU time of
    // the broker for a drain falls from 2 s to half a second within the first twelve.
    for turn in 1..=settings.warm_ups {
        let relayed = drain.relay_to_a_consumer(&backlog, Transport::Tcp).await;
        eprintln!("warm-up {turn}, not counted: relay {relayed}");
        report.first_records.extend(relayed.first_record);
    }
    for pair in 1..=settings.pairs {
        for transport in [Transport::Tcp, Transport::UnixSocket] {
            let received = drain.receive(&backlog, transport).await;
            let relayed = drain.relay(&backlog, transport).await;
            eprintln!("pair {pair}, {transport}: pg_recvlogical {received}; relay {relayed}");
            report.pairs.push((transport, received, relayed));
        }
    }
    report.big = big_transaction(&settings, &database, &drain).await;
    report.latency = measure_latency(&settings, &database, &kafka).await;
    report.publish(&settings);
}

/// One transaction of many rows, drained once: it must not show in the memory.
async fn big_transaction(
    settings: &Settings,
    database: &Database,
    drain: &Drain<'_>,
) -> Option<(u64, drain::Run)> {
    if settings.big_rows == 0 {
        return None;
    }
    eprintln!("writing {} rows in one transaction", settings.big_rows);
    let backlog = Backlog::write(database, settings.big_rows, settings.big_rows).await;
    let run = drain.relay(&backlog, Transport::Tcp).await;
    eprintln!("one transaction: relay {run}");
    Some((settings.big_rows, run))
}

async fn measure_latency(settings: &Settings, database: &Database, kafka: &Kafka) -> Option<Latency> {
    if settings.latency_time.is_zero() {
        return None;
    }
    // What the drains left in memory is written out first: it is not the load that is measured.
    database.query("CHECKPOINT").await;
    let synced = tokio::process::Command::new("sync").status().await;
    assert!(synced.is_ok_and(|status| status.success()), "sync failed");
    eprintln!("writing {} rows a second, one a commit", latency::ROWS_PER_SECOND);
    let latency = latency::measure(database, kafka, settings.latency_time).await;
    eprintln!("commit to consumer: {latency}");
    Some(latency)
}

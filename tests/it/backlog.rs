//! A backlog that comes over a Unix socket faster than the relay takes it, and is read ahead there.

use crate::big::{PEAK_KIB, peak_memory_kib};
use crate::load::{Outbox, RECOVERY};
use crate::support::wait::SOON;
use crate::support::{Kafka, Postgres, Relay, eventually};

/// Enough for a relay that is stopped several times in the midst of them.
const ROWS: u32 = 200_000;
/// Each aggregate's rows are spread over the whole backlog.
const AGGREGATES: u32 = 500;
const ROWS_PER_COMMIT: u32 = 1_000;
/// How often the relay ends before it may go on to the end.
const ENDS: usize = 3;

/// Rows in many commits, before any relay runs.
async fn write_backlog(outbox: &Outbox) {
    let kind = &outbox.aggregate_type;
    for first in (0..ROWS).step_by(ROWS_PER_COMMIT as usize) {
        let last = first + ROWS_PER_COMMIT - 1;
        outbox
            .database
            .exec(&format!(
                "insert into outbox (aggregatetype, aggregateid, type, payload)
                     select '{kind}', n % {AGGREGATES}, 'T', jsonb_build_object('n', n)
                     from generate_series({first}, {last}) n"
            ))
            .await;
    }
}

/// Whether a thread of the relay reads a socket ahead.
fn reads_ahead(relay: &Relay) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", relay.pid())).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok())
        .any(|name| name.trim() == "read-ahead")
}

/// A relay in the midst of the backlog: it has published something, and more lies read ahead.
async fn in_the_midst(outbox: &Outbox, kafka: &Kafka, env: &[(&str, &str)]) -> Relay {
    let socket = outbox.database.socket_url();
    // Little in flight: that little of the backlog is done when it is looked at.
    let narrow = [("DATABASE_URL", &*socket), ("WORKER_MAX_IN_FLIGHT_BYTES", "1MiB")];
    let relay = outbox.relay(kafka.bootstrap(), &[&narrow, env].concat()).await;
    eventually(SOON, "the relay publishes, and reads ahead", async || {
        let published = relay.metrics().await.get("txstream_events_published_total", &[]).unwrap_or(0.0);
        (published > 1_000.0 && reads_ahead(&relay)).then_some(())
    })
    .await;
    relay
}

#[tokio::test]
async fn a_relay_that_is_stopped_while_it_reads_ahead_repeats_and_loses_nothing() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    write_backlog(&outbox).await;
    let mut topic = outbox.topic(kafka);
    for _ in 0..ENDS {
        let relay = in_the_midst(&outbox, kafka, &[]).await;
        relay.sigterm().await;
        let exit = relay.wait_exit(SOON).await;
        assert!(exit.stderr.contains("everything that was read is confirmed"), "{}", exit.stderr);
    }
    let read = topic.read_to_end().await.len();
    assert!(read < ROWS as usize, "it was stopped behind the backlog");
    let _relay = in_the_midst(&outbox, kafka, &[]).await;
    let arrived = outbox.all_arrive(&mut topic).await;
    assert_eq!((arrived.rows, arrived.duplicates), (ROWS as usize, 0));
}

#[tokio::test]
async fn a_relay_that_is_killed_while_it_reads_ahead_loses_and_reorders_nothing() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    write_backlog(&outbox).await;
    for _ in 0..ENDS {
        in_the_midst(&outbox, kafka, &[]).await.kill9().await;
    }
    let _relay = in_the_midst(&outbox, kafka, &[]).await;
    assert_eq!(outbox.all_arrive(&mut outbox.topic(kafka)).await.rows, ROWS as usize);
}

/// The thread's memory is bounded too, and a relay that does not read goes on telling the server that it is there.
#[tokio::test]
async fn while_kafka_is_frozen_a_relay_that_reads_ahead_keeps_its_session_and_its_memory() {
    let postgres = Postgres::start(Postgres::default_version(), &[("wal_sender_timeout", "2s")]).await;
    let kafka = Kafka::start(&[]).await;
    let outbox = Outbox::new(&postgres).await;
    write_backlog(&outbox).await;
    let impatient = [("KAFKA_TIMEOUT_DURATION", "1s"), ("KAFKA_FAILURE_THRESHOLD", "5")];
    let relay = in_the_midst(&outbox, &kafka, &impatient).await;
    kafka.freeze().await;
    let walsender = outbox.walsender().await;
    assert!(walsender.is_some());
    eventually(RECOVERY, "Kafka was away for longer than the server waits for a status", async || {
        (relay.metrics().await.value("txstream_circuit_breaker_state") > 1.0).then_some(())
    })
    .await;
    let peak = peak_memory_kib(&relay);
    assert!(peak < PEAK_KIB, "{peak} KiB");
    assert_eq!(outbox.walsender().await, walsender, "the session was lost");
    kafka.thaw().await;
    assert_eq!(outbox.all_arrive(&mut outbox.topic(&kafka)).await.rows, ROWS as usize);
    assert_eq!(outbox.walsender().await, walsender, "the session was lost");
}

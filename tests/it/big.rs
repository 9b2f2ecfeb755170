//! A huge transaction streams in fixed memory, and is confirmed at its commit only.

use crate::load::{Outbox, RECOVERY};
use crate::support::{Kafka, Postgres, Relay, eventually};

const ROWS: i64 = 300_000;

/// The most memory the process ever had, in KiB.
fn peak_memory_kib(relay: &Relay) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn a_transaction_of_300_000_rows_streams_in_fixed_memory_and_is_confirmed_at_its_commit() {
    let kafka = Kafka::shared().await;
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::new(&postgres).await;
    let relay = outbox.relay(kafka.bootstrap(), &[("WORKER_MAX_IN_FLIGHT_BYTES", "1MiB")]).await;
    let client = outbox.database.client().await;
    let kind = &outbox.aggregate_type;
    client
        .batch_execute(&format!(
            "begin;
             insert into outbox (aggregatetype, aggregateid, type, payload)
                 select '{kind}', n % 50, 'T', jsonb_build_object('n', n, 'ballast', repeat('x', 200))
                 from generate_series(1, {ROWS}) n"
        ))
        .await
        .unwrap();
    // Where the commit is about to be written.
    let row = client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.unwrap();
    let before_commit: String = row.get(0);
    client.batch_execute("commit").await.unwrap();

    let slot = outbox.database.name();
    let position = format!(
        "select confirmed_flush_lsn::text, confirmed_flush_lsn > '{before_commit}'
             from pg_replication_slots where slot_name = '{slot}'"
    );
    let mut stood = Vec::new();
    eventually(RECOVERY * 2, "the transaction is confirmed", async || {
        let begun = relay.metrics().await.get("txstream_events_published_total", &[]) > Some(0.0);
        let row = client.query_one(&position, &[]).await.unwrap();
        let confirmed: bool = row.get(1);
        let metrics = relay.metrics().await;
        let published = metrics.get("txstream_events_published_total", &[]).unwrap_or(0.0);
        assert!(metrics.value("txstream_in_flight_bytes") < 1_048_576.0 + 1_024.0);
        assert!(!confirmed || published >= ROWS as f64, "confirmed with {published} published");
        if begun && !confirmed {
            stood.push(row.get::<_, String>(0));
        }
        confirmed.then_some(())
    })
    .await;
    // The first looks may still see the last step before the transaction.
    let stood = &stood[10..];
    assert!(stood.len() > 10, "it was looked at in the middle");
    assert!(stood.iter().all(|lsn| *lsn == stood[0]), "confirmed moved within the transaction: {stood:?}");
    let arrived = outbox.all_arrive(&mut outbox.topic(kafka)).await;
    assert_eq!((arrived.rows as i64, arrived.duplicates), (ROWS, 0));
    let peak = peak_memory_kib(&relay);
    assert!(peak < 128 * 1024, "{peak} KiB");
}

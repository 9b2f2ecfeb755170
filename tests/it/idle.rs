//! An idle outbox in a busy server pins no WAL, and costs the server nothing.

use crate::load::{Outbox, RECOVERY};
use crate::support::{Database, Kafka, Postgres, eventually};

/// WAL that the noise makes in each database, and what an idle slot may retain of it all.
const NOISE_BYTES: i64 = 60_000_000;
const RETAINED_BYTES: i64 = 40_000_000;

async fn make_noise(database: &Database) {
    database
        .exec(&format!(
            "create table noise (ballast text);
             alter table noise alter ballast set storage external;
             insert into noise select repeat('x', 1900) from generate_series(1, {})",
            NOISE_BYTES / 1_900
        ))
        .await;
    // A statement of its own each: these cannot share a transaction.
    database.exec("select pg_switch_wal()").await;
    database.exec("checkpoint").await;
}

/// Which version of its row the relay wrote last.
async fn written(outbox: &Outbox) -> String {
    outbox.database.value("select xmin || ' ' || updated_at from txstream_checkpoint").await
}

async fn retained(outbox: &Outbox) -> i64 {
    let slot = outbox.database.name();
    outbox
        .database
        .value(&format!(
            "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
                 from pg_replication_slots where slot_name = '{slot}'"
        ))
        .await
}

#[tokio::test]
async fn an_idle_outbox_in_a_busy_server_pins_no_wal_and_the_relay_writes_nothing() {
    let kafka = Kafka::shared().await;
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::new(&postgres).await;
    let other = postgres.database().await;
    let relay = outbox.relay(kafka.bootstrap(), &[]).await;
    outbox.insert("k", 1).await;
    let now: String = outbox.database.value("select pg_current_wal_lsn()::text").await;
    let noted = format!("select confirmed_lsn >= '{now}' from txstream_checkpoint");
    eventually(RECOVERY, "the row is noted", async || {
        outbox.database.value::<bool>(&noted).await.then_some(())
    })
    .await;
    let before = written(&outbox).await;

    for database in [&outbox.database, &other] {
        let begin: String = outbox.database.value("select pg_current_wal_lsn()::text").await;
        make_noise(database).await;
        let noise: i64 = outbox
            .database
            .value(&format!("select pg_wal_lsn_diff(pg_current_wal_lsn(), '{begin}')::bigint"))
            .await;
        assert!(noise > NOISE_BYTES, "{noise} bytes of WAL");
        outbox.confirmed().await;
        eventually(RECOVERY, "little WAL is retained", async || {
            outbox.database.exec("checkpoint").await;
            (retained(&outbox).await < RETAINED_BYTES).then_some(())
        })
        .await;
    }
    assert_eq!(written(&outbox).await, before, "the relay writes nothing while it has nothing to say");

    // The position has moved past what the checkpoint row knows: neither a crash nor a restart minds.
    relay.kill9().await;
    let relay = outbox.relay(kafka.bootstrap(), &[]).await;
    outbox.insert("k", 2).await;
    let mut topic = outbox.topic(kafka);
    let arrived = outbox.all_arrive(&mut topic).await;
    assert_eq!((arrived.rows, arrived.duplicates), (2, 0));
    relay.sigterm().await;
    assert_eq!(relay.wait_exit(RECOVERY).await.status.code(), Some(0));
    make_noise_and_insert(&outbox).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let arrived = outbox.all_arrive(&mut topic).await;
    assert_eq!((arrived.rows, arrived.duplicates), (3, 0));
}

async fn make_noise_and_insert(outbox: &Outbox) {
    outbox.database.exec("insert into noise select repeat('x', 1900) from generate_series(1, 1000)").await;
    outbox.insert("k", 3).await;
}

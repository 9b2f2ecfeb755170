//! What topics take in one batch: a broker refuses a batch that is too large as a whole, and what was behind
//! it in its partition would come first.

use tempfile::TempDir;

use crate::load::{Outbox, more};
use crate::support::wait::SOON;
use crate::support::{Cluster, Kafka, Postgres, Relay, eventually};

/// Rows of a kilobyte, no two alike, of four keys in turn, in one transaction: several megabytes at once.
const ROWS: usize = 3_900;

async fn insert_many(outbox: &Outbox) {
    outbox
        .database
        .exec(&format!(
            "insert into outbox (aggregatetype, aggregateid, type, payload)
                 select '{}', 'k' || n % 4, 'T', jsonb_build_object('n', n, 'pad',
                        (select string_agg(md5(n::text || m), '') from generate_series(1, 32) m))
                 from generate_series(1, {ROWS}) n",
            outbox.aggregate_type
        ))
        .await;
}

/// Inserts them while the broker stands still, so that the producer has them all when it goes on, and makes
/// batches as large as it may.
async fn all_at_once(outbox: &Outbox, kafka: &Kafka, relay: &Relay) {
    kafka.freeze().await;
    insert_many(outbox).await;
    under_way(relay, ROWS).await;
    kafka.thaw().await;
}

async fn under_way(relay: &Relay, records: usize) {
    eventually(SOON, format!("{records} records are under way"), async || {
        let in_flight = relay.metrics().await.get("txstream_events_in_queue", &[("status", "in_flight")])?;
        (in_flight >= records as f64).then_some(())
    })
    .await;
}

/// Records of a batch that was refused go again one by one: slowly, and behind those of the next batch.
async fn none_failed(relay: &Relay) {
    assert_eq!(relay.metrics().await.value("txstream_events_failed_total"), 0.0);
}

#[tokio::test]
async fn a_larger_batch_size_than_a_topic_takes_repeats_and_reorders_nothing() {
    let kafka = Kafka::start(&[]).await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let mut topic = kafka.create_topic(&outbox.topic_name(), 1, &[]).await;
    let dir = TempDir::new().unwrap();
    let properties = dir.path().join("kafka.properties");
    std::fs::write(&properties, "batch.size=4000000\n").unwrap();
    let properties = [("KAFKA_CONFIG_FILE", properties.to_str().unwrap())];
    let relay = outbox.relay(kafka.bootstrap(), &properties).await;
    outbox.insert("first", 1).await;
    more(&mut topic, 1).await;
    all_at_once(&outbox, &kafka, &relay).await;
    let arrived = outbox.all_arrive(&mut topic).await;
    assert_eq!((arrived.rows, arrived.duplicates), (ROWS + 1, 0));
    none_failed(&relay).await;
    assert_eq!(relay.metrics().await.value("txstream_replication_reconnects_total"), 0.0);
}

#[tokio::test]
async fn a_topic_that_takes_less_gets_it_in_order_while_another_takes_nothing() {
    let cluster = Cluster::start().await;
    let [first, _, third] = cluster.nodes() else { panic!("three nodes") };
    let outbox = Outbox::new(Postgres::shared().await).await;
    let stuck = format!("outbox.event.{}_stuck", outbox.aggregate_type);
    let alone = ("min.insync.replicas", "1");
    first.create_topic_on(&[3], &stuck, &[alone]).await;
    first.create_topic_on(&[1], &outbox.topic_name(), &[alone, ("max.message.bytes", "300000")]).await;
    let relay = outbox.relay(&cluster.bootstrap(), &[]).await;
    third.stop().await;
    outbox
        .database
        .exec(&format!(
            "insert into outbox (aggregatetype, aggregateid, type, payload)
                 values ('{}_stuck', 'k', 'T', '{{\"n\": 1}}')",
            outbox.aggregate_type
        ))
        .await;
    under_way(&relay, 1).await;
    outbox.insert("first", 1).await;
    let mut topic = cluster.topic(&outbox.topic_name());
    more(&mut topic, 1).await;
    all_at_once(&outbox, first, &relay).await;
    outbox.all_there(&mut topic).await;
    none_failed(&relay).await;
    third.start_again().await;
    more(&mut cluster.topic(&stuck), 1).await;
    outbox.confirmed().await;
}

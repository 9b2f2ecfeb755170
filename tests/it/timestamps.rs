//! A record gets its timestamp when it is handed over, and a topic may refuse old ones: those that waited for
//! Kafka go again, and none is taken for a bad one.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::wait::SOON;
use crate::support::{Kafka, Outbox, eventually, unique};

/// What the topic takes.
const MAX_AGE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn records_that_waited_for_kafka_until_they_were_too_old_arrive_in_order() {
    let outbox = Outbox::with_slot().await;
    let kafka = Kafka::start(&[]).await;
    let kind = unique("waited");
    let max_age = MAX_AGE.as_millis().to_string();
    let age = [("message.timestamp.before.max.ms", max_age.as_str())];
    let mut topic = kafka.create_topic(&format!("outbox.event.{kind}"), 1, &age).await;
    let env = [("KAFKA_BROKERS", kafka.bootstrap()), ("WORKER_ON_REJECT", "dead-letter")];
    let mut relay = outbox.relay(&[], &env).await;
    relay.wait_ready().await;
    outbox.insert(&kind, "k", "0").await;
    topic.read_count(1).await;

    kafka.freeze().await;
    for n in 1..5 {
        outbox.insert(&kind, "k", &n.to_string()).await;
    }
    let in_flight = Instant::now();
    eventually(SOON, "the records at the broker are too old", async || {
        let age = relay.metrics().await.get("txstream_oldest_unconfirmed_age_seconds", &[]);
        let old = age > Some(MAX_AGE.as_secs_f64() + 1.0) && in_flight.elapsed() > MAX_AGE;
        old.then_some(())
    })
    .await;
    kafka.thaw().await;
    topic.read_count(5).await;
    outbox.insert(&kind, "k", "5").await;
    let records = topic.read_count(6).await;
    let numbers: Vec<&str> = records.iter().map(|record| record.value_text()).collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5"]);
    let letters: i64 = outbox.database.value("select count(*) from txstream_dead_letter").await;
    assert_eq!(letters, 0);
    eventually(SOON, "it is counted that they were refused once", async || {
        let invalid = [("error_type", "invalid"), ("event_type", "Tested")];
        (relay.metrics().await.get("txstream_events_failed_total", &invalid) > Some(0.0)).then_some(())
    })
    .await;
}

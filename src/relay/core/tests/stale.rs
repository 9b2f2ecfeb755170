//! Records whose timestamp Kafka refuses, between the core and a producer of librdkafka.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::*;
use crate::kafka::{self, Event, Inbox, Producer};

const DEADLINE: Duration = Duration::from_secs(30);

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A broker that refuses the timestamps of the first `refusals` requests.
fn refusing(refusals: usize) -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP;
    cluster.request_errors(RDKafkaApiKey::Produce, &vec![refusal; refusals]);
    cluster
}

/// Takes records with these keys, the last two once one has come back, until all are published or the core
/// stops at one.
async fn publish(cluster: &Cluster, keys: &[&'static str]) -> Core {
    let kafka = kafka::Settings {
        brokers: cluster.bootstrap_servers(),
        client_id: "txstream-test".into(),
        request_timeout: Duration::from_secs(5),
        properties: Vec::new(),
    };
    let inbox = Inbox::new();
    let mut producer = Producer::new(&kafka, None, inbox.clone()).unwrap();
    let (settings, topic): (_, Arc<str>) = (settings(), Arc::from("t"));
    let (breaker, backoff) = (Breaker::new(settings.breaker), Backoff::seeded(settings.backoff, 1));
    let mut core = Core::new(settings, Lsn(1), breaker, backoff);
    let route = core.add_route(&topic, &Arc::from("public.outbox"), Bytes::new());
    core.set_limit(&topic, TopicLimit::Own(1_000));
    core.begin(Lsn(1), 0);
    let record = |(n, key): (usize, &&'static str)| Record {
        topic: Arc::clone(&topic),
        key: Bytes::from_static(key.as_bytes()),
        payload: Some(Bytes::from(n.to_string())),
        headers: Headers::new(),
        event_type: Bytes::new(),
    };
    let mut coming = keys.iter().enumerate().map(record);
    let mut take = |core: &mut Core, count| {
        for record in coming.by_ref().take(count) {
            assert_eq!(core.take(record, route, 10, Instant::now()), Taken::Yes);
        }
    };
    take(&mut core, keys.len() - 2);
    let (mut published, mut events) = (0, Vec::new());
    let until = Instant::now() + DEADLINE;
    while published < keys.len() && core.refused().is_none() {
        assert!(Instant::now() < until, "{published} published");
        core.tick(Instant::now());
        core.dispatch(&mut producer, Instant::now());
        let wake = core.next_wake().unwrap_or(until).min(until);
        let _ = tokio::time::timeout_at(wake, inbox.arrived()).await;
        inbox.take(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Acknowledged(ticket) => {
                    core.acknowledged(ticket, Instant::now());
                    published += 1;
                }
                Event::Failed(failure) => {
                    core.failed(*failure, None, Instant::now());
                    take(&mut core, 2);
                }
                Event::Trouble(trouble) => panic!("{trouble:?}"),
            }
        }
    }
    core
}

/// The numbers of the records in the topic, in the order in which they are there.
fn published(cluster: &Cluster, count: usize) -> Vec<usize> {
    let mut config = ClientConfig::new();
    let consumer: BaseConsumer = config
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut beginning = TopicPartitionList::new();
    beginning.add_partition_offset("t", 0, Offset::Beginning).unwrap();
    consumer.assign(&beginning).unwrap();
    let (mut numbers, until) = (Vec::new(), Instant::now() + DEADLINE);
    while numbers.len() < count {
        assert!(Instant::now() < until, "{numbers:?}");
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            numbers.push(String::from_utf8_lossy(message.unwrap().payload().unwrap()).parse().unwrap());
        }
    }
    numbers
}

#[tokio::test]
async fn records_that_grew_too_old_go_again_in_their_order_and_none_is_rejected() {
    let cluster = refusing(1);
    let core = publish(&cluster, &["k", "j", "k", "k", "j", "k"]).await;
    assert!(core.refused().is_none(), "{:?}", core.refused());
    assert_eq!(published(&cluster, 6), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_record_whose_new_timestamp_is_refused_too_is_rejected() {
    let core = publish(&refusing(2), &["k", "j", "k", "k"]).await;
    let halt = core.refused().unwrap();
    assert!(halt.what.contains("is invalid for Kafka") && halt.what.contains("imestamp"), "{halt:?}");
}

#[test]
fn a_timestamp_counts_only_if_the_record_went_alone_and_kafka_was_there() {
    use crate::relay::core::reports::verdict;
    let invalid = Some(kafka::Rejection::Invalid);
    let stale = kafka::FailureClass::Stale;
    for (alone, fresh) in [(false, false), (false, true), (true, false)] {
        assert_eq!(verdict(stale, alone, fresh), (true, None), "{alone} {fresh}");
    }
    assert_eq!(verdict(stale, true, true), (true, invalid));
}

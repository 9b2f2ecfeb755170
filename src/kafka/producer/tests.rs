use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::OwnedMessage;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Native};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use smallvec::smallvec;

use super::*;
use crate::kafka::{Property, Trouble};

const DEADLINE: Duration = Duration::from_secs(30);
const TOPIC: &str = "outbox.event.order";

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(partitions: i32) -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, partitions, 1).unwrap();
    cluster
}

fn settings(cluster: &Cluster, properties: &[(&str, &str)]) -> Settings {
    let own = |(name, value): &(&str, &str)| Property { name: (*name).into(), value: (*value).into() };
    Settings {
        brokers: cluster.bootstrap_servers(),
        client_id: "txstream-test".into(),
        request_timeout: Duration::from_secs(5),
        properties: properties.iter().map(own).collect(),
    }
}

fn start(cluster: &Cluster, properties: &[(&str, &str)]) -> (Producer, Inbox) {
    let inbox = Inbox::new();
    (Producer::new(&settings(cluster, properties), None, inbox.clone()).unwrap(), inbox)
}

fn record(key: &str, payload: &str) -> Record {
    let header = |name: &str, value: Option<&'static [u8]>| Header {
        name: name.into(),
        value: value.map(Bytes::from_static),
    };
    Record {
        topic: TOPIC.into(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        payload: Some(Bytes::copy_from_slice(payload.as_bytes())),
        headers: smallvec![header("id", Some(b"0b9f")), header("absent", None), header("empty", Some(b""))],
        event_type: Bytes::new(),
    }
}

/// Events until `done` says so.
async fn events(inbox: &Inbox, mut done: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
    let mut all = Vec::new();
    let waited = tokio::time::timeout(DEADLINE, async {
        while !done(&all) {
            inbox.arrived().await;
            inbox.take(&mut all);
        }
    });
    if waited.await.is_err() {
        panic!("not within {DEADLINE:?}: {all:?}");
    }
    all
}

fn acknowledged(events: &[Event]) -> Vec<Ticket> {
    let ticket = |event: &Event| match event {
        Event::Acknowledged(ticket) => Some(*ticket),
        _ => None,
    };
    events.iter().filter_map(ticket).collect()
}

fn failures(events: &[Event]) -> Vec<&Failure> {
    let mut failures = Vec::new();
    for event in events {
        if let Event::Failed(failure) = event {
            failures.push(&**failure);
        }
    }
    failures
}

async fn all_acknowledged(inbox: &Inbox, count: usize) -> Vec<Event> {
    let all = events(inbox, |all| acknowledged(all).len() + failures(all).len() >= count).await;
    let mut tickets = acknowledged(&all);
    tickets.sort_unstable();
    assert_eq!(tickets, (0..count).collect::<Vec<_>>(), "{:?}", failures(&all));
    all
}

async fn one_failure(inbox: &Inbox) -> Box<Failure> {
    let all = events(inbox, |all| !failures(all).is_empty()).await;
    all.into_iter()
        .find_map(|event| match event {
            Event::Failed(failure) => Some(failure),
            _ => None,
        })
        .unwrap()
}

/// Reads `count` records of the topic, by assignment.
fn consume(cluster: &Cluster, partitions: i32, count: usize) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let until = tokio::time::Instant::now() + DEADLINE;
    let mut read = Vec::new();
    while read.len() < count {
        assert!(tokio::time::Instant::now() < until, "{} of {count} records read", read.len());
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            read.push(message.unwrap().detach());
        }
    }
    read
}

fn as_record(message: &OwnedMessage) -> Record {
    let own = |header: NativeHeader<'_, &[u8]>| Header {
        name: header.key.into(),
        value: header.value.map(Bytes::copy_from_slice),
    };
    Record {
        topic: message.topic().into(),
        key: Bytes::copy_from_slice(message.key().expect("a key, be it empty")),
        payload: message.payload().map(Bytes::copy_from_slice),
        headers: message.headers().map_or_else(Headers::new, |headers| headers.iter().map(own).collect()),
        event_type: Bytes::new(),
    }
}

/// Values per key in the order of the log.
fn by_key(messages: &[OwnedMessage]) -> HashMap<Vec<u8>, Vec<usize>> {
    let mut keys: HashMap<_, Vec<usize>> = HashMap::new();
    for message in messages {
        let number = std::str::from_utf8(message.payload().unwrap()).unwrap().parse().unwrap();
        keys.entry(message.key().unwrap().to_vec()).or_default().push(number);
    }
    keys
}

#[tokio::test]
async fn every_ticket_comes_back_once_and_a_key_stays_in_order() {
    let cluster = cluster(4);
    let (producer, inbox) = start(&cluster, &[]);
    for n in 0..5_000 {
        producer.send(&record(&format!("k{}", n % 37), &n.to_string()), n).unwrap();
    }
    all_acknowledged(&inbox, 5_000).await;
    let keys = by_key(&consume(&cluster, 4, 5_000));
    assert_eq!(keys.len(), 37);
    assert!(keys.values().all(|numbers| numbers.is_sorted()));
}

#[tokio::test]
async fn a_record_arrives_byte_for_byte() {
    let cluster = cluster(1);
    let (producer, inbox) = start(&cluster, &[]);
    let mut records = vec![record("key", "value"), record("", ""), record("\0\u{1f600}", "\0")];
    records.push(Record { payload: None, headers: Headers::new(), ..record("tombstone", "") });
    let twice = records[0].headers[0].clone();
    records[0].headers.push(twice);
    for (ticket, record) in records.iter().enumerate() {
        producer.send(record, ticket).unwrap();
    }
    all_acknowledged(&inbox, records.len()).await;
    let read: Vec<_> = consume(&cluster, 1, records.len()).iter().map(as_record).collect();
    assert_eq!(read, records);
}

/// Kafka's murmur2 as its documentation gives it: the reference that librdkafka is compared with.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mix = |k: u32| (k.wrapping_mul(M) ^ (k.wrapping_mul(M) >> 24)).wrapping_mul(M);
    let mut h = 0x9747_b28c ^ u32::try_from(data.len()).unwrap();
    let chunks = data.chunks_exact(4);
    let tail = chunks.remainder();
    for chunk in chunks {
        h = h.wrapping_mul(M) ^ mix(u32::from_le_bytes(chunk.try_into().unwrap()));
    }
    for (index, byte) in tail.iter().enumerate() {
        h ^= u32::from(*byte) << (8 * index);
    }
    if !tail.is_empty() {
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[tokio::test]
async fn a_key_goes_to_the_partition_that_the_java_client_chooses() {
    // The Java client's own test vectors, as signed numbers there.
    let vectors: [(&str, i32); 6] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ];
    for (key, hash) in vectors {
        assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
    }
    const PARTITIONS: i32 = 7;
    let cluster = cluster(PARTITIONS);
    let (producer, inbox) = start(&cluster, &[]);
    let mut keys: Vec<String> = vectors.iter().map(|(key, _)| (*key).to_owned()).collect();
    keys.extend((0..200).map(|n| format!("order-{n}")));
    keys.push(String::new());
    for (ticket, key) in keys.iter().enumerate() {
        producer.send(&record(key, "0"), ticket).unwrap();
    }
    all_acknowledged(&inbox, keys.len()).await;
    for message in consume(&cluster, PARTITIONS, keys.len()) {
        let hash = (murmur2(message.key().unwrap()) & 0x7fff_ffff).cast_signed();
        assert_eq!(message.partition(), hash % PARTITIONS, "{:?}", message.key());
    }
}

#[tokio::test]
async fn errors_that_pass_are_retried_in_order_and_without_duplicates() {
    let cluster = cluster(1);
    let (producer, inbox) = start(&cluster, &[("batch.num.messages", "10")]);
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            Native::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            Native::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            Native::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            Native::RD_KAFKA_RESP_ERR__TRANSPORT,
            Native::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
        ],
    );
    for n in 0..500 {
        producer.send(&record("k", &n.to_string()), n).unwrap();
    }
    all_acknowledged(&inbox, 500).await;
    let numbers = by_key(&consume(&cluster, 1, 500)).remove(b"k".as_slice()).unwrap();
    assert!(numbers.is_sorted());
}

/// Refuses the first produce request with `error`; gives the failed record of it.
async fn refused(error: Native, sent: &Record) -> Box<Failure> {
    let cluster = cluster(1);
    let (producer, inbox) = start(&cluster, &[("topic.metadata.refresh.interval.ms", "50")]);
    cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
    producer.send(sent, 7).unwrap();
    let failure = one_failure(&inbox).await;
    // One permanent error must not take the producer with it, nor the topic once it is mended.
    let until = tokio::time::Instant::now() + DEADLINE;
    loop {
        taken(producer.send(&record("next", "1"), 0));
        let answer = events(&inbox, |all| acknowledged(all).len() + failures(all).len() > 0).await;
        if acknowledged(&answer) == [0] {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "the topic stayed refused: {answer:?}");
    }
    failure
}

/// The producer took the record, though it may have failed already.
#[track_caller]
fn taken(sent: Result<(), SendError>) {
    assert!(matches!(sent, Ok(()) | Err(SendError::CameBack)), "{sent:?}");
}

#[tokio::test]
async fn a_record_without_the_right_to_write_comes_back_whole() {
    for sent in [record("key", "\0value"), record("", ""), Record { payload: None, ..record("k", "") }] {
        let failure = refused(Native::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, &sent).await;
        assert_eq!(failure.ticket, 7);
        assert_eq!(failure.class, FailureClass::Topic(TopicTrouble::Authorization));
        assert!(!failure.message.is_empty());
        assert_eq!(failure.record, sent);
    }
}

#[tokio::test]
async fn a_record_too_large_for_the_broker_is_rejected() {
    let sent = Record { headers: Headers::new(), ..record("key", "value") };
    let failure = refused(Native::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, &sent).await;
    assert_eq!(failure.class, FailureClass::Rejected(Rejection::TooLarge));
    assert_eq!(failure.record, sent);
}

#[tokio::test]
async fn an_outage_is_told_and_fails_no_record() {
    let cluster = cluster(2);
    let (producer, inbox) = start(&cluster, &[]);
    producer.send(&record("k", "0"), 0).unwrap();
    all_acknowledged(&inbox, 1).await;
    cluster.broker_down(-1).unwrap();
    for n in 0..1_000 {
        producer.send(&record(&format!("k{}", n % 5), &n.to_string()), n).unwrap();
    }
    let down = |events: &[Event]| {
        events.iter().filter(|event| matches!(event, Event::Trouble(Trouble::AllBrokersDown))).count()
    };
    let during = events(&inbox, |all| down(all) > 0).await;
    assert!(acknowledged(&during).is_empty());
    cluster.broker_up(-1).unwrap();
    all_acknowledged(&inbox, 1_000).await;
    let keys = by_key(&consume(&cluster, 2, 1_001));
    assert!((0..5).all(|k| keys[format!("k{k}").as_bytes()].is_sorted()));
}

#[tokio::test]
async fn a_full_queue_gives_the_record_back() {
    let cluster = cluster(1);
    cluster.broker_down(-1).unwrap();
    let (producer, inbox) = start(&cluster, &[("queue.buffering.max.messages", "100")]);
    for n in 0..100 {
        producer.send(&record("k", &n.to_string()), n).unwrap();
    }
    assert_eq!(producer.send(&record("k", "100"), 100), Err(SendError::QueueFull));
    cluster.broker_up(-1).unwrap();
    all_acknowledged(&inbox, 100).await;
    producer.send(&record("k", "100"), 0).unwrap();
    all_acknowledged(&inbox, 1).await;
    let numbers = by_key(&consume(&cluster, 1, 101)).remove(b"k".as_slice()).unwrap();
    assert_eq!(numbers, (0..=100).collect::<Vec<_>>());
}

/// Asks until the thread has left the reports to the caller.
fn take_over(producer: &mut Producer) {
    let until = tokio::time::Instant::now() + DEADLINE;
    while !producer.poll(true) {
        assert!(tokio::time::Instant::now() < until, "the thread goes on polling");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn reports_wait_for_the_caller_who_polls_and_for_nobody_once_he_does_not() {
    let cluster = cluster(4);
    let (mut producer, inbox) = start(&cluster, &[]);
    take_over(&mut producer);
    for n in 0..1_000 {
        producer.send(&record(&format!("k{}", n % 37), &n.to_string()), n).unwrap();
    }
    // What can be read was acknowledged, but for the time that an answer takes.
    consume(&cluster, 4, 1_000);
    let mut reported = Vec::new();
    inbox.take(&mut reported);
    assert_eq!(reported.len(), 0, "the thread polls as well");
    let until = tokio::time::Instant::now() + DEADLINE;
    while reported.len() < 1_000 {
        assert!(tokio::time::Instant::now() < until, "{} of 1000 reports", reported.len());
        assert!(producer.poll(true));
        inbox.take(&mut reported);
    }
    let mut tickets = acknowledged(&reported);
    tickets.sort_unstable();
    assert_eq!(tickets, (0..1_000).collect::<Vec<_>>());

    assert!(!producer.poll(false));
    for n in 0..10 {
        producer.send(&record("k", &n.to_string()), n).unwrap();
    }
    all_acknowledged(&inbox, 10).await;
}

#[tokio::test]
async fn closing_is_prompt_and_silent_with_records_under_way() {
    for polls in [false, true] {
        let cluster = cluster(1);
        let (mut producer, inbox) = start(&cluster, &[]);
        producer.send(&record("k", "0"), 0).unwrap();
        all_acknowledged(&inbox, 1).await;
        if polls {
            take_over(&mut producer);
        }
        // Requests stay in flight: the answers are a minute away.
        cluster.broker_round_trip_time(-1, Duration::from_secs(60)).unwrap();
        for n in 0..1_000 {
            producer.send(&record("k", &n.to_string()), n).unwrap();
        }
        let started = tokio::time::Instant::now();
        tokio::task::spawn_blocking(|| producer.close()).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        let mut left = Vec::new();
        inbox.take(&mut left);
        assert!(left.is_empty(), "{left:?}");
    }
}

fn fatal(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Event::Trouble(Trouble::Fatal(_))))
}

#[tokio::test]
async fn a_producer_without_the_right_to_be_idempotent_is_finished() {
    let cluster = cluster(1);
    cluster.request_errors(
        RDKafkaApiKey::InitProducerId,
        &[Native::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED],
    );
    let (producer, inbox) = start(&cluster, &[]);
    producer.send(&record("k", "0"), 3).unwrap();
    let all = events(&inbox, fatal).await;
    assert!(acknowledged(&all).is_empty());
    let Err(SendError::Fatal(text)) = producer.send(&record("k", "1"), 4) else {
        panic!("a finished producer took a record");
    };
    assert!(text.contains("uthoriz"), "{text}");
}

#[tokio::test]
async fn a_sequence_that_the_broker_does_not_follow_finishes_the_producer() {
    let cluster = cluster(1);
    let (producer, inbox) = start(&cluster, &[]);
    cluster.request_errors(RDKafkaApiKey::Produce, &[Native::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    producer.send(&record("k", "0"), 3).unwrap();
    let all = events(&inbox, |all| fatal(all) && !failures(all).is_empty()).await;
    assert_eq!(failures(&all)[0].class, FailureClass::Fatal);
    // The client raises it once and before the report; rdkafka tells it twice, we once.
    assert_eq!(all.iter().filter(|event| matches!(event, Event::Trouble(Trouble::Fatal(_)))).count(), 1);
    assert!(matches!(producer.send(&record("k", "1"), 4), Err(SendError::Fatal(_))));
}

#[tokio::test]
async fn a_missing_topic_gives_the_record_back_at_once_and_later() {
    let cluster = cluster(1);
    cluster.topic_error(TOPIC, Native::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let (producer, inbox) = start(&cluster, &[("topic.metadata.propagation.max.ms", "100")]);
    // The first waits in the queue until the topic is known to be missing, the second is refused by `send`.
    for ticket in [1, 2] {
        let sent = record("k", "v");
        taken(producer.send(&sent, ticket));
        let failure = one_failure(&inbox).await;
        assert_eq!((failure.ticket, failure.class), (ticket, FailureClass::Topic(TopicTrouble::Unknown)));
        assert_eq!(failure.record, sent);
    }
}

#[tokio::test]
async fn a_topic_name_that_kafka_does_not_take_is_rejected() {
    let cluster = cluster(1);
    let (producer, inbox) = start(&cluster, &[("topic.metadata.propagation.max.ms", "100")]);
    let named = |name: &str| Record { topic: name.into(), ..record("k", "v") };
    for name in ["a\0b", &"x".repeat(600)] {
        let refused = producer.send(&named(name), 1);
        assert!(matches!(refused, Err(SendError::Rejected(Rejection::Invalid, _))), "{name:?} {refused:?}");
    }
    cluster.topic_error("a b", Native::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION).unwrap();
    // The broker is asked about this one; librdkafka first says invalid, then missing.
    for _ in 0..2 {
        match producer.send(&named("a b"), 1) {
            Ok(()) => {
                let failure = one_failure(&inbox).await;
                assert_eq!(failure.class, FailureClass::Rejected(Rejection::Invalid));
            }
            refused => {
                assert!(matches!(refused, Err(SendError::Rejected(Rejection::Invalid, _))), "{refused:?}")
            }
        }
    }
}

#[test]
fn an_error_told_twice_in_a_row_is_passed_on_once() {
    let (closed, told, others) = (AtomicBool::new(false), Mutex::default(), AtomicUsize::new(0));
    let context = Context { inbox: Inbox::new(), closed, told, others };
    let tell = |code| context.error(KafkaError::Global(code), "why");
    // Twice an outage, each told twice.
    for _ in 0..4 {
        tell(RDKafkaErrorCode::AllBrokersDown);
    }
    tell(RDKafkaErrorCode::Resolve);
    let mut told = Vec::new();
    context.inbox.take(&mut told);
    let kinds: BTreeMap<_, _> =
        told.iter().map(|event| format!("{event:?}")).fold(BTreeMap::new(), |mut counts, kind| {
            *counts.entry(kind).or_insert(0) += 1;
            counts
        });
    assert_eq!(kinds.values().copied().collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn an_unusable_setting_is_an_error_without_its_value() {
    let cluster = cluster(1);
    let bad = settings(&cluster, &[("linger.ms", "hunter2")]);
    let error = Producer::new(&bad, None, Inbox::new()).err().unwrap().to_string();
    assert!(error.contains("linger.ms") && !error.contains("hunter2"), "{error}");
}

//! What can happen to Kafka and on the way to it, beside its going and coming (`faults`): connections
//! cut and slow, a full disk, a topic deleted. The session with Postgres goes on,
//! memory is bounded, nothing is lost or reordered, and nobody restarts the relay.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::load::{Load, Outbox, RECOVERY, lasts, more};
use crate::support::wait::SOON;
use crate::support::{Kafka, Postgres, Record, eventually};

#[tokio::test]
async fn connections_to_kafka_that_are_cut_refused_or_slow_cost_no_row_and_no_session() {
    const LIMIT: f64 = 65_536.0;
    // One of the load's records: well below this.
    const RECORD: f64 = 1_024.0;
    let (kafka, way) = Kafka::start_behind_proxy(&[]).await;
    let postgres = Postgres::start(Postgres::default_version(), &[("wal_sender_timeout", "5s")]).await;
    let outbox = Outbox::new(&postgres).await;
    let relay = outbox.relay(&way.address(), &[("WORKER_MAX_IN_FLIGHT_BYTES", "64KiB")]).await;
    let load = Load::start(&outbox, 4);
    let mut topic = outbox.topic(&kafka);
    more(&mut topic, 100).await;
    let walsender = outbox.walsender().await.expect("the relay streams");
    for _ in 0..8 {
        way.cut();
        more(&mut topic, 50).await;
    }
    way.refuse();
    load.commits(300).await;
    way.resume();
    more(&mut topic, 300).await;
    // Slower than the load, and for longer than `wal_sender_timeout`.
    way.limit_rate(20_000);
    let mut most = 0.0_f64;
    lasts(Duration::from_secs(8), async || {
        most = most.max(relay.metrics().await.value("txstream_in_flight_bytes"));
    })
    .await;
    // Reading that stopped goes on when a quarter is free.
    assert!((LIMIT * 0.75..LIMIT + RECORD).contains(&most), "{most} bytes in flight");
    way.resume();
    load.commits(100).await;
    load.stop().await;
    let arrived = outbox.all_arrive(&mut topic).await;
    assert_eq!(arrived.duplicates, 0, "the producer is idempotent, and its session never ended");
    assert_eq!(outbox.walsender().await, Some(walsender));
}

#[tokio::test]
async fn a_broker_whose_disk_is_full_costs_no_row_and_no_session() {
    let kafka = Kafka::start(&[]).await;
    let postgres = Postgres::start(Postgres::default_version(), &[("wal_sender_timeout", "5s")]).await;
    let outbox = Outbox::new(&postgres).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let load = Load::start(&outbox, 4);
    let mut topic = outbox.topic(&kafka);
    more(&mut topic, 100).await;
    let walsender = outbox.walsender().await;
    // A segment of the log is as large as that in no time.
    kafka.fill_disk(30_000).await;
    eventually(RECOVERY, "the broker cannot write", async || {
        kafka.log().contains("File too large").then_some(())
    })
    .await;
    load.commits(500).await;
    // There is room again, and someone starts the broker, if it has ended.
    kafka.restart().await;
    load.commits(100).await;
    load.stop().await;
    outbox.all_arrive(&mut topic).await;
    assert_eq!(outbox.walsender().await, walsender);
}

/// A properties file of a client that soon believes that a topic is missing.
fn impatient(dir: &TempDir) -> String {
    let file = dir.path().join("kafka.properties");
    std::fs::write(&file, "topic.metadata.propagation.max.ms=500\ntopic.metadata.refresh.interval.ms=500\n")
        .unwrap();
    file.to_str().unwrap().to_owned()
}

/// The rows of each key in the order of their commits.
async fn rows_by_key(outbox: &Outbox) -> BTreeMap<String, Vec<String>> {
    let rows =
        outbox.database.query("select aggregateid, id::text from outbox order by (payload->>'n')::int").await;
    let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        by_key.entry(row.get(0)).or_default().push(row.get(1));
    }
    by_key
}

/// The ids of each key in the order of their first records.
fn ids_by_key(records: &[Record]) -> HashMap<&str, Vec<&str>> {
    let mut seen = HashSet::new();
    let mut by_key: HashMap<&str, Vec<&str>> = HashMap::new();
    for record in records {
        let id = record.header("id").unwrap();
        if seen.insert(id) {
            by_key.entry(record.key_text()).or_default().push(id);
        }
    }
    by_key
}

#[tokio::test]
async fn a_topic_deleted_and_made_again_under_load_gets_every_row_not_acknowledged_before() {
    let kafka = Kafka::start(&[("auto.create.topics.enable", "false")]).await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let name = outbox.topic_name();
    let mut before = kafka.create_topic(&name, 3, &[]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = impatient(&dir);
    let env = [("KAFKA_CONFIG_FILE", file.as_str()), ("KAFKA_BASE_DELAY", "100ms")];
    let mut relay = outbox.relay(kafka.bootstrap(), &env).await;
    let load = Load::start(&outbox, 4);
    more(&mut before, 300).await;
    kafka.delete_topic(&name).await;
    relay
        .wait_for_log("the missing topic", SOON, |line| line.contains("ERROR") && line.contains(&name))
        .await;
    load.commits(200).await;
    let mut after = kafka.create_topic(&name, 3, &[]).await;
    load.commits(200).await;
    load.stop().await;
    outbox.confirmed().await;

    // What Kafka acknowledged and then deleted is gone: what is left of a key are its first rows in the old
    // topic, as far as they were read, and its last ones in the new topic, without a hole in either.
    let rows = rows_by_key(&outbox).await;
    let (before, after) = (ids_by_key(before.records()), ids_by_key(after.read_to_end().await));
    for (key, rows) in &rows {
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        // A partition may have been deleted before anything of it was read.
        assert!(rows.starts_with(before.get(key.as_str()).map_or(&[], Vec::as_slice)), "{key}");
        assert!(rows.ends_with(&after[key.as_str()]), "{key}");
    }
    let arrived: usize = after.values().map(Vec::len).sum();
    assert!(arrived >= 400, "rows committed while there was no topic are in it: {arrived}");
    assert!(relay.is_running());
    assert_eq!(relay.metrics().await.value("txstream_replication_reconnects_total"), 0.0);
}

#[tokio::test]
async fn a_record_that_waits_for_over_a_minute_makes_the_relay_not_ready_until_it_is_taken() {
    const LIMIT: Duration = Duration::from_secs(60);
    let kafka = Kafka::start(&[("auto.create.topics.enable", "false")]).await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let name = outbox.topic_name();
    let kind = name.trim_start_matches("outbox.event.");
    let dir = tempfile::tempdir().unwrap();
    let file = impatient(&dir);
    let env = [("KAFKA_CONFIG_FILE", file.as_str()), ("KAFKA_MAX_DELAY", "1s")];
    let relay = outbox.relay(kafka.bootstrap(), &env).await;
    let ready = async |status: u16| {
        let answer = relay.get("/readyz").await;
        (answer.status == status).then_some(answer.body)
    };
    eventually(SOON, "it streams", async || ready(200).await).await;
    let began = Instant::now();
    let insert =
        format!("insert into outbox (aggregatetype, aggregateid, type) values ('{kind}', 'k', 'Made')");
    outbox.database.exec(&insert).await;
    let named = async || ready(200).await.filter(|body| body.contains(&name));
    eventually(SOON, "it names the topic that waits, and is ready", named).await;
    let reasons = eventually(LIMIT * 2, "it is not ready", async || ready(503).await).await;
    assert!(began.elapsed() > LIMIT, "not ready after {:?}: {reasons}", began.elapsed());
    assert!(reasons.contains("unacknowledged for 6") && reasons.contains(&name), "{reasons}");
    assert_eq!(relay.get("/livez").await.status, 200);
    kafka.create_topic(&name, 1, &[]).await;
    eventually(SOON, "it is ready again", async || ready(200).await).await;
    outbox.confirmed().await;
}

#[tokio::test]
async fn a_record_that_failed_more_often_than_it_may_halts_by_name_and_arrives_once_its_topic_is_there() {
    let kafka = Kafka::start(&[("auto.create.topics.enable", "false")]).await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let name = outbox.topic_name();
    outbox.insert("key-7", 1).await;
    let id: String = outbox.database.value("select id::text from outbox").await;
    let dir = tempfile::tempdir().unwrap();
    let file = impatient(&dir);
    let env = [
        ("KAFKA_CONFIG_FILE", file.as_str()),
        ("KAFKA_MAX_RETRIES", "2"),
        ("KAFKA_BASE_DELAY", "50ms"),
        ("LOGGING_LEVEL", "debug"),
    ];
    // The second start sends it alone first, which is no resend of the topic's, and no more often.
    for resends in [2, 0] {
        let exit = outbox.start(kafka.bootstrap(), &env).await.wait_exit(SOON).await;
        assert_eq!(exit.status.code(), Some(1), "{}", exit.stderr);
        let words: Vec<&str> = exit.stderr.lines().rev().take(2).collect();
        let [remedy, what] = words[..] else { panic!("no last words: {}", exit.stderr) };
        for part in [id.as_str(), r#"key "key-7""#, &name, "failed 3 times"] {
            assert!(what.contains(part), "{part:?} is missing in {what:?}");
        }
        assert!(remedy.contains("KAFKA_MAX_RETRIES=-1"), "{remedy}");
        let said = exit.stderr.lines().filter(|line| line.contains("go again")).count();
        assert_eq!(said, resends, "{}", exit.stderr);
    }
    let mut topic = kafka.create_topic(&name, 1, &[]).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    assert_eq!(outbox.all_arrive(&mut topic).await.rows, 1);
}

/// A row that says it is a year old.
async fn insert_last_year(outbox: &Outbox, n: u32) {
    outbox
        .database
        .exec(&format!(
            "insert into outbox (aggregatetype, aggregateid, type, payload, \"timestamp\")
                 values ('{}', 'k', 'T', '{{\"n\": {n}}}', now() - interval '1 year')",
            outbox.aggregate_type
        ))
        .await;
}

#[tokio::test]
async fn the_kafka_timestamp_is_the_time_of_publishing_not_that_of_the_row() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    outbox.insert("k", 1).await;
    insert_last_year(&outbox, 2).await;
    // A broker would delete a record of last year at once.
    let mut topic = outbox.topic(kafka);
    let records = topic.read_count(2).await;
    let apart = records[1].timestamp_ms - records[0].timestamp_ms;
    assert!((0..60_000).contains(&apart), "{apart} ms apart");
}

#[tokio::test]
async fn a_row_of_last_year_outlives_the_retention_of_its_topic() {
    // A broker that looks for what is over the retention all the time.
    let eager = [("log.initial.task.delay.ms", "0"), ("log.retention.check.interval.ms", "200")];
    let kafka = Kafka::start(&eager).await;
    let hour = [("retention.ms", "3600000")];
    let outbox = Outbox::new(Postgres::shared().await).await;
    kafka.create_topic(&outbox.topic_name(), 1, &hour).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    insert_last_year(&outbox, 1).await;
    outbox.confirmed().await;
    // The broker goes over all topics in turn: when a second record with the row's time is gone, that
    // began after the first one was, it has been over the relay's topic in between.
    for control in ["control-1", "control-2"] {
        kafka.create_topic(control, 1, &hour).await;
        produced_last_year(&kafka, control).await;
        let gone = format!("the record in {control} is over the retention");
        eventually(SOON, gone, async || (first_offset(&kafka, control)? > 0).then_some(())).await;
    }
    assert_eq!(first_offset(&kafka, &outbox.topic_name()), Some(0));
    let mut topic = outbox.topic(&kafka);
    assert_eq!(outbox.all_arrive(&mut topic).await.rows, 1);
}

/// A record whose timestamp is that of a row of last year.
async fn produced_last_year(kafka: &Kafka, topic: &str) {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().unwrap();
    let year = Duration::from_secs(365 * 24 * 3600);
    let then = (SystemTime::now() - year).duration_since(UNIX_EPOCH).unwrap().as_millis();
    let record = FutureRecord::to(topic).key("k").payload("{}").timestamp(i64::try_from(then).unwrap());
    producer.send(record, SOON).await.expect("produce");
}

/// The offset of the oldest record that partition 0 still has, or of the next one; `None` if the broker
/// does not answer.
fn first_offset(kafka: &Kafka, topic: &str) -> Option<i64> {
    let reader: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().unwrap();
    reader.fetch_watermarks(topic, 0, Duration::from_secs(2)).ok().map(|(first, _)| first)
}

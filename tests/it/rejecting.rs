//! Rows that Kafka will never take. The relay stops before such a row, says which and why, confirms
//! and publishes what came before it, and publishes nothing behind it, however often it is started.

use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};

use txstream::postgres::Lsn;
use txstream::relay::checkpoint::{self, Identity, Progress, Rejected};

use crate::support::http::get;
use crate::support::port::free_port;
use crate::support::wait::SOON;
use crate::support::{Halted, Outbox, Postgres, Shutdown, eventually, unique};

/// Enough to see that starts publish nothing.
const RESTARTS: usize = 5;

/// Commits an event of aggregate type `kind` before the bad row, the bad row, and one behind it, and
/// starts a relay on them again and again.
async fn halts_at(outbox: &Outbox, kind: &str, bad: &str, env: &[(&str, &str)]) -> Halted {
    outbox.insert(kind, "before", r#"{"n": 1}"#).await;
    outbox.database.exec(bad).await;
    let end: String = outbox.database.value("SELECT pg_current_wal_lsn()::text").await;
    outbox.insert(kind, "behind", r#"{"n": 2}"#).await;
    let mut last = None;
    for _ in 0..=RESTARTS {
        let halted = outbox_halts(outbox, env).await;
        halted.advises("the confirmed LSN stays before it");
        let confirmed: bool = outbox
            .database
            .value(&format!(
                "SELECT confirmed_flush_lsn < '{end}'::pg_lsn FROM pg_replication_slots WHERE slot_name = '{}'",
                outbox.slot()
            ))
            .await;
        assert!(confirmed, "the row is confirmed");
        last = Some(halted);
    }
    let mut topic = outbox.topic(kind);
    let records = topic.read_to_end().await;
    let keys: Vec<&str> = records.iter().map(|record| record.key_text()).collect();
    assert_eq!(keys, ["before"], "what came before it, once, and nothing behind it");
    last.unwrap()
}

/// The relay may be ready for a moment: it has to read the row first.
async fn outbox_halts(outbox: &Outbox, env: &[(&str, &str)]) -> Halted {
    crate::support::halted(outbox.relay(&[], env).await).await
}

/// Reads the topic until it has so many records, and gives back their keys in order of arrival.
async fn keys(outbox: &Outbox, kind: &str, count: usize) -> Vec<String> {
    let mut topic = outbox.topic(kind);
    topic.read_count(count).await;
    let records = topic.read_to_end().await;
    let mut keys: Vec<String> = records.iter().map(|record| record.key_text().to_owned()).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn a_row_without_an_aggregate_halts_and_can_be_skipped() {
    let outbox = Outbox::with_slot().await;
    outbox.database.exec("ALTER TABLE outbox ALTER aggregateid DROP NOT NULL").await;
    let kind = unique("null");
    let id = "3c5a5a44-0bd3-4a5e-9c2f-0d7b7a9c1a11";
    let bad = format!("INSERT INTO outbox (id, aggregatetype, type) VALUES ('{id}', '{kind}', 't')");
    let halted = halts_at(&outbox, &kind, &bad, &[]).await;
    halted.names(&[id, "public.outbox", "aggregateid is NULL"]);
    skip(&outbox, &halted).await;
    outbox.streams(&[], &[]).await;
    assert_eq!(keys(&outbox, &kind, 2).await, ["before", "behind"]);
}

/// Skips the transaction as the halt says.
async fn skip(outbox: &Outbox, halted: &Halted) {
    let (_, command) = halted.remedy.split_once("skip its whole transaction: txstream ").expect("a command");
    let words: Vec<&str> = command.split(' ').chain(["--yes"]).collect();
    assert_eq!(words[..2], ["slot", "advance"], "{command}");
    let said = outbox.done(&words).await;
    assert!(said.stdout.contains("1 rows of public.outbox"), "nothing but the bad row: {}", said.stdout);
}

#[tokio::test]
async fn a_name_that_no_topic_can_have_halts() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("illegal");
    let bad = format!(
        "INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('{kind} with blanks', 'k', 't')"
    );
    let halted = halts_at(&outbox, &kind, &bad, &[]).await;
    halted.names(&[
        &format!("outbox.event.{kind} with blanks"),
        r#"key "k""#,
        "the topic's name has characters other than",
    ]);
    halted.advises("set KAFKA_TOPIC_EVENTS");
    let all = unique("all");
    outbox.streams(&[], &[("KAFKA_TOPIC_EVENTS", &all)]).await;
    let mut topic = outbox.kafka.topic(&all);
    let records = topic.read_count(3).await;
    assert!(records.iter().any(|record| record.key_text() == "k"), "{records:?}");
}

#[tokio::test]
async fn a_name_that_no_topic_can_have_can_be_skipped() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("skipped");
    let bad = "INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('a/b', 'k', 't')";
    let halted = halts_at(&outbox, &kind, bad, &[]).await;
    skip(&outbox, &halted).await;
    outbox.streams(&[], &[]).await;
    assert_eq!(keys(&outbox, &kind, 2).await, ["before", "behind"]);
}

/// Bytes that the relay says a record takes.
fn size_said(halted: &Halted) -> usize {
    let (_, rest) = halted.what.split_once("is too large: ").expect("it says how large");
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// A JSON string payload of that many characters, incompressible or not.
fn payload(characters: usize) -> String {
    format!("\"{}\"", "x".repeat(characters))
}

#[tokio::test]
async fn a_record_at_the_limit_of_its_topic_passes_and_one_byte_more_halts() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("large");
    let topic = format!("outbox.event.{kind}");
    outbox.kafka.create_topic(&topic, 2, &[("max.message.bytes", "2000")]).await;
    let id = "6b1f6d0e-5f0f-4f4c-8f39-5a6c8a3e0b22";
    let insert = |id: &str, characters: usize| {
        format!(
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
                 VALUES ('{id}', '{kind}', 'key-1', 't', '{}')",
            payload(characters)
        )
    };
    // Far too large first, to learn what the rest of the record takes.
    let halted = halts_at(&outbox, &kind, &insert(id, 3000), &[]).await;
    halted.names(&[id, r#"key "key-1""#, &topic, "the topic takes 2000"]);
    let said = size_said(&halted);
    raise(&outbox, &topic, &halted, said).await;
    outbox.streams(&[], &[]).await;
    assert_eq!(keys(&outbox, &kind, 3).await, ["before", "behind", "key-1"]);

    // The limit is now that record's size: one of the same size passes, one more byte does not.
    let (fits, over) = ("8a0b1c2d-0000-4000-8000-000000000001", "8a0b1c2d-0000-4000-8000-000000000002");
    outbox.database.exec(&insert(fits, 3000)).await;
    outbox.streams(&[], &[]).await;
    outbox.database.exec(&insert(over, 3001)).await;
    outbox.insert(&kind, "last", "{}").await;
    let halted = outbox_halts(&outbox, &[]).await;
    halted.names(&[over, r#"key "key-1""#, &topic, &format!("the topic takes {said}")]);
    assert_eq!(size_said(&halted), said + 1);
    assert_eq!(keys(&outbox, &kind, 4).await, ["before", "behind", "key-1", "key-1"]);
    raise(&outbox, &topic, &halted, said + 1).await;
    outbox.streams(&[], &[]).await;
    assert_eq!(keys(&outbox, &kind, 6).await, ["before", "behind", "key-1", "key-1", "key-1", "last"]);
}

/// Does what the remedy's `kafka-configs.sh` would.
async fn raise(outbox: &Outbox, topic: &str, halted: &Halted, bytes: usize) {
    halted.advises(&format!(
        "kafka-configs.sh --bootstrap-server BROKERS --alter --entity-type topics --entity-name {topic} \
         --add-config max.message.bytes={bytes}"
    ));
    alter(outbox, topic, "max.message.bytes", &bytes.to_string()).await;
}

/// Sets a topic's config.
async fn alter(outbox: &Outbox, topic: &str, name: &str, value: &str) {
    let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
    let results = outbox.kafka.admin().alter_configs([&config], &AdminOptions::new()).await.unwrap();
    for result in results {
        result.unwrap();
    }
}

/// A broker may refuse what no check before sending can find: here a record that is too old, since it is
/// kept for a while before it is sent.
#[tokio::test]
async fn twenty_restarts_on_a_record_that_only_the_broker_refuses_add_no_record() {
    let outbox = Outbox::with_slot().await;
    let (good, bad) = (unique("good"), unique("bad"));
    let topic = format!("outbox.event.{bad}");
    outbox.kafka.create_topic(&topic, 1, &[("message.timestamp.before.max.ms", "10")]).await;
    outbox.insert(&good, "before", "{}").await;
    outbox.insert(&bad, "k", "{}").await;
    for n in 0..20 {
        outbox.insert(&good, &format!("behind {n}"), "{}").await;
    }
    let id: String =
        outbox.database.value(&format!("SELECT id::text FROM outbox WHERE aggregatetype = '{bad}'")).await;
    let late = ["-X", "linger.ms=100"];
    crate::support::halted(outbox.relay(&late, &[]).await).await.names(&[&id, &topic, "invalid"]);
    let after_the_first = outbox.topic(&good).read_to_end().await.len();
    for _ in 0..20 {
        outbox.halts(&late, &[]).await.names(&[&id, &topic, "invalid"]);
    }
    let records = outbox.topic(&good).read_to_end().await.len();
    assert_eq!(records, after_the_first, "20 starts added records");

    // Once the topic takes it, it arrives, and what was behind it too.
    alter(&outbox, &topic, "message.timestamp.before.max.ms", "100000000000").await;
    outbox.streams(&late, &[]).await;
    assert!(!outbox.topic(&bad).read_count(1).await.is_empty());
    let mut arrived = keys(&outbox, &good, 21).await;
    arrived.dedup();
    assert_eq!(arrived.len(), 21, "{arrived:?}");
}

#[tokio::test]
async fn a_record_that_goes_alone_says_what_it_waits_for_and_holds_up_no_shutdown() {
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let bad = unique("bad");
    let topic = format!("outbox.event.{bad}");
    outbox.kafka.create_topic(&topic, 1, &[("message.timestamp.before.max.ms", "10")]).await;
    outbox.insert(&bad, "k", "{}").await;
    crate::support::halted(outbox.relay(&["-X", "linger.ms=100"], &[]).await).await.names(&[&topic]);

    let nobody = format!("127.0.0.1:{}", free_port().await);
    let relay = outbox.relay(&[], &[("KAFKA_BROKERS", &nobody)]).await;
    eventually(SOON, "it says why the record waits", async || {
        let ready = get(relay.admin(), "/readyz").await.ok()?;
        let names = ready.status == 503 && ready.body.contains("no Kafka broker is reachable");
        (names && relay.log().iter().any(|line| line.contains("has not taken the record yet"))).then_some(())
    })
    .await;
    let stopped =
        tokio::time::timeout(std::time::Duration::from_secs(15), postgres.stop(Shutdown::Fast)).await;
    assert!(stopped.is_ok(), "the server waits for the relay");
}

#[tokio::test]
async fn a_payload_near_the_usual_limit_arrives_whole() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("nine_hundred");
    outbox.insert(&kind, "big", &payload(900_000)).await;
    outbox.streams(&[], &[]).await;
    let mut topic = outbox.topic(&kind);
    assert_eq!(topic.read_count(1).await[0].value_text(), payload(900_000));
}

/// A stop that met its deadline leaves statements behind at the server, which may come to their end late.
#[tokio::test]
async fn what_a_holder_writes_late_leaves_the_row_of_the_next_one_as_it_is() {
    let outbox = Outbox::with_slot().await;
    let (slot, client) = (outbox.slot(), outbox.database.client().await);
    let identity =
        |instance| Identity { system_identifier: "1", database: slot, instance, reported_lsn: Lsn::ZERO };
    let rejected = Rejected {
        table: "public.outbox".into(),
        row_id: "1".into(),
        topic: "t".into(),
        commit_lsn: 7,
        ordinal: 0,
        reason: "invalid".into(),
        letter: false,
    };
    checkpoint::claim(&client, slot, &identity("before"), Some(Lsn(10))).await.unwrap();
    checkpoint::set_rejected(&client, slot, "before", Some(&rejected)).await.unwrap();
    checkpoint::claim(&client, slot, &identity("next"), Some(Lsn(10))).await.unwrap();
    let row = checkpoint::read(&client, slot).await.unwrap().unwrap();
    assert_eq!(row.rejected.as_ref(), Some(&rejected));

    let late =
        Progress { slot, identity: &identity("before"), confirmed_lsn: Lsn(20), clean: true, recovery: None };
    assert!(!checkpoint::advance(&client, &late).await.unwrap());
    checkpoint::set_rejected(&client, slot, "before", None).await.unwrap();
    assert_eq!(checkpoint::read(&client, slot).await.unwrap().unwrap(), row);
    checkpoint::set_rejected(&client, slot, "next", None).await.unwrap();
    assert_eq!(checkpoint::read(&client, slot).await.unwrap().unwrap().rejected, None);
}

//! `WORKER_ON_REJECT=dead-letter`: what Kafka will never take is stored with whatever follows of its key,
//! other keys flow, and `dead-letter` brings it back in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use txstream::dead_letter::store;

use crate::support::wait::SOON;
use crate::support::{Outbox, Postgres, Record, Relay, eventually, http, run_cli, unique};

const DEAD_LETTER: (&str, &str) = ("WORKER_ON_REJECT", "dead-letter");

/// An outbox with a topic that takes 2,000 bytes.
pub(crate) struct Small {
    pub(crate) outbox: Outbox,
    kind: String,
    pub(crate) topic: String,
}

impl Small {
    pub(crate) async fn new() -> Self {
        Self::on(Outbox::with_slot().await).await
    }

    pub(crate) async fn on(outbox: Outbox) -> Self {
        let kind = unique("small");
        let topic = format!("outbox.event.{kind}");
        outbox.kafka.create_topic(&topic, 3, &[("max.message.bytes", "2000")]).await;
        Self { outbox, kind, topic }
    }

    pub(crate) async fn relay(&self) -> Relay {
        let mut relay = self.outbox.relay(&[], &[DEAD_LETTER]).await;
        relay.wait_ready().await;
        relay
    }

    /// Commits the key's record number `n`.
    async fn insert(&self, key: &str, n: u32) {
        self.outbox.insert(&self.kind, key, &format!(r#"{{"n": {n}}}"#)).await;
    }

    /// The same, larger than the topic takes.
    pub(crate) async fn insert_large(&self, key: &str, n: u32) {
        let filler = "x".repeat(3000);
        self.outbox.insert(&self.kind, key, &format!(r#"{{"n": {n}, "filler": "{filler}"}}"#)).await;
    }

    /// Waits for so many letters.
    pub(crate) async fn letters(&self, count: i64) {
        let client = self.outbox.database.client().await;
        let mut found = 0;
        let wait = async || {
            let sql = "select count(*) from txstream_dead_letter";
            found = client.query_one(sql, &[]).await.unwrap().get(0);
            (found == count).then_some(())
        };
        eventually(SOON, format!("{count} letters are in the table"), wait).await;
    }

    /// Waits until everything written so far is confirmed.
    pub(crate) async fn confirmed(&self) {
        let now: String = self.outbox.database.value("select pg_current_wal_insert_lsn()::text").await;
        let client = self.outbox.database.client().await;
        let sql = format!(
            "select confirmed_flush_lsn >= '{now}' from pg_replication_slots where slot_name = '{}'",
            self.outbox.slot()
        );
        eventually(SOON, format!("{now} is confirmed"), async || {
            client.query_one(&sql, &[]).await.unwrap().get::<_, bool>(0).then_some(())
        })
        .await;
    }

    /// The numbers of a key's records in the topic, in order, once there are so many in the topic.
    async fn published(&self, key: &str, all: usize) -> Vec<u64> {
        let mut topic = self.outbox.kafka.topic(&self.topic);
        topic.read_count(all).await;
        let records = topic.read_to_end().await;
        records.iter().filter(|record| record.key_text() == key).map(number).collect()
    }

    async fn cli(&self, args: &[&str]) -> crate::support::relay::Output {
        let url = self.outbox.database.url();
        let env = [
            ("DATABASE_URL", url.as_str()),
            ("REPLICATION_SLOT", self.outbox.slot()),
            ("KAFKA_BROKERS", self.outbox.kafka.bootstrap()),
        ];
        run_cli(&[&["dead-letter"], args].concat(), &env).await
    }

    async fn done(&self, args: &[&str]) -> String {
        let output = self.cli(args).await;
        assert_eq!(output.code, Some(0), "dead-letter {args:?}: {}", output.stderr);
        output.stdout
    }

    async fn raise_limit(&self) {
        self.alter("max.message.bytes", "100000").await;
    }

    async fn alter(&self, name: &str, value: &str) {
        let config = AlterConfig::new(ResourceSpecifier::Topic(&self.topic)).set(name, value);
        let results = self.outbox.kafka.admin().alter_configs([&config], &AdminOptions::new()).await.unwrap();
        results.into_iter().for_each(|result| _ = result.unwrap());
    }
}

/// The number in a record of [`Small`].
pub(crate) fn number(record: &Record) -> u64 {
    serde_json::from_str::<serde_json::Value>(record.value_text()).unwrap()["n"].as_u64().unwrap()
}

/// A graceful stop.
pub(crate) async fn stop(relay: Relay) {
    relay.sigterm().await;
    let exit = relay.wait_exit(SOON).await;
    assert_eq!(exit.status.code(), Some(0), "{}", exit.stderr);
}

#[tokio::test]
async fn a_record_too_large_parks_its_key_across_restarts_and_other_keys_flow() {
    let small = Small::new().await;
    small.insert("parked", 1).await;
    small.insert_large("parked", 2).await;
    small.insert("parked", 3).await;
    small.insert("free", 1).await;
    let relay = small.relay().await;
    small.letters(2).await;
    assert_eq!(small.published("free", 2).await, [1]);
    assert_eq!(small.published("parked", 2).await, [1]);
    small.confirmed().await;
    eventually(SOON, "the metrics tell", async || {
        let metrics = relay.metrics().await;
        let letters = metrics.get("txstream_dead_letters", &[("topic", &small.topic)]);
        let parked =
            metrics.get("txstream_events_processed_total", &[("status", "parked"), ("event_type", "Tested")]);
        let keys = metrics.get("txstream_parked_keys", &[]);
        (letters == Some(2.0) && parked == Some(2.0) && keys == Some(1.0)).then_some(())
    })
    .await;
    assert!(relay.log().iter().all(|line| !line.contains("xxxx")), "no payload in the log");
    stop(relay).await;

    let relay = small.relay().await;
    small.insert("parked", 4).await;
    small.insert("free", 2).await;
    small.letters(3).await;
    assert_eq!(small.published("free", 3).await, [1, 2]);
    assert_eq!(small.published("parked", 3).await, [1]);
    small.confirmed().await;
    stop(relay).await;

    let rows = small
        .outbox
        .database
        .query(
            "select d.reason, d.topic, convert_from(d.key, 'UTF8'), d.payload = convert_to(o.payload::text, 'UTF8'),
                    d.header_names, convert_from(d.header_values[1], 'UTF8') = o.id::text, d.event_type
               from txstream_dead_letter d join outbox o on o.id::text = d.row_id
              order by d.commit_lsn, d.ordinal",
        )
        .await;
    let reasons: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(reasons, ["too_large", "behind", "behind"]);
    for row in &rows {
        assert_eq!((row.get::<_, &str>(1), row.get::<_, &str>(2)), (small.topic.as_str(), "parked"));
        assert!(row.get::<_, bool>(3) && row.get::<_, bool>(5), "stored byte for byte");
        assert_eq!(row.get::<_, Vec<&str>>(4), ["id"]);
        assert_eq!(row.get::<_, &str>(6), "Tested");
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_mapped_parks_alone() {
    let small = Small::new().await;
    small.outbox.database.exec("alter table outbox alter aggregateid drop not null").await;
    let kind = &small.kind;
    let bad =
        format!("insert into outbox (aggregatetype, type, payload) values ('{kind}', 'Bad', '{{\"n\": 1}}')");
    small.outbox.database.exec(&bad).await;
    small.insert("k", 1).await;
    let relay = small.relay().await;
    assert_eq!(small.published("k", 1).await, [1]);
    small.letters(1).await;
    small.confirmed().await;
    stop(relay).await;
    let shown = small.done(&["show", "--all", "--output", "json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown[0]["reason"], "unmappable", "{shown}");
    assert_eq!(shown[0]["columns"]["type"], "Bad", "{shown}");
    assert_eq!(shown[0]["topic"], serde_json::Value::Null, "{shown}");
    let refused = small.cli(&["replay", "--all", "--yes"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("dead-letter discard"), "{refused:?}");
    small.done(&["discard", "--all", "--yes"]).await;
    small.letters(0).await;
}

#[tokio::test]
async fn a_relay_killed_between_storing_and_confirming_stores_nothing_twice() {
    let small = Small::new().await;
    let token = ("METRICS_ADMIN_TOKEN", "secret");
    let mut relay = small.outbox.relay(&[], &[DEAD_LETTER, token]).await;
    relay.wait_ready().await;
    let admin = format!("http://{}", relay.admin());
    let opened = run_cli(&["breaker", "open", "--admin-url", &admin], &[token]).await;
    assert_eq!(opened.code, Some(0), "{opened:?}");
    // Held by the breaker, and so the position stays before what follows.
    let other = unique("held");
    small.outbox.insert(&other, "1", "{}").await;
    let before: String = small.outbox.database.value("select pg_current_wal_insert_lsn()::text").await;
    small.insert_large("k", 1).await;
    small.insert("k", 2).await;
    small.letters(2).await;
    let ids =
        "select string_agg(row_id || reason, ',' order by commit_lsn, ordinal) from txstream_dead_letter";
    let stored: String = small.outbox.database.value(ids).await;
    let unconfirmed: bool = small
        .outbox
        .database
        .value(&format!(
            "select confirmed_flush_lsn < '{before}' from pg_replication_slots where slot_name = '{}'",
            small.outbox.slot()
        ))
        .await;
    assert!(unconfirmed, "the position is before the letters");
    relay.kill9().await;

    let relay = small.relay().await;
    small.insert("k", 3).await;
    small.letters(3).await;
    small.confirmed().await;
    assert_eq!(small.outbox.topic(&other).read_count(1).await.len(), 1);
    let now: String = small.outbox.database.value(ids).await;
    assert!(now.starts_with(&stored), "{now} instead of {stored} and one more");
    stop(relay).await;
}

/// Someone who commits statements 1, 2, … at a steady rate, each by itself, or as fast as the server takes them.
pub(crate) struct Steady {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Steady {
    /// Someone who writes records 1, 2, … of a key, 500 a second.
    pub(crate) async fn start(small: &Small, key: &str) -> Self {
        let key = key.to_owned();
        let record = move |kind: &str, n: u32| {
            format!(
                "insert into outbox (aggregatetype, aggregateid, type, payload)
                     values ('{kind}', '{key}', 'Tested', '{{\"n\": {n}}}')"
            )
        };
        Self::writing(small, Duration::from_millis(2), record).await
    }

    /// Someone who runs a statement made of the aggregate type and its number.
    pub(crate) async fn writing(
        small: &Small,
        pace: Duration,
        statement: impl Fn(&str, u32) -> String + Send + 'static,
    ) -> Self {
        let client = small.outbox.database.client().await;
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&written));
        let kind = small.kind.clone();
        let task = tokio::spawn(async move {
            let mut every = tokio::time::interval(pace);
            while !stopped.load(Ordering::Relaxed) {
                every.tick().await;
                let n = count.load(Ordering::Relaxed) + 1;
                client.batch_execute(&statement(&kind, n)).await.unwrap();
                count.store(n, Ordering::Relaxed);
            }
        });
        Self { stop, written, task }
    }

    /// How many there are so far.
    pub(crate) fn written(&self) -> u32 {
        self.written.load(Ordering::Relaxed)
    }

    /// Returns how many there are.
    pub(crate) async fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.written.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn replay_keeps_the_order_of_a_key_that_receives_meanwhile() {
    let small = Small::new().await;
    let relay = small.relay().await;
    small.insert_large("k", 0).await;
    let writer = Steady::start(&small, "k").await;
    eventually(SOON, "letters pile up", async || (writer.written() > 300).then_some(())).await;
    // Still too large: nothing is published, and nothing behind it.
    let refused = small.cli(&["replay", "--key", "k", "--topic", &small.topic, "--yes"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("max.message.bytes"), "{refused:?}");
    small.raise_limit().await;
    let said = small.done(&["replay", "--key", "k", "--yes"]).await;
    assert!(said.contains("published"), "{said}");
    eventually(SOON, "the key flows again", async || {
        (relay.metrics().await.get("txstream_parked_keys", &[]) == Some(0.0)).then_some(())
    })
    .await;
    let written = writer.stop().await;
    small.letters(0).await;
    let numbers = small.published("k", written as usize + 1).await;
    let expected: Vec<u64> = (0..=u64::from(written)).collect();
    assert_eq!(numbers, expected, "each once and in order");
    small.confirmed().await;
    stop(relay).await;
}

#[tokio::test]
async fn replay_works_without_a_relay_and_only_from_the_first_of_a_key_on() {
    let small = Small::new().await;
    let relay = small.relay().await;
    for key in ["a", "b"] {
        small.insert_large(key, 1).await;
        small.insert(key, 2).await;
        small.insert(key, 3).await;
    }
    small.letters(6).await;
    stop(relay).await;
    small.raise_limit().await;
    let ids =
        |n: u32| format!("select id::text from outbox where aggregateid = 'a' and payload->>'n' = '{n}'");
    let (first, second): (String, String) =
        (small.outbox.database.value(&ids(1)).await, small.outbox.database.value(&ids(2)).await);
    let refused = small.cli(&["replay", "--id", &second, "--yes"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains(&first), "it names the first: {refused:?}");
    let asked = small.cli(&["replay", "--all"]).await;
    assert_eq!(asked.code, Some(1), "without a terminal and without --yes: {asked:?}");
    small.done(&["replay", "--id", &first, "--yes"]).await;
    small.letters(5).await;
    small.done(&["replay", "--all", "--yes"]).await;
    small.letters(0).await;
    let relay = small.relay().await;
    small.insert("a", 4).await;
    assert_eq!(small.published("a", 7).await, [1, 2, 3, 4]);
    assert_eq!(small.published("b", 7).await, [1, 2, 3]);
    stop(relay).await;
}

#[tokio::test]
async fn discarded_records_never_reach_kafka_and_later_ones_do() {
    let small = Small::new().await;
    let relay = small.relay().await;
    for key in ["a", "b"] {
        small.insert_large(key, 1).await;
        small.insert(key, 2).await;
    }
    small.letters(4).await;
    let listed = small.done(&["list", "--output", "json"]).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 4, "{listed}");
    assert_eq!((&listed[0]["key"], &listed[0]["reason"]), (&"a".into(), &"too_large".into()), "{listed}");
    let shown = small.done(&["list", "--key", "b"]).await;
    assert!(shown.contains("2 dead letters of 1 key") && shown.contains(&small.topic), "{shown}");
    let asked = small.cli(&["discard", "--all"]).await;
    assert_eq!(asked.code, Some(1), "{asked:?}");
    small.letters(4).await;
    small.done(&["discard", "--key", "a", "--topic", &small.topic, "--yes"]).await;
    small.letters(2).await;
    eventually(SOON, "the key flows again", async || {
        (relay.metrics().await.get("txstream_parked_keys", &[]) == Some(1.0)).then_some(())
    })
    .await;
    small.insert("a", 3).await;
    assert_eq!(small.published("a", 1).await, [3]);
    // Of the other key only the one that is too large: what follows it is published then.
    let id = listed[2]["id"].as_str().unwrap();
    small.done(&["discard", "--id", id, "--yes"]).await;
    small.done(&["replay", "--all", "--yes"]).await;
    small.insert("b", 3).await;
    assert_eq!(small.published("b", 3).await, [2, 3]);
    stop(relay).await;
}

#[tokio::test]
async fn what_only_the_broker_refuses_parks_too() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("old");
    let topic = format!("outbox.event.{kind}");
    outbox.kafka.create_topic(&topic, 1, &[("message.timestamp.before.max.ms", "10")]).await;
    let small = Small { outbox, kind, topic };
    for (key, n) in [("a", 1), ("a", 2), ("b", 1)] {
        small.insert(key, n).await;
    }
    let other = unique("young");
    small.outbox.insert(&other, "1", "{}").await;
    // Kept for a while, a record is too old for the topic.
    let mut relay = small.outbox.relay(&["-X", "linger.ms=100"], &[DEAD_LETTER]).await;
    relay.wait_ready().await;
    small.letters(3).await;
    small.confirmed().await;
    assert_eq!(small.outbox.topic(&other).read_count(1).await.len(), 1);
    let sql = "select string_agg(reason, ' ' order by commit_lsn) from txstream_dead_letter";
    let reasons: String = small.outbox.database.value(sql).await;
    assert_eq!(reasons, "invalid behind invalid");
    small.alter("message.timestamp.before.max.ms", "100000000000").await;
    small.done(&["replay", "--all", "--yes"]).await;
    small.insert("a", 3).await;
    assert_eq!(small.published("a", 4).await, [1, 2, 3]);
    stop(relay).await;
}

#[tokio::test]
async fn a_record_that_failed_too_often_parks_and_an_outage_parks_nothing() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("missing");
    let small = Small { topic: format!("outbox.event.{kind}"), outbox, kind };
    small.insert("a", 1).await;
    small.insert("a", 2).await;
    let env = [DEAD_LETTER, ("KAFKA_MAX_RETRIES", "2"), ("KAFKA_BASE_DELAY", "50ms")];
    // Nothing answers there: that is an outage, whatever the bound.
    let silent =
        [&env[..], &[("KAFKA_BROKERS", "127.0.0.1:1"), ("KAFKA_TIMEOUT_DURATION", "200ms")]].concat();
    let relay = small.outbox.relay(&[], &silent).await;
    eventually(SOON, "the breaker opens", async || {
        let state = http::get(relay.admin(), "/metrics").await.ok()?.body;
        state.contains("txstream_circuit_breaker_state 2").then_some(())
    })
    .await;
    relay.kill9().await;
    small.letters(0).await;

    let soon = ["-X", "allow.auto.create.topics=false", "-X", "topic.metadata.propagation.max.ms=100"];
    let mut relay = small.outbox.relay(&soon, &env).await;
    relay.wait_ready().await;
    small.letters(2).await;
    small.confirmed().await;
    let sql = "select string_agg(reason, ' ' order by commit_lsn) from txstream_dead_letter";
    let reasons: String = small.outbox.database.value(sql).await;
    assert_eq!(reasons, "retries behind");
    small.outbox.kafka.create_topic(&small.topic, 1, &[]).await;
    small.done(&["replay", "--all", "--yes"]).await;
    assert_eq!(small.published("a", 2).await, [1, 2]);
    stop(relay).await;
}

#[tokio::test]
async fn the_standbys_of_a_failover_slot_have_a_letter_before_it_counts() {
    let postgres = Postgres::start(18, &[]).await;
    let client = postgres.database().await.client().await;
    client
        .batch_execute("select pg_create_physical_replication_slot('standby', true); create table t()")
        .await
        .unwrap();
    let position = store::wal_position(&client).await.unwrap();
    assert!(store::standbys_have(&client, position).await.unwrap(), "none is named");
    client.batch_execute("alter system set synchronized_standby_slots = 'standby'").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    eventually(SOON, "the standby is waited for", async || {
        (!store::standbys_have(&client, position).await.unwrap()).then_some(())
    })
    .await;
    // What is committed is flushed, and a little more than the position.
    client.batch_execute("create table u()").await.unwrap();
    let advance = format!("select pg_replication_slot_advance('standby', '{position}')");
    client.batch_execute(&advance).await.unwrap();
    assert!(store::standbys_have(&client, position).await.unwrap(), "it has the WAL now");
}

#[tokio::test]
async fn a_letter_discarded_while_the_standbys_lack_it_does_not_come_again() {
    let postgres = Postgres::start(18, &[("synchronized_standby_slots", "standby")]).await;
    let small = Small::on(Outbox::migrated_on(&postgres).await).await;
    let database = &small.outbox.database;
    database.exec("select pg_create_physical_replication_slot('standby', true)").await;
    small.outbox.done(&["slot", "create", "--failover"]).await;
    let relay = small.relay().await;
    small.insert_large("k", 1).await;
    // The standby has the row, and not what is written from now on.
    let reaches = "select pg_replication_slot_advance('standby', pg_current_wal_flush_lsn())";
    database.exec(reaches).await;
    small.letters(1).await;
    let waits =
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
                    and query like '%synchronized_standby_slots%' and backend_type = 'client backend'";
    let client = database.client().await;
    let looked = async || (client.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(());
    eventually(SOON, "the letter waits for the standby", looked).await;
    small.done(&["discard", "--all", "--yes"]).await;
    small.letters(0).await;
    // Whatever interrupts the wait, here the end of its session, stores nothing again.
    let end = waits.replace("count(*)", "count(pg_terminate_backend(pid, 5000))");
    assert_eq!(client.query_one(&end, &[]).await.unwrap().get::<_, i64>(0), 1);
    eventually(SOON, "it waits again", looked).await;
    database.exec(reaches).await;
    eventually(SOON, "the letter counts as stored", async || {
        let parked = [("status", "parked"), ("event_type", "Tested")];
        let metrics = relay.metrics().await;
        (metrics.get("txstream_events_processed_total", &parked) == Some(1.0)).then_some(())
    })
    .await;
    small.letters(0).await;
    stop(relay).await;
}

#[tokio::test]
async fn a_backfill_parks_too_and_its_letters_stand_before_what_the_slot_brings() {
    let outbox = Outbox::migrated().await;
    let kind = unique("backfilled");
    let topic = format!("outbox.event.{kind}");
    outbox.kafka.create_topic(&topic, 3, &[("max.message.bytes", "2000")]).await;
    let small = Small { outbox, kind, topic };
    small.insert_large("k", 1).await;
    small.insert("k", 2).await;
    small.insert("free", 1).await;
    let url = small.outbox.database.url();
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("REPLICATION_SLOT", small.outbox.slot()),
        ("KAFKA_BROKERS", small.outbox.kafka.bootstrap()),
        DEAD_LETTER,
    ];
    let said = run_cli(&["slot", "create", "--backfill", "--lock-timeout", "30s"], &env).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    small.letters(2).await;
    assert_eq!(small.published("free", 1).await, [1]);
    let relay = small.relay().await;
    small.insert("k", 3).await;
    small.letters(3).await;
    small.raise_limit().await;
    small.done(&["replay", "--all", "--yes"]).await;
    assert_eq!(small.published("k", 4).await, [1, 2, 3]);
    stop(relay).await;
}

#[tokio::test]
async fn letters_of_a_backfill_stand_behind_those_of_the_slot_before() {
    let small = Small::new().await;
    let relay = small.relay().await;
    small.insert_large("k", 1).await;
    small.letters(1).await;
    small.confirmed().await;
    stop(relay).await;
    small.insert("k", 2).await;
    let args = ["slot", "reset", "--backfill", "--yes", "--lock-timeout", "30s"];
    let said = small.outbox.publishing(&args, &[DEAD_LETTER]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    small.raise_limit().await;
    small.done(&["replay", "--all", "--yes"]).await;
    small.letters(0).await;
    let mut numbers = small.published("k", 2).await;
    // What was confirmed may be offered again.
    assert_eq!(numbers.first(), Some(&1), "{numbers:?}");
    numbers.retain(|n| *n == 2);
    assert_eq!(numbers.len(), 1, "{numbers:?}");
}

//! `verify` tells what is missing, duplicated or out of order, and claims nothing that it cannot prove.

use rdkafka::ClientConfig;
use rdkafka::admin::AdminOptions;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::support::relay::Output;
use crate::support::wait::SOON;
use crate::support::{Direction, Outbox, Postgres, Proxy, Relay, eventually, published, run_cli, unique};

/// `txstream verify` with the settings of an outbox; `env` wins.
pub(crate) async fn verify(outbox: &Outbox, args: &[&str], env: &[(&str, &str)]) -> Output {
    let url = outbox.database.url();
    let mut all = vec![
        ("DATABASE_URL", url.as_str()),
        ("REPLICATION_SLOT", outbox.slot()),
        ("KAFKA_BROKERS", outbox.kafka.bootstrap()),
    ];
    all.extend_from_slice(env);
    run_cli(&[&["verify"], args].concat(), &all).await
}

/// The report, which must come with this exit code.
pub(crate) async fn report(outbox: &Outbox, args: &[&str], env: &[(&str, &str)], code: i32) -> Value {
    let said = verify(outbox, &[args, &["--output", "json"]].concat(), env).await;
    assert_eq!(said.code, Some(code), "{}{}", said.stdout, said.stderr);
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", said.stderr))
}

/// Asserts some numbers of a report, or of one of its tables.
pub(crate) fn says(report: &Value, numbers: &[(&str, u64)]) {
    for (name, number) in numbers {
        assert_eq!(report[name], *number, "{name} in {report:#}");
    }
}

/// Commits rows of an aggregate type, with so many keys in turn.
pub(crate) async fn insert(outbox: &Outbox, kind: &str, rows: u32, keys: u32) {
    outbox
        .database
        .exec(&format!(
            "insert into outbox (aggregatetype, aggregateid, type, payload)
                 select '{kind}', (n % {keys})::text, 'T', '{{}}' from generate_series(1, {rows}) n"
        ))
        .await;
}

pub(crate) async fn stop(relay: Relay) {
    relay.sigterm().await;
    assert_eq!(relay.wait_exit(SOON).await.status.code(), Some(0));
}

/// Moves the slot past everything, as a person might, and lets a relay begin there.
pub(crate) async fn skip(outbox: &Outbox) {
    let slot = outbox.slot();
    outbox
        .database
        .exec(&format!(
            "select pg_replication_slot_advance('{slot}', pg_current_wal_lsn());
             delete from txstream_checkpoint where slot = '{slot}'"
        ))
        .await;
}

/// Writes records with these ids, as nobody but a test would.
async fn produce(outbox: &Outbox, topic: &str, key: &str, ids: &[String]) {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", outbox.kafka.bootstrap()).create().unwrap();
    for id in ids {
        let headers = OwnedHeaders::new().insert(Header { key: "id", value: Some(id) });
        let record = FutureRecord::to(topic).key(key).payload("{}").headers(headers);
        producer.send(record, SOON).await.expect("produce");
    }
}

#[tokio::test]
async fn when_every_row_arrived_once_it_says_so_and_leaves_no_trace_in_kafka() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    let kinds = [unique("verified"), unique("verified")];
    for kind in &kinds {
        insert(&outbox, kind, 500, 7).await;
    }
    published(&relay, 1001).await;
    let group = unique("verifier");
    let found = report(&outbox, &["--wait", "30s"], &[("KAFKA_GROUP_ID", &group)], 0).await;
    let good = [("rows", 1001), ("found", 1001), ("missing", 0), ("duplicates", 0), ("out_of_order", 0)];
    says(&found, &good);
    says(&found["tables"][0], &good);
    says(&found, &[("not_confirmed", 0), ("expired", 0), ("parked", 0), ("passes", 1)]);
    assert_eq!(found["all_confirmed"], true, "{found:#}");
    assert_eq!(found["slot_name"], outbox.slot());
    let topics = found["topics"].as_array().unwrap();
    for kind in &kinds {
        let topic = topics.iter().find(|topic| topic["topic"] == format!("outbox.event.{kind}")).unwrap();
        says(topic, &[("records", 500), ("records_without_row", 0)]);
    }

    let said = verify(&outbox, &["--wait", "30s"], &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stdout.contains("public.outbox") && said.stdout.contains("1001"), "{}", said.stdout);
    assert!(said.stdout.contains("order not judged of 1001 records"), "{}", said.stdout);

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", outbox.kafka.bootstrap())
        .set("group.id", &group)
        .create()
        .unwrap();
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition_range(&format!("outbox.event.{}", kinds[0]), 0, 5);
    let committed = consumer.committed_offsets(wanted, SOON).unwrap();
    assert!(committed.elements().iter().all(|part| part.offset() == Offset::Invalid), "{committed:?}");
    let groups = consumer.fetch_group_list(Some(&group), SOON).unwrap();
    let members: usize = groups.groups().iter().map(|group| group.members().len()).sum();
    assert_eq!(members, 0, "nobody joined");
}

#[tokio::test]
async fn a_row_on_its_way_is_not_confirmed_and_one_that_was_skipped_is_missing() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("skipped");
    stop(outbox.streaming(&[], &[]).await).await;
    insert(&outbox, &kind, 30, 3).await;

    let found = report(&outbox, &[], &[], 0).await;
    says(&found, &[("rows", 31), ("not_confirmed", 30), ("missing", 0)]);
    assert_eq!(found["all_confirmed"], false);
    let said = verify(&outbox, &[], &[]).await;
    assert!(said.stdout.contains("not yet confirmed: 30 rows"), "{}", said.stdout);

    skip(&outbox).await;
    let relay = outbox.streaming(&[], &[]).await;
    let found = report(&outbox, &["--wait", "30s"], &[], 1).await;
    says(&found, &[("rows", 32), ("found", 2), ("missing", 30), ("not_confirmed", 0)]);
    let named = found["missing_rows"].as_array().unwrap();
    assert_eq!(named.len(), 20, "not all of them are named");
    let known = outbox.database.query("select id::text from outbox where type = 'T'").await;
    let known: Vec<String> = known.iter().map(|row| row.get(0)).collect();
    assert!(named.iter().all(|row| known.iter().any(|id| row["id"] == *id)), "{named:?}");
    let topic = format!("outbox.event.{kind}");
    let of = found["topics"].as_array().unwrap().iter().find(|of| of["topic"] == topic).unwrap();
    assert_eq!(of["exists"], false, "asking for a topic does not make it");

    let said = verify(&outbox, &["--wait", "30s"], &[]).await;
    for part in [&named[0]["table"], &Value::from("and 10 more"), &Value::from("does not exist")] {
        assert!(said.stdout.contains(part.as_str().unwrap()), "{part} is missing: {}", said.stdout);
    }
    assert!(said.stderr.contains("30 confirmed rows are missing in Kafka"), "{}", said.stderr);
    assert!(said.stderr.contains("docs/runbook.md"), "{}", said.stderr);
    stop(relay).await;
}

#[tokio::test]
async fn what_a_crash_repeats_is_counted_apart_and_is_no_fault() {
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let kind = unique("repeated");
    let proxy = Proxy::to(postgres.port()).await;
    let through = outbox.database.url_through(proxy.port());
    let relay = outbox.streaming(&[], &[("REPLICATION_URL", &through)]).await;
    // What it reports as confirmed no longer arrives.
    proxy.stall(Direction::ToServer);
    insert(&outbox, &kind, 50, 5).await;
    outbox.topic(&kind).read_count(50).await;
    relay.kill9().await;
    proxy.cut();
    let relay = outbox.streaming(&[], &[]).await;
    published(&relay, 51).await;

    let found = report(&outbox, &["--wait", "30s"], &[], 0).await;
    says(&found, &[("rows", 52), ("found", 52), ("missing", 0)]);
    assert!(found["duplicates"].as_u64().unwrap() >= 50, "{found:#}");
    says(&found, &[("out_of_order", 0)]);
    stop(relay).await;
}

#[tokio::test]
async fn disorder_is_claimed_where_commit_timestamps_prove_it_and_only_there() {
    let postgres = Postgres::start(Postgres::default_version(), &[("track_commit_timestamp", "on")]).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let kind = unique("disordered");
    let commit = async |key: &str| -> String {
        outbox
            .database
            .value(&format!(
                "insert into outbox (aggregatetype, aggregateid, type) values ('{kind}', '{key}', 'T') returning id::text"
            ))
            .await
    };
    let apart = async || {
        // The server's own clock is what counts.
        let ms: i64 = 150;
        outbox.database.exec(&format!("select pg_sleep({ms} / 1000.0)")).await;
    };
    let first = commit("k").await;
    apart().await;
    let second = commit("k").await;
    apart().await;
    let third = commit("other").await;
    let topic = format!("outbox.event.{kind}");
    outbox.kafka.create_topic(&topic, 3, &[]).await;
    // Another key in another order is none of theirs, and what comes again comes later on purpose.
    produce(&outbox, &topic, "other", &[third]).await;
    produce(&outbox, &topic, "k", &[second.clone(), first.clone(), second]).await;

    let found = report(&outbox, &[], &[], 1).await;
    says(
        &found,
        &[("rows", 3), ("found", 3), ("duplicates", 1), ("out_of_order", 1), ("order_not_judged", 0)],
    );
    assert_eq!(found["out_of_order_rows"][0]["id"], first, "{found:#}");
    let said = verify(&outbox, &[], &[]).await;
    assert!(said.stderr.contains("1 records are out of order"), "{}", said.stderr);

    // An update gives a row another transaction, and with it another time.
    outbox.database.exec(&format!("update outbox set type = 'U' where id = '{first}'")).await;
    eventually(SOON, "the update is in the statistics", async || {
        let found = verify(&outbox, &["--output", "json"], &[]).await;
        let found: Value = serde_json::from_str(&found.stdout).ok()?;
        (found["out_of_order"] == 0 && found["order_not_judged"] == 3).then_some(())
    })
    .await;
    let said = verify(&outbox, &[], &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stdout.contains("rows of public.outbox were updated"), "{}", said.stdout);
}

#[tokio::test]
async fn what_the_topic_no_longer_has_is_expired_and_not_missing() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    let kind = unique("expiring");
    let mut topic = outbox.kafka.create_topic(&format!("outbox.event.{kind}"), 1, &[]).await;
    for rows in 1..=3 {
        insert(&outbox, &kind, 1, 1).await;
        topic.read_count(rows).await;
    }
    let remove = async |before: Offset| {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic.name(), 0, before).unwrap();
        outbox.kafka.admin().delete_records(&offsets, &AdminOptions::new()).await.unwrap();
    };
    remove(Offset::Offset(2)).await;
    let found = report(&outbox, &["--wait", "30s"], &[], 0).await;
    says(&found, &[("rows", 4), ("found", 2), ("expired", 2), ("missing", 0)]);

    // A row younger than what the topic still has was lost, and so was one in a compacted topic of whose key there
    // is no record at all.
    let compacted = unique("compacted");
    outbox
        .kafka
        .create_topic(&format!("outbox.event.{compacted}"), 1, &[("cleanup.policy", "compact")])
        .await;
    stop(relay).await;
    insert(&outbox, &kind, 1, 1).await;
    insert(&outbox, &compacted, 1, 1).await;
    skip(&outbox).await;
    let relay = outbox.streaming(&[], &[]).await;
    let found = report(&outbox, &["--wait", "30s"], &[], 1).await;
    says(&found, &[("rows", 7), ("found", 3), ("expired", 2), ("missing", 2)]);

    remove(Offset::End).await;
    let found = report(&outbox, &["--wait", "30s"], &[], 1).await;
    says(&found, &[("found", 2), ("expired", 4), ("missing", 1)]);
    let said = verify(&outbox, &["--wait", "30s"], &[]).await;
    assert!(said.stdout.contains("expired: 4 rows"), "{}", said.stdout);
    stop(relay).await;
}

#[tokio::test]
async fn several_tables_are_compared_each_by_its_own_count() {
    let outbox = Outbox::bare().await;
    let tables = [("OUTBOX_TABLE", "outbox,second")];
    outbox
        .database
        .exec(
            "create table second (id bigint, aggregatetype text, aggregateid text, type text, payload text)",
        )
        .await;
    let command = async |args: &[&str]| {
        let url = outbox.database.url();
        let env = [("DATABASE_URL", url.as_str()), ("REPLICATION_SLOT", outbox.slot()), tables[0]];
        let said = run_cli(args, &env).await;
        assert_eq!(said.code, Some(0), "{}", said.stderr);
    };
    command(&["migrate", "up"]).await;
    command(&["slot", "create", "--lock-timeout", "30s"]).await;
    let relay = outbox.streaming(&[], &tables).await;
    let kind = unique("several");
    insert(&outbox, &kind, 10, 3).await;
    outbox
        .database
        .exec(&format!(
            "insert into second select n, '{kind}', n::text, 'T', 'p' from generate_series(1, 5) n"
        ))
        .await;
    published(&relay, 16).await;
    let found = report(&outbox, &["--wait", "30s"], &tables, 0).await;
    says(&found, &[("rows", 16), ("found", 16)]);
    for (table, rows) in [(0, 11), (1, 5)] {
        says(&found["tables"][table], &[("rows", rows), ("found", rows), ("missing", 0)]);
    }
    assert_eq!(found["tables"][1]["table"], "public.second");
    stop(relay).await;
}

#[tokio::test]
async fn the_envelope_preset_and_one_topic_for_all_are_read_as_the_relay_writes_them() {
    let outbox = Outbox::bare().await;
    let topic = unique("enveloped");
    outbox
        .database
        .exec(
            "create table events (id uuid primary key default gen_random_uuid(), aggregate_id text, aggregate_type text,
                                  event_type text, event_data jsonb, created_at timestamptz default now())",
        )
        .await;
    let settings =
        [("OUTBOX_TABLE", "events"), ("OUTBOX_PRESET", "txstream"), ("KAFKA_TOPIC_EVENTS", topic.as_str())];
    let url = outbox.database.url();
    let all =
        [&settings[..], &[("DATABASE_URL", url.as_str()), ("REPLICATION_SLOT", outbox.slot())]].concat();
    for args in [&["migrate", "up"][..], &["slot", "create", "--lock-timeout", "30s"]] {
        let said = run_cli(args, &all).await;
        assert_eq!(said.code, Some(0), "{}", said.stderr);
    }
    let mut relay = outbox.relay(&[], &settings).await;
    relay.wait_ready().await;
    outbox
        .database
        .exec(
            "insert into events (aggregate_id, aggregate_type, event_type, event_data)
                   select n::text, 'a' || n, 'T', '{}' from generate_series(1, 20) n",
        )
        .await;
    published(&relay, 20).await;
    let found = report(&outbox, &["--wait", "30s"], &settings, 0).await;
    says(&found, &[("rows", 20), ("found", 20)]);
    let topics = found["topics"].as_array().unwrap();
    assert_eq!((topics.len(), &topics[0]["topic"]), (1, &Value::from(topic.as_str())));
    stop(relay).await;
}

#[tokio::test]
async fn with_since_only_younger_rows_count_and_a_row_with_a_wrong_clock_is_still_found() {
    let outbox = Outbox::with_slot().await;
    stop(outbox.streaming(&[], &[]).await).await;
    let kind = unique("since");
    let at = async |key: &str, ago: &str| {
        outbox
            .database
            .exec(&format!(
                "insert into outbox (aggregatetype, aggregateid, type, \"timestamp\")
                     values ('{kind}', '{key}', 'T', now() at time zone 'utc' - interval '{ago}')"
            ))
            .await;
    };
    at("lost long ago", "10 days").await;
    at("lost", "6 days").await;
    skip(&outbox).await;
    let relay = outbox.streaming(&[], &[]).await;
    at("of the future", "-3 hours").await;
    published(&relay, 2).await;

    let wait = ["--wait", "30s"];
    let found = report(&outbox, &wait, &[], 1).await;
    says(&found, &[("rows", 5), ("found", 3), ("missing", 2)]);
    let found = report(&outbox, &[&wait[..], &["--since", "7d"]].concat(), &[], 1).await;
    says(&found, &[("rows", 4), ("found", 3), ("missing", 1)]);
    let found = report(&outbox, &[&wait[..], &["--since", "5d"]].concat(), &[], 0).await;
    says(&found, &[("rows", 3), ("found", 3), ("missing", 0)]);

    // Its record was written before the moment that its row names.
    let future: String =
        outbox.database.value("select (now() at time zone 'utc' + interval '1 hour')::text").await;
    let found = report(&outbox, &[&wait[..], &["--since", &future]].concat(), &[], 0).await;
    says(&found, &[("rows", 1), ("found", 1), ("missing", 0)]);
    assert!(found["since"].as_str().unwrap().starts_with(&future[..19]), "{found:#}");
    stop(relay).await;
}

#[tokio::test]
async fn a_table_larger_than_the_memory_is_compared_in_passes_with_the_same_result() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("passes");
    stop(outbox.streaming(&[], &[]).await).await;
    insert(&outbox, &kind, 3, 3).await;
    skip(&outbox).await;
    let relay = outbox.streaming(&[], &[]).await;
    insert(&outbox, &kind, 2_000, 400).await;
    published(&relay, 2_001).await;
    let ids = outbox.database.query("select id::text from outbox where aggregateid = '7' limit 2").await;
    let ids: Vec<String> = ids.iter().map(|row| row.get(0)).collect();
    produce(&outbox, &format!("outbox.event.{kind}"), "7", &ids).await;

    let numbers = [("rows", 2_005), ("found", 2_002), ("missing", 3), ("duplicates", 2)];
    let wait = ["--wait", "30s"];
    let whole = report(&outbox, &wait, &[], 1).await;
    says(&whole, &numbers);
    let parts = report(&outbox, &[&wait[..], &["--rows-per-pass", "300"]].concat(), &[], 1).await;
    says(&parts, &numbers);
    assert!(parts["passes"].as_u64().unwrap() > 6, "{parts:#}");
    for at in 0..2 {
        let topic = &whole["topics"][at];
        if topic["topic"] == format!("outbox.event.{kind}") {
            says(topic, &[("records", 2_002), ("records_without_row", 0)]);
            assert_eq!(topic, &parts["topics"][at]);
        }
    }

    // One key alone is too large: the order cannot be judged, and everything else can.
    let hot = unique("hot");
    insert(&outbox, &hot, 400, 1).await;
    published(&relay, 2_401).await;
    let parts = report(&outbox, &[&wait[..], &["--rows-per-pass", "300"]].concat(), &[], 1).await;
    says(&parts, &[("rows", 2_405), ("found", 2_402), ("missing", 3), ("duplicates", 2)]);
    let reasons = parts["order_not_judged_reasons"].to_string();
    assert!(reasons.contains("do not fit into one pass"), "{reasons}");
    stop(relay).await;
}

#[tokio::test]
async fn a_parked_row_is_not_missing_and_a_discarded_one_is() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("parked");
    let topic = format!("outbox.event.{kind}");
    outbox.kafka.create_topic(&topic, 1, &[("max.message.bytes", "2000")]).await;
    let relay = outbox.streaming(&[], &[("WORKER_ON_REJECT", "dead-letter")]).await;
    // Too large, a later one of its key, one of another key, and one that no topic can take.
    outbox.insert(&kind, "1", &format!("{{\"large\": \"{}\"}}", "x".repeat(5_000))).await;
    outbox.insert(&kind, "1", "{}").await;
    outbox.insert(&kind, "2", "{}").await;
    outbox.insert("no name of a topic", "3", "{}").await;
    published(&relay, 2).await;

    let found = report(&outbox, &["--wait", "30s"], &[], 0).await;
    says(&found, &[("rows", 5), ("found", 2), ("parked", 3), ("missing", 0), ("not_confirmed", 0)]);

    // Who may not see what is parked calls nothing missing.
    let role = format!("nearly_{}", outbox.slot());
    outbox
        .database
        .exec(&format!(
            "create role {role} login password 'p'; grant select on outbox, txstream_checkpoint to {role}"
        ))
        .await;
    let url = outbox.database.url().replace("postgres:postgres@", &format!("{role}:p@"));
    let env = [("DATABASE_URL", url.as_str())];
    let said = verify(&outbox, &["--wait", "30s"], &env).await;
    let grant = format!("GRANT SELECT ON public.txstream_dead_letter TO \"{role}\";");
    assert!(said.code == Some(1) && said.stderr.contains(&grant), "{}", said.stderr);
    assert_eq!(said.stdout, "");
    outbox.database.exec(&grant).await;
    let found = report(&outbox, &["--wait", "30s"], &env, 0).await;
    says(&found, &[("found", 2), ("parked", 3), ("missing", 0)]);
    outbox.database.exec(&format!("drop owned by {role}; drop role {role}")).await;

    outbox.done(&["dead-letter", "discard", "--all", "--yes"]).await;
    let found = report(&outbox, &["--wait", "30s"], &[], 1).await;
    says(&found, &[("rows", 5), ("found", 2), ("parked", 0), ("missing", 3)]);
    stop(relay).await;
}

#[tokio::test]
async fn what_cannot_be_compared_is_refused_with_what_to_do() {
    let outbox = Outbox::with_slot().await;
    for (args, part) in [
        (&["--since", "yesterday"][..], "--since"),
        (&["--since", "2026-13-45"], "--since"),
        (&["--since", "99999999d"], "--since"),
        (&["--rows-per-pass", "0"], "--rows-per-pass"),
        (&["--wait", "30"], "--wait"),
        (&["--output", "xml"], "--output"),
    ] {
        let said = verify(&outbox, args, &[]).await;
        assert_eq!(said.code, Some(64), "{args:?}: {}", said.stderr);
        assert!(said.stderr.contains(part), "{args:?}: {}", said.stderr);
    }
    let elsewhere = Postgres::shared().await.database().await;
    let elsewhere = elsewhere.url();
    outbox.insert(&unique("unread"), "1", "{}").await;
    for (env, parts) in [
        (("OUTBOX_TABLE", "missing"), &["public.missing does not exist", "migrate up"][..]),
        (("OUTBOX_TABLE", "txstream_checkpoint"), &["has no column", "OUTBOX_TABLE"]),
        (("REPLICATION_URL", elsewhere.as_str()), &["DATABASE_URL leads to", "same database"]),
        (("KAFKA_BROKERS", "127.0.0.1:1"), &["KAFKA_BROKERS"]),
    ] {
        let said = verify(&outbox, &[], &[env]).await;
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{env:?}: {}", said.stderr);
        assert!(parts.iter().all(|part| said.stderr.contains(part)), "{env:?}: {}", said.stderr);
    }

    let role = format!("blind_{}", outbox.slot());
    outbox.database.exec(&format!("create role {role} login password 'p'")).await;
    let url = outbox.database.url();
    let blind = url.replace("postgres:postgres@", &format!("{role}:p@"));
    let env = [("DATABASE_URL", blind.as_str()), ("REPLICATION_URL", url.as_str())];
    let said = verify(&outbox, &[], &env).await;
    let grant = format!("GRANT SELECT ON \"public\".\"outbox\" TO \"{role}\";");
    assert!(said.code == Some(1) && said.stderr.contains(&grant), "{}", said.stderr);
    outbox.database.exec(&grant).await;
    let said = verify(&outbox, &[], &env).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    outbox.database.exec(&format!("drop owned by {role}; drop role {role}")).await;
}

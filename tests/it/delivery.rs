//! A committed row becomes exactly the promised record; what is not committed becomes none.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Client;

use crate::load::Outbox;
use crate::support::wait::SOON;
use crate::support::{Kafka, Postgres, Record, Topic, eventually, unique};

/// The columns of preset `debezium` and nothing else, the payload of the type given.
fn table(name: &str, payload: &str) -> String {
    format!(
        "create table {name} (id uuid primary key default gen_random_uuid(), aggregatetype text not null,
             aggregateid text not null, type text not null, payload {payload}, headers jsonb)"
    )
}

/// Waits for `count` records and for the slot to have confirmed everything: there are no more.
async fn exactly<'a>(outbox: &Outbox, topic: &'a mut Topic, count: usize) -> &'a [Record] {
    topic.read_count(count).await;
    outbox.confirmed().await;
    let records = topic.read_to_end().await;
    assert_eq!(records.len(), count, "records of {records:#?}");
    records
}

fn values(records: &[Record]) -> Vec<&str> {
    records.iter().map(Record::value_text).collect()
}

fn headers(record: &Record) -> Vec<(&str, Option<&str>)> {
    let text = |bytes: &'_ Vec<u8>| -> &'static str {
        // Leaked in a test, so that comparing needs no owned strings.
        Box::leak(String::from_utf8(bytes.clone()).unwrap().into_boxed_str())
    };
    record.headers.iter().map(|(name, value)| (name.as_str(), value.as_ref().map(text))).collect()
}

#[tokio::test]
async fn a_row_becomes_a_record_with_the_promised_topic_key_value_and_headers() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    outbox.database.exec("alter table outbox add tenant text").await;
    let placement = ("OUTBOX_PLACEMENT", "type:header:eventType,tenant:header");
    let _relay = outbox.relay(kafka.bootstrap(), &[placement]).await;
    let kind = &outbox.aggregate_type;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    outbox
        .database
        .exec(&format!(
            r#"insert into outbox (id, aggregatetype, aggregateid, type, payload, headers, tracingspancontext, tenant)
               values ('0b8e6f3c-1c77-4b1e-a1ce-6a1e12d0a001', '{kind}', 'Aggregate 7', 'Created',
                       '{{"b": 1.50, "a": [1,{{"x":null}}], "n": 12345678901234567890123, "s": "h\u00e9 \u2603"}}',
                       '{{"source": "shop", "attempt": 1, "none": null, "nested": {{"a": [1, 2]}}, "id": "other"}}',
                       E'#comment\ntraceparent={trace}\n', 'blue')"#
        ))
        .await;
    let mut topic = kafka.topic(&format!("outbox.event.{kind}"));
    let printed: String = outbox.database.value("select payload::text from outbox").await;
    let [record] = exactly(&outbox, &mut topic, 1).await else { panic!("one") };
    assert_eq!(record.key_text(), "Aggregate 7");
    assert_eq!(record.value_text(), printed, "byte for byte as Postgres prints it");
    assert!(printed.contains("12345678901234567890123") && printed.contains("1.50"), "{printed}");
    let headers = headers(record);
    assert_eq!(headers[0], ("id", Some("0b8e6f3c-1c77-4b1e-a1ce-6a1e12d0a001")));
    assert_eq!(
        headers[1..].iter().copied().collect::<BTreeSet<_>>(),
        BTreeSet::from([
            ("attempt", Some("1")),
            ("eventType", Some("Created")),
            ("nested", Some(r#"{"a": [1, 2]}"#)),
            ("none", None),
            ("source", Some("shop")),
            ("tenant", Some("blue")),
            ("traceparent", Some(trace)),
        ])
    );
    assert_eq!(headers.len(), 8, "an entry called id is the row's own");
    assert_eq!(headers[6..], [("eventType", Some("Created")), ("tenant", Some("blue"))], "placement is last");
}

#[tokio::test]
async fn a_null_payload_is_a_record_without_value_and_an_empty_aggregate_an_empty_key() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let kind = &outbox.aggregate_type;
    outbox
        .database
        .exec(&format!("insert into outbox (aggregatetype, aggregateid, type) values ('{kind}', '', 'Gone')"))
        .await;
    let mut topic = outbox.topic(kafka);
    let [record] = exactly(&outbox, &mut topic, 1).await else { panic!("one") };
    assert_eq!((record.value.as_ref(), record.key.as_deref()), (None, Some(&b""[..])));
}

#[tokio::test]
async fn bytea_comes_raw_and_text_and_json_as_they_were_stored() {
    let kafka = Kafka::shared().await;
    let database = Postgres::shared().await.database().await;
    for (name, payload) in [("blobs", "bytea"), ("texts", "text"), ("jsons", "json"), ("names", "varchar")] {
        database.exec(&table(name, payload)).await;
    }
    let outbox = Outbox::with(database, &[("OUTBOX_TABLE", "blobs,texts,jsons,names")]).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let kind = &outbox.aggregate_type;
    let spaced = r#"{ "b" : 1,"a":2, "b":3 }"#;
    let unicode = "żółć ☃ 🦀 \t\n end ";
    for (name, payload) in [
        ("blobs", r"decode('0001ff5c00', 'hex')".to_owned()),
        ("texts", format!("'{unicode}'")),
        ("jsons", format!("'{spaced}'")),
        ("names", "''".to_owned()),
    ] {
        let insert = format!("insert into {name} (aggregatetype, aggregateid, type, payload)");
        outbox.database.exec(&format!("{insert} values ('{kind}', '{name}', 'T', {payload})")).await;
    }
    let mut topic = outbox.topic(kafka);
    let records = exactly(&outbox, &mut topic, 4).await;
    let value = |key: &str| {
        let record = records.iter().find(|record| record.key_text() == key).unwrap();
        record.value.as_deref().unwrap()
    };
    assert_eq!(value("blobs"), b"\x00\x01\xff\x5c\x00");
    assert_eq!(value("texts"), unicode.as_bytes());
    assert_eq!(value("jsons"), spaced.as_bytes());
    assert_eq!(value("names"), b"");
}

#[tokio::test]
async fn one_topic_takes_all_events_where_it_is_set() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let name = unique("all.events");
    let _relay = outbox.relay(kafka.bootstrap(), &[("KAFKA_TOPIC_EVENTS", &name)]).await;
    let insert = "insert into outbox (aggregatetype, aggregateid, type, payload)";
    outbox
        .database
        .exec(&format!("{insert} values ('A', '1', 'T', '1'), ('not a topic!', '1', 'T', '2')"))
        .await;
    let mut topic = kafka.topic(&name);
    assert_eq!(values(exactly(&outbox, &mut topic, 2).await), ["1", "2"]);
}

#[tokio::test]
async fn the_ancestors_table_becomes_its_envelope() {
    let kafka = Kafka::shared().await;
    let database = Postgres::shared().await.database().await;
    database
        .exec(
            "create table outbox (id uuid primary key, aggregate_id text, aggregate_type text, event_type text,
                 event_data jsonb, event_metadata jsonb, status text, created_at timestamptz)",
        )
        .await;
    let topic = unique("envelopes");
    let settings = [("OUTBOX_PRESET", "txstream"), ("KAFKA_TOPIC_EVENTS", &topic)];
    let outbox = Outbox::with(database, &settings).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let id = "0b8e6f3c-1c77-4b1e-a1ce-6a1e12d0a002";
    outbox
        .database
        .exec(&format!(
            r#"insert into outbox values ('{id}', 'o-1', 'order', 'OrderCreated', '{{"total": 9.90}}',
                   '{{"user": 7}}', 'pending', '2024-05-06 07:08:09.5+02')"#
        ))
        .await;
    // The ancestor marks its rows: that is no event.
    outbox.database.exec("update outbox set status = 'published'").await;
    let mut topic = kafka.topic(&topic);
    let [record] = exactly(&outbox, &mut topic, 1).await else { panic!("one") };
    assert_eq!(record.key_text(), "o-1");
    assert_eq!(
        record.value_text(),
        format!(
            r#"{{"event_id":"{id}","aggregate_id":"o-1","aggregate_type":"order","event_type":"OrderCreated","event_data":{{"total": 9.90}},"created_at":"2024-05-06T05:08:09Z","event_metadata":{{"user": 7}}}}"#
        )
    );
    assert_eq!(
        headers(record),
        [
            ("id", Some(id)),
            ("event_id", Some(id)),
            ("event_type", Some("OrderCreated")),
            ("aggregate_type", Some("order")),
        ]
    );
}

/// `count` rows of key `k` with places from `first`, each with some ballast.
fn rows(kind: &str, first: u32, count: u32) -> String {
    let last = first + count - 1;
    format!(
        "insert into outbox (aggregatetype, aggregateid, type, payload)
             select '{kind}', 'k', 'T', jsonb_build_object('n', n, 'ballast', repeat('x', 300))
             from generate_series({first}, {last}) n"
    )
}

#[tokio::test]
async fn rows_rolled_back_to_a_savepoint_never_appear_and_505_committed_ones_do() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let name = outbox.database.name();
    // The server spills the transaction to disk, and with a newer protocol would stream it open.
    outbox.database.exec(&format!("alter database {name} set logical_decoding_work_mem = '64kB'")).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let kind = &outbox.aggregate_type;
    let (kept, undone, last) = (rows(kind, 1, 500), rows(kind, 501, 500), rows(kind, 1001, 5));
    outbox
        .database
        .exec(&format!("begin; {kept}; savepoint s; {undone}; rollback to s; {last}; commit"))
        .await;
    let mut topic = outbox.topic(kafka);
    exactly(&outbox, &mut topic, 505).await;
    assert_eq!(outbox.all_arrive(&mut topic).await.rows, 505, "in their order too");
}

#[tokio::test]
async fn rolled_back_transactions_never_appear_and_released_savepoints_do() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let kind = &outbox.aggregate_type;
    let row = |n| rows(kind, n, 1);
    let undone = format!("begin; {}; rollback", row(1));
    let caught = format!(
        "do $$ begin begin {}; raise exception 'x'; exception when others then null; end; end $$",
        row(2)
    );
    let nested = format!(
        "begin; savepoint a; {}; savepoint b; {}; release b; release a; savepoint c; {}; rollback to c; commit",
        row(3),
        row(4),
        row(5)
    );
    for sql in [undone, caught, nested] {
        outbox.database.exec(&sql).await;
    }
    let mut topic = outbox.topic(kafka);
    exactly(&outbox, &mut topic, 2).await;
    assert_eq!(outbox.all_arrive(&mut topic).await.rows, 2);
}

#[tokio::test]
async fn a_row_deleted_in_its_own_transaction_is_published() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let insert = rows(&outbox.aggregate_type, 1, 3);
    outbox.database.exec(&format!("begin; {insert}; delete from outbox; commit")).await;
    let mut topic = outbox.topic(kafka);
    exactly(&outbox, &mut topic, 3).await;
    assert_eq!(outbox.database.value::<i64>("select count(*) from outbox").await, 0);
}

#[tokio::test]
async fn update_delete_and_truncate_make_no_record() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let mut relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let kind = &outbox.aggregate_type;
    outbox.database.exec(&rows(kind, 1, 2)).await;
    outbox.database.exec("update outbox set payload = '{\"n\": 7}'").await;
    outbox.database.exec("delete from outbox where payload->>'n' = '7'").await;
    outbox.database.exec(&rows(kind, 3, 1)).await;
    outbox.database.exec("truncate outbox").await;
    outbox.database.exec(&rows(kind, 4, 1)).await;
    let mut topic = outbox.topic(kafka);
    exactly(&outbox, &mut topic, 4).await;
    assert!(relay.is_running());
}

#[tokio::test]
async fn copy_of_a_thousand_rows_brings_each_once_and_in_order() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let client = outbox.database.client().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows");
    let lines = (1..=1000).map(|n| format!("{}\tkey-{}\tT\t{{\"n\": {n}}}\n", outbox.aggregate_type, n % 7));
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    open_to_all(dir.path(), &file);
    client
        .batch_execute(&format!(
            "copy outbox (aggregatetype, aggregateid, type, payload) from '{}'",
            file.display()
        ))
        .await
        .unwrap();
    let mut topic = outbox.topic(kafka);
    exactly(&outbox, &mut topic, 1000).await;
    assert_eq!(outbox.all_arrive(&mut topic).await.duplicates, 0);
}

/// The server runs as another user when the tests run as root.
fn open_to_all(dir: &std::path::Path, file: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
}

#[tokio::test]
async fn several_tables_are_read_whatever_their_names() {
    let kafka = Kafka::shared().await;
    let database = Postgres::shared().await.database().await;
    database.exec("create schema \"My Schema\"; create schema app").await;
    let tables = [r#""My Schema"."Out.Box""#, r#"app."it""s \ 'mine'""#, r"app.Plain", r#""OUTBOX""#];
    for name in tables {
        database.exec(&table(name, "jsonb")).await;
    }
    database.exec(&table(r#""My Schema"."out.box""#, "jsonb")).await;
    let outbox = Outbox::with(database, &[("OUTBOX_TABLE", &tables.join(", "))]).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let kind = &outbox.aggregate_type;
    for (n, name) in tables.iter().chain(&[r#""My Schema"."out.box""#]).enumerate() {
        let insert = format!("insert into {name} (aggregatetype, aggregateid, type, payload)");
        outbox.database.exec(&format!("{insert} values ('{kind}', 'k', 'T', '{n}')")).await;
    }
    let mut topic = outbox.topic(kafka);
    let records = exactly(&outbox, &mut topic, 4).await;
    assert_eq!(values(records), ["0", "1", "2", "3"], "of four tables, the fifth is not an outbox");
}

async fn begin(outbox: &Outbox) -> Client {
    let client = outbox.database.client().await;
    client.batch_execute("begin").await.unwrap();
    client
}

#[tokio::test]
async fn interleaved_transactions_come_in_the_order_of_their_commits() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let kind = &outbox.aggregate_type;
    let (first, second, third) = (begin(&outbox).await, begin(&outbox).await, begin(&outbox).await);
    // The place of a row is the place of its commit: the first to begin is the last to commit.
    for (client, places) in [(&first, 31), (&second, 11), (&third, 21)] {
        client.batch_execute(&rows(kind, places, 1)).await.unwrap();
    }
    for (client, places) in [(&third, 22), (&first, 32), (&second, 12)] {
        client.batch_execute(&rows(kind, places, 1)).await.unwrap();
    }
    for client in [&second, &third, &first] {
        client.batch_execute("commit").await.unwrap();
    }
    let mut topic = outbox.topic(kafka);
    exactly(&outbox, &mut topic, 6).await;
    assert_eq!(outbox.all_arrive(&mut topic).await.duplicates, 0);
}

#[tokio::test]
async fn a_payload_of_900_kb_arrives_whole() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    outbox
        .database
        .exec(&format!(
            "insert into outbox (aggregatetype, aggregateid, type, payload)
                 select '{}', 'k', 'T', jsonb_build_object('n', 1, 'big', string_agg(md5(i::text), ''))
                 from generate_series(1, 28125) i",
            outbox.aggregate_type
        ))
        .await;
    let mut topic = outbox.topic(kafka);
    assert!(exactly(&outbox, &mut topic, 1).await[0].value_text().len() > 900_000);
    outbox.all_arrive(&mut topic).await;
}

#[tokio::test]
async fn a_column_added_while_streaming_changes_no_record() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let kind = &outbox.aggregate_type;
    outbox.database.exec(&rows(kind, 1, 2)).await;
    let mut topic = outbox.topic(kafka);
    topic.read_count(2).await;
    outbox.database.exec("alter table outbox add shard int default 3, drop column tracingspancontext").await;
    outbox.database.exec(&rows(kind, 3, 2)).await;
    outbox
        .database
        .exec(&format!(
            "begin; {}; alter table outbox add price numeric; {}; commit",
            rows(kind, 5, 1),
            rows(kind, 6, 1)
        ))
        .await;
    exactly(&outbox, &mut topic, 6).await;
    assert_eq!(outbox.all_arrive(&mut topic).await.duplicates, 0);
}

#[tokio::test]
async fn a_key_goes_to_the_partition_of_the_java_client() {
    // What Java's DefaultPartitioner computes, from its own test vectors.
    let hashes = [
        ("21", -973_932_308_i32),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ];
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let mut topic = kafka.create_topic(&outbox.topic_name(), 17, &[]).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    for (key, _) in hashes {
        outbox.insert(key, 1).await;
    }
    let records = exactly(&outbox, &mut topic, hashes.len()).await;
    for (key, hash) in hashes {
        let record = records.iter().find(|record| record.key_text() == key).unwrap();
        assert_eq!(record.partition, (hash & 0x7fff_ffff) % 17, "{key}");
    }
}

#[tokio::test]
async fn partitions_are_attached_and_dropped_under_load_and_no_row_is_lost() {
    const PARTITIONS: u32 = 8;
    let kafka = Kafka::shared().await;
    let database = Postgres::shared().await.database().await;
    database
        .exec(
            "create table outbox (id uuid default gen_random_uuid(), day int not null, aggregatetype text not null,
                 aggregateid text not null, type text not null, payload jsonb, primary key (id, day))
                 partition by list (day);
             create table outbox_0 partition of outbox for values in (0)",
        )
        .await;
    let outbox = Outbox::with(database, &[]).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let (day, mut days) = tokio::sync::watch::channel(0_u32);
    let (client, kind) = (outbox.database.client().await, outbox.aggregate_type.clone());
    let writer = tokio::spawn(async move {
        let insert = "insert into outbox (day, aggregatetype, aggregateid, type, payload)
                          values ($1, $2, 'k', 'T', $3::text::jsonb)";
        let mut n = 0;
        loop {
            let day = *days.borrow_and_update();
            if day == PARTITIONS {
                return n;
            }
            n += 1;
            let payload = n.to_string();
            client.execute(insert, &[&i32::try_from(day).unwrap(), &kind, &payload]).await.unwrap();
        }
    });
    let mut topic = outbox.topic(kafka);
    for next in 1..PARTITIONS {
        let read = topic.records().len();
        topic.read_count(read + 20).await;
        let old = next - 1;
        outbox
            .database
            .exec(&format!(
                "create table outbox_{next} (like outbox including defaults);
                 alter table outbox attach partition outbox_{next} for values in ({next})"
            ))
            .await;
        day.send_replace(next);
        let begun = format!("select exists (select from outbox_{next})");
        eventually(SOON, "the writer has gone on to the next day", async || {
            outbox.database.value::<bool>(&begun).await.then_some(())
        })
        .await;
        outbox.database.exec(&format!("drop table outbox_{old}")).await;
    }
    day.send_replace(PARTITIONS);
    let written = tokio::time::timeout(Duration::from_secs(30), writer).await.unwrap().unwrap();
    let records = exactly(&outbox, &mut topic, written).await;
    let wanted: Vec<String> = (1..=written).map(|n| n.to_string()).collect();
    assert_eq!(values(records), wanted);
}

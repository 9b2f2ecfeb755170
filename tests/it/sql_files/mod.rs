//! The files of `sql/`, run by psql as their first lines say, and what then comes out at Kafka.

mod partitioned;
mod roles;

use serde_json::{Value, json};

use crate::support::wait::SOON;
use crate::support::{Outbox, Record, Relay, Topic, eventually, unique};

/// A streaming relay that puts every event of an outbox into one topic, of this test alone, with its type.
async fn stream(outbox: &Outbox) -> (Relay, Topic) {
    let name = unique("sql_files");
    let env = [("KAFKA_TOPIC_EVENTS", name.as_str()), ("OUTBOX_PLACEMENT", "type:header:type")];
    let relay = outbox.streaming(&[], &env).await;
    (relay, outbox.kafka.topic(&name))
}

/// Everything that has come once all that is committed by now is confirmed, but the event of the relay's
/// start: by key, and of a key in order.
async fn arrived(outbox: &Outbox, topic: &mut Topic) -> Vec<Record> {
    outbox.confirmed().await;
    let mut records = topic.read_to_end().await.to_vec();
    records.retain(|record| record.header("type") != Some("Tested"));
    records.sort_by(|a, b| (&a.key, a.offset).cmp(&(&b.key, b.offset)));
    records
}

/// Key, type and value.
fn told(records: &[Record]) -> Vec<(&str, &str, Value)> {
    let value = |record: &Record| serde_json::from_str(record.value_text()).unwrap();
    let kind = |record| Record::header(record, "type").unwrap();
    records.iter().map(|record| (record.key_text(), kind(record), value(record))).collect()
}

#[tokio::test]
async fn publish_sql_sends_what_it_commits_deleted_rows_too_and_nothing_that_was_rolled_back() {
    let outbox = Outbox::with_slot().await;
    let (_relay, mut topic) = stream(&outbox).await;
    outbox.sql_file("publish.sql", &[]).await;

    let records = arrived(&outbox, &mut topic).await;
    let mut wanted: Vec<(String, &str, Value)> =
        (1..=10).map(|n| (n.to_string(), "OrderCreated", json!({"order_id": n}))).collect();
    wanted.push(("42".into(), "OrderCreated", json!({"order_id": 42, "total": "99.90"})));
    wanted.push(("42".into(), "OrderPaid", json!({"order_id": 42})));
    wanted.push(("42".into(), "OrderShipped", json!({"order_id": 42})));
    // Not stable in the number: stable in the key.
    wanted.sort_by(|a, b| a.0.cmp(&b.0));
    let wanted: Vec<_> =
        wanted.iter().map(|(key, kind, value)| (key.as_str(), *kind, value.clone())).collect();
    assert_eq!(told(&records), wanted);
    let paid = records.iter().find(|record| record.header("type") == Some("OrderPaid")).unwrap();
    assert_eq!((paid.header("source"), paid.header("attempt")), (Some("psql"), Some("1")));

    let stored = outbox.database.query("select id::text from outbox where aggregatetype <> 'ready'").await;
    let mut stored: Vec<String> = stored.iter().map(|row| row.get(0)).collect();
    let (deleted, mut kept): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.header("type") == Some("OrderShipped"));
    kept.sort_by(|a, b| a.header("id").cmp(&b.header("id")));
    stored.sort();
    assert_eq!(kept.iter().map(|record| record.header("id").unwrap()).collect::<Vec<_>>(), stored);
    assert_eq!(deleted.len(), 1, "it came although no table ever showed it");
}

#[tokio::test]
async fn trigger_sql_makes_an_event_of_every_committed_change_of_a_table_that_was_there() {
    let outbox = Outbox::with_slot().await;
    let database = &outbox.database;
    database
        .exec(
            "create table app_clients (number bigint, name text, balance numeric);
             insert into app_clients values (1, 'Ada', 10.10)",
        )
        .await;
    let (_relay, mut topic) = stream(&outbox).await;
    let variables = [("table", "public.app_clients"), ("key", "number"), ("aggregatetype", "client")];
    outbox.sql_file("trigger.sql", &variables).await;
    outbox.sql_file("trigger.sql", &variables).await;

    // Who changes the table has no right on the outbox.
    let role = unique("app");
    database.exec(&format!("create role {role}; grant all on app_clients to {role}")).await;
    let app = database.client().await;
    app.batch_execute(&format!("set role {role}")).await.unwrap();
    for change in [
        "insert into app_clients values (2, 'Bob', 0.30), (7, 'Eve', 'NaN')",
        "update app_clients set balance = balance + 0.20 where number <= 2",
        "update app_clients set name = name",
        "begin; delete from app_clients; rollback",
        "update app_clients set number = 3 where number = 2",
        "begin; savepoint s; delete from app_clients where number = 1; rollback to s;
                delete from app_clients where number = 3; commit",
    ] {
        app.batch_execute(change).await.unwrap();
    }
    let refused = app.batch_execute("insert into app_clients values (null, 'Nobody', 0)").await.unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("aggregateid"), "{refused:?}");
    let copy = r"\copy app_clients from program 'printf ''8\tCleo\t1\n9\tDan\t2\n'''";
    let (done, said) = outbox.psql(&[&format!("--command={copy}")]).await;
    assert!(done, "{said}");
    app.batch_execute("truncate app_clients").await.unwrap();

    let row =
        |number: u32, name: &str, balance: Value| json!({"number": number, "name": name, "balance": balance});
    let number = |digits: &str| serde_json::from_str::<Value>(digits).unwrap();
    let event = |before: &Value, after: &Value| json!({"before": before, "after": after});
    let none = Value::Null;
    let ada = [row(1, "Ada", number("10.10")), row(1, "Ada", number("10.30"))];
    let bob = [row(2, "Bob", number("0.30")), row(2, "Bob", number("0.50")), row(3, "Bob", number("0.50"))];
    let others = [row(7, "Eve", json!("NaN")), row(8, "Cleo", number("1")), row(9, "Dan", number("2"))];
    assert_eq!(
        told(&arrived(&outbox, &mut topic).await),
        [
            ("1", "Updated", event(&ada[0], &ada[1])),
            ("2", "Inserted", event(&none, &bob[0])),
            ("2", "Updated", event(&bob[0], &bob[1])),
            ("2", "Deleted", event(&bob[1], &none)),
            ("3", "Inserted", event(&none, &bob[2])),
            ("3", "Deleted", event(&bob[2], &none)),
            ("7", "Inserted", event(&none, &others[0])),
            ("8", "Inserted", event(&none, &others[1])),
            ("9", "Inserted", event(&none, &others[2])),
        ]
    );
    database.exec(&format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test]
async fn insert_and_delete_sql_publishes_every_committed_row_from_a_table_that_stays_empty() {
    let outbox = Outbox::with_slot().await;
    let database = &outbox.database;
    let (_relay, mut topic) = stream(&outbox).await;
    outbox.sql_file("insert-and-delete.sql", &[]).await;
    outbox.sql_file("insert-and-delete.sql", &[]).await;
    database.exec("truncate outbox").await;

    // A writer needs no right to delete.
    let role = unique("app");
    database.exec(&format!("create role {role}; grant insert on outbox to {role}")).await;
    let app = database.client().await;
    let insert = "insert into outbox (aggregatetype, aggregateid, type, payload)";
    for sql in [
        &format!("set role {role}"),
        &format!("{insert} values ('a', '1', 'One', '{{}}')"),
        &format!("{insert} select 'a', n::text, 'Many', '{{}}' from generate_series(2, 500) n"),
        "select outbox_publish('a', '1', 'Function', '{}')",
        &format!(
            "begin; {insert} values ('a', '1', 'First', '{{}}'); {insert} values ('a', '1', 'Second', '{{}}'); commit"
        ),
        &format!("begin; {insert} values ('a', '1', 'RolledBack', '{{}}'); rollback"),
    ] {
        app.batch_execute(sql).await.unwrap();
    }
    assert_eq!(database.value::<i64>("select count(*) from outbox").await, 0, "the table stays empty");

    let records = arrived(&outbox, &mut topic).await;
    let of_1: Vec<_> =
        told(&records).iter().filter(|told| told.0 == "1").map(|told| told.1.to_owned()).collect();
    assert_eq!(of_1, ["One", "Function", "First", "Second"]);
    let mut keys: Vec<u32> = records.iter().map(|record| record.key_text().parse().unwrap()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!((records.len(), keys), (503, (1..=500).collect()));

    database.exec("drop trigger outbox_forget on outbox").await;
    outbox.insert("a", "1", "{}").await;
    assert_eq!(database.value::<i64>("select count(*) from outbox").await, 1, "the comment ends the mode");
    database.exec(&format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test]
async fn monitoring_sql_shows_lag_holder_open_transactions_publication_and_parked_records() {
    let outbox = Outbox::bare().await;
    let slot = outbox.slot().to_owned();
    let variables = [("slot", slot.as_str())];
    let bare = outbox.sql_file("monitoring.sql", &variables).await;
    assert!(bare.contains("wal_level") && !bare.contains("parked"), "before migrate up: {bare}");

    outbox.done(&["migrate", "up"]).await;
    outbox.done(&["slot", "create", "--lock-timeout", "30s"]).await;
    let relay = outbox.streaming(&[], &[("APP_NAME", "monitored")]).await;
    outbox
        .database
        .exec(
            "insert into txstream_dead_letter (slot, table_name, row_id, commit_lsn, ordinal, topic, key, reason, error)
                 values ('s', 't', '1', '0/1', 0, 'stuck.topic', '', 'too_large', 'e')",
        )
        .await;
    let open = outbox.database.client().await;
    open.batch_execute("set application_name = 'slowpoke'; begin; select pg_current_xact_id()")
        .await
        .unwrap();
    // Other tests' transactions may be older, and ten are shown.
    eventually(SOON, "everything is seen", async || {
        let said = outbox.sql_file("monitoring.sql", &variables).await;
        let line = |parts: &[&str]| {
            said.lines().any(|line| parts.iter().all(|part| line.split('|').any(|cell| cell.trim() == *part)))
        };
        let seen = [
            line(&[&slot, "t", "reserved"]),
            line(&["monitored", "streaming", "async"]),
            line(&["slowpoke", "idle in transaction", outbox.database.name()]),
            line(&["txstream_outbox", "public.outbox", "t", "f"]),
            line(&["wal_level", "logical"]),
            line(&[&slot, outbox.database.name(), "f"]),
            line(&["s", "stuck.topic", "too_large", "1"]),
        ];
        (seen == [true; 7]).then_some(())
    })
    .await;
    open.batch_execute("rollback").await.unwrap();
    drop(relay);
}

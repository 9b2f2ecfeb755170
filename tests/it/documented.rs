//! What a newcomer types: the quick starts and the ways from other relays, as the documents have them.

use crate::support::document::Commands;
use crate::support::port::free_port;
use crate::support::wait::SOON;
use crate::support::{Database, Kafka, Postgres, Record, eventually};

/// With the settings of a machine on which other tests run.
async fn alone(commands: Commands) -> Commands {
    commands.env("METRICS_HOST", "127.0.0.1").env("METRICS_PORT", &free_port().await.to_string())
}

/// The one record of a topic that has the id of the one row of a table.
async fn arrived(database: &Database, kafka: &Kafka, table: &str, topic: &str) -> Record {
    let id: String = database.value(&format!("select id::text from {table}")).await;
    let mut topic = kafka.topic(topic);
    eventually(SOON, format!("the row {id} is in the topic"), async || {
        let mut records = topic.read_to_end().await.to_vec();
        records.retain(|record| record.header("id") == Some(&id));
        assert!(records.len() < 2, "{records:?}");
        records.pop()
    })
    .await
}

/// A quick start from its first line to the record in Kafka.
async fn a_quick_start_works(commands: Commands) -> (String, Record) {
    let (postgres, kafka) = (Postgres::start(Postgres::default_version(), &[]).await, Kafka::shared().await);
    let database = postgres.database().await;
    let commands = alone(commands)
        .await
        .with("postgresql://postgres:postgres@localhost/postgres", &database.url())
        .with("localhost:9092", kafka.bootstrap())
        .without("cargo build");
    let shell = commands.typed(kafka).await;
    let record = arrived(&database, kafka, "outbox", "outbox.event.order").await;
    let said = shell.said();
    shell.end().await;
    (said, record)
}

#[tokio::test]
async fn the_quick_start_leads_to_a_record() {
    let commands = Commands::of("README.md", "## Quick start").without("kcat");
    let (_, record) = a_quick_start_works(commands.without("make")).await;
    assert_eq!((record.key_text(), record.value_text()), ("42", r#"{"total": 99.90}"#));
}

#[tokio::test]
async fn the_quick_start_in_portuguese_leads_to_the_same_record() {
    let commands = Commands::of("docs/quickstart.pt-BR.md", "# Começo rápido");
    let (said, record) = a_quick_start_works(commands).await;
    assert_eq!((record.key_text(), record.value_text()), ("42", r#"{"total": 99.90}"#));
    assert!(said.contains("not confirmed"), "lag says how far it is: {said}");
}

#[tokio::test]
async fn the_writer_s_first_request_stores_an_event() {
    let database = Postgres::shared().await.database().await;
    let kafka = Kafka::shared().await;
    let env = [("DATABASE_URL", database.url())];
    let migrated = crate::support::run_cli(&["migrate", "up"], &[(env[0].0, &env[0].1)]).await;
    assert_eq!(migrated.code, Some(0), "{}", migrated.stderr);
    let port = free_port().await.to_string();
    // A person types the second line later than a script does.
    let patience = format!("txstream writer &\nuntil curl -s localhost:{port}/ready; do sleep 0.1; done\n");
    let commands = Commands::of("README.md", "## Writer")
        .with("txstream writer &\n", &patience)
        .with("localhost:8080", &format!("localhost:{port}"))
        .env("DATABASE_URL", &env[0].1)
        .env("SERVER_PORT", &port);
    let shell = alone(commands).await.typed(kafka).await;
    let said = shell.said();
    shell.end().await;
    let id: String = database.value("select id::text from outbox where aggregateid = '42'").await;
    assert!(said.contains("HTTP/1.1 201") && said.contains(&id), "{said}");
}

/// Takes over a table of another relay; its row from before stays where it is, a new one is published.
async fn takes_over(commands: Commands, before: &[&str], insert: &str) -> (Database, Record, Postgres) {
    let (postgres, kafka) = (Postgres::start(Postgres::default_version(), &[]).await, Kafka::shared().await);
    let database = postgres.database().await;
    for statement in before.iter().chain(&[insert]) {
        database.exec(statement).await;
    }
    let columns = "select string_agg(concat_ws(' ', column_name, data_type), ', ' order by ordinal_position)
                     from information_schema.columns where table_name = 'outbox'";
    let before: String = database.value(columns).await;
    let commands = alone(commands)
        .await
        .with("txstream relay\n", "txstream relay &\n")
        .env("DATABASE_URL", &database.url())
        .env("KAFKA_BROKERS", kafka.bootstrap());
    let shell = commands.typed(kafka).await;
    database.exec("delete from outbox").await;
    database.exec(insert).await;
    let topic = if insert.contains("event_data") { "txstream.events" } else { "outbox.event.order" };
    let record = arrived(&database, kafka, "outbox", topic).await;
    shell.end().await;
    assert_eq!(database.value::<String>(columns).await, before, "the table is not altered");
    (database, record, postgres)
}

#[tokio::test]
async fn the_way_from_the_polling_ancestor_publishes_what_is_written_next_from_the_same_table() {
    let create = "create table outbox (id uuid primary key default gen_random_uuid(), aggregate_id text not null,
        aggregate_type text not null, event_type text not null, event_data jsonb not null, event_metadata jsonb,
        status text not null default 'pending', created_at timestamptz not null default now())";
    let insert = "insert into outbox (aggregate_id, aggregate_type, event_type, event_data)
        values ('o-1', 'order', 'OrderCreated', '{}')";
    let commands = Commands::of("docs/migrating-from-polling.md", "# From the polling ancestor");
    let (_, record, _) = takes_over(commands, &[create], insert).await;
    assert_eq!(record.key_text(), "o-1");
    assert!(record.value_text().contains(r#""event_type":"OrderCreated""#), "{}", record.value_text());
}

/// The table of Debezium's router, with the columns that it needs and no more.
const DEBEZIUM: &str =
    "create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype varchar(255)
    not null, aggregateid varchar(255) not null, type varchar(255) not null, payload jsonb)";

const EVENT: &str = "insert into outbox (aggregatetype, aggregateid, type, payload)
    values ('order', '42', 'OrderCreated', '{\"total\": 1}')";

/// As a connector leaves them that was started with its defaults: all tables, all operations.
const CONNECTOR: [&str; 2] = [
    "create publication dbz_publication for all tables",
    "select pg_create_logical_replication_slot('debezium', 'pgoutput')",
];

#[tokio::test]
async fn the_way_from_debezium_with_a_pause_publishes_what_is_written_next_from_the_same_table() {
    let commands = Commands::of("docs/migrating-from-debezium.md", "## With a pause");
    let before = [&[DEBEZIUM], &CONNECTOR[..]].concat();
    let (database, record, _postgres) = takes_over(commands, &before, EVENT).await;
    assert_eq!((record.key_text(), record.value_text()), ("42", r#"{"total": 1}"#));
    // The last step, which stands in the text.
    database.exec("SELECT pg_drop_replication_slot('debezium')").await;
    database.exec("DROP PUBLICATION dbz_publication").await;
}

#[tokio::test]
async fn the_way_from_debezium_without_a_gap_publishes_what_its_slot_had_not_confirmed() {
    let (postgres, kafka) = (Postgres::start(Postgres::default_version(), &[]).await, Kafka::shared().await);
    let database = postgres.database().await;
    for statement in [&[DEBEZIUM], &CONNECTOR[..], &[EVENT]].concat() {
        database.exec(statement).await;
    }
    // Sent by the connector, and gone from the table since.
    database.exec("select pg_replication_slot_advance('debezium', pg_current_wal_lsn())").await;
    database.exec("delete from outbox").await;
    database.exec(EVENT).await;
    let commands = Commands::of("docs/migrating-from-debezium.md", "## Without a gap");
    let commands = alone(commands)
        .await
        .with("txstream relay\n", "txstream relay &\n")
        .env("DATABASE_URL", &database.url())
        .env("KAFKA_BROKERS", kafka.bootstrap());
    let shell = commands.typed(kafka).await;
    let record = arrived(&database, kafka, "outbox", "outbox.event.order").await;
    assert_eq!((record.key_text(), record.value_text()), ("42", r#"{"total": 1}"#));
    let said = shell.said();
    assert!(said.contains("dbz_publication sends updates, deletes or truncates"), "the warning: {said}");
    shell.end().await;
    let ours = "select count(*) from pg_publication where pubname <> 'dbz_publication'";
    assert_eq!(database.value::<i64>(ours).await, 0, "its publication is used, and no other made");
}

#[tokio::test]
async fn what_is_in_the_table_of_debezium_is_published_by_the_backfill_before_what_is_written_next() {
    let (postgres, kafka) = (Postgres::start(Postgres::default_version(), &[]).await, Kafka::shared().await);
    let database = postgres.database().await;
    let kind = crate::support::unique("initial");
    let event = |key: &str| EVENT.replace("'order', '42'", &format!("'{kind}', '{key}'"));
    for statement in [DEBEZIUM, &event("before"), &event("before")] {
        database.exec(statement).await;
    }
    let commands = Commands::of("docs/migrating-from-debezium.md", "## Rows that are there already");
    let commands = alone(commands)
        .await
        .with("txstream relay\n", "txstream relay &\n")
        .env("DATABASE_URL", &database.url())
        .env("KAFKA_BROKERS", kafka.bootstrap());
    let shell = commands.typed(kafka).await;
    database.exec(&event("behind")).await;
    let mut topic = kafka.topic(&format!("outbox.event.{kind}"));
    topic.read_count(3).await;
    let keys: Vec<&str> = topic.read_to_end().await.iter().map(|record| record.key_text()).collect();
    assert_eq!(keys.iter().filter(|key| **key == "before").count(), 2, "{keys:?}");
    assert_eq!(keys.len(), 3, "{keys:?}");
    shell.end().await;
}

//! Events of any kind, into whatever outbox table there is.

use serde_json::{Value, json};

use super::{Service, event, migrated, order, refused};
use crate::support::wait::SOON;
use crate::support::{Kafka, Outbox, Postgres, Record, Relay, run_cli, unique};

const ID: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

#[tokio::test]
async fn one_event_or_several_are_stored_and_their_ids_come_back() {
    let service = Service::start().await;
    let mut one = event("kind", "1", 1);
    one["id"] = json!(ID);
    one["headers"] = json!({"tenant": "t", "n": 1});
    let answer = service.post("/api/v1/events", &one.to_string()).await;
    assert_eq!((answer.status, answer.json()), (201, json!({"id": ID})));

    let several: Vec<Value> = (2..52).map(|n| event("kind", "2", n)).collect();
    let answer = service.post("/api/v1/events", &Value::from(several).to_string()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let ids: Vec<String> =
        answer.json().as_array().unwrap().iter().map(|id| id["id"].as_str().unwrap().to_owned()).collect();
    let stored =
        service.database.query("select id::text from outbox where aggregateid = '2' order by ctid").await;
    assert_eq!(
        stored.iter().map(|row| row.get(0)).collect::<Vec<String>>(),
        ids,
        "in the order they were sent"
    );
    let first: String = service
        .database
        .value("select concat_ws('|', id, aggregatetype, type, payload, headers) from outbox where aggregateid = '1'")
        .await;
    assert_eq!(first, format!(r#"{ID}|kind|Tested|{{"n": 1}}|{{"n": 1, "tenant": "t"}}"#));
}

#[tokio::test]
async fn no_secret_payload_header_or_key_is_ever_said_by_the_writer() {
    let database = migrated(Postgres::shared().await).await;
    // What a trigger says of a row is nobody's business either.
    database
        .exec(
            "create function says() returns trigger language plpgsql as $$
             begin raise notice '%', new.payload; return new; end $$;
             create trigger says before insert on outbox for each row execute function says()",
        )
        .await;
    let env = [("LOGGING_LEVEL", "trace"), ("SERVER_AUTH_TOKEN", "hush-token")];
    let service = Service::start_with(database, &env).await;
    let bearer = [("Authorization", "Bearer hush-token")];
    let mut said = event("kind", "hush-key", 1);
    said["payload"] = json!({"a": "hush-payload"});
    said["headers"] = json!({"h": "hush-header"});
    let answer = service.post_with("/api/v1/events", &bearer, &said.to_string()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let mut ordered = order("hush-number");
    ordered["customer_id"] = json!("hush-customer");
    let answer = service.post_with("/api/v1/orders", &bearer, &ordered.to_string()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let log = service.stop().await;
    assert!(log.contains(r#""level":"TRACE""#) || log.contains(r#""level":"DEBUG""#), "it was talkative");
    assert_eq!(log.lines().find(|line| line.contains("hush-")), None);
}

#[tokio::test]
async fn an_event_is_as_durable_as_the_database_says() {
    let database = migrated(Postgres::shared().await).await;
    database
        .exec(&format!(
            "alter database {} set synchronous_commit = remote_write;
             create table noted (level text);
             create function note() returns trigger language plpgsql as $$ begin
                 insert into noted values (current_setting('synchronous_commit')); return null; end $$;
             create trigger note after insert on outbox for each statement execute function note()",
            database.name()
        ))
        .await;
    let service = Service::start_with(database, &[]).await;
    assert_eq!(service.post("/api/v1/events", &event("kind", "1", 1).to_string()).await.status, 201);
    assert_eq!(service.database.value::<String>("select level from noted").await, "remote_write");
}

#[tokio::test]
async fn a_known_id_inserts_nothing_of_the_request() {
    let service = Service::start().await;
    let mut known = event("kind", "1", 1);
    known["id"] = json!(ID);
    assert_eq!(service.post("/api/v1/events", &known.to_string()).await.status, 201);
    let answer = service.post("/api/v1/events", &known.to_string()).await;
    assert_eq!(refused(&answer, 409, "event_exists"), ["id"]);
    let answer = service.post("/api/v1/events", &json!([event("kind", "1", 2), known]).to_string()).await;
    assert_eq!(refused(&answer, 409, "event_exists"), ["[1].id"]);
    assert_eq!(service.count("outbox").await, 1);
}

#[tokio::test]
async fn of_many_requests_with_one_id_one_is_stored() {
    let service = Service::start().await;
    let mut known = event("kind", "1", 1);
    known["id"] = json!(ID);
    let body = json!([event("kind", "2", 1), known]).to_string();
    let post = async || service.post("/api/v1/events", &body).await.status;
    let (a, b, c, d) = tokio::join!(post(), post(), post(), post());
    let mut statuses = [a, b, c, d];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409]);
    assert_eq!(service.count("outbox").await, 2);
}

#[tokio::test]
async fn what_the_database_cannot_store_is_refused_and_stores_nothing() {
    let service = Service::start().await;
    let with = |payload: &str| {
        let good = event("kind", "1", 1).to_string();
        format!("[{good}, {}]", event("kind", "1", 2).to_string().replace("{\"n\":2}", payload))
    };
    for payload in
        ["\"\\u0000\"", "\"\\ud800\"", "1e200000", &format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))]
    {
        let answer = service.post("/api/v1/events", &with(payload)).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(refused(&answer, 400, "invalid_request")[0].contains("payload"), "{answer:?}");
    }
    // Small as it is sent, too large for a record as it is stored.
    for payload in [format!("[{}0]", "1,".repeat(400_000)), format!("[{}0]", "1e100000,".repeat(11))] {
        let answer = service.post("/api/v1/events", &with(&payload)).await;
        assert_eq!(refused(&answer, 413, "event_too_large"), ["[1].payload"], "{answer:?}");
    }
    assert_eq!(service.count("outbox").await, 0);
    let answer = service.post("/api/v1/events", &with("null")).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(service.count("outbox where payload is null").await, 1);
}

#[tokio::test]
async fn a_consumer_sees_the_event_and_the_trace_of_the_request() {
    let kafka = Kafka::shared().await;
    let service = Service::start().await;
    let args = ["--create-slot"];
    let mut relay = Relay::start(&service.database, kafka.bootstrap(), &args, &[]).await;
    relay.wait_ready().await;
    let kind = unique("kind");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("traceparent", parent), ("tracestate", "vendor=a:b")];
    let mut sent = event(&kind, "42", 1);
    sent["headers"] = json!({"tenant": "t"});
    let answer = service.post_with("/api/v1/events", &headers, &sent.to_string()).await;
    assert_eq!(answer.status, 201);
    let body = event(&kind, "42", 2).to_string();
    let garbage = service.post_with("/api/v1/events", &[("traceparent", "x")], &body).await;
    assert_eq!(garbage.status, 201);
    let mut topic = kafka.topic(&format!("outbox.event.{kind}"));
    let records = topic.read_count(2).await;
    let record = &records[0];
    assert_eq!((record.key_text(), record.value_text()), ("42", r#"{"n": 1}"#));
    assert_eq!(record.header("id"), answer.json()["id"].as_str());
    assert_eq!(record.header("tenant"), Some("t"));
    assert_eq!(record.header("traceparent"), Some(parent));
    assert_eq!(record.header("tracestate"), Some("vendor=a:b"));
    assert_eq!(records[1].header("traceparent"), None);

    // An order takes the trace with it too.
    let answer = service.post_with("/api/v1/orders", &headers, &order(&unique("n")).to_string()).await;
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let mut topic = kafka.topic("outbox.event.order");
    let mine = |records: &[Record]| records.iter().find(|record| record.key_text() == id).cloned();
    let records = topic.read_until(SOON, "the order's event", |r| mine(r).is_some()).await;
    assert_eq!(mine(records).unwrap().header("traceparent"), Some(parent));
}

#[tokio::test]
async fn the_ancestors_table_is_written_with_the_trace_in_its_metadata() {
    let database = Postgres::shared().await.database().await;
    database
        .exec(
            "create table outbox (id uuid primary key, aggregate_id varchar(255) not null, aggregate_type varchar(255)
                 not null, event_type varchar(255) not null, event_data json not null, event_metadata json,
                 status varchar(20) not null default 'pending', created_at timestamptz not null)",
        )
        .await;
    let env = [("OUTBOX_PRESET", "txstream")];
    let url = database.url();
    let output = run_cli(&["migrate", "up"], &[("DATABASE_URL", &url), env[0]]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let service = Service::start_with(database, &env).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let sent = r#"{"aggregatetype": "any kind", "aggregateid": "1", "type": "T", "payload": { "b":1.0 }, "headers": {"h": "x"}}"#;
    let answer = service.post_with("/api/v1/events", &[("traceparent", parent)], sent).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(service.post_order(&order("n-1")).await.status, 201);
    let stored: String = service
        .database
        .value("select concat_ws('|', aggregate_type, event_type, event_data, event_metadata) from outbox where event_type = 'T'")
        .await;
    assert_eq!(stored, format!(r#"any kind|T|{{ "b":1.0 }}|{{"traceparent":"{parent}","h": "x"}}"#));
    let order: String = service
        .database
        .value("select concat_ws('|', aggregate_type, event_type, event_data->>'order_number') from outbox where event_type <> 'T'")
        .await;
    assert_eq!(order, "order|OrderCreated|n-1");
    let answer = service.post("/api/v1/events", &sent.replace("{ \"b\":1.0 }", "null")).await;
    assert_eq!(refused(&answer, 400, "invalid_request"), ["payload"]);
}

#[tokio::test]
async fn a_partitioned_table_with_text_columns_is_written_and_headers_it_has_no_place_for_are_refused() {
    let database = Postgres::shared().await.database().await;
    database
        .exec(
            "create table outbox (id text, aggregatetype text, aggregateid text, type text, payload bytea,
                 at timestamptz default now(), primary key (id, at)) partition by range (at);
             create table outbox_all partition of outbox for values from ('2000-01-01') to (maxvalue)",
        )
        .await;
    let url = database.url();
    let output = run_cli(&["migrate", "up"], &[("DATABASE_URL", &url)]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let service = Service::start_with(database, &[]).await;
    let mut sent = event("kind", "1", 1);
    sent["id"] = json!(ID);
    assert_eq!(service.post("/api/v1/events", &sent.to_string()).await.status, 201);
    refused(&service.post("/api/v1/events", &sent.to_string()).await, 409, "event_exists");
    let stored: String =
        service.database.value("select id || convert_from(payload, 'UTF8') from outbox").await;
    assert_eq!(stored, format!("{ID}{{\"n\":1}}"));
    sent["headers"] = json!({"h": 1});
    assert_eq!(
        refused(&service.post("/api/v1/events", &sent.to_string()).await, 400, "invalid_request"),
        ["headers"]
    );
}

#[tokio::test]
async fn a_table_that_deletes_every_row_at_once_is_written_and_its_events_arrive() {
    let outbox = Outbox::with_slot().await;
    outbox.sql_file("insert-and-delete.sql", &[]).await;
    let topic = unique("deleted");
    let mut relay = outbox.relay(&[], &[("KAFKA_TOPIC_EVENTS", &topic)]).await;
    relay.wait_ready().await;
    let mut topic = outbox.kafka.topic(&topic);
    let service = Service::start_with(outbox.database, &[]).await;
    let mut several = [1, 2].map(|n| event("kind", "1", n));
    several[0]["id"] = json!(ID);
    assert_eq!(service.post("/api/v1/events", &json!(several).to_string()).await.status, 201);
    let order = service.post_order(&order("n-1")).await;
    assert_eq!((order.status, service.count("outbox").await, service.count("orders").await), (201, 0, 1));
    let records = topic.read_count(3).await;
    let values: Vec<_> = records.iter().filter(|r| r.key_text() == "1").map(Record::value_text).collect();
    assert_eq!(values, [r#"{"n": 1}"#, r#"{"n": 2}"#]);
    let of_order = records.iter().find(|record| record.value_text().contains("n-1")).unwrap();
    assert_eq!(of_order.key_text(), order.json()["id"].as_str().unwrap());
}

#[tokio::test]
async fn a_foreign_orders_table_switches_the_order_routes_off_with_one_warning() {
    let database = Postgres::shared().await.database().await;
    database.exec("create table orders (id serial primary key, total float)").await;
    let url = database.url();
    let said = run_cli(&["migrate", "up"], &[("DATABASE_URL", &url)]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stdout.contains("left out table public.orders"), "{}", said.stdout);
    let service = Service::start_with(database, &[]).await;
    refused(&service.post_order(&order("n-1")).await, 404, "orders_off");
    refused(&service.get("/api/v1/orders").await, 404, "orders_off");
    let posts = (0..10).map(|n| event("kind", "1", n).to_string());
    for body in posts {
        assert_eq!(service.post("/api/v1/events", &body).await.status, 201);
    }
    assert_eq!(service.count("orders").await, 0);
    let log = service.stop().await;
    assert_eq!(log.matches("the order routes are off").count(), 1, "{log}");
}

#[tokio::test]
async fn the_writer_role_of_the_sql_file_is_enough() {
    let postgres = Postgres::shared().await;
    let database = postgres.database().await;
    const ROLES: [&str; 4] = ["owner", "relay", "writer", "pruner"];
    let names = ROLES.map(unique);
    let roles = async || {
        let mut command = tokio::process::Command::new("psql");
        command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file"]);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/roles.sql"));
        for (role, name) in ROLES.iter().zip(&names) {
            command.arg(format!("--set={role}={name}"));
        }
        assert!(command.arg(database.url()).status().await.unwrap().success());
    };
    let url = |role: &str| database.socket_url().replace("user=postgres", &format!("user={role}"));
    roles().await;
    let output = run_cli(&["migrate", "up"], &[("DATABASE_URL", &url(&names[0]))]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    roles().await;
    let as_writer = url(&names[2]);
    let service = Service::start_with(database, &[("DATABASE_URL", &as_writer)]).await;
    assert_eq!(service.post_order(&order("n-1")).await.status, 201);
    let mut sent = event("kind", "1", 1);
    sent["id"] = json!(ID);
    assert_eq!(service.post("/api/v1/events", &sent.to_string()).await.status, 201);
    assert_eq!(service.post("/api/v1/events", &sent.to_string()).await.status, 409);
    assert_eq!(service.get("/api/v1/orders/number/n-1").await.status, 200);
}

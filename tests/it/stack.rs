//! Proves the stack itself, so that a failure elsewhere speaks of txstream.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::metrics::Metrics;
use crate::support::port::free_port;
use crate::support::wait::SOON;
use crate::support::{Database, Direction, Kafka, Postgres, Proxy, Shutdown, eventually, run_cli, unique};

const TABLE_AND_SLOT: &str =
    "CREATE TABLE thing (id int PRIMARY KEY); CREATE PUBLICATION things FOR TABLE thing";

/// How many pgoutput messages of the publication wait in the slot.
async fn waiting(database: &Database) -> i64 {
    let slot = database.name();
    database
        .value(&format!(
            "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL,
                 'proto_version', '1', 'publication_names', 'things')"
        ))
        .await
}

async fn make_slot(database: &Database) {
    database.exec(TABLE_AND_SLOT).await;
    database
        .exec(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", database.name()))
        .await;
}

#[tokio::test]
async fn a_row_of_the_shared_postgres_comes_out_of_a_slot() {
    let database = Postgres::shared().await.database().await;
    make_slot(&database).await;
    database.exec("INSERT INTO thing VALUES (1)").await;
    assert_eq!(waiting(&database).await, 4, "Begin, Relation, Insert, Commit");
}

#[tokio::test]
async fn a_dropped_database_takes_its_slot_with_it() {
    let postgres = Postgres::shared().await;
    let (database, other) = (postgres.database().await, postgres.database().await);
    make_slot(&database).await;
    let gone = database.name().to_owned();
    drop(database);
    let left: i64 = other
        .value(&format!(
            "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = '{gone}')
                  + (SELECT count(*) FROM pg_database WHERE datname = '{gone}')"
        ))
        .await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn postgres_over_tcp_wants_the_password_with_scram() {
    let database = Postgres::shared().await.database().await;
    let right = tokio_postgres::connect(&database.url(), tokio_postgres::NoTls).await;
    assert!(right.is_ok());
    let wrong = database.url().replace("postgres:postgres@", "postgres:wrong@");
    let refused = tokio_postgres::connect(&wrong, tokio_postgres::NoTls).await.err().unwrap();
    assert_eq!(refused.code().unwrap().code(), "28P01");
    assert!(tokio_postgres::connect(&database.socket_url(), tokio_postgres::NoTls).await.is_ok());
}

#[tokio::test]
async fn postgres_keeps_rows_and_slot_across_a_stop_and_a_crash_on_the_same_port() {
    let postgres = Postgres::start(Postgres::default_version(), &[("cluster_name", "it's mine")]).await;
    let database = postgres.database().await;
    make_slot(&database).await;
    for (row, shutdown) in [Shutdown::Fast, Shutdown::Immediate].into_iter().enumerate() {
        database.exec(&format!("INSERT INTO thing VALUES ({row})")).await;
        postgres.restart(shutdown).await;
        assert_eq!(database.value::<i64>("SELECT count(*) FROM thing").await, row as i64 + 1);
        assert_eq!(database.value::<String>("SHOW cluster_name").await, "it's mine");
    }
    assert!(waiting(&database).await >= 6);
    assert_eq!(database.value::<String>("SHOW port").await, postgres.port().to_string());
}

#[tokio::test]
async fn a_frozen_postgres_says_nothing_until_it_is_thawed() {
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let database = postgres.database().await;
    let client = database.client().await;
    postgres.freeze().await;
    let mut asked = std::pin::pin!(client.simple_query("SELECT 1"));
    assert!(timeout(Duration::from_millis(300), &mut asked).await.is_err(), "it answers while frozen");
    postgres.thaw().await;
    timeout(SOON, asked).await.expect("it answers when thawed").unwrap();
}

#[tokio::test]
async fn postgres_with_tls_shows_a_certificate_that_its_root_signed() {
    let postgres = Postgres::start_with_tls(Postgres::default_version(), &[]).await;
    let database = postgres.database().await;
    let mut connector = openssl::ssl::SslConnector::builder(openssl::ssl::SslMethod::tls()).unwrap();
    connector.set_ca_file(postgres.root_cert()).unwrap();
    let tls = postgres_openssl::MakeTlsConnector::new(connector.build());
    let url = format!("{}?sslmode=require", database.url());
    let (client, connection) = tokio_postgres::connect(&url, tls).await.unwrap();
    tokio::spawn(connection);
    let row =
        client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await.unwrap();
    assert!(row.get::<_, bool>(0));
}

/// Produces one record and returns its partition and offset.
async fn produce(brokers: &str, topic: &str, key: &str, value: &str) -> (i32, i64) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("topic.metadata.refresh.interval.ms", "100")
        .create()
        .unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header { key: "id", value: Some("7") })
        .insert(Header { key: "none", value: None::<&str> });
    let record = FutureRecord::to(topic).key(key).payload(value).headers(headers);
    let delivery = producer.send(record, SOON).await.map_err(|(err, _)| err).unwrap();
    (delivery.partition, delivery.offset)
}

#[tokio::test]
async fn a_record_comes_out_of_the_shared_kafka_as_it_went_in() {
    let kafka = Kafka::shared().await;
    let mut topic = kafka.topic(&unique("records"));
    assert!(topic.read_to_end().await.is_empty(), "a topic that does not exist has no records");
    let (partition, offset) = produce(kafka.bootstrap(), topic.name(), "a", "one").await;
    let [record] = topic.read_to_end().await else { panic!("one record") };
    assert_eq!((record.partition, record.offset), (partition, offset));
    assert_eq!((record.key_text(), record.value_text()), ("a", "one"));
    assert_eq!(record.headers, [("id".to_owned(), Some(b"7".to_vec())), ("none".to_owned(), None)]);
    assert!(record.timestamp_ms > 1_700_000_000_000);
    produce(kafka.bootstrap(), topic.name(), "b", "two").await;
    assert_eq!(topic.read_to_end().await.len(), 2);
    assert_eq!(topic.read_count(2).await[1].value_text(), "two");
}

#[tokio::test]
async fn kafka_keeps_topic_and_records_across_a_stop_and_a_crash_on_the_same_port() {
    let kafka = Kafka::start(&[("num.partitions", "2")]).await;
    let mut topic = kafka.create_topic("kept", 3, &[("max.message.bytes", "2000")]).await;
    produce(kafka.bootstrap(), "kept", "a", "one").await;
    kafka.restart().await;
    produce(kafka.bootstrap(), "kept", "a", "two").await;
    kafka.crash().await;
    kafka.start_again().await;
    let records = topic.read_count(2).await;
    assert_eq!(records[0].partition, records[1].partition);
    produce(kafka.bootstrap(), "made", "a", "three").await;
    let made = kafka.admin().inner().fetch_metadata(Some("made"), SOON).unwrap();
    assert_eq!(made.topics()[0].partitions().len(), 2, "properties reach the broker");
}

#[tokio::test]
async fn a_kafka_behind_a_proxy_sends_its_clients_back_through_it() {
    let (kafka, proxy) = Kafka::start_behind_proxy(&[]).await;
    produce(&proxy.address(), "through", "a", "one").await;
    assert!(proxy.bytes(Direction::Both) > 0);
    // bootstrap() goes past it: these clients would not get through.
    proxy.refuse();
    produce(kafka.bootstrap(), "past", "a", "two").await;
    assert_eq!(kafka.topic("through").read_count(1).await[0].value_text(), "one");
}

/// A server that sends back whatever it gets; ends with the test's runtime.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

async fn round_trip(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0]).await.map(drop)
}

#[tokio::test]
async fn the_proxy_stalls_cuts_refuses_and_resumes() {
    let proxy = Proxy::to(echo().await).await;
    let mut first = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut first).await.unwrap();

    proxy.stall(Direction::ToClient);
    first.write_all(b"y").await.unwrap();
    eventually(SOON, "the other way is open", async || (proxy.bytes(Direction::ToServer) == 2).then_some(()))
        .await;
    let answer = timeout(Duration::from_millis(200), first.read(&mut [0])).await;
    assert!(answer.is_err(), "it forwards while stalled");
    proxy.resume();
    assert_eq!(timeout(SOON, first.read(&mut [0])).await.unwrap().unwrap(), 1);

    proxy.cut();
    assert_eq!(timeout(SOON, first.read(&mut [0])).await.unwrap().unwrap_or(0), 0, "cut");
    let mut second = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut second).await.unwrap();
    assert_eq!(proxy.accepted(), 2);

    proxy.refuse();
    eventually(SOON, "connections are refused", async || TcpStream::connect(proxy.address()).await.err())
        .await;
    proxy.resume();
    eventually(SOON, "connections are served", async || {
        round_trip(&mut TcpStream::connect(proxy.address()).await.ok()?).await.ok()
    })
    .await;
}

#[tokio::test]
async fn the_proxy_keeps_to_its_rate() {
    let proxy = Proxy::to(echo().await).await;
    proxy.limit_rate(100_000);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let begin = tokio::time::Instant::now();
    stream.write_all(&[7; 50_000]).await.unwrap();
    stream.read_exact(&mut vec![0; 50_000]).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(400), "50 kB at 100 kB/s took {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_command_runs_without_the_environment_of_the_tests() {
    let output = run_cli(&["--help"], &[("LOGGING_LEVEL", "info")]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_ne!(free_port().await, 0);
}

#[test]
fn a_scrape_is_read_with_its_labels() {
    let metrics = Metrics::parse(
        "# TYPE a counter\na{topic=\"x\",kind=\"o\\\"k\"} 2\na{topic=\"y\",kind=\"o\\\"k\"} 3\nb 1.5\n",
    );
    assert_eq!(metrics.get("a", &[("topic", "x")]), Some(2.0));
    assert_eq!(metrics.get("a", &[("kind", "o\"k")]), Some(5.0));
    assert_eq!(metrics.get("a", &[("topic", "z")]), None);
    assert_eq!((metrics.value("b"), metrics.names()), (1.5, vec!["a", "b"]));
}

//! Whatever breaks under load (the relay, Postgres, Kafka, the network between them), every committed
//! row arrives, in the order of its key, and what arrives twice is the same to the byte.

use std::time::Duration;

use tokio::time::Instant;

use crate::load::{Load, Outbox, RECOVERY, lasts, seconds};
use crate::support::http;
use crate::support::wait::SOON;
use crate::support::{Database, Direction, Kafka, Postgres, Proxy, Relay, Shutdown, eventually};

#[tokio::test]
async fn a_terminated_walsender_is_replaced_and_nothing_is_lost_or_reordered() {
    let times: u32 =
        std::env::var("TERMINATIONS").map_or(10, |times| times.parse().expect("TERMINATIONS is a number"));
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let mut relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let load = Load::start(&outbox, 4);
    let mut old = outbox.walsender().await.expect("the relay streams");
    for _ in 0..times {
        load.commits(20).await;
        outbox.database.exec(&format!("select pg_terminate_backend({old})")).await;
        old = eventually(Duration::from_secs(5), "another session streams", async || {
            outbox.walsender().await.filter(|pid| *pid != old)
        })
        .await;
    }
    load.stop().await;
    outbox.all_arrive(&mut outbox.topic(kafka)).await;
    assert!(relay.is_running());
    // A walsender that ends before it streams is no session.
    let sessions = relay.log().iter().filter(|line| line.contains("streaming from the slot")).count();
    let reconnects = relay.metrics().await.value("txstream_replication_reconnects_total");
    assert_eq!(reconnects, (sessions - 1) as f64, "{times} walsenders were terminated");
}

#[tokio::test]
async fn what_a_lost_session_has_queued_is_not_sent_beside_the_next_one() {
    const QUEUED: usize = 1_000;
    let kafka = Kafka::start(&[]).await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let mut relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let load = Load::start(&outbox, 4);
    let mut topic = outbox.topic(&kafka);
    topic.read_count(100).await;
    // No backlog of the start in what is at the broker.
    outbox.confirmed().await;
    kafka.freeze().await;
    load.commits(QUEUED + 200).await;
    load.stop().await;
    // The first few requests are at the broker, the rest waits in the producer.
    eventually(SOON, "the producer has all of it", async || {
        let metrics = relay.metrics().await;
        let in_flight = metrics.get("txstream_events_in_queue", &[("status", "in_flight")])?;
        (in_flight >= QUEUED as f64).then_some(())
    })
    .await;
    let old = outbox.walsender().await.expect("the relay streams");
    outbox.database.exec(&format!("select pg_terminate_backend({old})")).await;
    eventually(Duration::from_secs(5), "another session streams", async || {
        outbox.walsender().await.filter(|pid| *pid != old)
    })
    .await;
    kafka.thaw().await;
    let arrived = outbox.all_arrive(&mut topic).await;
    assert!(arrived.duplicates < QUEUED / 2, "{arrived:?}: more than what was at the broker");
    assert!(relay.is_running());
}

#[tokio::test]
async fn a_postgres_that_crashes_under_load_costs_no_row() {
    let kafka = Kafka::shared().await;
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::new(&postgres).await;
    let mut relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let load = Load::start(&outbox, 4);
    for shutdown in [Shutdown::Immediate, Shutdown::Fast, Shutdown::Immediate] {
        load.commits(300).await;
        postgres.restart(shutdown).await;
        relay.wait_ready().await;
    }
    load.commits(300).await;
    load.stop().await;
    outbox.all_arrive(&mut outbox.topic(kafka)).await;
    assert!(relay.is_running());
}

#[tokio::test]
async fn a_kafka_that_is_not_there_at_start_or_goes_under_load_costs_no_row() {
    let kafka = Kafka::start(&[]).await;
    kafka.stop().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let mut relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let load = Load::start(&outbox, 4);
    load.commits(200).await;
    kafka.start_again().await;
    let mut topic = outbox.topic(&kafka);
    topic.read_count(200).await;
    for crash in [false, true] {
        load.commits(300).await;
        if crash {
            kafka.crash().await;
        } else {
            kafka.stop().await;
        }
        load.commits(1000).await;
        kafka.start_again().await;
        let read = topic.records().len();
        topic.read_until(RECOVERY, "records arrive again", |records| records.len() > read + 1000).await;
    }
    load.stop().await;
    outbox.all_arrive(&mut topic).await;
    assert!(relay.is_running());
    assert_eq!(relay.metrics().await.value("txstream_replication_reconnects_total"), 0.0);
}

#[tokio::test]
#[allow(clippy::print_stderr, reason = "a run of minutes says what came of it")]
async fn while_kafka_is_frozen_the_session_stays_and_memory_is_bounded() {
    const LIMIT: f64 = 65_536.0;
    // One of the load's records: well below this.
    const RECORD: f64 = 1_024.0;
    let kafka = Kafka::start(&[]).await;
    let postgres = Postgres::start(Postgres::default_version(), &[("wal_sender_timeout", "5s")]).await;
    let outbox = Outbox::new(&postgres).await;
    let mut relay = outbox.relay(kafka.bootstrap(), &[("WORKER_MAX_IN_FLIGHT_BYTES", "64KiB")]).await;
    let load = Load::start(&outbox, 4);
    let mut topic = outbox.topic(&kafka);
    topic.read_count(100).await;
    let walsender = outbox.walsender().await.expect("the relay streams");
    kafka.freeze().await;
    load.commits(1_000).await;
    load.stop().await;
    let mut most = 0.0_f64;
    let outage = seconds("OUTAGE_SECONDS", 15);
    lasts(outage, async || {
        most = most.max(relay.metrics().await.value("txstream_in_flight_bytes"));
        assert_eq!(outbox.walsender().await, Some(walsender), "three timeouts long");
    })
    .await;
    // Reading that stopped goes on when a quarter is free.
    assert!((LIMIT * 0.75..LIMIT + RECORD).contains(&most), "{most} bytes in flight");
    kafka.thaw().await;
    let load = Load::start_numbered(&outbox, 4..8);
    load.commits(100).await;
    load.stop().await;
    let arrived = outbox.all_arrive(&mut topic).await;
    assert_eq!(arrived.duplicates, 0, "nothing ended abruptly");
    assert_eq!(outbox.walsender().await, Some(walsender));
    assert_eq!(relay.metrics().await.value("txstream_replication_reconnects_total"), 0.0);
    assert!(relay.is_running());
    eprintln!(
        "Kafka frozen for {} s: {arrived:?}, the same walsender, {most} bytes in flight",
        outage.as_secs()
    );
}

/// A relay that reaches its database only through the proxy.
async fn behind(proxy: &Proxy, outbox: &Outbox, kafka: &Kafka) -> Relay {
    let database: &Database = &outbox.database;
    let url = database.url_through(proxy.port());
    outbox.relay(kafka.bootstrap(), &[("DATABASE_URL", &url)]).await
}

#[tokio::test]
async fn a_network_that_stalls_or_breaks_is_noticed_and_nothing_is_lost() {
    let kafka = Kafka::shared().await;
    let postgres = Postgres::shared().await;
    let outbox = Outbox::new(postgres).await;
    let proxy = Proxy::to(postgres.port()).await;
    let mut relay = behind(&proxy, &outbox, kafka).await;
    let load = Load::start(&outbox, 2);
    let mut topic = outbox.topic(kafka);
    topic.read_count(100).await;

    // Each way alone, and shorter than any deadline: the session goes on.
    let walsender = outbox.walsender().await;
    for direction in [Direction::ToClient, Direction::ToServer] {
        proxy.stall(direction);
        load.commits(200).await;
        proxy.resume();
        topic.read_count(topic.records().len() + 200).await;
    }
    assert_eq!(outbox.walsender().await, walsender);

    // In the middle of a message, most likely; then nobody listens for a while.
    for _ in 0..3 {
        load.commits(100).await;
        proxy.cut();
    }
    proxy.refuse();
    relay.wait_for_log("the broken connection", SOON, |line| line.contains("not streaming")).await;
    load.commits(100).await;
    proxy.resume();
    let read = topic.records().len();
    topic.read_until(RECOVERY, "records arrive again", |records| records.len() > read + 100).await;
    load.stop().await;
    outbox.all_arrive(&mut topic).await;
    assert!(relay.is_running());
}

#[tokio::test]
async fn a_server_silent_for_30_seconds_is_connected_to_anew() {
    let kafka = Kafka::shared().await;
    let postgres = Postgres::shared().await;
    let outbox = Outbox::new(postgres).await;
    let proxy = Proxy::to(postgres.port()).await;
    let mut relay = behind(&proxy, &outbox, kafka).await;
    outbox.insert("k", 1).await;
    let mut topic = outbox.topic(kafka);
    topic.read_count(1).await;
    let begin = Instant::now();
    proxy.stall(Direction::Both);
    outbox.insert("k", 2).await;
    relay.wait_for_log("the silence", Duration::from_secs(40), |line| line.contains("not streaming")).await;
    assert!(begin.elapsed() > Duration::from_secs(25), "no false alarm after {:?}", begin.elapsed());
    proxy.resume();
    assert_eq!(outbox.all_arrive(&mut topic).await.rows, 2);
    assert!(relay.is_running());
}

#[tokio::test]
async fn a_missing_topic_waits_by_name_while_others_flow_until_it_is_created() {
    let kafka = Kafka::start(&[("auto.create.topics.enable", "false")]).await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let flowing = "outbox.event.flowing";
    let mut others = kafka.create_topic(flowing, 3, &[]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kafka.properties");
    // How long librdkafka holds a topic it does not know for one that is being created.
    std::fs::write(&file, "topic.metadata.propagation.max.ms=500\ntopic.metadata.refresh.interval.ms=500\n")
        .unwrap();
    let env = [("KAFKA_CONFIG_FILE", file.to_str().unwrap()), ("KAFKA_BASE_DELAY", "100ms")];
    let relay = outbox.relay(kafka.bootstrap(), &env).await;
    let missing = outbox.topic_name();
    let insert = "insert into outbox (aggregatetype, aggregateid, type, payload)";
    for n in 1..=50 {
        outbox.insert(&format!("key-{}", n % 3), n).await;
        outbox.database.exec(&format!("{insert} values ('flowing', 'k', 'T', '{n}')")).await;
    }
    assert_eq!(others.read_count(50).await.len(), 50, "the other topic flows");
    let command =
        |brokers| format!("kafka-topics.sh --bootstrap-server {brokers} --create --topic {missing}");
    let line = relay
        .wait_for_log("the missing topic", SOON, |line| line.contains(&missing) && line.contains("ERROR"))
        .await;
    assert!(line.contains(&command(kafka.bootstrap())), "the log has the command to paste: {line}");
    let waiting = eventually(SOON, "/status names the topic", async || {
        relay.status().await["waiting_topics"].get(0).cloned()
    })
    .await;
    assert_eq!(waiting["topic"], *missing);
    assert!(waiting["reason"].as_str().unwrap().contains(&command("BROKERS")), "{waiting}");
    let status = relay.status().await.to_string();
    assert!(!status.contains(kafka.bootstrap()), "/status names no host: {status}");
    assert!(relay.get("/readyz").await.body.contains(&missing));
    let slot = outbox.database.name();
    let held: bool = outbox
        .database
        .value(&format!(
            "select confirmed_flush_lsn < pg_current_wal_lsn() from pg_replication_slots where slot_name = '{slot}'"
        ))
        .await;
    assert!(held, "the slot waits for the topic");

    let mut topic = kafka.create_topic(&missing, 3, &[]).await;
    let arrived = outbox.all_arrive(&mut topic).await;
    assert_eq!((arrived.rows, arrived.duplicates), (50, 0));
    assert_eq!(others.read_to_end().await.len(), 50, "no other record was repeated for it");
    let said = relay.log().iter().filter(|line| line.contains("ERROR") && line.contains(&missing)).count();
    assert_eq!(said, 1, "an error line once");
}

/// Trips of the breaker from one state to another.
async fn trips(relay: &Relay, from: &str, to: &str) -> f64 {
    let labels = [("from_state", from), ("to_state", to)];
    relay.metrics().await.get("txstream_circuit_breaker_trips_total", &labels).unwrap()
}

async fn breaker_is(relay: &Relay, state: &str) {
    eventually(SOON, format!("the breaker is {state}"), async || {
        (relay.status().await["breaker"]["state"] == state).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_breaker_opens_while_kafka_is_frozen_and_closes_by_itself_after() {
    let kafka = Kafka::start(&[]).await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let env = [
        ("KAFKA_TIMEOUT_DURATION", "1s"),
        ("KAFKA_FAILURE_THRESHOLD", "2"),
        ("KAFKA_RESET_TIMEOUT", "2s"),
        ("KAFKA_SUCCESS_THRESHOLD", "2"),
    ];
    let mut relay = outbox.relay(kafka.bootstrap(), &env).await;
    let load = Load::start(&outbox, 2);
    let mut topic = outbox.topic(&kafka);
    topic.read_count(50).await;
    assert_eq!(trips(&relay, "CLOSED", "OPEN").await, 0.0);
    kafka.freeze().await;
    breaker_is(&relay, "OPEN").await;
    assert_eq!(trips(&relay, "CLOSED", "OPEN").await, 1.0);
    let ready = eventually(SOON, "/readyz says so", async || {
        let response = relay.get("/readyz").await;
        (response.status == 503).then_some(response.body)
    })
    .await;
    assert!(ready.contains("breaker"), "{ready}");
    eventually(SOON, "it was probed in vain", async || {
        (trips(&relay, "HALF_OPEN", "OPEN").await >= 1.0).then_some(())
    })
    .await;
    kafka.thaw().await;
    breaker_is(&relay, "CLOSED").await;
    assert!(trips(&relay, "HALF_OPEN", "CLOSED").await >= 1.0);
    load.stop().await;
    assert_eq!(outbox.all_arrive(&mut topic).await.duplicates, 0);
    relay.wait_ready().await;
    assert_eq!(relay.metrics().await.value("txstream_circuit_breaker_state"), 0.0);
}

#[tokio::test]
async fn the_breaker_is_opened_and_closed_by_hand_with_the_token_only() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let mut relay = outbox.relay(kafka.bootstrap(), &[("METRICS_ADMIN_TOKEN", "open-sesame")]).await;
    let post = async |path: &str, token: &str| {
        let authorization = format!("Bearer {token}");
        http::request(relay.admin(), "POST", path, &[("Authorization", &authorization)], "")
            .await
            .unwrap()
            .status
    };
    assert_eq!(post("/breaker/open", "wrong").await, 401);
    outbox.insert("k", 1).await;
    let mut topic = outbox.topic(kafka);
    topic.read_count(1).await;
    assert_eq!(post("/breaker/open", "open-sesame").await, 200);
    breaker_is(&relay, "OPEN").await;
    assert_eq!(relay.status().await["breaker"]["forced"], true);
    outbox.insert("k", 2).await;
    eventually(SOON, "the row is read and held", async || {
        (relay.status().await["in_flight"]["records"] == 1).then_some(())
    })
    .await;
    assert_eq!(topic.read_to_end().await.len(), 1);
    assert_eq!(relay.get("/readyz").await.status, 503);
    assert_eq!(post("/breaker/close", "open-sesame").await, 200);
    let arrived = outbox.all_arrive(&mut topic).await;
    assert_eq!((arrived.rows, arrived.duplicates), (2, 0));
    relay.wait_ready().await;
}

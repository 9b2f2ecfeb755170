//! What the relay says of itself: metrics, health, status, logs; and what it never says.

use std::time::Duration;

use crate::support::http::request;
use crate::support::wait::SOON;
use crate::support::{Outbox, eventually, published, run_cli, unique};

/// Series that exist from the start at 0, before any event.
const FROM_THE_START: &[&str] = &[
    "txstream_circuit_breaker_trips_total",
    "txstream_retry_delay_duration_seconds_count",
    "txstream_worker_pool_size",
    "txstream_events_in_queue",
    "txstream_circuit_breaker_state",
    "txstream_active_workers",
    "txstream_commit_to_ack_duration_seconds_count",
    "txstream_in_flight_bytes",
    "txstream_oldest_unconfirmed_age_seconds",
    "txstream_replication_connected",
    "txstream_replication_reconnects_total",
    "txstream_received_lsn",
    "txstream_confirmed_lsn",
    "txstream_slot_confirmed_lag_bytes",
    "txstream_slot_retained_wal_bytes",
    "txstream_slot_safe_wal_bytes",
    "txstream_slot_wal_status",
    "txstream_dead_letters",
    "txstream_parked_keys",
    "txstream_build_info",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_start_time_seconds",
];

/// Series with an event type or a topic.
const WITH_EVENTS: &[&str] = &[
    "txstream_events_processed_total",
    "txstream_events_published_total",
    "txstream_events_failed_total",
    "txstream_events_retried_total",
    "txstream_event_processing_duration_seconds_count",
    "txstream_event_publishing_duration_seconds_count",
];

#[tokio::test]
async fn metrics_have_every_series_and_count_what_is_published() {
    let outbox = Outbox::with_slot().await;
    let mut relay = outbox.relay(&[], &[("WORKER_POOL_SIZE", "3")]).await;
    relay.wait_ready().await;
    let metrics = relay.metrics().await;
    for name in FROM_THE_START {
        assert!(metrics.get(name, &[]).is_some(), "{name} is missing at the start");
    }
    assert_eq!(metrics.value("txstream_worker_pool_size"), 3.0);
    assert_eq!(metrics.value("txstream_replication_connected"), 1.0);

    let kind = unique("counted");
    let topic = format!("outbox.event.{kind}");
    let insert = format!(
        "INSERT INTO outbox (aggregatetype, aggregateid, type)
             SELECT '{kind}', n, CASE WHEN n < 3 THEN 'Made' ELSE 'Sold' END FROM generate_series(1, 5) n"
    );
    outbox.database.exec(&insert).await;
    published(&relay, 5).await;
    let metrics = relay.metrics().await;
    for name in WITH_EVENTS {
        assert!(metrics.get(name, &[("event_type", "Made")]).is_some(), "{name} is missing");
    }
    let count = |name, labels: &[(&str, &str)]| metrics.get(name, labels);
    for (event_type, events) in [("Made", 2.0), ("Sold", 3.0)] {
        let labels = [("topic", topic.as_str()), ("event_type", event_type)];
        assert_eq!(count("txstream_events_published_total", &labels), Some(events));
        let labels = [("status", "published"), ("event_type", event_type)];
        assert_eq!(count("txstream_events_processed_total", &labels), Some(events));
    }
    assert_eq!(count("txstream_commit_to_ack_duration_seconds_count", &[]), Some(5.0));
    assert_eq!(count("txstream_events_failed_total", &[]), Some(0.0));
    // Gauges follow within a report.
    let end: i64 = outbox.database.value("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint").await;
    eventually(SOON, "the gauges show that everything is confirmed", async || {
        let metrics = relay.metrics().await;
        let confirmed = metrics.value("txstream_confirmed_lsn") >= end as f64;
        (confirmed
            && metrics.value("txstream_in_flight_bytes") == 0.0
            && metrics.get("txstream_slot_wal_status", &[("wal_status", "reserved")]) == Some(1.0))
        .then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_refused_before_it_is_sent_counts_under_its_event_type() {
    let outbox = Outbox::with_slot().await;
    outbox.database.exec("ALTER TABLE outbox ALTER aggregateid DROP NOT NULL").await;
    let kind = unique("refused");
    outbox.kafka.create_topic(&format!("outbox.event.{kind}"), 1, &[("max.message.bytes", "2000")]).await;
    let mut relay = outbox.relay(&[], &[("WORKER_ON_REJECT", "dead-letter")]).await;
    relay.wait_ready().await;
    let rows = format!(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES
             ('{kind}', 'k1', 'Big', to_jsonb(repeat('x', 3000))), ('{kind} odd', 'k2', 'Odd', '1'), ('{kind}', NULL, 'Torn', '1')"
    );
    outbox.database.exec(&rows).await;
    for (error_type, event_type) in [("too_large", "Big"), ("invalid", "Odd"), ("unmappable", "Torn")] {
        eventually(SOON, format!("{event_type} is counted"), async || {
            let metrics = relay.metrics().await;
            let failed = [("error_type", error_type), ("event_type", event_type)];
            let parked = [("status", "parked"), ("event_type", event_type)];
            (metrics.get("txstream_events_failed_total", &failed) == Some(1.0)
                && metrics.get("txstream_events_processed_total", &parked) == Some(1.0))
            .then_some(())
        })
        .await;
    }
    let metrics = relay.metrics().await;
    assert_eq!(metrics.get("txstream_events_failed_total", &[("event_type", "other")]), Some(0.0));
}

#[tokio::test]
async fn health_and_status_tell_that_it_streams_and_where_it_is() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    assert_eq!(relay.get("/livez").await.status, 200);
    let ready = relay.get("/readyz").await;
    assert_eq!((ready.status, ready.json()["state"].as_str()), (200, Some("streaming")));
    let status = eventually(SOON, "everything is confirmed", async || {
        let status = relay.status().await;
        (status["in_flight"]["records"] == 0 && status["lag"]["wal_status"] == "reserved").then_some(status)
    })
    .await;
    for (key, value) in [
        ("state", "streaming"),
        ("slot", outbox.slot()),
        ("publication", "txstream_outbox"),
        ("version", env!("CARGO_PKG_VERSION")),
    ] {
        assert_eq!(status[key], value, "{status}");
    }
    assert!(status["confirmed_lsn"].as_str().unwrap().contains('/'), "{status}");
    assert!(status["oldest_unconfirmed_age_seconds"].is_null(), "{status}");
    assert_eq!(status["breaker"]["state"], "CLOSED");
    assert_eq!(status["waiting_topics"], serde_json::json!([]));
    let page = relay.get("/").await;
    assert_eq!(page.status, 200);
    assert_eq!(relay.get("/no-such-page").await.status, 404);
}

#[tokio::test]
async fn the_log_is_json_by_default_and_has_every_change_of_state() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    relay.sigterm().await;
    let exit = relay.wait_exit(SOON).await;
    assert_eq!(exit.status.code(), Some(0));
    let mut states = Vec::new();
    for line in exit.stderr.lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
        if line["message"] == "state changed" {
            states.push(line["to"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(states, ["streaming", "stopping"]);
}

#[tokio::test]
async fn the_log_is_for_people_on_demand() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[("LOGGING_FORMAT", "text")]).await;
    let line = relay.wait_for_log("it streams", SOON, |line| line.contains("streaming from the slot")).await;
    assert!(line.contains(" INFO ") && !line.starts_with('{'), "{line}");
}

#[tokio::test]
async fn no_secret_payload_header_or_key_is_ever_said() {
    let outbox = Outbox::with_slot().await;
    let role = unique("secretive");
    outbox.database.exec(&format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'hush-database'")).await;
    let url = outbox.database.url().replace("postgres:postgres@", &format!("{role}:hush-database@"));
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("METRICS_ADMIN_TOKEN", "hush-admin-token"),
        ("SERVER_AUTH_TOKEN", "hush-writer-token"),
        ("LOGGING_LEVEL", "trace"),
    ];
    let args = ["-X", "ssl.key.password=hush-kafka"];
    let mut relay = outbox.relay(&args, &env).await;
    relay.wait_ready().await;
    let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers)
                      VALUES ('secret', 'hush-key', 'Kept', '{\"a\": \"hush-payload\"}', '{\"h\": \"hush-header\"}')";
    outbox.database.exec(insert).await;
    published(&relay, 1).await;
    // Losing the session makes it talk.
    let slot = outbox.slot();
    outbox
        .database
        .exec(&format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}'"
        ))
        .await;
    relay.wait_for_log("it connects again", SOON, |line| line.contains("not streaming")).await;
    relay.wait_ready().await;
    outbox.database.exec(insert).await;
    published(&relay, 2).await;
    let mut said = Vec::new();
    for path in ["/", "/livez", "/readyz", "/status", "/metrics"] {
        said.push((path.to_owned(), relay.get(path).await.body));
    }
    let configured = run_cli(&["config", "-X", "ssl.key.password=hush-kafka"], &env).await;
    assert_eq!(configured.code, Some(0), "{}", configured.stderr);
    assert!(configured.stdout.contains("***"), "{}", configured.stdout);
    said.push(("txstream config".to_owned(), configured.stdout + &configured.stderr));
    relay.sigterm().await;
    let exit = relay.wait_exit(SOON).await;
    assert!(
        exit.stderr.contains(r#""level":"TRACE""#) || exit.stderr.contains(r#""level":"DEBUG""#),
        "it was talkative"
    );
    said.push(("the log".to_owned(), exit.stderr));
    for (place, text) in &said {
        let line = text.lines().find(|line| line.contains("hush-"));
        assert_eq!(line, None, "said by {place}");
    }
    outbox.database.exec(&format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn the_log_level_is_changed_while_it_runs_by_whoever_has_the_token() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[("METRICS_ADMIN_TOKEN", "t0ken")]).await;
    let talkative = |line: &str| line.contains(r#""level":"DEBUG""#) || line.contains(r#""level":"TRACE""#);
    assert!(!relay.log().iter().any(|line| talkative(line)));
    let put = async |headers: &[(&str, &str)], level: &str| {
        request(relay.admin(), "PUT", "/log-level", headers, level).await.unwrap().status
    };
    let bearer = [("Authorization", "Bearer t0ken")];
    assert_eq!(put(&[], "trace").await, 401);
    assert_eq!(put(&bearer, "loud").await, 400);
    assert_eq!(put(&bearer, "trace").await, 200);
    // Something to talk of.
    let end = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}'",
        outbox.slot()
    );
    outbox.database.exec(&end).await;
    relay.wait_for_log("it talks", SOON, talkative).await;

    let without = outbox_without_token().await;
    assert_eq!(without, 403);
}

/// What changing the log level answers where there is no token.
async fn outbox_without_token() -> u16 {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    let answer = request(relay.admin(), "PUT", "/log-level", &[], "trace").await.unwrap();
    assert!(answer.body.contains("METRICS_ADMIN_TOKEN"), "{}", answer.body);
    answer.status
}

#[tokio::test]
async fn an_outage_of_kafka_shows_as_the_age_of_the_oldest_event() {
    let outbox = Outbox::with_slot().await;
    let nobody = format!("127.0.0.1:{}", crate::support::port::free_port().await);
    let mut relay = outbox.relay(&[], &[("KAFKA_BROKERS", &nobody), ("SHUTDOWN_TIMEOUT", "1s")]).await;
    relay.wait_ready().await;
    outbox.insert("outage", "1", "{}").await;
    eventually(Duration::from_secs(15), "the age grows", async || {
        let shown = relay.metrics().await.value("txstream_oldest_unconfirmed_age_seconds") > 0.5;
        let told =
            relay.status().await["oldest_unconfirmed_age_seconds"].as_f64().is_some_and(|age| age > 0.5);
        (shown && told).then_some(())
    })
    .await;
    let url = outbox.database.url();
    let admin = format!("http://{}", relay.admin());
    let env = [("DATABASE_URL", url.as_str()), ("REPLICATION_SLOT", outbox.slot())];
    let said = run_cli(&["lag", "--output", "json", "--admin-url", &admin], &env).await;
    let lag: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(lag["oldest_unconfirmed_age_seconds"].as_f64().unwrap() > 0.5, "{lag}");
    assert_eq!(lag["oldest_unconfirmed_age_source"], "relay");
}

//! A Kafka with TLS, passwords and access lists, as production has it.

use std::time::Duration;

use tempfile::TempDir;

use crate::load::{Load, Outbox, state_is};
use crate::support::wait::SOON;
use crate::support::{Kafka, Postgres, Relay, eventually};

pub(crate) const USER: &str = "relay";

/// The relay's properties file for the secured listener.
pub(crate) fn properties(dir: &TempDir, root_cert: &str, password: &str) -> String {
    let file = dir.path().join("kafka.properties");
    let text = format!(
        "security.protocol=SASL_SSL\nssl.ca.location={root_cert}\nsasl.mechanisms=SCRAM-SHA-256\n\
         sasl.username={USER}\nsasl.password={password}\nreconnect.backoff.max.ms=1000\n\
         broker.address.family=v4\n"
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// The lines that say a person must act, by a word in them.
fn errors(relay: &Relay, word: &str) -> usize {
    relay.log().iter().filter(|line| line.contains("ERROR") && line.contains(word)).count()
}

/// Waits until `/readyz` and `/status` say that Kafka refuses us, why, and what to do.
async fn names_the_refusal(relay: &Relay, why: &str) {
    let names = |text: &str| {
        text.contains("Kafka refuses our credentials or certificate")
            && text.to_lowercase().contains(why)
            && text.contains("check security.protocol")
    };
    eventually(SOON, "/readyz and /status name the refusal", async || {
        let reason = relay.status().await["kafka_refusal"]["reason"].as_str()?.to_owned();
        (names(&reason) && names(&relay.get("/readyz").await.body)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_right_taken_away_and_given_back_makes_its_topic_wait_while_others_flow() {
    let kafka = Kafka::start_secured(&[]).await;
    kafka.set_password(USER, "wonderland").await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let (name, flowing) = (outbox.topic_name(), "outbox.event.flowing");
    let mut topic = kafka.create_topic(&name, 3, &[]).await;
    let mut others = kafka.create_topic(flowing, 3, &[]).await;
    for topic in [name.as_str(), flowing] {
        kafka.acl("--add", USER, topic).await;
    }
    let dir = TempDir::new().unwrap();
    let file = properties(&dir, kafka.root_cert(), "wonderland");
    let env =
        [("KAFKA_CONFIG_FILE", file.as_str()), ("KAFKA_BASE_DELAY", "100ms"), ("KAFKA_MAX_DELAY", "1s")];
    let mut relay = outbox.relay(kafka.secured(), &env).await;
    let load = Load::start(&outbox, 2);
    topic.read_count(100).await;

    kafka.acl("--remove", USER, &name).await;
    let line = relay
        .wait_for_log("the missing right", SOON, |line| line.contains("ERROR") && line.contains(&name))
        .await;
    let grant = format!("--allow-principal User:{USER} --producer --topic {name}");
    assert!(line.contains("kafka-acls") && line.contains(&grant), "it says what to do: {line}");
    eventually(SOON, "/status names the topic", async || {
        (relay.status().await["waiting_topics"][0]["topic"] == *name).then_some(())
    })
    .await;
    assert!(relay.get("/readyz").await.body.contains(&name));
    let insert = "insert into outbox (aggregatetype, aggregateid, type, payload)";
    for n in 1..=20 {
        outbox.database.exec(&format!("{insert} values ('flowing', 'k', 'T', '{n}')")).await;
    }
    assert_eq!(others.read_count(20).await.len(), 20, "the other topic flows");
    let failed: String = outbox.database.value("select pg_current_wal_insert_lsn()::text").await;
    load.commits(200).await;
    let metrics = relay.metrics().await;
    let counted = metrics.get("txstream_events_failed_total", &[("error_type", "authorization")]);
    assert!(counted > Some(0.0), "a report with an error is a failed attempt");
    let before = format!(
        "select confirmed_flush_lsn < '{failed}' from pg_replication_slots where slot_name = '{}'",
        outbox.database.name()
    );
    assert!(outbox.database.value::<bool>(&before).await, "nothing behind a failed record is confirmed");

    kafka.acl("--add", USER, &name).await;
    load.commits(100).await;
    load.stop().await;
    assert_eq!(outbox.all_arrive(&mut topic).await.duplicates, 0);
    assert_eq!(others.read_to_end().await.len(), 20, "no other record was repeated for it");
    assert_eq!(errors(&relay, &name), 1, "it is said once");
    assert!(relay.is_running());
    assert_eq!(relay.metrics().await.value("txstream_replication_reconnects_total"), 0.0);
}

#[tokio::test]
async fn a_user_without_any_right_finishes_its_producer_until_it_is_given_one() {
    let kafka = Kafka::start_secured(&[]).await;
    kafka.set_password(USER, "wonderland").await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let mut topic = kafka.create_topic(&outbox.topic_name(), 3, &[]).await;
    let dir = TempDir::new().unwrap();
    let file = properties(&dir, kafka.root_cert(), "wonderland");
    let mut relay = outbox.start(kafka.secured(), &[("KAFKA_CONFIG_FILE", &file)]).await;
    let load = Load::start(&outbox, 2);
    // Without the right to write to any topic a broker gives no producer id, and that is final.
    relay.wait_for_log("the finished producer", SOON, |line| line.contains("the producer ended")).await;
    load.commits(100).await;
    assert!(topic.read_to_end().await.is_empty());
    kafka.acl("--add", USER, &outbox.topic_name()).await;
    load.commits(100).await;
    load.stop().await;
    outbox.all_arrive(&mut topic).await;
    assert!(relay.is_running());
}

#[tokio::test]
async fn wrong_credentials_are_said_once_and_waited_with_until_they_are_mended() {
    let kafka = Kafka::start_secured(&[]).await;
    kafka.set_password(USER, "looking-glass").await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let mut topic = kafka.create_topic(&outbox.topic_name(), 3, &[]).await;
    kafka.acl("--add", USER, &outbox.topic_name()).await;
    let dir = TempDir::new().unwrap();
    let file = properties(&dir, kafka.root_cert(), "wonderland");
    let mut relay = outbox.start(kafka.secured(), &[("KAFKA_CONFIG_FILE", &file)]).await;
    let load = Load::start(&outbox, 2);
    let line = relay
        .wait_for_log("the refused password", SOON, |line| {
            line.contains("ERROR") && line.to_lowercase().contains("authenticat")
        })
        .await;
    assert!(!line.contains("wonderland"), "{line}");
    names_the_refusal(&relay, "authenticat").await;
    let status = relay.status().await.to_string();
    assert!(status.contains("last_error") && !status.contains(kafka.secured()), "{status}");
    load.commits(100).await;
    assert!(topic.read_to_end().await.is_empty());
    kafka.set_password(USER, "wonderland").await;
    load.commits(100).await;
    load.stop().await;
    assert_eq!(outbox.all_arrive(&mut topic).await.duplicates, 0);
    state_is(&relay, "streaming").await;
    eventually(SOON, "/readyz names it no longer", async || {
        let ready = relay.get("/readyz").await;
        (ready.status == 200 && !ready.body.contains("refuses")).then_some(())
    })
    .await;
    assert!(relay.status().await["kafka_refusal"].is_null());
    assert_eq!(errors(&relay, "uthenticat"), 1, "it is said once: {}", relay.log().join("\n"));
    assert!(relay.is_running());
    assert!(!relay.log().join("\n").contains("wonderland"), "the password is never said");
}

#[tokio::test]
async fn a_broker_whose_certificate_nobody_vouches_for_gets_nothing() {
    let kafka = Kafka::start_secured(&[]).await;
    kafka.set_password(USER, "wonderland").await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    kafka.acl("--add", USER, &outbox.topic_name()).await;
    let dir = TempDir::new().unwrap();
    // Some other authority.
    let file = properties(&dir, "/etc/ssl/certs/ca-certificates.crt", "wonderland");
    let mut relay = outbox.start(kafka.secured(), &[("KAFKA_CONFIG_FILE", &file)]).await;
    outbox.insert("k", 1).await;
    relay
        .wait_for_log("the unknown certificate", SOON, |line| {
            line.contains("ERROR") && line.to_lowercase().contains("certificate")
        })
        .await;
    names_the_refusal(&relay, "certificate").await;
    assert!(outbox.topic(&kafka).read_to_end().await.is_empty());
    assert!(relay.is_running());
    relay.sigterm().await;
    relay.wait_exit(Duration::from_secs(40)).await;
}

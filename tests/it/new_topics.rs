//! How large a record a topic takes that does not exist yet: what brokers will give it.

use serde_json::Value;
use tempfile::TempDir;

use crate::load::Outbox;
use crate::secured_kafka::{USER, properties};
use crate::support::wait::SOON;
use crate::support::{Kafka, Postgres, Relay, eventually, halted, run_cli, unique};

/// Above Kafka's default limit.
const TWO_MB: usize = 2_000_000;

/// What the last words are read from.
const JSON: (&str, &str) = ("LOGGING_FORMAT", "json");

async fn insert(outbox: &Outbox, kind: &str, characters: usize) {
    outbox
        .database
        .exec(&format!(
            "insert into outbox (aggregatetype, aggregateid, type, payload)
                 values ('{kind}', 'k', 'T', to_jsonb(repeat('x', {characters})))"
        ))
        .await;
}

/// Waits for the record of so many characters.
async fn arrives(kafka: &Kafka, kind: &str, characters: usize) {
    let mut topic = kafka.topic(&format!("outbox.event.{kind}"));
    let records = topic.read_count(1).await;
    let lengths: Vec<usize> = records.iter().map(|record| record.value_text().len()).collect();
    assert_eq!(lengths, [characters + 2], "a JSON string and its quotes");
}

/// Whether brokers know the topic.
async fn exists(kafka: &Kafka, topic: &str) -> bool {
    let (admin, wanted) = (kafka.admin(), topic.to_owned());
    let listed = tokio::task::spawn_blocking(move || {
        let metadata = admin.inner().fetch_metadata(None, SOON).unwrap();
        metadata.topics().iter().any(|topic| topic.name() == wanted)
    });
    listed.await.unwrap()
}

/// Sets it for all brokers, while they run.
async fn brokers_take(kafka: &Kafka, bytes: usize) {
    let config = format!("message.max.bytes={bytes}");
    let all = ["--alter", "--entity-type", "brokers", "--entity-default", "--add-config", &config];
    kafka.tool(&[&["kafka.admin.ConfigCommand"], &all[..]].concat()).await;
}

/// What the doctor says of the limit of a topic.
async fn doctor(outbox: &Outbox, kafka: &Kafka, topic: &str) -> Value {
    let url = outbox.database.url();
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("REPLICATION_SLOT", outbox.database.name()),
        ("KAFKA_BROKERS", kafka.bootstrap()),
    ];
    let said = run_cli(&["doctor", "--output", "json"], &env).await;
    let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
    let about = |check: &&Value| {
        check["check"] == "max_message_bytes" && check["why"].as_str().is_some_and(|why| why.contains(topic))
    };
    report["checks"].as_array().unwrap().iter().find(about).expect("a check of the topic's limit").clone()
}

#[tokio::test]
async fn the_first_record_of_a_topic_may_be_as_large_as_brokers_will_let_it_take() {
    let kafka = Kafka::start(&[("message.max.bytes", "5000000")]).await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let (fits, over) = (unique("fits"), unique("over"));
    let topic = format!("outbox.event.{over}");
    insert(&outbox, &fits, TWO_MB).await;
    let relay = outbox.start(kafka.bootstrap(), &[JSON]).await;
    arrives(&kafka, &fits, TWO_MB).await;

    insert(&outbox, &over, 6_000_000).await;
    let halted = halted(relay).await;
    halted.names(&[&topic, "does not exist yet", "brokers give a new one 5000000 (message.max.bytes)"]);
    assert!(!exists(&kafka, &topic).await, "it was sent");
    let fits = unique("fits");
    insert(&outbox, &fits, TWO_MB).await;
    let well = doctor(&outbox, &kafka, &format!("outbox.event.{fits} ")).await;
    assert_eq!(well["status"], "ok", "{well}");
    let ill = doctor(&outbox, &kafka, &format!("{topic} ")).await;
    assert_eq!(ill["status"], "fail", "{ill}");
    assert!(ill["mend"].as_str().unwrap().contains("--create --topic"), "{ill}");

    let (_, command) =
        halted.remedy.split_once("(kafka-topics.sh --bootstrap-server BROKERS ").expect("a command");
    let (command, _) = command.split_once(')').unwrap();
    let create: Vec<&str> = command.split(' ').collect();
    kafka.tool(&[&["org.apache.kafka.tools.TopicCommand"], &create[..]].concat()).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[JSON]).await;
    arrives(&kafka, &over, 6_000_000).await;
    arrives(&kafka, &fits, TWO_MB).await;
}

/// Waits until so many letters are stored, and gives back what is said of the last.
async fn letters(outbox: &Outbox, count: i64) -> String {
    eventually(SOON, format!("{count} letters are stored"), async || {
        let sql = "select count(*) from txstream_dead_letter";
        (outbox.database.value::<i64>(sql).await == count).then_some(())
    })
    .await;
    outbox.database.value("select error from txstream_dead_letter order by seq desc limit 1").await
}

#[tokio::test]
async fn what_brokers_are_told_while_they_run_holds_for_topics_to_come_and_for_replays() {
    let kafka = Kafka::start(&[]).await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let relay = outbox.relay(kafka.bootstrap(), &[("WORKER_ON_REJECT", "dead-letter")]).await;
    let parked = unique("parked");
    insert(&outbox, &parked, TWO_MB).await;
    let error = letters(&outbox, 1).await;
    assert!(error.contains("brokers give a new one 1048588"), "{error}");

    brokers_take(&kafka, 5_000_000).await;
    let url = outbox.database.url();
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("REPLICATION_SLOT", outbox.database.name()),
        ("KAFKA_BROKERS", kafka.bootstrap()),
    ];
    let replayed = run_cli(&["dead-letter", "replay", "--all", "--yes"], &env).await;
    assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
    arrives(&kafka, &parked, TWO_MB).await;
    let more = unique("more");
    insert(&outbox, &more, TWO_MB).await;
    arrives(&kafka, &more, TWO_MB).await;

    brokers_take(&kafka, 300_000).await;
    let less = unique("less");
    insert(&outbox, &less, 600_000).await;
    let error = letters(&outbox, 1).await;
    assert!(error.contains("brokers give a new one 300000"), "{error}");
    assert!(!exists(&kafka, &format!("outbox.event.{less}")).await, "it was sent");
    relay.sigterm().await;
}

#[tokio::test]
async fn a_relay_that_may_not_ask_brokers_says_so_once_and_assumes_the_usual_limit_until_it_may() {
    let kafka = Kafka::start_secured(&[("message.max.bytes", "5000000")]).await;
    kafka.set_password(USER, "wonderland").await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let (small, small_too, large) = (unique("small"), unique("small"), unique("large"));
    for kind in [&small, &small_too, &large] {
        kafka.acl("--add", USER, &format!("outbox.event.{kind}")).await;
    }
    let dir = TempDir::new().unwrap();
    let file = properties(&dir, kafka.root_cert(), "wonderland");
    let env = [("KAFKA_CONFIG_FILE", file.as_str()), JSON];
    let relay: Relay = outbox.start(kafka.secured(), &env).await;
    for kind in [&small, &small_too] {
        insert(&outbox, kind, 10).await;
        arrives(&kafka, kind, 10).await;
    }
    insert(&outbox, &large, TWO_MB).await;
    let halted = halted(relay).await;
    halted.names(&[&large, "does not exist yet: 1048588 is assumed"]);
    halted.advises("grant DescribeConfigs on the cluster");
    let said = halted.stderr.lines().filter(|line| line.contains("grant DescribeConfigs on the cluster"));
    let warned = said.filter(|line| line.contains(r#""level":"WARN""#)).count();
    assert_eq!(warned, 1, "{}", halted.stderr);

    let principal = format!("User:{USER}");
    let grant = [
        "--add",
        "--force",
        "--allow-principal",
        &principal,
        "--operation",
        "DescribeConfigs",
        "--topic",
        "*",
        "--cluster",
    ];
    kafka.tool(&[&["org.apache.kafka.tools.AclCommand"], &grant[..]].concat()).await;
    let _relay = outbox.relay(kafka.secured(), &env).await;
    arrives(&kafka, &large, TWO_MB).await;
}

//! Where `verify` could take a lost row for one that its topic no longer has, or that is on its way: it says
//! that all is well only where nothing it read says otherwise.

use rdkafka::admin::AdminOptions;
use rdkafka::{Offset, TopicPartitionList};
use tempfile::TempDir;

use crate::load;
use crate::secured_kafka::{USER, properties};
use crate::support::{Kafka, Outbox, Postgres, published, run_cli, unique};
use crate::verify::{insert, report, says, skip, stop, verify};

const WAIT: [&str; 2] = ["--wait", "30s"];

/// Takes away what a partition has before an offset, as retention does.
async fn expire(outbox: &Outbox, topic: &str, before: i64) {
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, 0, Offset::Offset(before)).unwrap();
    outbox.kafka.admin().delete_records(&offsets, &AdminOptions::new()).await.unwrap();
}

#[tokio::test]
async fn a_lost_row_that_its_writer_dated_back_is_missing_and_not_expired() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("dated_back");
    let mut topic = outbox.kafka.create_topic(&format!("outbox.event.{kind}"), 1, &[]).await;
    let relay = outbox.streaming(&[], &[]).await;
    for rows in 1..=3 {
        insert(&outbox, &kind, 1, 1).await;
        topic.read_count(rows).await;
    }
    expire(&outbox, topic.name(), 1).await;
    stop(relay).await;
    outbox
        .database
        .exec(&format!(
            "insert into outbox (aggregatetype, aggregateid, type, \"timestamp\")
                 values ('{kind}', 'lost', 'T', now() at time zone 'utc' - interval '10 days')"
        ))
        .await;
    skip(&outbox).await;
    let relay = outbox.streaming(&[], &[]).await;
    let found = report(&outbox, &WAIT, &[], 1).await;
    // The first one went with what the topic has lost; that one is older than all that was found.
    says(&found, &[("rows", 6), ("found", 4), ("expired", 1), ("missing", 1)]);
    let lost: String = outbox.database.value("select id::text from outbox where aggregateid = 'lost'").await;
    assert_eq!(found["missing_rows"][0]["id"], lost, "{found:#}");
    stop(relay).await;
}

#[tokio::test]
async fn compaction_excuses_a_row_only_if_its_key_has_a_record() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("compacting");
    let compact = [("cleanup.policy", "compact")];
    outbox.kafka.create_topic(&format!("outbox.event.{kind}"), 1, &compact).await;
    stop(outbox.streaming(&[], &[]).await).await;
    for (key, payload) in [("replaced", "{}"), ("lost", "{}")] {
        outbox.insert(&kind, key, payload).await;
    }
    outbox
        .database
        .exec(&format!(
            "insert into outbox (aggregatetype, aggregateid, type) values ('{kind}', 'removed', 'Tested')"
        ))
        .await;
    skip(&outbox).await;
    let relay = outbox.streaming(&[], &[]).await;
    outbox.insert(&kind, "replaced", "{}").await;
    published(&relay, 2).await;
    let found = report(&outbox, &WAIT, &[], 1).await;
    // Two ticks and the later record are found; what has no value deletes its key, itself included.
    says(&found, &[("rows", 6), ("found", 3), ("expired", 2), ("missing", 1)]);
    let lost: String = outbox.database.value("select id::text from outbox where aggregateid = 'lost'").await;
    assert_eq!(found["missing_rows"][0]["id"], lost, "{found:#}");
    stop(relay).await;
}

#[tokio::test]
async fn without_a_living_slot_nothing_is_on_its_way() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("stranded");
    stop(outbox.streaming(&[], &[]).await).await;
    insert(&outbox, &kind, 5, 5).await;
    let found = report(&outbox, &[], &[], 0).await;
    says(&found, &[("rows", 6), ("not_confirmed", 5), ("missing", 0)]);
    outbox.drop_slot_behind_its_back().await;
    let found = report(&outbox, &[], &[], 1).await;
    says(&found, &[("rows", 6), ("not_confirmed", 5), ("missing", 0)]);
    assert_eq!(found["slot_ended"], "does not exist");
    let said = verify(&outbox, &[], &[]).await;
    let slot = outbox.slot();
    let why = format!("5 rows are not in Kafka, and slot {slot} does not exist");
    assert!(said.stderr.contains(&why) && said.stderr.contains("--backfill"), "{}", said.stderr);
    assert!(!said.stdout.contains("it is waited for"), "{}", said.stdout);
}

#[tokio::test]
async fn the_right_to_read_a_topic_is_enough_and_a_group_needs_none() {
    let kafka = Kafka::start_secured(&[]).await;
    kafka.set_password(USER, "wonderland").await;
    let outbox = load::Outbox::new(Postgres::shared().await).await;
    let topic = outbox.topic_name();
    kafka.create_topic(&topic, 3, &[]).await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    for n in 1..=20 {
        outbox.insert(&format!("key-{n}"), n).await;
    }
    outbox.confirmed().await;
    let dir = TempDir::new().unwrap();
    let file = properties(&dir, kafka.root_cert(), "wonderland");
    let url = outbox.database.url();
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("REPLICATION_SLOT", outbox.database.name()),
        ("KAFKA_BROKERS", kafka.secured()),
        ("KAFKA_CONFIG_FILE", file.as_str()),
        ("KAFKA_GROUP_ID", "of-somebody-else"),
        // Would find nothing if it meant anything.
        ("KAFKA_AUTO_OFFSET_RESET", "latest"),
    ];
    let said = run_cli(&["verify"], &env).await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("--operation Read") && said.stderr.contains(&topic), "{}", said.stderr);

    let acl = ["org.apache.kafka.tools.AclCommand", "--add", "--force", "--allow-principal"];
    let user = format!("User:{USER}");
    let rights = [user.as_str(), "--operation", "Read", "--operation", "Describe", "--topic", &topic];
    kafka.tool(&[&acl[..], &rights[..]].concat()).await;
    let said = run_cli(&["verify", "--output", "json"], &env).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let found: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    says(&found, &[("rows", 20), ("found", 20), ("missing", 0)]);
}

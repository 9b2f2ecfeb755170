//! `examples/consumer`: records that came twice, and a consumer that crashed, have their effect once.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{java, python, root, skipped};
use crate::support::wait::SOON;
use crate::support::{Outbox, Record, eventually, unique};

/// Longer than a group waits for a member that was killed, and a start of the Java machine.
const REBALANCED: Duration = Duration::from_secs(60);

/// Invoices of the test, of five customers.
const INVOICES: i64 = 200;

/// How many records of the topic a group has not committed yet; none known while it has not begun.
fn left(brokers: &str, group: &str, topic: &str) -> Option<i64> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", group).create().unwrap();
    let patience = Duration::from_secs(5);
    let metadata = consumer.fetch_metadata(Some(topic), patience).ok()?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().first()?.partitions() {
        list.add_partition(topic, partition.id());
    }
    let committed = consumer.committed_offsets(list, patience).ok()?;
    let mut left = 0;
    for element in committed.elements() {
        let (low, high) = consumer.fetch_watermarks(topic, element.partition(), patience).ok()?;
        left += high - if let Offset::Offset(offset) = element.offset() { offset } else { low };
    }
    Some(left)
}

/// Events in the topic, each twice: two relays with a slot each send the same rows.
async fn doubled(topic: &str) -> Outbox {
    let outbox = Outbox::with_slot().await;
    for schema in ["examples/schema.sql", "examples/consumer/schema.sql"] {
        assert!(outbox.psql(&[format!("--file={}", root().join(schema).display())]).await.0);
    }
    let second = unique("second");
    outbox.done(&["slot", "create", "--lock-timeout", "30s", "--replication-slot", &second]).await;
    outbox
        .database
        .exec(&format!(
            "insert into outbox (aggregatetype, aggregateid, type, payload)
                 select 'invoice', n::text, 'InvoiceIssued',
                        jsonb_build_object('invoice', n, 'customer', 'c' || n % 5, 'total', (n * 0.01)::text)
                   from generate_series(1, {INVOICES}) n"
        ))
        .await;
    let env = [("KAFKA_TOPIC_EVENTS", topic), ("REPLICATION_SLOT", &second)];
    let relays = [outbox.relay(&[], &env[..1]).await, outbox.relay(&[], &env).await];
    let mut reader = outbox.kafka.topic(topic);
    let records = reader.read_count(2 * usize::try_from(INVOICES).unwrap()).await;
    let mut by_id: HashMap<&str, Vec<&Record>> = HashMap::new();
    for record in records {
        by_id.entry(record.header("id").unwrap()).or_default().push(record);
    }
    for twins in by_id.values() {
        let [one, other] = twins[..] else { panic!("not twice: {twins:?}") };
        assert_eq!((&one.key, &one.value, &one.headers), (&other.key, &other.value, &other.headers));
    }
    drop(relays);
    outbox
}

async fn count(outbox: &Outbox, table: &str) -> i64 {
    outbox.database.value(&format!("select count(*) from {table}")).await
}

/// Runs a consumer on doubled records, kills it between a transaction and its offset, and runs it again.
async fn counts_each_event_once(mut command: Command) {
    let (topic, group) = (unique("doubled"), unique("group"));
    let outbox = doubled(&topic).await;
    command
        .env("DATABASE_URL", outbox.database.url())
        .env("KAFKA_BROKERS", outbox.kafka.bootstrap())
        .env("KAFKA_TOPIC", &topic)
        .env("KAFKA_GROUP_ID", &group)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());

    // Somebody holds one customer's row: the first event of that customer waits, those before it are done.
    let other = outbox.database.client().await;
    other.batch_execute("begin; insert into customer_totals values ('c3', 0, 0)").await.unwrap();
    let mut first = command.spawn().unwrap();
    eventually(REBALANCED, "it waits for a row", async || {
        assert!(first.try_wait().unwrap().is_none(), "the consumer ended");
        let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        (outbox.database.value::<i64>(waits).await > 0).then_some(())
    })
    .await;
    let done = count(&outbox, "processed_events").await;
    assert!((0..INVOICES).contains(&done), "{done}");
    first.kill().await.unwrap();
    other.batch_execute("rollback").await.unwrap();

    let second = command.spawn().unwrap();
    eventually(REBALANCED, "every record is passed over", async || {
        (left(outbox.kafka.bootstrap(), &group, &topic) == Some(0)).then_some(())
    })
    .await;
    let said = stopped(second).await;
    let repeated = said.lines().filter(|line| line.starts_with("seen before: ")).count();
    assert!(repeated >= usize::try_from(INVOICES).unwrap(), "every event came twice: {said}");
    assert_eq!(count(&outbox, "processed_events").await, INVOICES);
    let wrong: i64 = outbox
        .database
        .value(
            "select count(*) from customer_totals c full join (
                 select payload->>'customer' as customer, sum((payload->>'total')::numeric) as total, count(*) as invoices
                   from outbox group by 1) e using (customer)
              where (c.total, c.invoices) is distinct from (e.total, e.invoices)",
        )
        .await;
    assert_eq!((wrong, count(&outbox, "customer_totals").await), (0, 5), "once each: {said}");
}

/// SIGTERM, a graceful end, and what it printed.
async fn stopped(child: Child) -> String {
    let kill = format!("kill -TERM {}", child.id().unwrap());
    assert!(Command::new("sh").args(["-c", &kill]).status().await.unwrap().success());
    let output = timeout(SOON, child.wait_with_output()).await.expect("the consumer stops").unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    // The Java machine ends by the signal even when all is in order.
    assert!(
        output.status.success() || output.status.code() == Some(128 + 15),
        "{:?}: {complaints}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_python_consumer_counts_each_event_once_through_duplicates_and_a_crash() {
    match python("examples/consumer/python", "consumer.py").await {
        Ok(command) => counts_each_event_once(command).await,
        Err(missing) => skipped("Python consumer", &missing),
    }
}

#[tokio::test]
async fn the_java_consumer_counts_each_event_once_through_duplicates_and_a_crash() {
    match java("examples/consumer/java", "Consumer.java").await {
        Ok(command) => counts_each_event_once(command).await,
        Err(missing) => skipped("Java consumer", &missing),
    }
}

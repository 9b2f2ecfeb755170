//! `doctor` finds what is wrong, and what it prints mends it.

use crate::support::{Outbox, Postgres, run_cli, unique};

async fn findings(outbox: &Outbox) -> Vec<serde_json::Value> {
    let said = outbox.cli(&["doctor", "--output", "json"]).await;
    let report: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    report["checks"].as_array().unwrap().clone()
}

/// The SQL that mends the failed check, or `None` when it does not fail.
async fn failing(outbox: &Outbox, check: &str) -> Option<String> {
    let findings = findings(outbox).await;
    let found = findings.iter().find(|found| found["check"] == check && found["status"] == "fail")?;
    Some(found["mend"].as_str().expect("what mends it").to_owned())
}

#[tokio::test]
async fn what_the_doctor_prints_mends_what_it_found() {
    let outbox = Outbox::with_slot().await;
    for (check, wrong) in [
        ("publication", "ALTER PUBLICATION txstream_outbox DROP TABLE outbox"),
        ("publication", "ALTER PUBLICATION txstream_outbox SET TABLE outbox WHERE (aggregatetype <> 'x')"),
        (
            "replica_identity",
            "ALTER TABLE outbox DROP CONSTRAINT outbox_pkey; CREATE PUBLICATION theirs FOR TABLE outbox",
        ),
    ] {
        // A publication cannot filter rows before.
        if wrong.contains("WHERE") && Postgres::shared().await.version() < 15 {
            continue;
        }
        assert_eq!(failing(&outbox, check).await, None, "before: {wrong}");
        outbox.database.exec(wrong).await;
        let sql = failing(&outbox, check).await.unwrap_or_else(|| panic!("{check} does not see: {wrong}"));
        outbox.database.exec(&sql).await;
        assert_eq!(failing(&outbox, check).await, None, "after: {sql}");
    }
}

#[tokio::test]
async fn a_missing_topic_is_found_and_a_healthy_setup_has_nothing_that_fails() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("doctored");
    let topic = format!("outbox.event.{kind}");
    outbox.insert(&kind, "1", "{}").await;
    let url = outbox.database.url();
    let examined = async || {
        let env = [
            ("DATABASE_URL", url.as_str()),
            ("REPLICATION_SLOT", outbox.slot()),
            ("KAFKA_BROKERS", outbox.kafka.bootstrap()),
        ];
        let said = run_cli(&["doctor", "--output", "json"], &env).await;
        let report: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
        (said.code, report)
    };
    let about_topic = |report: &serde_json::Value| {
        let checks = report["checks"].as_array().unwrap();
        let found = checks.iter().find(|found| found["check"] == "topic").expect("a check of the topic");
        found.clone()
    };

    let (_, report) = examined().await;
    let found = about_topic(&report);
    assert_ne!(found["status"], "ok", "{found}");
    assert!(found["why"].as_str().unwrap().contains(&topic), "{found}");
    let mend = found["mend"].as_str().unwrap();
    assert!(mend.starts_with("kafka-topics.sh ") && mend.contains(&format!("--topic {topic} ")), "{found}");

    outbox.kafka.create_topic(&topic, 1, &[]).await;
    let (code, report) = examined().await;
    assert_eq!(about_topic(&report)["status"], "ok", "{report:#}");
    assert_eq!((code, &report["fail"]), (Some(0), &0.into()), "{report:#}");
}

//! `doctor` finds what is wrong, and what it prints mends it.

use crate::support::Outbox;

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
        assert_eq!(failing(&outbox, check).await, None, "before: {wrong}");
        outbox.database.exec(wrong).await;
        let sql = failing(&outbox, check).await.unwrap_or_else(|| panic!("{check} does not see: {wrong}"));
        outbox.database.exec(&sql).await;
        assert_eq!(failing(&outbox, check).await, None, "after: {sql}");
    }
}

//! What a relay logs while all is well: what it is about to do, and a line a minute.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Outbox, eventually};

/// A minute and what a busy machine adds to it.
const A_MINUTE: Duration = Duration::from_secs(100);

#[tokio::test]
async fn one_line_says_what_it_is_about_to_do_and_one_a_minute_what_was_published() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    let said = |message: &str| -> Vec<Value> {
        let lines = relay.log().into_iter().map(|line| serde_json::from_str::<Value>(&line).expect("JSON"));
        lines.filter(|line| line["message"] == message).collect()
    };
    let start = said("relaying committed outbox rows to Kafka");
    assert_eq!(start.len(), 1, "{start:#?}");
    for (field, value) in [
        ("slot", outbox.slot()),
        ("publication", "txstream_outbox"),
        ("tables", "public.outbox"),
        ("brokers", outbox.kafka.bootstrap()),
        ("version", env!("CARGO_PKG_VERSION")),
    ] {
        assert_eq!(start[0][field], value, "{}", start[0]);
    }

    const MINUTE: &str = "published in the last minute";
    let mut written = 1;
    let minute = eventually(A_MINUTE, "a line of the minute", async || {
        outbox.insert("minute", "1", "{}").await;
        written += 1;
        said(MINUTE).into_iter().next()
    })
    .await;
    let records = minute["records"].as_u64().unwrap();
    assert!((2..=written).contains(&records), "{written} were written: {minute}");
    assert!(minute["commit_to_ack_p99_ms"].is_number() && minute["confirmed_lsn"].is_string(), "{minute}");
    assert_eq!(said(MINUTE).len(), 1, "one a minute");
}

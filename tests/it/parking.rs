//! Records that Kafka will never take may go on coming: parking them, and what follows of their keys, neither
//! holds up what is confirmed nor grows, and every row is in the topic or among the letters.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::big::{PEAK_KIB, peak_memory_kib};
use crate::dead_letters::{Small, Steady, number, stop};
use crate::load::seconds;
use crate::support::eventually;
use crate::support::wait::SOON;

/// Keys that get a record too large, one after the other; a relay parks 10,000 at most.
const REJECTED_KEYS: u32 = 5_000;

/// A record that its topic is too small for, and one that follows of its key: a key of its own each time,
/// until they are used up.
fn rejected(kind: &str, n: u32) -> String {
    let key = n % REJECTED_KEYS;
    let filler = "x".repeat(3_000);
    format!(
        "insert into outbox (aggregatetype, aggregateid, type, payload)
             values ('{kind}', 'rejected-{key}', 'Tested', '{{\"n\": {}, \"filler\": \"{filler}\"}}'),
                    ('{kind}', 'rejected-{key}', 'Tested', '{{\"n\": {}}}')",
        2 * n,
        2 * n + 1
    )
}

/// A record of one of a hundred keys that flow.
fn accepted(kind: &str, n: u32) -> String {
    format!(
        "insert into outbox (aggregatetype, aggregateid, type, payload)
             values ('{kind}', 'accepted-{}', 'Tested', '{{\"n\": {n}}}')",
        n % 100
    )
}

#[tokio::test]
#[allow(clippy::print_stderr, reason = "a run of a minute says what came of it")]
async fn keys_parked_at_a_steady_rate_do_not_stop_the_confirmed_lsn_and_lose_nothing() {
    let small = Small::new().await;
    let relay = small.relay().await;
    small.insert_large("k", 0).await;
    small.letters(1).await;
    let writers = [
        Steady::start(&small, "k").await,
        Steady::writing(&small, Duration::from_millis(40), rejected).await,
        Steady::writing(&small, Duration::from_millis(4), accepted).await,
    ];
    let (begin, duration) = (Instant::now(), seconds("PARKING_SECONDS", 3));
    while begin.elapsed() < duration {
        let from = writers[0].written();
        eventually(SOON, "traffic goes on", async || (writers[0].written() > from + 50).then_some(())).await;
        small.confirmed().await;
    }
    for writer in writers {
        writer.stop().await;
    }
    small.confirmed().await;

    let (published, letters) = judged(&small).await;
    let peak = peak_memory_kib(&relay);
    eprintln!(
        "parking for {} s: {published} records published, {letters} stored, the relay needed {peak} KiB at most",
        duration.as_secs()
    );
    assert!(peak < PEAK_KIB, "{peak} KiB");
    let keys: i64 = small.outbox.database.value("select count(distinct key) from txstream_dead_letter").await;
    assert_eq!(relay.metrics().await.get("txstream_parked_keys", &[]), Some(keys as f64));
    stop(relay).await;
}

/// Every row is in the topic or among the letters, once, and in the order of its key. How many are where.
async fn judged(small: &Small) -> (usize, usize) {
    let database = &small.outbox.database;
    let text = |row: &tokio_postgres::Row, column: usize| row.get::<_, String>(column);
    let rows = database.query("select id::text from outbox").await;
    let rows: HashSet<String> = rows.iter().map(|row| text(row, 0)).collect();
    let letters = database
        .query(
            "select row_id, convert_from(key, 'utf8'), (convert_from(payload, 'utf8')::jsonb ->> 'n')::bigint
                 from txstream_dead_letter order by commit_lsn, ordinal",
        )
        .await;
    let mut topic = small.outbox.kafka.topic(&small.topic);
    let records = topic.read_to_end().await;

    let mut found = HashSet::new();
    let mut last: HashMap<String, i64> = HashMap::new();
    let mut see = |id: String, key: String, n: i64| {
        assert!(found.insert(id), "record {n} of {key} is there twice");
        let before = last.insert(key.clone(), n);
        assert!(before.is_none_or(|before| before < n), "key {key}: {n} after {before:?}");
    };
    for record in records {
        assert!(record.key_text().starts_with("accepted-"), "of a parked key: {record:?}");
        let n = i64::try_from(number(record)).unwrap();
        see(record.header("id").unwrap().to_owned(), record.key_text().to_owned(), n);
    }
    for letter in &letters {
        see(text(letter, 0), text(letter, 1), letter.get(2));
    }
    assert_eq!(found, rows, "rows lost, or letters and records of none");
    (records.len(), letters.len())
}

//! The comparison of what the table holds with what the topics hold.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::load::Books;
use crate::support::{Database, Kafka, Record};
use crate::words::{count, say};
use crate::{Outcome, TOPICS};

/// A committed event as the table has it.
struct Row {
    topic: String,
    key: String,
    version: i32,
    payload: String,
}

/// What the topics hold.
#[derive(Default)]
struct Found {
    /// The first record of each event.
    first: HashMap<Uuid, Record>,
    /// Per topic and key the versions, in the order of their first records.
    versions: BTreeMap<(String, String), Vec<i32>>,
    repeated: usize,
    /// Records that contradict a claim, in words.
    wrong: Vec<String>,
}

/// Checks every claim, says how it went, and fails if one does not hold.
pub(crate) async fn prove(database: &Database, kafka: &Kafka, books: &Books) -> Outcome<()> {
    let rows = committed(database).await?;
    let mut found = Found::default();
    for topic in TOPICS {
        for record in kafka.topic(topic).read_to_end().await {
            found.take(topic, record, &rows, books);
        }
    }
    let missing = rows.keys().filter(|id| !found.first.contains_key(id)).count();
    let disordered = found.versions.values().filter(|versions| !is_in_order(versions)).count();
    let keys =
        rows.values().map(|row| (&row.topic, &row.key)).collect::<std::collections::HashSet<_>>().len();

    let claims = [
        (
            rows.len() == books.committed() && missing == 0,
            format!("{} committed events, {} of them in Kafka, {missing} missing", count(rows.len()), {
                count(rows.len() - missing)
            }),
        ),
        (
            found.wrong.is_empty(),
            format!(
                "{} rolled back events, {} committed: {} records are of a rolled back one or unlike their row",
                count(books.rolled_back()),
                count(rows.len()),
                found.wrong.len()
            ),
        ),
        (
            disordered == 0,
            format!(
                "{} aggregates, {disordered} of them out of order (first records against the order of the commits)",
                count(keys)
            ),
        ),
    ];
    for (held, claim) in &claims {
        say(&format!("{}  {claim}", if *held { "ok  " } else { "FAIL" }));
    }
    say(&format!(
        "      {} records repeat an earlier one: the kill came before the slot knew of them.\n      \
         A repeated record has the same bytes and the same id, so consumers can tell.",
        count(found.repeated)
    ));
    for wrong in found.wrong.iter().take(10) {
        say(&format!("      {wrong}"));
    }
    if claims.iter().all(|(held, _)| *held) { Ok(()) } else { Err("a claim did not hold, see above".into()) }
}

/// The events in the table: what was committed, and nothing else.
async fn committed(database: &Database) -> Outcome<HashMap<Uuid, Row>> {
    let sql = "SELECT id, 'outbox.event.' || aggregatetype, aggregateid, (payload ->> 'version')::int, \
               payload::text FROM outbox";
    let rows = database.client().await.query(sql, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| {
            let event = Row { topic: row.get(1), key: row.get(2), version: row.get(3), payload: row.get(4) };
            (row.get(0), event)
        })
        .collect())
}

/// Versions are given under the account's row lock, so the order of the commits is 1, 2, 3 …
fn is_in_order(versions: &[i32]) -> bool {
    versions.iter().zip(1..).all(|(&version, expected)| version == expected)
}

impl Found {
    /// Takes in a record; those of a key come in the order of their offsets.
    fn take(&mut self, topic: &str, record: &Record, rows: &HashMap<Uuid, Row>, books: &Books) {
        let place = format!("{topic} partition {} offset {}", record.partition, record.offset);
        let Some(id) = record.header("id").and_then(|id| id.parse::<Uuid>().ok()) else {
            self.wrong.push(format!("{place}: no header id"));
            return;
        };
        let Some(row) = rows.get(&id) else {
            let what = if books.was_rolled_back(id) { "was rolled back" } else { "was never written" };
            self.wrong.push(format!("{place}: event {id} {what}"));
            return;
        };
        if topic != row.topic || record.key_text() != row.key || record.value_text() != row.payload {
            self.wrong.push(format!("{place}: event {id} is not what its row says"));
        }
        if let Some(first) = self.first.get(&id) {
            self.repeated += 1;
            let same = first.partition == record.partition
                && (&first.key, &first.value, &first.headers)
                    == (&record.key, &record.value, &record.headers);
            if !same {
                self.wrong
                    .push(format!("{place}: a repetition of event {id} that differs from the first record"));
            }
            return;
        }
        self.first.insert(id, record.clone());
        self.versions.entry((topic.to_owned(), row.key.clone())).or_default().push(row.version);
    }
}

//! Rows in the outbox, and a slot that stands before them.

use tokio_postgres::types::PgLsn;

use crate::TOPIC;
use crate::support::{Database, run_cli, unique};

/// The publication of `migrate up`.
pub(crate) const PUBLICATION: &str = "txstream_outbox";

/// Aggregates take turns; their number makes every partition busy.
const AGGREGATES: u64 = 10_000;

/// A slot before some committed rows; runs drain copies of it.
pub(crate) struct Backlog {
    slot: String,
    pub(crate) rows: u64,
    pub(crate) commits: u64,
    /// The end of the last commit.
    pub(crate) end: PgLsn,
    /// Mean size of a payload, and of a row with its other columns.
    pub(crate) payload_bytes: i64,
    pub(crate) row_bytes: i64,
}

/// Creates outbox, publication and the relay's own tables.
pub(crate) async fn migrate(database: &Database) {
    let output = run_cli(&["migrate", "up"], &[("DATABASE_URL", &database.url())]).await;
    assert_eq!(output.code, Some(0), "txstream migrate up: {}", output.stderr);
}

impl Backlog {
    /// Creates the slot, then writes the rows.
    pub(crate) async fn write(database: &Database, rows: u64, rows_per_commit: u64) -> Self {
        let client = database.client().await;
        let slot = unique("backlog");
        let create = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
        client.query(create, &[&slot]).await.unwrap();
        let aggregate_type = TOPIC.rsplit('.').next().unwrap();
        let insert = format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) \
             SELECT '{aggregate_type}', (n % {AGGREGATES})::text, 'OrderCreated', \
                    jsonb_build_object('order', n, 'note', repeat(md5(n::text), 6), 'total', n * 7 % 1000) \
             FROM generate_series($1::bigint, $2::bigint) n"
        );
        let insert = client.prepare(&insert).await.unwrap();
        let commits = rows.div_ceil(rows_per_commit);
        let mut end = None;
        for commit in 0..commits {
            let first = commit * rows_per_commit + 1;
            let last = (first + rows_per_commit - 1).min(rows);
            // A slot made before the last commit knows its exact end without decoding the others.
            let tail = if commit + 1 == commits { Some(unique("tail")) } else { None };
            if let Some(tail) = &tail {
                client.query(create, &[tail]).await.unwrap();
            }
            let bounds = [i64::try_from(first).unwrap(), i64::try_from(last).unwrap()];
            client.execute(&insert, &[&bounds[0], &bounds[1]]).await.unwrap();
            if let Some(tail) = &tail {
                end = Some(end_of_last_commit(database, tail).await);
            }
        }
        let sizes = "SELECT avg(octet_length(payload::text))::bigint, avg(pg_column_size(o))::bigint \
                     FROM (SELECT * FROM outbox LIMIT 1000) o";
        let sizes = client.query_one(sizes, &[]).await.unwrap();
        let end = end.expect("a backlog has a commit");
        Self { slot, rows, commits, end, payload_bytes: sizes.get(0), row_bytes: sizes.get(1) }
    }

    /// A copy of the slot, for one run.
    pub(crate) async fn copy(&self, database: &Database) -> String {
        let copy = unique("run");
        let sql = format!("SELECT pg_copy_logical_replication_slot('{}', '{copy}')", self.slot);
        database.query(&sql).await;
        copy
    }
}

/// Drops a copy that was drained.
pub(crate) async fn drop_slot(database: &Database, slot: &str) {
    database.query(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
}

/// Where the commit behind the slot ends: the position of the last message of its decoding. Drops the slot.
async fn end_of_last_commit(database: &Database, slot: &str) -> PgLsn {
    let end = database
        .value(&format!(
            "SELECT max(lsn) FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, \
             'proto_version', '1', 'publication_names', '{PUBLICATION}')"
        ))
        .await;
    drop_slot(database, slot).await;
    end
}

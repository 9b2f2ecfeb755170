//! Which rows a backfill reads, in which order, as SQL.
//!
//! A row is taken when its `xmin`, widened to 64 bits, is not below the transaction from which on rows may
//! be unconfirmed. Not `pg_visible_in_snapshot`: it is wrong for the ids of subtransactions, and a row
//! written under a savepoint has one: it would pass for confirmed and be lost.

use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::Client;

use super::super::checkpoint::{self, Recovery};
use super::super::slot_life::SlotError;
use super::Backfill;
use crate::outbox::TableName;
use crate::pgoutput::{Relation, RelationColumn};
use crate::postgres::PgError;
use crate::postgres::publication::{self, Table, TableKind};
use crate::postgres::replication::PINNED;
use crate::relay::Relay;
use crate::relay::rows::Reading;

/// Rows are counted up to here: further would read a big table for a number nobody needs.
const COUNTED: u64 = 1_000_000;

/// The id that the next transaction gets at the earliest, in 64 bits: every row that a snapshot shows has a
/// lower one.
const NEXT: &str =
    "(select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::pg_catalog.int8)";

/// Rows that may be unconfirmed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The first transaction that may be; `None` takes every row.
    pub since: Option<u64>,
    /// A condition of the person's, as SQL.
    pub filter: Option<String>,
}

/// How many rows of a table are selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The table.
    pub table: TableName,
    /// At least so many.
    pub rows: u64,
    /// There are more.
    pub more: bool,
}

/// The row's `xmin` in 64 bits. It lies below [`NEXT`]: the 32 bits of a higher one are of the epoch before.
/// 1 and 2 mark rows that are older than any. A row frozen epochs ago may seem younger than it is: it is
/// published again, never left out.
fn widened() -> String {
    let xid = "xmin::text::pg_catalog.int8";
    format!(
        "case when {xid} < 3 then 0 else {xid} + 4294967296 * greatest(({NEXT} >> 32) \
         - ({xid} >= ({NEXT} & 4294967295))::pg_catalog.int4, 0) end"
    )
}

impl Selection {
    fn condition(&self) -> String {
        let since = self.since.map_or_else(|| "true".to_owned(), |xid| format!("{} >= {xid}", widened()));
        match &self.filter {
            // On lines of its own: it may end with a comment.
            Some(filter) => format!("{since} and (\n{filter}\n)"),
            None => since,
        }
    }
}

/// The rows themselves, or those of the partitions. Tables that merely inherit are published by themselves.
fn from(table: &Table) -> String {
    let only = if table.kind == TableKind::Partitioned { "" } else { "only " };
    format!("from {only}{}", table.quoted())
}

/// How many rows of each outbox table are selected; a first try of the condition, too.
///
/// # Errors
/// [`SlotError::Selection`] when the rows cannot be selected.
pub async fn count(
    client: &Client,
    publication: &str,
    tables: &[TableName],
    selection: &Selection,
) -> Result<Vec<Count>, SlotError> {
    let mut counts = Vec::new();
    for name in tables {
        let table = publication::table(client, &name.schema, &name.name, publication).await?;
        let table = table.ok_or_else(|| SlotError::NoTable(name.to_string()))?;
        let sql = format!(
            "select count(*) from (select 1 {} where {} limit {}) counted",
            from(&table),
            selection.condition(),
            COUNTED + 1
        );
        let failed = |source| SlotError::Selection {
            table: name.to_string(),
            source: PgError::statement("count its rows", source),
        };
        let row = client.query_typed_one(&sql, &[]).await.map_err(failed)?;
        let rows = row.try_get::<_, i64>(0).map_err(failed)?.unsigned_abs();
        counts.push(Count { table: name.clone(), rows: rows.min(COUNTED), more: rows > COUNTED });
    }
    Ok(counts)
}

/// Begins the transaction that reads, in the snapshot, and gives the pair that holds once all it shows is
/// published.
pub(super) async fn begin(
    client: &Client,
    relay: &Relay,
    backfill: &Backfill,
) -> Result<(Recovery, Vec<Reading>), PgError> {
    let failed = |source| PgError::statement("read the outbox in the slot's snapshot", source);
    let snapshot = backfill.snapshot.as_ref();
    let snapshot =
        snapshot.map_or_else(String::new, |id| format!("set transaction snapshot {};", escape_literal(id)));
    let pinned: String = PINNED.map(|(name, value)| format!("set local {name} = '{value}';")).concat();
    // A policy that hides rows must be an error. Kafka may be away for hours meanwhile.
    let sql = format!(
        "begin isolation level repeatable read read only; {snapshot} {pinned} set local row_security = off; \
         select pg_catalog.set_config(name, '0', true) from pg_catalog.pg_settings \
         where name in ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')"
    );
    client.batch_execute(&sql).await.map_err(failed)?;
    let recovery = checkpoint::take_pair(client).await?;
    let row = client.query_typed_one("select current_setting('track_commit_timestamp') = 'on'", &[]).await;
    let by_time: bool = row.and_then(|row| row.try_get(0)).map_err(failed)?;
    let mut readings = Vec::new();
    for name in &relay.outbox.tables {
        let publication = &relay.settings.publication;
        let table = publication::table(client, &name.schema, &name.name, publication).await?;
        let table = table.ok_or_else(|| PgError::Setting(format!("outbox table {name} does not exist")))?;
        readings.push(reading(&table, &backfill.selection, by_time));
    }
    Ok((recovery, readings))
}

/// Commit time, where the server keeps it, comes near commit order; the id of the transaction is the order
/// in which transactions began to write.
fn reading(table: &Table, selection: &Selection, by_time: bool) -> Reading {
    let sent = table.published.as_ref().and_then(|published| published.columns.as_ref());
    let columns: Vec<_> =
        table.columns.iter().filter(|column| sent.is_none_or(|sent| sent.contains(&column.name))).collect();
    let names: Vec<_> = columns.iter().map(|column| escape_identifier(&column.name)).collect();
    let widened = widened();
    let order = if by_time {
        let time = "pg_catalog.pg_xact_commit_timestamp(xmin)";
        format!("{time} nulls first, case when {time} is null then {widened} end")
    } else {
        widened
    };
    let sql = format!(
        "select {} {} where {} order by {order}, cmin::text::pg_catalog.int8, ctid",
        names.join(", "),
        from(table),
        selection.condition(),
    );
    let relation = Relation {
        id: table.oid,
        namespace: table.schema.clone(),
        name: table.name.clone(),
        columns: columns
            .into_iter()
            .map(|column| RelationColumn {
                name: column.name.clone(),
                type_id: column.type_id,
                type_modifier: -1,
            })
            .collect(),
    };
    Reading { relation, sql }
}

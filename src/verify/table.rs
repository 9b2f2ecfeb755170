//! An outbox table and the SQL that reads it: no more columns than topic, key and id are made of.

use std::fmt::Write as _;

use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::VerifyError;
use super::confirmed::Confirmed;
use super::passes::{BUCKETS, Divided, Pass};
use super::snapshot::Moment;
use crate::outbox::{Settings, TableName};
use crate::pgoutput::{Relation, RelationColumn};
use crate::postgres::PgError;
use crate::postgres::publication::{self, TableKind};
use crate::relay::slot_life::SlotError;
use crate::retention::widened;

/// `timestamp` and `timestamptz`.
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;

/// SQL for the highest transaction id that a row may have which the snapshot sees.
const LAST_VISIBLE: &str =
    "(select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::int8 - 1)";

/// An outbox table.
#[derive(Debug)]
pub(super) struct Table {
    /// As people read it.
    pub(super) name: String,
    /// For SQL.
    pub(super) quoted: String,
    /// The FROM clause.
    pub(super) from: String,
    /// As the replication stream would describe it.
    pub(super) relation: Relation,
    /// For each column of the relation where the select list has it; none for one that is not read.
    pub(super) read: Vec<Option<usize>>,
    /// Where the select list has what is no column: confirmed, written, committed, begun, without value.
    pub(super) own: usize,
    /// The rows that are compared.
    pub(super) condition: String,
    /// Commit timestamps are those of the inserts.
    pub(super) ordered: bool,
    /// Why the order of its rows is not judged.
    pub(super) not_ordered: Option<String>,
    columns: Vec<String>,
    written: String,
    committed: String,
    begun: String,
    no_value: String,
    id: String,
    key: String,
}

/// What the tables are looked at with.
pub(super) struct Look<'a> {
    pub(super) client: &'a Client,
    pub(super) outbox: &'a Settings,
    pub(super) publication: &'a str,
    pub(super) since: Option<&'a Moment>,
    /// The server keeps the times of commits.
    pub(super) commit_times: bool,
}

impl Table {
    /// Reads the catalogs.
    ///
    /// # Errors
    /// [`VerifyError`] for a table that is none, lacks columns, or whose rows have no age with `--since`.
    pub(super) async fn look(look: &Look<'_>, name: &TableName) -> Result<Self, VerifyError> {
        let found = publication::table(look.client, &name.schema, &name.name, look.publication).await?;
        let found = found.ok_or_else(|| SlotError::NoTable(name.to_string()))?;
        if found.kind == TableKind::NotReplicated {
            return Err(SlotError::NotReplicated(name.to_string()).into());
        }
        let missing = look.outbox.missing_columns(&found.column_names());
        if !missing.is_empty() {
            let what = format!("outbox table {name} has no column {}", missing.join(", "));
            return Err(VerifyError::Unreadable(what));
        }
        let updated = updated(look.client, &found).await?;
        let not_ordered = not_ordered(look, name, updated);
        let names = look.outbox.preset.columns();
        let needed = [names.id, names.aggregate_type, names.aggregate_id, names.event_type];
        let needed: Vec<&str> = needed.into_iter().chain(names.created_at).collect();
        let mut columns = Vec::new();
        let read = found.columns.iter().map(|column| {
            needed.contains(&column.name.as_str()).then(|| {
                columns.push(format!("o.{}", escape_identifier(&column.name)));
                columns.len() - 1
            })
        });
        let read: Vec<Option<usize>> = read.collect();
        let null = || "null".to_owned();
        let time = Time::of(look, &found);
        let committed = look.commit_times.then(|| millis("pg_catalog.pg_xact_commit_timestamp(o.xmin)"));
        // The server's own time before the writer's, unless an UPDATE has changed it.
        let by_writer = time.as_ref().map(|time| millis(&time.sql));
        let written = if updated { by_writer.or(committed.clone()) } else { committed.clone().or(by_writer) };
        let begun = if updated { null() } else { widened("o.xmin::text::int8", LAST_VISIBLE) };
        let no_value = look.outbox.preset.value_column();
        let no_value = no_value.map(|column| format!("o.{} is null", escape_identifier(column)));
        let condition = match (look.since, &time) {
            (None, _) => "true".to_owned(),
            (Some(since), Some(time)) => time.since(since),
            (Some(_), None) => {
                let column = look.outbox.preset.time_column();
                return Err(VerifyError::NoAge { table: name.to_string(), column });
            }
        };
        // A plain table's children are tables of their own to the stream.
        let only = if found.kind == TableKind::Partitioned { "" } else { "only " };
        let text = |column: &str| format!("coalesce(o.{}::text, '')", escape_identifier(column));
        Ok(Self {
            name: name.to_string(),
            quoted: found.quoted(),
            from: format!("{only}{} o", found.quoted()),
            relation: Relation {
                id: found.oid,
                namespace: found.schema.clone(),
                name: found.name.clone(),
                columns: found.columns.iter().map(column).collect(),
            },
            read,
            own: columns.len(),
            condition,
            ordered: not_ordered.is_none(),
            not_ordered,
            columns,
            written: written.unwrap_or_else(null),
            committed: committed.unwrap_or_else(null),
            begun,
            no_value: no_value.unwrap_or_else(|| "false".to_owned()),
            id: text(names.id),
            key: text(names.aggregate_id),
        })
    }

    /// SQL for the bucket of a row.
    pub(super) fn bucket(&self, divided: Divided) -> String {
        let by = match divided {
            Divided::ByKey => &self.key,
            Divided::ById => &self.id,
        };
        format!("(pg_catalog.hashtextextended({by}, 0) & {})", BUCKETS - 1)
    }

    /// SQL for the rows of a pass.
    pub(super) fn select(&self, pass: &Pass, confirmed: Confirmed) -> String {
        let (columns, confirmed) = (self.columns.join(", "), confirmed_sql(confirmed));
        let mut sql = format!(
            "select {columns}, {confirmed}, {}, {}, {}, {} from {} where {}",
            self.written, self.committed, self.begun, self.no_value, self.from, self.condition
        );
        if let Some((first, last)) = pass.buckets {
            let _ = write!(sql, " and {} between {first} and {last}", self.bucket(pass.divided));
        }
        sql
    }
}

/// The time of a row.
struct Time {
    /// SQL for a `timestamptz`.
    sql: String,
    /// A column without a zone, which is UTC as in the table that `migrate up` makes.
    without_zone: Option<String>,
}

impl Time {
    /// The preset's own column, else the commit's time where the server keeps that.
    fn of(look: &Look<'_>, table: &publication::Table) -> Option<Self> {
        let name = look.outbox.preset.time_column();
        let column = table.columns.iter().find(|column| column.name == name);
        let quoted = format!("o.{}", escape_identifier(name));
        match column.map(|column| column.type_id) {
            Some(TIMESTAMPTZ) => Some(Self { sql: quoted, without_zone: None }),
            Some(TIMESTAMP) => {
                Some(Self { sql: format!("({quoted} at time zone 'utc')"), without_zone: Some(quoted) })
            }
            _ if look.commit_times => Some(Self {
                sql: "pg_catalog.pg_xact_commit_timestamp(o.xmin)".to_owned(),
                without_zone: None,
            }),
            _ => None,
        }
    }

    /// The rows since a moment, and those of unknown age. The column stands alone, for its index and for
    /// partitions.
    fn since(&self, moment: &Moment) -> String {
        let literal = format!("{}::timestamptz", escape_literal(&moment.text));
        match &self.without_zone {
            Some(column) => format!("({column} >= ({literal} at time zone 'utc') or {column} is null)"),
            None => format!("({0} >= {literal} or {0} is null)", self.sql),
        }
    }
}

fn millis(time: &str) -> String {
    format!("case when isfinite({time}) then floor(extract(epoch from {time}) * 1000)::int8 end")
}

/// Whether the transaction that wrote a row is confirmed: see [`crate::retention`] for the arithmetic.
fn confirmed_sql(confirmed: Confirmed) -> String {
    match confirmed {
        Confirmed::All => "true".to_owned(),
        Confirmed::Nothing => "false".to_owned(),
        Confirmed::Below(xid) => {
            let widened = widened("o.xmin::text::int8", LAST_VISIBLE);
            format!("(o.xmin::text::int8 < 3 or {widened} < {xid})")
        }
    }
}

fn column(column: &publication::Column) -> RelationColumn {
    RelationColumn { name: column.name.clone(), type_id: column.type_id, type_modifier: -1 }
}

/// Why commit timestamps do not tell when the rows of a table were inserted, if they do not.
fn not_ordered(look: &Look<'_>, name: &TableName, updated: bool) -> Option<String> {
    if !look.commit_times {
        return Some("track_commit_timestamp is off".to_owned());
    }
    updated.then(|| format!("rows of {name} were updated, which changes the time of their commit"))
}

/// Whether rows of a table were updated, so that they carry another transaction than the one that inserted them.
async fn updated(client: &Client, table: &publication::Table) -> Result<bool, VerifyError> {
    let sql = "select coalesce(sum(pg_catalog.pg_stat_get_tuples_updated(relid)), 0)::int8
                 from (select $1::oid as relid union select relid from pg_catalog.pg_partition_tree($1)) t";
    let failed = |error| PgError::statement("ask whether rows were updated", error);
    let row = client.query_typed_one(sql, &[(&table.oid, Type::OID)]).await.map_err(failed)?;
    Ok(row.try_get::<_, i64>(0).map_err(failed)? > 0)
}

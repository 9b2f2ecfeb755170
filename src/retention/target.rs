//! What an outbox table consists of, and how old its rows are: read from the catalogs, before anything is
//! deleted, so that what cannot work is refused at once.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::{Prune, PruneError, grant, literal};
use crate::outbox::TableName;
use crate::postgres::PgError;
use crate::postgres::publication::quoted;
use crate::relay::slot_life::SlotError;
use postgres_protocol::escape::escape_identifier;

/// An outbox table.
#[derive(Debug)]
pub(super) struct Target {
    /// As people read it.
    pub(super) table: String,
    /// Where its rows lie: itself, or its partitions.
    pub(super) leaves: Vec<Leaf>,
    /// Partitions right below it whose bounds say that every row in them is old, oldest first.
    pub(super) old_partitions: Vec<Partition>,
    /// How old a row is.
    pub(super) age: Age,
}

/// A table that holds rows.
#[derive(Debug)]
pub(super) struct Leaf {
    /// As people read it.
    pub(super) name: String,
    /// For SQL.
    pub(super) quoted: String,
    /// Its OID.
    pub(super) oid: u32,
    /// The partition right below the root that it is, or that it is in.
    pub(super) under: Option<u32>,
}

/// A partition that may go whole.
#[derive(Debug)]
pub(super) struct Partition {
    /// As people read it.
    pub(super) name: String,
    /// For SQL.
    pub(super) quoted: String,
    /// Its OID.
    pub(super) oid: u32,
}

/// How old a row is.
#[derive(Debug)]
pub(super) struct Age {
    /// SQL: true for an old row, null where that is not known.
    pub(super) is_old: String,
    /// The column behind it, with the SQL of the moment before which a value of it is old.
    column: Option<(String, String)>,
}

/// Looks at an outbox table.
///
/// # Errors
/// [`PruneError`] for a table that does not exist or is none, whose age is unknown, or from which this
/// role may not delete.
pub(super) async fn look(
    client: &Client,
    prune: &Prune<'_>,
    name: &TableName,
    before: &str,
) -> Result<Target, PruneError> {
    let (oid, partitioned) = kind(client, name).await?;
    let age = age(client, prune, name, oid, before).await?;
    let mut found = relations(client, oid, age.column.as_ref()).await?;
    if !partitioned {
        found.retain(|relation| relation.oid == oid);
    }
    may_delete(client, &found).await?;
    let old_partitions = found.iter().filter(|relation| relation.old).map(|relation| Partition {
        name: relation.name.clone(),
        quoted: relation.quoted.clone(),
        oid: relation.oid,
    });
    let old_partitions: Vec<Partition> = old_partitions.collect();
    if let Some(foreign) = found.iter().find(|relation| relation.old && !relation.owned) {
        return Err(PruneError::NotOwner {
            role: role(client).await?,
            partition: foreign.name.clone(),
            owner: foreign.owner.clone(),
        });
    }
    let leaves = found.into_iter().filter(|relation| relation.holds_rows);
    let leaves = leaves.map(|r| Leaf { name: r.name, quoted: r.quoted, oid: r.oid, under: r.under });
    Ok(Target { table: name.to_string(), leaves: leaves.collect(), old_partitions, age })
}

async fn kind(client: &Client, name: &TableName) -> Result<(u32, bool), PruneError> {
    let failed = reading("look for the outbox table");
    let row = client
        .query_typed_opt(
            "select c.oid, c.relkind = 'p', c.relkind in ('r', 'p') and c.relpersistence = 'p'
               from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
              where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p', 'v', 'm', 'f')",
            &[(&name.schema, Type::TEXT), (&name.name, Type::TEXT)],
        )
        .await
        .map_err(&failed)?;
    let row = row.ok_or_else(|| SlotError::NoTable(name.to_string()))?;
    if !row.try_get::<_, bool>(2).map_err(&failed)? {
        return Err(SlotError::NotReplicated(name.to_string()).into());
    }
    Ok((row.try_get(0).map_err(&failed)?, row.try_get(1).map_err(&failed)?))
}

/// A column of time if there is one, else the commit's own, where the server keeps that.
async fn age(
    client: &Client,
    prune: &Prune<'_>,
    name: &TableName,
    oid: u32,
    before: &str,
) -> Result<Age, PruneError> {
    let failed = reading("look for the age of rows");
    let column = prune.age_column.unwrap_or_else(|| prune.outbox.preset.time_column());
    let row = client
        .query_typed_one(
            "select (select pg_catalog.format_type(atttypid, null) from pg_catalog.pg_attribute
                      where attrelid = $1 and attname = $2 and attnum > 0 and not attisdropped),
                    pg_catalog.current_setting('track_commit_timestamp')::bool",
            &[(&oid, Type::OID), (&column, Type::TEXT)],
        )
        .await
        .map_err(&failed)?;
    let kind: Option<&str> = row.try_get(0).map_err(&failed)?;
    let moment = match kind {
        Some("timestamp with time zone") => literal(before),
        // Without a zone it is UTC, as in the table that `migrate up` makes.
        Some("timestamp without time zone") => format!("({} at time zone 'utc')", literal(before)),
        Some(actual) => {
            return Err(PruneError::AgeType {
                table: name.to_string(),
                column: column.to_owned(),
                actual: actual.to_owned(),
            });
        }
        None if prune.age_column.is_none() && row.try_get(1).map_err(&failed)? => {
            let is_old = format!("pg_catalog.pg_xact_commit_timestamp(xmin) < {}", literal(before));
            return Ok(Age { is_old, column: None });
        }
        None => return Err(PruneError::NoAge { table: name.to_string(), column: column.to_owned() }),
    };
    let is_old = format!("{} < {moment}", escape_identifier(column));
    Ok(Age { is_old, column: Some((column.to_owned(), moment)) })
}

/// The table itself, or one of its partitions.
struct Relation {
    oid: u32,
    name: String,
    quoted: String,
    under: Option<u32>,
    holds_rows: bool,
    old: bool,
    owner: String,
    owned: bool,
    may_delete: bool,
}

/// `under` is the ancestor right below the root. A partition is old as a whole only where the root is
/// divided by range of the age column alone: then its upper bound, which MAXVALUE and a DEFAULT partition do
/// not have, is above every row in it.
async fn relations(
    client: &Client,
    oid: u32,
    column: Option<&(String, String)>,
) -> Result<Vec<Relation>, PruneError> {
    let (column, moment) = column.map_or(("", "null::timestamptz"), |(c, m)| (c.as_str(), m.as_str()));
    let zone = if moment.contains("at time zone") { "timestamp" } else { "timestamptz" };
    let sql = format!(
        "with recursive tree as (
            select $1::oid as oid, null::oid as under
            union all
            select i.inhrelid, coalesce(tree.under, i.inhrelid)
              from tree join pg_catalog.pg_inherits i on i.inhparent = tree.oid),
        root as (
            select exists (select from pg_catalog.pg_partitioned_table p join pg_catalog.pg_attribute a
                               on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
                            where p.partrelid = $1 and p.partstrat = 'r' and p.partnatts = 1 and a.attname = $2)
                   as by_age),
        found as (
            select c.oid, n.nspname::text, c.relname::text, tree.under, c.relkind = 'r' as holds_rows, c.relowner,
                   case when root.by_age and c.oid = tree.under
                        then substring(pg_catalog.pg_get_expr(c.relpartbound, c.oid) from $re$ TO \\('([^']+)'\\)$re$)
                   end::{zone} as upper
              from root, tree join pg_catalog.pg_class c on c.oid = tree.oid
              join pg_catalog.pg_namespace n on n.oid = c.relnamespace)
        select oid, nspname, relname, under, holds_rows, coalesce(upper <= {moment}, false),
               pg_catalog.pg_get_userbyid(relowner)::text, pg_catalog.pg_has_role(relowner, 'usage'),
               pg_catalog.has_table_privilege(oid, 'select') and pg_catalog.has_table_privilege(oid, 'delete')
          from found order by upper, relname"
    );
    let failed = reading("read the table's partitions");
    let rows =
        client.query_typed(&sql, &[(&oid, Type::OID), (&column, Type::TEXT)]).await.map_err(&failed)?;
    rows.iter().map(relation).collect::<Result<_, _>>().map_err(|error| failed(error).into())
}

fn relation(row: &Row) -> Result<Relation, tokio_postgres::Error> {
    let (schema, name): (String, String) = (row.try_get(1)?, row.try_get(2)?);
    Ok(Relation {
        oid: row.try_get(0)?,
        quoted: quoted(&schema, &name),
        name: TableName { schema, name }.to_string(),
        under: row.try_get(3)?,
        holds_rows: row.try_get(4)?,
        old: row.try_get(5)?,
        owner: row.try_get(6)?,
        owned: row.try_get(7)?,
        may_delete: row.try_get(8)?,
    })
}

async fn may_delete(client: &Client, found: &[Relation]) -> Result<(), PruneError> {
    // Partitions are read and emptied one by one: a right on the root is none on them.
    let without: Vec<&Relation> = found.iter().filter(|r| r.holds_rows && !r.may_delete).collect();
    if without.is_empty() {
        return Ok(());
    }
    let role = role(client).await?;
    let quoted: Vec<&str> = without.iter().map(|relation| relation.quoted.as_str()).collect();
    let sql = grant(&quoted, &role);
    let tables = without.iter().map(|relation| relation.name.clone()).collect();
    Err(PruneError::NoRight { role, tables, sql })
}

async fn role(client: &Client) -> Result<String, PruneError> {
    let failed = reading("ask for the role");
    let row = client.query_typed_one("select current_user::text", &[]).await.map_err(&failed)?;
    Ok(row.try_get(0).map_err(&failed)?)
}

fn reading(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> PgError {
    move |source| PgError::statement(doing, source)
}

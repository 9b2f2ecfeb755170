//! Publications and the tables in them, as the catalogs show them.
//!
//! Reads only. What a publication lacks for a table is a list of [`Gap`]s, each with the SQL that
//! closes it.

use postgres_protocol::escape::escape_identifier;
use serde::Deserialize;
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};

use super::PgError;

/// A publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its OID.
    pub oid: u32,
    /// Name, unquoted.
    pub name: String,
    /// `FOR ALL TABLES`.
    pub all_tables: bool,
    /// Inserts are published.
    pub inserts: bool,
    /// Updates, deletes or truncates are published too.
    pub other_operations: bool,
    /// Rows of partitions come under their root's name.
    pub via_root: bool,
}

/// What kind of relation a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// An ordinary table.
    Plain,
    /// The root of a partition tree, or of a part of it.
    Partitioned,
    /// A view, a foreign table, a temporary or unlogged table: logical replication never sees its rows.
    NotReplicated,
}

/// A table and how a publication shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its OID; a table dropped and recreated, or swapped by rename, has another.
    pub oid: u32,
    /// Schema, unquoted.
    pub schema: String,
    /// Name, unquoted.
    pub name: String,
    /// What it is.
    pub kind: TableKind,
    /// Its columns in order.
    pub columns: Vec<Column>,
    /// How the publication asked about shows it, if it does.
    pub published: Option<Published>,
    /// The publication shows the table under the name of this table above it.
    pub published_as: Option<String>,
}

/// A column of a [`Table`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name, unquoted.
    pub name: String,
    /// Type OID.
    pub type_id: u32,
}

/// How a publication shows a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The columns sent; `None` before PostgreSQL 15, which sends all.
    pub columns: Option<Vec<String>>,
    /// The row filter, as SQL.
    pub row_filter: Option<String>,
}

/// Why rows of a table would not come, or not whole, through a publication.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// The publication does not have the table.
    #[error("the publication does not have the table")]
    NotPublished,
    /// Its rows come under the names of its partitions.
    #[error("the publication shows the table's partitions one by one, not the table")]
    NotViaRoot,
    /// Its rows come under the name of the table that it is a partition of.
    #[error("the publication shows the rows as those of {0}, which the table is a partition of")]
    UnderRoot(String),
    /// Inserts are not published.
    #[error("the publication does not publish inserts")]
    NoInserts,
    /// A row filter may hide rows.
    #[error("the publication hides rows by the filter {0}")]
    RowFilter(String),
    /// Columns that are needed are not sent.
    #[error("the publication does not send {}", .0.join(", "))]
    Columns(Vec<String>),
}

impl Gap {
    /// The SQL that closes the gap.
    pub fn sql(&self, publication: &str, table: &Table) -> String {
        let publication = escape_identifier(publication);
        let quoted = table.quoted();
        match self {
            Self::NotPublished => format!("ALTER PUBLICATION {publication} ADD TABLE {quoted};"),
            Self::NotViaRoot => {
                format!("ALTER PUBLICATION {publication} SET (publish_via_partition_root = true);")
            }
            Self::UnderRoot(root) => format!("-- set OUTBOX_TABLE to {root}"),
            Self::NoInserts => format!("ALTER PUBLICATION {publication} SET (publish = 'insert');"),
            Self::RowFilter(_) | Self::Columns(_) => format!(
                "BEGIN; ALTER PUBLICATION {publication} DROP TABLE {quoted}; \
                 ALTER PUBLICATION {publication} ADD TABLE {quoted}; COMMIT;"
            ),
        }
    }
}

impl Table {
    /// `schema.name` for people.
    pub fn display(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// The name for SQL.
    pub fn quoted(&self) -> String {
        quoted(&self.schema, &self.name)
    }

    /// The names of its columns, in order.
    pub fn column_names(&self) -> Vec<&str> {
        self.columns.iter().map(|column| column.name.as_str()).collect()
    }

    /// What `publication` lacks so that whole inserted rows come under this table's name; `needed`
    /// says which columns must be sent. Empty: nothing.
    pub fn gaps(&self, publication: &Publication, needed: impl Fn(&str) -> bool) -> Vec<Gap> {
        let mut gaps = Vec::new();
        if !publication.inserts {
            gaps.push(Gap::NoInserts);
        }
        match (&self.published, &self.published_as) {
            (Some(published), _) => {
                if let Some(filter) = &published.row_filter {
                    gaps.push(Gap::RowFilter(filter.clone()));
                }
                let hidden: Vec<String> = match &published.columns {
                    Some(sent) => {
                        let names = self.columns.iter().map(|column| &column.name);
                        names.filter(|&name| needed(name) && !sent.contains(name)).cloned().collect()
                    }
                    None => Vec::new(),
                };
                if !hidden.is_empty() {
                    gaps.push(Gap::Columns(hidden));
                }
            }
            (None, Some(root)) if publication.via_root => gaps.push(Gap::UnderRoot(root.clone())),
            // Its partitions may be listed instead, or there are none yet.
            (None, _) if self.kind == TableKind::Partitioned && !publication.via_root => {
                gaps.push(Gap::NotViaRoot);
            }
            (None, _) => gaps.push(Gap::NotPublished),
        }
        gaps
    }
}

/// `"schema"."name"` for SQL.
pub fn quoted(schema: &str, name: &str) -> String {
    format!("{}.{}", escape_identifier(schema), escape_identifier(name))
}

/// The publication of this name in the current database.
///
/// # Errors
/// [`PgError`] when the catalog cannot be read.
pub async fn publication<C: GenericClient + Sync>(
    client: &C,
    name: &str,
) -> Result<Option<Publication>, PgError> {
    let row = client
        .query_typed_opt(
            "select oid, pubname::text, puballtables, pubinsert, pubupdate or pubdelete or pubtruncate, \
             pubviaroot from pg_catalog.pg_publication where pubname = $1",
            &[(&name, Type::TEXT)],
        )
        .await
        .map_err(reading("read the publication"))?;
    row.map(|row| {
        Ok(Publication {
            oid: row.try_get(0)?,
            name: row.try_get(1)?,
            all_tables: row.try_get(2)?,
            inserts: row.try_get(3)?,
            other_operations: row.try_get(4)?,
            via_root: row.try_get(5)?,
        })
    })
    .transpose()
    .map_err(reading("read the publication"))
}

/// The columns `attnames` and `rowfilter` of `pg_publication_tables`, which came with PostgreSQL 15.
#[derive(Deserialize)]
struct PublicationTable {
    attnames: Option<Vec<String>>,
    rowfilter: Option<String>,
}

/// `published_as` is the nearest relation above or, for a partitioned table, below the table that
/// the publication has: through the root, or as leaves.
const TABLE: &str = "\
with t as (
    select c.oid, n.nspname, c.relname, c.relkind, c.relpersistence
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p', 'v', 'm', 'f')),
p as (
    select to_jsonb(pt) as shown, to_regclass(format('%I.%I', schemaname, tablename))::oid as oid
      from pg_catalog.pg_publication_tables pt where pubname = $3)
select t.oid,
       case when t.relpersistence <> 'p' then 'x' else t.relkind::text end,
       (select array_agg(attname::text order by attnum) from pg_catalog.pg_attribute
         where attrelid = t.oid and attnum > 0 and not attisdropped),
       (select array_agg(atttypid order by attnum) from pg_catalog.pg_attribute
         where attrelid = t.oid and attnum > 0 and not attisdropped),
       (select shown::text from p where p.oid = t.oid),
       (select min(p.oid::regclass::text) from p where p.oid <> t.oid and (
           p.oid in (select relid from pg_catalog.pg_partition_ancestors(t.oid))
           or p.oid in (select relid from pg_catalog.pg_partition_tree(t.oid))))
  from t";

/// The table of this name, and how `publication` shows it.
///
/// # Errors
/// [`PgError`] when the catalogs cannot be read.
pub async fn table<C: GenericClient + Sync>(
    client: &C,
    schema: &str,
    name: &str,
    publication: &str,
) -> Result<Option<Table>, PgError> {
    let row = client
        .query_typed_opt(TABLE, &[(&schema, Type::TEXT), (&name, Type::TEXT), (&publication, Type::TEXT)])
        .await
        .map_err(reading("read the table's columns"))?;
    row.map(|row| read_table(&row, schema, name)).transpose().map_err(reading("read the table's columns"))
}

fn read_table(row: &Row, schema: &str, name: &str) -> Result<Table, tokio_postgres::Error> {
    let kind = match row.try_get::<_, &str>(1)? {
        "r" => TableKind::Plain,
        "p" => TableKind::Partitioned,
        _ => TableKind::NotReplicated,
    };
    let names: Option<Vec<String>> = row.try_get(2)?;
    let types: Option<Vec<u32>> = row.try_get(3)?;
    let shown: Option<&str> = row.try_get(4)?;
    Ok(Table {
        oid: row.try_get(0)?,
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind,
        columns: names
            .unwrap_or_default()
            .into_iter()
            .zip(types.unwrap_or_default())
            .map(|(name, type_id)| Column { name, type_id })
            .collect(),
        published: shown.map(|json| match serde_json::from_str::<PublicationTable>(json) {
            Ok(shown) => Published { columns: shown.attnames, row_filter: shown.rowfilter },
            // A view whose shape we do not know: assume that nothing is sent, so that a person looks.
            Err(_) => Published { columns: Some(Vec::new()), row_filter: None },
        }),
        published_as: row.try_get(5)?,
    })
}

fn reading(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> PgError {
    move |source| PgError::statement(doing, source)
}

/// Whether a warning of the server says that it goes on without this publication (PostgreSQL 18 and
/// later). A slot of `synchronized_standby_slots` that nobody uses brings the same code, and only a wait.
pub fn is_skipped(publication: &str, code: &str, message: &str) -> bool {
    // The text is in the server's language, the name in it is not.
    code == "55000" && message.contains(publication)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            oid: 1,
            schema: "public".into(),
            name: "outbox".into(),
            kind: TableKind::Plain,
            columns: ["id", "payload", "unused"].map(|n| Column { name: n.into(), type_id: 25 }).to_vec(),
            published: Some(Published { columns: None, row_filter: None }),
            published_as: None,
        }
    }

    fn shown(columns: Option<&[&str]>, filter: Option<&str>) -> Option<Published> {
        Some(Published {
            columns: columns.map(|c| c.iter().map(|&c| c.to_owned()).collect()),
            row_filter: filter.map(str::to_owned),
        })
    }

    #[test]
    fn every_way_to_miss_rows_is_a_gap_and_names_its_sql() {
        let whole = Publication {
            oid: 2,
            name: "pub".into(),
            all_tables: false,
            inserts: true,
            other_operations: false,
            via_root: true,
        };
        let leafs = Publication { via_root: false, ..whole.clone() };
        let updates = Publication { inserts: false, other_operations: true, ..whole.clone() };
        let root = Table { kind: TableKind::Partitioned, published: None, ..table() };
        let cases: [(&Publication, Table, Option<&str>); 9] = [
            (&whole, table(), None),
            (&whole, Table { published: shown(Some(&["payload", "id"]), None), ..table() }, None),
            (&whole, Table { published: shown(Some(&["id"]), None), ..table() }, Some("ADD TABLE")),
            (&whole, Table { published: shown(None, Some("(a > 1)")), ..table() }, Some("DROP TABLE")),
            (&whole, Table { published: None, ..table() }, Some("ADD TABLE \"public\".\"outbox\"")),
            (&updates, table(), Some("publish = 'insert'")),
            (
                &leafs,
                Table { published_as: Some("outbox_1".into()), ..root.clone() },
                Some("via_partition_root"),
            ),
            (&leafs, root, Some("via_partition_root")),
            (
                &whole,
                Table { published: None, published_as: Some("parent".into()), ..table() },
                Some("OUTBOX_TABLE to parent"),
            ),
        ];
        for (publication, table, sql) in cases {
            let gaps = table.gaps(publication, |column| column != "unused");
            assert_eq!(gaps.len(), usize::from(sql.is_some()), "{table:?}: {gaps:?}");
            for (gap, sql) in gaps.iter().zip(sql) {
                assert!(gap.sql("pub", &table).contains(sql), "{gap:?}: {}", gap.sql("pub", &table));
            }
        }
    }

    #[test]
    fn only_a_warning_about_the_publication_itself_means_that_it_is_skipped() {
        for (message, skipped) in [
            ("skipped loading publication \"txstream_outbox\"", true),
            ("Laden der Publikation »txstream_outbox« übersprungen", true),
            (
                "replication slot \"standby\" specified in parameter \"synchronized_standby_slots\" does not have active_pid",
                false,
            ),
        ] {
            assert_eq!(is_skipped("txstream_outbox", "55000", message), skipped, "{message}");
            assert!(!is_skipped("txstream_outbox", "01000", message));
        }
    }
}

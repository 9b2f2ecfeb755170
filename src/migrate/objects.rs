//! What is in the database now, compared with what there should be. Reads only.

use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use super::record::Record;
use super::steps::{Kind, Target};
use super::{MigrateError, Problem, Settings};
use crate::outbox::Preset;
use crate::postgres::publication::{self, Publication, Table, TableKind};

/// The OID of the object with this name, if there is one.
pub(super) async fn oid<C: GenericClient + Sync>(
    client: &C,
    kind: Kind,
    object: &str,
) -> Result<Option<u32>, MigrateError> {
    let sql = match kind {
        Kind::Table => "select to_regclass($1)::oid",
        Kind::Function => "select to_regprocedure($1)::oid",
        Kind::Publication => {
            "select max(oid) from pg_catalog.pg_publication
              where '\"' || replace(pubname, '\"', '\"\"') || '\"' = $1"
        }
    };
    let failed = |error| MigrateError::sql("", "look for what is there", error);
    let row = client.query_typed_one(sql, &[(&object, Type::TEXT)]).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}

/// The record of this object, if it is still the same object.
pub(super) fn recorded<'r>(records: &'r [Record], target: &Target<'_>, oid: u32) -> Option<&'r Record> {
    records.iter().find(|r| r.version == target.step.version && r.object == target.object && r.oid == oid)
}

/// Whether the schema exists.
async fn schema_exists<C: GenericClient + Sync>(client: &C, schema: &str) -> Result<bool, MigrateError> {
    let failed = |error| MigrateError::sql("", "look for the schema", error);
    let row = client
        .query_typed_one(
            "select exists (select from pg_catalog.pg_namespace where nspname = $1)",
            &[(&schema, Type::TEXT)],
        )
        .await
        .map_err(failed)?;
    row.try_get(0).map_err(failed)
}

/// The table, as the publication shows it.
pub(super) async fn table<C: GenericClient + Sync>(
    client: &C,
    settings: &Settings<'_>,
    target: &Target<'_>,
) -> Result<Option<Table>, MigrateError> {
    Ok(publication::table(client, &target.table.schema, &target.table.name, settings.publication).await?)
}

/// What keeps a table from being created or adopted.
pub(super) async fn table_problems<C: GenericClient + Sync>(
    client: &C,
    settings: &Settings<'_>,
    target: &Target<'_>,
) -> Result<Vec<Problem>, MigrateError> {
    let name = &target.table;
    let Some(table) = table(client, settings, target).await? else {
        return if !schema_exists(client, &name.schema).await? {
            Ok(vec![Problem {
                what: format!("schema {} of table {name} does not exist", name.schema),
                remedy: format!(
                    "CREATE SCHEMA {}; or set OUTBOX_TABLE",
                    postgres_protocol::escape::escape_identifier(&name.schema)
                ),
            }])
        } else if target.outbox.is_some() && settings.outbox.preset == Preset::Txstream {
            Ok(vec![Problem {
                what: format!("outbox table {name} does not exist"),
                remedy: "preset txstream reads the table of an application that exists: set OUTBOX_TABLE to \
                         it, or OUTBOX_PRESET=debezium to have one created"
                    .to_owned(),
            }])
        } else {
            Ok(Vec::new())
        };
    };
    let present = table.column_names();
    let missing = match target.outbox {
        Some(_) => settings.outbox.missing_columns(&present),
        None => {
            let wanted = target.step.columns.iter();
            wanted.filter(|column| !present.contains(column)).map(|&column| column.to_owned()).collect()
        }
    };
    if table.kind == TableKind::NotReplicated && target.outbox.is_some() {
        return Ok(vec![Problem {
            what: format!(
                "{name} is a view, a temporary or an unlogged table: its rows are never replicated"
            ),
            remedy: "set OUTBOX_TABLE to an ordinary or partitioned table".to_owned(),
        }]);
    }
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let remedy = match target.outbox {
        Some(_) => {
            "set OUTBOX_PRESET to the one that fits the table, or OUTBOX_TABLE to another name".to_owned()
        }
        None => format!("it is not txstream's: ALTER TABLE {} RENAME TO another name", target.object),
    };
    Ok(vec![Problem {
        what: format!("table {name} exists and has no column {}", missing.join(", ")),
        remedy,
    }])
}

/// Types that take a `text` and a `jsonb` value by assignment.
const TEXTS: [u32; 2] = [25, 1043];
const DOCUMENTS: [u32; 4] = [114, 3802, 25, 1043];
const UUID: [u32; 1] = [2950];

/// Whether `outbox_publish` can insert into this table.
pub(super) fn publishable(table: &Table) -> bool {
    let wanted: [(&str, &[u32]); 6] = [
        ("id", &UUID),
        ("aggregatetype", &TEXTS),
        ("aggregateid", &TEXTS),
        ("type", &TEXTS),
        ("payload", &DOCUMENTS),
        ("headers", &DOCUMENTS),
    ];
    wanted
        .iter()
        .all(|(name, types)| table.columns.iter().any(|c| c.name == *name && types.contains(&c.type_id)))
}

/// What a publication that is not ours lacks.
pub(super) async fn coverage_problems<C: GenericClient + Sync>(
    client: &C,
    settings: &Settings<'_>,
    found: &Publication,
) -> Result<Vec<Problem>, MigrateError> {
    let mut problems = Vec::new();
    for name in &settings.outbox.tables {
        let table = publication::table(client, &name.schema, &name.name, &found.name).await?;
        // A table that `up` is still to create cannot be in it either.
        let table = table.unwrap_or_else(|| Table {
            oid: 0,
            schema: name.schema.clone(),
            name: name.name.clone(),
            kind: TableKind::Plain,
            columns: Vec::new(),
            published: found.all_tables.then_some(publication::Published { columns: None, row_filter: None }),
            published_as: None,
        });
        for gap in table.gaps(found, |column| settings.outbox.reads_column(column)) {
            problems.push(Problem {
                what: format!("{gap}: {} for {name}", found.name),
                remedy: format!(
                    "txstream never alters a publication it did not create; run {}",
                    gap.sql(&found.name, &table)
                ),
            });
        }
    }
    Ok(problems)
}

//! `txstream_migrations`: what `up` found and made.

use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use super::steps::{Kind, RECORD_UP, Target};
use super::{MigrateError, Problem, steps};

/// One row.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Number of the step.
    pub(super) version: i32,
    /// What the object is.
    pub(super) kind: Kind,
    /// Its name for SQL.
    pub(super) object: String,
    /// Its OID when it was found or made.
    pub(super) oid: u32,
    /// We made it.
    pub(super) created: bool,
    /// Of the step's SQL.
    pub(super) checksum: String,
    /// When, in UTC.
    pub(super) applied_at: String,
}

const DOING: &str = "read txstream_migrations";

/// Whether the table is there.
pub(super) async fn exists<C: GenericClient + Sync>(client: &C) -> Result<bool, MigrateError> {
    let failed = |error| MigrateError::sql("", DOING, error);
    let row = client
        .query_typed_one("select to_regclass('public.txstream_migrations') is not null", &[])
        .await
        .map_err(failed)?;
    row.try_get(0).map_err(failed)
}

/// Every row, in order of the steps; none without the table.
///
/// # Errors
/// [`MigrateError::Problems`] when another version of txstream made something else of a step.
pub(super) async fn read<C: GenericClient + Sync>(
    client: &C,
    role: &str,
) -> Result<Vec<Record>, MigrateError> {
    if !exists(client).await? {
        return Ok(Vec::new());
    }
    let failed = |error| MigrateError::sql(role, DOING, error);
    let rows = client
        .query_typed(
            "select version, kind, object, object_oid, created, checksum,
                    to_char(applied_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
               from public.txstream_migrations order by version, object",
            &[],
        )
        .await
        .map_err(failed)?;
    let mut records = Vec::with_capacity(rows.len());
    for row in rows {
        let kind: &str = row.try_get(1).map_err(failed)?;
        let version = row.try_get(0).map_err(failed)?;
        let Some(kind) = Kind::parse(kind) else { return Err(newer(version)) };
        records.push(Record {
            version,
            kind,
            object: row.try_get(2).map_err(failed)?,
            oid: row.try_get(3).map_err(failed)?,
            created: row.try_get(4).map_err(failed)?,
            checksum: row.try_get(5).map_err(failed)?,
            applied_at: row.try_get(6).map_err(failed)?,
        });
    }
    known(&records)?;
    Ok(records)
}

/// Refuses what this version did not write.
fn known(records: &[Record]) -> Result<(), MigrateError> {
    for record in records {
        let Some(step) = steps::step(record.version) else { return Err(newer(record.version)) };
        if record.created && record.checksum != step.checksum() {
            return Err(MigrateError::Problems(vec![Problem {
                what: format!(
                    "migration {:04}_{} is not the one that was applied to this database (checksums differ)",
                    step.version, step.name
                ),
                remedy:
                    "use the version of txstream that applied it, or its migrate down before this one's up"
                        .to_owned(),
            }]));
        }
    }
    Ok(())
}

fn newer(version: i32) -> MigrateError {
    MigrateError::Problems(vec![Problem {
        what: format!("migration {version:04} of this database is unknown to this version of txstream"),
        remedy: "use the newer version that applied it".to_owned(),
    }])
}

/// Makes the table if it is not there.
pub(super) async fn ensure<C: GenericClient + Sync>(client: &C, role: &str) -> Result<(), MigrateError> {
    if exists(client).await? {
        return Ok(());
    }
    client
        .batch_execute(RECORD_UP)
        .await
        .map_err(|error| MigrateError::sql(role, "create table public.txstream_migrations", error))
}

/// Records that an object was found (`created` false) or made.
pub(super) async fn write<C: GenericClient + Sync>(
    client: &C,
    role: &str,
    target: &Target<'_>,
    oid: u32,
    created: bool,
) -> Result<(), MigrateError> {
    client
        .execute_typed(
            "insert into public.txstream_migrations (version, kind, object, object_oid, created, checksum)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (version, object) do update set object_oid = excluded.object_oid,
                 created = excluded.created, checksum = excluded.checksum, applied_at = now()",
            &[
                (&target.step.version, Type::INT4),
                (&target.step.kind.as_str(), Type::TEXT),
                (&target.object, Type::TEXT),
                (&oid, Type::OID),
                (&created, Type::BOOL),
                (&target.step.checksum(), Type::TEXT),
            ],
        )
        .await
        .map_err(|error| MigrateError::sql(role, "record the migration", error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(version: i32, created: bool, checksum: &str) -> Record {
        Record {
            version,
            kind: Kind::Table,
            object: "o".into(),
            oid: 1,
            created,
            checksum: checksum.into(),
            applied_at: String::new(),
        }
    }

    #[test]
    fn what_another_version_applied_is_refused() {
        let right = steps::step(1).unwrap().checksum();
        assert!(known(&[record(1, true, &right), record(3, false, "adopted")]).is_ok());
        for (record, word) in [(record(1, true, "wrong"), "0001_checkpoint"), (record(77, true, ""), "0077")]
        {
            let error = known(&[record]).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}

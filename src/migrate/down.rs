//! `down`: everything that `up` made is dropped, and nothing else.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient};

use super::record::{self, Record};
use super::steps::{Kind, RECORD_DOWN, step};
use super::{MigrateError, begin, objects, role};

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Dropped.
    Dropped(Kind, String),
    /// Left: it was there before us, or another took its name.
    Kept(Kind, String),
    /// It was gone already.
    Gone(Kind, String),
}

/// What `down` would destroy for good.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remains {
    /// Outbox tables of ours that have rows, with how many: counted up to 100,000.
    pub rows: Vec<(String, u64)>,
    /// Parked records, counted up to 100,000.
    pub parked: u64,
    /// There is something to undo at all.
    pub migrated: bool,
}

/// Counting further would read a big table for a number nobody needs.
const COUNTED: u64 = 100_000;

/// What [`down`] would destroy for good.
///
/// # Errors
/// [`MigrateError`].
pub async fn remains(client: &Client) -> Result<Remains, MigrateError> {
    let role = role(client).await?;
    let mut remains = Remains { migrated: record::exists(client).await?, ..Remains::default() };
    for record in record::read(client, &role).await? {
        if record.kind != Kind::Table || !still_ours(client, &record).await? {
            continue;
        }
        match step(record.version).map(|step| step.name) {
            // It can be written again from the slot's own state.
            Some("checkpoint") => {}
            Some("dead_letter") => remains.parked = count(client, &role, &record.object).await?,
            _ => {
                let rows = count(client, &role, &record.object).await?;
                if rows > 0 {
                    remains.rows.push((record.object, rows));
                }
            }
        }
    }
    Ok(remains)
}

async fn count(client: &Client, role: &str, table: &str) -> Result<u64, MigrateError> {
    let failed = |error| MigrateError::sql(role, "count rows", error);
    let sql = format!("select count(*) from (select from {table} limit $1) counted");
    let limit = COUNTED.cast_signed();
    let row = client.query_typed_one(&sql, &[(&limit, Type::INT8)]).await.map_err(failed)?;
    row.try_get::<_, i64>(0).map(i64::unsigned_abs).map_err(failed)
}

/// We made it, and no other has taken its name since.
async fn still_ours<C: GenericClient + Sync>(client: &C, record: &Record) -> Result<bool, MigrateError> {
    Ok(record.created && objects::oid(client, record.kind, &record.object).await? == Some(record.oid))
}

/// Drops everything that `up` made, its own record too, in one transaction. Does not look at rows or
/// at the slot: see [`remains`].
///
/// # Errors
/// [`MigrateError`]; nothing was dropped then.
pub async fn down(client: &mut Client) -> Result<Vec<Fate>, MigrateError> {
    let role = role(client).await?;
    let all = begin(client).await?;
    if !record::exists(&all).await? {
        return Ok(Vec::new());
    }
    let mut fates = Vec::new();
    let records = record::read(&all, &role).await?;
    for record in records.into_iter().rev() {
        let live = objects::oid(&all, record.kind, &record.object).await?;
        if live.is_none() {
            fates.push(Fate::Gone(record.kind, record.object));
        } else if !still_ours(&all, &record).await? {
            fates.push(Fate::Kept(record.kind, record.object));
        } else if let Some(step) = step(record.version) {
            let doing = format!("drop {} {}", record.kind.as_str(), record.object);
            let sql = step.down_sql(&record.object);
            all.batch_execute(&sql).await.map_err(|error| MigrateError::sql(&role, &doing, error))?;
            fates.push(Fate::Dropped(record.kind, record.object));
        }
    }
    let failed = |error| MigrateError::sql(&role, "drop table public.txstream_migrations", error);
    all.batch_execute(RECORD_DOWN).await.map_err(failed)?;
    all.commit().await.map_err(|error| MigrateError::sql(&role, "commit the migration", error))?;
    fates.push(Fate::Dropped(Kind::Table, r#""public"."txstream_migrations""#.to_owned()));
    Ok(fates)
}

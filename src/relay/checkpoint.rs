//! The row per slot in `txstream_checkpoint`: it detects a slot that was lost, moved or swapped.
//!
//! The slot is the position, never this row. Only the holder of the slot writes the row, and the
//! `slot` commands rewrite it. Nothing here decides to go on: [`judge`] says what row and slot
//! together mean.

mod judge;
mod recovery;

pub use judge::{Identity, Verdict, judge};
pub use recovery::{Recovery, take_pair};

use postgres_protocol::escape::escape_identifier;
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{PgLsn, ToSql, Type};
use tokio_postgres::{Client, Row as SqlRow};

use crate::postgres::{Lsn, PgError, locks};

/// Where the row lives.
pub const TABLE: &str = "public.txstream_checkpoint";

/// The row of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Slot name.
    pub slot: String,
    /// Identifies the cluster that the slot was on.
    pub system_identifier: String,
    /// Database of the slot.
    pub database: String,
    /// What the holder last reported as flushed.
    pub confirmed_lsn: Option<Lsn>,
    /// The process that wrote the row.
    pub instance: String,
    /// The holder let go of the slot in order, and nothing was confirmed after this row.
    pub clean: bool,
    /// From where rows may be unconfirmed should the slot be lost.
    pub recovery: Option<Recovery>,
    /// `slot drop` dropped the slot.
    pub dropped: bool,
    /// A backfill was begun and not finished.
    pub backfill_pending: bool,
    /// The record that Kafka refused at the last stop.
    pub rejected: Option<Rejected>,
}

/// Names a record that Kafka refused, so that the next start sends it alone first, or whose letter the table of
/// dead letters refused. Holds neither its key nor its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The outbox table as `schema.name`.
    pub table: String,
    /// The row's id.
    pub row_id: String,
    /// The record's topic; empty for a letter without a record.
    pub topic: String,
    /// Where the commit record of its transaction begins, as a number.
    pub commit_lsn: u64,
    /// Its place among the records of that transaction, from 0.
    pub ordinal: u64,
    /// Why it was refused.
    pub reason: String,
    /// Not Kafka refused it, but the table of dead letters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub letter: bool,
}

/// What can go wrong with the row.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// `migrate up` has not been run, or on another database.
    #[error("table txstream_checkpoint does not exist in this database")]
    NoTable,
    /// No right to.
    #[error("role {role} may not read and write txstream_checkpoint")]
    NoRight {
        /// The role we are connected as.
        role: String,
    },
    /// The row holds what this version cannot read.
    #[error("column {column} of txstream_checkpoint is not what this version writes")]
    Unreadable {
        /// Column name.
        column: &'static str,
    },
    /// Anything else.
    #[error(transparent)]
    Pg(#[from] PgError),
}

impl CheckpointError {
    /// What a person can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoTable => "run txstream migrate up".to_owned(),
            Self::NoRight { role } => format!(
                "GRANT SELECT, INSERT, UPDATE, DELETE ON public.txstream_checkpoint TO {};",
                escape_identifier(role)
            ),
            Self::Unreadable { .. } => "use the version of txstream that wrote it".to_owned(),
            Self::Pg(error) => error.hint().unwrap_or_else(|| "see the server's log".to_owned()),
        }
    }
}

async fn explain(client: &Client, doing: &str, source: tokio_postgres::Error) -> CheckpointError {
    match source.code() {
        Some(&SqlState::UNDEFINED_TABLE) => CheckpointError::NoTable,
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            let role = client.query_typed_one("select current_user::text", &[]).await;
            let role =
                role.and_then(|row| row.try_get(0)).unwrap_or_else(|_| "of this connection".to_owned());
            CheckpointError::NoRight { role }
        }
        Some(&SqlState::LOCK_NOT_AVAILABLE) => locks::locked(client, doing, &[TABLE]).await.into(),
        _ => CheckpointError::Pg(PgError::statement(doing, source)),
    }
}

/// The row of this slot, if there is one.
///
/// # Errors
/// [`CheckpointError`].
pub async fn read(client: &Client, slot: &str) -> Result<Option<Row>, CheckpointError> {
    const DOING: &str = "read the checkpoint row";
    let row = client
        .query_typed_opt(
            "select slot, system_identifier, database, confirmed_lsn, instance, clean, recovery_xid, recovery_lsn,
                    dropped, backfill_pending, rejected::text
               from public.txstream_checkpoint where slot = $1",
            &[(&slot, Type::TEXT)],
        )
        .await;
    match row {
        Ok(Some(row)) => parse(&row).map(Some),
        Ok(None) => Ok(None),
        Err(error) => Err(explain(client, DOING, error).await),
    }
}

fn parse(row: &SqlRow) -> Result<Row, CheckpointError> {
    let get = |source| PgError::statement("read the checkpoint row", source);
    let lsn = |lsn: Option<PgLsn>| lsn.map(|lsn| Lsn(u64::from(lsn)));
    let xid: Option<i64> = row.try_get(6).map_err(get)?;
    let recovery_lsn = lsn(row.try_get(7).map_err(get)?);
    let rejected: Option<&str> = row.try_get(10).map_err(get)?;
    Ok(Row {
        slot: row.try_get(0).map_err(get)?,
        system_identifier: row.try_get(1).map_err(get)?,
        database: row.try_get(2).map_err(get)?,
        confirmed_lsn: lsn(row.try_get(3).map_err(get)?),
        instance: row.try_get(4).map_err(get)?,
        clean: row.try_get(5).map_err(get)?,
        recovery: xid.zip(recovery_lsn).map(|(xid, lsn)| Recovery { xid: xid.cast_unsigned(), lsn }),
        dropped: row.try_get(8).map_err(get)?,
        backfill_pending: row.try_get(9).map_err(get)?,
        rejected: rejected
            .map(serde_json::from_str)
            .transpose()
            .map_err(|_| CheckpointError::Unreadable { column: "rejected" })?,
    })
}

/// Every write commits locally, whatever the server, database or role sets: `off` could lose it,
/// `on` could wait for a synchronous standby, which is none of our business.
const LOCALLY: &str = "with durability as (select set_config('synchronous_commit', 'local', true))";

async fn write(
    client: &Client,
    doing: &str,
    sql: &str,
    params: &[(&(dyn ToSql + Sync), Type)],
) -> Result<u64, CheckpointError> {
    match client.execute_typed(&format!("{LOCALLY} {sql}"), params).await {
        Ok(rows) => Ok(rows),
        Err(error) => Err(explain(client, doing, error).await),
    }
}

/// Replaces the whole row: for the commands that create, move, reset or adopt a slot. `seen` is the instance of
/// the row that the command acts on, `None` where there was no row: a row that a relay has taken since stays
/// as it is, or that relay would find its slot ahead of a position it never confirmed. Answers whether the
/// row was written.
///
/// # Errors
/// [`CheckpointError`].
pub async fn replace(client: &Client, row: &Row, seen: Option<&str>) -> Result<bool, CheckpointError> {
    let confirmed = row.confirmed_lsn.map(|lsn| PgLsn::from(lsn.0));
    let xid = row.recovery.map(|pair| pair.xid.cast_signed());
    let lsn = row.recovery.map(|pair| PgLsn::from(pair.lsn.0));
    let rejected = row.rejected.as_ref().and_then(|rejected| serde_json::to_value(rejected).ok());
    let rows = write(
        client,
        "write the checkpoint row",
        "insert into public.txstream_checkpoint as row
             (slot, system_identifier, database, confirmed_lsn, instance, clean, recovery_xid, recovery_lsn,
              dropped, backfill_pending, rejected)
         select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 from durability
         on conflict (slot) do update set
             system_identifier = excluded.system_identifier, database = excluded.database,
             confirmed_lsn = excluded.confirmed_lsn, instance = excluded.instance, clean = excluded.clean,
             recovery_xid = excluded.recovery_xid, recovery_lsn = excluded.recovery_lsn,
             dropped = excluded.dropped, backfill_pending = excluded.backfill_pending,
             rejected = excluded.rejected, updated_at = now()
         where row.instance = $12",
        &[
            (&row.slot, Type::TEXT),
            (&row.system_identifier, Type::TEXT),
            (&row.database, Type::TEXT),
            (&confirmed, Type::PG_LSN),
            (&row.instance, Type::TEXT),
            (&row.clean, Type::BOOL),
            (&xid, Type::INT8),
            (&lsn, Type::PG_LSN),
            (&row.dropped, Type::BOOL),
            (&row.backfill_pending, Type::BOOL),
            (&rejected, Type::JSONB),
            (&seen, Type::TEXT),
        ],
    )
    .await?;
    Ok(rows > 0)
}

/// What the holder of a slot knows from time to time.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Slot name.
    pub slot: &'a str,
    /// Cluster and database, and this process.
    pub identity: &'a Identity<'a>,
    /// What was last reported as flushed.
    pub confirmed_lsn: Lsn,
    /// Nothing will be confirmed after this: a graceful stop that saw its last status arrive.
    pub clean: bool,
    /// A new recovery pair; `None` keeps the one there is.
    pub recovery: Option<Recovery>,
}

/// Takes the row for this holder, which has begun to stream: from here on the slot moves with it, and
/// nobody else's late write counts any more. Keeps the recovery pair, the backfill mark and the
/// rejected record; an unknown position keeps the one there is.
///
/// # Errors
/// [`CheckpointError`].
pub async fn claim(
    client: &Client,
    slot: &str,
    identity: &Identity<'_>,
    confirmed_lsn: Option<Lsn>,
) -> Result<(), CheckpointError> {
    let confirmed = confirmed_lsn.map(|lsn| PgLsn::from(lsn.0));
    write(
        client,
        "write the checkpoint row",
        "insert into public.txstream_checkpoint as row
             (slot, system_identifier, database, confirmed_lsn, instance, clean)
         select $1, $2, $3, $4, $5, false from durability
         on conflict (slot) do update set
             system_identifier = excluded.system_identifier, database = excluded.database,
             confirmed_lsn = coalesce(excluded.confirmed_lsn, row.confirmed_lsn),
             instance = excluded.instance, clean = false, dropped = false, updated_at = now()",
        &[
            (&slot, Type::TEXT),
            (&identity.system_identifier, Type::TEXT),
            (&identity.database, Type::TEXT),
            (&confirmed, Type::PG_LSN),
            (&identity.instance, Type::TEXT),
        ],
    )
    .await?;
    Ok(())
}

/// Writes what the holder knows, and makes the row for a slot that has none. A row that another holder
/// or a command has taken since stays as it is. Keeps the recovery pair unless there is a new one, the
/// backfill mark and the rejected record. Answers whether the row was written.
///
/// # Errors
/// [`CheckpointError`].
pub async fn advance(client: &Client, progress: &Progress<'_>) -> Result<bool, CheckpointError> {
    let confirmed = PgLsn::from(progress.confirmed_lsn.0);
    let xid = progress.recovery.map(|pair| pair.xid.cast_signed());
    let lsn = progress.recovery.map(|pair| PgLsn::from(pair.lsn.0));
    let identity = progress.identity;
    let rows = write(
        client,
        "write the checkpoint row",
        "insert into public.txstream_checkpoint as row
             (slot, system_identifier, database, confirmed_lsn, instance, clean, recovery_xid, recovery_lsn)
         select $1, $2, $3, $4, $5, $6, $7, $8 from durability
         on conflict (slot) do update set
             confirmed_lsn = excluded.confirmed_lsn, clean = excluded.clean,
             recovery_xid = coalesce(excluded.recovery_xid, row.recovery_xid),
             recovery_lsn = coalesce(excluded.recovery_lsn, row.recovery_lsn), updated_at = now()
         where row.instance = excluded.instance and not row.dropped",
        &[
            (&progress.slot, Type::TEXT),
            (&identity.system_identifier, Type::TEXT),
            (&identity.database, Type::TEXT),
            (&confirmed, Type::PG_LSN),
            (&identity.instance, Type::TEXT),
            (&progress.clean, Type::BOOL),
            (&xid, Type::INT8),
            (&lsn, Type::PG_LSN),
        ],
    )
    .await?;
    Ok(rows > 0)
}

/// Remembers the record that Kafka refused, or forgets it with `None`: in the row that `instance` holds. A row
/// that another holder or a command has taken since stays as it is.
///
/// # Errors
/// [`CheckpointError`].
pub async fn set_rejected(
    client: &Client,
    slot: &str,
    instance: &str,
    rejected: Option<&Rejected>,
) -> Result<(), CheckpointError> {
    let rejected = rejected.and_then(|rejected| serde_json::to_value(rejected).ok());
    write(
        client,
        "remember the rejected record",
        "update public.txstream_checkpoint set rejected = $3, updated_at = now() from durability
          where slot = $1 and instance = $2",
        &[(&slot, Type::TEXT), (&instance, Type::TEXT), (&rejected, Type::JSONB)],
    )
    .await?;
    Ok(())
}

/// Narrows what a backfill would bring to what lies behind a slot that was moved on purpose, whoever holds it.
///
/// # Errors
/// [`CheckpointError`].
pub async fn set_recovery(client: &Client, slot: &str, recovery: Recovery) -> Result<(), CheckpointError> {
    write(
        client,
        "write the recovery pair",
        "update public.txstream_checkpoint set recovery_xid = $2, recovery_lsn = $3, updated_at = now()
           from durability where slot = $1",
        &[
            (&slot, Type::TEXT),
            (&recovery.xid.cast_signed(), Type::INT8),
            (&PgLsn::from(recovery.lsn.0), Type::PG_LSN),
        ],
    )
    .await?;
    Ok(())
}

/// Marks a backfill as begun (`true`) or finished. The row must exist.
///
/// # Errors
/// [`CheckpointError`].
pub async fn set_backfill_pending(client: &Client, slot: &str, pending: bool) -> Result<(), CheckpointError> {
    write(
        client,
        "mark the backfill",
        "update public.txstream_checkpoint set backfill_pending = $2, updated_at = now() from durability
          where slot = $1",
        &[(&slot, Type::TEXT), (&pending, Type::BOOL)],
    )
    .await?;
    Ok(())
}

/// Says whether the slot is being dropped by command, so that its absence is no loss. Answers
/// whether there is a row.
///
/// # Errors
/// [`CheckpointError`].
pub async fn set_dropped(client: &Client, slot: &str, dropped: bool) -> Result<bool, CheckpointError> {
    let rows = write(
        client,
        "mark the slot as dropped",
        "update public.txstream_checkpoint set dropped = $2, updated_at = now() from durability where slot = $1",
        &[(&slot, Type::TEXT), (&dropped, Type::BOOL)],
    )
    .await?;
    Ok(rows > 0)
}

/// Which cluster and database a connection leads to: system identifier, database name.
///
/// # Errors
/// [`PgError`].
pub async fn whereabouts(client: &Client) -> Result<(String, String), PgError> {
    let failed = |source| PgError::statement("read the system identifier", source);
    let row = client
        .query_typed_one(
            "select system_identifier::text, current_database()::text from pg_catalog.pg_control_system()",
            &[],
        )
        .await
        .map_err(failed)?;
    Ok((row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?))
}

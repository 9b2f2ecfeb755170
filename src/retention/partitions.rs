//! Dropping a partition whole.
//!
//! Not by `DETACH ... CONCURRENTLY`: while a partition is being detached, a transaction that began before may
//! still write into it, and logical decoding does not take such a row for one of the outbox: it would never
//! be published. So nobody may have the table open for writing when a partition goes. The lock for that is
//! asked for with so little patience that writers hardly notice, and often.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, IsolationLevel};

use super::target::Partition;
use super::{Confirmed, PruneError};
use crate::postgres::PgError;

/// Longest wait for a lock: so long others who write events wait behind us.
const PATIENCE: Duration = Duration::from_millis(100);

/// How often it is tried. Writers of an outbox are done within milliseconds; who is not done after ten tries
/// is at something long.
pub(super) const TRIES: u32 = 10;

/// Time between two tries, for the writers who waited behind us.
const PAUSE: Duration = Duration::from_millis(500);

/// What became of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is gone.
    Dropped {
        /// Rows that were in it.
        rows: u64,
    },
    /// Some rows are not confirmed: it stays.
    Unconfirmed {
        /// How many.
        rows: u64,
    },
    /// Others use it, or the table: it stays.
    Busy,
}

/// Drops an old partition if every row in it is confirmed, trying so often for the locks; with `dry_run`
/// it only looks.
///
/// # Errors
/// What the server says.
///
/// # Cancel safety
/// May be dropped at any await: it is one transaction.
pub(super) async fn drop_if_confirmed(
    client: &mut Client,
    partition: &Partition,
    confirmed: &Confirmed,
    dry_run: bool,
    tries: u32,
) -> Result<Outcome, PruneError> {
    for tried in 0..tries {
        if tried > 0 {
            sleep(PAUSE).await;
        }
        match attempt(client, partition, confirmed, dry_run).await {
            Ok(outcome) => return Ok(outcome),
            // Two who wait for each other are told apart by the lock timeout, or by the server.
            Err(error)
                if [Some(&SqlState::LOCK_NOT_AVAILABLE), Some(&SqlState::T_R_DEADLOCK_DETECTED)]
                    .contains(&error.code()) => {}
            Err(error) => {
                return Err(PgError::statement(format!("drop partition {}", partition.name), error).into());
            }
        }
    }
    Ok(Outcome::Busy)
}

/// The first lock waits for those who write into this partition, and keeps others from it: after it every row
/// there will ever be is visible. It may take a while to look at them all, but nobody else writes into an old
/// partition. DROP then waits for those who write events at all.
async fn attempt(
    client: &mut Client,
    partition: &Partition,
    confirmed: &Confirmed,
    dry_run: bool,
) -> Result<Outcome, tokio_postgres::Error> {
    let table = &partition.quoted;
    let transaction =
        client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
    if !dry_run {
        let lock =
            format!("set local lock_timeout = {}; lock table {table} in share mode", PATIENCE.as_millis());
        transaction.batch_execute(&lock).await?;
    }
    let count = format!(
        "select count(*), count(*) filter (where not {is_confirmed}) from {table}",
        is_confirmed = confirmed.sql()
    );
    let row = transaction.query_typed_one(&count, &[]).await?;
    let (rows, unconfirmed): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if unconfirmed > 0 {
        return Ok(Outcome::Unconfirmed { rows: unconfirmed.cast_unsigned() });
    }
    if !dry_run {
        transaction.batch_execute(&format!("drop table {table}")).await?;
        transaction.commit().await?;
    }
    Ok(Outcome::Dropped { rows: rows.cast_unsigned() })
}

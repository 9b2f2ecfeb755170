//! The recovery pair: which rows may be unconfirmed should the slot be lost.

use tokio_postgres::Client;

use crate::postgres::{Lsn, PgError};

/// Every transaction below `xid` had ended before `lsn`, and `lsn` was confirmed since: only rows
/// of `xid` and later can be unconfirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// 64-bit transaction id.
    pub xid: u64,
    /// Position right after it was taken.
    pub lsn: Lsn,
}

/// A recovery pair of now: every transaction below its xid has ended before its position.
///
/// # Errors
/// [`PgError`].
pub async fn take_pair(client: &Client) -> Result<Recovery, PgError> {
    const DOING: &str = "take a recovery pair";
    const SQL: &str = "select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text";
    let failed = |source| PgError::statement(DOING, source);
    let row = client.query_typed_one(SQL, &[]).await.map_err(failed)?;
    let xid: String = row.try_get(0).map_err(failed)?;
    // A statement of its own: the position must be taken after the snapshot.
    let row = client
        .query_typed_one("select pg_catalog.pg_current_wal_insert_lsn()::text", &[])
        .await
        .map_err(failed)?;
    let lsn: String = row.try_get(0).map_err(failed)?;
    match (xid.parse(), lsn.parse()) {
        (Ok(xid), Ok(lsn)) => Ok(Recovery { xid, lsn }),
        _ => Err(PgError::protocol(DOING, "an xid or LSN that is none")),
    }
}

//! Moves the slot forward on purpose: what it passes is skipped, and no later backfill brings it.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::types::{PgLsn, Type};

use super::{BY_COMMAND, Found, SlotError, find_idle, fresh, in_use};
use crate::outbox;
use crate::postgres::slot::{self, DropError, Inserts};
use crate::postgres::{Lsn, PgError, publication};
use crate::relay::checkpoint::{self, Recovery, Row};

/// WAL is flushed by its writer three times in `wal_writer_delay` (200 ms), or at the next commit.
const FLUSH_WAIT: Duration = Duration::from_secs(5);

/// What moving the slot would skip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skips {
    /// Where the slot stands; unknown after a failover.
    pub from: Option<Lsn>,
    /// Where it would stand.
    pub to: Lsn,
    /// Rows of each outbox table that it would pass; unknown where they cannot be decoded.
    pub rows: Option<Vec<(String, u64)>>,
}

/// What [`advance`] would skip. `None`: the slot stands there already.
///
/// # Errors
/// [`SlotError`] when there is no slot, it is another's, in use or lost, a backfill is pending, or the
/// position lies behind it or beyond the end of WAL.
pub async fn skips(
    client: &Client,
    slot: &str,
    publication: &str,
    outbox: &outbox::Settings,
    to: Lsn,
) -> Result<Option<Skips>, SlotError> {
    let found = movable(client, slot, to).await?;
    let from = found.existing(slot)?.confirmed_flush_lsn;
    if from == Some(to) {
        return Ok(None);
    }
    let rows = match slot::inserts(client, slot, publication, Some(to)).await? {
        Some(inserts) => Some(by_table(client, publication, outbox, &inserts).await?),
        None => None,
    };
    Ok(Some(Skips { from, to, rows }))
}

async fn by_table(
    client: &Client,
    publication: &str,
    outbox: &outbox::Settings,
    inserts: &[Inserts],
) -> Result<Vec<(String, u64)>, PgError> {
    let mut counts = Vec::new();
    for name in &outbox.tables {
        let table = publication::table(client, &name.schema, &name.name, publication).await?;
        let found = table.and_then(|table| inserts.iter().find(|inserts| inserts.table == table.oid));
        counts.push((name.to_string(), found.map_or(0, |inserts| inserts.rows)));
    }
    Ok(counts)
}

/// Moves the slot, and rewrites the row, so that neither its relay nor a backfill misses anything that
/// lies behind `to`, nor brings what lies before. Returns where the slot stands.
///
/// # Errors
/// As [`skips`]; the slot was not moved then.
pub async fn advance(client: &Client, slot: &str, publication: &str, to: Lsn) -> Result<Lsn, SlotError> {
    let found = movable(client, slot, to).await?;
    if let Some(row) = &found.row {
        // A relay that begins now must not take the move for someone else's.
        let moving = Row { clean: false, instance: BY_COMMAND.to_owned(), ..row.clone() };
        if !checkpoint::replace(client, &moving, Some(&row.instance)).await? {
            return Err(SlotError::Taken(slot.to_owned()));
        }
    }
    let seen = found.row.as_ref().map(|_| BY_COMMAND);
    let at = match slot::advance(client, slot, to).await {
        Ok(at) => at,
        Err(error) => {
            if let Some(row) = &found.row {
                checkpoint::replace(client, row, seen).await?;
            }
            return Err(why_not(client, slot, found.row.as_ref(), error).await?);
        }
    };
    let renewed = recovery(client, slot, publication, at).await?;
    let old = found.row.filter(|row| row.system_identifier == found.system_identifier);
    let kept = old.and_then(|row| row.recovery);
    let row = fresh(slot, found.system_identifier, found.database, Some(at));
    let written = checkpoint::replace(client, &Row { recovery: renewed.or(kept), ..row }, seen).await?;
    // A relay streams from there already; what was passed does not come all the same.
    if let (false, Some(renewed)) = (written, renewed) {
        checkpoint::set_recovery(client, slot, renewed).await?;
    }
    Ok(at)
}

async fn why_not(
    client: &Client,
    slot: &str,
    row: Option<&Row>,
    error: DropError,
) -> Result<SlotError, PgError> {
    Ok(match error {
        DropError::InUse(_) => in_use(client, slot).await?,
        DropError::Missing(_) => super::missing(slot, row),
        DropError::Pg(error) => error.into(),
    })
}

/// From which transaction on rows may be unconfirmed, with the slot at `at`: the oldest that still runs or
/// that the slot still sends. `None` where the rest of WAL cannot be decoded; the pair before holds then.
async fn recovery(
    client: &Client,
    slot: &str,
    publication: &str,
    at: Lsn,
) -> Result<Option<Recovery>, SlotError> {
    // The snapshot first: what ends after it is still running in it, what ended before is decoded.
    let running = checkpoint::take_pair(client).await?;
    if !flushed(client, running.lsn).await? {
        return Ok(None);
    }
    let Some(inserts) = slot::inserts(client, slot, publication, None).await? else { return Ok(None) };
    let sent = inserts.iter().map(|inserts| inserts.oldest_xid).min();
    Ok(Some(Recovery { xid: sent.map_or(running.xid, |xid| xid.min(running.xid)), lsn: at }))
}

/// Waits until WAL up to `lsn` can be decoded: asynchronous commits are seen before they are flushed.
async fn flushed(client: &Client, lsn: Lsn) -> Result<bool, PgError> {
    let failed = |source| PgError::statement("wait for WAL to be flushed", source);
    let until = Instant::now() + FLUSH_WAIT;
    while Instant::now() < until {
        let sql = "select pg_catalog.pg_current_wal_flush_lsn() >= $1";
        let row =
            client.query_typed_one(sql, &[(&PgLsn::from(lsn.0), Type::PG_LSN)]).await.map_err(failed)?;
        if row.try_get(0).map_err(failed)? {
            return Ok(true);
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(false)
}

/// The slot, if it can be moved there.
async fn movable(client: &Client, slot: &str, to: Lsn) -> Result<Found, SlotError> {
    let found = find_idle(client, slot).await?;
    let view = found.existing(slot)?;
    let name = slot.to_owned();
    if let Some(terminal) = view.terminal() {
        return Err(SlotError::Terminal { slot: name, terminal });
    }
    if found.row.as_ref().is_some_and(|row| row.backfill_pending && !row.dropped) {
        return Err(SlotError::BackfillPending(name));
    }
    if let Some(at) = view.confirmed_flush_lsn.filter(|at| *at > to) {
        return Err(SlotError::Backwards { slot: name, at, to });
    }
    if let Some(end) = view.current_wal_lsn.filter(|end| *end < to) {
        return Err(SlotError::Beyond { to, end });
    }
    Ok(found)
}

//! Which rows the slot has confirmed, by the transaction that wrote them.
//!
//! A row does not know where its transaction committed, but by whom it was written. So a pair is taken:
//! `X`, below which no transaction is open, and right after it `L`, the end of WAL. Every transaction below
//! `X` ended before `L`; once the slot has confirmed `L`, it has confirmed them all. The relay stores such a
//! pair in its checkpoint row; while it streams, a newer one is taken here and the slot waited for.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::PruneError;
use crate::postgres::slot::{self, SlotView};
use crate::postgres::{Lsn, PgError};
use crate::relay::checkpoint::{self, Identity, Recovery, Row, Verdict, judge};
use crate::relay::slot_life::{BY_COMMAND, SlotError};

/// How long the slot may take to pass the end of WAL. A relay that keeps up needs a second, its status
/// interval; one that does not leaves the stored pair, which is seconds old at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the slot has confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confirmed {
    /// Slot name.
    pub slot_name: String,
    /// Where the slot stands.
    pub confirmed_flush_lsn: String,
    /// Rows of transactions below this 64-bit id are confirmed.
    pub confirmed_below_xid: u64,
}

impl Confirmed {
    /// The condition of SQL that a row is confirmed.
    ///
    /// `xmin` has 32 bits: it stands for the highest id with these bits that the statement's snapshot can
    /// see. That may be too high for a row that was frozen long ago, which keeps its `xmin` (since 9.4): then
    /// the row stays, which does no harm. 1 and 2 are no transactions but marks of rows older than all.
    /// `pg_visible_in_snapshot` would be wrong for a row written under a savepoint.
    pub(super) fn sql(&self) -> String {
        let xid = widened("xmin::text::bigint", LAST_VISIBLE);
        format!("(xmin::text::bigint < 3 or {xid} < {})", self.confirmed_below_xid)
    }
}

/// The highest transaction id that a row may have which the statement sees.
const LAST_VISIBLE: &str =
    "(select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint - 1)";

/// SQL for the highest 64-bit number up to `last` that ends in these 32 bits; both are SQL for a `bigint`.
pub fn widened(bits: &str, last: &str) -> String {
    format!("{last} - (({last} - {bits}) & 4294967295)")
}

/// What slot and checkpoint row say together.
struct Stand {
    row: Row,
    slot: SlotView,
}

/// Finds out what is confirmed.
///
/// # Errors
/// [`PruneError`] when that cannot be known: no slot, a lost or foreign one, one from which no relay has
/// streamed, an unfinished backfill.
pub(super) async fn confirmed(client: &Client, slot: &str) -> Result<Confirmed, PruneError> {
    let mut stand = look(client, slot).await?;
    let newest = take_pair(client).await?;
    let deadline = Instant::now() + PATIENCE;
    while stand.slot.active && stand.slot.confirmed_flush_lsn < Some(newest.lsn) && Instant::now() < deadline
    {
        sleep(Duration::from_millis(50)).await;
        stand = look(client, slot).await?;
    }
    let passed = |pair: &Recovery| stand.slot.confirmed_flush_lsn >= Some(pair.lsn);
    // A slot that nobody streams from stands where it was put: only the relay's own note counts then.
    let newest = Some(newest).filter(|pair| stand.slot.active && passed(pair));
    let stored = stand.row.recovery.filter(passed);
    let at = stand.slot.confirmed_flush_lsn.map_or_else(|| "nothing".to_owned(), |lsn| lsn.to_string());
    match newest.or(stored) {
        Some(pair) => Ok(Confirmed {
            slot_name: slot.to_owned(),
            confirmed_flush_lsn: at,
            confirmed_below_xid: pair.xid,
        }),
        None => {
            let needed = stand.row.recovery.map_or_else(
                || "the end of WAL while a relay streams".to_owned(),
                |pair| pair.lsn.to_string(),
            );
            Err(PruneError::NotYet { slot: slot.to_owned(), confirmed: at, needed })
        }
    }
}

/// Reads row and slot, and refuses what is not to be trusted.
async fn look(client: &Client, name: &str) -> Result<Stand, PruneError> {
    match look_once(client, name).await {
        // A relay may have begun to stream after its row was read, and it says so in the row before the
        // slot moves: a second look tells.
        Err(PruneError::Moved { .. }) => look_once(client, name).await,
        stand => stand,
    }
}

async fn look_once(client: &Client, name: &str) -> Result<Stand, PruneError> {
    let (system_identifier, database) = checkpoint::whereabouts(client).await?;
    let row = checkpoint::read(client, name).await?;
    let slot = slot::view(client, name).await?;
    if let Some(slot) = &slot {
        slot.ensure_ours(&database).map_err(SlotError::from)?;
        if let Some(terminal) = slot.terminal() {
            return Err(SlotError::Terminal { slot: name.to_owned(), terminal }.into());
        }
    }
    let identity = Identity {
        system_identifier: &system_identifier,
        database: &database,
        instance: "txstream outbox",
        reported_lsn: Lsn::ZERO,
    };
    let verdict = judge(row.as_ref(), slot.as_ref(), &identity);
    match (verdict, row, slot) {
        // Ahead: what the slot was moved over lies behind the pair of who streamed before. But the next
        // pair would not know of the gap, so a person looks first; the relay halts at it too.
        (Verdict::Resume | Verdict::Behind { .. }, Some(row), Some(slot)) => {
            if row.recovery.is_none() && row.instance == BY_COMMAND {
                return Err(PruneError::NeverStreamed(name.to_owned()));
            }
            Ok(Stand { row, slot })
        }
        (verdict, _, _) => Err(refusal(name, verdict)),
    }
}

fn refusal(slot: &str, verdict: Verdict) -> PruneError {
    let slot = slot.to_owned();
    let elsewhere = |what: &str, row: String, server: String| SlotError::Elsewhere {
        slot: slot.clone(),
        row: format!("{what} {row}"),
        server: format!("{what} {server}"),
    };
    match verdict {
        Verdict::NeverExisted => SlotError::Missing(slot).into(),
        Verdict::Dropped => SlotError::DroppedBefore(slot).into(),
        Verdict::Lost { confirmed_lsn } => SlotError::Lost { slot, confirmed_lsn }.into(),
        Verdict::OtherSystem { row, server } => elsewhere("cluster", row, server).into(),
        Verdict::OtherDatabase { row, server } => elsewhere("database", row, server).into(),
        Verdict::BackfillPending => PruneError::BackfillPending(slot),
        Verdict::Ahead { row_lsn, slot_lsn } => PruneError::Moved { slot, row_lsn, slot_lsn },
        Verdict::Unknown | Verdict::Resume | Verdict::Behind { .. } => PruneError::NeverStreamed(slot),
    }
}

/// `X`, and then `L`. Statements of their own each: the position must be taken after the snapshot.
async fn take_pair(client: &Client) -> Result<Recovery, PruneError> {
    const DOING: &str = "find out which transactions have ended";
    let in_recovery: bool = value(client, "select pg_catalog.pg_is_in_recovery()").await?;
    if in_recovery {
        return Err(PruneError::InRecovery);
    }
    let xid: String =
        value(client, "select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text").await?;
    let lsn: String = value(client, "select pg_catalog.pg_current_wal_insert_lsn()::text").await?;
    // The commit behind L has the server flush up to it, and the slot is never sent what is not flushed.
    let _: String = value(client, "select pg_catalog.pg_current_xact_id()::text").await?;
    match (xid.parse(), lsn.parse()) {
        (Ok(xid), Ok(lsn)) => Ok(Recovery { xid, lsn }),
        _ => Err(PgError::protocol(DOING, "an xid or LSN that is none").into()),
    }
}

async fn value<T: tokio_postgres::types::FromSqlOwned>(client: &Client, sql: &str) -> Result<T, PruneError> {
    let failed = |source| PgError::statement("find out which transactions have ended", source);
    let row = client.query_typed_one(sql, &[]).await.map_err(failed)?;
    Ok(row.try_get(0).map_err(failed)?)
}

//! Which rows of the snapshot are confirmed, so that they must be in Kafka.
//!
//! Every row that the snapshot sees was committed before its position in WAL. Once the slot has confirmed
//! that, every row is in Kafka or parked. Until then only the pair in the checkpoint row proves something:
//! transactions below its id are confirmed.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::VerifyError;
use super::snapshot::Snapshot;
use crate::postgres::slot::{self, SlotView};
use crate::postgres::{Lsn, PgError};
use crate::relay::checkpoint::{self, CheckpointError};
use crate::relay::slot_life::SlotError;

/// Time between two looks at the slot.
const LOOK: Duration = Duration::from_millis(100);

/// What is confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// Every row of the snapshot.
    All,
    /// The rows of transactions below this 64-bit id.
    Below(u64),
    /// That is not known of any row.
    Nothing,
}

/// What the slot has confirmed.
#[derive(Debug, Clone)]
pub(super) struct Stand {
    pub(super) confirmed_flush_lsn: Option<Lsn>,
    pub(super) confirmed: Confirmed,
    /// Why the slot will never confirm anything more, so that nothing is on its way.
    pub(super) ended: Option<String>,
}

/// Waits until the slot has confirmed the snapshot, at most until `deadline`.
///
/// # Errors
/// [`VerifyError`] for a slot that is somebody else's, or one on another server than the tables.
pub(super) async fn confirmed(
    client: &Client,
    name: &str,
    snapshot: &Snapshot<'_>,
    deadline: Instant,
) -> Result<Stand, VerifyError> {
    let (system_identifier, database) = checkpoint::whereabouts(client).await?;
    if (&system_identifier, &database) != (&snapshot.system_identifier, &snapshot.database) {
        let place = |database: &str, system: &str| format!("database {database} of cluster {system}");
        return Err(VerifyError::Elsewhere {
            database: place(&snapshot.database, &snapshot.system_identifier),
            replication: place(&database, &system_identifier),
        });
    }
    let row = match checkpoint::read(client, name).await {
        Err(CheckpointError::NoTable) => None,
        row => row?,
    };
    let row = row.filter(|row| row.system_identifier == system_identifier && row.database == database);
    // Its rows come past the slot, which says nothing of them.
    let backfilling = row.as_ref().is_some_and(|row| row.backfill_pending);
    let slot = wait(client, name, snapshot, deadline).await?;
    let confirmed_flush_lsn = slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn);
    let ended = match &slot {
        None => Some("does not exist".to_owned()),
        Some(slot) => slot.terminal().map(|terminal| format!("is lost: {}", terminal.why())),
    };
    let pair = row.and_then(|row| row.recovery);
    let confirmed = match pair {
        _ if !backfilling && confirmed_flush_lsn >= Some(snapshot.lsn) => Confirmed::All,
        Some(pair) => Confirmed::Below(pair.xid),
        None => Confirmed::Nothing,
    };
    Ok(Stand { confirmed_flush_lsn, confirmed, ended })
}

async fn wait(
    client: &Client,
    name: &str,
    snapshot: &Snapshot<'_>,
    deadline: Instant,
) -> Result<Option<SlotView>, VerifyError> {
    let mut said = false;
    loop {
        let slot = slot::view(client, name).await?;
        if let Some(slot) = &slot {
            slot.ensure_ours(&snapshot.database).map_err(SlotError::from)?;
        }
        let at = slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn);
        let never = slot.as_ref().is_none_or(|slot| slot.terminal().is_some());
        if at >= Some(snapshot.lsn) || never || Instant::now() >= deadline {
            return Ok(slot);
        }
        if !said {
            let at = at.map(|at| at.to_string());
            tracing::info!(slot = name, confirmed_flush_lsn = at, snapshot_lsn = %snapshot.lsn,
                "waiting until the slot has confirmed the rows");
            // A commit has the server flush up to it, and the slot is never sent what is not flushed.
            let sql = "select pg_catalog.pg_current_xact_id()::text";
            let flushed = client.query_typed_one(sql, &[]).await;
            flushed.map_err(|error| PgError::statement("have WAL flushed", error))?;
            said = true;
        }
        sleep(LOOK).await;
    }
}

//! How a slot begins, is repaired, and ends. Publication first; never in place of one that was lost,
//! unless a person says so; the checkpoint row is written so that a command broken off anywhere can be
//! run again.

mod adopt;
mod advance;
mod create;
mod drop;
mod error;
mod known;
mod letters;
mod published;
mod reset;
mod younger;

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::checkpoint::{self, Row};
use crate::postgres::slot::{self, SlotView};
use crate::postgres::{Lsn, PgError};

pub use adopt::{Change, adopt, changes};
pub use advance::{Skips, advance, skips};
pub use create::{CreateSlot, Created, create};
pub use drop::{Droppable, drop, droppable};
pub use error::SlotError;
pub use known::known;
pub(super) use letters::ensure_letters_are_of_here;
pub(crate) use published::add_columns;
pub use published::ensure_published;
pub use reset::{
    Count, EVERY_ROW_OF_THE_ANCESTOR, Renewed, Reset, Survey, WhyAll, begin_first, count, finish, renew,
    survey, tables_with_status,
};
pub use younger::ensure_older;

/// How to go on when what a slot had not confirmed cannot come by it any more.
pub(crate) const RESET: &str = "run txstream slot reset --backfill: it makes a new slot and publishes every row \
     still in the table that may be unconfirmed";

/// How to go on in a cluster or database that the row does not know.
pub(crate) const ELSEWHERE: &str = "check DATABASE_URL and REPLICATION_URL; after pg_upgrade, a restore or a copy made \
     on purpose: txstream slot adopt if the slot came along, else txstream slot reset --backfill";

/// How to go on when a backfill was broken off.
pub(crate) const FINISH_BACKFILL: &str =
    "run txstream slot reset --backfill again: it goes on with the slot that was made";

/// How the rows of commands are marked: no relay has this instance.
pub(crate) const BY_COMMAND: &str = "txstream slot";

/// With the backfill pending: the slot before is gone, so a slot of that name is the new one. It must
/// not be dropped: it alone has what was written and deleted since.
pub(super) const BY_RESET: &str = "txstream slot reset";

/// How long another command, or the server's notice of its end, is waited for.
const AT_WORK_WAIT: Duration = Duration::from_secs(5);

/// Keeps other `slot` commands off this slot for the life of the connection.
///
/// # Errors
/// [`SlotError::AtWork`].
pub async fn exclusively(client: &Client, slot: &str) -> Result<(), SlotError> {
    const SQL: &str =
        "select pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended('txstream slot ' || $1, 0))";
    let failed = |source| PgError::statement("take the lock of slot commands", source);
    // A backfill may take hours, and the lock ends with the session.
    client.batch_execute("set idle_session_timeout = 0").await.map_err(failed)?;
    let until = Instant::now() + AT_WORK_WAIT;
    loop {
        let row = client.query_typed_one(SQL, &[(&slot, Type::TEXT)]).await.map_err(failed)?;
        if row.try_get(0).map_err(failed)? {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(SlotError::AtWork(slot.to_owned()));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// A slot and its checkpoint row.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Cluster we are connected to.
    pub system_identifier: String,
    /// Database we are connected to.
    pub database: String,
    /// The checkpoint row.
    pub row: Option<Row>,
    /// The slot; it is ours.
    pub slot: Option<SlotView>,
}

/// Looks at both, and refuses another's slot and one that someone holds.
///
/// # Errors
/// [`SlotError`].
pub async fn find_idle(client: &Client, slot: &str) -> Result<Found, SlotError> {
    let (system_identifier, database) = checkpoint::whereabouts(client).await?;
    let row = checkpoint::read(client, slot).await?;
    let view = slot::view(client, slot).await?;
    if let Some(view) = &view {
        view.ensure_ours(&database)?;
        if let Some(holder) = view.held_by() {
            return Err(SlotError::InUse { slot: slot.to_owned(), holder });
        }
    }
    Ok(Found { system_identifier, database, row, slot: view })
}

impl Found {
    /// Where the gap begins that a new slot leaves.
    pub fn confirmed_lsn(&self) -> Option<Lsn> {
        let by_slot = self.slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn);
        // A position in another cluster's WAL is none here.
        let row = self.row.as_ref().filter(|row| row.system_identifier == self.system_identifier);
        by_slot.or_else(|| row.and_then(|row| row.confirmed_lsn))
    }

    /// The slot, or why there is none.
    fn existing(&self, name: &str) -> Result<&SlotView, SlotError> {
        self.slot.as_ref().ok_or_else(|| missing(name, self.row.as_ref()))
    }
}

/// Why there is no slot: it never was, it was dropped, or it was lost.
pub fn missing(slot: &str, row: Option<&Row>) -> SlotError {
    let slot = slot.to_owned();
    match row {
        None => SlotError::Missing(slot),
        Some(row) if row.dropped => SlotError::DroppedBefore(slot),
        Some(row) if row.backfill_pending => SlotError::BackfillPending(slot),
        Some(row) => SlotError::Lost { slot, confirmed_lsn: row.confirmed_lsn },
    }
}

/// Who was faster than a command.
async fn in_use(client: &Client, slot: &str) -> Result<SlotError, PgError> {
    let holder = slot::view(client, slot).await?.and_then(|view| view.held_by());
    let holder = holder.unwrap_or_else(|| "another session".to_owned());
    Ok(SlotError::InUse { slot: slot.to_owned(), holder })
}

/// The row of a slot of which nothing was published yet.
fn fresh(slot: &str, system_identifier: String, database: String, confirmed_lsn: Option<Lsn>) -> Row {
    Row {
        slot: slot.to_owned(),
        system_identifier,
        database,
        confirmed_lsn,
        instance: BY_COMMAND.to_owned(),
        clean: true,
        recovery: None,
        dropped: false,
        backfill_pending: false,
        rejected: None,
    }
}

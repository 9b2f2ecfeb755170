//! The first slot: only where there never was one, or where one was dropped on purpose.

use std::time::Duration;

use tokio_postgres::Client;

use super::{BY_COMMAND, SlotError, ensure_letters_are_of_here, ensure_published, fresh};
use crate::outbox;
use crate::postgres::Lsn;
use crate::postgres::slot::{self, CreateError, NewSlot, SlotView};
use crate::relay::checkpoint::{self, Identity, Verdict, judge};

/// A slot to be created, and what must be there before.
#[derive(Debug, Clone, Copy)]
pub struct CreateSlot<'a> {
    /// Slot name.
    pub slot: &'a str,
    /// The publication that must cover every outbox table.
    pub publication: &'a str,
    /// The outbox tables.
    pub outbox: &'a outbox::Settings,
    /// Keep it on standbys too (PostgreSQL 17 and later).
    pub failover: bool,
    /// Longest wait for one open transaction.
    pub lock_timeout: Duration,
    /// Only if there never was one, not even one dropped by command: a relay that starts.
    pub first_only: bool,
}

/// What `create` came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    /// A new slot that starts here.
    New {
        /// Its position.
        at: Lsn,
    },
    /// There was one, and it is ours.
    Existed(Box<SlotView>),
}

/// Creates the slot, and the checkpoint row that says so. One that exists and is ours is left as it is.
///
/// # Errors
/// [`SlotError`]; no slot is left behind, but for a checkpoint row that cannot be written after its
/// slot was made: run it again, the slot is taken as made by hand.
pub async fn create(client: &Client, new: &CreateSlot<'_>) -> Result<Created, SlotError> {
    let (system_identifier, database) = checkpoint::whereabouts(client).await?;
    let row = checkpoint::read(client, new.slot).await?;
    ensure_published(client, new.publication, new.outbox).await?;
    if row.as_ref().is_some_and(|row| row.backfill_pending && !row.dropped) {
        return Err(SlotError::BackfillPending(new.slot.to_owned()));
    }
    if let Some(view) = usable(client, new.slot, &database).await? {
        return Ok(Created::Existed(Box::new(view)));
    }
    let identity = Identity {
        system_identifier: &system_identifier,
        database: &database,
        instance: BY_COMMAND,
        reported_lsn: Lsn::ZERO,
    };
    may_create(new.slot, new.first_only, judge(row.as_ref(), None, &identity))?;
    ensure_letters_are_of_here(client, new.slot).await?;
    let made = NewSlot { name: new.slot, failover: new.failover, lock_timeout: new.lock_timeout };
    let at = match slot::create(client, &made).await {
        Ok(at) => at,
        // Another process was faster.
        Err(CreateError::Exists(name)) => {
            let view = usable(client, new.slot, &database).await?.ok_or(CreateError::Exists(name))?;
            return Ok(Created::Existed(Box::new(view)));
        }
        Err(error) => return Err(error.into()),
    };
    let seen = row.as_ref().map(|row| row.instance.as_str());
    // A relay that was waiting may stream from it already: the row is its own then.
    checkpoint::replace(client, &fresh(new.slot, system_identifier, database, Some(at)), seen).await?;
    Ok(Created::New { at })
}

/// The slot, if it exists, is ours, and can stream.
pub(super) async fn usable(
    client: &Client,
    slot: &str,
    database: &str,
) -> Result<Option<SlotView>, SlotError> {
    let Some(view) = slot::view(client, slot).await? else { return Ok(None) };
    view.ensure_ours(database)?;
    match view.terminal() {
        Some(terminal) => Err(SlotError::Terminal { slot: slot.to_owned(), terminal }),
        None => Ok(Some(view)),
    }
}

/// A slot is only ever created where none was, or where one was dropped on purpose.
pub(super) fn may_create(slot: &str, first_only: bool, verdict: Verdict) -> Result<(), SlotError> {
    let slot = slot.to_owned();
    match verdict {
        Verdict::Dropped if first_only => Err(SlotError::DroppedBefore(slot)),
        Verdict::Lost { confirmed_lsn } => Err(SlotError::Lost { slot, confirmed_lsn }),
        Verdict::OtherSystem { row, server } => Err(SlotError::Elsewhere {
            slot,
            row: format!("cluster {row}"),
            server: format!("cluster {server}"),
        }),
        Verdict::OtherDatabase { row, server } => Err(SlotError::Elsewhere {
            slot,
            row: format!("database {row}"),
            server: format!("database {server}"),
        }),
        // Without a slot no other verdict is possible.
        _ => Ok(()),
    }
}

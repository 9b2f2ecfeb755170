//! The end of a slot, on purpose.

use tokio_postgres::Client;

use super::{SlotError, fresh, in_use};
use crate::postgres::Lsn;
use crate::postgres::slot::{self, DropError, SlotView};
use crate::relay::checkpoint::{self, CheckpointError, Row};

/// What [`drop`] would drop.
#[derive(Debug, Clone, PartialEq)]
pub enum Droppable {
    /// A slot.
    Slot(Box<SlotView>),
    /// A slot that is gone already, and that the checkpoint takes for lost.
    Lost {
        /// The last position known to be confirmed.
        confirmed_lsn: Option<Lsn>,
    },
}

/// The slot that [`drop`] would drop, for the question before it.
///
/// # Errors
/// [`SlotError`] when there is none and none was lost, it is another's, or someone holds it.
pub async fn droppable(client: &Client, slot: &str) -> Result<Droppable, SlotError> {
    let (_, database) = checkpoint::whereabouts(client).await?;
    let Some(view) = slot::view(client, slot).await? else { return lost(client, slot).await };
    view.ensure_ours(&database)?;
    match view.held_by() {
        Some(holder) => Err(SlotError::InUse { slot: slot.to_owned(), holder }),
        None => Ok(Droppable::Slot(Box::new(view))),
    }
}

async fn lost(client: &Client, slot: &str) -> Result<Droppable, SlotError> {
    match checkpoint::read(client, slot).await {
        Ok(Some(Row { dropped: false, confirmed_lsn, .. })) => Ok(Droppable::Lost { confirmed_lsn }),
        Ok(_) | Err(CheckpointError::NoTable) => Err(SlotError::Missing(slot.to_owned())),
        Err(error) => Err(error.into()),
    }
}

/// Drops the slot and records that it was done on purpose. What it had not confirmed is skipped. A
/// slot that was lost is given up.
///
/// # Errors
/// [`SlotError`] when there is none, it is another's, or someone holds it; nothing is changed then.
pub async fn drop(client: &Client, slot: &str) -> Result<(), SlotError> {
    let view = match droppable(client, slot).await? {
        Droppable::Slot(view) => view,
        Droppable::Lost { .. } => {
            checkpoint::set_dropped(client, slot, true).await?;
            return Ok(());
        }
    };
    // The record first: the other way round, an end in between would leave a slot that seems lost.
    let recorded = record_drop(client, slot, &view).await?;
    match slot::drop(client, slot).await {
        Ok(()) | Err(DropError::Missing(_)) => Ok(()),
        Err(error) => {
            if recorded {
                checkpoint::set_dropped(client, slot, false).await?;
            }
            match error {
                DropError::Pg(error) => Err(error.into()),
                _ => Err(in_use(client, slot).await?),
            }
        }
    }
}

/// Without the table there is nothing to record, and nothing that could take the slot for lost.
async fn record_drop(client: &Client, slot: &str, view: &SlotView) -> Result<bool, SlotError> {
    match checkpoint::set_dropped(client, slot, true).await {
        Ok(true) => Ok(true),
        Ok(false) => {
            let (system_identifier, database) = checkpoint::whereabouts(client).await?;
            let row = fresh(slot, system_identifier, database, view.confirmed_flush_lsn);
            if checkpoint::replace(client, &Row { dropped: true, ..row }, None).await? {
                Ok(true)
            } else {
                Err(SlotError::Taken(slot.to_owned()))
            }
        }
        Err(CheckpointError::NoTable) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

//! Takes over a slot whose identity changed: a cluster after `pg_upgrade`, a restored copy, a renamed
//! database, or a slot that another program has moved. Moves nothing; rewrites the row.

use tokio_postgres::Client;

use super::{Found, SlotError, ensure_letters_are_of_here, find_idle, fresh};
use crate::postgres::Lsn;
use crate::relay::checkpoint::{self, Row};

/// What the row would say anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it is.
    pub what: &'static str,
    /// What the row says.
    pub old: String,
    /// What is so now.
    pub new: String,
}

/// What [`adopt`] would change; nothing, when row and slot agree.
///
/// # Errors
/// [`SlotError`] when there is no slot, it is another's, in use, lost, or a backfill is pending.
pub async fn changes(client: &Client, slot: &str) -> Result<Vec<Change>, SlotError> {
    let found = adoptable(client, slot).await?;
    let lsn = |lsn: Option<Lsn>| lsn.map_or_else(|| "unknown".to_owned(), |lsn| lsn.to_string());
    let (row, view) = (found.row.as_ref(), found.existing(slot)?);
    let none = || "none".to_owned();
    let old = |text: fn(&Row) -> String| row.map_or_else(none, text);
    let all = [
        ("system identifier", old(|row| row.system_identifier.clone()), found.system_identifier.clone()),
        ("database", old(|row| row.database.clone()), found.database.clone()),
        (
            "confirmed up to",
            row.map_or_else(none, |row| lsn(row.confirmed_lsn)),
            lsn(view.confirmed_flush_lsn),
        ),
        (
            "dropped by txstream slot drop",
            old(|row| if row.dropped { "yes" } else { "no" }.to_owned()),
            "no".to_owned(),
        ),
    ];
    Ok(all
        .into_iter()
        .filter(|(_, old, new)| old != new && !(row.is_none() && new == "no"))
        .map(|(what, old, new)| Change { what, old, new })
        .collect())
}

/// Rewrites the row so that it agrees with the slot. Of another cluster nothing is known of the rows that
/// may be unconfirmed.
///
/// # Errors
/// As [`changes`].
pub async fn adopt(client: &Client, slot: &str) -> Result<(), SlotError> {
    let found = adoptable(client, slot).await?;
    let confirmed_lsn = found.existing(slot)?.confirmed_flush_lsn;
    let seen = found.row.as_ref().map(|row| row.instance.clone());
    let same = found.row.filter(|row| row.system_identifier == found.system_identifier && !row.dropped);
    let row = fresh(slot, found.system_identifier, found.database, confirmed_lsn);
    let (recovery, rejected) = same.map_or((None, None), |row| (row.recovery, row.rejected));
    if checkpoint::replace(client, &Row { recovery, rejected, ..row }, seen.as_deref()).await? {
        Ok(())
    } else {
        Err(SlotError::Taken(slot.to_owned()))
    }
}

async fn adoptable(client: &Client, slot: &str) -> Result<Found, SlotError> {
    let found = find_idle(client, slot).await?;
    let terminal = found.existing(slot)?.terminal();
    if let Some(terminal) = terminal {
        return Err(SlotError::Terminal { slot: slot.to_owned(), terminal });
    }
    if found.row.as_ref().is_some_and(|row| row.backfill_pending && !row.dropped) {
        return Err(SlotError::BackfillPending(slot.to_owned()));
    }
    ensure_letters_are_of_here(client, slot).await?;
    Ok(found)
}

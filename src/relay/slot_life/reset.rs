//! A new slot at the current point, in place of one that was lost or is to be given up, or with the
//! backfill of a first one.
//!
//! The steps are: mark the row `backfill pending` (a relay waits from then on), drop the slot there was, write
//! the row as [`BY_RESET`], create the new slot, publish where a backfill is wanted, [`finish`]. Broken off
//! anywhere it is run again: before the row is `BY_RESET` whatever slot there is gets dropped again,
//! after it the slot stays, since rows that were written and deleted meanwhile exist in it alone.

use tokio_postgres::Client;

use super::create::may_create;
use super::{
    BY_COMMAND, BY_RESET, Found, SlotError, ensure_letters_are_of_here, ensure_published, find_idle, fresh,
    in_use,
};
use crate::outbox::{self, TableName};
use crate::postgres::Lsn;
use crate::postgres::replication::ReplicationConn;
use crate::postgres::slot::{self, CreateError, DropError, NewSlot};
use crate::relay::backfill::Selection;
use crate::relay::checkpoint::{self, Identity, Recovery, Row, judge};

pub use crate::relay::backfill::{Count, count};

/// What is proposed where the ancestor's table says itself what was published.
pub const EVERY_ROW_OF_THE_ANCESTOR: &str = "status <> 'published'";

/// A slot to be made anew.
#[derive(Debug, Clone, Copy)]
pub struct Reset<'a> {
    /// The slot.
    pub new: NewSlot<'a>,
    /// The publication that must cover every outbox table.
    pub publication: &'a str,
    /// The outbox tables.
    pub outbox: &'a outbox::Settings,
}

/// Why every row of the table may be unconfirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WhyAll {
    /// There never was a slot, or it was given up.
    #[error("there was no slot before")]
    First,
    /// The slot was never seen to confirm anything.
    #[error("nothing is known of what the slot before had confirmed")]
    Unknown,
    /// The row is another cluster's or database's.
    #[error("the checkpoint was written in another cluster or database")]
    Elsewhere,
}

/// What a reset finds.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    found: Found,
    /// The new slot is there already, or is to be made in place of nothing: a reset was broken off.
    pub goes_on: bool,
    /// Where the gap begins; the new slot ends it.
    pub from: Option<Lsn>,
    /// The end of WAL now.
    pub to: Option<Lsn>,
    /// Why the rows cannot be told apart.
    pub why_all: Option<WhyAll>,
}

impl Survey {
    /// The rows that may be unconfirmed, narrowed by a condition of the person.
    pub fn selection(&self, filter: Option<String>) -> Selection {
        let row = self.found.row.as_ref().filter(|_| self.why_all.is_none());
        Selection { since: row.and_then(|row| row.recovery).map(|pair| pair.xid), filter }
    }

    /// Whether the slot there is is kept on standbys too.
    pub fn failover(&self) -> bool {
        self.found.slot.as_ref().is_some_and(|slot| slot.failover == Some(true))
    }

    /// Whether there is a slot that would be dropped.
    pub fn drops(&self) -> bool {
        self.found.slot.is_some() && !self.goes_on
    }
}

/// Looks at slot, row and tables. Changes nothing.
///
/// # Errors
/// [`SlotError`] when the slot is another's or in use, the publication does not cover the tables, or dead
/// letters are from another cluster.
pub async fn survey(client: &Client, reset: &Reset<'_>) -> Result<Survey, SlotError> {
    let found = find_idle(client, reset.new.name).await?;
    ensure_published(client, reset.publication, reset.outbox).await?;
    ensure_letters_are_of_here(client, reset.new.name).await?;
    let goes_on = found.row.as_ref().is_some_and(|row| {
        row.backfill_pending && !row.dropped && row.instance == BY_RESET && is_here(row, &found)
    }) && found.slot.as_ref().is_none_or(|slot| slot.terminal().is_none());
    let why_all = match &found.row {
        None => Some(WhyAll::First),
        Some(row) if row.dropped => Some(WhyAll::First),
        Some(row) if !is_here(row, &found) => Some(WhyAll::Elsewhere),
        Some(row) if row.recovery.is_none() => Some(WhyAll::Unknown),
        Some(_) => None,
    };
    let to = checkpoint::take_pair(client).await?.lsn;
    // The new slot has confirmed nothing of what lies before it.
    let by_row = found.row.as_ref().and_then(|row| row.confirmed_lsn).filter(|_| goes_on);
    Ok(Survey { from: by_row.or_else(|| found.confirmed_lsn()), to: Some(to), goes_on, why_all, found })
}

fn is_here(row: &Row, found: &Found) -> bool {
    row.system_identifier == found.system_identifier && row.database == found.database
}

/// What `slot create --backfill` begins with: as [`survey`], but only where there never was a slot, or it
/// was dropped on purpose. `None`: there is one.
///
/// # Errors
/// [`SlotError`].
pub async fn begin_first(client: &Client, reset: &Reset<'_>) -> Result<Option<Survey>, SlotError> {
    let survey = survey(client, reset).await?;
    let found = &survey.found;
    if survey.goes_on {
        return Ok(Some(survey));
    }
    let identity = Identity {
        system_identifier: &found.system_identifier,
        database: &found.database,
        instance: BY_COMMAND,
        reported_lsn: Lsn::ZERO,
    };
    if found.row.as_ref().is_some_and(|row| row.backfill_pending && !row.dropped) {
        return Err(SlotError::BackfillPending(reset.new.name.to_owned()));
    }
    if found.slot.is_some() {
        return Ok(None);
    }
    may_create(reset.new.name, false, judge(found.row.as_ref(), None, &identity))?;
    Ok(Some(Survey { why_all: Some(WhyAll::First), ..survey }))
}

/// A slot made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// Where it starts; of one that was made by a run before, where it stands.
    pub at: Option<Lsn>,
    /// Shows exactly what was committed before it; for SET TRANSACTION SNAPSHOT, until the next command on
    /// the replication connection. None of a slot made before: any later snapshot shows all of it too.
    pub snapshot: Option<String>,
}

/// Drops the slot there was and makes a new one. With `replication` for a backfill: the row says that it
/// is pending until [`finish`].
///
/// # Errors
/// [`SlotError`]; a failure after the drop leaves a backfill pending, wanted or not: the rows of the gap are
/// published then, or the reset is run again without.
pub async fn renew(
    client: &Client,
    reset: &Reset<'_>,
    survey: &Survey,
    replication: Option<&mut ReplicationConn>,
) -> Result<Renewed, SlotError> {
    let name = reset.new.name;
    // Without a backfill the one that was broken off is given up.
    if !survey.goes_on || replication.is_none() {
        slot::could_create(client, &reset.new).await?;
        drop_old(client, name, survey).await?;
    } else if let Some(slot) = &survey.found.slot {
        return Ok(Renewed { at: slot.confirmed_flush_lsn, snapshot: None });
    }
    let Found { system_identifier, database, .. } = survey.found.clone();
    match replication {
        None => {
            let at = slot::create(client, &reset.new).await?;
            let row = fresh(name, system_identifier, database, Some(at));
            renewed(checkpoint::replace(client, &row, Some(BY_RESET)).await?, name)?;
            Ok(Renewed { at: Some(at), snapshot: None })
        }
        Some(replication) => match slot::create_exporting(client, replication, &reset.new).await {
            Ok(created) => {
                // The row says already that a slot of this name is the new one, and keeps where the gap begins.
                Ok(Renewed { at: Some(created.consistent_point), snapshot: created.snapshot })
            }
            Err(CreateError::Exists(name)) => Err(SlotError::AtWork(name)),
            Err(error) => Err(error.into()),
        },
    }
}

/// A row that a relay has taken since is its own.
fn renewed(written: bool, name: &str) -> Result<(), SlotError> {
    if written { Ok(()) } else { Err(SlotError::Taken(name.to_owned())) }
}

async fn drop_old(client: &Client, name: &str, survey: &Survey) -> Result<(), SlotError> {
    let before = survey.found.row.as_ref();
    let seen = before.map(|row| row.instance.as_str());
    // Until the slot is gone the row keeps all that the next holder would have to know if it stays.
    let marked = Row { backfill_pending: true, ..known_row(survey, name) };
    let instance = if marked.instance == BY_RESET { BY_COMMAND.to_owned() } else { marked.instance.clone() };
    let marked = Row { instance, ..marked };
    renewed(checkpoint::replace(client, &marked, seen).await?, name)?;
    match slot::drop(client, name).await {
        Ok(()) | Err(DropError::Missing(_)) => {}
        Err(error) => {
            // Whoever holds it goes on with it: nothing has changed.
            put_back(client, name, before, &marked).await?;
            return Err(match error {
                DropError::Pg(error) => error.into(),
                _ => in_use(client, name).await?,
            });
        }
    }
    // What Kafka refused at the last stop is among what is published now.
    let by_reset = Row {
        rejected: None,
        recovery: marked.recovery.filter(|_| survey.why_all.is_none()),
        clean: true,
        instance: BY_RESET.to_owned(),
        ..marked.clone()
    };
    renewed(checkpoint::replace(client, &by_reset, Some(&marked.instance)).await?, name)
}

/// Undoes the mark. Of a row that says all that it said before only the mark is taken back, since a relay may
/// have taken it meanwhile; one of another cluster, of a slot that was given up, or of a reset that was broken off has to
/// say so again.
async fn put_back(client: &Client, name: &str, before: Option<&Row>, marked: &Row) -> Result<(), SlotError> {
    let was_pending = before.is_some_and(|row| row.backfill_pending);
    let unmarked = Row { backfill_pending: was_pending, ..marked.clone() };
    if let Some(before) = before.filter(|before| **before != unmarked)
        && checkpoint::replace(client, before, Some(&marked.instance)).await?
    {
        return Ok(());
    }
    if !was_pending {
        checkpoint::set_backfill_pending(client, name, false).await?;
    }
    Ok(())
}

/// The row as it is, or where it is of another cluster or of a slot that was given up, a new one.
fn known_row(survey: &Survey, name: &str) -> Row {
    let found = &survey.found;
    let known = found.row.clone().filter(|row| is_here(row, found) && !row.dropped);
    known.unwrap_or_else(|| {
        fresh(name, found.system_identifier.clone(), found.database.clone(), found.confirmed_lsn())
    })
}

/// The backfill is done: everything that was committed before its snapshot is in Kafka or parked, and only
/// rows from `recovery` on may be unconfirmed.
///
/// # Errors
/// [`SlotError`]; run again, the backfill repeats.
pub async fn finish(
    client: &Client,
    slot: &str,
    at: Option<Lsn>,
    recovery: Recovery,
) -> Result<(), SlotError> {
    let (system_identifier, database) = checkpoint::whereabouts(client).await?;
    let row = fresh(slot, system_identifier, database, at);
    renewed(
        checkpoint::replace(client, &Row { recovery: Some(recovery), ..row }, Some(BY_RESET)).await?,
        slot,
    )
}

/// The tables with a column that says itself what was published.
///
/// # Errors
/// [`SlotError`].
pub async fn tables_with_status(client: &Client, reset: &Reset<'_>) -> Result<Vec<TableName>, SlotError> {
    let mut with = Vec::new();
    for name in &reset.outbox.tables {
        let table =
            crate::postgres::publication::table(client, &name.schema, &name.name, reset.publication).await?;
        if table.is_some_and(|table| table.column_names().contains(&"status")) {
            with.push(name.clone());
        }
    }
    Ok(with)
}

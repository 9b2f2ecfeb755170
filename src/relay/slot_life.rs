//! How a slot begins and ends: publication first, and never in place of one that was lost.

use std::time::Duration;

use super::checkpoint::{self, CheckpointError, Identity, Row, Verdict, judge};
use crate::outbox;
use crate::postgres::publication::{self, Gap, TableKind};
use crate::postgres::slot::{self, CreateError, DropError, NewSlot, NotOurs, SlotView, Terminal};
use crate::postgres::{Lsn, PgError};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::Client;

/// How to go on when what a slot had not confirmed cannot come by it any more.
pub(crate) const BEGIN_ANEW: &str = "run txstream slot drop --yes and then txstream slot create; outbox rows that \
     were not confirmed by then lie before the new slot: insert them again";

/// The SQL that makes the relay forget what its checkpoint says of a slot, so that the slot is taken as
/// it stands.
pub(crate) fn forget(slot: &str) -> String {
    format!("DELETE FROM {} WHERE slot = {};", checkpoint::TABLE, escape_literal(slot))
}

/// How the rows of commands are marked: no relay has this instance.
pub(crate) const BY_COMMAND: &str = "txstream slot";

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

/// Why a slot was neither created nor dropped.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The publication does not exist.
    #[error("publication {0} does not exist; a slot created before its publication can never decode it")]
    NoPublication(String),
    /// An outbox table does not exist.
    #[error("outbox table {0} does not exist")]
    NoTable(String),
    /// An outbox table whose rows logical replication never sees.
    #[error("{0} is not a table whose rows are replicated (a view, a temporary or an unlogged table)")]
    NotReplicated(String),
    /// Columns are missing.
    #[error("outbox table {table} has no column {}", .columns.join(", "))]
    NoColumns {
        /// The table.
        table: String,
        /// The columns that the preset or a placement needs.
        columns: Vec<String>,
        /// The SQL that adds them.
        sql: String,
    },
    /// The publication does not bring every row of a table.
    #[error("publication {publication} does not cover {table}: {gap}")]
    Gap {
        /// Publication name.
        publication: String,
        /// The table.
        table: String,
        /// What is missing.
        gap: Gap,
        /// The SQL that closes it.
        sql: String,
    },
    /// The checkpoint knows of a slot that is gone.
    #[error(
        "slot {slot} existed before, confirmed up to {}, and was not dropped by txstream slot drop: a new one \
         would skip what was not confirmed",
        .confirmed_lsn.map_or_else(|| "an unknown position".to_owned(), |lsn| lsn.to_string())
    )]
    Lost {
        /// Slot name.
        slot: String,
        /// The last position known to be confirmed.
        confirmed_lsn: Option<Lsn>,
    },
    /// The slot was dropped by command, and only the very first may be created here.
    #[error("slot {0} was dropped by txstream slot drop")]
    DroppedBefore(String),
    /// The row was written elsewhere.
    #[error("the checkpoint of slot {slot} was written in {row}, this is {server}")]
    Elsewhere {
        /// Slot name.
        slot: String,
        /// What the row says.
        row: String,
        /// Where we are.
        server: String,
    },
    /// Another's slot.
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
    /// The slot will never stream again.
    #[error("slot {slot} is lost: {}", .terminal.why())]
    Terminal {
        /// Slot name.
        slot: String,
        /// Why.
        terminal: Terminal,
    },
    /// There is no slot to drop.
    #[error("there is no slot {0}")]
    Missing(String),
    /// Someone holds the slot.
    #[error("slot {slot} is in use by {holder}")]
    InUse {
        /// Slot name.
        slot: String,
        /// Who holds it.
        holder: String,
    },
    /// Creation failed.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The checkpoint row.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Anything else at Postgres.
    #[error(transparent)]
    Pg(#[from] PgError),
}

impl SlotError {
    /// What a person can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoPublication(_) | Self::NoTable(_) => "run txstream migrate up".to_owned(),
            Self::NotReplicated(_) => "set OUTBOX_TABLE to an ordinary or partitioned table".to_owned(),
            Self::NoColumns { sql, .. } => {
                format!("set OUTBOX_PRESET and OUTBOX_PLACEMENT to what the table has, or add them: {sql}")
            }
            Self::Gap { sql, .. } => {
                format!("run txstream migrate up, or if the publication is not its own: {sql}")
            }
            Self::Lost { .. } => BEGIN_ANEW.to_owned(),
            Self::Elsewhere { slot, .. } => {
                format!("check DATABASE_URL and REPLICATION_URL; to begin anew here: {}", forget(slot))
            }
            Self::Terminal { terminal, .. } => terminal.prevention().map_or_else(
                || BEGIN_ANEW.to_owned(),
                |sql| format!("{BEGIN_ANEW}; to keep it from happening again: {sql}"),
            ),
            Self::DroppedBefore(_) => "run txstream slot create".to_owned(),
            Self::NotOurs(_) => "set REPLICATION_SLOT to another name; nothing was changed".to_owned(),
            Self::Missing(_) => "check REPLICATION_SLOT; txstream slot create makes one".to_owned(),
            Self::InUse { .. } => "stop it first".to_owned(),
            Self::Create(error) => error.remedy(),
            Self::Checkpoint(error) => error.remedy(),
            Self::Pg(error) => error.hint().unwrap_or_else(|| "see the server's log".to_owned()),
        }
    }
}

/// Checks that the publication exists and brings every row of every outbox table, whole.
///
/// # Errors
/// [`SlotError`] naming the first thing that is missing.
pub async fn ensure_published(
    client: &Client,
    publication: &str,
    outbox: &outbox::Settings,
) -> Result<(), SlotError> {
    let Some(found) = publication::publication(client, publication).await? else {
        return Err(SlotError::NoPublication(publication.to_owned()));
    };
    for name in &outbox.tables {
        let table = publication::table(client, &name.schema, &name.name, publication).await?;
        let table = table.ok_or_else(|| SlotError::NoTable(name.to_string()))?;
        if table.kind == TableKind::NotReplicated {
            return Err(SlotError::NotReplicated(name.to_string()));
        }
        let columns = outbox.missing_columns(&table.column_names());
        if !columns.is_empty() {
            let names = outbox.missing_column_names(&table.column_names());
            let sql = add_columns(&table.quoted(), &names);
            return Err(SlotError::NoColumns { table: name.to_string(), columns, sql });
        }
        if let Some(gap) = table.gaps(&found, |column| outbox.reads_column(column)).into_iter().next() {
            let sql = gap.sql(publication, &table);
            let publication = publication.to_owned();
            return Err(SlotError::Gap { publication, table: name.to_string(), gap, sql });
        }
    }
    Ok(())
}

/// The SQL that adds columns to a table.
pub(crate) fn add_columns(table: &str, columns: &[&str]) -> String {
    let add = |column: &&str| format!("ADD COLUMN {} text", escape_identifier(column));
    format!("ALTER TABLE {table} {};", columns.iter().map(add).collect::<Vec<_>>().join(", "))
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
    if let Some(view) = usable(client, new.slot, &database).await? {
        return Ok(Created::Existed(Box::new(view)));
    }
    let identity = Identity {
        system_identifier: &system_identifier,
        database: &database,
        instance: BY_COMMAND,
        reported_lsn: Lsn::ZERO,
    };
    may_create(new, judge(row.as_ref(), None, &identity))?;
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
    checkpoint::replace(client, &fresh(new.slot, system_identifier, database, Some(at))).await?;
    Ok(Created::New { at })
}

/// The slot, if it exists, is ours, and can stream.
async fn usable(client: &Client, slot: &str, database: &str) -> Result<Option<SlotView>, SlotError> {
    let Some(view) = slot::view(client, slot).await? else { return Ok(None) };
    view.ensure_ours(database)?;
    match view.terminal() {
        Some(terminal) => Err(SlotError::Terminal { slot: slot.to_owned(), terminal }),
        None => Ok(Some(view)),
    }
}

/// A slot is only ever created where none was, or where one was dropped on purpose.
fn may_create(new: &CreateSlot<'_>, verdict: Verdict) -> Result<(), SlotError> {
    let slot = new.slot.to_owned();
    match verdict {
        Verdict::Dropped if new.first_only => Err(SlotError::DroppedBefore(slot)),
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
                _ => {
                    let holder = slot::view(client, slot).await?.and_then(|view| view.held_by());
                    let holder = holder.unwrap_or_else(|| "another session".to_owned());
                    Err(SlotError::InUse { slot: slot.to_owned(), holder })
                }
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
            checkpoint::replace(client, &Row { dropped: true, ..row }).await?;
            Ok(true)
        }
        Err(CheckpointError::NoTable) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

//! Why a slot was left as it is, and what mends that.

use super::{ELSEWHERE, FINISH_BACKFILL, RESET};
use crate::dead_letter::DeadLetterError;
use crate::dead_letter::ask::MOST_BEYOND;
use crate::postgres::publication::Gap;
use crate::postgres::slot::{CreateError, NotOurs, Terminal};
use crate::postgres::{Lsn, PgError};
use crate::relay::checkpoint::CheckpointError;

/// Why a slot was left as it is.
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
    /// There is no slot, and there never was one.
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
    /// A relay took the slot, or let go of it, since the command looked.
    #[error("a relay has used slot {0} since this command looked at it")]
    Taken(String),
    /// Another command works on it.
    #[error("another txstream slot command is at work on slot {0}")]
    AtWork(String),
    /// A backfill was broken off.
    #[error("a backfill of slot {0} was begun and not finished")]
    BackfillPending(String),
    /// The slot cannot decode what was written before the publication existed.
    #[error(
        "publication {publication} is younger than slot {slot}: the server cannot decode what was written in between \
         (PostgreSQL 18 would skip it)"
    )]
    Younger {
        /// Slot name.
        slot: String,
        /// Publication name.
        publication: String,
    },
    /// A slot does not go back.
    #[error("slot {slot} is confirmed up to {at} already; it cannot be moved back to {to}")]
    Backwards {
        /// Slot name.
        slot: String,
        /// Where it stands.
        at: Lsn,
        /// Where it was to go.
        to: Lsn,
    },
    /// There is no such WAL yet.
    #[error("{to} lies beyond the end of the server's WAL, {end}")]
    Beyond {
        /// Where the slot was to go.
        to: Lsn,
        /// The end of WAL.
        end: Lsn,
    },
    /// The rows cannot be counted as `--where` asks.
    #[error("the rows of {table} cannot be selected: {}", .source.report())]
    Selection {
        /// The table.
        table: String,
        /// What Postgres says.
        source: PgError,
    },
    /// Dead letters came by a dump and a restore.
    #[error(
        "{letters}{} dead letters of slot {slot} in txstream_dead_letter stand beyond the end of this server's WAL, {end}: \
         they come from another cluster, and what is stored from now on would be replayed before them",
        if *.letters < MOST_BEYOND { "" } else { " or more" }
    )]
    LettersFromElsewhere {
        /// Slot name.
        slot: String,
        /// How many; [`MOST_BEYOND`] is so many or more.
        letters: u64,
        /// The end of WAL.
        end: Lsn,
    },
    /// The table of dead letters.
    #[error(transparent)]
    Letters(#[from] DeadLetterError),
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
            Self::Lost { .. } => RESET.to_owned(),
            Self::Elsewhere { .. } => ELSEWHERE.to_owned(),
            Self::Terminal { terminal, .. } => terminal.prevention().map_or_else(
                || RESET.to_owned(),
                |sql| format!("{RESET}; to keep it from happening again: {sql}"),
            ),
            Self::DroppedBefore(_) => "run txstream slot create".to_owned(),
            Self::NotOurs(_) => "set REPLICATION_SLOT to another name; nothing was changed".to_owned(),
            Self::Missing(_) => "check REPLICATION_SLOT; txstream slot create makes one".to_owned(),
            Self::InUse { .. } => {
                "stop that relay (SIGTERM) and run it again; nothing was changed".to_owned()
            }
            Self::Taken(_) => "stop that relay (SIGTERM) and run this again".to_owned(),
            Self::AtWork(_) => "wait until it has ended, or stop it, and run this again".to_owned(),
            Self::BackfillPending(_) => FINISH_BACKFILL.to_owned(),
            Self::Younger { .. } => RESET.to_owned(),
            Self::Backwards { .. } => "what lies behind it is confirmed; to publish rows again that are still in the \
                 table, run txstream slot reset --backfill"
                .to_owned(),
            Self::Beyond { .. } => "name a position up to there; a halt prints the one that skips a row".to_owned(),
            Self::Selection { source, .. } => match source.sqlstate() {
                Some("42501") => "grant SELECT on the table (sql/roles.sql does); nothing was changed".to_owned(),
                _ => "check --where: it is the SQL condition behind WHERE, on the columns of the outbox table; \
                      nothing was changed"
                    .to_owned(),
            },
            Self::LettersFromElsewhere { .. } => {
                "publish them with txstream dead-letter replay --all, or give them up with txstream dead-letter discard \
                 --all; then run this again"
                    .to_owned()
            }
            Self::Letters(error) => error.remedy(),
            Self::Create(error) => error.remedy(),
            Self::Checkpoint(error) => error.remedy(),
            Self::Pg(error) => error.hint().unwrap_or_else(|| "see the server's log".to_owned()),
        }
    }
}

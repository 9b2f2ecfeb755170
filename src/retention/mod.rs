//! Keeping outbox tables small: old rows go once the slot has confirmed them.
//!
//! A row is confirmed when its transaction committed at or before the slot's `confirmed_flush_lsn`: every
//! record of it is in Kafka, or parked in `txstream_dead_letter` with all its bytes, and neither needs the
//! row any more. Age never makes a row confirmed; it only says which confirmed rows may go.
//!
//! Rows go in short transactions of a few pages each. A partition goes whole where its bounds say that it
//! is old and not one of its rows is unconfirmed. Everything happens on one connection, so that slot and
//! rows are surely those of the same server.

mod confirmed;
mod partitions;
mod rows;
mod target;

pub use confirmed::{Confirmed, widened};

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::outbox;
use crate::postgres::{Lsn, PgError};
use crate::relay::checkpoint::CheckpointError;
use crate::relay::slot_life::SlotError;
use postgres_protocol::escape::{escape_identifier, escape_literal};

/// What to prune.
#[derive(Debug, Clone, Copy)]
pub struct Prune<'a> {
    /// Name of the slot that must have confirmed the rows.
    pub slot: &'a str,
    /// The outbox tables.
    pub outbox: &'a outbox::Settings,
    /// Least age of what goes.
    pub older_than: Duration,
    /// The column that says how old a row is, if not the preset's own.
    pub age_column: Option<&'a str>,
    /// Count, and change nothing.
    pub dry_run: bool,
}

/// What was pruned, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Rows before this moment are old.
    pub before: String,
    /// What is confirmed.
    #[serde(flatten)]
    pub confirmed: Confirmed,
    /// Sum over the tables, rows of dropped partitions included.
    pub rows_deleted: u64,
    /// Each of the outbox tables.
    pub tables: Vec<Pruned>,
}

/// What happened to one outbox table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// The table as `schema.name`.
    pub table: String,
    /// Rows deleted one by one.
    #[serde(flatten)]
    pub rows: Counts,
    /// Partitions that went whole.
    pub partitions_dropped: Vec<Dropped>,
    /// Partitions that are old and could not be locked, or not all of whose rows are confirmed.
    pub partitions_kept: Vec<Kept>,
}

/// Rows by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Old and confirmed.
    pub rows_deleted: u64,
    /// Old, and not confirmed: they stay.
    pub rows_not_confirmed: u64,
    /// Without a time: they stay.
    pub rows_of_unknown_age: u64,
}

/// A partition that went whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// As `schema.name`.
    pub partition: String,
    /// Rows in it.
    pub rows: u64,
}

/// An old partition that stayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// As `schema.name`.
    pub partition: String,
    /// Why.
    pub reason: String,
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The table or partition in work, as `schema.name`.
    pub table: &'a str,
    /// Pages looked at.
    pub pages_done: u64,
    /// Pages it has.
    pub pages: u64,
    /// Rows deleted of this table.
    pub rows: u64,
}

/// Why nothing, or not all, was pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The slot is not one to trust, or a table is none.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// No relay has said yet what is confirmed.
    #[error(
        "nothing was pruned: no relay has streamed from slot {0} yet, so that no row is known to be in Kafka"
    )]
    NeverStreamed(String),
    /// Nobody moves the slot, and what was noted before is not enough.
    #[error(
        "nothing was pruned: slot {slot} has confirmed {confirmed}, and which rows lie before that is known only \
         once it has passed {needed}"
    )]
    NotYet {
        /// Slot name.
        slot: String,
        /// Where the slot stands.
        confirmed: String,
        /// Where it must come to.
        needed: String,
    },
    /// The slot was moved past what its holder confirmed.
    #[error(
        "nothing was pruned: slot {slot} was moved to {slot_lsn}, past {row_lsn} where its relay had stopped; what lies \
         between was never published"
    )]
    Moved {
        /// Slot name.
        slot: String,
        /// The last position that was confirmed.
        row_lsn: Lsn,
        /// Where the slot stands.
        slot_lsn: Lsn,
    },
    /// A backfill is under way or was broken off: its rows are not confirmed.
    #[error("nothing was pruned: a backfill of slot {0} was begun and is not finished")]
    BackfillPending(String),
    /// A standby.
    #[error("nothing was pruned: this server is a standby (in recovery)")]
    InRecovery,
    /// How old its rows are cannot be known.
    #[error(
        "the age of the rows of {table} is not known: it has no column {column}, and track_commit_timestamp is off"
    )]
    NoAge {
        /// The table.
        table: String,
        /// The column that was looked for.
        column: String,
    },
    /// The column exists and is no time.
    #[error("column {column} of {table} is of type {actual}: it does not say how old a row is")]
    AgeType {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Its type.
        actual: String,
    },
    /// Longer than timestamps reach back.
    #[error("--older-than reaches back further than a timestamp can")]
    TooOld,
    /// No right to.
    #[error("role {role} may not read and delete the rows of {}", .tables.join(", "))]
    NoRight {
        /// The role we are connected as.
        role: String,
        /// Tables and partitions, as people read them.
        tables: Vec<String>,
        /// What gives the right.
        sql: String,
    },
    /// Only its owner may drop a partition.
    #[error("role {role} may not drop partition {partition}, which belongs to {owner}")]
    NotOwner {
        /// The role we are connected as.
        role: String,
        /// As `schema.name`.
        partition: String,
        /// Its owner.
        owner: String,
    },
    /// Somebody holds a lock.
    #[error("table {table} or rows of it are locked by another transaction for more than {waited:?}")]
    Locked {
        /// As `schema.name`.
        table: String,
        /// How long we waited.
        waited: Duration,
    },
    /// Anything else at Postgres.
    #[error(transparent)]
    Pg(#[from] PgError),
}

impl From<CheckpointError> for PruneError {
    fn from(error: CheckpointError) -> Self {
        Self::Slot(error.into())
    }
}

impl PruneError {
    /// What a person can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Slot(error) => error.remedy(),
            Self::NeverStreamed(_) => "start txstream relay, and run this again while it streams".to_owned(),
            Self::NotYet { .. } => {
                "let txstream relay catch up (txstream lag), and run this again while it streams".to_owned()
            }
            Self::BackfillPending(_) => "let it finish, or run txstream slot reset --backfill again".to_owned(),
            Self::Moved { .. } => "run txstream relay: it halts and says how to go on".to_owned(),
            Self::InRecovery => "connect to the primary".to_owned(),
            Self::NoAge { .. } => {
                "name a column that holds a time with --age-column; or ALTER SYSTEM SET track_commit_timestamp \
                 = on; and restart the server: rows written from then on have an age"
                    .to_owned()
            }
            Self::AgeType { .. } => {
                "name a column of type timestamp or timestamptz with --age-column".to_owned()
            }
            Self::TooOld => "use a shorter one, like 7d".to_owned(),
            Self::NoRight { sql, .. } => format!("{sql} or connect as the owner"),
            Self::NotOwner { owner, .. } => format!("connect as {owner}"),
            Self::Locked { .. } => "what was deleted before is done; run it again later".to_owned(),
            Self::Pg(error) => error.hint().unwrap_or_else(|| "see the server's log".to_owned()),
        }
    }
}

/// Longest wait for a lock on rows: outbox rows have no other writers, so that one more second means
/// that something else is going on.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Deletes what is old and confirmed, table by table, and says what became of it.
///
/// # Errors
/// [`PruneError`]; what was deleted by then stays deleted.
///
/// # Cancel safety
/// May be dropped at any await: each batch is a transaction of its own.
pub async fn prune(
    client: &mut Client,
    prune: &Prune<'_>,
    progress: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Report, PruneError> {
    settle(client).await?;
    let before = moment(client, prune.older_than).await?;
    let mut targets = Vec::new();
    for name in &prune.outbox.tables {
        targets.push(target::look(client, prune, name, &before).await?);
    }
    let confirmed = confirmed::confirmed(client, prune.slot).await?;
    let mut tables = Vec::new();
    for target in &targets {
        tables.push(prune_table(client, prune, target, &confirmed, progress).await?);
    }
    let in_partitions = |table: &Pruned| table.partitions_dropped.iter().map(|gone| gone.rows).sum::<u64>();
    let rows_deleted = tables.iter().map(|table| table.rows.rows_deleted + in_partitions(table)).sum();
    Ok(Report { dry_run: prune.dry_run, before, confirmed, rows_deleted, tables })
}

async fn prune_table(
    client: &mut Client,
    prune: &Prune<'_>,
    target: &target::Target,
    confirmed: &Confirmed,
    progress: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Pruned, PruneError> {
    let mut pruned = Pruned { table: target.table.clone(), ..Pruned::default() };
    let mut done = Vec::new();
    let mut tries = partitions::TRIES;
    for partition in &target.old_partitions {
        match partitions::drop_if_confirmed(client, partition, confirmed, prune.dry_run, tries).await? {
            partitions::Outcome::Dropped { rows } => {
                pruned.partitions_dropped.push(Dropped { partition: partition.name.clone(), rows });
                done.push(partition.oid);
            }
            partitions::Outcome::Unconfirmed { rows } => {
                let reason = format!("{rows} of its rows are not confirmed");
                pruned.partitions_kept.push(Kept { partition: partition.name.clone(), reason });
            }
            partitions::Outcome::Busy => {
                let reason = "transactions that use the table did not end; run it again later".to_owned();
                pruned.partitions_kept.push(Kept { partition: partition.name.clone(), reason });
                done.push(partition.oid);
                // Whoever has the table open mostly stands in the way of the next one too.
                tries = 1;
            }
        }
    }
    for leaf in target.leaves.iter().filter(|leaf| !leaf.under.is_some_and(|oid| done.contains(&oid))) {
        let counts = rows::delete(client, leaf, &target.age, confirmed, prune.dry_run, progress).await?;
        pruned.rows.rows_deleted += counts.rows_deleted;
        pruned.rows.rows_not_confirmed += counts.rows_not_confirmed;
        pruned.rows.rows_of_unknown_age += counts.rows_of_unknown_age;
    }
    Ok(pruned)
}

/// Makes the session one that waits for nobody long, and that sees every row.
///
/// No commit waits for a synchronous standby: a deletion that a failover loses is done again by the next
/// run. With row security on, hidden rows would pass for confirmed. A snapshot must be as new as its
/// statement: rows are checked after a lock was taken.
async fn settle(client: &Client) -> Result<(), PruneError> {
    let sql = format!(
        "set lock_timeout = {}; set statement_timeout = 0; set synchronous_commit = local; set row_security = off; \
         set default_transaction_isolation = 'read committed'; set timezone = 'UTC'",
        LOCK_TIMEOUT.as_millis()
    );
    client.batch_execute(&sql).await.map_err(|error| PgError::statement("set up the session", error))?;
    Ok(())
}

/// The moment so long ago, by the server's clock, in UTC.
async fn moment(client: &Client, ago: Duration) -> Result<String, PruneError> {
    let row = client
        .query_typed_one(
            "select (pg_catalog.now() - pg_catalog.make_interval(secs => $1))::text",
            &[(&ago.as_secs_f64(), Type::FLOAT8)],
        )
        .await;
    let row = row.map_err(|error| match error.code().map(tokio_postgres::error::SqlState::code) {
        // datetime_field_overflow, numeric_value_out_of_range
        Some("22008" | "22003" | "22015") => PruneError::TooOld,
        _ => PgError::statement("ask for the time", error).into(),
    })?;
    Ok(row.try_get(0).map_err(|error| PgError::statement("ask for the time", error))?)
}

/// A moment as a literal of SQL.
fn literal(moment: &str) -> String {
    format!("{}::timestamptz", escape_literal(moment))
}

/// What gives the rights that deleting needs.
fn grant(tables: &[&str], role: &str) -> String {
    format!("GRANT SELECT, DELETE ON {} TO {};", tables.join(", "), escape_identifier(role))
}

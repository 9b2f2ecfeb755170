//! Dead letters: records that Kafka did not take, and the later ones of their keys, in the table
//! `txstream_dead_letter` until a person has them replayed or discards them.
//!
//! The relay that holds the slot is the only one who stores letters ([`store`]); `replay` and `discard`
//! are the only ones who delete them. So a relay that sees no letter of a key in the table knows that all
//! of them are in Kafka or were given up, and may let the key flow again.
//!
//! - [`store`]: storing letters.
//! - [`ask`]: what a relay asks of the table.
//! - [`select`]: what people ask of it: list, show, delete.
//! - [`replay`]: letters back to Kafka, in order.

pub mod ask;
mod refusal;
pub mod replay;
pub mod select;
pub mod store;

use std::sync::Arc;

use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::outbox::Record;
use crate::postgres::{Lsn, PgError, locks};

/// Where letters live.
pub const TABLE: &str = "public.txstream_dead_letter";

/// What helps where the table does not take a letter.
const MEND_TABLE: &str = "make public.txstream_dead_letter take it: drop the constraint or trigger that the text names and \
     txstream migrate up did not make; a database encoding other than UTF8 lacks characters";

/// Every write commits locally, whatever the server, database or role sets: `off` could lose it after the
/// LSN passed it, `on` could wait for a synchronous standby.
const LOCALLY: &str = "with durability as (select set_config('synchronous_commit', 'local', true))";

/// A record or row that is stored instead of sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The outbox table, as `schema.name`.
    pub table: Arc<str>,
    /// The row's id as text; a row may have none.
    pub row_id: Option<String>,
    /// Where the commit record of its transaction begins.
    pub commit_lsn: Lsn,
    /// Its place among the records of that transaction, from 0.
    pub ordinal: u64,
    /// What is stored.
    pub content: Content,
    /// Why, in one word.
    pub reason: Reason,
    /// Why, in a sentence without any value of the row.
    pub error: String,
}

/// What is stored of a letter.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// A record, byte for byte.
    Record(Record),
    /// The columns of a row that has no record.
    Row(Vec<(String, Option<String>)>),
}

/// A row must not end in a log.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Record(record) => record.fmt(f),
            Self::Row(columns) => write!(f, "Row({} columns)", columns.len()),
        }
    }
}

impl Letter {
    /// Bytes of what is stored.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Record(record) => record.bytes(),
            Content::Row(columns) => {
                columns.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, String::len)).sum()
            }
        }
    }
}

/// Why a letter is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Larger than its topic takes.
    TooLarge,
    /// Invalid for Kafka, or its topic's name is.
    Invalid,
    /// A row that has no record.
    Unmappable,
    /// Failed more often than `KAFKA_MAX_RETRIES` allows.
    Retries,
    /// Nothing is wrong with it: an earlier record of its key is stored.
    Behind,
}

impl Reason {
    /// As the column `reason` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
            Self::Unmappable => "unmappable",
            Self::Retries => "retries",
            Self::Behind => "behind",
        }
    }
}

/// Number of the advisory lock that `replay` and `discard` hold on the letters of a slot: two at once
/// would publish a key's letters out of order, and the relay sees by it that someone is at work.
pub fn lock_key(slot: &str) -> i64 {
    // FNV-1a: the same in every version and on every machine.
    let hash = format!("txstream dead letters of {slot}")
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    hash.cast_signed()
}

/// What can go wrong with the table.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// `migrate up` has not been run, or on another database.
    #[error("table txstream_dead_letter does not exist in this database")]
    NoTable,
    /// No right to.
    #[error("role {role} may not read and write txstream_dead_letter")]
    NoRight {
        /// The role we are connected as.
        role: String,
    },
    /// The table does not take a letter, and never will as it is.
    #[error("{TABLE} does not take a dead letter: {message} (SQLSTATE {sqlstate})")]
    Refused {
        /// Its place among those that were to be stored.
        place: usize,
        /// Why.
        sqlstate: String,
        /// In the server's words, without any value.
        message: String,
    },
    /// Anything else.
    #[error(transparent)]
    Pg(#[from] PgError),
}

impl DeadLetterError {
    /// What a person can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoTable => "run txstream migrate up".to_owned(),
            Self::NoRight { role } => {
                format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO {};", escape_identifier(role))
            }
            Self::Refused { .. } => MEND_TABLE.to_owned(),
            Self::Pg(error) => error.hint().unwrap_or_else(|| "see the server's log".to_owned()),
        }
    }

    /// Names the cause of a statement that failed.
    async fn of(client: &Client, doing: &str, source: tokio_postgres::Error) -> Self {
        Self::of_tables(client, doing, &[TABLE], source).await
    }

    /// The same of a statement that needs these tables.
    async fn of_tables(client: &Client, doing: &str, tables: &[&str], source: tokio_postgres::Error) -> Self {
        match source.code() {
            Some(&SqlState::UNDEFINED_TABLE) => Self::NoTable,
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                let role = client.query_typed_one("select current_user::text", &[]).await;
                let role =
                    role.and_then(|row| row.try_get(0)).unwrap_or_else(|_| "of this connection".to_owned());
                Self::NoRight { role }
            }
            Some(&SqlState::LOCK_NOT_AVAILABLE) => locks::locked(client, doing, tables).await.into(),
            _ => Self::Pg(PgError::statement(doing, source)),
        }
    }
}

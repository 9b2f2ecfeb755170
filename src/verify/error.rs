//! Why topics and tables were not compared, and what a person can do about it.

use crate::kafka::CreateError;
use crate::kafka::reader::ReadError;
use crate::postgres::PgError;
use crate::relay::checkpoint::CheckpointError;
use crate::relay::slot_life::SlotError;

/// Why nothing was compared.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A table or slot is not what it should be.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// A standby, whose positions are those of another server.
    #[error("this server is a standby (in recovery): what the slot has confirmed is known on the primary")]
    InRecovery,
    /// Two databases.
    #[error("DATABASE_URL leads to {database}, REPLICATION_URL to {replication}")]
    Elsewhere {
        /// Where the tables are.
        database: String,
        /// Where the slot is.
        replication: String,
    },
    /// What `--since` says is no time.
    #[error("--since {0:?} is not a time")]
    Since(String),
    /// How old its rows are cannot be known.
    #[error(
        "--since needs the age of rows: {table} has no column {column} of a time, and track_commit_timestamp is off"
    )]
    NoAge {
        /// The table.
        table: String,
        /// The column that was looked for.
        column: &'static str,
    },
    /// No right to.
    #[error("role {role} may not read {table}")]
    NoRight {
        /// The role we are connected as.
        role: String,
        /// The table, for SQL.
        table: String,
        /// What gives the right.
        sql: String,
    },
    /// A row or a table that the relay could not read either.
    #[error("{0}")]
    Unreadable(String),
    /// The Kafka settings make no client.
    #[error(transparent)]
    Client(#[from] CreateError),
    /// A topic cannot be read.
    #[error(transparent)]
    Kafka(#[from] ReadError),
    /// Anything else at Postgres.
    #[error(transparent)]
    Pg(#[from] PgError),
    /// A defect of ours.
    #[error("comparing failed: {0}")]
    Broken(String),
}

impl From<CheckpointError> for VerifyError {
    fn from(error: CheckpointError) -> Self {
        Self::Slot(error.into())
    }
}

impl VerifyError {
    /// What a person can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Slot(error) => error.remedy(),
            Self::InRecovery => "connect to the primary".to_owned(),
            Self::Elsewhere { .. } => {
                "set DATABASE_URL and REPLICATION_URL to the same database of the same cluster".to_owned()
            }
            Self::Since(_) => "write it like 7d, or like 2026-01-31T12:00:00Z".to_owned(),
            Self::NoAge { .. } => "leave out --since: every row is compared then".to_owned(),
            Self::NoRight { sql, .. } => sql.clone(),
            Self::Unreadable(_) => {
                "set OUTBOX_TABLE, OUTBOX_PRESET and OUTBOX_PLACEMENT to those of the relay".to_owned()
            }
            Self::Client(_) => "correct the Kafka settings (txstream config shows them)".to_owned(),
            Self::Kafka(error) => error.remedy.clone(),
            Self::Pg(error) => error.hint().unwrap_or_else(|| "see the server's log".to_owned()),
            Self::Broken(_) => "report this as a bug".to_owned(),
        }
    }
}

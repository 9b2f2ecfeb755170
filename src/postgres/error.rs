//! What can go wrong at Postgres, and what that means: try again, stand by, or ask a person.

use std::io;
use std::time::Duration;

/// An error of a connection, a statement or the replication stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PgError {
    /// The network failed.
    #[error("{doing}")]
    Io {
        /// What we were doing, like "connect to db.example:5432".
        doing: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A deadline passed.
    #[error("{doing} took longer than {limit:?}")]
    Timeout {
        /// What we were doing.
        doing: String,
        /// How long we waited.
        limit: Duration,
    },
    /// The server refused a statement, or the connection ended under it.
    #[error("{doing}")]
    Sql {
        /// What we were doing.
        doing: String,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// What an error means for whoever runs the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Try again after a backoff.
    Retry,
    /// Another process holds the slot (55006).
    Busy,
    /// A person must act.
    Halt,
}

impl PgError {
    /// A statement that failed, with what it was for.
    pub fn statement(doing: impl Into<String>, source: tokio_postgres::Error) -> Self {
        Self::Sql { doing: doing.into(), source }
    }

    /// Sorts the error by its SQLSTATE; unknown ones are retried.
    pub fn class(&self) -> Class {
        Class::Retry
    }
}

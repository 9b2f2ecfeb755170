//! What can go wrong at Postgres, and what that means: try again, stand by, or ask a person.

mod hint;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use postgres_protocol::message::backend::{ErrorField, ErrorFields};
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::locks::{self, LockHolder};

/// An error of a connection, a statement or the replication stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PgError {
    /// The network failed.
    #[error("cannot {doing}")]
    Io {
        /// What we were doing, like "connect to db.example:5432".
        doing: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A deadline passed.
    #[error("cannot {doing} within {limit:?}")]
    Timeout {
        /// What we were doing.
        doing: String,
        /// How long we waited.
        limit: Duration,
    },
    /// TLS could not be set up.
    #[error("cannot {doing}")]
    Tls {
        /// What we were doing.
        doing: String,
        /// The cause.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A setting cannot be used: an unreadable file, a name the server cannot have.
    #[error("{0}")]
    Setting(String),
    /// Who we are could not be shown, or the server not trusted; the server's own refusals are
    /// [`PgError::Server`].
    #[error("cannot log in: {0}")]
    Auth(String),
    /// The server answered with an error.
    #[error("cannot {doing}: {error}")]
    Server {
        /// What we were doing.
        doing: String,
        /// Whether it came before streaming, on a replication connection.
        replication_command: bool,
        /// Its answer.
        error: Box<ServerError>,
    },
    /// The server does not speak as Postgres does.
    #[error("cannot {doing}: {what}")]
    Protocol {
        /// What we were doing.
        doing: String,
        /// What came instead.
        what: String,
    },
    /// The server is not what `target_session_attrs` asks for.
    #[error("the server at {endpoint} is {is}")]
    NotWanted {
        /// Which server.
        endpoint: String,
        /// What it is, in words.
        is: &'static str,
    },
    /// The connection was closed.
    #[error("the server closed the connection while we wanted to {doing}")]
    Closed {
        /// What we were doing.
        doing: String,
    },
    /// The server ended the replication stream in order, as it does when it shuts down.
    #[error("the server ended the replication stream ({by})")]
    StreamEnded {
        /// The message that ended it.
        by: &'static str,
    },
    /// Others hold a lock that a statement gave up waiting for.
    #[error("cannot {doing}: {}", locks::said(.tables, .holders))]
    Locked {
        /// What we were doing.
        doing: String,
        /// The tables that it needs.
        tables: Vec<String>,
        /// Who may have been in the way.
        holders: Vec<LockHolder>,
    },
    /// An ordinary statement failed.
    #[error("statement failed")]
    Sql(#[from] tokio_postgres::Error),
}

/// An ErrorResponse or NoticeResponse.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
#[error("{severity}: {message} (SQLSTATE {code}){}", detail.as_ref().map(|text| format!(", {text}")).unwrap_or_default())]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `WARNING` …, never translated.
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// What happened.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What the server proposes.
    pub hint: Option<String>,
}

impl ServerError {
    /// Reads the fields of a message; text that is not UTF-8 (errors before authentication may be in
    /// any encoding) is read as far as it can be.
    pub(super) fn from_fields(mut fields: ErrorFields<'_>) -> io::Result<Self> {
        fn text(field: &ErrorField<'_>) -> String {
            String::from_utf8_lossy(field.value_bytes()).into_owned()
        }
        let mut error = Self::default();
        while let Some(field) = fields.next()? {
            match field.type_() {
                // 'V' is the untranslated severity and comes after 'S'.
                b'S' | b'V' => error.severity = text(&field),
                b'C' => error.code = text(&field),
                b'M' => error.message = text(&field),
                b'D' => error.detail = Some(text(&field)),
                b'H' => error.hint = Some(text(&field)),
                _ => {}
            }
        }
        Ok(error)
    }
}

impl From<&tokio_postgres::error::DbError> for ServerError {
    fn from(error: &tokio_postgres::error::DbError) -> Self {
        Self {
            severity: error.severity().to_owned(),
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        }
    }
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

impl Class {
    /// The class of an SQLSTATE; those not listed are tried again.
    pub fn of_sqlstate(code: &str) -> Self {
        match code {
            "55006" => Self::Busy,
            // The database or the right is missing; a pooler took a replication command for SQL; slot
            // or publication unknown; slot invalidated; its WAL gone; a wrong value.
            "3D000" | "42501" | "42601" | "42704" | "55000" | "58P01" | "22023" => Self::Halt,
            code if code.starts_with("28") => Self::Halt,
            _ => Self::Retry,
        }
    }
}

impl PgError {
    /// A statement of an ordinary connection that failed, with what it was for.
    pub fn statement(doing: impl Into<String>, source: tokio_postgres::Error) -> Self {
        let doing = doing.into();
        match source.as_db_error() {
            Some(error) => Self::Server { doing, replication_command: false, error: Box::new(error.into()) },
            None if source.is_closed() => Self::Closed { doing },
            None => Self::Sql(source),
        }
    }

    /// Sorts the error by its SQLSTATE; unknown ones are retried.
    pub fn class(&self) -> Class {
        match self {
            Self::Setting(_) | Self::Auth(_) => Class::Halt,
            // PgBouncer answers every refusal, a wrong password too, with 08P01.
            Self::Server { replication_command: true, error, .. } if error.code == "08P01" => Class::Halt,
            _ => self.sqlstate().map_or(Class::Retry, Class::of_sqlstate),
        }
    }

    /// The server's SQLSTATE, where it gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server { error, .. } => Some(&error.code),
            Self::Locked { .. } => Some("55P03"),
            Self::Sql(error) => error.code().map(tokio_postgres::error::SqlState::code),
            _ => None,
        }
    }

    /// What a person should do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        hint::of(self)
    }

    /// Error and causes on one line, for logs.
    pub fn report(&self) -> String {
        report(self)
    }

    /// Sorts an I/O error: the ways in which a peer goes away are one thing.
    pub(super) fn from_io(doing: &str, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let doing = doing.to_owned();
        match source.kind() {
            Kind::UnexpectedEof | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => {
                Self::Closed { doing }
            }
            Kind::InvalidData | Kind::InvalidInput => Self::Protocol { doing, what: source.to_string() },
            _ => Self::Io { doing, source },
        }
    }

    /// The server, or what it sent, is not what the protocol or a statement promises.
    pub fn protocol(doing: &str, what: impl Into<String>) -> Self {
        Self::Protocol { doing: doing.to_owned(), what: what.into() }
    }
}

/// An error and its causes on one line; a cause whose text is said already is left out.
pub fn report(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            let _ = write!(text, ": {said}");
        }
        next = cause.source();
    }
    text
}

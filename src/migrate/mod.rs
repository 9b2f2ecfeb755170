//! Migrations: tables, then the publication.
//!
//! The SQL is in `migrations/`, embedded. What each step found or made is recorded in
//! `txstream_migrations`, by name and OID: an object that was there before is adopted, never altered
//! and never dropped, and neither is one that took the name of ours later. Each step is one
//! transaction under an advisory lock, so two may run at once; nothing here needs a session, so a
//! pooler may stand in between.
//!
//! The preset `txstream` reads a table that an application of its own keeps, so `up` never creates
//! that one; it only publishes it.

mod down;
mod objects;
mod record;
mod status;
mod steps;
mod up;

pub use down::{Fate, Remains, down, remains};
pub use status::{Item, State, status};
pub use steps::Kind;
pub use up::{Done, up};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use crate::outbox;
use crate::postgres::PgError;

/// What there should be.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The outbox tables and their preset.
    pub outbox: &'a outbox::Settings,
    /// The publication, unquoted.
    pub publication: &'a str,
}

/// Something that only a person can put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What to do: SQL, a command or a setting.
    pub remedy: String,
}

/// Why a migration did not happen.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database is not what it should be; nothing was changed.
    #[error("{}", .0.iter().map(|p| p.what.as_str()).collect::<Vec<_>>().join("; "))]
    Problems(Vec<Problem>),
    /// The role lacks a right.
    #[error("role {role} may not {doing}")]
    NoRight {
        /// The role we are connected as.
        role: String,
        /// What it was to do.
        doing: String,
        /// The server's words.
        #[source]
        source: Box<PgError>,
    },
    /// Something depends on what is to be dropped.
    #[error("cannot {doing}: {detail}")]
    Dependents {
        /// What was to be dropped.
        doing: String,
        /// What depends on it, as the server lists it.
        detail: String,
    },
    /// Another session holds a table.
    #[error("could not {doing}: another session holds a lock")]
    Locked {
        /// What was to be done.
        doing: String,
    },
    /// Anything else.
    #[error(transparent)]
    Pg(#[from] PgError),
}

impl MigrateError {
    /// What a person can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Problems(problems) => {
                problems.iter().map(|p| p.remedy.as_str()).collect::<Vec<_>>().join("; ")
            }
            Self::NoRight { .. } => "run it as the owner of the tables, with CREATE on the database and the \
                                     schema; sql/roles.sql makes such a role"
                .to_owned(),
            Self::Dependents { .. } => "drop those first, then run it again".to_owned(),
            Self::Locked { .. } => {
                "stop the relay and the writers, or wait for their transactions, then run it again".to_owned()
            }
            Self::Pg(error) => error.hint().unwrap_or_else(|| "see the server's log".to_owned()),
        }
    }

    /// Sorts a failed statement.
    fn sql(role: &str, doing: &str, source: tokio_postgres::Error) -> Self {
        let doing = doing.to_owned();
        match source.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Self::NoRight {
                role: role.to_owned(),
                source: Box::new(PgError::statement(doing.clone(), source)),
                doing,
            },
            Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
                let detail =
                    source.as_db_error().and_then(|e| e.detail()).unwrap_or("something depends on it");
                Self::Dependents { doing, detail: detail.replace('\n', ", ") }
            }
            Some(&SqlState::LOCK_NOT_AVAILABLE) => Self::Locked { doing },
            _ => Self::Pg(PgError::statement(doing, source)),
        }
    }
}

/// "txstream" in ASCII: the advisory lock under which every step runs.
const LOCK: i64 = 0x7478_7374_7265_616D;

/// Long enough for ordinary transactions to end, short enough that writers queueing behind us do
/// not time out.
const LOCK_TIMEOUT: &str = "5s";

/// Begins a step: a transaction that has the lock. Steps of others are waited for, tables are not.
async fn begin(client: &mut Client) -> Result<Transaction<'_>, MigrateError> {
    const DOING: &str = "begin a migration";
    let failed = |error| MigrateError::sql("", DOING, error);
    let step = client.transaction().await.map_err(failed)?;
    // Whatever server, database or role set: a commit that `off` could lose would have to be done again, and
    // none of ours waits for a synchronous standby. The names in our SQL are qualified; an odd search_path
    // must not change the rest.
    step.batch_execute(&format!(
        "select pg_catalog.pg_advisory_xact_lock({LOCK}); set local lock_timeout = '{LOCK_TIMEOUT}'; \
         set local synchronous_commit = local; set local search_path = pg_catalog, public; set local client_min_messages = error;"
    ))
    .await
    .map_err(failed)?;
    Ok(step)
}

/// The role that a connection acts as, for messages.
async fn role<C: tokio_postgres::GenericClient + Sync>(client: &C) -> Result<String, MigrateError> {
    let failed = |error| MigrateError::sql("", "ask for the role", error);
    let row = client.query_typed_one("select current_user::text", &[]).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}

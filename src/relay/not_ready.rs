//! Why there is no session yet, and what comes of it.

use super::halt::Halt;
use super::preflight::Problem;
use crate::postgres::PgError;

/// Why there is no session yet.
#[derive(Debug)]
pub(super) enum NotReady {
    /// A person must act.
    Halt(Halt),
    /// Another instance holds the slot.
    Standby(String),
    /// Something has to happen first that is no failure.
    Wait(String),
    /// Try again after a backoff.
    Retry(String),
    /// Begin again at once.
    Again,
}

impl From<Problem> for NotReady {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Halt(halt) => Self::Halt(halt),
            Problem::Wait(why) => Self::Wait(why.to_owned()),
            Problem::Retry(error) => {
                // Where others are in the way a person may want to end them.
                let hint = error.hint().filter(|_| matches!(error, PgError::Locked { .. }));
                let why = error.report();
                Self::Retry(hint.map_or_else(|| why.clone(), |hint| format!("{why}; {hint}")))
            }
        }
    }
}

impl From<PgError> for NotReady {
    fn from(error: PgError) -> Self {
        Problem::from(error).into()
    }
}

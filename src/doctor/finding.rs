//! One line of the result.

use std::fmt;

use serde::Serialize;

use crate::postgres::PgError;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// The relay works, but something may go wrong one day, or a check could not be made.
    Warn,
    /// The relay does not work, or loses the slot.
    Fail,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name; stable.
    pub check: &'static str,
    /// How bad it is.
    pub status: Status,
    /// What was found, and why it matters.
    pub why: String,
    /// The SQL, command or setting that mends it; none where nothing needs to be mended, or only a person
    /// can know.
    pub mend: Option<String>,
}

impl Finding {
    /// As it should be.
    pub(super) fn ok(check: &'static str, why: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, why: why.into(), mend: None }
    }

    /// Something may go wrong one day.
    pub(super) fn warn(check: &'static str, why: impl Into<String>) -> Self {
        Self { check, status: Status::Warn, why: why.into(), mend: None }
    }

    /// The relay does not work like this.
    pub(super) fn fail(check: &'static str, why: impl Into<String>) -> Self {
        Self { check, status: Status::Fail, why: why.into(), mend: None }
    }

    /// The check needs something that failed before it.
    pub(super) fn unchecked(check: &'static str, because: &str) -> Self {
        Self::warn(check, format!("not checked: {because}"))
    }

    /// The check itself failed.
    pub(super) fn failed(check: &'static str, error: &PgError) -> Self {
        Self { mend: error.hint(), ..Self::unchecked(check, &error.report()) }
    }

    /// With what mends it.
    pub(super) fn mended_by(self, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..self }
    }
}

/// The SQL that changes a server setting without a restart.
pub(super) fn set(name: &str, value: &str) -> String {
    let value = postgres_protocol::escape::escape_literal(value);
    format!("ALTER SYSTEM SET {name} = {value}; SELECT pg_reload_conf();")
}

/// The SQL that changes a server setting that takes a restart.
pub(super) fn set_and_restart(name: &str, value: &str) -> String {
    format!("ALTER SYSTEM SET {name} = '{value}'; -- then restart the server")
}

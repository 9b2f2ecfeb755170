//! The relay stops and a person must act: what happened and what to do.

use std::fmt;

/// What a relay says of a record that halts it: it is not confirmed, nor is anything behind it.
pub(super) const STAYS: &str = "the confirmed LSN stays before it";

/// How a relay goes on when the cause is mended.
pub(super) const AGAIN: &str = "start the relay again";

/// Why the relay halts. Both texts are for the person who reads the last log line at 3 a.m.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// What happened.
    pub what: String,
    /// The command, SQL or setting that mends it.
    pub remedy: String,
}

impl Halt {
    /// A halt.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }

    /// The same halt where not a relay streams but a command publishes the table.
    pub(super) fn of_a_backfill(self) -> Self {
        let remedy = self.remedy.replace(STAYS, "the backfill stays unfinished");
        Self { remedy: remedy.replace(AGAIN, "run this again; the relay waits until then"), ..self }
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

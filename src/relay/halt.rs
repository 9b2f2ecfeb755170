//! The relay stops and a person must act: what happened and what to do.

use std::fmt;

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
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

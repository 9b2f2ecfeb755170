//! The effective configuration as text, for `txstream config`.

use serde::Serialize;

use super::Source;

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The variable, or a librdkafka property set by file or `-X`.
    pub name: String,
    /// Its value; `***` for a secret, redacted for a URL, nothing when it is not set.
    pub value: Option<String>,
    /// `flag`, `environment`, `.env`, `default`, or the setting that it was taken from.
    pub source: String,
}

impl Entry {
    pub(super) fn new(name: impl Into<String>, value: Option<String>, source: Source) -> Self {
        Self { name: name.into(), value, source: source.to_string() }
    }
}

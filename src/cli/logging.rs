//! Logs go to stderr, as JSON for machines or as text for people.

use std::sync::Arc;

/// Changes the log level of the running process; the error says what is wrong with the level.
pub type SetLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

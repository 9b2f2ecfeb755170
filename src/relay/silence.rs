//! A server that says nothing: when it is taken for dead.

use std::time::Duration;

use tokio::time::Instant;

use crate::postgres::PgError;

/// A server that is silent for this long while we read is taken for dead: it is asked to reply with
/// every status.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// When a server is taken for dead that was last heard then, and is read since then.
pub(super) fn silent_at(reading_since: Instant, last_heard: Instant) -> Instant {
    reading_since.max(last_heard) + SILENCE
}

/// What is said of it.
pub(super) fn silent() -> PgError {
    PgError::Timeout { doing: "hear from the server, which was asked to reply".to_owned(), limit: SILENCE }
}

//! Time as Postgres counts it: microseconds since 2000-01-01 UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds from the Unix epoch to that of Postgres.
const EPOCH: Duration = Duration::from_secs(946_684_800);

/// Now, by this machine's clock.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH + EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

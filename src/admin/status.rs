//! What `/status` says of a relay: the document that the status page, `lag` and `breaker` read.
//!
//! It holds no key, no id and no list of hosts. Keys are only ever added. What is not known is null.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The state of a relay.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusReport {
    /// One word: `connecting`, `standby`, `streaming`, `stopping` …
    pub state: String,
    /// Since when, by [`rfc3339`].
    pub since: String,
    /// A sentence about the state, such as who holds the slot.
    pub detail: Option<String>,
    /// This build's version.
    pub version: String,
    /// Seconds since the process started.
    pub uptime_seconds: u64,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// WAL position received, as Postgres writes it.
    pub received_lsn: Option<String>,
    /// WAL position confirmed to Postgres.
    pub confirmed_lsn: Option<String>,
    /// What is read and not acknowledged.
    pub in_flight: InFlight,
    /// Age of the oldest event that is read and not confirmed; null if there is none.
    pub oldest_unconfirmed_age_seconds: Option<f64>,
    /// The circuit breaker.
    pub breaker: BreakerStatus,
    /// The lanes, in order.
    pub lanes: Vec<LaneStatus>,
    /// Topics that wait for a person.
    pub waiting_topics: Vec<WaitingTopic>,
    /// Kafka refuses our credentials or certificate, or we refuse its certificate; null while it does not.
    pub kafka_refusal: Option<KafkaRefusal>,
    /// How often the replication stream had to be set up again.
    pub reconnects: u64,
    /// The last error and nothing of its record.
    pub last_error: Option<String>,
    /// What a person should change although the relay works, with the command that does.
    pub warnings: Vec<String>,
    /// Throughput.
    pub rates: Rates,
    /// How far behind the slot is.
    pub lag: Lag,
}

/// What is read and not acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InFlight {
    /// Records.
    pub records: u64,
    /// Their bytes, as the memory bound counts them.
    pub bytes: u64,
    /// The memory bound.
    pub limit_bytes: u64,
}

/// The circuit breaker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BreakerStatus {
    /// `CLOSED`, `OPEN` or `HALF_OPEN`.
    pub state: String,
    /// Since when it is in this state, by [`rfc3339`].
    pub since: Option<String>,
    /// Failures in a row.
    pub failures: u32,
    /// Whether it was opened by hand and so waits to be closed by hand.
    pub forced: bool,
}

/// One lane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaneStatus {
    /// Records that wait in it.
    pub queued: u64,
}

/// A topic that waits for a person.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WaitingTopic {
    /// Its name.
    pub topic: String,
    /// Why, and what mends it.
    pub reason: String,
    /// Since when, by [`rfc3339`].
    pub since: String,
}

/// Credentials or a certificate that are refused: every topic waits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KafkaRefusal {
    /// What is refused, and what mends it.
    pub reason: String,
    /// Since when, by [`rfc3339`].
    pub since: String,
}

/// Throughput.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    /// Records acknowledged per second, over the last seconds.
    pub published_per_second: Option<f64>,
}

/// How far behind the slot is, as Postgres sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lag {
    /// Bytes of WAL behind what the slot confirmed.
    pub confirmed_lag_bytes: Option<i64>,
    /// Bytes of WAL that the slot retains.
    pub retained_wal_bytes: Option<i64>,
    /// Bytes that may be written before the slot is in danger; null is no limit.
    pub safe_wal_bytes: Option<i64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
}

/// A time as people and programs read it: `2026-01-02T03:04:05.678Z`. Before 1970 is 1970.
pub fn rfc3339(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since_epoch.as_secs(), since_epoch.subsec_millis());
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = civil_date(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The date `days` after 1970-01-01. Counts from 0000-03-01, so that a leap day ends its year.
fn civil_date(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468;
    const DAYS_PER_400_YEARS: u64 = 146_097;
    let days = days + DAYS_TO_1970;
    let day_of_era = days % DAYS_PER_400_YEARS;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = days / DAYS_PER_400_YEARS * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

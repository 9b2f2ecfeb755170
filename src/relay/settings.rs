//! What the relay is told: validated values, no text to parse.

use std::time::Duration;

/// How the relay works.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The replication slot: the only position there is.
    pub slot: String,
    /// The publication that covers every outbox table.
    pub publication: String,
    /// Longest time between two standby status messages.
    pub status_interval: Duration,
    /// Lanes of the worker pool, at least 1.
    pub lanes: usize,
    /// Most rows handed to a lane at once, at least 1.
    pub batch_size: usize,
    /// Bound of everything read and not yet acknowledged, in bytes.
    pub max_in_flight_bytes: usize,
    /// What happens to a record that Kafka will never take, or a row that cannot be mapped.
    pub on_reject: OnReject,
    /// When dispatch pauses.
    pub breaker: Breaker,
    /// How long to wait before we send a failed record again.
    pub backoff: Backoff,
    /// Our own resends of a record before it is rejected; `None` is for ever.
    pub max_retries: Option<u32>,
    /// Grace period to drain after a signal.
    pub shutdown_timeout: Duration,
}

/// The policy for rejected records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnReject {
    /// Stop before the record.
    #[default]
    Halt,
    /// Store it, and the later ones of its key, and go on with other keys.
    DeadLetter,
}

/// The circuit breaker around dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// Whether failures can open it.
    pub enabled: bool,
    /// Failures in a row that open it, at least 1.
    pub failure_threshold: u32,
    /// Acknowledgements of probes that close it, at least 1.
    pub success_threshold: u32,
    /// A record this long unacknowledged counts as a failure, and again after each further such time.
    pub timeout_duration: Duration,
    /// Time from open to half-open.
    pub reset_timeout: Duration,
}

/// Waits between our own resends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Exponential; otherwise always [`Backoff::constant`].
    pub enabled: bool,
    /// The first wait.
    pub base: Duration,
    /// The longest wait before jitter, not below `base`.
    pub max: Duration,
    /// Growth per attempt, at least 1.
    pub multiplier: f64,
    /// The wait when `enabled` is false.
    pub constant: Duration,
}

//! Handles of one (topic, event type), looked up once and then used for every record.

use prometheus::IntCounter;
use prometheus::local::{LocalHistogram, LocalIntCounter};

use super::labels::{ATTEMPTS, ErrorType, attempt_index};

/// What is counted per record of one topic and event type.
///
/// What happens for every record is gathered here without a lock or an atomic operation, and shown
/// at [`Route::flush`], which is meant to be called once per tick of the relay's clock. What is rare
/// (failures, resends, parking) shows at once. Dropping a route flushes it.
#[derive(Debug)]
pub struct Route {
    pub(super) published: LocalIntCounter,
    pub(super) processed: LocalIntCounter,
    pub(super) publishing: LocalHistogram,
    pub(super) processing: LocalHistogram,
    pub(super) commit_to_ack: LocalHistogram,
    pub(super) parked: IntCounter,
    pub(super) rejected: IntCounter,
    pub(super) failed: [IntCounter; ErrorType::ALL.len()],
    pub(super) retried: [IntCounter; ATTEMPTS.len()],
}

impl Route {
    /// Kafka acknowledged a record. All in seconds, negative ones (clock skew) count as 0:
    /// `publishing` since it was handed to the producer, `processing` since its row was read,
    /// `commit_to_ack` since its transaction committed, by the server's clock.
    #[inline]
    pub fn acknowledged(&self, publishing: f64, processing: f64, commit_to_ack: f64) {
        self.published.inc();
        self.processed.inc();
        self.publishing.observe(publishing.max(0.0));
        self.processing.observe(processing.max(0.0));
        self.commit_to_ack.observe(commit_to_ack.max(0.0));
    }

    /// A record was stored as a dead letter.
    pub fn parked(&self) {
        self.parked.inc();
    }

    /// A record was rejected and stops the relay.
    pub fn rejected(&self) {
        self.rejected.inc();
    }

    /// An attempt to publish failed; whatever follows (a resend, parking, a halt) is counted apart.
    pub fn failed(&self, error: ErrorType) {
        self.failed[error as usize].inc();
    }

    /// A failed record is sent again for the `attempt`-th time, counted from 1.
    pub fn retried(&self, attempt: u32) {
        self.retried[attempt_index(attempt)].inc();
    }

    /// Shows what was gathered.
    pub fn flush(&self) {
        self.published.flush();
        self.processed.flush();
        self.publishing.flush();
        self.processing.flush();
        self.commit_to_ack.flush();
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.flush();
    }
}

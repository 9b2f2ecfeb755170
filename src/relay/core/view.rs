//! What the core shows of itself: for gauges, the status report, and whoever waits for it.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Core, Waiting};
use crate::relay::breaker::State;

impl Core {
    /// Records at the producer.
    pub(in crate::relay) fn outstanding(&self) -> usize {
        self.rounds.outstanding()
    }

    /// When the oldest unresolved record was read, one that waits for its topic's limit included.
    pub(in crate::relay) fn oldest_taken(&self) -> Option<Instant> {
        self.ledger.oldest().map(|oldest| oldest.taken_at).or(self.wants_limit_since)
    }

    /// When the oldest unresolved record was committed, one that waits for its topic's limit included:
    /// µs since 2000-01-01 UTC.
    pub(in crate::relay) fn oldest_commit_time(&self) -> Option<i64> {
        let oldest = self.ledger.oldest().map(|oldest| oldest.commit_time);
        oldest.or_else(|| self.wants_limit_since.and_then(|_| self.ledger.open_commit_time()))
    }

    /// Records in each lane.
    pub(in crate::relay) fn lane_depths(&self) -> impl Iterator<Item = usize> + '_ {
        self.lanes.depths()
    }

    /// Topics in trouble.
    pub(in crate::relay) fn waiting(&self) -> Vec<Waiting> {
        let named = |id| {
            let topic = self.topics.get(id);
            let trouble = topic.trouble()?.clone();
            Some(Waiting { topic: Arc::clone(&topic.name), trouble })
        };
        self.topics.holding().filter_map(named).collect()
    }

    /// The breaker's state, failures in a row, and whether it was opened by hand.
    pub(in crate::relay) fn breaker(&self) -> (State, u32, bool) {
        (self.breaker.state(), self.breaker.failures(), self.breaker.is_forced())
    }

    /// Keys whose records are stored as dead letters.
    pub(in crate::relay) fn parked_keys(&self) -> usize {
        self.parking.keys()
    }

    /// Whether the oldest unresolved record waits for the table of dead letters, not for Kafka.
    pub(in crate::relay) fn waits_for_the_table(&self) -> bool {
        self.ledger.oldest().is_some_and(|oldest| oldest.parking)
    }
}

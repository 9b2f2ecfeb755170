//! A line a minute: what was published, or that nothing was although something waits for Kafka. An
//! idle relay says nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::ledger::Ledger;
use crate::metrics::{Latency, Metrics};

/// One line a minute.
const EVERY: Duration = Duration::from_secs(60);

/// What the last line counted up to.
#[derive(Debug)]
pub(super) struct Summary {
    since: Instant,
    acknowledged: u64,
    latency: Latency,
}

/// What a minute was like.
#[derive(Debug, PartialEq)]
pub(super) enum Minute {
    /// Records were published.
    Published {
        /// How many.
        records: u64,
        /// How many a second.
        per_second: u64,
        /// From commit to acknowledgement, 99 of 100 took at most about this.
        p99: Option<Duration>,
    },
    /// Kafka acknowledged nothing, and the oldest record has waited for this long.
    Stalled(Duration),
}

impl Summary {
    /// A first minute begins.
    pub(super) fn new(now: Instant, latency: Latency) -> Self {
        Self { since: now, acknowledged: 0, latency }
    }

    /// What to say of the minute, if it is over and there is something to say. `acknowledged` counts
    /// from the begin of the session, `outstanding` is how long the oldest record waits.
    pub(super) fn minute(
        &mut self,
        now: Instant,
        acknowledged: u64,
        outstanding: Option<Duration>,
        latency: impl FnOnce() -> Latency,
    ) -> Option<Minute> {
        let elapsed = now.duration_since(self.since);
        if elapsed < EVERY {
            return None;
        }
        let latency = latency();
        let records = acknowledged - self.acknowledged;
        let p99 = latency.quantile_since(&self.latency, 0.99).map(Duration::from_secs_f64);
        *self = Self { since: now, acknowledged, latency };
        match outstanding {
            _ if records > 0 => {
                Some(Minute::Published { records, per_second: records / elapsed.as_secs(), p99 })
            }
            Some(age) if age >= EVERY => Some(Minute::Stalled(age)),
            _ => None,
        }
    }
}

impl Minute {
    /// Says it.
    pub(super) fn log(&self, ledger: &Ledger, metrics: &Metrics) {
        let confirmed_lsn = ledger.confirmed_lsn();
        let (lag_bytes, unresolved) = (metrics.slot_confirmed_lag_bytes.get(), ledger.unresolved());
        match self {
            Self::Published { records, per_second, p99 } => {
                let commit_to_ack_p99_ms = p99.map(|p99| (p99.as_secs_f64() * 1e5).round() / 100.0);
                tracing::info!(
                    records, per_second, commit_to_ack_p99_ms, lag_bytes, unresolved, %confirmed_lsn,
                    "published in the last minute"
                );
            }
            Self::Stalled(age) => tracing::warn!(
                oldest_seconds = age.as_secs(), unresolved, lag_bytes, %confirmed_lsn,
                "Kafka acknowledged nothing in the last minute; trying on"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A minute of a summary whose histogram saw `publishing` seconds for each record.
    fn minutes(steps: &[(Duration, u64, Option<Duration>)]) -> Vec<Option<Minute>> {
        let metrics = Metrics::new();
        let start = Instant::now();
        let mut summary = Summary::new(start, metrics.commit_to_ack());
        let mut counted = 0;
        let step = |(at, acknowledged, outstanding): &(Duration, u64, Option<Duration>)| {
            let route = metrics.route("t", b"e");
            (counted..*acknowledged).for_each(|_| route.acknowledged(0.0, 0.0, 0.0004));
            drop(route);
            counted = *acknowledged;
            summary.minute(start + *at, *acknowledged, *outstanding, || metrics.commit_to_ack())
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn a_minute_with_traffic_has_one_line_with_count_rate_and_latency() {
        let said = minutes(&[(59 * SECOND, 900, None), (60 * SECOND, 1200, None), (61 * SECOND, 1300, None)]);
        let [None, Some(Minute::Published { records: 1200, per_second: 20, p99: Some(p99) }), None] =
            said[..]
        else {
            panic!("{said:?}");
        };
        // 0.4 ms lies in the bucket from 0.25 to 0.5 ms.
        assert!((Duration::from_micros(490)..Duration::from_micros(500)).contains(&p99), "{p99:?}");
    }

    #[test]
    fn each_minute_counts_for_itself() {
        let said = minutes(&[(60 * SECOND, 600, None), (120 * SECOND, 600, None), (180 * SECOND, 660, None)]);
        assert!(matches!(said[0], Some(Minute::Published { records: 600, per_second: 10, .. })), "{said:?}");
        assert_eq!(said[1], None, "an idle relay says nothing");
        assert!(matches!(said[2], Some(Minute::Published { records: 60, per_second: 1, .. })), "{said:?}");
    }

    #[test]
    fn a_minute_in_which_kafka_acknowledged_nothing_is_told_with_the_age_of_the_oldest_record() {
        let fresh = Some(5 * SECOND);
        let said = minutes(&[(60 * SECOND, 0, fresh), (120 * SECOND, 0, Some(65 * SECOND))]);
        assert_eq!(said, [None, Some(Minute::Stalled(65 * SECOND))]);
    }
}

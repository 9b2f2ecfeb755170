//! What a histogram saw between two moments, for a line in the log.

use prometheus::Histogram;
use prometheus::core::Metric;

/// What a histogram has seen up to a moment: per bucket its upper bound and how many observations are
/// at most that.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Latency {
    buckets: Vec<(f64, u64)>,
    count: u64,
}

impl Latency {
    pub(super) fn of(histogram: &Histogram) -> Self {
        let metric = histogram.metric();
        let seen = metric.get_histogram();
        let buckets =
            seen.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
        Self { buckets: buckets.collect(), count: seen.get_sample_count() }
    }

    /// The quantile of what was seen since `before`, in seconds: within its bucket in proportion, as
    /// Prometheus does it. What lies above all buckets shows as the highest bound. `None` if nothing
    /// was seen.
    pub fn quantile_since(&self, before: &Self, quantile: f64) -> Option<f64> {
        let count = self.count.saturating_sub(before.count);
        if count == 0 {
            return None;
        }
        #[allow(clippy::cast_precision_loss, reason = "nobody counts to 2^53 in a minute")]
        let (count, mut from, mut below) = (count as f64, 0.0, 0.0);
        let rank = quantile * count;
        for (index, (bound, now)) in self.buckets.iter().enumerate() {
            let then = before.buckets.get(index).map_or(0, |(_, then)| *then);
            #[allow(clippy::cast_precision_loss, reason = "the same")]
            let up_to_here = now.saturating_sub(then) as f64;
            if up_to_here >= rank {
                return Some(from + (bound - from) * (rank - below) / (up_to_here - below));
            }
            (from, below) = (*bound, up_to_here);
        }
        Some(from)
    }
}

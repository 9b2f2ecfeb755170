//! Every metric: name, labels, help. One registry of our own, the one that is served.
//!
//! Base units (seconds, bytes), closed label sets, and every series whose labels are known exists
//! from the start at 0, so that a rate or an alert never begins with a gap. Durations clamp at 0.
//! Knows nothing of the rest of the crate.

mod labels;
mod latency;
mod route;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, TextEncoder,
};

use labels::{ATTEMPTS, FirstSeen, OTHER, PROCESSED, QUEUED, WAL_STATUS, attempt_index, event_type_text};
pub use labels::{BreakerState, ErrorType, Ignored};
pub use latency::Latency;
pub use route::Route;
pub use writer::WriterMetrics;

/// This build's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The revision it was built from: `TXSTREAM_REVISION` at build time, else `unknown`.
pub const REVISION: &str = match option_env!("TXSTREAM_REVISION") {
    Some(revision) if !revision.is_empty() => revision,
    _ => "unknown",
};

/// The content type of [`Registry::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Seconds. An acknowledgement takes a few milliseconds, the backlog of an outage minutes.
const BUCKETS: [f64; 19] = [
    0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0, 1800.0,
];

/// Event types with a label of their own.
const MOST_EVENT_TYPES: usize = 100;

/// Topics with a label of their own.
const MOST_TOPICS: usize = 200;

/// What a process serves: all its metrics. Clones are the same registry.
#[derive(Debug, Clone)]
pub struct Registry(prometheus::Registry);

impl Registry {
    /// With what every process has: its build, and what the kernel knows of it.
    fn of_process() -> Self {
        let registry = prometheus::Registry::new();
        let info = IntGaugeVec::new(
            Opts::new("txstream_build_info", "What is running; the value is always 1."),
            &["version", "revision"],
        );
        let info = registered(&registry, info);
        info.with_label_values(&[VERSION, REVISION]).set(1);
        #[cfg(target_os = "linux")]
        registered_collector(&registry, prometheus::process_collector::ProcessCollector::for_self());
        Self(registry)
    }

    /// Everything as Prometheus' text format; see [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// An encoder's complaint, as text.
    pub fn render(&self) -> Result<Vec<u8>, String> {
        let mut text = Vec::with_capacity(64 * 1024);
        TextEncoder::new().encode(&self.0.gather(), &mut text).map_err(|error| error.to_string())?;
        Ok(text)
    }
}

/// All metrics of a relay.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    event_types: Mutex<FirstSeen>,
    topics: Mutex<FirstSeen>,
    processed: IntCounterVec,
    published: IntCounterVec,
    failed: IntCounterVec,
    retried: IntCounterVec,
    breaker_trips: IntCounterVec,
    processing: HistogramVec,
    publishing: HistogramVec,
    retry_delay: HistogramVec,
    in_queue: IntGaugeVec,
    breaker_state: IntGauge,
    commit_to_ack: Histogram,
    oldest_unconfirmed_age: Gauge,
    safe_wal_bytes: Gauge,
    wal_status: IntGaugeVec,
    dead_letters: IntGaugeVec,
    dead_letter_topics: Mutex<BTreeSet<String>>,
    ignored: IntCounterVec,
    reconnects: IntCounter,
    late_rejections: IntCounter,
    /// Lanes of the worker pool.
    pub worker_pool_size: Number,
    /// Lanes that hold a record.
    pub active_workers: Number,
    /// Bytes read and not yet acknowledged.
    pub in_flight_bytes: Number,
    /// 1 while the replication stream is up, else 0.
    pub replication_connected: Number,
    /// WAL position received.
    pub received_lsn: Number,
    /// WAL position confirmed to Postgres.
    pub confirmed_lsn: Number,
    /// Bytes between the end of WAL and what the slot confirmed.
    pub slot_confirmed_lag_bytes: Number,
    /// Bytes of WAL that the slot retains.
    pub slot_retained_wal_bytes: Number,
    /// Keys with a dead letter.
    pub parked_keys: Number,
}

/// A gauge of whole numbers.
#[derive(Debug)]
pub struct Number(IntGauge);

impl Number {
    /// Sets it; what a gauge cannot hold is shown as the most it can.
    pub fn set(&self, value: impl TryInto<i64>) {
        self.0.set(value.try_into().unwrap_or(i64::MAX));
    }

    /// Its value.
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

impl Metrics {
    /// All metrics, at 0.
    pub fn new() -> Arc<Self> {
        let make = Make(Registry::of_process());
        let metrics = Self {
            processed: make.counters("events_processed_total", "Events that left the relay for good: published, parked as dead letters, or rejected.", &["status", "event_type"]),
            published: make.counters("events_published_total", "Records acknowledged by Kafka.", &["topic", "event_type"]),
            failed: make.counters("events_failed_total", "Failed attempts to publish an event.", &["error_type", "event_type"]),
            retried: make.counters("events_retried_total", "Failed records sent again, by number of the attempt.", &["retry_count", "event_type"]),
            breaker_trips: make.counters("circuit_breaker_trips_total", "Changes of state of the circuit breaker.", &["from_state", "to_state"]),
            processing: make.histograms("event_processing_duration_seconds", "From reading a row to its acknowledgement by Kafka.", &["event_type"]),
            publishing: make.histograms("event_publishing_duration_seconds", "From handing a record to the producer to its acknowledgement.", &["topic", "event_type"]),
            retry_delay: make.histograms("retry_delay_duration_seconds", "Waits before a failed record was sent again, by number of the attempt.", &["retry_attempt"]),
            worker_pool_size: make.number("worker_pool_size", "Lanes of the worker pool."),
            in_queue: make.numbers("events_in_queue", "Events on their way: waiting in a lane, or in flight to Kafka.", &["status"]),
            breaker_state: make.gauge("circuit_breaker_state", "State of the circuit breaker: 0 closed, 1 half-open, 2 open."),
            active_workers: make.number("active_workers", "Lanes that hold a record."),
            commit_to_ack: make.histogram("commit_to_ack_duration_seconds", "From the commit of a transaction, by the clock of Postgres, to the acknowledgement of its record by Kafka."),
            in_flight_bytes: make.number("in_flight_bytes", "Bytes read from Postgres and not yet acknowledged by Kafka."),
            oldest_unconfirmed_age: make.float("oldest_unconfirmed_age_seconds", "Age of the oldest event that is read and not confirmed, 0 if there is none."),
            replication_connected: make.number("replication_connected", "1 while the replication stream is up, else 0."),
            reconnects: make.counter("replication_reconnects_total", "Replication streams that had to be set up again."),
            received_lsn: make.number("received_lsn", "WAL position received from Postgres."),
            confirmed_lsn: make.number("confirmed_lsn", "WAL position confirmed to Postgres."),
            slot_confirmed_lag_bytes: make.number("slot_confirmed_lag_bytes", "Bytes of WAL behind what the slot has confirmed."),
            slot_retained_wal_bytes: make.number("slot_retained_wal_bytes", "Bytes of WAL that the slot makes Postgres keep."),
            safe_wal_bytes: make.float("slot_safe_wal_bytes", "Bytes of WAL that can be written before the slot is in danger of being lost, inf without a limit; 0 also until the slot was first looked at."),
            wal_status: make.numbers("slot_wal_status", "1 for the state the slot's WAL is in, 0 for the others; all 0 until it is known.", &["wal_status"]),
            dead_letters: make.numbers("dead_letters", "Records stored as dead letters.", &["topic"]),
            parked_keys: make.number("parked_keys", "Keys (topic and Kafka key) whose records are stored as dead letters."),
            ignored: make.counters("ignored_total", "What arrived and is left out on purpose.", &["what"]),
            late_rejections: make.counter("late_rejections_total", "Records that only the broker could reject, so that later records of their key may have been written before them."),
            event_types: Mutex::new(FirstSeen::new(MOST_EVENT_TYPES)),
            topics: Mutex::new(FirstSeen::new(MOST_TOPICS)),
            dead_letter_topics: Mutex::default(),
            registry: make.0,
        };
        metrics.start_at_zero();
        Arc::new(metrics)
    }

    /// The series that need no event.
    fn start_at_zero(&self) {
        self.event_type_at_zero(OTHER);
        self.published.with_label_values(&[OTHER, OTHER]);
        self.publishing.with_label_values(&[OTHER, OTHER]);
        self.dead_letters.with_label_values(&[OTHER]);
        for (from, to) in BreakerState::TRIPS {
            self.breaker_trips.with_label_values(&[from.label(), to.label()]);
        }
        for attempt in ATTEMPTS {
            self.retry_delay.with_label_values(&[attempt]);
        }
        for status in QUEUED {
            self.in_queue.with_label_values(&[status]);
        }
        for status in WAL_STATUS {
            self.wal_status.with_label_values(&[status]);
        }
        for what in Ignored::ALL {
            self.ignored.with_label_values(&[what.label()]);
        }
    }

    /// The series of an event type, each crossed with a closed set.
    fn event_type_at_zero(&self, event_type: &str) {
        for status in PROCESSED {
            self.processed.with_label_values(&[status, event_type]);
        }
        for error in ErrorType::ALL {
            self.failed.with_label_values(&[error.label(), event_type]);
        }
        for attempt in ATTEMPTS {
            self.retried.with_label_values(&[attempt, event_type]);
        }
        self.processing.with_label_values(&[event_type]);
    }

    /// The handles for records of `topic` and `event_type`: look them up once and keep them.
    pub fn route(&self, topic: &str, event_type: &[u8]) -> Route {
        let (topic, _) = locked(&self.topics).label(topic);
        self.handles(topic, self.event_type_label(event_type))
    }

    /// The handles for what has no topic: rows that cannot be mapped. They may have no event type either.
    pub fn unmapped(&self, event_type: Option<&str>) -> Route {
        let event_type = event_type.map_or(OTHER, |text| self.event_type_label(text.as_bytes()));
        self.handles(OTHER, event_type)
    }

    fn event_type_label<'a>(&self, event_type: &'a [u8]) -> &'a str {
        let (event_type, first) = locked(&self.event_types).label(event_type_text(event_type));
        if first {
            self.event_type_at_zero(event_type);
        }
        event_type
    }

    fn handles(&self, topic: &str, event_type: &str) -> Route {
        let [published, parked, rejected] =
            PROCESSED.map(|status| self.processed.with_label_values(&[status, event_type]));
        Route {
            published: self.published.with_label_values(&[topic, event_type]).local(),
            processed: published.local(),
            publishing: self.publishing.with_label_values(&[topic, event_type]).local(),
            processing: self.processing.with_label_values(&[event_type]).local(),
            commit_to_ack: self.commit_to_ack.local(),
            parked,
            rejected,
            failed: ErrorType::ALL.map(|error| self.failed.with_label_values(&[error.label(), event_type])),
            retried: ATTEMPTS.map(|attempt| self.retried.with_label_values(&[attempt, event_type])),
        }
    }

    /// A wait of `delay` before the `attempt`-th resend, counted from 1.
    pub fn retry_delay(&self, attempt: u32, delay: Duration) {
        self.retry_delay.with_label_values(&[ATTEMPTS[attempt_index(attempt)]]).observe(delay.as_secs_f64());
    }

    /// Events waiting in lanes, and in flight to Kafka.
    pub fn events_in_queue(&self, lane: usize, in_flight: usize) {
        for (status, events) in QUEUED.into_iter().zip([lane, in_flight]) {
            self.in_queue.with_label_values(&[status]).set(i64::try_from(events).unwrap_or(i64::MAX));
        }
    }

    /// The breaker changed its state.
    pub fn breaker_trip(&self, from: BreakerState, to: BreakerState) {
        debug_assert!(
            BreakerState::TRIPS.contains(&(from, to)),
            "the breaker never goes from {from:?} to {to:?}"
        );
        self.breaker_trips.with_label_values(&[from.label(), to.label()]).inc();
        self.breaker_state.set(to.number());
    }

    /// Age of the oldest event that is read and not confirmed.
    pub fn oldest_unconfirmed_age(&self, age: Option<Duration>) {
        self.oldest_unconfirmed_age.set(age.unwrap_or_default().as_secs_f64());
    }

    /// The replication stream had to be set up again.
    pub fn reconnected(&self) {
        self.reconnects.inc();
    }

    /// The slot's `safe_wal_size`; `None`, which is no limit, shows as infinite.
    pub fn safe_wal_bytes(&self, bytes: Option<i64>) {
        // A gauge of f64: exact up to 8 PiB.
        #[allow(clippy::cast_precision_loss)]
        self.safe_wal_bytes.set(bytes.map_or(f64::INFINITY, |bytes| bytes as f64));
    }

    /// The slot's `wal_status`; `None` or an unknown one clears all.
    pub fn wal_status(&self, status: Option<&str>) {
        for known in WAL_STATUS {
            self.wal_status.with_label_values(&[known]).set(i64::from(status == Some(known)));
        }
    }

    /// How many dead letters each topic has now; topics left out have none any more.
    pub fn dead_letters<'a>(&self, counts: impl IntoIterator<Item = (&'a str, u64)>) {
        let mut shown = locked(&self.dead_letter_topics);
        let mut now: BTreeMap<&str, u64> = shown.iter().map(|topic| (topic.as_str(), 0)).collect();
        now.insert(OTHER, 0);
        for (topic, count) in counts {
            let (label, _) = locked(&self.topics).label(topic);
            *now.entry(label).or_default() += count;
        }
        for (topic, count) in &now {
            self.dead_letters.with_label_values(&[topic]).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
        let topics: BTreeSet<String> = now.into_keys().map(str::to_owned).collect();
        *shown = topics;
    }

    /// There are dead letters, and they cannot be counted now: what was counted stays, but for what was 0, that
    /// of the start too. No number is better than a wrong one.
    pub fn dead_letters_uncounted(&self) {
        let mut shown = locked(&self.dead_letter_topics);
        shown.insert(OTHER.to_owned());
        shown.retain(|topic| {
            let is_some = self.dead_letters.with_label_values(&[topic]).get() > 0;
            // It fails only where the series is gone already.
            let _ = (!is_some).then(|| self.dead_letters.remove_label_values(&[topic]));
            is_some
        });
    }

    /// `count` more of something were left out on purpose.
    pub fn ignored(&self, what: Ignored, count: u64) {
        self.ignored.with_label_values(&[what.label()]).inc_by(count);
    }

    /// The broker rejected a record that no check before sending could find.
    pub fn late_rejection(&self) {
        self.late_rejections.inc();
    }

    /// What the time from commit to acknowledgement was so far.
    pub fn commit_to_ack(&self) -> Latency {
        Latency::of(&self.commit_to_ack)
    }

    /// What is served.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }
}

/// Makes metrics of the prefix `txstream_` and registers them.
struct Make(Registry);

impl Make {
    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("txstream_{name}"), help)
    }

    fn histogram_opts(name: &str, help: &str) -> HistogramOpts {
        HistogramOpts::from(Self::opts(name, help)).buckets(BUCKETS.to_vec())
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        registered(&self.0.0, IntCounter::with_opts(Self::opts(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        registered(&self.0.0, IntCounterVec::new(Self::opts(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        registered(&self.0.0, IntGauge::with_opts(Self::opts(name, help)))
    }

    fn number(&self, name: &str, help: &str) -> Number {
        Number(self.gauge(name, help))
    }

    fn numbers(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        registered(&self.0.0, IntGaugeVec::new(Self::opts(name, help), labels))
    }

    fn float(&self, name: &str, help: &str) -> Gauge {
        registered(&self.0.0, Gauge::with_opts(Self::opts(name, help)))
    }

    fn histogram(&self, name: &str, help: &str) -> Histogram {
        registered(&self.0.0, Histogram::with_opts(Self::histogram_opts(name, help)))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        registered(&self.0.0, HistogramVec::new(Self::histogram_opts(name, help), labels))
    }
}

/// Registers a metric. Names and labels are constants above, so a refusal is our own mistake.
fn registered<C: Collector + Clone + 'static>(
    registry: &prometheus::Registry,
    metric: prometheus::Result<C>,
) -> C {
    match metric {
        Ok(metric) => {
            registered_collector(registry, metric.clone());
            metric
        }
        Err(error) => panic!("a metric of our own is malformed: {error}"),
    }
}

fn registered_collector(registry: &prometheus::Registry, collector: impl Collector + 'static) {
    let outcome = registry.register(Box::new(collector));
    assert!(outcome.is_ok(), "a metric of our own is registered twice: {outcome:?}");
}

/// Nothing that holds these locks can leave them half-changed, so a panic elsewhere is no reason to stop.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The metrics of a writer; a relay's would only be zeros beside them.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};

use super::labels::OTHER;
use super::{Make, Number, Registry};

/// `state` of a pooled connection.
const CONNECTIONS: [&str; 2] = ["in_use", "idle"];

/// All metrics of a writer.
#[derive(Debug)]
pub struct WriterMetrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    events_written: IntCounter,
    pool_connections: IntGaugeVec,
    /// Connections of clients that are open.
    pub http_connections: Number,
    /// Requests that wait for a database connection.
    pub pool_waiting: Number,
    /// Most database connections of the pool.
    pub pool_max_connections: Number,
}

impl WriterMetrics {
    /// All metrics at 0, for these routes and the statuses that each answers with. A route is one of
    /// them or [`WriterMetrics::OTHER_ROUTE`].
    pub fn new<'a>(routes: impl IntoIterator<Item = (&'a str, &'a [u16])>) -> Arc<Self> {
        let make = Make(Registry::of_process());
        let metrics = Self {
            requests: make.counters(
                "http_requests_total",
                "Requests answered, by method and path of the route and by status.",
                &["route", "status"],
            ),
            durations: make.histograms(
                "http_request_duration_seconds",
                "From the head of a request to its answer.",
                &["route"],
            ),
            events_written: make.counter("events_written_total", "Events committed into the outbox table."),
            pool_connections: make.numbers(
                "pool_connections",
                "Database connections of the pool.",
                &["state"],
            ),
            http_connections: make.number("http_connections", "Connections of clients that are open."),
            pool_waiting: make.number("pool_waiting", "Requests that wait for a database connection."),
            pool_max_connections: make
                .number("pool_max_connections", "Most database connections of the pool."),
            registry: make.0,
        };
        for (route, statuses) in routes.into_iter().chain([(Self::OTHER_ROUTE, &[401, 404, 405][..])]) {
            metrics.durations.with_label_values(&[route]);
            for status in statuses {
                metrics.requests.with_label_values(&[route, &status.to_string()]);
            }
        }
        metrics.pool(0, 0, 0);
        Arc::new(metrics)
    }

    /// Stands for what is no route.
    pub const OTHER_ROUTE: &'static str = OTHER;

    /// A request was answered. `route` must be one of those that [`WriterMetrics::new`] got.
    pub fn answered(&self, route: &str, status: u16, duration: Duration) {
        self.requests.with_label_values(&[route, &status.to_string()]).inc();
        self.durations.with_label_values(&[route]).observe(duration.as_secs_f64());
    }

    /// So many events were committed.
    pub fn events_written(&self, count: usize) {
        self.events_written.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// The pool as it is now.
    pub fn pool(&self, in_use: usize, idle: usize, waiting: usize) {
        for (state, connections) in CONNECTIONS.into_iter().zip([in_use, idle]) {
            let connections = i64::try_from(connections).unwrap_or(i64::MAX);
            self.pool_connections.with_label_values(&[state]).set(connections);
        }
        self.pool_waiting.set(waiting);
    }

    /// What is served.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }
}

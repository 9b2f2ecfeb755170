//! What the admin server says of a writer.

use serde_json::{Value, json};

use super::Writer;
use crate::admin::status::rfc3339;
use crate::admin::{BreakerOrder, Subject};
use crate::metrics;

impl Subject for Writer {
    fn live(&self) -> Result<(), String> {
        self.health.live()
    }

    fn ready(&self) -> Result<String, Vec<String>> {
        let (_, answer) = self.health.latest();
        answer.map(|()| "ready".to_owned()).map_err(|reason| vec![reason])
    }

    fn status(&self) -> Value {
        let (since, answer) = self.health.latest();
        let pool = self.store.status();
        json!({
            "state": if answer.is_ok() { "ready" } else { "connecting" },
            "since": rfc3339(since),
            "detail": answer.err(),
            "version": metrics::VERSION,
            "uptime_seconds": self.health.uptime().as_secs(),
            "connections": self.metrics.http_connections.get(),
            "pool": {
                "max": pool.max_size,
                "in_use": pool.size.saturating_sub(pool.available),
                "idle": pool.available,
                "waiting": pool.waiting,
            },
        })
    }

    fn refresh(&self) {
        let pool = self.store.status();
        self.metrics.pool(pool.size.saturating_sub(pool.available), pool.available, pool.waiting);
    }

    fn breaker(&self, _: BreakerOrder) -> Result<(), String> {
        Err("a writer has no circuit breaker: it does not speak to Kafka".to_owned())
    }
}

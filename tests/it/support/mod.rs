//! Real servers, the relay as a child process and a proxy that breaks connections: what the
//! integration tests, the benches and the demo stand on.
//!
//! Nothing outlives the process that started it: servers end when a pipe to it closes
//! ([`server`]), the relay when its parent dies ([`relay`]). Nothing here sleeps in hope; it waits
//! for a condition until a deadline and says what did not happen ([`wait`]).
#![allow(dead_code, unused_imports, reason = "the benches and the demo include this and use a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on ends with the reason")]

pub(crate) mod browser;
pub(crate) mod cluster;
pub(crate) mod database;
pub(crate) mod document;
pub(crate) mod http;
pub(crate) mod kafka;
pub(crate) mod metrics;
pub(crate) mod outbox;
pub(crate) mod port;
pub(crate) mod postgres;
pub(crate) mod prometheus;
pub(crate) mod proxy;
pub(crate) mod relay;
pub(crate) mod server;
pub(crate) mod topic;
pub(crate) mod wait;

pub(crate) use cluster::Cluster;
pub(crate) use database::Database;
pub(crate) use kafka::Kafka;
pub(crate) use outbox::{Halted, Outbox, halted, published};
pub(crate) use postgres::{Postgres, Shutdown};
pub(crate) use proxy::{Direction, Proxy};
pub(crate) use relay::{Relay, run_cli};
pub(crate) use topic::{Record, Topic};
pub(crate) use wait::eventually;

/// A name that no other call in any test process on this machine gives, starting with `stem`.
///
/// It is a valid unquoted SQL identifier, slot name and topic name.
pub(crate) fn unique(stem: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{stem}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

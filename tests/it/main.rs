//! Integration tests: real servers, the relay as a child process. One file per promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::too_many_lines, reason = "tests")]

mod support;

/// The stack that everything below stands on: Postgres, Kafka, the proxy.
mod stack;

/// Connections to Postgres: replication sessions and TLS.
mod replication_session;
mod tls;

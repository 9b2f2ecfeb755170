//! Integration tests: real servers, the relay as a child process. One file per promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::too_many_lines, reason = "tests")]

mod support;

/// The stack that everything below stands on: Postgres, Kafka, the proxy.
mod stack;

/// What a shell sees of the binary.
mod cli;
/// `migrate`: what is made, what is adopted, and that nothing else is ever dropped.
mod migrate;
/// Connections to Postgres: replication sessions and TLS.
mod replication_session;
/// The slot's beginning and end.
mod slot;
mod tls;

//! Flags, environment and `.env` become one validated [`Config`], or all that is wrong with them.

pub mod units;

use std::time::Duration;

use crate::postgres::ConnInfo;
use crate::secret::Secret;
use crate::{admin, kafka, outbox, relay};

/// Everything that people can set, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// What this process calls itself.
    pub app: App,
    /// The database for ordinary SQL; may lead through a pooler.
    pub database: ConnInfo,
    /// The server to replicate from, for slot views, checkpoint and dead letters too.
    pub replication: ConnInfo,
    /// Outbox tables and record shape.
    pub outbox: outbox::Settings,
    /// The producer.
    pub kafka: kafka::Settings,
    /// The consumers of `verify` and the demo.
    pub consumer: Consumer,
    /// The relay.
    pub relay: relay::Settings,
    /// The admin server.
    pub admin: admin::Settings,
    /// The HTTP service and its connection pool.
    pub writer: Writer,
    /// Logs.
    pub logging: Logging,
}

/// Names that appear in logs, `client.id` and `/health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// `APP_NAME`.
    pub name: String,
    /// `APP_VERSION`.
    pub version: String,
    /// `APP_ENV`.
    pub environment: String,
}

/// Kafka consumers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// `group.id`.
    pub group_id: String,
    /// `auto.offset.reset`: `earliest`, `latest` or `none`.
    pub auto_offset_reset: String,
    /// `session.timeout.ms`.
    pub session_timeout: Duration,
}

/// The HTTP service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// Host name or address to bind.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
    /// Longest time for one request.
    pub timeout: Duration,
    /// Bearer token that all but `/health` and `/ready` need, if set.
    pub auth_token: Option<Secret>,
    /// Port of its admin server: `METRICS_PORT`, by default one above the relay's.
    pub metrics_port: u16,
    /// Most database connections, at least 1.
    pub max_open_conns: usize,
    /// Most idle ones, not above `max_open_conns`.
    pub max_idle_conns: usize,
    /// Age at which a connection is replaced.
    pub conn_max_lifetime: Duration,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// A level, or tracing's directives such as `info,rdkafka=debug`.
    pub level: String,
    /// Shape of a line.
    pub format: LogFormat,
}

/// Shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// For people.
    Text,
}

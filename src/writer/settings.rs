//! What the writer needs to know.

use std::time::Duration;

use crate::secret::Secret;

/// Settings of the HTTP service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Host name or address to bind.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
    /// Longest time for one request, for its head, and for a connection to be idle.
    pub timeout: Duration,
    /// Bearer token that all but `/health` and `/ready` need, if set.
    pub auth_token: Option<Secret>,
    /// Port of its admin server: `METRICS_PORT`, by default one above the relay's.
    pub metrics_port: u16,
    /// Most database connections, at least 1.
    pub max_open_conns: usize,
    /// Most idle ones, not above `max_open_conns`.
    pub max_idle_conns: usize,
    /// Age at which a connection is replaced; zero is never.
    pub conn_max_lifetime: Duration,
}

/// What a writer calls itself, in logs and in `/health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// `APP_NAME`.
    pub name: String,
    /// `APP_VERSION`.
    pub version: String,
    /// `APP_ENV`.
    pub environment: String,
}

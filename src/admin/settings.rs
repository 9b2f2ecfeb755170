//! What the admin server is told.

use crate::secret::Secret;

/// Where the admin server listens and who may act through it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether there is an admin server.
    pub enabled: bool,
    /// Host name or address to bind.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
    /// Path of the metrics, starts with `/`.
    pub path: String,
    /// Bearer token that acts need; without one they are refused.
    pub admin_token: Option<Secret>,
}

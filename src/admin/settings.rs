//! What the admin server needs to know.

use crate::secret::Secret;

/// Settings of the admin server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `METRICS_ENABLED`: without it nothing listens.
    pub enabled: bool,
    /// `METRICS_HOST`: a name or an address; all its addresses are listened on.
    pub host: String,
    /// `METRICS_PORT`.
    pub port: u16,
    /// `METRICS_PATH`: where the metrics are.
    pub path: String,
    /// `METRICS_ADMIN_TOKEN`: who acts must present it; without it nobody acts.
    pub admin_token: Option<Secret>,
}

//! The admin server: metrics, health, status, and the few acts a person may need.
//!
//! It runs on a thread and a runtime of its own, so that it answers while the data plane is
//! saturated, and it asks a [`Subject`] (the relay, the writer) for everything it says.

mod answer;
pub mod listen;
mod page;
mod routes;
mod server;
pub mod settings;
pub mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(crate) use routes::bearer;
pub use server::{AdminError, Server, start};
pub use settings::Settings;
pub use status::StatusReport;

/// What the server reports on. The methods are called on the admin thread, many times a minute,
/// and must not wait: whatever they need is kept ready for them.
pub trait Subject: Send + Sync + 'static {
    /// Whether the process makes progress.
    ///
    /// # Errors
    /// What is stuck. The process should be restarted.
    fn live(&self) -> Result<(), String>;

    /// The state in one word, such as `streaming` or `standby`, if all is well.
    ///
    /// # Errors
    /// The reasons why it is not, without key, id or host.
    fn ready(&self) -> Result<String, Vec<String>>;

    /// The document of `/status`, see [`StatusReport`].
    fn status(&self) -> serde_json::Value;

    /// Brings the gauges up to date; called before each scrape.
    fn refresh(&self);

    /// Opens or closes the circuit breaker.
    ///
    /// # Errors
    /// Why that cannot be done now.
    fn breaker(&self, order: BreakerOrder) -> Result<(), String>;
}

/// An order to the circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerOrder {
    /// Open it, until [`BreakerOrder::Close`].
    Open,
    /// Close it.
    Close,
}

/// Changes the log level; fails with the reason when it does not understand the level.
pub type LevelSetter = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

//! The admin server: metrics, health, status, acts.

pub mod settings;

pub use settings::Settings;

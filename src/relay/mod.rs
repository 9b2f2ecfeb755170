//! The relay.

pub mod checkpoint;
pub mod settings;
pub mod slot_life;

pub use settings::Settings;

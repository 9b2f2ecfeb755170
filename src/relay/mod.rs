//! The relay.

pub mod checkpoint;
pub mod settings;
pub mod slot_life;

pub use settings::Settings;

mod backoff;
mod breaker;
mod core;
mod gather;
mod halt;
mod lane;
mod ledger;
mod rounds;
mod topics;

pub use halt::Halt;

#[cfg(test)]
mod sim;

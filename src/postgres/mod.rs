//! Postgres as txstream sees it: connection settings, TLS, ordinary SQL, and the replication
//! connection that tokio-postgres does not offer.
//!
//! Knows nothing of outbox tables, Kafka or the relay: this folder and [`crate::pgoutput`] could
//! leave as a library unchanged.

mod auth;
mod channel;
pub mod clock;
pub mod conninfo;
pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod locks;
pub mod lsn;
pub mod publication;
pub mod replication;
pub mod slot;
pub mod sql;
pub mod stream;
pub mod synchronous;
mod transport;
mod wire;

pub use conninfo::ConnInfo;
pub use error::PgError;
pub use lsn::Lsn;

//! Ordinary SQL connections: tokio-postgres over the same settings and TLS as replication.

use super::{ConnInfo, PgError};

/// Connects, authenticates and starts the connection's own task on the current runtime.
///
/// # Errors
/// As [`PgError`]; the whole of connect, TLS and authentication has one deadline.
pub async fn connect(_info: &ConnInfo, _application_name: &str) -> Result<tokio_postgres::Client, PgError> {
    todo!("postgres package")
}

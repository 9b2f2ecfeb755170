//! Where and how to connect: a libpq URI or keyword string, every key honoured or refused by name.

use crate::secret::Secret;

/// How much TLS a connection must have; libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS when the server has it, unverified.
    #[default]
    Prefer,
    /// TLS or nothing, unverified.
    Require,
    /// TLS with a certificate from a known authority.
    VerifyCa,
    /// TLS with a certificate from a known authority that names the host.
    VerifyFull,
}

/// A place to connect to and how.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// Host name, address, or the directory of a Unix socket (starts with `/` or `@`).
    pub host: String,
    /// TCP port, or the number in the Unix socket's name.
    pub port: u16,
    /// Role to log in as.
    pub user: String,
    /// Password, if one was given.
    pub password: Option<Secret>,
    /// Database name.
    pub dbname: String,
    /// TLS mode.
    pub ssl_mode: SslMode,
}

/// What is wrong with a connection string; several may be reported at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnInfoError(pub String);

impl ConnInfo {
    /// Parses a libpq URI (`postgresql://…`) or keyword string (`host=… user=…`).
    ///
    /// # Errors
    /// All problems of the string at once.
    pub fn parse(_text: &str) -> Result<Self, Vec<ConnInfoError>> {
        todo!("postgres package")
    }
}

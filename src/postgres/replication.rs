//! A replication connection before streaming: startup, authentication, replication commands.

use super::stream::{StatusWriter, WalReader};
use super::{ConnInfo, Lsn, PgError};

/// The answer to IDENTIFY_SYSTEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Identifies the cluster; equal on its physical standbys.
    pub system_id: String,
    /// Current timeline.
    pub timeline: u32,
    /// Current flush position of the server's WAL.
    pub xlogpos: Lsn,
    /// The database connected to.
    pub dbname: String,
}

/// pgoutput options of START_REPLICATION; protocol version is always 1.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// Publication names, unquoted.
    pub publications: Vec<String>,
    /// Ask for binary column values.
    pub binary: bool,
    /// Ask for logical messages.
    pub messages: bool,
}

/// A replication connection in command mode.
pub struct ReplicationConn(());

impl ReplicationConn {
    /// Connects with `replication=database` and the settings that pin how values are printed.
    ///
    /// # Errors
    /// As [`PgError`].
    pub async fn connect(_info: &ConnInfo, _application_name: &str) -> Result<Self, PgError> {
        todo!("postgres package")
    }

    /// IDENTIFY_SYSTEM.
    ///
    /// # Errors
    /// As [`PgError`]; a pooler's refusal is explained.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, PgError> {
        todo!("postgres package")
    }

    /// START_REPLICATION at `0/0`: the slot decides where.
    ///
    /// # Errors
    /// As [`PgError`]; 55006 when the slot is held.
    pub async fn start_replication(
        self,
        _slot: &str,
        _options: &StartOptions,
    ) -> Result<(WalReader, StatusWriter), PgError> {
        todo!("postgres package")
    }
}

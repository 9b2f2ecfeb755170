//! The replication stream: WAL and keepalives in, standby status out. Both halves are cancel-safe
//! and are used by one task.

use bytes::Bytes;

use super::{Lsn, PgError};

/// One message of the server's half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicationMessage {
    /// A piece of WAL as the output plugin wrote it.
    XLogData {
        /// Where this piece starts.
        start: Lsn,
        /// The plugin's bytes, a slice of the receive buffer.
        body: Bytes,
    },
    /// The server is alive.
    KeepAlive {
        /// The last position sent into decoding: what lies before it has already come.
        wal_end: Lsn,
        /// The server wants a status at once.
        reply_requested: bool,
    },
    /// A notice or warning.
    Notice {
        /// SQLSTATE.
        code: String,
        /// Its text.
        message: String,
    },
}

/// The server's half.
pub struct WalReader(());

impl WalReader {
    /// Waits until at least one whole message is buffered.
    ///
    /// # Errors
    /// As [`PgError`]; the end of the stream is an error too.
    ///
    /// # Cancel safety
    /// May be dropped at any await; nothing read is lost.
    pub async fn ready(&mut self) -> Result<(), PgError> {
        todo!("postgres package")
    }

    /// The next buffered message, `None` when the buffer holds no whole one. Never waits.
    ///
    /// # Errors
    /// As [`PgError`]: an ErrorResponse, or the end of the stream.
    pub fn pop(&mut self) -> Result<Option<ReplicationMessage>, PgError> {
        todo!("postgres package")
    }
}

/// Our half.
pub struct StatusWriter(());

impl StatusWriter {
    /// Queues a standby status with the reply flag set; flush = apply. Never waits.
    pub fn queue_status(&mut self, _written: Lsn, _flushed: Lsn) {
        todo!("postgres package")
    }

    /// Whether queued bytes are not on the socket yet.
    pub fn pending(&self) -> bool {
        todo!("postgres package")
    }

    /// Writes what is queued.
    ///
    /// # Errors
    /// As [`PgError`].
    ///
    /// # Cancel safety
    /// May be dropped at any await; the next call goes on where this one stopped.
    pub async fn flush(&mut self) -> Result<(), PgError> {
        todo!("postgres package")
    }
}

/// Ends the stream in order: what is queued, CopyDone, the server's ReadyForQuery (at most 500 ms), Terminate.
///
/// # Errors
/// As [`PgError`]; the connection is closed in any case.
pub async fn finish(_reader: WalReader, _writer: StatusWriter) -> Result<(), PgError> {
    todo!("postgres package")
}

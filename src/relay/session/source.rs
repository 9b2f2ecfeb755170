//! Where a session's rows come from, and who is told what is confirmed: a slot, or a table and nobody.

use tokio::time::Instant;

use crate::pgoutput::Message;
use crate::postgres::stream::{ReplicationMessage, StatusWriter, WalReader};
use crate::postgres::{Lsn, PgError};
use crate::relay::rows::{Piece, Rows};

/// What comes.
pub(in crate::relay) enum Incoming {
    /// From the replication stream.
    Stream(ReplicationMessage),
    /// A message made of a row of the table.
    Row(Message),
    /// The table has no more.
    End,
}

impl From<Piece> for Incoming {
    fn from(piece: Piece) -> Self {
        match piece {
            Piece::Message(message) => Self::Row(message),
            Piece::End => Self::End,
        }
    }
}

/// Where rows come from.
pub(in crate::relay) enum Source {
    /// The slot.
    Wal(WalReader),
    /// The table.
    Table(Box<Rows>),
}

impl Source {
    /// Waits until there is something.
    ///
    /// # Cancel safety
    /// May be dropped at any await; nothing read is lost.
    pub(super) async fn ready(&mut self) -> Result<(), PgError> {
        match self {
            Self::Wal(reader) => reader.ready().await,
            Self::Table(rows) => rows.ready().await,
        }
    }

    /// What there is. Never waits.
    pub(super) fn pop(&mut self) -> Result<Option<Incoming>, PgError> {
        match self {
            Self::Wal(reader) => Ok(reader.pop()?.map(Incoming::Stream)),
            Self::Table(rows) => Ok(rows.pop()?.map(Incoming::from)),
        }
    }

    /// When the server was last heard; a table may be sorted in silence.
    pub(super) fn last_heard(&self) -> Instant {
        match self {
            Self::Wal(reader) => reader.last_heard(),
            Self::Table(_) => Instant::now(),
        }
    }
}

/// Who is told what is confirmed.
pub(in crate::relay) enum Statuses {
    /// The slot.
    Wal(StatusWriter),
    /// A backfill is done or not.
    Nobody,
}

impl Statuses {
    /// As [`StatusWriter::queue_status`].
    pub(in crate::relay) fn queue_status(&mut self, written: Lsn, flushed: Lsn) {
        if let Self::Wal(writer) = self {
            writer.queue_status(written, flushed);
        }
    }

    /// As [`StatusWriter::pending`].
    pub(super) fn pending(&self) -> bool {
        matches!(self, Self::Wal(writer) if writer.pending())
    }

    /// As [`StatusWriter::flush`].
    ///
    /// # Cancel safety
    /// May be dropped at any await; the next call goes on where this one stopped.
    pub(in crate::relay) async fn flush(&mut self) -> Result<(), PgError> {
        match self {
            Self::Wal(writer) => writer.flush().await,
            Self::Nobody => Ok(()),
        }
    }
}

//! The replication stream: WAL and keepalives in, standby status out. Both halves are cancel-safe
//! and are used by one task.
//!
//! Invariant: a message is read whole or not at all, and a status is written whole, in order, whatever
//! futures are dropped in between.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout};

use super::channel::Channel;
use super::error::ServerError;
use super::transport::Transport;
use super::wire::{Frame, ReadBuffer, WriteBuffer};
use super::{Lsn, PgError, clock};

const READING: &str = "read the replication stream";
const WRITING: &str = "send a status on the replication stream";
const ENDING: &str = "end the replication stream in order";

/// A walsender inside a big transaction answers CopyDone only after it: longer than this it is not
/// waited for.
const FINISH_TIMEOUT: Duration = Duration::from_millis(500);

/// Status messages that wait for a socket which takes nothing; further ones are dropped, as the next
/// that gets through says more than they did.
const MAX_QUEUED_BYTES: usize = 64 * 1024;

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
pub struct WalReader {
    stream: ReadHalf<Transport>,
    input: ReadBuffer,
    early_notices: VecDeque<ServerError>,
    last_heard: Instant,
}

/// Takes a connection apart whose server has just answered CopyBoth.
pub(super) fn split(
    channel: Channel<Transport>,
    early_notices: Vec<ServerError>,
) -> (WalReader, StatusWriter) {
    let (read, write) = tokio::io::split(channel.stream);
    let reader = WalReader {
        stream: read,
        input: channel.input,
        early_notices: early_notices.into(),
        last_heard: Instant::now(),
    };
    (reader, StatusWriter { stream: write, output: channel.output })
}

impl WalReader {
    /// Waits until at least one whole message is buffered.
    ///
    /// # Errors
    /// As [`PgError`]; the end of the stream is an error too.
    ///
    /// # Cancel safety
    /// May be dropped at any await; nothing read is lost.
    pub async fn ready(&mut self) -> Result<(), PgError> {
        while self.early_notices.is_empty() && !self.input.is_ready() {
            self.input.fill(&mut self.stream).await.map_err(|error| PgError::from_io(READING, error))?;
            self.last_heard = Instant::now();
        }
        Ok(())
    }

    /// The next buffered message, `None` when the buffer holds no whole one. Never waits.
    ///
    /// # Errors
    /// As [`PgError`]: an ErrorResponse, or the end of the stream.
    pub fn pop(&mut self) -> Result<Option<ReplicationMessage>, PgError> {
        if let Some(notice) = self.early_notices.pop_front() {
            return Ok(Some(notice.into()));
        }
        loop {
            match self.input.pop().map_err(|error| PgError::from_io(READING, error))? {
                None => return Ok(None),
                Some(Frame::CopyData(body)) => return parse(body).map(Some),
                Some(Frame::CopyBoth) => return Err(PgError::protocol(READING, "a second CopyBothResponse")),
                Some(Frame::Message(message)) => {
                    if let Some(notice) = other_message(message)? {
                        return Ok(Some(notice));
                    }
                }
            }
        }
    }

    /// When the last bytes came.
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }
}

impl From<ServerError> for ReplicationMessage {
    fn from(notice: ServerError) -> Self {
        Self::Notice { code: notice.code, message: notice.message }
    }
}

/// XLogData or keepalive.
pub(super) fn parse(mut body: Bytes) -> Result<ReplicationMessage, PgError> {
    match body.first() {
        // Start, end and time, 8 bytes each.
        Some(b'w') if body.len() >= 25 => {
            body.advance(1);
            let start = Lsn(body.get_u64());
            body.advance(16);
            Ok(ReplicationMessage::XLogData { start, body })
        }
        // End and time, 8 bytes each, and the reply flag.
        Some(b'k') if body.len() == 18 => {
            body.advance(1);
            let wal_end = Lsn(body.get_u64());
            Ok(ReplicationMessage::KeepAlive { wal_end, reply_requested: body[8] != 0 })
        }
        _ => Err(PgError::protocol(READING, "neither WAL nor a keepalive")),
    }
}

/// What else may come while streaming; the ends of the stream are errors.
pub(super) fn other_message(message: Message) -> Result<Option<ReplicationMessage>, PgError> {
    let bad_fields = |error| PgError::from_io(READING, error);
    match message {
        Message::NoticeResponse(body) => {
            Ok(Some(ServerError::from_fields(body.fields()).map_err(bad_fields)?.into()))
        }
        Message::ParameterStatus(_) | Message::NotificationResponse(_) => Ok(None),
        Message::ErrorResponse(body) => {
            let error = Box::new(ServerError::from_fields(body.fields()).map_err(bad_fields)?);
            Err(PgError::Server { doing: READING.into(), replication_command: false, error })
        }
        Message::CopyDone => Err(PgError::StreamEnded { by: "CopyDone" }),
        // A logical walsender that shuts down ends with this one.
        Message::CommandComplete(_) => Err(PgError::StreamEnded { by: "CommandComplete" }),
        Message::ReadyForQuery(_) => Err(PgError::StreamEnded { by: "ReadyForQuery" }),
        _ => Err(PgError::protocol(READING, "a message that does not belong there")),
    }
}

/// Our half.
pub struct StatusWriter {
    stream: WriteHalf<Transport>,
    output: WriteBuffer,
}

impl StatusWriter {
    /// Queues a standby status with the reply flag set; flush = apply. Never waits.
    ///
    /// The flag makes silence mean a dead peer: the server's own keepalives queue behind a big
    /// transaction, its answers do not wait for us.
    pub fn queue_status(&mut self, written: Lsn, flushed: Lsn) {
        /// `r`, three positions, the time, the flag.
        const STATUS_LEN: i32 = 34;
        if self.output.len() >= MAX_QUEUED_BYTES {
            return;
        }
        let buf = self.output.queue();
        buf.put_u8(b'd');
        buf.put_i32(STATUS_LEN + 4);
        buf.put_u8(b'r');
        for lsn in [written, flushed, flushed] {
            buf.put_u64(lsn.0);
        }
        buf.put_i64(clock::now());
        buf.put_u8(1);
    }

    /// Whether queued bytes are not on the socket yet.
    pub fn pending(&self) -> bool {
        !self.output.is_empty()
    }

    /// Writes what is queued.
    ///
    /// # Errors
    /// As [`PgError`].
    ///
    /// # Cancel safety
    /// May be dropped at any await; the next call goes on where this one stopped.
    pub async fn flush(&mut self) -> Result<(), PgError> {
        self.output.flush(&mut self.stream).await.map_err(|error| PgError::from_io(WRITING, error))
    }
}

/// Ends the stream in order: what is queued, CopyDone, the server's ReadyForQuery (at most 500 ms),
/// Terminate. WAL that still comes is dropped: it is not confirmed and comes again.
///
/// # Errors
/// As [`PgError`]; the connection is closed in any case.
pub async fn finish(mut reader: WalReader, mut writer: StatusWriter) -> Result<(), PgError> {
    frontend::copy_done(writer.output.queue());
    let ended = timeout(FINISH_TIMEOUT, async {
        writer.flush().await?;
        loop {
            match reader.pop() {
                Ok(Some(_)) | Err(PgError::StreamEnded { by: "CopyDone" | "CommandComplete" }) => {}
                Ok(None) => reader.ready().await?,
                Err(PgError::StreamEnded { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        frontend::terminate(writer.output.queue());
        writer.flush().await?;
        // The server closes first; whether it still hears our goodbye does not matter.
        let _ = writer.stream.shutdown().await;
        Ok(())
    });
    ended.await.unwrap_or_else(|_| Err(PgError::Timeout { doing: ENDING.into(), limit: FINISH_TIMEOUT }))
}

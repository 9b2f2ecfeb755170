//! A connection as a row of messages: both buffers around one byte stream, errors in our words.

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::PgError;
use super::error::ServerError;
use super::wire::{Frame, ReadBuffer, WriteBuffer};

/// A byte stream with its buffers.
pub(super) struct Channel<S> {
    pub(super) stream: S,
    pub(super) input: ReadBuffer,
    pub(super) output: WriteBuffer,
    /// What the server remarked in command mode.
    pub(super) notices: Vec<ServerError>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Channel<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, input: ReadBuffer::new(), output: WriteBuffer::new(), notices: Vec::new() }
    }

    /// Queues what `encode` appends and sends it.
    pub(super) async fn send(
        &mut self,
        doing: &str,
        encode: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), PgError> {
        // The protocol crate fails only for texts with a zero byte, which come from settings.
        encode(self.output.queue()).map_err(|error| PgError::Setting(format!("cannot {doing}: {error}")))?;
        self.output.flush(&mut self.stream).await.map_err(|error| PgError::from_io(doing, error))
    }

    /// Waits for the next frame.
    pub(super) async fn recv(&mut self, doing: &str) -> Result<Frame, PgError> {
        let failed = |error| PgError::from_io(doing, error);
        loop {
            if let Some(frame) = self.input.pop().map_err(failed)? {
                return Ok(frame);
            }
            self.input.fill(&mut self.stream).await.map_err(failed)?;
        }
    }

    /// Waits for the next message of command mode that is not a notice; an ErrorResponse is an error.
    pub(super) async fn recv_message(&mut self, doing: &str) -> Result<Message, PgError> {
        loop {
            match self.recv(doing).await? {
                Frame::Message(Message::ErrorResponse(body)) => {
                    let error = Box::new(
                        ServerError::from_fields(body.fields()).map_err(|e| PgError::from_io(doing, e))?,
                    );
                    return Err(PgError::Server { doing: doing.into(), replication_command: true, error });
                }
                Frame::Message(Message::NoticeResponse(body)) => {
                    let notice =
                        ServerError::from_fields(body.fields()).map_err(|e| PgError::from_io(doing, e))?;
                    tracing::info!(severity = notice.severity, code = notice.code, "{}", notice.message);
                    self.notices.push(notice);
                }
                Frame::Message(message) => return Ok(message),
                Frame::CopyData(_) | Frame::CopyBoth => {
                    return Err(PgError::protocol(doing, "the server began to copy unasked"));
                }
            }
        }
    }
}

//! Frames of the Postgres protocol: a read buffer that whole frames are cut from without copying, and
//! a write buffer that is sent in as many steps as the socket likes.
//!
//! Invariants: both buffers live outside any future, so a read or a write that is dropped half-way
//! loses and tears nothing; memory grows with the bytes that came, never with a length that is claimed.

#[cfg(test)]
mod tests;

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A block of the read buffer: several hundred small rows per read call, and little enough to let lie
/// while one row of it waits for its acknowledgement.
const BLOCK: usize = 256 * 1024;

/// Least free space for a read; what is left of a block below that is given up.
const MIN_READ: usize = 64 * 1024;

/// Limit of a frame: no row is larger than Postgres' own limit for an allocation (1 GiB).
pub(super) const MAX_FRAME: usize = 0x4000_0000;

/// Limit of a frame before authentication, when anybody may be at the other end.
pub(super) const MAX_FRAME_BEFORE_LOGIN: usize = 64 * 1024;

const COPY_DATA: u8 = b'd';
const COPY_BOTH: u8 = b'W';

/// One frame from the server.
pub(super) enum Frame {
    /// CopyData's bytes, a slice of the read buffer.
    CopyData(Bytes),
    /// CopyBothResponse, which the protocol crate does not know.
    CopyBoth,
    /// Anything else.
    Message(Message),
}

/// What came from the server and was not taken yet.
pub(super) struct ReadBuffer {
    bytes: BytesMut,
    max_frame: usize,
}

impl ReadBuffer {
    pub(super) fn new() -> Self {
        Self { bytes: BytesMut::new(), max_frame: MAX_FRAME_BEFORE_LOGIN }
    }

    /// Sets the largest frame that is accepted.
    pub(super) fn set_max_frame(&mut self, bytes: usize) {
        self.max_frame = bytes;
    }

    /// Tag and total length of the frame in front, when it is there as a whole.
    ///
    /// # Errors
    /// `InvalidData` for a length that no frame can have.
    fn whole(&self) -> io::Result<Option<(u8, usize)>> {
        let Some(header) = Header::parse(&self.bytes)? else { return Ok(None) };
        let total = usize::try_from(header.len()).map_err(io::Error::other)? + 1;
        if total > self.max_frame {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message of {total} bytes is over the limit of {} bytes", self.max_frame),
            ));
        }
        Ok((self.bytes.len() >= total).then_some((header.tag(), total)))
    }

    /// Whether [`ReadBuffer::pop`] has something to give or to complain about.
    pub(super) fn is_ready(&self) -> bool {
        !matches!(self.whole(), Ok(None))
    }

    /// Takes the frame in front, if it is whole.
    ///
    /// # Errors
    /// `InvalidData` or `InvalidInput` for what is not the protocol.
    pub(super) fn pop(&mut self) -> io::Result<Option<Frame>> {
        let Some((tag, total)) = self.whole()? else { return Ok(None) };
        match tag {
            COPY_DATA => {
                let mut frame = self.bytes.split_to(total).freeze();
                frame.advance(5);
                Ok(Some(Frame::CopyData(frame)))
            }
            COPY_BOTH => {
                self.bytes.advance(total);
                Ok(Some(Frame::CopyBoth))
            }
            // The frame is whole, so the parser never reserves what a length claims.
            _ => Ok(Message::parse(&mut self.bytes)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
                .map(Frame::Message)),
        }
    }

    /// Reads once. `UnexpectedEof` when the peer has closed.
    ///
    /// # Cancel safety
    /// May be dropped at any await; nothing read is lost.
    pub(super) async fn fill<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> io::Result<()> {
        self.make_room();
        if from.read_buf(&mut self.bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Free space for a read: what is left of the block, the same block again when nobody holds a
    /// frame of it any more, or a new one, twice as large as the unfinished frame that moves into it.
    fn make_room(&mut self) {
        let free = self.bytes.capacity() - self.bytes.len();
        if free >= MIN_READ || self.bytes.try_reclaim(MIN_READ) {
            return;
        }
        let mut block = BytesMut::with_capacity(BLOCK.max(2 * self.bytes.len()));
        block.extend_from_slice(&self.bytes);
        self.bytes = block;
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// What is to be sent and was not taken by the socket yet.
pub(super) struct WriteBuffer {
    bytes: BytesMut,
    /// The socket has it all, but a layer in between (TLS) may not have let go of it.
    unflushed: bool,
}

impl WriteBuffer {
    pub(super) fn new() -> Self {
        Self { bytes: BytesMut::new(), unflushed: false }
    }

    /// Where to append whole frames. What is queued must not be changed: TLS may have encrypted it.
    pub(super) fn queue(&mut self) -> &mut BytesMut {
        self.unflushed = true;
        &mut self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.unflushed
    }

    /// Writes all that is queued.
    ///
    /// # Cancel safety
    /// May be dropped at any await; the next call goes on where this one stopped.
    pub(super) async fn flush<W: AsyncWrite + Unpin>(&mut self, to: &mut W) -> io::Result<()> {
        while !self.bytes.is_empty() {
            let written = to.write(&self.bytes).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.bytes.advance(written);
        }
        if self.unflushed {
            to.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }
}

//! A Unix socket that a thread reads ahead of its reader while the server floods it.
//!
//! What waits on a Unix socket lies in the sender's buffer (`net.core.wmem_default`, 208 KiB unless changed), each
//! message in a piece of its own: about 160 small rows of a walsender, 0.6 ms of what it can send. A
//! relay whose thread is busy for longer with anything else (handing over a burst takes milliseconds, waiting for a
//! core as long) makes the walsender stand still. TCP holds megabytes, so only Unix sockets need this.
//!
//! A stream that is not flooded is read directly, so that a lone row waits for no other thread. While the thread
//! reads, the runtime does not watch the socket for bytes: every message of the server would wake it.
//!
//! This file gives the socket from one to the other; [`thread`] reads.
//!
//! Invariant: one of the two reads at a time, and the bytes come in their order.

mod thread;

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::task::coop::poll_proceed;

use self::thread::{CHUNK_BYTES, Read, ReadingThread};

/// A read that finds this much has found half of what the kernel holds for small rows: a flood.
const FLOOD_BYTES: usize = CHUNK_BYTES;

/// A Unix socket, read directly or ahead.
pub(super) struct ReadAhead {
    mode: Mode,
    /// Somebody waits until the socket takes more; the runtime would forget him if the socket changed hands.
    writer_waits: bool,
}

enum Mode {
    Direct(UnixStream),
    Ahead {
        socket: StdUnixStream,
        thread: ReadingThread,
    },
    /// The socket could not change hands.
    Lost,
}

impl ReadAhead {
    /// Reads directly until there is a flood.
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { mode: Mode::Direct(stream), writer_waits: false }
    }

    /// Leaves reading to a thread. Without one it goes on directly.
    fn engage(&mut self) -> io::Result<()> {
        if let Mode::Direct(stream) = std::mem::replace(&mut self.mode, Mode::Lost) {
            let socket = stream.into_std()?;
            self.mode = match ReadingThread::start(&socket) {
                Ok(thread) => Mode::Ahead { socket, thread },
                Err(_) => Mode::Direct(UnixStream::from_std(socket)?),
            };
        }
        Ok(())
    }

    /// Takes reading back from the thread, which has ended.
    fn disengage(&mut self) -> io::Result<()> {
        if let Mode::Ahead { socket, .. } = std::mem::replace(&mut self.mode, Mode::Lost) {
            self.mode = Mode::Direct(UnixStream::from_std(socket)?);
        }
        Ok(())
    }
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket could not be given to another reader")
}

impl AsyncRead for ReadAhead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match &mut self.mode {
                Mode::Direct(stream) => {
                    let before = out.filled().len();
                    ready!(Pin::new(stream).poll_read(cx, out))?;
                    if out.filled().len() - before >= FLOOD_BYTES && !self.writer_waits {
                        self.engage()?;
                    }
                    return Poll::Ready(Ok(()));
                }
                Mode::Ahead { thread, .. } => {
                    // As the runtime's own sockets do: in a flood there is always something to read, and
                    // everything else on this thread would wait for the end of it.
                    let turn = ready!(poll_proceed(cx));
                    let read = ready!(thread.poll_read(cx, out))?;
                    turn.made_progress();
                    match read {
                        Read::Given => return Poll::Ready(Ok(())),
                        Read::FloodIsOver => self.disengage()?,
                    }
                }
                Mode::Lost => return Poll::Ready(Err(lost())),
            }
        }
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match &mut self.mode {
                Mode::Direct(stream) => {
                    let written = Pin::new(stream).poll_write(cx, bytes);
                    self.writer_waits = written.is_pending();
                    return written;
                }
                Mode::Ahead { socket, thread } => match socket.write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(thread.poll_writable(cx))?;
                        self.disengage()?;
                    }
                    written => return Poll::Ready(written),
                },
                Mode::Lost => return Poll::Ready(Err(lost())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel has it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.mode {
            Mode::Direct(stream) => Pin::new(stream).poll_shutdown(cx),
            Mode::Ahead { socket, .. } => Poll::Ready(socket.shutdown(Shutdown::Write)),
            Mode::Lost => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests;

//! The thread that reads a flood ahead, and the queue between it and the reader.
//!
//! Invariants: chunks come in the order in which they were read; no more than [`CHUNKS`] of [`CHUNK_BYTES`] lie here,
//! then the thread stops reading, and the server feels it; the thread ends when its reader does.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::io::ReadBuf;

/// The size of a chunk, and of the largest single read of the thread: what a flood brings between two rests.
pub(super) const CHUNK_BYTES: usize = 32 * 1024;

/// How many chunks may be filled: 1 MiB, which is ten milliseconds of a walsender at full speed.
pub(super) const CHUNKS: usize = 32;

/// The thread rests between two reads, or the server would have to wake it for every message. It
/// looks for a rest that brings about a chunk; the kernel's buffer is full after two of them.
const SHORTEST_REST: Duration = Duration::from_micros(100);
pub(super) const FIRST_REST: Duration = Duration::from_micros(200);
pub(super) const LONGEST_REST: Duration = Duration::from_millis(1);

/// How long the thread waits for a reader who takes nothing, before it looks whether somebody waits to write.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Less than that in a rest is no flood.
const TRICKLE_BYTES: usize = CHUNK_BYTES / 8;

/// So many rests in a row that brought no more than a trickle are the end of the flood: about 100 ms, so that a
/// hiccup does not end it.
const QUIET_RESTS: u32 = 100;

/// The reader's hold on the thread, which ends when this is dropped, if not before.
pub(super) struct ReadingThread {
    pub(super) shared: Arc<Shared>,
    thread: Thread,
}

/// What came of a read.
pub(super) enum Read {
    /// Bytes; none at the end of the stream.
    Given,
    /// All was given, and the thread has ended.
    FloodIsOver,
}

impl ReadingThread {
    /// Starts a thread that reads the socket, which does not block.
    pub(super) fn start(socket: &UnixStream) -> io::Result<Self> {
        let socket = socket.try_clone()?;
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let read = move || read_ahead(socket, &for_thread);
        let handle = thread::Builder::new().name("read-ahead".to_owned()).spawn(read)?;
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    /// Gives what was read, in its order.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<Read>> {
        let mut state = self.shared.state();
        if state.filled.is_empty() {
            return match &mut state.end {
                None => {
                    state.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
                Some(End::Pause) => Poll::Ready(Ok(Read::FloodIsOver)),
                Some(End::Closed) => Poll::Ready(Ok(Read::Given)),
                Some(End::Failed(error)) => {
                    Poll::Ready(Err(std::mem::replace(error, io::ErrorKind::NotConnected.into())))
                }
            };
        }
        while out.remaining() > 0
            && let Some(chunk) = state.filled.front_mut()
        {
            let bytes = chunk.rest().len().min(out.remaining());
            out.put_slice(&chunk.rest()[..bytes]);
            chunk.from += bytes;
            if chunk.rest().is_empty()
                && let Some(chunk) = state.filled.pop_front()
            {
                state.empty.push(chunk.bytes);
            }
        }
        if state.resumes_at.is_some_and(|chunks| state.filled.len() <= chunks) {
            state.resumes_at = None;
            self.thread.unpark();
        }
        Poll::Ready(Ok(Read::Given))
    }

    /// Waits for room to write: the thread, which looks at the socket all the time, wakes who waits. Ready when it
    /// has ended.
    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.state();
        match state.end {
            None => {
                state.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(End::Pause) => Poll::Ready(Ok(())),
            Some(End::Closed | End::Failed(_)) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl Drop for ReadingThread {
    fn drop(&mut self) {
        self.shared.state().abandoned = true;
        self.thread.unpark();
    }
}

/// What thread and reader share.
#[derive(Default)]
pub(super) struct Shared(Mutex<State>);

#[derive(Default)]
pub(super) struct State {
    /// What was read, oldest first.
    pub(super) filled: VecDeque<Chunk>,
    /// Chunks to be filled again.
    empty: Vec<Box<[u8]>>,
    /// The thread waits until the reader has left no more chunks than that.
    pub(super) resumes_at: Option<usize>,
    /// Why the thread has ended.
    pub(super) end: Option<End>,
    /// The reader is gone: the thread ends.
    abandoned: bool,
    /// Who waits for bytes.
    reader: Option<Waker>,
    /// Who waits to write.
    pub(super) writer: Option<Waker>,
}

/// Bytes that were read: those from `from` to `to`.
pub(super) struct Chunk {
    bytes: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Chunk {
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.from..self.to]
    }
}

pub(super) enum End {
    /// The flood is over.
    Pause,
    /// The server has closed.
    Closed,
    Failed(io::Error),
}

impl Shared {
    /// Every step under the lock leaves a state that is valid, so a panic does not spoil it.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somewhere to read to; waits while there is no room. `None` when the reader is gone.
    fn room(&self) -> Option<Box<[u8]>> {
        loop {
            let mut state = self.state();
            if state.abandoned {
                return None;
            }
            if state.filled.len() < CHUNKS {
                return Some(state.empty.pop().unwrap_or_else(|| vec![0; CHUNK_BYTES].into()));
            }
            drop(state);
            // Not at the first chunk, or it would be woken for each.
            self.wait_for_reader(CHUNKS / 2);
        }
    }

    /// Waits until the reader has left no more chunks than that, and looks now and then whether somebody waits to
    /// write.
    fn wait_for_reader(&self, chunks: usize) {
        self.wake_writer();
        {
            let mut state = self.state();
            if state.abandoned || state.filled.len() <= chunks {
                return;
            }
            state.resumes_at = Some(chunks);
        }
        thread::park_timeout(LONGEST_WAIT);
        self.state().resumes_at = None;
    }

    fn wake_writer(&self) {
        let writer = self.state().writer.take();
        wake(writer);
    }

    /// Passes on what was read.
    pub(super) fn pass(&self, bytes: Box<[u8]>, to: usize) {
        let mut state = self.state();
        state.filled.push_back(Chunk { bytes, from: 0, to });
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// Ends the flood, unless somebody still needs the thread: to be woken when there is room to write, or because he
    /// has not taken what was read.
    pub(super) fn pauses(&self) -> bool {
        let mut state = self.state();
        if !state.filled.is_empty() || state.writer.is_some() {
            return false;
        }
        state.end = Some(End::Pause);
        let reader = state.reader.take();
        drop(state);
        wake(reader);
        true
    }

    /// Tells what the thread has come to.
    fn end(&self, end: End) {
        let mut state = self.state();
        state.end = Some(end);
        let waiting = [state.reader.take(), state.writer.take()];
        drop(state);
        waiting.into_iter().for_each(wake);
    }
}

/// Wakes who waits; never under the lock, which he takes next.
fn wake(waits: Option<Waker>) {
    if let Some(waker) = waits {
        waker.wake();
    }
}

/// Reads until the flood is over, there is an end, or no reader any more.
fn read_ahead(mut socket: UnixStream, shared: &Shared) {
    let mut rest = FIRST_REST;
    let mut quiet = 0;
    let mut rested = Duration::ZERO;
    while let Some(read) = read_all(&mut socket, shared) {
        let came = match read {
            Ok(came) => came,
            Err(end) => return shared.end(end),
        };
        quiet = if came < TRICKLE_BYTES { quiet + 1 } else { 0 };
        rest = next_rest(rest, came);
        thread::sleep(rest);
        rested += rest;
        if rested >= LONGEST_REST {
            rested = Duration::ZERO;
            shared.wake_writer();
        }
        if quiet >= QUIET_RESTS {
            if shared.pauses() {
                return;
            }
            shared.wait_for_reader(0);
        }
    }
}

/// Reads what the socket holds, and says how much that was. `None` when the reader is gone.
fn read_all(socket: &mut UnixStream, shared: &Shared) -> Option<Result<usize, End>> {
    let mut came = 0;
    loop {
        let mut bytes = shared.room()?;
        match socket.read(&mut bytes) {
            Ok(0) => return Some(Err(End::Closed)),
            Ok(to) => {
                came += to;
                shared.pass(bytes, to);
                if to < CHUNK_BYTES {
                    return Some(Ok(came));
                }
            }
            Err(error) => {
                shared.state().empty.push(bytes);
                match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Some(Ok(came)),
                    _ => return Some(Err(End::Failed(error))),
                }
            }
        }
    }
}

/// How long to rest after a rest that brought so many bytes.
pub(super) fn next_rest(rest: Duration, came: usize) -> Duration {
    let next = if came > CHUNK_BYTES + CHUNK_BYTES / 3 {
        rest * 3 / 4
    } else if came < CHUNK_BYTES - CHUNK_BYTES / 4 {
        rest * 4 / 3
    } else {
        rest
    };
    next.clamp(SHORTEST_REST, LONGEST_REST)
}

use std::io::Read as _;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, LazyLock};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::thread::{CHUNKS, End, FIRST_REST, LONGEST_REST, Shared, next_rest};
use super::*;

/// Longer than anything here takes; a test that hangs ends by it.
const PATIENCE: Duration = Duration::from_secs(30);

/// More than the thread and the kernel hold together.
const FLOOD: usize = 8 * 1024 * 1024;

/// The server's end, blocking, and ours.
fn pair() -> (StdUnixStream, ReadAhead) {
    let (server, ours) = StdUnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    server.set_write_timeout(Some(PATIENCE)).unwrap();
    (server, ReadAhead::new(UnixStream::from_std(ours).unwrap()))
}

/// Bytes that tell where they stand. Made before any of them is sent: a server that thinks for long sends no flood.
fn bytes(from: usize, to: usize) -> &'static [u8] {
    static ALL: LazyLock<Vec<u8>> = LazyLock::new(|| (0..FLOOD / 8).flat_map(usize::to_le_bytes).collect());
    &ALL[from..to]
}

/// Sends them as a walsender does, in small messages; says how far it came.
fn send(server: &mut StdUnixStream, from: usize) -> (usize, io::Result<()>) {
    let mut sent = from;
    for message in bytes(from, FLOOD).chunks(384) {
        if let Err(error) = server.write_all(message) {
            return (sent, Err(error));
        }
        sent += message.len();
    }
    (sent, Ok(()))
}

impl ReadAhead {
    fn is_ahead(&self) -> bool {
        matches!(self.mode, Mode::Ahead { .. })
    }

    fn shared(&self) -> Arc<Shared> {
        let Mode::Ahead { thread, .. } = &self.mode else { panic!("no thread reads") };
        Arc::clone(&thread.shared)
    }
}

/// Reads until the stream ends or so many bytes came.
async fn receive(stream: &mut ReadAhead, most: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut part = vec![0; 256 * 1024];
    while all.len() < most {
        let room = part.len().min(most - all.len());
        match timeout(PATIENCE, stream.read(&mut part[..room])).await.unwrap().unwrap() {
            0 => break,
            came => all.extend_from_slice(&part[..came]),
        }
    }
    all
}

/// A server in the midst of a flood, of which so much was received, and the thread that sends it.
async fn flooded() -> (StdUnixStream, ReadAhead, usize, JoinHandle<io::Result<()>>) {
    let (mut server, mut stream) = pair();
    // What the kernel holds is there before the first read, which so finds a flood.
    server.set_nonblocking(true).unwrap();
    let (sent, full) = send(&mut server, 0);
    assert_eq!(full.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    server.set_nonblocking(false).unwrap();
    let mut sending = server.try_clone().unwrap();
    let sender = thread::spawn(move || send(&mut sending, sent).1);
    let received = receive(&mut stream, sent).await;
    assert!(received == bytes(0, sent), "bytes are missing, or out of order");
    assert!(stream.is_ahead(), "nothing is read ahead");
    (server, stream, received.len(), sender)
}

/// Waits for what a thread brings about.
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::yield_now();
    }
}

#[tokio::test]
async fn a_flood_comes_whole_in_order_and_with_its_end() {
    let (server, mut stream, received, sender) = flooded().await;
    drop(server);
    let came = receive(&mut stream, usize::MAX).await;
    sender.join().unwrap().unwrap();
    assert!(came == bytes(received, FLOOD), "{} bytes came, or in another order", came.len());
    assert_eq!(receive(&mut stream, 1).await, b"", "the end stays");
}

#[tokio::test]
async fn a_lone_message_is_read_directly() {
    let (mut server, mut stream) = pair();
    for at in 0..10 {
        server.write_all(bytes(at * 384, (at + 1) * 384)).unwrap();
        assert_eq!(receive(&mut stream, 384).await, bytes(at * 384, (at + 1) * 384));
    }
    assert!(!stream.is_ahead());
    drop(server);
    assert_eq!(receive(&mut stream, 1).await, b"");
}

#[tokio::test]
async fn after_the_flood_it_is_read_directly_again() {
    let (mut server, mut stream, received, sender) = flooded().await;
    assert_eq!(receive(&mut stream, FLOOD - received).await.len(), FLOOD - received);
    sender.join().unwrap().unwrap();
    // Waits like any reader, until the thread has ended for want of bytes.
    let mut byte = [0];
    let direct = std::future::poll_fn(|cx| {
        let waits = Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut byte));
        assert!(waits.is_pending(), "nothing was sent");
        if stream.is_ahead() { Poll::Pending } else { Poll::Ready(()) }
    });
    timeout(PATIENCE, direct).await.unwrap();
    server.write_all(b"row").unwrap();
    assert_eq!(receive(&mut stream, 3).await, b"row");
    stream.write_all(b"status").await.unwrap();
    let mut status = [0; 6];
    server.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"status");
}

/// One that only passes by the bound does not wait there.
fn is_full_and_waits(shared: &Shared) -> bool {
    let state = shared.state();
    state.filled.len() == CHUNKS && state.resumes_at.is_some()
}

#[tokio::test]
async fn a_reader_that_stops_is_not_read_ahead_of_without_bound() {
    let (_server, mut stream, received, sender) = flooded().await;
    let shared = stream.shared();
    until("the thread is full and waits", || is_full_and_waits(&shared));
    let held: usize = shared.state().filled.iter().map(|chunk| chunk.rest().len()).sum();
    assert!(held <= CHUNKS * CHUNK_BYTES, "{held} bytes were read ahead");
    assert!(!sender.is_finished(), "{FLOOD} bytes lie somewhere");
    let came = receive(&mut stream, FLOOD - received).await;
    assert!(came == bytes(received, FLOOD), "{} bytes came, or in another order", came.len());
    sender.join().unwrap().unwrap();
}

/// The server sees the end of a connection whose reader was dropped, whatever the thread does.
#[tokio::test]
async fn a_dropped_reader_ends_the_thread() {
    for full in [false, true] {
        let (_server, stream, _, sender) = flooded().await;
        if full {
            let shared = stream.shared();
            until("the thread is full and waits", || is_full_and_waits(&shared));
        }
        drop(stream);
        let end = sender.join().unwrap().unwrap_err().kind();
        assert!(matches!(end, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset), "{end:?}");
    }
}

/// Writes until the socket is full, then on while the server reads.
async fn write_through(mut server: StdUnixStream, stream: &mut ReadAhead) {
    let statuses = bytes(0, 512 * 1024);
    let (tell, begin) = sync_channel(1);
    let receiver = thread::spawn(move || {
        begin.recv_timeout(PATIENCE).unwrap();
        let mut all = vec![0; statuses.len()];
        server.read_exact(&mut all).unwrap();
        all
    });
    let (mut tell, mut written) = (Some(tell), 0);
    let write = std::future::poll_fn(|cx| {
        while written < statuses.len() {
            match Pin::new(&mut *stream).poll_write(cx, &statuses[written..]) {
                Poll::Ready(more) => written += more.unwrap(),
                Poll::Pending => {
                    if let Some(tell) = tell.take() {
                        tell.send(()).unwrap();
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    });
    timeout(PATIENCE, write).await.unwrap();
    assert!(tell.is_none(), "the socket took all at once");
    assert!(receiver.join().unwrap() == statuses);
}

#[tokio::test]
async fn a_write_that_has_to_wait_goes_on_when_there_is_room() {
    let (server, mut stream, _, _sender) = flooded().await;
    write_through(server, &mut stream).await;
}

/// Nobody has read since, so nobody has noticed.
#[tokio::test]
async fn a_write_after_the_flood_has_to_wait_for_no_thread() {
    let (server, mut stream, received, _sender) = flooded().await;
    let shared = stream.shared();
    assert_eq!(receive(&mut stream, FLOOD - received).await.len(), FLOOD - received);
    until("the flood is over", || shared.state().end.is_some());
    write_through(server, &mut stream).await;
    assert!(!stream.is_ahead());
}

/// A thread that went on with a trickle would stand between every lone message and its reader.
#[tokio::test]
async fn a_trickle_is_no_flood() {
    let (mut server, mut stream, received, sender) = flooded().await;
    assert_eq!(receive(&mut stream, FLOOD - received).await.len(), FLOOD - received);
    sender.join().unwrap().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while stream.is_ahead() {
        assert!(Instant::now() < deadline, "the thread reads on");
        server.write_all(b"row").unwrap();
        assert_eq!(receive(&mut stream, 3).await, b"row");
    }
}

/// In a flood there is always something to read.
#[tokio::test]
async fn a_flood_leaves_turns_to_everything_else_on_the_thread() {
    let (_server, mut stream, _, _sender) = flooded().await;
    let shared = stream.shared();
    until("much is read ahead", || shared.state().filled.len() == CHUNKS);
    let other = tokio::spawn(async {});
    for _ in 0..CHUNK_BYTES {
        receive(&mut stream, 1).await;
        if other.is_finished() {
            return;
        }
    }
    panic!("nothing else ran");
}

#[test]
fn the_thread_stays_while_somebody_needs_it() {
    let shared = Shared::default();
    shared.state().writer = Some(Waker::noop().clone());
    assert!(!shared.pauses(), "who waits to write would wait for ever");
    shared.state().writer = None;
    shared.pass(vec![0; CHUNK_BYTES].into(), 1);
    assert!(!shared.pauses(), "what was read would be left behind");
    shared.state().filled.clear();
    assert!(shared.pauses());
    assert!(matches!(shared.state().end, Some(End::Pause)));
}

#[test]
fn the_rest_is_what_brings_about_a_chunk() {
    let mut rest = FIRST_REST;
    // Bytes a second that a server sends.
    for rate in [20_000_000, 100_000_000, 200_000_000] {
        let brings = |rest: Duration| (f64::from(rate) * rest.as_secs_f64()) as usize;
        for _ in 0..20 {
            rest = next_rest(rest, brings(rest));
        }
        let came = brings(rest);
        assert!(came <= CHUNK_BYTES * 4 / 3, "{rate}: {came} in {rest:?}");
        assert!(came >= CHUNK_BYTES * 3 / 4 || rest == LONGEST_REST, "{rate}: {came} in {rest:?}");
    }
}

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};

use super::*;
use crate::postgres::error::Class;

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.put_i32(i32::try_from(body.len()).unwrap() + 4);
    bytes.extend_from_slice(body);
    bytes
}

fn wal(start: u64, data: &[u8]) -> Vec<u8> {
    let mut body = vec![b'w'];
    body.put_u64(start);
    body.put_u64(start + 1);
    body.put_i64(0);
    body.extend_from_slice(data);
    frame(b'd', &body)
}

pub(crate) fn keepalive(end: u64, reply: bool) -> Vec<u8> {
    let mut body = vec![b'k'];
    body.put_u64(end);
    body.put_i64(0);
    body.put_u8(reply.into());
    frame(b'd', &body)
}

fn answer(tag: u8, code: &str, message: &str) -> Vec<u8> {
    frame(tag, format!("SFEHLER\0VERROR\0C{code}\0M{message}\0\0").as_bytes())
}

pub(crate) fn start(buffer: usize) -> (WalReader, StatusWriter, DuplexStream) {
    let (ours, server) = duplex(buffer);
    let (reader, writer) = split(Channel::new(Transport::plain(ours)), Vec::new());
    (reader, writer, server)
}

/// What the reader gives for these bytes, up to its first error.
async fn read_all(bytes: &[u8]) -> (Vec<ReplicationMessage>, PgError) {
    let (mut reader, _writer, mut server) = start(bytes.len() + 1);
    server.write_all(bytes).await.unwrap();
    server.shutdown().await.unwrap();
    let mut messages = Vec::new();
    loop {
        match reader.pop() {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => match reader.ready().await {
                Ok(()) => {}
                Err(error) => return (messages, error),
            },
            Err(error) => return (messages, error),
        }
    }
}

#[tokio::test]
async fn wal_keepalives_and_notices_come_as_they_were_sent() {
    let bytes = [
        wal(0x16_0000_0010, b"row"),
        frame(b'S', b"TimeZone\0UTC\0"),
        keepalive(0x20, true),
        answer(b'N', "55000", "skipped loading publication"),
        keepalive(0x21, false),
    ]
    .concat();
    let (messages, end) = read_all(&bytes).await;
    assert_eq!(
        messages,
        [
            ReplicationMessage::XLogData { start: Lsn(0x16_0000_0010), body: Bytes::from_static(b"row") },
            ReplicationMessage::KeepAlive { wal_end: Lsn(0x20), reply_requested: true },
            ReplicationMessage::Notice {
                code: "55000".into(),
                message: "skipped loading publication".into()
            },
            ReplicationMessage::KeepAlive { wal_end: Lsn(0x21), reply_requested: false },
        ]
    );
    assert!(matches!(end, PgError::Closed { .. }), "{end:?}");
}

#[tokio::test]
async fn an_error_and_every_kind_of_end_are_errors_that_say_so() {
    let (_, error) = read_all(&answer(b'E', "57P01", "terminating connection")).await;
    assert_eq!((error.sqlstate(), error.class()), (Some("57P01"), Class::Retry));
    assert!(error.report().contains("ERROR: terminating connection"), "{}", error.report());
    for (bytes, name) in [
        (frame(b'c', b""), "CopyDone"),
        (frame(b'C', b"COPY 0\0"), "CommandComplete"),
        (frame(b'Z', b"I"), "ReadyForQuery"),
    ] {
        let (_, error) = read_all(&bytes).await;
        assert!(matches!(error, PgError::StreamEnded { by } if by == name), "{error:?}");
        assert_eq!(error.class(), Class::Retry);
    }
}

#[tokio::test]
async fn what_is_neither_wal_nor_keepalive_is_refused() {
    let short_wal = &wal(1, b"")[..29];
    let mut cut = short_wal.to_vec();
    cut[4] -= 1;
    for bytes in [
        frame(b'd', b""),
        frame(b'd', b"x"),
        frame(b'd', b"k123"),
        cut,
        frame(b'D', &[0, 0]),
        frame(b'W', &[0, 0, 0]),
    ] {
        let (messages, error) = read_all(&bytes).await;
        assert_eq!(messages, []);
        assert!(matches!(error, PgError::Protocol { .. }), "{bytes:?}: {error:?}");
    }
}

#[tokio::test]
async fn ready_dropped_between_any_two_bytes_loses_nothing() {
    let bytes = [wal(1, b"first"), keepalive(2, false), wal(3, b"second")].concat();
    let (mut reader, _writer, mut server) = start(1);
    let mut context = Context::from_waker(Waker::noop());
    let mut seen = Vec::new();
    for byte in bytes {
        assert!(pin!(reader.ready()).poll(&mut context).is_pending());
        server.write_all(&[byte]).await.unwrap();
        let _ = pin!(reader.ready()).poll(&mut context);
        seen.extend(reader.pop().unwrap());
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[2], ReplicationMessage::XLogData { start: Lsn(3), body: Bytes::from_static(b"second") });
}

#[tokio::test(start_paused = true)]
async fn silence_is_measured_from_the_last_bytes() {
    let (mut reader, _writer, mut server) = start(1024);
    tokio::time::advance(Duration::from_secs(7)).await;
    assert_eq!(reader.last_heard().elapsed(), Duration::from_secs(7));
    server.write_all(&keepalive(1, false)).await.unwrap();
    reader.ready().await.unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(reader.last_heard().elapsed(), Duration::from_secs(2));
}

#[tokio::test]
async fn a_status_has_34_bytes_and_asks_for_an_answer() {
    let (_reader, mut writer, mut server) = start(1024);
    assert!(!writer.pending());
    writer.queue_status(Lsn(0x30), Lsn(0x20));
    assert!(writer.pending());
    writer.flush().await.unwrap();
    assert!(!writer.pending());
    let mut frame = [0; 39];
    server.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[..6], [b'd', 0, 0, 0, 38, b'r']);
    let number = |at: usize| u64::from_be_bytes(frame[at..at + 8].try_into().unwrap());
    assert_eq!((number(6), number(14), number(22)), (0x30, 0x20, 0x20));
    let year_2025 = 25 * 365 * 86_400 * 1_000_000;
    assert!(number(30) > year_2025 && number(30) < 4 * year_2025, "µs since 2000: {}", number(30));
    assert_eq!(frame[38], 1);
}

#[tokio::test]
async fn a_flush_dropped_at_every_byte_sends_every_status_whole() {
    let (_reader, mut writer, mut server) = start(1);
    for lsn in 1..=3 {
        writer.queue_status(Lsn(lsn), Lsn(lsn));
    }
    let mut context = Context::from_waker(Waker::noop());
    let mut bytes = BytesMut::new();
    while pin!(writer.flush()).poll(&mut context).is_pending() {
        bytes.put_u8(server.read_u8().await.unwrap());
        // A new turn of the task: tokio lets each do 128 operations, then answers "pending".
        tokio::task::yield_now().await;
    }
    bytes.put_u8(server.read_u8().await.unwrap());
    let lsns: Vec<_> = bytes.chunks(39).map(|frame| (frame[0], frame[13], frame[38])).collect();
    assert_eq!(lsns, [(b'd', 1, 1), (b'd', 2, 1), (b'd', 3, 1)]);
}

#[test]
fn a_socket_that_takes_nothing_does_not_grow_memory() {
    let (_reader, mut writer, _server) = start(1);
    for _ in 0..100_000 {
        writer.queue_status(Lsn(1), Lsn(1));
    }
    assert!(writer.output.len() < MAX_QUEUED_BYTES + 64);
}

#[tokio::test]
async fn finish_sends_status_copy_done_and_terminate_in_order() {
    let (reader, mut writer, mut server) = start(4096);
    writer.queue_status(Lsn(9), Lsn(9));
    let scripted = async {
        let mut first = [0; 39 + 5];
        server.read_exact(&mut first).await.unwrap();
        assert_eq!((first[0], first[39]), (b'd', b'c'), "the status, then CopyDone");
        // WAL that was under way, then the orderly end.
        let end = [wal(1, b"late"), frame(b'c', b""), frame(b'C', b"COPY 0\0"), frame(b'Z', b"I")].concat();
        server.write_all(&end).await.unwrap();
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [b'X', 0, 0, 0, 4], "Terminate, then the end of the stream");
    };
    let (finished, ()) = tokio::join!(finish(reader, writer), scripted);
    finished.unwrap();
}

#[tokio::test(start_paused = true)]
async fn finish_waits_half_a_second_for_a_server_that_is_busy_and_closes() {
    let (reader, writer, mut server) = start(4096);
    let begun = Instant::now();
    let error = finish(reader, writer).await.unwrap_err();
    assert!(matches!(error, PgError::Timeout { .. }), "{error:?}");
    assert_eq!(begun.elapsed().as_millis(), 500 + u128::from(begun.elapsed().as_millis() > 500));
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [b'c', 0, 0, 0, 4]);
}

#[tokio::test]
async fn a_notice_from_before_the_stream_is_not_lost() {
    let (ours, _server) = duplex(64);
    let notice = ServerError { code: "01000".into(), message: "careful".into(), ..ServerError::default() };
    let (mut reader, _writer) = split(Channel::new(Transport::plain(ours)), vec![notice]);
    let Poll::Ready(Ok(())) = pin!(reader.ready()).poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("a notice waits")
    };
    assert!(matches!(reader.pop().unwrap(), Some(ReplicationMessage::Notice { .. })));
    assert_eq!(reader.pop().unwrap(), None);
}

use std::pin::pin;
use std::task::{Context, Waker};

use bytes::BufMut;
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, duplex};

use super::*;

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.put_i32(i32::try_from(body.len()).unwrap() + 4);
    bytes.extend_from_slice(body);
    bytes
}

fn describe(frame: Frame) -> String {
    match frame {
        Frame::CopyData(bytes) => format!("data {:?}", &bytes[..bytes.len().min(8)]),
        Frame::CopyBoth => "both".into(),
        Frame::Message(Message::ReadyForQuery(_)) => "ready".into(),
        Frame::Message(_) => "message".into(),
    }
}

fn pop_all(buffer: &mut ReadBuffer) -> Vec<String> {
    std::iter::from_fn(|| buffer.pop().unwrap()).map(describe).collect()
}

fn sample() -> (Vec<u8>, Vec<String>) {
    let bytes = [
        frame(b'W', &[0, 0, 0]),
        frame(b'd', b"one"),
        frame(b'd', b""),
        frame(b'S', b"name\0value\0"),
        frame(b'Z', b"I"),
    ]
    .concat();
    let frames = ["both", "data [111, 110, 101]", "data []", "message", "ready"];
    (bytes, frames.map(str::to_owned).into())
}

#[tokio::test]
async fn frames_come_out_whole_wherever_the_stream_is_cut() {
    let (bytes, expected) = sample();
    for cut in 0..=bytes.len() {
        let mut buffer = ReadBuffer::new();
        let mut seen = Vec::new();
        for mut part in [&bytes[..cut], &bytes[cut..]] {
            if !part.is_empty() {
                buffer.fill(&mut part).await.unwrap();
            }
            seen.extend(pop_all(&mut buffer));
        }
        assert_eq!(seen, expected, "cut at {cut}");
    }
}

#[tokio::test]
async fn one_byte_at_a_time_and_a_read_dropped_before_each_loses_nothing() {
    let (bytes, expected) = sample();
    let (mut server, mut client) = duplex(1);
    let mut buffer = ReadBuffer::new();
    let mut seen = Vec::new();
    let mut waker = Context::from_waker(Waker::noop());
    for byte in bytes {
        // Nothing is there yet: this read is given up.
        assert!(pin!(buffer.fill(&mut client)).poll(&mut waker).is_pending());
        server.write_all(&[byte]).await.unwrap();
        buffer.fill(&mut client).await.unwrap();
        seen.extend(pop_all(&mut buffer));
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn the_end_of_the_stream_is_an_error() {
    let error = ReadBuffer::new().fill(&mut &b""[..]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_claimed_length_allocates_nothing() {
    let mut buffer = ReadBuffer::new();
    buffer.set_max_frame(MAX_FRAME);
    let claim = u32::try_from(MAX_FRAME - 1).unwrap().to_be_bytes();
    let mut bytes = vec![b'd'];
    bytes.extend_from_slice(&claim);
    buffer.fill(&mut &bytes[..]).await.unwrap();
    assert!(buffer.pop().unwrap().is_none());
    assert!(buffer.capacity() <= BLOCK, "{}", buffer.capacity());
    // It grows with what comes, at most to twice as much.
    let data = vec![7; 3 * BLOCK];
    let mut rest = &data[..];
    while !rest.is_empty() {
        buffer.fill(&mut rest).await.unwrap();
        assert!(buffer.pop().unwrap().is_none());
    }
    assert!(buffer.capacity() <= 7 * BLOCK, "{}", buffer.capacity());
}

#[tokio::test]
async fn lengths_over_the_limit_and_under_four_are_refused() {
    for (max, len) in [
        (MAX_FRAME_BEFORE_LOGIN, 0x0001_0000_u32),
        (MAX_FRAME, 0x4000_0000),
        (MAX_FRAME, 3),
        (MAX_FRAME, u32::MAX),
    ] {
        let mut buffer = ReadBuffer::new();
        buffer.set_max_frame(max);
        let mut bytes = vec![b'd'];
        bytes.extend_from_slice(&len.to_be_bytes());
        buffer.fill(&mut &bytes[..]).await.unwrap();
        assert!(buffer.is_ready(), "what is wrong must be found without reading on");
        assert_eq!(buffer.pop().err().unwrap().kind(), io::ErrorKind::InvalidData, "{len:#x}");
    }
}

#[tokio::test]
async fn frames_are_slices_of_one_block_that_is_used_again() {
    let bytes = frame(b'd', &[1; 1000]).repeat(200);
    let mut buffer = ReadBuffer::new();
    buffer.fill(&mut &bytes[..]).await.unwrap();
    let first = buffer.pop().unwrap();
    let Some(Frame::CopyData(first)) = first else { panic!("no data") };
    let Some(Frame::CopyData(second)) = buffer.pop().unwrap() else { panic!("no data") };
    assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, 1005, "neighbours in memory");
    let start = first.as_ptr();
    drop((first, second));
    while buffer.pop().unwrap().is_some() {}
    // The block is full to 200 kB and nobody holds a frame of it: the next read starts at its front.
    buffer.fill(&mut &bytes[..]).await.unwrap();
    let Some(Frame::CopyData(again)) = buffer.pop().unwrap() else { panic!("no data") };
    assert_eq!(again.as_ptr(), start);
}

#[tokio::test]
async fn a_write_dropped_wherever_it_stops_is_neither_torn_nor_repeated() {
    for pipe in 1..=12 {
        let (mut client, mut server) = duplex(pipe);
        let mut buffer = WriteBuffer::new();
        buffer.queue().put_slice(b"first");
        let mut waker = Context::from_waker(Waker::noop());
        let mut seen = Vec::new();
        for second in [false, true] {
            if second {
                buffer.queue().put_slice(b"second");
            }
            while pin!(buffer.flush(&mut client)).poll(&mut waker).is_pending() {
                let mut piece = [0; 12];
                let len = server.read(&mut piece).await.unwrap();
                seen.extend_from_slice(&piece[..len]);
                // What is queued while bytes are under way goes behind them.
                if seen.len() == 2 {
                    buffer.queue().put_slice(b"-");
                }
            }
            assert!(buffer.is_empty());
        }
        drop(client);
        server.read_to_end(&mut seen).await.unwrap();
        let seen: Vec<_> = seen.into_iter().filter(|byte| *byte != b'-').collect();
        assert_eq!(seen, b"firstsecond", "a pipe of {pipe}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_nor_grow_memory(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut buffer = ReadBuffer::new();
        runtime.block_on(async {
            for chunk in &chunks {
                buffer.fill(&mut &chunk[..]).await.unwrap();
                while let Ok(Some(_)) = buffer.pop() {}
            }
        });
        prop_assert!(buffer.capacity() <= BLOCK);
    }

    #[test]
    fn any_body_under_any_tag_never_panics(tag: u8, body in prop::collection::vec(any::<u8>(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut buffer = ReadBuffer::new();
        runtime.block_on(buffer.fill(&mut &frame(tag, &body)[..])).unwrap();
        let _ = buffer.pop();
        prop_assert!(!buffer.is_ready() || buffer.pop().is_err(), "a frame is taken once");
    }
}

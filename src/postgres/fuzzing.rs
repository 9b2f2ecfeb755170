//! Doors for `fuzz/`: what reads a server's bytes before anybody is trusted, and while streaming.
//! Compiled for the fuzz targets and for tests only.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::auth::{Login, authenticate};
use super::channel::Channel;
use super::conninfo::ChannelBinding;
use super::stream;
use super::wire::{Frame, MAX_FRAME, ReadBuffer};
use crate::secret::Secret;

/// Reads the bytes as a replication stream that comes in pieces of `piece` bytes; returns how many
/// messages were understood before the first that was not.
///
/// # Panics
/// If the read buffer grows beyond twice what came and a block.
pub fn stream(bytes: &[u8], piece: usize) -> usize {
    let mut buffer = ReadBuffer::new();
    buffer.set_max_frame(MAX_FRAME);
    let mut understood = 0;
    for mut piece in bytes.chunks(piece.max(1)) {
        while !piece.is_empty() {
            assert!(at_once(buffer.fill(&mut piece)).is_ok());
        }
        loop {
            let known = match buffer.pop() {
                Ok(Some(Frame::CopyData(body))) => stream::parse(body).is_ok(),
                Ok(Some(Frame::Message(message))) => stream::other_message(message).is_ok(),
                Ok(None) => break,
                Ok(Some(Frame::CopyBoth)) | Err(_) => false,
            };
            if !known {
                return understood;
            }
            understood += 1;
        }
        assert!(buffer.capacity() <= 256 * 1024 + 2 * bytes.len(), "{} bytes", buffer.capacity());
    }
    understood
}

/// Logs in at a server that says these bytes, whatever it is told.
pub fn login(bytes: &[u8]) {
    log_in_at(Server { says: bytes.to_vec(), ..Server::default() });
}

/// Logs in with SCRAM at a server that extends our nonce by `challenge` and ends with `verdict`.
/// Returns whether it was believed.
pub fn scram(challenge: &[u8], verdict: &[u8]) -> bool {
    let mut says = Vec::new();
    authentication(&mut says, 10, b"SCRAM-SHA-256\0\0");
    log_in_at(Server { says, challenge: Some(challenge.to_vec()), verdict: Some(verdict.to_vec()) })
}

fn log_in_at(server: Server) -> bool {
    let password = Secret::new("pencil".to_owned());
    let login = Login {
        user: "user",
        password: Some(&password),
        channel_binding: ChannelBinding::Prefer,
        end_point: None,
        encrypted: false,
    };
    let mut channel = Channel::new(server);
    at_once(authenticate(&mut channel, &login, "log in")).is_ok()
}

/// The result of a future that has all it needs.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("there was something to wait for"),
    }
}

fn authentication(says: &mut Vec<u8>, kind: u32, data: &[u8]) {
    says.put_u8(b'R');
    says.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX).saturating_add(8));
    says.put_u32(kind);
    says.put_slice(data);
}

/// A server that has said all it will say, but for its answers to SCRAM.
#[derive(Default)]
struct Server {
    says: Vec<u8>,
    challenge: Option<Vec<u8>>,
    verdict: Option<Vec<u8>>,
}

impl AsyncRead for Server {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.says.len().min(to.remaining());
        to.put_slice(&self.says[..count]);
        self.says.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(challenge) = self.challenge.take() {
            let nonce = bytes.windows(2).position(|two| two == b"r=").map_or(&b""[..], |at| &bytes[at..]);
            let answer = [nonce, &challenge].concat();
            authentication(&mut self.says, 11, &answer);
        } else if let Some(verdict) = self.verdict.take() {
            authentication(&mut self.says, 12, &verdict);
            authentication(&mut self.says, 0, b"");
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_server_is_believed_that_does_not_know_the_password(
            challenge in "[a-z,=+/]{0,8}(,s=[A-Za-z0-9+/]{8},i=[0-9]{1,3})?",
            verdict in "(v=|e=)?[A-Za-z0-9+/=]{0,44}",
        ) {
            prop_assert!(!scram(challenge.as_bytes(), verdict.as_bytes()));
        }

        #[test]
        fn whatever_a_server_says_at_login_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            login(&[&b"R\0\0\0"[..], &bytes].concat());
        }

        #[test]
        fn whatever_comes_while_streaming_never_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            piece in 1..50_usize,
        ) {
            stream(&bytes, piece);
        }
    }

    #[test]
    fn what_is_right_is_understood() {
        let keepalive = [&b"d\0\0\0\x16k"[..], &[0; 17]].concat();
        assert_eq!(stream(&keepalive.repeat(5), 3), 5);
    }
}

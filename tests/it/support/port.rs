//! Ports for servers that are told where to listen.

use std::net::Ipv4Addr;
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::TcpListener;

/// Below the ports that the kernel gives to outgoing connections, and above those that the servers of
/// `scripts/` choose from.
const FIRST: u16 = 24_000;
const COUNT: u16 = 8_000;

/// A port of 127.0.0.1 that nobody listens on, that no other call of this process gets, and that the
/// kernel gives to no outgoing connection: it is free until its server starts, and while that is down.
pub(crate) async fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two processes with tests begin far apart, each by its number.
    let begin = (process::id() * 997 % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(begin) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            return port;
        }
    }
    panic!("each of {COUNT} ports from {FIRST} on is in use");
}

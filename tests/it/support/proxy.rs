//! A TCP proxy on 127.0.0.1 that stalls, cuts, refuses and slows down what goes through it.
//!
//! It has a thread of its own: a test that blocks its runtime does not stall the proxy unawares.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use super::port::free_port;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client to the server behind the proxy.
    ToServer,
    /// From the server to the client.
    ToClient,
    /// Both.
    Both,
}

/// What the proxy's tasks obey; each change wakes them.
#[derive(Clone, Debug, Default)]
struct Orders {
    target: Option<u16>,
    refuse: bool,
    stall_to_server: bool,
    stall_to_client: bool,
    /// Connections of an earlier generation are cut.
    generation: u64,
    /// Each connection and direction.
    bytes_per_second: Option<usize>,
}

/// Forwards until dropped; then every connection is cut.
pub(crate) struct Proxy {
    port: u16,
    orders: watch::Sender<Orders>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    bytes_to_server: AtomicU64,
    bytes_to_client: AtomicU64,
}

impl Proxy {
    /// A proxy that accepts at once and forwards once it knows where to ([`Proxy::forward_to`]).
    pub(crate) async fn start() -> Self {
        let (orders, receiver) = watch::channel(Orders::default());
        // One that it gets back after it was closed for a while.
        let port = free_port().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let counts = Arc::new(Counts::default());
        let (counts_of_thread, listener) = (Arc::clone(&counts), listener.into_std().unwrap());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                accept(TcpListener::from_std(listener).unwrap(), port, receiver, counts_of_thread).await;
            });
        });
        Self { port, orders, counts }
    }

    /// A proxy for a port of 127.0.0.1.
    pub(crate) async fn to(target: u16) -> Self {
        let proxy = Self::start().await;
        proxy.forward_to(target);
        proxy
    }

    /// Where clients connect to, on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The same as `127.0.0.1:port`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// New connections go to this port from now on.
    pub(crate) fn forward_to(&self, target: u16) {
        self.orders.send_modify(|orders| orders.target = Some(target));
    }

    /// Stops forwarding; connections stay open, new ones are accepted and hear nothing.
    pub(crate) fn stall(&self, direction: Direction) {
        self.orders.send_modify(|orders| {
            orders.stall_to_server |= direction != Direction::ToClient;
            orders.stall_to_client |= direction != Direction::ToServer;
        });
    }

    /// Closes every open connection; new ones are served.
    pub(crate) fn cut(&self) {
        self.orders.send_modify(|orders| orders.generation += 1);
    }

    /// Cuts, and refuses new connections as if nobody listened.
    pub(crate) fn refuse(&self) {
        self.orders.send_modify(|orders| {
            orders.generation += 1;
            orders.refuse = true;
        });
    }

    /// Lets at most so many bytes a second pass, on each connection and in each direction.
    pub(crate) fn limit_rate(&self, bytes_per_second: usize) {
        self.orders.send_modify(|orders| orders.bytes_per_second = Some(bytes_per_second));
    }

    /// Ends stalling, refusing and limiting.
    pub(crate) fn resume(&self) {
        self.orders.send_modify(|orders| {
            *orders = Orders { target: orders.target, generation: orders.generation, ..Orders::default() };
        });
    }

    /// Connections accepted since the start.
    pub(crate) fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Bytes forwarded since the start, in one direction or both.
    pub(crate) fn bytes(&self, direction: Direction) -> u64 {
        let to_server = self.counts.bytes_to_server.load(Ordering::Relaxed);
        let to_client = self.counts.bytes_to_client.load(Ordering::Relaxed);
        match direction {
            Direction::ToServer => to_server,
            Direction::ToClient => to_client,
            Direction::Both => to_server + to_client,
        }
    }
}

/// Accepts until the proxy is dropped. While it refuses, nobody listens on the port.
async fn accept(first: TcpListener, port: u16, mut orders: watch::Receiver<Orders>, counts: Arc<Counts>) {
    let mut listener = Some(first);
    loop {
        let refuse = orders.borrow_and_update().refuse;
        if refuse {
            listener = None;
        } else if listener.is_none() {
            // The kernel may hold the port for a moment; the orders below are looked at again anyway.
            listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.ok();
        }
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            accepted = next(listener.as_ref()) => if let Ok(client) = accepted {
                counts.accepted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(client, orders.clone(), Arc::clone(&counts)));
            },
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

/// Forwards one connection, until either side ends it or it is cut.
async fn serve(client: TcpStream, mut orders: watch::Receiver<Orders>, counts: Arc<Counts>) {
    let generation = orders.borrow().generation;
    let mut cut = orders.clone();
    let forward = async {
        let target = orders.wait_for(|orders| orders.target.is_some()).await.ok()?.target?;
        let server = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, target))).await.ok()?;
        client.set_nodelay(true).ok()?;
        server.set_nodelay(true).ok()?;
        let ((client_read, client_write), (server_read, server_write)) =
            (client.into_split(), server.into_split());
        let up = pump(client_read, server_write, Direction::ToServer, orders.clone(), &counts);
        let down = pump(server_read, client_write, Direction::ToClient, orders.clone(), &counts);
        tokio::join!(up, down);
        Some(())
    };
    tokio::select! {
        _ = forward => {}
        // Also when the proxy is dropped: then there is nobody left to wait for.
        _ = cut.wait_for(|orders| orders.generation != generation) => {}
    }
}

/// Copies one direction, and passes its end on.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut orders: watch::Receiver<Orders>,
    counts: &Counts,
) {
    let (stalled, count): (fn(&Orders) -> bool, _) = match direction {
        Direction::ToServer => (|orders| orders.stall_to_server, &counts.bytes_to_server),
        _ => (|orders| orders.stall_to_client, &counts.bytes_to_client),
    };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(rate) = orders.wait_for(|orders| !stalled(orders)).await.map(|orders| orders.bytes_per_second)
        else {
            return;
        };
        // A tenth of a second's worth at a time keeps a slow connection steady.
        let most = rate.map_or(buffer.len(), |rate| (rate / 10).clamp(1, buffer.len()));
        let Ok(read @ 1..) = from.read(&mut buffer[..most]).await else { break };
        // What was on its way when the stall began stays here until it ends.
        if orders.wait_for(|orders| !stalled(orders)).await.is_err()
            || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
        count.fetch_add(read as u64, Ordering::Relaxed);
        if let Some(rate) = rate {
            sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await;
        }
    }
    let _ = to.shutdown().await;
}

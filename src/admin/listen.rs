//! Listening on every address of a host: `localhost` may be an IPv4 and an IPv6 address, and a client
//! may try either. And what every HTTP server does with a connection.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long nothing is accepted after that failed. Having no descriptor left is no reason to give up, nor
/// to spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Why nothing is listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The host has no address.
    #[error("cannot resolve {host:?}: {source}")]
    Resolve {
        /// The host.
        host: String,
        /// Why not.
        source: io::Error,
    },
}

/// Listens on every address of `host`. One that this machine does not have is skipped while another
/// is left.
///
/// # Errors
/// [`ListenError`]; nothing is listened on then.
pub fn bind(host: &str, port: u16) -> Result<Vec<TcpListener>, ListenError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let resolve = |source| ListenError::Resolve { host: host.to_owned(), source };
    let mut addresses: Vec<SocketAddr> = (bare, port).to_socket_addrs().map_err(resolve)?.collect();
    addresses.sort_unstable();
    addresses.dedup();
    let mut listeners = Vec::new();
    let mut skipped = None;
    for address in addresses {
        match TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        }) {
            Ok(listener) => listeners.push(listener),
            Err(source) if source.kind() == io::ErrorKind::AddrNotAvailable => {
                skipped = Some(ListenError::Bind { address, source });
            }
            Err(source) => return Err(ListenError::Bind { address, source }),
        }
    }
    match skipped {
        _ if !listeners.is_empty() => Ok(listeners),
        Some(error) => Err(error),
        None => Err(resolve(io::Error::new(io::ErrorKind::NotFound, "it has no address"))),
    }
}

/// Accepts on all of `listeners`, for `whose` server, until the set is dropped or nobody receives.
pub(crate) fn accept(
    listeners: Vec<tokio::net::TcpListener>,
    whose: &'static str,
) -> (JoinSet<()>, mpsc::Receiver<TcpStream>) {
    let (accepted, incoming) = mpsc::channel(1);
    let mut acceptors = JoinSet::new();
    for listener in listeners {
        let accepted = accepted.clone();
        acceptors.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((socket, _)) => {
                        if accepted.send(socket).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "{whose} cannot accept a connection");
                        sleep(PAUSE).await;
                    }
                }
            }
        });
    }
    (acceptors, incoming)
}

/// Waits for the order to stop; one who can give no order any more gives it too.
pub(crate) async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Serves HTTP on a connection of `whose` server until it ends, needs longer than `head` for the head of a
/// request (an idle one does), or is told to stop; what is being asked then is still answered.
pub(crate) async fn serve<S, B>(
    socket: TcpStream,
    service: S,
    head: Duration,
    mut stopped: watch::Receiver<bool>,
    whose: &'static str,
) where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    // Answers are written at once; waiting for more would only delay them.
    let _ = socket.set_nodelay(true);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        // A client that has said everything may still want to hear the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(socket), service);
    tokio::pin!(serving);
    let outcome = tokio::select! {
        outcome = &mut serving => outcome,
        () = told(&mut stopped) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection of {whose} ended early");
    }
}

//! The thread that listens, and its end.
//!
//! Bounded in every direction: connections, time for a request's head, time for its answer. When
//! there are too many connections the oldest one goes, so that clients that keep connections open
//! cannot shut out a health probe.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::service::service_fn;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::listen::{self, ListenError};
use super::routes::{self, App};
use super::{LevelSetter, Settings, Subject};
use crate::metrics::Registry;

/// What its lines in the log call it.
const WHOSE: &str = "the admin server";

/// The admin server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nothing can be listened on.
    #[error(
        "{0} for the admin server; set METRICS_PORT to a free port (or METRICS_HOST, or METRICS_ENABLED=false)"
    )]
    Listen(#[from] ListenError),
    /// The path cannot be used for the metrics.
    #[error("METRICS_PATH {path:?} cannot serve the metrics: {reason}")]
    Path {
        /// The path.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// The operating system has no thread or no event queue for it.
    #[error("cannot start the thread of the admin server: {0}")]
    Thread(#[source] io::Error),
}

/// Bounds of the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most connections at once.
    pub(super) connections: usize,
    /// Time for a request's head; also how long an idle connection is kept.
    pub(super) header: Duration,
    /// Time for a request's body and its answer.
    pub(super) request: Duration,
    /// Time for what is being answered when the server stops.
    pub(super) stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Probes, a few scrapers, a few people.
            connections: 64,
            // Not one of the usual scrape intervals, whose next request it would race with.
            header: Duration::from_secs(12),
            request: Duration::from_secs(10),
            // Much less than any grace period of a stop.
            stop: Duration::from_millis(500),
        }
    }
}

/// A running admin server. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Where it listens; empty if it is not enabled.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops listening, gives half a second to what is being answered, and waits for the thread.
    pub fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the admin server panicked");
        }
    }
}

/// Starts the server. Its addresses are bound when this returns.
///
/// # Errors
/// [`AdminError`]: it cannot listen, or the settings do not serve. Nothing runs then.
pub fn start(
    settings: Settings,
    subject: Arc<dyn Subject>,
    metrics: Registry,
    log_level: LevelSetter,
) -> Result<Server, AdminError> {
    start_within(Limits::default(), settings, subject, metrics, log_level)
}

/// [`start`] with other bounds.
pub(super) fn start_within(
    limits: Limits,
    settings: Settings,
    subject: Arc<dyn Subject>,
    metrics: Registry,
    log_level: LevelSetter,
) -> Result<Server, AdminError> {
    let (stop, stopped) = watch::channel(false);
    if !settings.enabled {
        return Ok(Server { addresses: Vec::new(), stop, thread: None });
    }
    if let Some(reason) = routes::path_problem(&settings.path) {
        return Err(AdminError::Path { path: settings.path, reason });
    }
    let listeners = listen::bind(&settings.host, settings.port)?;
    let addresses = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<io::Result<_>>()
        .map_err(AdminError::Thread)?;
    let app = Arc::new(App::new(settings, subject, metrics, log_level));

    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AdminError::Thread)?;
    let listeners = {
        let _inside = runtime.enter();
        let tokios = listeners.into_iter().map(tokio::net::TcpListener::from_std);
        tokios.collect::<io::Result<Vec<_>>>().map_err(AdminError::Thread)?
    };
    let thread = std::thread::Builder::new()
        .name("txstream-admin".to_owned())
        .spawn(move || runtime.block_on(serve(listeners, limits, app, stopped)))
        .map_err(AdminError::Thread)?;
    tracing::info!(addresses = ?addresses, "the admin server listens");
    Ok(Server { addresses, stop, thread: Some(thread) })
}

/// Accepts and serves until `stopped`.
async fn serve(
    listeners: Vec<tokio::net::TcpListener>,
    limits: Limits,
    app: Arc<App>,
    mut stopped: watch::Receiver<bool>,
) {
    let (acceptors, mut incoming) = listen::accept(listeners, WHOSE);
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let socket = tokio::select! {
            () = listen::told(&mut stopped) => break,
            Some(socket) = incoming.recv() => socket,
            Some(_) = connections.join_next() => continue,
        };
        by_age.retain(|connection| !connection.is_finished());
        if by_age.len() >= limits.connections
            && let Some(oldest) = by_age.pop_front()
        {
            oldest.abort();
        }
        by_age.push_back(connections.spawn(connection(socket, limits, Arc::clone(&app), stopped.clone())));
    }
    // New clients are refused from here on; those being answered get their answer.
    drop(acceptors);
    let answered = async { while connections.join_next().await.is_some() {} };
    // Out of time: dropping the set cuts the rest.
    let _ = tokio::time::timeout(limits.stop, answered).await;
}

/// Serves one connection until it ends, is idle for too long, or the server stops.
async fn connection(socket: TcpStream, limits: Limits, app: Arc<App>, stopped: watch::Receiver<bool>) {
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, std::convert::Infallible>(app.answer(request, limits.request).await) }
    });
    listen::serve(socket, service, limits.header, stopped, WHOSE).await;
}

//! Sockets: bounded in number and time, drained at the end.
//!
//! When there are as many connections as may be, the oldest one that is idle goes, so that clients that
//! keep connections open cannot shut out others. One that is being answered never does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::Writer;
use crate::admin::listen;

/// Most connections of clients, where the process may open as many files.
const CONNECTIONS_MAX: usize = 10_000;

/// Files for everything but clients and the pool: the listeners, the admin server and its clients, logs.
const OTHER_FILES: usize = 128;

/// What lines in the log call it.
const WHOSE: &str = "the writer";

/// A client's connection.
struct Connection {
    /// Requests being answered.
    busy: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Connection {
    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }
}

/// How many connections there may be, by the process's limit of open files.
pub(super) fn most_connections(pool: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| {
        line.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<usize>().ok()
    });
    files.map_or(CONNECTIONS_MAX, |files| files.saturating_sub(pool + OTHER_FILES).clamp(1, CONNECTIONS_MAX))
}

/// Accepts and serves until `stopped`, then answers what is being asked for at most `grace`. Gives the
/// number of connections that were cut.
pub(super) async fn serve(
    writer: &Arc<Writer>,
    listeners: Vec<TcpListener>,
    mut stopped: watch::Receiver<bool>,
    grace: Duration,
) -> usize {
    let most = most_connections(writer.settings.max_open_conns);
    let (acceptors, mut incoming) = listen::accept(listeners, WHOSE);
    let mut tasks = JoinSet::new();
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        writer.metrics.http_connections.set(tasks.len());
        let full = tasks.len() >= most && connections.iter().all(Connection::is_busy);
        tokio::select! {
            biased;
            () = listen::told(&mut stopped) => break,
            // An evicted one is counted until it is gone.
            Some(_) = tasks.join_next() => connections.retain(|connection| !connection.task.is_finished()),
            Some(socket) = incoming.recv(), if !full => {
                if tasks.len() >= most {
                    make_room(&mut connections);
                }
                let busy = Arc::new(AtomicUsize::new(0));
                let serving = connection(socket, Arc::clone(writer), Arc::clone(&busy), stopped.clone());
                connections.push(Connection { busy, task: tasks.spawn(serving) });
            }
        }
    }
    // New clients are refused from here on; those being answered get their answer.
    drop(acceptors);
    drop(incoming);
    let answered = async { while tasks.join_next().await.is_some() {} };
    // Out of time: dropping the set cuts the rest.
    let _ = timeout(grace, answered).await;
    writer.metrics.http_connections.set(tasks.len());
    tasks.len()
}

/// Ends the oldest connection that is idle.
fn make_room(connections: &mut Vec<Connection>) {
    if let Some(idle) = connections.iter().position(|connection| !connection.is_busy()) {
        connections.remove(idle).task.abort();
    }
}

/// Serves one connection until it ends, is idle for too long, or the writer stops.
async fn connection(
    socket: TcpStream,
    writer: Arc<Writer>,
    busy: Arc<AtomicUsize>,
    stopped: watch::Receiver<bool>,
) {
    let timeout = writer.settings.timeout;
    let service = service_fn(move |request| {
        busy.fetch_add(1, Ordering::Relaxed);
        let (writer, busy) = (Arc::clone(&writer), Arc::clone(&busy));
        async move {
            let answer = writer.answer(request).await;
            busy.fetch_sub(1, Ordering::Relaxed);
            answer
        }
    });
    listen::serve(socket, service, timeout, stopped, WHOSE).await;
}

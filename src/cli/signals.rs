//! How a service is told to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Failure;

/// The first SIGTERM or SIGINT asks for a graceful stop, the second ends the process. `means` says in
/// the log what happens in between.
pub(super) async fn second_signal(stop: &watch::Sender<bool>, means: &str) -> Failure {
    let cannot = |error| {
        Failure::halted(
            format!("signals cannot be handled: {error}"),
            "report this with the system's version",
        )
    };
    let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(term), Ok(int)) => (term, int),
        (Err(error), _) | (_, Err(error)) => return cannot(error),
    };
    let mut next = async || {
        tokio::select! {
            _ = term.recv() => 15,
            _ = int.recv() => 2,
        }
    };
    let first = next().await;
    tracing::info!(signal = first, "stopping: {means}");
    stop.send_replace(true);
    Failure::Killed(next().await)
}

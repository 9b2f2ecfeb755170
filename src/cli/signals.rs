//! How a service is told to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::Failure;

/// SIGTERM and SIGINT, caught from when this is made.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn catch() -> Result<Self, Failure> {
        let cannot = |error| {
            Failure::halted(
                format!("signals cannot be handled: {error}"),
                "report this with the system's version",
            )
        };
        let catch = |kind| signal(kind).map_err(cannot);
        Ok(Self { term: catch(SignalKind::terminate())?, int: catch(SignalKind::interrupt())? })
    }

    /// The number of the next one.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.term.recv() => 15,
            _ = self.int.recv() => 2,
        }
    }
}

/// Waits for the first SIGTERM or SIGINT.
pub(super) async fn interrupted() -> Result<(), Failure> {
    Signals::catch()?.next().await;
    Ok(())
}

/// The first SIGTERM or SIGINT asks for a graceful stop, the second ends the process. `means` says in
/// the log what happens in between.
pub(super) async fn second_signal(stop: &watch::Sender<bool>, means: &str) -> Failure {
    let mut signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(failure) => return failure,
    };
    let first = signals.next().await;
    tracing::info!(signal = first, "stopping: {means}");
    stop.send_replace(true);
    Failure::Killed(signals.next().await)
}

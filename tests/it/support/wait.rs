//! Waiting for something to become true.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// Long enough for anything that happens in a second on an idle machine, on a busy one.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Asks `attempt` again and again until it gives a value, and returns that.
///
/// The pauses grow from 5 to 100 ms. An attempt that hangs is dropped at the deadline.
///
/// # Panics
/// After `deadline`, with `what`: name what should have happened, as in "the slot is confirmed".
pub(crate) async fn eventually<T>(
    deadline: Duration,
    what: impl std::fmt::Display,
    mut attempt: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(5);
    loop {
        match timeout_at(end, attempt()).await {
            Ok(Some(value)) => return value,
            Ok(None) if Instant::now() < end => {}
            _ => panic!("did not happen within {deadline:?}: {what}"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

//! How a one-shot command reaches a server: at once, or within `--wait`.

use std::error::Error;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::Failure;
use crate::postgres::error::Class;
use crate::postgres::{ConnInfo, sql};

/// Often enough not to be noticed, seldom enough not to disturb a server that starts.
const RETRY: Duration = Duration::from_millis(250);

/// Connects to Postgres, waiting up to `wait` for a server that is not there yet.
///
/// # Errors
/// [`Failure::Halted`] with the last reason.
pub(super) async fn postgres(info: &ConnInfo, command: &str, wait: Duration) -> Result<Client, Failure> {
    let name = format!("txstream {command}");
    let deadline = Instant::now() + wait;
    let mut said = false;
    loop {
        let error = match sql::connect(info, &name).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        if error.class() != Class::Retry || Instant::now() >= deadline {
            return Err(Failure::halted(chain(&error), "check DATABASE_URL or DB_* (and REPLICATION_URL)"));
        }
        if !said {
            tracing::info!(error = %chain(&error), wait = ?wait, "waiting for Postgres");
            said = true;
        }
        sleep(RETRY).await;
    }
}

/// An error and its causes in one line, none said twice.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Link(&'static str, #[source] Option<Box<Link>>);

    #[test]
    fn causes_are_said_once() {
        let error = Link("connect", Some(Box::new(Link("connect", Some(Box::new(Link("refused", None)))))));
        assert_eq!(chain(&error), "connect: refused");
    }
}

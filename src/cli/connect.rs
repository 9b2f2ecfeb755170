//! How a one-shot command reaches a server: at once, or within `--wait`.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::Failure;
use crate::postgres::error::Class;
use crate::postgres::{ConnInfo, sql};

/// Often enough not to be noticed, seldom enough not to disturb a server that starts.
pub(super) const RETRY: Duration = Duration::from_millis(250);

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
            Ok(connection) => return Ok(connection.into_client()),
            Err(error) => error,
        };
        if error.class() != Class::Retry || Instant::now() >= deadline {
            let remedy = error.hint();
            let remedy =
                remedy.unwrap_or_else(|| "check DATABASE_URL or DB_*, and REPLICATION_URL".to_owned());
            return Err(Failure::halted(error.report(), remedy));
        }
        if !said {
            tracing::info!(error = %error.report(), wait = ?wait, "waiting for Postgres");
            said = true;
        }
        sleep(RETRY).await;
    }
}

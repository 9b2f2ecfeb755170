//! Ordinary SQL connections: tokio-postgres over the same settings and TLS as replication.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::ops::{Deref, DerefMut};

use tokio::sync::watch;
use tokio_postgres::config::{ChannelBinding as SqlBinding, SslMode as SqlSslMode, SslNegotiation};
use tokio_postgres::tls::TlsConnect;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use super::auth::NO_PASSWORD;
use super::conninfo::{ChannelBinding, Endpoint, TargetSession};
use super::error::report;
use super::replication::check_session;
use super::transport::{self, Transport};
use super::{ConnInfo, PgError};

/// A connection whose own task runs in the background; use it as the [`Client`] it derefs to. Dropped,
/// it closes.
pub struct SqlConn {
    client: Client,
    end: watch::Receiver<Option<SqlEnd>>,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlEnd {
    /// The server's SQLSTATE, where it gave one; 57P01 says that it shuts down.
    pub sqlstate: Option<String>,
    /// In words.
    pub message: String,
}

impl SqlConn {
    /// Waits until the connection has ended and says how. May be called at any time, repeatedly.
    ///
    /// # Cancel safety
    /// May be dropped at any await.
    pub async fn closed(&self) -> SqlEnd {
        let mut end = self.end.clone();
        let seen = end.wait_for(Option::is_some).await.ok().and_then(|seen| seen.clone());
        // Without a word its task was dropped with the runtime.
        seen.unwrap_or_else(|| SqlEnd { sqlstate: None, message: "the connection's task ended".into() })
    }

    /// The client alone, for a pool that watches over it otherwise.
    pub fn into_client(self) -> Client {
        self.client
    }
}

impl Deref for SqlConn {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for SqlConn {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// Connects, authenticates and starts the connection's own task on the current runtime.
///
/// Sends no startup parameter beyond those every pooler knows, `options` only if the settings name it.
///
/// # Errors
/// As [`PgError`]; the whole of connect, TLS and authentication has one deadline.
pub async fn connect(info: &ConnInfo, application_name: &str) -> Result<SqlConn, PgError> {
    Box::pin(transport::first_fitting(info, |transport, endpoint| async move {
        let config = config(info, application_name, &endpoint, transport.encrypted());
        log_in(transport, &config, info.target_session, &endpoint).await
    }))
    .await
}

fn config(info: &ConnInfo, application_name: &str, endpoint: &Endpoint, encrypted: bool) -> Config {
    let mut config = Config::new();
    config
        .user(&info.user)
        .dbname(&info.dbname)
        .application_name(info.application_name.as_deref().unwrap_or(application_name))
        .channel_binding(match info.channel_binding {
            ChannelBinding::Disable => SqlBinding::Disable,
            ChannelBinding::Prefer => SqlBinding::Prefer,
            ChannelBinding::Require => SqlBinding::Require,
        });
    if let Some(password) = info.password_for(endpoint) {
        config.password(password.expose());
    }
    if let Some(options) = &info.options {
        config.options(options);
    }
    // TLS stands already: `Direct` makes tokio-postgres go on without a TLS request of its own.
    if encrypted {
        config.ssl_mode(SqlSslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    } else {
        config.ssl_mode(SqlSslMode::Disable);
    }
    config
}

async fn log_in(
    transport: Transport,
    config: &Config,
    wanted: TargetSession,
    endpoint: &Endpoint,
) -> Result<SqlConn, PgError> {
    let doing = format!("connect to {}", endpoint.describe());
    let (client, connection) =
        config.connect_raw(transport, AlreadyTls).await.map_err(|error| login_error(error, doing))?;
    let (standby, read_only) = {
        let is_on = |name| connection.parameter(name).map(|value| value == "on");
        (is_on("in_hot_standby"), is_on("default_transaction_read_only"))
    };
    let (tell, end) = watch::channel(None);
    tokio::spawn(async move {
        let end = match connection.await {
            Ok(()) => SqlEnd { sqlstate: None, message: "closed by us".into() },
            Err(error) => SqlEnd {
                sqlstate: error.code().map(|state| state.code().to_owned()),
                message: report(&error),
            },
        };
        // Nobody may be left to hear it.
        let _ = tell.send(Some(end));
    });
    let connection = SqlConn { client, end };
    if wanted != TargetSession::Any {
        // A pooler does not pass these parameters on; behind it the server itself is asked.
        let standby = match standby {
            Some(standby) => standby,
            None => asks(&connection, "SELECT pg_catalog.pg_is_in_recovery()", "t").await?,
        };
        let read_only = match read_only {
            Some(read_only) => read_only,
            None => asks(&connection, "SHOW transaction_read_only", "on").await?,
        };
        check_session(wanted, standby, read_only, &endpoint.describe())?;
    }
    Ok(connection)
}

/// Whether the first value of the answer is this text.
async fn asks(client: &Client, sql: &str, text: &str) -> Result<bool, PgError> {
    let answer = client.simple_query(sql).await?;
    Ok(answer
        .iter()
        .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some(text))))
}

/// Sorts a failed login like one on a replication connection.
fn login_error(error: tokio_postgres::Error, doing: String) -> PgError {
    if let Some(db) = error.as_db_error() {
        return PgError::Server { doing, replication_command: false, error: Box::new(db.into()) };
    }
    if error.is_closed() {
        return PgError::Closed { doing };
    }
    let what = error.to_string();
    let text = report(&error);
    match error.into_source().map(|source| source.downcast::<io::Error>()) {
        Some(Ok(source)) if !what.contains("authentication") => PgError::from_io(&doing, *source),
        _ if text.ends_with("password missing") => PgError::Auth(NO_PASSWORD.into()),
        _ if what.contains("authentication") => PgError::Auth(text),
        _ => PgError::Protocol { doing, what: text },
    }
}

/// Gives tokio-postgres the transport as it is, with what SCRAM can bind to.
struct AlreadyTls;

impl TlsConnect<Transport> for AlreadyTls {
    type Stream = Transport;
    type Error = Infallible;
    type Future = Ready<Result<Transport, Infallible>>;

    fn connect(self, stream: Transport) -> Self::Future {
        ready(Ok(stream))
    }
}

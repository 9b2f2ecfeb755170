//! A replication connection before streaming: startup, authentication, replication commands.

mod startup;
#[cfg(test)]
mod tests;

use std::time::Duration;

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::time::timeout;
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::channel::Channel;
use super::error::ServerError;
use super::stream::{self, StatusWriter, WalReader};
use super::transport::{self, Transport};
use super::wire::Frame;
use super::{ConnInfo, Lsn, PgError};

pub(super) use startup::check_session;
pub use startup::{PINNED, WalSenderTimeout};

/// How long the server may take to answer a command that does not wait for others.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// One row of an answer; every value as text.
pub type TextRow = Vec<Option<String>>;

/// The answer to IDENTIFY_SYSTEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Identifies the cluster; equal on its physical standbys.
    pub system_id: String,
    /// Current timeline.
    pub timeline: u32,
    /// Current flush position of the server's WAL.
    pub xlogpos: Lsn,
    /// The database connected to.
    pub dbname: String,
}

/// pgoutput options of START_REPLICATION; protocol version is always 1.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// Publication names, unquoted.
    pub publications: Vec<String>,
    /// Ask for binary column values.
    pub binary: bool,
    /// Ask for logical messages.
    pub messages: bool,
}

/// Options of CREATE_REPLICATION_SLOT.
#[derive(Debug, Clone, Copy, Default)]
pub struct CreateOptions {
    /// Whether standbys keep a copy of the slot (Postgres 17+).
    pub failover: bool,
    /// Whether to export the snapshot of the consistent point; it lives until the next command on
    /// this connection.
    pub export_snapshot: bool,
    /// How long the server may wait for a transaction that is older than the slot; without a limit
    /// it waits for every writer of every database.
    pub lock_timeout: Option<Duration>,
}

/// The answer to CREATE_REPLICATION_SLOT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Its name.
    pub name: String,
    /// Everything committed from here on comes by the slot.
    pub consistent_point: Lsn,
    /// For SET TRANSACTION SNAPSHOT; shows everything committed before the consistent point.
    pub snapshot: Option<String>,
}

/// A replication connection in command mode.
pub struct ReplicationConn {
    channel: Channel<Transport>,
    server_version: String,
    endpoint: String,
}

impl ReplicationConn {
    /// Connects with `replication=database` and the settings that pin how values are printed.
    ///
    /// # Errors
    /// As [`PgError`].
    pub async fn connect(info: &ConnInfo, application_name: &str) -> Result<Self, PgError> {
        Self::connect_asking(info, application_name, None).await
    }

    /// As [`ReplicationConn::connect`]; asks for this `wal_sender_timeout`, see [`WalSenderTimeout`].
    ///
    /// # Errors
    /// As [`PgError`].
    pub async fn connect_asking(
        info: &ConnInfo,
        application_name: &str,
        wal_sender_timeout: Option<Duration>,
    ) -> Result<Self, PgError> {
        Box::pin(transport::first_fitting(info, |transport, endpoint| async move {
            let password = info.password_for(&endpoint);
            let startup = startup::Startup {
                info,
                password: password.as_ref(),
                application_name,
                wal_sender_timeout,
                endpoint: endpoint.describe(),
            };
            startup.run(transport).await
        }))
        .await
    }

    /// The server's version as it says it, like `15.14 (Debian 15.14-0+deb12u1)`.
    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// The server's major version; 0 when it says none.
    pub fn server_major(&self) -> u32 {
        let digits =
            self.server_version.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.server_version.len());
        self.server_version[..digits].parse().unwrap_or(0)
    }

    /// Which server of the list answered, for people.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// IDENTIFY_SYSTEM.
    ///
    /// # Errors
    /// As [`PgError`]; a pooler's refusal is explained by its hint.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, PgError> {
        const DOING: &str = "identify the system (replication command)";
        let rows = within(COMMAND_TIMEOUT, DOING, self.command("IDENTIFY_SYSTEM", DOING)).await?;
        let row = rows.into_iter().next().unwrap_or_default();
        let identity = match <[Option<String>; 4]>::try_from(row) {
            Ok([Some(system_id), Some(timeline), Some(xlogpos), Some(dbname)]) => timeline
                .parse()
                .ok()
                .zip(xlogpos.parse().ok())
                .map(|(timeline, xlogpos)| SystemIdentity { system_id, timeline, xlogpos, dbname }),
            _ => None,
        };
        identity.ok_or_else(|| PgError::protocol(DOING, "the answer is not one of a Postgres server"))
    }

    /// Runs one statement or replication command and gives its rows. It has no deadline of its own.
    ///
    /// # Errors
    /// As [`PgError`]; after an error answer the connection can be used again.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<TextRow>, PgError> {
        self.command(sql, "run a statement on the replication connection").await
    }

    /// What the server has remarked on statements since the last call: notices and warnings.
    pub fn take_notices(&mut self) -> Vec<ServerError> {
        std::mem::take(&mut self.channel.notices)
    }

    /// CREATE_REPLICATION_SLOT for pgoutput. Waits until every transaction that is older has ended,
    /// at most `lock_timeout` for each; what a failed attempt leaves behind is the caller's to drop.
    ///
    /// # Errors
    /// As [`PgError`]; 55P03 when the wait is over, 42710 when the slot exists.
    pub async fn create_slot(&mut self, name: &str, options: CreateOptions) -> Result<CreatedSlot, PgError> {
        const DOING: &str = "create the replication slot (replication command)";
        let sql = startup::create_slot_sql(name, options, self.server_major())?;
        if let Some(limit) = options.lock_timeout {
            // 0 would mean no limit.
            self.command(&format!("SET lock_timeout = {}", limit.as_millis().max(1)), DOING).await?;
        }
        let rows = self.command(&sql, DOING).await?;
        let mut row = rows.into_iter().next().unwrap_or_default().into_iter();
        match (row.next().flatten(), row.next().flatten().and_then(|lsn| lsn.parse().ok())) {
            (Some(name), Some(consistent_point)) => {
                Ok(CreatedSlot { name, consistent_point, snapshot: row.next().flatten() })
            }
            _ => Err(PgError::protocol(DOING, "the answer is not one of a Postgres server")),
        }
    }

    /// START_REPLICATION at `0/0`: the slot decides where.
    ///
    /// # Errors
    /// As [`PgError`]; 55006 when the slot is held.
    pub async fn start_replication(
        mut self,
        slot: &str,
        options: &StartOptions,
    ) -> Result<(WalReader, StatusWriter), PgError> {
        const DOING: &str = "start replication (replication command)";
        let sql = startup::start_replication_sql(slot, options)?;
        let notices = within(COMMAND_TIMEOUT, DOING, async {
            self.channel.send(DOING, |buf| frontend::query(&sql, buf)).await?;
            self.await_copy_both(DOING).await
        })
        .await?;
        Ok(stream::split(self.channel, notices))
    }

    /// Waits for CopyBothResponse; notices before it belong to whoever reads the stream.
    async fn await_copy_both(&mut self, doing: &str) -> Result<Vec<ServerError>, PgError> {
        let bad_fields = |error| PgError::from_io(doing, error);
        let mut notices = Vec::new();
        loop {
            match self.channel.recv(doing).await? {
                Frame::CopyBoth => return Ok(notices),
                Frame::Message(Message::NoticeResponse(body)) => {
                    notices.push(ServerError::from_fields(body.fields()).map_err(bad_fields)?);
                }
                Frame::Message(Message::ParameterStatus(_)) => {}
                Frame::Message(Message::ErrorResponse(body)) => {
                    let error = Box::new(ServerError::from_fields(body.fields()).map_err(bad_fields)?);
                    return Err(PgError::Server { doing: doing.into(), replication_command: true, error });
                }
                _ => return Err(PgError::protocol(doing, "the server does not begin to stream")),
            }
        }
    }

    /// Sends a simple query and reads to ReadyForQuery, past an error too.
    async fn command(&mut self, sql: &str, doing: &str) -> Result<Vec<TextRow>, PgError> {
        self.channel.send(doing, |buf| frontend::query(sql, buf)).await?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            match self.channel.recv_message(doing).await {
                Ok(Message::DataRow(body)) => {
                    let columns = body.ranges().map(|range| {
                        Ok(range.map(|range| String::from_utf8_lossy(&body.buffer()[range]).into_owned()))
                    });
                    rows.push(columns.collect().map_err(|error| PgError::from_io(doing, error))?);
                }
                Ok(Message::ReadyForQuery(_)) => return failed.map_or(Ok(rows), Err),
                Ok(Message::CopyInResponse(_) | Message::CopyOutResponse(_)) => {
                    return Err(PgError::protocol(doing, "the server began to copy unasked"));
                }
                Ok(_) => {}
                Err(error @ PgError::Server { .. }) => failed = Some(error),
                // A FATAL error is followed by the end of the connection: the cause is what counts.
                Err(error) => return Err(failed.unwrap_or(error)),
            }
        }
    }
}

/// Runs `work` under a deadline.
async fn within<T>(
    limit: Duration,
    doing: &str,
    work: impl Future<Output = Result<T, PgError>>,
) -> Result<T, PgError> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(PgError::Timeout { doing: doing.to_owned(), limit }),
    }
}

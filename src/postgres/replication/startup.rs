//! How a replication connection begins, and the texts of replication commands.

use std::time::Duration;

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio_postgres::SimpleQueryMessage;

use super::{CreateOptions, ReplicationConn, StartOptions};
use crate::postgres::auth::{self, Login};
use crate::postgres::channel::Channel;
use crate::postgres::conninfo::TargetSession;
use crate::postgres::transport::Transport;
use crate::postgres::wire::MAX_FRAME;
use crate::postgres::{ConnInfo, PgError};
use crate::secret::Secret;

/// Settings that shape how values are printed. A role or database may have others; pinned, a row has
/// the same text on every replay. Startup parameters beat `options` and role settings.
pub const PINNED: [(&str, &str); 6] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "3"),
];

/// `wal_sender_timeout`: after this much silence the server gives up the connection and frees the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalSenderTimeout {
    /// What to ask for at startup, see [`ReplicationConn::connect_asking`].
    pub ask: Option<Duration>,
    /// What then holds; `None` is no limit.
    pub effective: Option<Duration>,
}

impl WalSenderTimeout {
    /// Short enough that the slot of a host that vanished is free soon.
    const WANTED: Duration = Duration::from_secs(30);

    /// Decides by the server's value, read on an ordinary connection made with the same settings:
    /// 30 s unless it is lower already or the connection string's `options` name it.
    ///
    /// # Errors
    /// As [`PgError`].
    pub async fn choose(client: &tokio_postgres::Client, info: &ConnInfo) -> Result<Self, PgError> {
        const SQL: &str = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";
        let millis = client.simple_query(SQL).await?.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse::<u64>().ok(),
            _ => None,
        });
        let millis =
            millis.ok_or_else(|| PgError::protocol("read wal_sender_timeout", "it has no number"))?;
        Ok(Self::decide(millis, info.options_name("wal_sender_timeout")))
    }

    /// `millis` is the server's value, 0 for none.
    pub(super) fn decide(millis: u64, named_in_options: bool) -> Self {
        let current = (millis > 0).then(|| Duration::from_millis(millis));
        if named_in_options || current.is_some_and(|current| current <= Self::WANTED) {
            Self { ask: None, effective: current }
        } else {
            Self { ask: Some(Self::WANTED), effective: Some(Self::WANTED) }
        }
    }
}

/// What the startup of one connection needs.
pub(super) struct Startup<'a> {
    pub(super) info: &'a ConnInfo,
    pub(super) password: Option<&'a Secret>,
    pub(super) application_name: &'a str,
    pub(super) wal_sender_timeout: Option<Duration>,
    pub(super) endpoint: String,
}

impl Startup<'_> {
    /// Startup packet, authentication, parameters, ReadyForQuery.
    pub(super) async fn run(self, transport: Transport) -> Result<ReplicationConn, PgError> {
        let doing = format!("open a replication connection to {}", self.endpoint);
        let login = Login {
            user: &self.info.user,
            password: self.password,
            channel_binding: self.info.channel_binding,
            end_point: transport.end_point().map(<[u8]>::to_vec),
            encrypted: transport.encrypted(),
        };
        let mut channel = Channel::new(transport);
        let parameters = self.parameters();
        let pairs = parameters.iter().map(|(name, value)| (*name, value.as_str()));
        channel.send(&doing, |buf| frontend::startup_message(pairs, buf)).await?;
        auth::authenticate(&mut channel, &login, &doing).await?;
        channel.input.set_max_frame(MAX_FRAME);

        let (mut server_version, mut standby, mut read_only) = (String::new(), false, false);
        loop {
            match channel.recv_message(&doing).await? {
                Message::ParameterStatus(body) => {
                    let value = body.value().map_err(|error| PgError::from_io(&doing, error))?;
                    match body.name().map_err(|error| PgError::from_io(&doing, error))? {
                        "server_version" => server_version = value.to_owned(),
                        "in_hot_standby" => standby = value == "on",
                        "default_transaction_read_only" => read_only = value == "on",
                        _ => {}
                    }
                }
                Message::BackendKeyData(_) => {}
                Message::ReadyForQuery(_) => break,
                _ => return Err(PgError::protocol(&doing, "the server does not get ready")),
            }
        }
        check_session(self.info.target_session, standby, read_only, &self.endpoint)?;
        Ok(ReplicationConn { channel, server_version, endpoint: self.endpoint })
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let name = self.info.application_name.as_deref().unwrap_or(self.application_name);
        let mut parameters = vec![
            ("user", self.info.user.clone()),
            ("database", self.info.dbname.clone()),
            ("replication", "database".into()),
            ("application_name", name.into()),
        ];
        parameters.extend(self.info.options.clone().map(|options| ("options", options)));
        parameters.extend(PINNED.map(|(name, value)| (name, value.into())));
        // From PostgreSQL 18 on a warning is all that tells of a publication that is skipped.
        parameters.push(("client_min_messages", "notice".into()));
        if let Some(timeout) = self.wal_sender_timeout {
            parameters.push(("wal_sender_timeout", format!("{}ms", timeout.as_millis())));
        }
        parameters
    }
}

/// Compares a server with `target_session_attrs`.
pub(in crate::postgres) fn check_session(
    wanted: TargetSession,
    standby: bool,
    read_only: bool,
    endpoint: &str,
) -> Result<(), PgError> {
    let is = match wanted {
        TargetSession::Primary | TargetSession::ReadWrite if standby => "a standby",
        TargetSession::ReadWrite if read_only => "read-only",
        _ => return Ok(()),
    };
    Err(PgError::NotWanted { endpoint: endpoint.to_owned(), is })
}

pub(super) fn start_replication_sql(slot: &str, options: &StartOptions) -> Result<String, PgError> {
    let names = options.publications.iter().map(|name| quoted(name, '"')).collect::<Result<Vec<_>, _>>()?;
    let mut sql = format!(
        "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {}",
        quoted(slot, '"')?,
        quoted(&names.join(","), '\'')?
    );
    if options.binary {
        sql.push_str(", binary 'true'");
    }
    if options.messages {
        sql.push_str(", messages 'true'");
    }
    sql.push(')');
    Ok(sql)
}

/// Since 15 the options stand in parentheses; before, they are key words.
pub(super) fn create_slot_sql(name: &str, options: CreateOptions, major: u32) -> Result<String, PgError> {
    if options.failover && major < 17 {
        return Err(PgError::Setting(format!(
            "failover slots need Postgres 17 or newer; this server is {major}"
        )));
    }
    let list = match (major >= 15, options.export_snapshot) {
        (true, true) if options.failover => "(SNAPSHOT 'export', FAILOVER true)",
        (true, true) => "(SNAPSHOT 'export')",
        (true, false) if options.failover => "(SNAPSHOT 'nothing', FAILOVER true)",
        (true, false) => "(SNAPSHOT 'nothing')",
        (false, true) => "EXPORT_SNAPSHOT",
        (false, false) => "NOEXPORT_SNAPSHOT",
    };
    Ok(format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {list}", quoted(name, '"')?))
}

/// An identifier (`"`) or literal (`'`) for the grammar of replication commands, which knows no
/// escapes but the doubled quote.
fn quoted(text: &str, quote: char) -> Result<String, PgError> {
    if text.is_empty() || text.contains('\0') {
        return Err(PgError::Setting("a slot or publication name is empty or has a zero byte".into()));
    }
    Ok(format!("{quote}{}{quote}", text.replace(quote, &format!("{quote}{quote}"))))
}

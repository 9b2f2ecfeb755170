//! Creating, moving and dropping a slot.

use std::time::Duration;

use postgres_protocol::escape::escape_literal;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{PgLsn, Type};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::blockers::{Blocker, still, writing};
use crate::postgres::replication::{CreateOptions, CreatedSlot, ReplicationConn};
use crate::postgres::{Lsn, PgError};

/// How often the transactions that a new slot would wait for are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A slot to be created.
#[derive(Debug, Clone, Copy)]
pub struct NewSlot<'a> {
    /// Its name.
    pub name: &'a str,
    /// Keep it on standbys too (PostgreSQL 17 and later).
    pub failover: bool,
    /// Longest wait for one open transaction.
    pub lock_timeout: Duration,
}

/// Why there is no new slot. None is left behind.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There is one already.
    #[error("slot {0} exists already")]
    Exists(String),
    /// Transactions did not end in time.
    #[error("no slot was created: after {waited:?} it was still waiting for {}", named(.blockers))]
    Blocked {
        /// Longest wait for one of them.
        waited: Duration,
        /// Those that were open before and after the wait, oldest first.
        blockers: Vec<Blocker>,
    },
    /// `wal_level` is too low.
    #[error("wal_level is {0}, logical decoding needs logical")]
    WalLevel(String),
    /// A standby.
    #[error("this server is a standby (in recovery)")]
    InRecovery,
    /// A server before 17.
    #[error("failover slots need PostgreSQL 17 or later, this server is {0}")]
    FailoverUnsupported(String),
    /// No right to.
    #[error("role {0} may not create replication slots")]
    NoRight(String),
    /// `max_replication_slots` are in use.
    #[error("all {0} replication slots of the server are in use")]
    NoneFree(String),
    /// Anything else.
    #[error(transparent)]
    Pg(#[from] PgError),
}

impl CreateError {
    /// What a person can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Exists(_) => "use it, or set REPLICATION_SLOT to another name".to_owned(),
            Self::Blocked { blockers, .. } => {
                let first = blockers.first().and_then(|b| b.pid);
                let end = first.map_or_else(String::new, |pid| {
                    format!(", or end one with SELECT pg_terminate_backend({pid});")
                });
                format!("wait until they end and run it again{end}")
            }
            Self::WalLevel(_) => {
                "ALTER SYSTEM SET wal_level = logical; then restart the server (managed services: \
                 rds.logical_replication = 1, cloudsql.logical_decoding = on, azure.replication_support = logical)"
                    .to_owned()
            }
            Self::InRecovery => "connect to the primary".to_owned(),
            Self::FailoverUnsupported(_) => "leave out --failover".to_owned(),
            Self::NoRight(role) => {
                let role = postgres_protocol::escape::escape_identifier(role);
                format!("ALTER ROLE {role} REPLICATION; (on RDS: GRANT rds_replication TO {role};)")
            }
            Self::NoneFree(_) => {
                "drop one that nobody needs (SELECT slot_name, active FROM pg_replication_slots;), or raise \
                 max_replication_slots and restart the server"
                    .to_owned()
            }
            Self::Pg(error) => error.hint().unwrap_or_else(|| "see the server's log".to_owned()),
        }
    }
}

fn named(blockers: &[Blocker]) -> String {
    match blockers {
        [] => "transactions that have ended since".to_owned(),
        some => some.iter().take(10).map(Blocker::to_string).collect::<Vec<_>>().join("; "),
    }
}

/// What decides whether a slot can be created, asked before anything waits.
struct Server {
    wal_level: String,
    version: String,
    version_num: i32,
    in_recovery: bool,
    max_slots: String,
    role: String,
}

async fn server(client: &Client) -> Result<Server, tokio_postgres::Error> {
    let row = client
        .query_typed_one(
            "select current_setting('wal_level'), current_setting('server_version'), \
             current_setting('server_version_num')::int4, pg_is_in_recovery(), \
             current_setting('max_replication_slots'), current_user::text",
            &[],
        )
        .await?;
    Ok(Server {
        wal_level: row.try_get(0)?,
        version: row.try_get(1)?,
        version_num: row.try_get(2)?,
        in_recovery: row.try_get(3)?,
        max_slots: row.try_get(4)?,
        role: row.try_get(5)?,
    })
}

/// What would make the creation fail at once.
async fn precheck(client: &Client, new: &NewSlot<'_>) -> Result<Server, CreateError> {
    let server = server(client)
        .await
        .map_err(|source| PgError::statement(format!("create slot {}", new.name), source))?;
    if server.in_recovery {
        return Err(CreateError::InRecovery);
    }
    if server.wal_level != "logical" {
        return Err(CreateError::WalLevel(server.wal_level));
    }
    if new.failover && server.version_num < 170_000 {
        return Err(CreateError::FailoverUnsupported(server.version));
    }
    Ok(server)
}

/// Whether a slot could be created now: waits at most `lock_timeout` for the transactions that write
/// now, so that a slot which is to be replaced is not dropped in vain.
///
/// # Errors
/// [`CreateError`]; nothing was changed.
pub async fn could_create(client: &Client, new: &NewSlot<'_>) -> Result<(), CreateError> {
    precheck(client, new).await?;
    let before = writing(client).await?;
    let until = Instant::now() + new.lock_timeout;
    loop {
        let blockers = still(&before, writing(client).await?);
        if blockers.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(CreateError::Blocked { waited: new.lock_timeout, blockers });
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Creates a logical slot of plugin `pgoutput` in the database of the connection and returns the
/// position it starts from. The publication must exist already: a slot decodes with the catalog of
/// its own past, where a younger publication does not exist.
///
/// # Errors
/// [`CreateError`]; no slot is left behind.
///
/// # Cancel safety
/// Dropped while it waits, the server goes on until `lock_timeout` and may still create the slot.
pub async fn create(client: &Client, new: &NewSlot<'_>) -> Result<Lsn, CreateError> {
    let server = precheck(client, new).await?;
    let before = writing(client).await?;
    // One message is one transaction, so the setting ends with it whatever happens, and a failed
    // creation leaves nothing: the slot persists only when the function has come to its end.
    let sql = format!(
        "set local lock_timeout = {}; select lsn from pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput'{});",
        new.lock_timeout.as_millis().clamp(1, 2_147_483_647),
        escape_literal(new.name),
        if new.failover { ", failover => true" } else { "" },
    );
    match client.simple_query(&sql).await {
        Ok(messages) => {
            let lsn = messages.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).and_then(|text| text.parse().ok()),
                _ => None,
            });
            lsn.ok_or_else(|| {
                let what = "it returned no position".to_owned();
                CreateError::Pg(PgError::Protocol { doing: format!("create slot {}", new.name), what })
            })
        }
        Err(error) => {
            let error = PgError::statement(format!("create slot {}", new.name), error);
            Err(explain(client, new, &before, server, error).await)
        }
    }
}

/// As [`create`], on a replication connection, and exports the snapshot of the slot's start: it shows
/// exactly what was committed before. It can be taken over by other sessions until the next command on
/// `replication`.
///
/// # Errors
/// [`CreateError`]; no slot is left behind.
pub async fn create_exporting(
    client: &Client,
    replication: &mut ReplicationConn,
    new: &NewSlot<'_>,
) -> Result<CreatedSlot, CreateError> {
    let server = precheck(client, new).await?;
    let before = writing(client).await?;
    let options =
        CreateOptions { failover: new.failover, export_snapshot: true, lock_timeout: Some(new.lock_timeout) };
    match replication.create_slot(new.name, options).await {
        Ok(created) => Ok(created),
        Err(error) => Err(explain(client, new, &before, server, error).await),
    }
}

async fn explain(
    client: &Client,
    new: &NewSlot<'_>,
    before: &[Blocker],
    server: Server,
    error: PgError,
) -> CreateError {
    match error.sqlstate().map(SqlState::from_code) {
        Some(SqlState::LOCK_NOT_AVAILABLE) => match writing(client).await {
            Ok(after) => CreateError::Blocked { waited: new.lock_timeout, blockers: still(before, after) },
            Err(error) => error.into(),
        },
        Some(SqlState::DUPLICATE_OBJECT) => CreateError::Exists(new.name.to_owned()),
        Some(SqlState::INSUFFICIENT_PRIVILEGE) => CreateError::NoRight(server.role),
        Some(SqlState::CONFIGURATION_LIMIT_EXCEEDED) => CreateError::NoneFree(server.max_slots),
        _ => error.into(),
    }
}

/// Why the slot is still there, or where it was.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    /// Someone holds it.
    #[error("slot {0} is in use")]
    InUse(String),
    /// There is none.
    #[error("there is no slot {0}")]
    Missing(String),
    /// Anything else.
    #[error(transparent)]
    Pg(#[from] PgError),
}

/// Drops a slot. The server does not check whose it is: look with
/// [`SlotView::ensure_ours`](super::SlotView::ensure_ours) first.
///
/// # Errors
/// [`DropError`]; a slot in use stays.
pub async fn drop(client: &Client, name: &str) -> Result<(), DropError> {
    let dropped = client
        .query_typed("select pg_catalog.pg_drop_replication_slot($1)::text", &[(&name, Type::NAME)])
        .await;
    match dropped {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.code() {
            Some(&SqlState::OBJECT_IN_USE) => DropError::InUse(name.to_owned()),
            Some(&SqlState::UNDEFINED_OBJECT) => DropError::Missing(name.to_owned()),
            _ => DropError::Pg(PgError::statement(format!("drop slot {name}"), error)),
        }),
    }
}

/// Moves a slot forward to `to`: what was committed before is never decoded. The server does not check
/// whose it is. Returns where it stands then.
///
/// # Errors
/// [`DropError`] when it is held or gone; anything else as the server says it.
pub async fn advance(client: &Client, name: &str, to: Lsn) -> Result<Lsn, DropError> {
    let doing = || format!("advance slot {name}");
    let moved = client
        .query_typed_one(
            "select end_lsn from pg_catalog.pg_replication_slot_advance($1, $2)",
            &[(&name, Type::NAME), (&PgLsn::from(to.0), Type::PG_LSN)],
        )
        .await;
    match moved {
        Ok(row) => {
            let end: PgLsn = row.try_get(0).map_err(|error| PgError::statement(doing(), error))?;
            Ok(Lsn(u64::from(end)))
        }
        Err(error) => Err(match error.code() {
            Some(&SqlState::OBJECT_IN_USE) => DropError::InUse(name.to_owned()),
            Some(&SqlState::UNDEFINED_OBJECT) => DropError::Missing(name.to_owned()),
            _ => DropError::Pg(PgError::statement(doing(), error)),
        }),
    }
}

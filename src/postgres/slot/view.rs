//! Everything the server knows of a slot, on PostgreSQL 14 to 18.

use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::postgres::{Lsn, PgError};

/// A slot. The fields up to `synced` are the columns of `pg_replication_slots`; those that the
/// server's version lacks are `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the columns are documented in the manual
pub struct SlotView {
    pub slot_name: String,
    pub plugin: Option<String>,
    pub slot_type: String,
    pub datoid: Option<u32>,
    pub database: Option<String>,
    pub temporary: bool,
    pub active: bool,
    pub active_pid: Option<i32>,
    pub xmin: Option<String>,
    pub catalog_xmin: Option<String>,
    #[serde(with = "lsn")]
    pub restart_lsn: Option<Lsn>,
    #[serde(with = "lsn")]
    pub confirmed_flush_lsn: Option<Lsn>,
    pub wal_status: Option<String>,
    pub safe_wal_size: Option<i64>,
    pub two_phase: Option<bool>,
    #[serde(with = "lsn", default)]
    pub two_phase_at: Option<Lsn>,
    pub inactive_since: Option<String>,
    pub conflicting: Option<bool>,
    pub invalidation_reason: Option<String>,
    pub failover: Option<bool>,
    pub synced: Option<bool>,
    /// The end of the server's WAL when the slot was looked at.
    #[serde(with = "lsn")]
    pub current_wal_lsn: Option<Lsn>,
    /// Bytes of WAL behind `confirmed_flush_lsn`: what is not confirmed.
    pub slot_confirmed_lag_bytes: Option<u64>,
    /// Bytes of WAL behind `restart_lsn`: what the slot keeps on the server's disk.
    pub slot_retained_wal_bytes: Option<u64>,
    /// Who holds it, while it is active.
    pub holder: Option<Holder>,
    /// The oldest transaction that writes: `restart_lsn` and `catalog_xmin` cannot pass it.
    pub oldest_transaction: Option<OldestTransaction>,
}

/// The session that holds a slot. Without the right to read statistics only the pid is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// Backend process id.
    pub pid: i32,
    /// What the session calls itself.
    pub application_name: Option<String>,
    /// Its role.
    pub usename: Option<String>,
    /// Its address; none for a Unix socket.
    pub client_addr: Option<String>,
    /// When it connected.
    pub backend_start: Option<String>,
    /// The walsender's state: `streaming`, `catchup` …
    pub state: Option<String>,
    /// `async`; anything else makes commits wait for it.
    pub sync_state: Option<String>,
    /// Seconds between a flush at the server and our confirmation of it, as the server measures it;
    /// none while the stream is idle.
    pub flush_lag_seconds: Option<f64>,
}

/// A transaction with an id that has not ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OldestTransaction {
    /// Backend process id; none for a prepared transaction.
    pub pid: Option<i32>,
    /// Global id of a prepared transaction.
    pub prepared: Option<String>,
    /// Age in seconds; none without the right to see it.
    pub age_seconds: Option<f64>,
    /// What the session calls itself.
    pub application_name: Option<String>,
    /// Its database.
    pub database: Option<String>,
    /// `active`, `idle in transaction` …
    pub state: Option<String>,
}

/// LSNs as Postgres prints them.
mod lsn {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::postgres::Lsn;

    #[allow(clippy::ref_option)] // serde asks for this shape
    pub(super) fn serialize<S: Serializer>(lsn: &Option<Lsn>, to: S) -> Result<S::Ok, S::Error> {
        match lsn {
            Some(lsn) => to.collect_str(lsn),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Lsn>, D::Error> {
        let text: Option<String> = Option::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// One row as JSON, so that a column which a version lacks is simply absent. A transaction of any
/// database may hold a slot back. `pg_locks` is open to everyone, `pg_stat_activity` hides the
/// transactions of others.
const VIEW: &str = "\
with w as (select case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                       else pg_current_wal_lsn() end as lsn)
select (to_jsonb(s) || jsonb_build_object('datoid', s.datoid::bigint,
    'current_wal_lsn', w.lsn,
    'slot_confirmed_lag_bytes', greatest(pg_wal_lsn_diff(w.lsn, s.confirmed_flush_lsn), 0)::bigint,
    'slot_retained_wal_bytes', greatest(pg_wal_lsn_diff(w.lsn, s.restart_lsn), 0)::bigint,
    'holder', (select jsonb_build_object('pid', s.active_pid, 'application_name', a.application_name,
                    'usename', a.usename, 'client_addr', a.client_addr, 'backend_start', a.backend_start,
                    'state', r.state, 'sync_state', r.sync_state, 'flush_lag_seconds', extract(epoch from r.flush_lag)::float8)
                 from (values (s.active_pid)) h(pid)
                 left join pg_catalog.pg_stat_activity a on a.pid = h.pid
                 left join pg_catalog.pg_stat_replication r on r.pid = h.pid
                where h.pid is not null),
    'oldest_transaction', (select jsonb_build_object('pid', l.pid, 'prepared', p.gid,
                    'age_seconds', extract(epoch from clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8,
                    'application_name', a.application_name, 'database', coalesce(a.datname, p.database),
                    'state', a.state)
                 from pg_catalog.pg_locks l
                 left join pg_catalog.pg_stat_activity a on a.pid = l.pid
                 left join pg_catalog.pg_prepared_xacts p on p.transaction = l.transactionid
                where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
                order by age(l.transactionid) desc limit 1)))::text
  from pg_catalog.pg_replication_slots s, w where s.slot_name = $1";

/// The slot of this name, of whatever database and plugin; `None` when there is none.
///
/// # Errors
/// [`PgError`] when the views cannot be read.
pub async fn view<C: GenericClient + Sync>(client: &C, name: &str) -> Result<Option<SlotView>, PgError> {
    let doing = || format!("read slot {name}");
    let row = client
        .query_typed_opt(VIEW, &[(&name, Type::TEXT)])
        .await
        .map_err(|source| PgError::statement(doing(), source))?;
    let Some(row) = row else { return Ok(None) };
    let text: &str = row.try_get(0).map_err(|source| PgError::statement(doing(), source))?;
    let slot = serde_json::from_str(text)
        .map_err(|error| PgError::Protocol { doing: doing(), what: error.to_string() })?;
    Ok(Some(slot))
}

/// The slot is another's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// A physical slot, or another output plugin's.
    #[error("slot {slot} is not a pgoutput slot but {kind}")]
    Kind {
        /// Slot name.
        slot: String,
        /// What it is.
        kind: String,
    },
    /// A slot of another database.
    #[error("slot {slot} belongs to database {actual}, not to {expected}")]
    Database {
        /// Slot name.
        slot: String,
        /// Its database.
        actual: String,
        /// The one we are connected to.
        expected: String,
    },
    /// A slot that ends with the session that made it.
    #[error("slot {0} is temporary")]
    Temporary(String),
}

/// Why a slot will never stream again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terminal {
    /// The WAL it needed was removed.
    WalRemoved,
    /// It was inactive for longer than the server allows.
    IdleTimeout,
    /// Rows that a standby's slot needed were removed.
    RowsRemoved,
    /// `wal_level` was lowered.
    WalLevel,
    /// Another reason, as the server names it.
    Other(String),
}

impl Terminal {
    /// What happened, to follow "the slot is lost: ".
    pub fn why(&self) -> String {
        match self {
            Self::WalRemoved => "WAL that it needed was removed (max_slot_wal_keep_size)".to_owned(),
            Self::IdleTimeout => "it was inactive for longer than idle_replication_slot_timeout".to_owned(),
            Self::RowsRemoved => "the primary removed catalog rows that it needed".to_owned(),
            Self::WalLevel => "wal_level was lowered below logical".to_owned(),
            Self::Other(reason) => format!("the server says {reason}"),
        }
    }

    /// The SQL that keeps it from happening again, if there is any.
    pub fn prevention(&self) -> Option<&'static str> {
        match self {
            Self::WalRemoved => {
                Some("ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf();")
            }
            Self::IdleTimeout => {
                Some("ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();")
            }
            Self::RowsRemoved => Some("ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();"),
            Self::WalLevel => Some("ALTER SYSTEM SET wal_level = logical; -- then restart the server"),
            Self::Other(_) => None,
        }
    }
}

impl SlotView {
    /// Refuses a slot that the relay must never touch.
    ///
    /// # Errors
    /// [`NotOurs`] for another database's slot, another plugin's, a physical or a temporary one.
    pub fn ensure_ours(&self, database: &str) -> Result<(), NotOurs> {
        let slot = self.slot_name.clone();
        match self.plugin.as_deref() {
            Some("pgoutput") => {}
            Some(plugin) => return Err(NotOurs::Kind { slot, kind: format!("one of plugin {plugin}") }),
            None => return Err(NotOurs::Kind { slot, kind: format!("a {} one", self.slot_type) }),
        }
        match self.database.as_deref() {
            Some(actual) if actual != database => {
                Err(NotOurs::Database { slot, actual: actual.to_owned(), expected: database.to_owned() })
            }
            _ if self.temporary => Err(NotOurs::Temporary(slot)),
            _ => Ok(()),
        }
    }

    /// Why the slot will never stream again, if so.
    pub fn terminal(&self) -> Option<Terminal> {
        match self.invalidation_reason.as_deref() {
            Some("wal_removed") => Some(Terminal::WalRemoved),
            Some("idle_timeout") => Some(Terminal::IdleTimeout),
            Some("rows_removed") => Some(Terminal::RowsRemoved),
            Some("wal_level_insufficient") => Some(Terminal::WalLevel),
            Some(other) => Some(Terminal::Other(other.to_owned())),
            // Before 17 the reason has no column. 16 calls every lost slot conflicting, but only one whose
            // WAL is gone loses its place as well.
            None if self.conflicting == Some(true) && self.restart_lsn.is_some() => {
                Some(Terminal::Other("a conflict with recovery".into()))
            }
            None if self.wal_status.as_deref() == Some("lost") => Some(Terminal::WalRemoved),
            None => None,
        }
    }

    /// Who holds the slot, for messages: `pid 4711 (txstream, 10.0.0.7)`; `None` when nobody does.
    pub fn held_by(&self) -> Option<String> {
        let pid = self.active_pid?;
        let holder = self.holder.as_ref();
        let details: Vec<&str> = holder
            .into_iter()
            .flat_map(|h| [h.application_name.as_deref(), h.client_addr.as_deref()])
            .flatten()
            .filter(|text| !text.is_empty())
            .collect();
        Some(if details.is_empty() {
            format!("pid {pid}")
        } else {
            format!("pid {pid} ({})", details.join(", "))
        })
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

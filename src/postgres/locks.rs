//! Locks of others that a statement waits for: the wait is bounded at the server, and whoever holds them
//! is named.
//!
//! A deadline of the client alone would leave the statement waiting at the server, and every further
//! attempt beside it.

use std::fmt;
use std::time::Duration;

use postgres_protocol::escape::escape_literal;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::PgError;

/// Longest wait for one lock. Longer than `deadlock_timeout` (1 s), at which the server ends an autovacuum
/// that is in the way and writes into its log what waits.
pub const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Whoever holds a lock on a table or its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// The table, as it was asked for.
    pub table: String,
    /// Backend process id; none for a prepared transaction.
    pub pid: Option<i32>,
    /// Global id of a prepared transaction.
    pub prepared: Option<String>,
    /// What the session calls itself.
    pub application_name: Option<String>,
    /// When its transaction began, as RFC 3339 in UTC; none without the right to see it.
    pub since: Option<String>,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.prepared) {
            (Some(pid), _) => write!(f, "pid {pid}")?,
            (None, Some(gid)) => write!(f, "prepared transaction '{gid}'")?,
            (None, None) => f.write_str("a transaction without session")?,
        }
        if let Some(name) = self.application_name.as_deref().filter(|name| !name.is_empty()) {
            write!(f, " ({name})")?;
        }
        self.since.as_ref().map_or(Ok(()), |since| write!(f, ", in its transaction since {since}"))
    }
}

impl LockHolder {
    /// The SQL that ends it.
    pub(super) fn end(&self) -> Option<String> {
        match (self.pid, &self.prepared) {
            (Some(pid), _) => Some(format!("SELECT pg_terminate_backend({pid});")),
            (None, Some(gid)) => Some(format!("ROLLBACK PREPARED {};", escape_literal(gid))),
            (None, None) => None,
        }
    }
}

/// Who has the tables, for an error's text.
pub(super) fn said(tables: &[String], holders: &[LockHolder]) -> String {
    if holders.is_empty() {
        return format!("{} was locked by a transaction that has ended since", tables.join(" or "));
    }
    let mut text = String::new();
    for table in tables {
        let of_it = holders.iter().filter(|holder| holder.table == *table).take(10);
        let names: Vec<String> = of_it.map(LockHolder::to_string).collect();
        if !names.is_empty() {
            let between = if text.is_empty() { "" } else { "; " };
            text += &format!("{between}{table} or rows of it are locked by {}", names.join("; "));
        }
    }
    text
}

/// Bounds every wait of this session for a lock. Not behind a pooler, which would hand the setting on to
/// the sessions of others.
///
/// # Errors
/// [`PgError`].
pub async fn bound_waits(client: &Client) -> Result<(), PgError> {
    let set = client.batch_execute(&format!("set lock_timeout = {}", LONGEST_WAIT.as_millis())).await;
    set.map_err(|source| PgError::statement("set lock_timeout", source))
}

/// Refuses a table that somebody keeps from being read. Leaves the session's settings as they are: for a
/// connection that may turn out to be a pooler's. Whatever else is wrong with the table is not its business.
///
/// # Errors
/// [`PgError::Locked`].
pub async fn ensure_readable(client: &Client, table: &str) -> Result<(), PgError> {
    // One message is one transaction: the setting ends with it. The lock is taken before a row is looked for.
    let sql = format!("set local lock_timeout = {}; select from {table} limit 0", LONGEST_WAIT.as_millis());
    match client.batch_execute(&sql).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            Err(locked(client, &format!("read {table}"), &[table]).await)
        }
        _ => Ok(()),
    }
}

/// The error of a statement that gave up waiting for one of these tables, or for rows of it.
pub async fn locked(client: &Client, doing: &str, tables: &[&str]) -> PgError {
    match holders(client, tables).await {
        Ok(holders) => PgError::Locked {
            doing: doing.to_owned(),
            tables: tables.iter().map(|table| (*table).to_owned()).collect(),
            holders,
        },
        Err(source) => PgError::statement("look for those who hold a lock", source),
    }
}

/// Who could be in the way: whoever holds more than a reader's lock, those who only wait themselves last. A
/// reader is in the way of who waits to have a table alone, and that one of everybody behind him.
async fn holders(client: &Client, tables: &[&str]) -> Result<Vec<LockHolder>, tokio_postgres::Error> {
    const SQL: &str = r#"
        select distinct t.name, l.pid, p.gid, a.application_name,
               to_char(coalesce(a.xact_start, p.prepared) at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as since,
               exists (select from pg_catalog.pg_locks w where w.pid = l.pid and not w.granted) as waits
          from unnest($1) as t(name)
          join pg_catalog.pg_locks l on l.locktype = 'relation' and l.relation = to_regclass(t.name)
           and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
          left join pg_catalog.pg_stat_activity a on a.pid = l.pid
          left join pg_catalog.pg_prepared_xacts p on l.virtualtransaction = '-1/' || p.transaction
         where l.pid is distinct from pg_backend_pid()
           and (l.mode <> 'AccessShareLock'
                or exists (select from pg_catalog.pg_locks w
                            where w.locktype = 'relation' and w.relation = l.relation and w.database = l.database
                              and not w.granted and w.mode = 'AccessExclusiveLock'))
         order by waits, since, pid"#;
    let rows = client.query_typed(SQL, &[(&tables, Type::TEXT_ARRAY)]).await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<LockHolder, tokio_postgres::Error> {
    Ok(LockHolder {
        table: row.try_get(0)?,
        pid: row.try_get(1)?,
        prepared: row.try_get(2)?,
        application_name: row.try_get(3)?,
        since: row.try_get(4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_in_the_way_is_named_with_what_ends_it() {
        let holder = |table: &str, pid, prepared: Option<&str>, name: Option<&str>| LockHolder {
            table: table.into(),
            pid,
            prepared: prepared.map(str::to_owned),
            application_name: name.map(str::to_owned),
            since: Some("2026-01-02T03:04:05Z".into()),
        };
        let (session, prepared) =
            (holder("a", Some(7), None, Some("psql")), holder("b", None, Some("x"), None));
        let tables = ["a".to_owned(), "b".to_owned()];
        assert_eq!(
            said(&tables, &[session.clone(), prepared.clone()]),
            "a or rows of it are locked by pid 7 (psql), in its transaction since 2026-01-02T03:04:05Z; \
             b or rows of it are locked by prepared transaction 'x', in its transaction since 2026-01-02T03:04:05Z"
        );
        assert_eq!(said(&tables, &[]), "a or b was locked by a transaction that has ended since");
        assert_eq!(session.end().unwrap(), "SELECT pg_terminate_backend(7);");
        assert_eq!(prepared.end().unwrap(), "ROLLBACK PREPARED 'x';");
    }
}

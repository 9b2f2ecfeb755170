//! Whom the creation of a slot waits for: every transaction, of any database, that was writing when
//! the creation began.

use std::collections::HashSet;
use std::fmt;

use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};

use crate::postgres::PgError;

/// A transaction that a new slot has to wait for.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocker {
    /// Its transaction id.
    pub xid: String,
    /// Backend process id; none for a prepared transaction.
    pub pid: Option<i32>,
    /// Global id of a prepared transaction.
    pub prepared: Option<String>,
    /// What the session calls itself.
    pub application_name: Option<String>,
    /// Age in seconds; none without the right to see it.
    pub age_seconds: Option<f64>,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.prepared) {
            (Some(pid), _) => write!(f, "pid {pid}")?,
            (None, Some(gid)) => write!(f, "prepared transaction '{gid}'")?,
            (None, None) => write!(f, "transaction {}", self.xid)?,
        }
        if let Some(name) = self.application_name.as_deref().filter(|name| !name.is_empty()) {
            write!(f, " ({name})")?;
        }
        self.age_seconds.map_or(Ok(()), |age| write!(f, ", open for {age:.0} s"))
    }
}

/// The transactions that are writing now, oldest first, but our own.
pub(super) async fn writing<C: GenericClient + Sync>(client: &C) -> Result<Vec<Blocker>, PgError> {
    let failed = |source| PgError::statement("look for open transactions", source);
    let rows = client
        .query_typed(
            "select l.transactionid::text, l.pid, p.gid, a.application_name,
                    extract(epoch from clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8
               from pg_catalog.pg_locks l
               left join pg_catalog.pg_stat_activity a on a.pid = l.pid
               left join pg_catalog.pg_prepared_xacts p on p.transaction = l.transactionid
              where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
                and l.pid is distinct from pg_backend_pid()
              order by age(l.transactionid) desc limit $1",
            &[(&1000_i64, Type::INT8)],
        )
        .await
        .map_err(failed)?;
    rows.iter().map(read).collect::<Result<_, _>>().map_err(failed)
}

fn read(row: &Row) -> Result<Blocker, tokio_postgres::Error> {
    Ok(Blocker {
        xid: row.try_get(0)?,
        pid: row.try_get(1)?,
        prepared: row.try_get(2)?,
        application_name: row.try_get(3)?,
        age_seconds: row.try_get(4)?,
    })
}

/// Those of `after` that were there `before`: the ones a creation in between waited for.
pub(super) fn still(before: &[Blocker], after: Vec<Blocker>) -> Vec<Blocker> {
    let before: HashSet<&str> = before.iter().map(|b| b.xid.as_str()).collect();
    after.into_iter().filter(|b| before.contains(b.xid.as_str())).collect()
}

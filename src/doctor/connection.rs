//! The connections for ordinary SQL: to the server to replicate from, and where applications write if that
//! is another address.

use std::time::Duration;

use postgres_protocol::escape::escape_identifier;
use tokio::time::{Instant, sleep};

use super::{Finding, Subject};
use crate::postgres::error::Class;
use crate::postgres::sql::{self, SqlConn};
use crate::postgres::{ConnInfo, PgError};

pub(super) const NAME: &str = "postgres";

/// Time between two tries while `--wait` lasts.
const RETRY: Duration = Duration::from_millis(250);

/// The connection that the other checks use, if there is one.
pub(super) async fn connect(subject: &Subject) -> (Option<SqlConn>, Vec<Finding>) {
    let info = &subject.replication;
    let client = match open(info, subject.wait).await {
        Ok(client) => client,
        Err(error) => return (None, vec![refused(&error, info)]),
    };
    let mut findings = match whereabouts(&client).await {
        Ok(here) => vec![Finding::ok(NAME, format!("{} at {}", here.version, info.redacted()))],
        Err(error) => vec![Finding::failed(NAME, &error)],
    };
    if !subject.database.same_target(&subject.replication) {
        findings.push(compare(subject, &client).await);
    }
    (Some(client), findings)
}

async fn open(info: &ConnInfo, wait: Duration) -> Result<SqlConn, PgError> {
    let deadline = Instant::now() + wait;
    let mut said = false;
    loop {
        match sql::connect(info, "txstream doctor").await {
            Err(error) if error.class() == Class::Retry && Instant::now() < deadline => {
                if !said {
                    tracing::info!(error = %error.report(), wait = ?wait, "waiting for Postgres");
                    said = true;
                }
                sleep(RETRY).await;
            }
            done => return done,
        }
    }
}

fn refused(error: &PgError, info: &ConnInfo) -> Finding {
    let (role, database) = (escape_identifier(&info.user), escape_identifier(&info.dbname));
    let mend = match error.sqlstate() {
        Some("42501") => format!("GRANT CONNECT ON DATABASE {database} TO {role};"),
        Some("53300") => "raise max_connections, or close connections that nobody needs".to_owned(),
        _ => error.hint().unwrap_or_else(|| "check DATABASE_URL or DB_*, and REPLICATION_URL".to_owned()),
    };
    Finding::fail(NAME, error.report()).mended_by(mend)
}

/// Where a connection leads.
struct Whereabouts {
    version: String,
    system_identifier: String,
    database: String,
}

async fn whereabouts(client: &SqlConn) -> Result<Whereabouts, PgError> {
    let failed = |source| PgError::statement("look where the connection leads", source);
    let row = client
        .query_typed_one(
            "select 'PostgreSQL ' || current_setting('server_version'), system_identifier::text, current_database()::text
               from pg_catalog.pg_control_system()",
            &[],
        )
        .await
        .map_err(failed)?;
    Ok(Whereabouts {
        version: row.try_get(0).map_err(failed)?,
        system_identifier: row.try_get(1).map_err(failed)?,
        database: row.try_get(2).map_err(failed)?,
    })
}

/// Rows written to one database never come out of another's slot.
async fn compare(subject: &Subject, client: &SqlConn) -> Finding {
    let there = async {
        let database = open(&subject.database, subject.wait).await?;
        Ok::<_, PgError>((whereabouts(&database).await?, whereabouts(client).await?))
    };
    match there.await {
        Err(error) => refused(&error, &subject.database),
        Ok((sql, slot)) if sql.system_identifier != slot.system_identifier || sql.database != slot.database => {
            Finding::fail(
                NAME,
                format!(
                    "DATABASE_URL leads to database {} of cluster {}, REPLICATION_URL to {} of {}: rows written to the \
                     one never come from the other",
                    sql.database, sql.system_identifier, slot.database, slot.system_identifier
                ),
            )
            .mended_by("set DATABASE_URL and REPLICATION_URL to the same database of the same cluster")
        }
        Ok(_) => Finding::ok(NAME, "DATABASE_URL and REPLICATION_URL lead to the same database"),
    }
}

//! What a slot would send, decoded on the server without moving it. The slot must not be in use.

use std::time::Duration;

use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::postgres::replication::ReplicationConn;
use crate::postgres::{Lsn, PgError};

/// Longest time to decode: a backlog of many gigabytes is not worth a number.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest time until the first change is decoded.
const FIRST: Duration = Duration::from_secs(5);

/// Rows inserted into one table, as the slot would send them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inserts {
    /// The table's OID, of the root where published via the root.
    pub table: u32,
    /// How many rows.
    pub rows: u64,
    /// The oldest transaction that inserted them, as a 64-bit id. Ids of its savepoints are higher.
    pub oldest_xid: u64,
}

/// The inserts that the slot would send, per table: of the transactions committed before `until`, or of
/// all. `None` when that takes too long, or they cannot be decoded.
///
/// # Errors
/// [`PgError`] when the connection fails.
pub async fn inserts(
    client: &Client,
    slot: &str,
    publication: &str,
    until: Option<Lsn>,
) -> Result<Option<Vec<Inserts>>, PgError> {
    const DOING: &str = "count what the slot holds";
    let until = until.map_or_else(|| "null".to_owned(), |lsn| escape_literal(&lsn.to_string()));
    // Byte 0 is the kind of message, 1 to 4 the table of an insert. One message is one transaction, so
    // the limit ends with it.
    let sql = format!(
        "set local statement_timeout = {};
         with next as (select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint as xid),
         inserts as (
             select xid::text::bigint as xid,
                    get_byte(data, 1)::bigint << 24 | get_byte(data, 2) << 16 | get_byte(data, 3) << 8 | get_byte(data, 4)
                    as relation
               from pg_catalog.pg_logical_slot_peek_binary_changes({}, {until}, null,
                    'proto_version', '1', 'publication_names', {})
              where get_byte(data, 0) = ascii('I'))
         select relation, count(*), min(inserts.xid + 4294967296 * greatest(
                    (next.xid >> 32) - (inserts.xid >= (next.xid & 4294967295))::int, 0))
           from inserts, next group by relation",
        PATIENCE.as_millis(),
        escape_literal(slot),
        escape_literal(&escape_identifier(publication)),
    );
    match client.simple_query(&sql).await {
        Ok(messages) => {
            let rows = messages.iter().filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            let parsed: Option<Vec<Inserts>> = rows
                .map(|row| {
                    Some(Inserts {
                        table: row.get(0)?.parse().ok()?,
                        rows: row.get(1)?.parse().ok()?,
                        oldest_xid: row.get(2)?.parse().ok()?,
                    })
                })
                .collect();
            parsed.map(Some).ok_or_else(|| PgError::protocol(DOING, "numbers that are none"))
        }
        Err(error) if error.code().is_some_and(|code| *code != SqlState::ADMIN_SHUTDOWN) => {
            tracing::debug!(error = %crate::postgres::error::report(&error), "the slot's changes cannot be decoded");
            Ok(None)
        }
        Err(error) => Err(PgError::statement(DOING, error)),
    }
}

/// Whether the slot decodes with a catalog in which the publication does not exist: its next change
/// fails up to PostgreSQL 17, and is skipped with a warning from 18 on. A slot without any change to
/// decode is well. `None`: it takes too long to find the first.
///
/// # Errors
/// [`PgError`] when the connection fails, or the slot cannot be decoded for another reason.
pub async fn publication_is_missing(
    replication: &mut ReplicationConn,
    slot: &str,
    publication: &str,
) -> Result<Option<bool>, PgError> {
    replication.simple_query(&format!("SET statement_timeout = {}", FIRST.as_millis())).await?;
    let sql = format!(
        "SELECT count(*) FROM pg_catalog.pg_logical_slot_peek_binary_changes({}, NULL, 1, 'proto_version', '1',
             'publication_names', {})",
        escape_literal(slot),
        escape_literal(&escape_identifier(publication)),
    );
    let answer = replication.simple_query(&sql).await;
    let warned = replication.take_notices().iter().any(|notice| notice.code == "55000");
    match answer {
        Ok(_) => Ok(Some(warned)),
        Err(error) => match error.sqlstate() {
            Some("42704") => Ok(Some(true)),
            Some("57014") => Ok(warned.then_some(true)),
            _ => Err(error),
        },
    }
}

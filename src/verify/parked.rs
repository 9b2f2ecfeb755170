//! Rows that are in `txstream_dead_letter` instead of Kafka.

use std::collections::HashSet;

use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::VerifyError;
use super::book::NotFound;
use crate::postgres::PgError;

const TABLE: &str = "public.txstream_dead_letter";

/// Ids asked for at once.
const IDS: usize = 1_000;

/// Which of these rows, by place, are parked; a table that is missing holds none. `Err` with what says so when
/// the role may not read it.
///
/// # Errors
/// [`VerifyError`] when the table cannot be read.
pub(super) async fn parked(
    client: &Client,
    slot: &str,
    tables: &[String],
    rows: &[NotFound],
) -> Result<Result<HashSet<usize>, VerifyError>, VerifyError> {
    let mut found = HashSet::new();
    match letters(client, slot).await? {
        Letters::Some => {}
        Letters::None => return Ok(Ok(found)),
        Letters::Hidden { role } => {
            let sql = format!("GRANT SELECT ON {TABLE} TO {};", escape_identifier(&role));
            return Ok(Err(VerifyError::NoRight { role, table: TABLE.to_owned(), sql }));
        }
    }
    for (table, name) in tables.iter().enumerate() {
        let own: Vec<(usize, &str)> = rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.table == table)
            .map(|(at, row)| (at, row.id.as_str()))
            .collect();
        for chunk in own.chunks(IDS) {
            let ids: Vec<&str> = chunk.iter().map(|(_, id)| *id).collect();
            let sql = "select row_id from public.txstream_dead_letter
                        where slot = $1 and table_name = $2 and row_id = any($3)";
            let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
                [(&slot, Type::TEXT), (name, Type::TEXT), (&ids, Type::TEXT_ARRAY)];
            let answer = client.query_typed(sql, &params).await.map_err(reading)?;
            let known = answer.iter().map(|row| row.try_get(0)).collect::<Result<HashSet<String>, _>>();
            let known = known.map_err(reading)?;
            found.extend(chunk.iter().filter(|(_, id)| known.contains(*id)).map(|(at, _)| *at));
        }
    }
    Ok(Ok(found))
}

/// Whether the slot has parked records.
enum Letters {
    Some,
    None,
    /// We may not know.
    Hidden {
        role: String,
    },
}

/// Asked in two steps, so that no statement fails that would end the snapshot's transaction.
async fn letters(client: &Client, slot: &str) -> Result<Letters, VerifyError> {
    let sql =
        "select pg_catalog.has_table_privilege(pg_catalog.to_regclass($1), 'select'), current_user::text";
    let row = client.query_typed_one(sql, &[(&TABLE, Type::TEXT)]).await.map_err(reading)?;
    match row.try_get(0).map_err(reading)? {
        None => return Ok(Letters::None),
        Some(false) => return Ok(Letters::Hidden { role: row.try_get(1).map_err(reading)? }),
        Some(true) => {}
    }
    let sql = "select exists (select from public.txstream_dead_letter where slot = $1)";
    let row = client.query_typed_one(sql, &[(&slot, Type::TEXT)]).await.map_err(reading)?;
    Ok(if row.try_get(0).map_err(reading)? { Letters::Some } else { Letters::None })
}

fn reading(error: tokio_postgres::Error) -> PgError {
    PgError::statement("look for parked records", error)
}

//! Rows that are in `txstream_dead_letter` instead of Kafka.

use std::collections::HashSet;

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::VerifyError;
use super::book::NotFound;
use crate::postgres::PgError;

/// Ids asked for at once.
const IDS: usize = 1_000;

/// Which of these rows, by place, are parked.
///
/// # Errors
/// [`VerifyError`] when the table cannot be read; one that is missing or may not be read holds none.
pub(super) async fn parked(
    client: &Client,
    slot: &str,
    tables: &[String],
    rows: &[NotFound],
) -> Result<HashSet<usize>, VerifyError> {
    let mut found = HashSet::new();
    if !any(client, slot).await? {
        return Ok(found);
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
    Ok(found)
}

/// Whether the slot has parked records, and we may see them. Asked in two steps, so that no statement fails
/// that would end the snapshot's transaction.
async fn any(client: &Client, slot: &str) -> Result<bool, VerifyError> {
    let sql = "select coalesce(pg_catalog.has_table_privilege(pg_catalog.to_regclass('public.txstream_dead_letter'),
                                                              'select'), false)";
    let row = client.query_typed_one(sql, &[]).await.map_err(reading)?;
    if !row.try_get::<_, bool>(0).map_err(reading)? {
        return Ok(false);
    }
    let sql = "select exists (select from public.txstream_dead_letter where slot = $1)";
    let row = client.query_typed_one(sql, &[(&slot, Type::TEXT)]).await.map_err(reading)?;
    Ok(row.try_get(0).map_err(reading)?)
}

fn reading(error: tokio_postgres::Error) -> PgError {
    PgError::statement("look for parked records", error)
}

//! What a relay asks of the table. It may hold any number of letters, and a start, and whoever waits for letters
//! to be stored, wait for the answers: none but the count takes longer for there being more letters of a key, and
//! the count is given up at the server.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{PgLsn, ToSql, Type};
use tokio_postgres::{Client, Row};

use super::store::stored_topic;
use super::{DeadLetterError, lock_key};
use crate::postgres::{Lsn, PgError};

/// Topic and key of records.
pub type Key = (Arc<str>, Bytes);

/// Only by an index, in its order: what the planner knows of a table that filled up a moment ago, or was never
/// analysed, may be that it is empty.
const BY_INDEX: &str =
    "set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off";

/// A query in a transaction of its own, under these settings.
async fn query_under(
    client: &Client,
    settings: &str,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    client.batch_execute(&format!("begin read only; {settings}")).await?;
    let rows = client.query_typed(sql, parameters).await;
    let ended = client.batch_execute(if rows.is_ok() { "commit" } else { "rollback" }).await;
    let rows = rows?;
    ended.map(|()| rows)
}

/// Whether the table holds letters of the slot.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn holds_letters(client: &Client, slot: &str) -> Result<bool, DeadLetterError> {
    const DOING: &str = "look whether there are dead letters";
    const SQL: &str = "select from public.txstream_dead_letter where slot = $1 limit 1";
    match query_under(client, BY_INDEX, SQL, &[(&slot, Type::TEXT)]).await {
        Ok(rows) => Ok(!rows.is_empty()),
        Err(error) => Err(DeadLetterError::of(client, DOING, error).await),
    }
}

/// The keys of which the table holds letters, each found behind the one before it in the index of keys. That one
/// has the keys' MD5: of two that somebody made to have the same one only that of the older letter is found.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn parked_keys(client: &Client, slot: &str) -> Result<Vec<Key>, DeadLetterError> {
    const DOING: &str = "read the parked keys";
    const SQL: &str = "with recursive parked as (
            (select topic, md5(key) as hash, key from public.txstream_dead_letter
              where slot = $1 and topic is not null
              order by slot, topic, md5(key), commit_lsn, ordinal limit 1)
            union all
            select next.topic, next.hash, next.key
              from parked, lateral (
                   select l.topic, md5(l.key) as hash, l.key from public.txstream_dead_letter l
                    where l.slot = $1 and (l.topic, md5(l.key)) > (parked.topic, parked.hash)
                    order by l.slot, l.topic, md5(l.key), l.commit_lsn, l.ordinal limit 1) as next)
         select topic, key from parked";
    let rows = match query_under(client, BY_INDEX, SQL, &[(&slot, Type::TEXT)]).await {
        Ok(rows) => rows,
        Err(error) => return Err(DeadLetterError::of(client, DOING, error).await),
    };
    let key = |row: &Row| {
        let (topic, key): (&str, &[u8]) = (row.try_get(0)?, row.try_get(1)?);
        Ok((Arc::from(topic), Bytes::copy_from_slice(key)))
    };
    let keys: Result<_, tokio_postgres::Error> = rows.iter().map(key).collect();
    Ok(keys.map_err(|source| PgError::statement(DOING, source))?)
}

/// What a look at the table found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Those of the keys asked for of which the table holds no letter.
    pub gone: Vec<Key>,
    /// Somebody replays or discards letters right now.
    pub replaying: bool,
}

/// Looks whether the table still holds letters of these keys.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn look(client: &Client, slot: &str, keys: &[Key]) -> Result<Look, DeadLetterError> {
    const DOING: &str = "look at the dead letters";
    // Two statements: whether someone replays is asked first, so that the end of a replay that is not
    // seen here has its deletions seen there. The first letter from a key on, in the order of the index of keys,
    // is of that key or there is none: the planner must not take another index for a match.
    const REPLAYING: &str = "select not pg_catalog.pg_try_advisory_xact_lock_shared($1)";
    const GONE: &str = "select k.place
           from unnest($2, $3) with ordinality as k(topic, key, place)
           left join lateral (
                select l.topic, md5(l.key) as hash from public.txstream_dead_letter l
                 where l.slot = $1 and (l.topic, md5(l.key)) >= (k.topic, md5(k.key))
                 order by l.slot, l.topic, md5(l.key), l.commit_lsn, l.ordinal limit 1) as first on true
          where first.topic is distinct from k.topic or first.hash is distinct from md5(k.key)";
    let failed = |source| PgError::statement(DOING, source);
    let row = client.query_typed_one(REPLAYING, &[(&lock_key(slot), Type::INT8)]).await.map_err(failed)?;
    let replaying: bool = row.try_get(0).map_err(failed)?;
    let topics: Vec<Cow<'_, str>> = keys.iter().map(|(topic, _)| stored_topic(topic)).collect();
    let bytes: Vec<&[u8]> = keys.iter().map(|(_, key)| &key[..]).collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&slot, Type::TEXT), (&topics, Type::TEXT_ARRAY), (&bytes, Type::BYTEA_ARRAY)];
    let rows = match query_under(client, BY_INDEX, GONE, &parameters).await {
        Ok(rows) => rows,
        Err(error) => return Err(DeadLetterError::of(client, DOING, error).await),
    };
    let mut gone = Vec::new();
    for row in rows {
        let place: i64 = row.try_get(0).map_err(failed)?;
        let index = usize::try_from(place - 1).unwrap_or(usize::MAX);
        gone.extend(keys.get(index).cloned());
    }
    Ok(Look { gone, replaying })
}

/// Letters whose places lie beyond the end of the server's WAL: another WAL gave them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beyond {
    /// How many; [`MOST_BEYOND`] is so many or more.
    pub letters: u64,
    /// The end of the server's WAL.
    pub end: Lsn,
}

/// So many letters beyond the end of WAL are counted: one is too many.
pub const MOST_BEYOND: u64 = 1_000;

/// The letters of a slot beyond the end of the server's WAL, if there are any.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn beyond(client: &Client, slot: &str) -> Result<Option<Beyond>, DeadLetterError> {
    const DOING: &str = "look where the dead letters stand";
    // From the highest place down, so that nothing is read of a table without one.
    const SQL: &str = "with now as materialized (select pg_catalog.pg_current_wal_insert_lsn() as lsn)
         select (select count(*) from (select from public.txstream_dead_letter l
                                        where l.slot = $1 and l.commit_lsn > now.lsn
                                        order by l.slot desc, l.commit_lsn desc limit $2) as beyond), now.lsn
           from now";
    let most = MOST_BEYOND.cast_signed();
    let rows = match query_under(client, BY_INDEX, SQL, &[(&slot, Type::TEXT), (&most, Type::INT8)]).await {
        Ok(rows) => rows,
        Err(error) => return Err(DeadLetterError::of(client, DOING, error).await),
    };
    let failed = |source| PgError::statement(DOING, source);
    let row = rows.first().ok_or_else(|| PgError::protocol(DOING, "an answer without rows"))?;
    let letters: i64 = row.try_get(0).map_err(failed)?;
    let end: PgLsn = row.try_get(1).map_err(failed)?;
    let beyond = Beyond { letters: letters.cast_unsigned(), end: Lsn(u64::from(end)) };
    Ok((letters > 0).then_some(beyond))
}

/// How many letters each topic has; rows that have none go by `other`. `None` when counting them took longer
/// than `limit`, at which the server gives it up, or somebody cancelled it.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn counts(
    client: &Client,
    slot: &str,
    limit: Duration,
) -> Result<Option<Vec<(String, u64)>>, DeadLetterError> {
    const DOING: &str = "count the dead letters";
    const SQL: &str = "select coalesce(topic, 'other'), count(*) from public.txstream_dead_letter
                        where slot = $1 group by 1";
    // 0 would be no limit.
    let bound = format!("set local statement_timeout = {}", limit.as_millis().max(1));
    let rows = match query_under(client, &bound, SQL, &[(&slot, Type::TEXT)]).await {
        Ok(rows) => rows,
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => return Ok(None),
        Err(error) => return Err(DeadLetterError::of(client, DOING, error).await),
    };
    let failed = |source| PgError::statement(DOING, source);
    let mut counts = Vec::new();
    for row in rows {
        let count: i64 = row.try_get(1).map_err(failed)?;
        counts.push((row.try_get(0).map_err(failed)?, count.cast_unsigned()));
    }
    Ok(Some(counts))
}

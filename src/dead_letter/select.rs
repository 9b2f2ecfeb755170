//! What people ask of the table: list, show, delete.

use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::{DeadLetterError, LOCALLY};
use crate::outbox::{Header, Record};
use crate::postgres::PgError;

/// Which letters of a slot are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    All,
    /// Those of the row with this id.
    Id(String),
    /// Those of a key, as people write it: as it is, or `\x` and hex digits.
    Key {
        /// The topic; none is any.
        topic: Option<String>,
        /// The Kafka key.
        key: String,
    },
}

impl Selection {
    fn id(&self) -> Option<&str> {
        match self {
            Self::Id(id) => Some(id),
            _ => None,
        }
    }

    fn topic(&self) -> Option<&str> {
        match self {
            Self::Key { topic, .. } => topic.as_deref(),
            _ => None,
        }
    }

    /// The bytes that the key may stand for.
    fn keys(&self) -> Option<Vec<Vec<u8>>> {
        let Self::Key { key, .. } = self else { return None };
        let mut keys = vec![key.as_bytes().to_vec()];
        keys.extend(key.strip_prefix("\\x").and_then(from_hex));
        Some(keys)
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

/// Bytes as people read them: text if they are text without control characters, else `\x` and hex digits.
pub fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) => text.to_owned(),
        _ => bytes.iter().fold("\\x".to_owned(), |text, byte| text + &format!("{byte:02x}")),
    }
}

/// A letter as the table has it, without its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names this stored version of it.
    pub seq: i64,
    /// The outbox table.
    pub table: String,
    /// The row's id, where it has one.
    pub row_id: Option<String>,
    /// Where the commit record of its transaction begins.
    pub commit_lsn: String,
    /// Its place among the records of the transaction.
    pub ordinal: i64,
    /// Topic and key, where it has a record.
    pub target: Option<(String, Bytes)>,
    /// The event's type.
    pub event_type: Option<String>,
    /// Why, in one word.
    pub reason: String,
    /// Why, in a sentence.
    pub error: String,
    /// When it was stored, as RFC 3339 in UTC.
    pub parked_at: String,
    /// Bytes of the value.
    pub payload_bytes: i64,
}

const ENTRY: &str = "seq, table_name, row_id, commit_lsn::text, ordinal, topic, key, event_type, reason, error,
    to_char(parked_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), coalesce(octet_length(payload), 0)::bigint";

/// Restricts to a selection: slot, id, keys, topic are $1 to $4.
const SELECTED: &str = "slot = $1 and ($2::text is null or row_id = $2)
    and ($3::bytea[] is null or key = any($3)) and ($4::text is null or topic = $4)";

/// The letters, oldest first, at most `most` of them.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn list(
    client: &Client,
    slot: &str,
    selection: &Selection,
    most: i64,
) -> Result<Vec<Entry>, DeadLetterError> {
    const DOING: &str = "list the dead letters";
    let sql = format!(
        "select {ENTRY} from public.txstream_dead_letter where {SELECTED} order by commit_lsn, ordinal limit $5"
    );
    let rows = query(client, DOING, &sql, slot, selection, most).await?;
    rows.iter().map(|row| entry(row).map_err(|source| PgError::statement(DOING, source).into())).collect()
}

fn entry(row: &Row) -> Result<Entry, tokio_postgres::Error> {
    let topic: Option<String> = row.try_get(5)?;
    let key: Option<&[u8]> = row.try_get(6)?;
    Ok(Entry {
        seq: row.try_get(0)?,
        table: row.try_get(1)?,
        row_id: row.try_get(2)?,
        commit_lsn: row.try_get(3)?,
        ordinal: row.try_get(4)?,
        target: topic.zip(key.map(Bytes::copy_from_slice)),
        event_type: row.try_get(7)?,
        reason: row.try_get(8)?,
        error: row.try_get(9)?,
        parked_at: row.try_get(10)?,
        payload_bytes: row.try_get(11)?,
    })
}

async fn query(
    client: &Client,
    doing: &str,
    sql: &str,
    slot: &str,
    selection: &Selection,
    most: i64,
) -> Result<Vec<Row>, DeadLetterError> {
    let (id, keys, topic) = (selection.id(), selection.keys(), selection.topic());
    let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
        (&slot, Type::TEXT),
        (&id, Type::TEXT),
        (&keys, Type::BYTEA_ARRAY),
        (&topic, Type::TEXT),
        (&most, Type::INT8),
    ];
    match client.query_typed(sql, &parameters).await {
        Ok(rows) => Ok(rows),
        Err(error) => Err(DeadLetterError::of(client, doing, error).await),
    }
}

/// Topic and key.
pub(super) type Target = (String, Bytes);

/// The keys of a selection that have letters, in the order of their first.
///
/// # Errors
/// [`DeadLetterError`].
pub(super) async fn targets(
    client: &Client,
    slot: &str,
    selection: &Selection,
) -> Result<Vec<Target>, DeadLetterError> {
    const DOING: &str = "list the parked keys";
    let sql = format!(
        "select topic, key from public.txstream_dead_letter where {SELECTED} and topic is not null
          group by 1, 2 order by min(commit_lsn) limit $5"
    );
    let rows = query(client, DOING, &sql, slot, selection, i64::MAX).await?;
    let failed = |source| PgError::statement(DOING, source);
    let mut targets = Vec::new();
    for row in &rows {
        let key: &[u8] = row.try_get(1).map_err(failed)?;
        targets.push((row.try_get(0).map_err(failed)?, Bytes::copy_from_slice(key)));
    }
    Ok(targets)
}

/// How many letters and keys are meant, and how many of the letters have no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Letters.
    pub letters: u64,
    /// Keys (with their topics).
    pub keys: u64,
    /// Letters without a record: rows that could not be mapped.
    pub rows: u64,
    /// The newest version among them: what is stored later was not counted.
    pub last_seq: i64,
}

/// Counts a selection.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn extent(client: &Client, slot: &str, selection: &Selection) -> Result<Extent, DeadLetterError> {
    const DOING: &str = "count the dead letters";
    let sql = format!(
        "select count(*), count(distinct (topic, key)) filter (where topic is not null),
                count(*) filter (where topic is null), coalesce(max(seq), 0)
           from public.txstream_dead_letter where {SELECTED} and $5::bigint is not null"
    );
    let rows = query(client, DOING, &sql, slot, selection, 0).await?;
    let failed = |source| PgError::statement(DOING, source);
    let row = rows.first().ok_or_else(|| PgError::protocol(DOING, "an answer without rows"))?;
    let number = |index| row.try_get::<_, i64>(index).map(i64::cast_unsigned).map_err(failed);
    Ok(Extent {
        letters: number(0)?,
        keys: number(1)?,
        rows: number(2)?,
        last_seq: row.try_get(3).map_err(failed)?,
    })
}

/// Deletes the letters of a selection that were stored when it was counted; returns how many.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn discard(
    client: &Client,
    slot: &str,
    selection: &Selection,
    counted: Extent,
) -> Result<u64, DeadLetterError> {
    let sql = format!(
        "{LOCALLY} delete from public.txstream_dead_letter using durability where {SELECTED} and seq <= $5
         returning null::int"
    );
    let rows = query(client, "discard dead letters", &sql, slot, selection, counted.last_seq).await?;
    Ok(rows.len() as u64)
}

/// Deletes letters that Kafka has, by their versions.
///
/// # Errors
/// [`DeadLetterError`].
pub(super) async fn delete(client: &Client, versions: &[i64]) -> Result<u64, DeadLetterError> {
    let sql =
        format!("{LOCALLY} delete from public.txstream_dead_letter using durability where seq = any($1)");
    match client.execute_typed(&sql, &[(&versions, Type::INT8_ARRAY)]).await {
        Ok(rows) => Ok(rows),
        Err(error) => Err(DeadLetterError::of(client, "delete replayed letters", error).await),
    }
}

/// What a letter holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// A record, byte for byte.
    Record(Record),
    /// The columns of a row that has no record, as JSON.
    Row(serde_json::Value),
}

const CONTENTS: &str = "topic, key, payload, header_names, header_values, event_type, columns";

/// A letter's contents, if it is still there.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn contents(client: &Client, seq: i64) -> Result<Option<Contents>, DeadLetterError> {
    const DOING: &str = "read a dead letter";
    let sql = format!("select {CONTENTS} from public.txstream_dead_letter where seq = $1");
    match client.query_typed_opt(&sql, &[(&seq, Type::INT8)]).await {
        Ok(None) => Ok(None),
        Ok(Some(row)) => {
            let read = || {
                let columns: Option<serde_json::Value> = row.try_get(6)?;
                columns.map_or_else(|| record(&row, 0).map(Contents::Record), |row| Ok(Contents::Row(row)))
            };
            Ok(Some(read().map_err(|source| PgError::statement(DOING, source))?))
        }
        Err(error) => Err(DeadLetterError::of(client, DOING, error).await),
    }
}

/// The record whose columns begin at `from`: topic, key, payload, header names and values, event type.
pub(super) fn record(row: &Row, from: usize) -> Result<Record, tokio_postgres::Error> {
    let bytes = |value: &[u8]| Bytes::copy_from_slice(value);
    let names: Vec<&str> = row.try_get(from + 3)?;
    let values: Vec<Option<&[u8]>> = row.try_get(from + 4)?;
    let headers = names.into_iter().zip(values);
    Ok(Record {
        topic: Arc::from(row.try_get::<_, &str>(from)?),
        key: bytes(row.try_get(from + 1)?),
        payload: row.try_get::<_, Option<&[u8]>>(from + 2)?.map(bytes),
        headers: headers
            .map(|(name, value)| Header { name: Arc::from(name), value: value.map(bytes) })
            .collect(),
        event_type: row
            .try_get::<_, Option<&str>>(from + 5)?
            .map_or_else(Bytes::new, |t| bytes(t.as_bytes())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_meant_as_it_is_written_or_as_hex_digits() {
        let keys = |key: &str| Selection::Key { topic: None, key: key.to_owned() }.keys().unwrap();
        assert_eq!(keys("order-1"), [b"order-1".to_vec()]);
        assert_eq!(keys("\\x00ff"), [b"\\x00ff".to_vec(), vec![0, 255]]);
        assert_eq!(keys("\\xé0"), ["\\xé0".as_bytes().to_vec()]);
        assert_eq!(keys(""), [Vec::<u8>::new()]);
    }

    #[test]
    fn bytes_are_shown_as_text_where_they_are_text() {
        for (bytes, shown) in
            [(&b"order-1"[..], "order-1"), (b"\xff\x00", "\\xff00"), (b"a\x1b[", "\\x611b5b")]
        {
            assert_eq!(readable(bytes), shown);
        }
    }
}

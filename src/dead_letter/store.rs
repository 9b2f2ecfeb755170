//! Storing letters, and what a relay asks of the table.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::Client;
use tokio_postgres::types::{PgLsn, Type};

use super::{Content, DeadLetterError, LOCALLY, Letter, TABLE, lock_key};
use crate::outbox::Header;
use crate::postgres::{Lsn, PgError};

/// Longest name of a topic at Kafka.
const LONGEST_TOPIC: usize = 249;

/// Topic and key of records.
pub type Key = (Arc<str>, Bytes);

/// The keys of which the table holds letters.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn parked_keys(client: &Client, slot: &str) -> Result<Vec<Key>, DeadLetterError> {
    const DOING: &str = "read the parked keys";
    const SQL: &str = "select distinct topic, key from public.txstream_dead_letter
                        where slot = $1 and topic is not null";
    let rows = match client.query_typed(SQL, &[(&slot, Type::TEXT)]).await {
        Ok(rows) => rows,
        Err(error) => return Err(DeadLetterError::of(client, DOING, error).await),
    };
    let key = |row: &tokio_postgres::Row| {
        let (topic, key): (&str, &[u8]) = (row.try_get(0)?, row.try_get(1)?);
        Ok((Arc::from(topic), Bytes::copy_from_slice(key)))
    };
    let keys: Result<_, tokio_postgres::Error> = rows.iter().map(key).collect();
    Ok(keys.map_err(|source| PgError::statement(DOING, source))?)
}

/// Stores letters for good, all or none; one that is stored already only gets a new number. Answers
/// whether `instance` still holds the slot, as the checkpoint row has it: one that was replaced must not
/// store what its successor may have published.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn store(
    client: &Client,
    slot: &str,
    instance: &str,
    letters: &[Letter],
) -> Result<bool, DeadLetterError> {
    let columns = Columns::of(letters);
    // Locked for sharing: whoever takes the slot over waits for this statement, or this one sees him.
    let sql = format!(
        "{LOCALLY},
         holder as (select from public.txstream_checkpoint where slot = $1 and instance = $2 for share)
         insert into public.txstream_dead_letter
             (slot, table_name, row_id, commit_lsn, ordinal, topic, key, payload, header_names, header_values,
              event_type, columns, reason, error)
         select $1, l.table_name, l.row_id, l.commit_lsn, l.ordinal, l.topic, l.key, l.payload,
                l.header_names::text[], l.header_values::bytea[], l.event_type, l.columns, l.reason, l.error
           from durability, holder,
                unnest($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
                    as l(table_name, row_id, commit_lsn, ordinal, topic, key, payload, header_names,
                         header_values, event_type, columns, reason, error)
         on conflict (slot, commit_lsn, ordinal, md5(coalesce(row_id, ''))) do update set seq = default"
    );
    let stored = client
        .execute_typed(
            &sql,
            &[
                (&slot, Type::TEXT),
                (&instance, Type::TEXT),
                (&columns.tables, Type::TEXT_ARRAY),
                (&columns.row_ids, Type::TEXT_ARRAY),
                (&columns.commit_lsns, Type::PG_LSN_ARRAY),
                (&columns.ordinals, Type::INT8_ARRAY),
                (&columns.topics, Type::TEXT_ARRAY),
                (&columns.keys, Type::BYTEA_ARRAY),
                (&columns.payloads, Type::BYTEA_ARRAY),
                (&columns.header_names, Type::TEXT_ARRAY),
                (&columns.header_values, Type::TEXT_ARRAY),
                (&columns.event_types, Type::TEXT_ARRAY),
                (&columns.rows, Type::JSONB_ARRAY),
                (&columns.reasons, Type::TEXT_ARRAY),
                (&columns.errors, Type::TEXT_ARRAY),
            ],
        )
        .await;
    match stored {
        Ok(rows) => Ok(rows == letters.len() as u64),
        Err(error) => {
            let tables = [TABLE, "public.txstream_checkpoint"];
            Err(DeadLetterError::of_tables(client, "store dead letters", &tables, error).await)
        }
    }
}

/// Letters by column.
#[derive(Default)]
struct Columns<'a> {
    tables: Vec<&'a str>,
    row_ids: Vec<Option<String>>,
    commit_lsns: Vec<PgLsn>,
    ordinals: Vec<i64>,
    topics: Vec<Option<Cow<'a, str>>>,
    keys: Vec<Option<&'a [u8]>>,
    payloads: Vec<Option<&'a [u8]>>,
    header_names: Vec<Option<String>>,
    header_values: Vec<Option<String>>,
    event_types: Vec<Option<String>>,
    rows: Vec<Option<serde_json::Value>>,
    reasons: Vec<&'static str>,
    errors: Vec<String>,
}

impl<'a> Columns<'a> {
    fn of(letters: &'a [Letter]) -> Self {
        let mut columns = Self::default();
        for letter in letters {
            columns.tables.push(&letter.table);
            columns.row_ids.push(letter.row_id.as_deref().map(text));
            columns.commit_lsns.push(PgLsn::from(letter.commit_lsn.0));
            columns.ordinals.push(letter.ordinal.cast_signed());
            columns.reasons.push(letter.reason.as_str());
            columns.errors.push(text(&letter.error));
            columns.content(&letter.content);
        }
        columns
    }

    fn content(&mut self, content: &'a Content) {
        let (record, row) = match content {
            Content::Record(record) => (Some(record), None),
            Content::Row(columns) => {
                let value =
                    |value: &Option<String>| value.clone().map_or(serde_json::Value::Null, Into::into);
                let columns = columns.iter().map(|(name, column)| (name.clone(), value(column)));
                (None, Some(serde_json::Value::Object(columns.collect())))
            }
        };
        self.rows.push(row);
        self.topics.push(record.map(|record| stored_topic(&record.topic)));
        self.keys.push(record.map(|record| &record.key[..]));
        self.payloads.push(record.and_then(|record| record.payload.as_deref()));
        self.header_names.push(record.map(|record| names(&record.headers)));
        self.header_values.push(record.map(|record| values(&record.headers)));
        self.event_types.push(record.map(|record| text(&String::from_utf8_lossy(&record.event_type))));
    }
}

/// A topic's name as the table has it. A name that is too long for any topic is cut: an index holds it, and
/// takes no more than a third of a page. The mark at its end is in no topic's name either, so such letters are
/// never taken for those of a topic; two names that begin alike share theirs, none of which can be published.
fn stored_topic(name: &str) -> Cow<'_, str> {
    if name.len() <= LONGEST_TOPIC {
        return Cow::Borrowed(name);
    }
    Cow::Owned(format!("{}\u{2026}", &name[..name.floor_char_boundary(LONGEST_TOPIC)]))
}

/// Text that Postgres takes.
fn text(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

/// Header names as the text of an array: rows of different lengths are no array of arrays.
fn names(headers: &[Header]) -> String {
    let quoted =
        |header: &Header| format!("\"{}\"", text(&header.name).replace('\\', "\\\\").replace('"', "\\\""));
    format!("{{{}}}", headers.iter().map(quoted).collect::<Vec<_>>().join(","))
}

/// Their values likewise.
fn values(headers: &[Header]) -> String {
    let hex = |header: &Header| match &header.value {
        None => "NULL".to_owned(),
        Some(value) => {
            let digits: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("\"\\\\x{digits}\"")
        }
    };
    format!("{{{}}}", headers.iter().map(hex).collect::<Vec<_>>().join(","))
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
    // seen here has its deletions seen there.
    const REPLAYING: &str = "select not pg_catalog.pg_try_advisory_xact_lock_shared($1)";
    const GONE: &str = "select k.place
           from unnest($2, $3) with ordinality as k(topic, key, place)
          where not exists (select from public.txstream_dead_letter l
                             where l.slot = $1 and l.topic = k.topic and md5(l.key) = md5(k.key) and l.key = k.key)";
    let failed = |source| PgError::statement(DOING, source);
    let row = client.query_typed_one(REPLAYING, &[(&lock_key(slot), Type::INT8)]).await.map_err(failed)?;
    let replaying: bool = row.try_get(0).map_err(failed)?;
    let topics: Vec<Cow<'_, str>> = keys.iter().map(|(topic, _)| stored_topic(topic)).collect();
    let bytes: Vec<&[u8]> = keys.iter().map(|(_, key)| &key[..]).collect();
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
        [(&slot, Type::TEXT), (&topics, Type::TEXT_ARRAY), (&bytes, Type::BYTEA_ARRAY)];
    let rows = match client.query_typed(GONE, &parameters).await {
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

/// Where the server's WAL ends: behind everything that is committed.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn wal_position(client: &Client) -> Result<Lsn, DeadLetterError> {
    let failed = |source| PgError::statement("read the end of the WAL", source);
    let row =
        client.query_typed_one("select pg_catalog.pg_current_wal_insert_lsn()", &[]).await.map_err(failed)?;
    let position: PgLsn = row.try_get(0).map_err(failed)?;
    Ok(Lsn(u64::from(position)))
}

/// Letters whose places lie beyond the end of the server's WAL: another WAL gave them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beyond {
    /// How many.
    pub letters: u64,
    /// The end of the server's WAL.
    pub end: Lsn,
}

/// The letters of a slot beyond the end of the server's WAL, if there are any.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn beyond(client: &Client, slot: &str) -> Result<Option<Beyond>, DeadLetterError> {
    const DOING: &str = "look where the dead letters stand";
    const SQL: &str = "with now as materialized (select pg_catalog.pg_current_wal_insert_lsn() as lsn)
         select count(l.seq), now.lsn
           from now left join public.txstream_dead_letter l on l.slot = $1 and l.commit_lsn > now.lsn
          group by now.lsn";
    let row = match client.query_typed_one(SQL, &[(&slot, Type::TEXT)]).await {
        Ok(row) => row,
        Err(error) => return Err(DeadLetterError::of(client, DOING, error).await),
    };
    let failed = |source| PgError::statement(DOING, source);
    let letters: i64 = row.try_get(0).map_err(failed)?;
    let end: PgLsn = row.try_get(1).map_err(failed)?;
    let beyond = Beyond { letters: letters.cast_unsigned(), end: Lsn(u64::from(end)) };
    Ok((letters > 0).then_some(beyond))
}

/// Whether the standbys whose slots `synchronized_standby_slots` names have the WAL up to `position`.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn standbys_have(client: &Client, position: Lsn) -> Result<bool, DeadLetterError> {
    const SQL: &str = "select not exists (
            select from unnest(string_to_array(current_setting('synchronized_standby_slots', true), ',')) as named(slot)
                   left join pg_catalog.pg_replication_slots s on s.slot_name = btrim(named.slot, ' \"')
             where btrim(named.slot) <> '' and (s.restart_lsn is null or s.restart_lsn < $1))";
    let failed = |source| PgError::statement("look at the standbys' slots", source);
    let position = PgLsn::from(position.0);
    let row = client.query_typed_one(SQL, &[(&position, Type::PG_LSN)]).await.map_err(failed)?;
    Ok(row.try_get(0).map_err(failed)?)
}

/// How many letters each topic has; rows that have none go by `other`.
///
/// # Errors
/// [`DeadLetterError`].
pub async fn counts(client: &Client, slot: &str) -> Result<Vec<(String, u64)>, DeadLetterError> {
    const DOING: &str = "count the dead letters";
    const SQL: &str = "select coalesce(topic, 'other'), count(*) from public.txstream_dead_letter
                        where slot = $1 group by 1";
    let rows = match client.query_typed(SQL, &[(&slot, Type::TEXT)]).await {
        Ok(rows) => rows,
        Err(error) => return Err(DeadLetterError::of(client, DOING, error).await),
    };
    let failed = |source| PgError::statement(DOING, source);
    let mut counts = Vec::new();
    for row in rows {
        let count: i64 = row.try_get(1).map_err(failed)?;
        counts.push((row.try_get(0).map_err(failed)?, count.cast_unsigned()));
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_topic_can_have_is_cut_to_what_an_index_takes_and_stays_no_topics_name() {
        let longest = "t".repeat(249);
        assert_eq!(stored_topic(&longest), longest, "a topic's name is stored as it is");
        assert_eq!(stored_topic(&format!("{longest}t")), format!("{longest}\u{2026}"));
        let wide = format!("t{}", "\u{20AC}".repeat(4000));
        let cut = stored_topic(&wide);
        assert_eq!(*cut, format!("t{}\u{2026}", "\u{20AC}".repeat(82)), "at the end of a character");
        assert_eq!(stored_topic(&cut), cut, "a parked key that is read back is the one that was stored");
    }

    #[test]
    fn headers_become_the_text_of_an_array() {
        let header = |name: &str, value: Option<&'static [u8]>| Header {
            name: Arc::from(name),
            value: value.map(Bytes::from_static),
        };
        let headers = [header("id", Some(b"\x00a")), header("a\"b\\c,{d}", None), header("", Some(b""))];
        assert_eq!(names(&headers), r#"{"id","a\"b\\c,{d}",""}"#);
        assert_eq!(values(&headers), r#"{"\\x0061",NULL,"\\x"}"#);
        assert_eq!((names(&[]), values(&[])), ("{}".to_owned(), "{}".to_owned()));
    }
}

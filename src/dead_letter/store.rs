//! Storing letters, and when they are stored for good.

use std::borrow::Cow;

use tokio_postgres::Client;
use tokio_postgres::types::{PgLsn, Type};

use super::{Content, DeadLetterError, LOCALLY, Letter, TABLE, refusal};
use crate::outbox::Header;
use crate::postgres::{Lsn, PgError};

/// Longest name of a topic at Kafka.
const LONGEST_TOPIC: usize = 249;

/// Stores letters for good, all or none; one that is stored already only gets a new number. Answers
/// whether `instance` still holds the slot, as the checkpoint row has it: one that was replaced must not
/// store what its successor may have published.
///
/// # Errors
/// [`DeadLetterError`]; [`DeadLetterError::Refused`] names the first letter that the table does not take.
pub async fn store(
    client: &Client,
    slot: &str,
    instance: &str,
    letters: &[Letter],
) -> Result<bool, DeadLetterError> {
    match insert(client, slot, instance, letters).await {
        Ok(rows) => Ok(rows == letters.len() as u64),
        Err(error) if letters.len() > 1 && refusal::is_for_good(&error) => {
            one_by_one(client, slot, instance, letters).await
        }
        Err(error) => Err(failed(client, 0, error).await),
    }
}

/// The same with a statement for each letter, since one that fails does not say which letter it fails for.
async fn one_by_one(
    client: &Client,
    slot: &str,
    instance: &str,
    letters: &[Letter],
) -> Result<bool, DeadLetterError> {
    let control = async |sql| {
        client.batch_execute(sql).await.map_err(|source| PgError::statement("store dead letters", source))
    };
    control("begin").await?;
    for (place, letter) in letters.iter().enumerate() {
        match insert(client, slot, instance, std::slice::from_ref(letter)).await {
            Ok(1) => {}
            Ok(_) => {
                control("rollback").await?;
                return Ok(false);
            }
            Err(error) => {
                control("rollback").await?;
                return Err(failed(client, place, error).await);
            }
        }
    }
    match client.batch_execute("commit").await {
        Ok(()) => Ok(true),
        // A constraint that is looked at only now names no letter: the first stands for all.
        Err(error) => Err(failed(client, 0, error).await),
    }
}

/// What a statement's failure means that stores the letter at `place`, or others behind it too.
async fn failed(client: &Client, place: usize, error: tokio_postgres::Error) -> DeadLetterError {
    if let Some(refusal) = refusal::of(place, &error) {
        return refusal;
    }
    let tables = [TABLE, "public.txstream_checkpoint"];
    match DeadLetterError::of_tables(client, "store dead letters", &tables, error).await {
        // What a trigger says in detail may be the row.
        DeadLetterError::Pg(PgError::Server { doing, replication_command, mut error }) => {
            error.detail = None;
            PgError::Server { doing, replication_command, error }.into()
        }
        other => other,
    }
}

/// One statement; how many letters it stored.
async fn insert(
    client: &Client,
    slot: &str,
    instance: &str,
    letters: &[Letter],
) -> Result<u64, tokio_postgres::Error> {
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
    client
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
        .await
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
pub(super) fn stored_topic(name: &str) -> Cow<'_, str> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

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

//! The outbox tables at one moment, read through one snapshot however long that takes.

use std::time::Duration;

use bytes::Bytes;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::book::{Book, Expected};
use super::confirmed::Confirmed;
use super::partition::murmur2;
use super::passes::{BUCKETS, Divided, Pass};
use super::table::Table;
use super::{Since, VerifyError};
use crate::outbox::{MapError, Mapped, Mapper, Settings};
use crate::pgoutput::{Tuple, Value};
use crate::postgres::{Lsn, PgError};
use crate::relay::checkpoint;

/// Rows fetched at once.
const FETCH_ROWS: usize = 5_000;

/// One transaction that sees the tables as they were when it began.
pub(super) struct Snapshot<'a> {
    pub(super) client: &'a Client,
    /// The end of WAL right after the snapshot was taken: every row in it was committed before.
    pub(super) lsn: Lsn,
    pub(super) role: String,
    pub(super) system_identifier: String,
    pub(super) database: String,
    /// The server keeps the times of commits.
    pub(super) commit_times: bool,
}

/// The moment from which on rows are compared.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    /// As Postgres prints it, in UTC.
    pub(super) text: String,
    /// In milliseconds since 1970.
    pub(super) millis: i64,
}

impl<'a> Snapshot<'a> {
    /// Begins. Everything is set for this transaction alone, so that a pooler is no obstacle: text as the
    /// replication stream has it, no time limit, and no row hidden by a policy.
    pub(super) async fn take(client: &'a Client) -> Result<Self, VerifyError> {
        const DOING: &str = "begin a snapshot";
        let failed = |error| PgError::statement(DOING, error);
        client
            .batch_execute(
                "begin transaction isolation level repeatable read, read only; \
                 set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0; \
                 set local row_security = off; set local timezone = 'UTC'; set local datestyle = 'ISO'; \
                 set local intervalstyle = 'postgres'; set local bytea_output = 'hex'; \
                 set local extra_float_digits = 3",
            )
            .await
            .map_err(failed)?;
        let row = client
            .query_typed_one(
                "select pg_catalog.pg_is_in_recovery(), current_user::text,
                        pg_catalog.current_setting('track_commit_timestamp')::bool,
                        -- From 17 on there is one more limit.
                        (select pg_catalog.set_config(name, '0', true) from pg_catalog.pg_settings
                          where name = 'transaction_timeout')",
                &[],
            )
            .await
            .map_err(failed)?;
        if row.try_get(0).map_err(failed)? {
            return Err(VerifyError::InRecovery);
        }
        // A statement of its own: the position must be taken after the snapshot.
        let lsn = client
            .query_typed_one("select pg_catalog.pg_current_wal_insert_lsn()::text", &[])
            .await
            .map_err(failed)?;
        let lsn: &str = lsn.try_get(0).map_err(failed)?;
        let lsn = lsn.parse().map_err(|_| PgError::protocol(DOING, "an LSN that is none"))?;
        let (system_identifier, database) = checkpoint::whereabouts(client).await?;
        Ok(Self {
            client,
            lsn,
            role: row.try_get(1).map_err(failed)?,
            commit_times: row.try_get(2).map_err(failed)?,
            system_identifier,
            database,
        })
    }

    /// How many rows each bucket has, by key or by id.
    pub(super) async fn buckets(&self, tables: &[Table], divided: Divided) -> Result<Vec<u64>, VerifyError> {
        let mut counts = vec![0; BUCKETS];
        for table in tables {
            let bucket = table.bucket(divided);
            let sql = format!(
                "select {bucket}::int4, count(*) from {} where {} group by 1",
                table.from, table.condition
            );
            let rows = self.client.query_typed(&sql, &[]).await;
            for row in rows.map_err(|error| self.unreadable(table, error))? {
                let failed = |error| PgError::statement("count the rows", error);
                let (bucket, rows): (i32, i64) =
                    (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
                if let Some(count) = usize::try_from(bucket).ok().and_then(|at| counts.get_mut(at)) {
                    *count += rows.cast_unsigned();
                }
            }
        }
        Ok(counts)
    }

    /// The rows of a pass, as they should be in Kafka.
    pub(super) async fn rows(
        &self,
        settings: &Settings,
        tables: &[Table],
        pass: &Pass,
        confirmed: Confirmed,
    ) -> Result<Book, VerifyError> {
        let mut book = Book::new(tables.len());
        for (at, table) in tables.iter().enumerate() {
            let mut mapper = Mapper::new(settings.clone());
            mapper.relation(&table.relation).map_err(|error| VerifyError::Unreadable(error.0))?;
            let sql = table.select(pass, confirmed);
            let failed = |error| self.unreadable(table, error);
            let declare = format!("declare txstream_verify no scroll cursor for {sql}");
            self.client.batch_execute(&declare).await.map_err(failed)?;
            loop {
                let fetch = format!("fetch forward {FETCH_ROWS} from txstream_verify");
                let messages = self.client.simple_query(&fetch).await.map_err(failed)?;
                let mut fetched = 0;
                for message in messages {
                    let SimpleQueryMessage::Row(row) = message else { continue };
                    fetched += 1;
                    add(&mut book, &mut mapper, at, table, &row)?;
                }
                if fetched < FETCH_ROWS {
                    break;
                }
            }
            self.client.batch_execute("close txstream_verify").await.map_err(failed)?;
        }
        Ok(book)
    }

    fn unreadable(&self, table: &Table, error: tokio_postgres::Error) -> VerifyError {
        if error.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) {
            let sql = format!("GRANT SELECT ON {} TO {};", table.quoted, escape_identifier(&self.role));
            return VerifyError::NoRight { role: self.role.clone(), table: table.name.clone(), sql };
        }
        PgError::statement(format!("read {}", table.name), error).into()
    }
}

/// One row into the book, by the mapping that the relay uses.
fn add(
    book: &mut Book,
    mapper: &mut Mapper,
    at: usize,
    table: &Table,
    row: &SimpleQueryRow,
) -> Result<(), VerifyError> {
    let reading = |error| PgError::statement(format!("read {}", table.name), error);
    let mut values = Vec::with_capacity(table.relation.columns.len());
    for column in &table.read {
        let text = column.map(|column| row.try_get(column)).transpose().map_err(reading)?.flatten();
        values.push(text.map_or(Value::Null, |text| Value::Text(Bytes::copy_from_slice(text.as_bytes()))));
    }
    let [confirmed, written, committed, begun, no_value] =
        [0, 1, 2, 3, 4].map(|column| row.try_get(table.own + column).ok().flatten());
    let confirmed = confirmed == Some("t");
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
    let tuple = Tuple::from_values(&values).map_err(|error| VerifyError::Broken(error.0))?;
    match mapper.map(table.relation.id, &tuple) {
        Ok(Mapped::Record(record)) => {
            let id = record.headers.first().and_then(|header| header.value.as_deref()).unwrap_or_default();
            let topic = book.topic(&record.topic);
            book.expect(Expected {
                table: at,
                topic,
                id: id.into(),
                partition_hash: murmur2(&record.key),
                key: book.key(&record.key),
                written: number(written),
                committed: if table.ordered { number(committed) } else { None },
                begun: number(begun),
                no_value: no_value == Some("t"),
                confirmed,
            });
        }
        Ok(Mapped::InvalidTopic { record, .. }) => book.unmapped(at, record.id(), confirmed),
        Err(MapError::Unmappable(row)) => book.unmapped(at, row.id, confirmed),
        Ok(Mapped::Foreign) => return Err(VerifyError::Broken(format!("{} was not mapped", table.name))),
        Err(error) => return Err(VerifyError::Unreadable(error.to_string())),
    }
    Ok(())
}

/// The moment that `--since` means, by the server's clock.
pub(super) async fn moment(client: &Client, since: &Since) -> Result<Moment, VerifyError> {
    let (text, sql) = match since {
        Since::Ago(ago) => (format!("{ago:?}"), ago_sql(*ago)),
        Since::At(text) => (text.clone(), format!("{}::timestamptz", escape_literal(text))),
    };
    let sql = format!(
        "select (m at time zone 'utc')::text || '+00', floor(extract(epoch from m) * 1000)::int8 from (select {sql} as m) s"
    );
    let row = client.query_typed_one(&sql, &[]).await.map_err(|error| match error.code() {
        // A text that is no time, or one that no timestamp can be: classes 22 and 0A.
        Some(state) if ["22", "0A"].iter().any(|class| state.code().starts_with(class)) => {
            VerifyError::Since(text.clone())
        }
        _ => PgError::statement("ask for the time", error).into(),
    })?;
    let failed = |error| PgError::statement("ask for the time", error);
    Ok(Moment { text: row.try_get(0).map_err(failed)?, millis: row.try_get(1).map_err(failed)? })
}

fn ago_sql(ago: Duration) -> String {
    format!("pg_catalog.now() - pg_catalog.make_interval(secs => {})", ago.as_secs_f64())
}

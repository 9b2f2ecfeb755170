//! The rows of a query as messages of the stream: each row a transaction of its own, numbered from 1.
//!
//! A result is read row by row, and the socket not further than that: what waits stays on the server, so
//! memory is bounded by the relay's budget however large the table is.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_core::Stream;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow, SimpleQueryStream};

use crate::pgoutput::{Message, Relation, Tuple, Value};
use crate::postgres::sql::SqlConn;
use crate::postgres::{Lsn, PgError, clock};

const READING: &str = "read the outbox table";

/// A table that is read: how, and what its rows look like.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) relation: Relation,
    pub(super) sql: String,
}

/// What comes.
pub(super) enum Piece {
    /// A message that the stream could have brought.
    Message(Message),
    /// The tables have no more.
    End,
}

/// The rows of one table as they come.
struct Table {
    rows: Pin<Box<SimpleQueryStream>>,
    relation_id: u32,
    columns: usize,
}

/// The rows of every table, one table after another.
pub(super) struct Rows {
    /// Closed when dropped, and the results with it.
    _conn: SqlConn,
    tables: VecDeque<Table>,
    queue: VecDeque<Piece>,
    number: u64,
    ended: bool,
}

impl Rows {
    /// Asks for the rows, on a connection inside the transaction that reads. The server works on one
    /// question after another.
    pub(super) async fn ask(conn: SqlConn, readings: Vec<Reading>) -> Result<Self, PgError> {
        let (mut tables, mut queue) = (VecDeque::new(), VecDeque::new());
        for Reading { relation, sql } in readings {
            let rows = conn.simple_query_raw(&sql).await;
            let rows = Box::pin(rows.map_err(|source| PgError::statement(READING, source))?);
            tables.push_back(Table { rows, relation_id: relation.id, columns: relation.columns.len() });
            queue.push_back(Piece::Message(Message::Relation(relation)));
        }
        Ok(Self { _conn: conn, tables, queue, number: 0, ended: false })
    }

    /// Waits until there is a message.
    ///
    /// # Errors
    /// [`PgError`]: nothing more comes.
    ///
    /// # Cancel safety
    /// May be dropped at any await: a row is taken in whole.
    pub(super) async fn ready(&mut self) -> Result<(), PgError> {
        poll_fn(|context| self.poll(context)).await
    }

    /// The next message that is there; `None` when it has to be waited for. Never waits.
    ///
    /// # Errors
    /// As [`Rows::ready`].
    pub(super) fn pop(&mut self) -> Result<Option<Piece>, PgError> {
        match self.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Ok(self.queue.pop_front()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(None),
        }
    }

    /// Ready when the queue holds a message. Behind the end nothing is ever ready again.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), PgError>> {
        while self.queue.is_empty() {
            let Some(table) = self.tables.front_mut() else {
                if self.ended {
                    return Poll::Pending;
                }
                self.ended = true;
                self.queue.push_back(Piece::End);
                continue;
            };
            match ready!(table.rows.as_mut().poll_next(context)) {
                Some(Ok(SimpleQueryMessage::Row(row))) => {
                    let tuple = tuple(&row, table.columns)?;
                    let relation_id = table.relation_id;
                    self.transaction(relation_id, tuple);
                }
                Some(Ok(_)) => {}
                Some(Err(source)) => return Poll::Ready(Err(PgError::statement(READING, source))),
                None => _ = self.tables.pop_front(),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// A row for itself: what is confirmed counts rows.
    fn transaction(&mut self, relation_id: u32, row: Tuple) {
        self.number += 1;
        let (lsn, commit_time) = (Lsn(self.number), clock::now());
        self.queue.extend(
            [
                Message::Begin { final_lsn: lsn, commit_time, xid: 0 },
                Message::Insert { relation_id, row },
                Message::Commit { commit_lsn: lsn, end_lsn: lsn, commit_time },
            ]
            .map(Piece::Message),
        );
    }
}

fn tuple(row: &SimpleQueryRow, columns: usize) -> Result<Tuple, PgError> {
    let broken = |what: String| PgError::protocol(READING, what);
    let values: Vec<Value> = (0..columns)
        .map(|column| {
            let text = row.try_get(column).map_err(|error| broken(error.to_string()))?;
            Ok(text.map_or(Value::Null, |text| Value::Text(Bytes::copy_from_slice(text.as_bytes()))))
        })
        .collect::<Result<_, PgError>>()?;
    Tuple::from_values(&values).map_err(|error| broken(error.to_string()))
}

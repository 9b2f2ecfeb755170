//! One database connection: it has looked at the tables and prepared its statements once.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use tokio::sync::Semaphore;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

use super::column::Column;
use super::order_table;
use super::outbox_table::{OutboxTable, TraceHome};
use crate::outbox::{Preset, TableName};
use crate::postgres::error::Class;
use crate::postgres::sql::{self, SqlConn};
use crate::postgres::{ConnInfo, PgError};

/// A connection, ready to write.
pub(super) struct Session {
    pub(super) client: SqlConn,
    pub(super) trace_home: TraceHome,
    pub(super) has_headers: bool,
    pub(super) write_events: Statement,
    /// `Err` says why there are none: the table is missing or not ours.
    pub(super) orders: Result<OrderStatements, NoOrders>,
}

/// The prepared statements on `orders`.
pub(super) struct OrderStatements {
    pub(super) create: Statement,
    pub(super) list: Statement,
    pub(super) by_id: Statement,
    pub(super) by_number: Statement,
}

/// Why the order routes are off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoOrders {
    /// There is no table.
    Missing,
    /// There is one, and it is not ours; why.
    Foreign(String),
}

/// Why a connection is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The server cannot be reached, or refused.
    #[error("connect to the database")]
    Pg(#[from] PgError),
    /// The outbox table is not one that can be written.
    #[error("{what}")]
    Table {
        /// What is wrong with it.
        what: String,
        /// What to do.
        remedy: String,
    },
}

impl SessionError {
    /// Whether a person must act; anything else passes by itself.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Pg(error) => error.class() == Class::Halt,
            Self::Table { .. } => true,
        }
    }

    /// What happened, for logs.
    pub(super) fn report(&self) -> String {
        match self {
            Self::Pg(error) => error.report(),
            Self::Table { what, .. } => what.clone(),
        }
    }

    /// What to do about it.
    pub(super) fn remedy(&self) -> String {
        match self {
            Self::Pg(error) => error.hint().unwrap_or_else(|| "check DATABASE_URL or DB_*".to_owned()),
            Self::Table { remedy, .. } => remedy.clone(),
        }
    }

    /// What happened, for everybody: no host, no name of a user or a database.
    pub(super) fn public(&self) -> String {
        let io =
            |error: &(dyn Error + 'static)| error.downcast_ref::<std::io::Error>().map(ToString::to_string);
        match self {
            Self::Table { .. } => "the outbox table cannot be written".to_owned(),
            Self::Pg(error) => match error.sqlstate() {
                Some(code) => format!("the database refuses connections (SQLSTATE {code})"),
                None => match error.source().and_then(io) {
                    Some(reason) => format!("the database cannot be reached: {reason}"),
                    None => "the database cannot be reached".to_owned(),
                },
            },
        }
    }
}

/// Makes [`Session`]s, for a pool or without one.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) conninfo: ConnInfo,
    pub(super) application_name: String,
    pub(super) table: TableName,
    pub(super) preset: Preset,
    /// Age at which a connection is replaced; zero is never.
    pub(super) lifetime: Duration,
    /// Whether it was said that the order routes are off.
    pub(super) said_no_orders: AtomicBool,
    /// Logins at once, [`LOGINS_MAX`].
    pub(super) logins: Semaphore,
}

/// Logins of the pool at the same time. Some cost more than many statements, and a burst of requests
/// is served sooner by the first few connections than by all of them at once at the end.
pub(super) const LOGINS_MAX: usize = 4;

impl Connector {
    /// Connects, looks at the tables, prepares: three round trips.
    ///
    /// # Errors
    /// [`SessionError`].
    pub(super) async fn connect(&self) -> Result<Session, SessionError> {
        let client = sql::connect(&self.conninfo, &self.application_name).await?;
        let outbox_name = self.table.quoted();
        let ((outbox, _), (orders, number_is_unique)) =
            tokio::try_join!(look(&client, &outbox_name), look(&client, "public.orders"))?;
        if outbox.is_empty() {
            return Err(SessionError::Table {
                what: format!("outbox table {} does not exist", self.table),
                remedy: "run txstream migrate up, or set OUTBOX_TABLE".to_owned(),
            });
        }
        let outbox =
            OutboxTable::new(&self.table, self.preset, outbox).map_err(|what| SessionError::Table {
                what,
                remedy: "set OUTBOX_TABLE and OUTBOX_PRESET to a table that fits; the first one is written"
                    .to_owned(),
            })?;
        let orders = match order_table::foreign(&orders, number_is_unique) {
            _ if orders.is_empty() => Err(NoOrders::Missing),
            Some(why) => Err(NoOrders::Foreign(why)),
            None => Ok(()),
        };
        self.say(&orders);
        let (write_events, orders) = prepare(&client, &outbox, orders).await?;
        let OutboxTable { trace_home, has_headers, .. } = outbox;
        Ok(Session { client, trace_home, has_headers, write_events, orders })
    }

    /// Says once that the order routes are off, and once more when they were on in between.
    fn say(&self, orders: &Result<(), NoOrders>) {
        let off = matches!(orders, Err(NoOrders::Foreign(_)));
        let said = self.said_no_orders.swap(off, Ordering::Relaxed);
        if let (Err(NoOrders::Foreign(why)), false) = (orders, said) {
            tracing::warn!("the order routes are off: table public.orders is not txstream's ({why})");
        }
    }
}

/// The columns of a table, none if there is no such table; and whether it has a unique index on
/// `order_number` alone.
async fn look(client: &Client, table: &str) -> Result<(Vec<Column>, bool), PgError> {
    let failed = |error| PgError::statement(format!("look at table {table}"), error);
    let rows = client
        .query_typed(
            "select a.attname::text, a.atttypid,
                    a.attnotnull and not a.atthasdef and a.attidentity = '' and a.attgenerated = '',
                    a.attname = 'order_number' and exists (
                        select from pg_catalog.pg_index i
                         where i.indrelid = a.attrelid and i.indisunique and i.indisvalid and i.indpred is null
                           and i.indnkeyatts = 1 and i.indkey[0] = a.attnum)
               from pg_catalog.pg_attribute a
              where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped",
            &[(&table, Type::TEXT)],
        )
        .await
        .map_err(failed)?;
    let mut columns = Vec::with_capacity(rows.len());
    let mut number_is_unique = false;
    for row in rows {
        columns.push(Column {
            name: row.try_get(0).map_err(failed)?,
            type_id: row.try_get(1).map_err(failed)?,
            must_be_given: row.try_get(2).map_err(failed)?,
        });
        number_is_unique |= row.try_get::<_, bool>(3).map_err(failed)?;
    }
    Ok((columns, number_is_unique))
}

async fn prepare(
    client: &Client,
    outbox: &OutboxTable,
    orders: Result<(), NoOrders>,
) -> Result<(Statement, Result<OrderStatements, NoOrders>), PgError> {
    let prepared = async |sql: String, types: &[Type]| {
        let statement = client.prepare_typed(&sql, types).await;
        statement.map_err(|error| PgError::statement("prepare a statement", error))
    };
    let events: [Type; 8] = [
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT,
        Type::BOOL,
    ];
    let order = [const { Type::TEXT }; 8];
    let write_events = prepared(outbox.write_events(), &events);
    let orders = async {
        if let Err(why) = orders {
            return Ok(Err(why));
        }
        let (create, list, by_id, by_number) = tokio::try_join!(
            prepared(order_table::create(outbox), &order),
            prepared(order_table::list(), &[Type::INT8, Type::INT8]),
            prepared(order_table::by_id(), &[Type::UUID]),
            prepared(order_table::by_number(), &[Type::TEXT]),
        )?;
        Ok(Ok(OrderStatements { create, list, by_id, by_number }))
    };
    tokio::try_join!(write_events, orders)
}

impl managed::Manager for Connector {
    type Type = Session;
    type Error = SessionError;

    async fn create(&self) -> Result<Session, SessionError> {
        // It is never closed; without a permit there is one login more.
        let _permit = self.logins.acquire().await;
        // Larger than all else that a request does, and seldom needed.
        Box::pin(self.connect()).await
    }

    /// Costs no round trip: a connection that ended is known to have ended.
    async fn recycle(&self, session: &mut Session, metrics: &Metrics) -> RecycleResult<SessionError> {
        if session.client.is_closed() {
            return Err(RecycleError::message("the connection has ended"));
        }
        if !self.lifetime.is_zero() && metrics.age() >= self.lifetime {
            return Err(RecycleError::message("the connection is old"));
        }
        Ok(())
    }
}

//! The database: one request, one transaction, one round trip.
//!
//! BEGIN, the statement and COMMIT go out together. A statement that fails takes its transaction with it,
//! and a time limit inside the transaction makes the server itself give up, so that the client nearly
//! always learns what became of its request. A connection whose answer did not come, or whose error is not the
//! request's own, is not used again.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use deadpool::managed::{Object, Pool, PoolError, Timeouts};
use deadpool::{Runtime, Status};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};
use uuid::Uuid;

use super::events::NewEvents;
use super::orders::{NewOrder, Page};
use super::outbox_table::TraceHome;
use super::session::{Connector, LOGINS_MAX, NoOrders, OrderStatements, Session};
use super::settings::Settings;
use crate::outbox::{self, TraceContext};
use crate::postgres::ConnInfo;
use crate::postgres::error::report;

/// Longest wait for a free connection: a queue beyond that is better told to come again.
const POOL_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long the server's own word on its time limit may take to arrive.
const WORD_ARRIVES: Duration = Duration::from_secs(1);

/// How often idle connections are looked at, and how long one must have been idle to be one too many.
pub(super) const IDLE_LOOK: Duration = Duration::from_secs(5);

/// Why the database did not do what it was asked.
#[derive(Debug)]
pub(super) enum StoreError {
    /// Every connection is in use.
    Busy {
        /// So many there are.
        connections: usize,
    },
    /// No connection could be made; nothing was sent.
    Away {
        /// For everybody.
        reason: String,
        /// For the log.
        cause: String,
    },
    /// The connection was lost, or no answer came: nobody knows whether the transaction was committed.
    Unknown(String),
    /// The server gave up in time; nothing was stored.
    TooSlow,
    /// The server cannot do it now, and did nothing; later it may.
    NotNow(String),
    /// There is no table for orders, or it is not ours.
    NoOrders(NoOrders),
    /// The order's number, or these events' ids, are known.
    Known(Vec<String>),
    /// Events at these places are larger than a record may be.
    TooLarge(Vec<usize>),
    /// The outbox table has no column for headers.
    NoHeaders,
    /// A value is not one for its column; the SQLSTATE.
    Value(String),
    /// The server refused for a reason that is no fault of the request: a right is missing, a trigger failed.
    Refused(String),
}

/// The pool, and what is done with it.
pub(super) struct Store {
    pool: Pool<Connector>,
    max_idle: usize,
}

/// A connection from the pool; unless it is given back it is closed.
struct Lease(Option<Object<Connector>>);

impl Lease {
    fn give_back(mut self) {
        self.0 = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            // Dropped within the pool it would be given to the next request, this one's answer before its own.
            drop(Object::take(object));
        }
    }
}

type Parameter<'a> = &'a (dyn ToSql + Sync);

impl Store {
    /// A pool without connections yet.
    pub(super) fn new(
        settings: &Settings,
        outbox: &outbox::Settings,
        conninfo: &ConnInfo,
        name: &str,
    ) -> Option<Self> {
        let connector = Connector {
            conninfo: conninfo.clone(),
            application_name: name.to_owned(),
            table: outbox.tables.first()?.clone(),
            preset: outbox.preset,
            lifetime: settings.conn_max_lifetime,
            said_no_orders: AtomicBool::new(false),
            logins: Semaphore::new(LOGINS_MAX),
        };
        let pool =
            Pool::builder(connector).max_size(settings.max_open_conns).runtime(Runtime::Tokio1).build();
        Some(Self { pool: pool.ok()?, max_idle: settings.max_idle_conns })
    }

    /// Makes connections outside of the pool.
    pub(super) fn connector(&self) -> &Connector {
        self.pool.manager()
    }

    /// Counts of connections.
    pub(super) fn status(&self) -> Status {
        self.pool.status()
    }

    /// Closes connections that are old, and those that nobody needs. Call it every [`IDLE_LOOK`].
    pub(super) fn tidy(&self) {
        let lifetime = self.connector().lifetime;
        let mut kept = 0;
        self.pool.retain(|session, metrics| {
            let old = !lifetime.is_zero() && metrics.age() >= lifetime;
            let spare = kept >= self.max_idle && metrics.last_used() >= IDLE_LOOK;
            let keep = !session.client.is_closed() && !old && !spare;
            kept += usize::from(keep);
            keep
        });
    }

    /// Stores an order and its event; gives the order as JSON.
    pub(super) async fn create_order(
        &self,
        order: &NewOrder,
        trace: Option<&TraceContext>,
        deadline: Instant,
    ) -> Result<String, StoreError> {
        let lease = self.lease(deadline).await?;
        let session = session(&lease)?;
        let statements = match orders(session) {
            Ok(statements) => statements,
            Err(error) => {
                lease.give_back();
                return Err(error);
            }
        };
        let headers = headers(session, trace, None);
        let trace = column(session, trace);
        let NewOrder { customer_id, order_number, currency, items, shipping_address, billing_address } =
            order;
        let parameters: [Parameter<'_>; 8] =
            [customer_id, order_number, currency, items, shipping_address, billing_address, &headers, &trace];
        let outcome = transaction(session, &statements.create, &parameters, deadline).await;
        let rows = settle(lease, outcome)?;
        first_text(&rows)?.ok_or_else(|| StoreError::Known(vec![order_number.clone()]))
    }

    /// Stores events, all of them or none.
    pub(super) async fn write_events(
        &self,
        events: &NewEvents<'_>,
        trace: Option<&TraceContext>,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let lease = self.lease(deadline).await?;
        let session = session(&lease)?;
        if !session.has_headers && events.headers.iter().any(Option::is_some) {
            lease.give_back();
            return Err(StoreError::NoHeaders);
        }
        let ids: Vec<String> = events.ids.iter().map(Uuid::to_string).collect();
        let headers: Vec<Option<String>> =
            events.headers.iter().map(|own| headers(session, trace, *own)).collect();
        let trace = column(session, trace);
        let parameters: [Parameter<'_>; 8] = [
            &ids,
            &events.aggregate_types,
            &events.aggregate_ids,
            &events.event_types,
            &events.payloads,
            &headers,
            &trace,
            &events.ids_given,
        ];
        let outcome = transaction(session, &session.write_events, &parameters, deadline).await;
        let rows = match settle(lease, outcome) {
            // Another request with the same id committed while this one ran.
            Err(StoreError::Known(_)) => return Err(StoreError::Known(Vec::new())),
            outcome => outcome?,
        };
        let mut known = Vec::new();
        let mut large = Vec::new();
        for row in &rows {
            let (kind, what): (&str, String) = (get(row, 0)?, get(row, 1)?);
            match kind {
                "known" => known.push(what),
                _ => large.extend(what.parse::<usize>()),
            }
        }
        match (large.is_empty(), known.is_empty()) {
            (false, _) => Err(StoreError::TooLarge(large)),
            (_, false) => Err(StoreError::Known(known)),
            _ => Ok(()),
        }
    }

    /// Orders as JSON, newest first.
    pub(super) async fn list_orders(
        &self,
        page: &Page,
        deadline: Instant,
    ) -> Result<Vec<String>, StoreError> {
        let rows = self.read(|orders| &orders.list, &[&page.limit, &page.offset], deadline).await?;
        rows.iter().map(|row| get(row, 0)).collect()
    }

    /// The order with this id as JSON.
    pub(super) async fn order_by_id(
        &self,
        id: Uuid,
        deadline: Instant,
    ) -> Result<Option<String>, StoreError> {
        first_text(&self.read(|orders| &orders.by_id, &[&id], deadline).await?)
    }

    /// The order with this number as JSON.
    pub(super) async fn order_by_number(
        &self,
        number: &str,
        deadline: Instant,
    ) -> Result<Option<String>, StoreError> {
        first_text(&self.read(|orders| &orders.by_number, &[&number], deadline).await?)
    }

    async fn read(
        &self,
        statement: impl Fn(&OrderStatements) -> &Statement,
        parameters: &[Parameter<'_>],
        deadline: Instant,
    ) -> Result<Vec<Row>, StoreError> {
        let lease = self.lease(deadline).await?;
        let session = session(&lease)?;
        match orders(session) {
            Ok(orders) => {
                let outcome = transaction(session, statement(orders), parameters, deadline).await;
                settle(lease, outcome)
            }
            Err(error) => {
                lease.give_back();
                Err(error)
            }
        }
    }

    /// A connection: a free one within [`POOL_WAIT_MAX`], or a new one within the deadline.
    async fn lease(&self, deadline: Instant) -> Result<Lease, StoreError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeouts = Timeouts { wait: Some(left.min(POOL_WAIT_MAX)), create: Some(left), recycle: None };
        let away = |reason: String, cause| StoreError::Away { reason, cause };
        match self.pool.timeout_get(&timeouts).await {
            Ok(object) => Ok(Lease(Some(object))),
            Err(PoolError::Timeout(deadpool::managed::TimeoutType::Wait)) => {
                Err(StoreError::Busy { connections: self.pool.status().max_size })
            }
            Err(PoolError::Timeout(_)) => {
                let reason = "the database does not answer".to_owned();
                Err(away(reason.clone(), reason))
            }
            Err(PoolError::Backend(error)) => Err(away(error.public(), error.report())),
            Err(error) => Err(away("the writer stops".to_owned(), error.to_string())),
        }
    }
}

fn session(lease: &Lease) -> Result<&Session, StoreError> {
    // A lease has its connection until it ends.
    lease.0.as_deref().ok_or_else(|| StoreError::NotNow("the connection was given back".to_owned()))
}

fn orders(session: &Session) -> Result<&OrderStatements, StoreError> {
    session.orders.as_ref().map_err(|why| StoreError::NoOrders(why.clone()))
}

/// The text for the trace's own column.
fn column(session: &Session, trace: Option<&TraceContext>) -> Option<String> {
    trace.filter(|_| session.trace_home == TraceHome::Column).map(TraceContext::to_properties)
}

/// An event's headers, a JSON object, with the trace among them where it has no column of its own. What the
/// client sent comes last and so wins.
fn headers(session: &Session, trace: Option<&TraceContext>, own: Option<&str>) -> Option<String> {
    let Some(trace) = trace.filter(|_| session.trace_home == TraceHome::Headers) else {
        return own.map(str::to_owned);
    };
    // Characters of a trace context need no escape but these two.
    let entry = |(name, value): (&str, &str)| {
        format!("\"{name}\":\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    };
    let mut members: Vec<String> = trace.entries().map(entry).collect();
    let inside = own.and_then(|own| own.strip_prefix('{')?.strip_suffix('}')).map(str::trim);
    members.extend(inside.filter(|inside| !inside.is_empty()).map(str::to_owned));
    Some(format!("{{{}}}", members.join(",")))
}

/// Runs one statement in a transaction of its own. How durable its commit is, is for the database to say
/// (`synchronous_commit`): these are the application's data, and the answer means as much as its own commits.
async fn transaction(
    session: &Session,
    statement: &Statement,
    parameters: &[Parameter<'_>],
    deadline: Instant,
) -> Result<Vec<Row>, StoreError> {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
    // Read committed, whatever the role's default: a known number is no serialization failure.
    let begin = format!("begin isolation level read committed; set local statement_timeout = {left}");
    let client = &session.client;
    let all = async {
        // Polled in this order, and each sends when it is polled first: one round trip.
        let (begun, rows, committed) = tokio::join!(
            biased;
            client.batch_execute(&begin),
            client.query(statement, parameters),
            client.batch_execute("commit"),
        );
        begun?;
        let rows = rows?;
        committed.map(|()| rows)
    };
    match timeout_at(deadline + WORD_ARRIVES, all).await {
        Ok(outcome) => outcome.map_err(|error| sorted(&error)),
        Err(_) => Err(StoreError::Unknown("no answer within the time limit".to_owned())),
    }
}

/// What an error of a transaction means, by its SQLSTATE. Not one of them leaves anything stored, unless
/// the server gave no word at all.
fn sorted(error: &tokio_postgres::Error) -> StoreError {
    let Some(state) = error.code() else { return StoreError::Unknown(report(error)) };
    let code = state.code();
    match *state {
        SqlState::QUERY_CANCELED => StoreError::TooSlow,
        SqlState::UNIQUE_VIOLATION => StoreError::Known(Vec::new()),
        // Raised when a document is nested too deeply.
        SqlState::STATEMENT_TOO_COMPLEX => StoreError::Value(code.to_owned()),
        // A server that ends the connection may have committed just before.
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => StoreError::Unknown(report(error)),
        _ => match &code[..2] {
            "22" => StoreError::Value(code.to_owned()),
            "23" if *state == SqlState::NOT_NULL_VIOLATION => StoreError::Value(code.to_owned()),
            // Connection, resources, shutdown, serialization; a standby, or a table that changed under a statement.
            "08" | "53" | "57" | "40" | "25" | "0A" | "26" => StoreError::NotNow(report(error)),
            _ => StoreError::Refused(report(error)),
        },
    }
}

/// Gives the connection back, or closes it if the error says more of it than of the request.
fn settle(lease: Lease, outcome: Result<Vec<Row>, StoreError>) -> Result<Vec<Row>, StoreError> {
    let reusable =
        matches!(outcome, Ok(_) | Err(StoreError::TooSlow | StoreError::Known(_) | StoreError::Value(_)));
    if reusable {
        lease.give_back();
    }
    outcome
}

fn first_text(rows: &[Row]) -> Result<Option<String>, StoreError> {
    rows.first().map(|row| get(row, 0)).transpose()
}

fn get<'r, T: tokio_postgres::types::FromSql<'r>>(row: &'r Row, column: usize) -> Result<T, StoreError> {
    row.try_get(column).map_err(|error| StoreError::Refused(report(&error)))
}

//! Publishes rows that are in the table already, through the core, lanes, producer and rejection policy
//! that the stream goes through: a session whose source is a query instead of a slot.
//!
//! Invariant: it is only done when every row that its snapshot shows and its selection takes is in Kafka,
//! or parked. Broken off, nothing says that it was done.

mod query;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::breaker::Breaker;
use super::checkpoint::{self, Recovery};
use super::core::Core;
use super::intake::{Intake, Origin};
use super::not_ready::NotReady;
use super::preflight::{self, Server};
use super::prepare;
use super::rows::Rows;
use super::session::{End, Lines, Opened, Session, Source, Statuses};
use super::slot_life::BY_RESET;
use super::{Backoff, Halt, Known, Relay, close};
use crate::dead_letter::store;
use crate::outbox::Mapper;
use crate::postgres::sql::{self, SqlConn};
use crate::postgres::{Lsn, PgError, slot};

pub use self::query::{Count, Selection, count};

/// What a backfill publishes.
#[derive(Debug, Clone)]
pub struct Backfill {
    /// Which rows.
    pub selection: Selection,
    /// The snapshot to read in; a fresh one where there is none.
    pub snapshot: Option<String>,
}

/// How a backfill ended that nothing went wrong with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every row is in Kafka, or parked; only rows of transactions from the pair on may be unconfirmed.
    Done {
        /// How many rows.
        rows: u64,
        /// The pair.
        recovery: Recovery,
    },
    /// It was told to stop before.
    Stopped,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows up to which everything is in Kafka or parked.
    pub rows: u64,
}

/// Publishes the rows until all is acknowledged or `stop` becomes true. `relay` says from where and to
/// where. A Kafka that is away is waited for.
///
/// # Errors
/// [`Halt`] when a person must act, or the connection to Postgres or the producer was lost; nothing is
/// marked as done then.
pub async fn run(
    relay: &Relay,
    backfill: &Backfill,
    mut stop: watch::Receiver<bool>,
    progress: &watch::Sender<Progress>,
) -> Result<Outcome, Halt> {
    let conn = sql::connect(&relay.conninfo, &relay.application_name).await.map_err(lost)?;
    let Letters { parked, server, failover, at } = letters(relay, &conn).await?;
    let read = tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => return Ok(Outcome::Stopped),
        read = query::begin(&conn, relay, backfill) => read.map_err(lost)?,
    };
    let (recovery, readings) = read;
    let rows = Rows::ask(conn, readings).await.map_err(lost)?;
    let mut known = Known::new();
    let (producer, inbox, desk) = prepare::kafka(relay, &known).map_err(not_ready)?;
    let mut core = Core::new(
        relay.settings.clone(),
        Lsn::ZERO,
        Breaker::new(relay.settings.breaker),
        Backoff::new(relay.settings.backoff),
    );
    for (topic, key) in parked.keys {
        core.load_parked(&topic, key);
    }
    let letters = prepare::letter_desk(relay, BY_RESET, server, failover, parked.holds_letters);
    let origin = Origin::Table { at };
    let intake = Intake::new(origin, Mapper::new(relay.outbox.clone()), Arc::clone(&relay.metrics));
    let opened = Opened {
        reader: Source::Table(Box::new(rows)),
        writer: Statuses::Nobody,
        producer,
        inbox,
        desk,
        letters,
        core,
        intake,
        // Nobody reads the status; the clock only shows progress.
        status_every: Duration::from_secs(1),
    };
    let mut session = Session::new(relay, &mut known, opened);
    let (_orders, mut orders) = mpsc::channel(1);
    let (_notices, mut notices) = mpsc::channel(1);
    let (stand, mut seen) = watch::channel(super::monitor::Stand::default());
    let mut lines = Lines { stop: &mut stop, orders: &mut orders, notices: &mut notices, stand: &stand };
    let end = {
        let running = session.run(&mut lines);
        let showing = async {
            while seen.changed().await.is_ok() {
                progress.send_replace(Progress { rows: seen.borrow().confirmed_lsn.0 });
            }
            std::future::pending::<End>().await
        };
        tokio::select! {
            biased;
            end = Box::pin(running) => end,
            end = showing => end,
        }
    };
    let rows = session.core.ledger().confirmed_lsn().0;
    close(session.producer.take()).await;
    match end {
        End::Exhausted => Ok(Outcome::Done { rows, recovery }),
        End::Stopped => Ok(Outcome::Stopped),
        End::Halted(halt) => Err(halt.of_a_backfill()),
        End::Lost(error) => Err(lost(error)),
        End::Producer(why) => Err(broken(&format!("the producer ended: {why}"))),
        End::NeedsText(why) => Err(broken(&why)),
        end @ End::SmallerBatches => Err(broken(&end.why())),
        End::Replaced => Err(broken("another command or relay has written the checkpoint row")),
        End::ServerStopping => Err(broken("the server shuts down")),
    }
}

/// What the dead letters of a backfill need.
struct Letters {
    parked: prepare::Parked,
    server: Server,
    failover: bool,
    /// Where they stand: behind those of the slot before, and before all that the new slot streams.
    at: Lsn,
}

/// Looks at the slot that the rows go before, and at its letters.
async fn letters(relay: &Relay, conn: &SqlConn) -> Result<Letters, Halt> {
    let parked = prepare::parked(relay, conn).await.map_err(not_ready)?;
    let (system_identifier, _) = checkpoint::whereabouts(conn).await.map_err(lost)?;
    let timeline = preflight::timeline(conn).await.map_err(lost)?;
    let view = slot::view(&**conn, &relay.settings.slot).await.map_err(lost)?;
    let begins = match view.as_ref().and_then(|view| view.confirmed_flush_lsn) {
        Some(lsn) => lsn,
        None => store::wal_position(conn).await.map_err(|error| not_ready(prepare::no_letters(error)))?,
    };
    Ok(Letters {
        parked,
        server: Server { system_identifier, timeline },
        failover: view.and_then(|view| view.failover) == Some(true),
        at: Lsn(begins.0.saturating_sub(1)),
    })
}

fn not_ready(why: NotReady) -> Halt {
    match why {
        NotReady::Halt(halt) => halt,
        other => broken(&format!("{other:?}")),
    }
}

fn lost(error: PgError) -> Halt {
    let halt = broken(&error.report());
    match error.hint() {
        Some(hint) => Halt::new(halt.what, format!("{hint}; then {}", halt.remedy)),
        None => halt,
    }
}

fn broken(why: &str) -> Halt {
    Halt::new(format!("the backfill was broken off: {why}"), "run it again; the relay waits until then")
}

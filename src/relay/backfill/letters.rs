//! Dead letters of a backfill: where they stand among the others, and who stores them.

use crate::dead_letter::store::{self, Key};
use crate::postgres::sql::SqlConn;
use crate::postgres::{Lsn, slot};
use crate::relay::Relay;
use crate::relay::checkpoint;
use crate::relay::letter_desk::LetterDesk;
use crate::relay::preflight::{self, Problem, Server};
use crate::relay::prepare::{self, NotReady};

/// What a backfill needs for its dead letters.
pub(super) struct Letters {
    pub(super) desk: LetterDesk,
    /// The keys that are parked already.
    pub(super) parked: Vec<Key>,
    /// The position of every row: behind the letters of the slot before, and before all that the new slot
    /// streams.
    pub(super) at: Lsn,
}

/// Looks at the slot that the rows go before, and at its letters.
pub(super) async fn prepare(relay: &Relay, conn: &SqlConn) -> Result<Letters, NotReady> {
    let name = &relay.settings.slot;
    let view = slot::view(&**conn, name).await?;
    let begins = match view.as_ref().and_then(|view| view.confirmed_flush_lsn) {
        Some(lsn) => lsn,
        None => store::wal_position(conn).await.map_err(prepare::no_letters)?,
    };
    // Whoever wrote the row began the backfill; if another one does, ours is over.
    let row = checkpoint::read(conn, name).await.map_err(Problem::from)?;
    let instance = row.map_or_else(String::new, |row| row.instance);
    let server = Server {
        system_identifier: checkpoint::whereabouts(conn).await?.0,
        timeline: preflight::timeline(conn).await?,
    };
    let parked = prepare::parked(relay, conn).await?;
    let failover = view.and_then(|view| view.failover) == Some(true);
    let desk = prepare::letter_desk(relay, instance, server, failover, parked.holds_letters);
    Ok(Letters { desk, parked: parked.keys, at: Lsn(begins.0.saturating_sub(1)) })
}

//! What a session has to know of the dead letters before it begins, and the desk that stores them.

use crate::dead_letter::DeadLetterError;
use crate::dead_letter::ask::{self, Key};
use crate::postgres::sql::SqlConn;
use crate::relay::Relay;
use crate::relay::halt::Halt;
use crate::relay::letter_desk::{LetterDesk, Sender};
use crate::relay::not_ready::NotReady;
use crate::relay::preflight::{Problem, Server};
use crate::relay::settings::OnReject;
use crate::relay::slot_life;

/// What the table of dead letters holds.
#[derive(Default)]
pub(in crate::relay) struct Parked {
    /// The parked keys.
    pub(in crate::relay) keys: Vec<Key>,
    /// Whether it holds anything at all.
    pub(in crate::relay) holds_letters: bool,
}

/// Read after the checkpoint row was written: from then on no holder before us stores any. Whatever the
/// policy is now, a parked key stays parked; without a table there is none. Letters of another cluster's WAL
/// are refused: ours would come before them.
pub(in crate::relay) async fn parked(relay: &Relay, conn: &SqlConn) -> Result<Parked, NotReady> {
    let slot = &relay.settings.slot;
    slot_life::ensure_letters_are_of_here(conn, slot).await.map_err(Problem::from)?;
    let read = async {
        let holds_letters = ask::holds_letters(conn, slot).await?;
        if !holds_letters {
            // The desk, which counts, does not look at an empty table.
            relay.metrics.dead_letters([]);
        }
        Ok(Parked { holds_letters, keys: ask::parked_keys(conn, slot).await? })
    };
    match read.await {
        Ok(parked) => Ok(parked),
        Err(DeadLetterError::NoTable) if relay.settings.on_reject == OnReject::Halt => Ok(Parked::default()),
        Err(error) => Err(no_letters(error)),
    }
}

/// The table of dead letters cannot be read.
pub(in crate::relay) fn no_letters(error: DeadLetterError) -> NotReady {
    match error {
        DeadLetterError::Pg(error) => error.into(),
        error => NotReady::Halt(Halt::new(error.to_string(), error.remedy())),
    }
}

/// Opens the desk that stores dead letters as `instance`, the holder by the checkpoint row.
pub(in crate::relay) fn letter_desk(
    relay: &Relay,
    instance: &str,
    server: Server,
    failover: bool,
    holds_letters: bool,
) -> LetterDesk {
    let sender = Sender {
        conninfo: relay.conninfo.clone(),
        application_name: relay.application_name.clone(),
        server,
        slot: relay.settings.slot.clone(),
        instance: instance.to_owned(),
        failover,
    };
    LetterDesk::open(sender, holds_letters)
}

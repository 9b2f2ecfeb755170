//! A model of the table of dead letters, of the desk between it and the core, and of people who mend,
//! replay and discard.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::kafka::names;
use super::model::World;
use super::rng::Rng;
use super::session::Session;
use crate::dead_letter::{Content, Letter};
use crate::outbox::Record;
use crate::postgres::Lsn;
use crate::relay::parking::Parked;

/// Position of a letter, and a number of its row: in which order rows of one position come is not said.
type Position = (Lsn, u64, usize);

/// Topic and key.
type Key = (Arc<str>, Bytes);

#[derive(Debug)]
pub(super) enum Order {
    Store { batch: Vec<Parked>, inserted: bool },
    Look { keys: Vec<Key>, gone: Option<Vec<Key>> },
}

/// The table and who works on it.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Version, row id and key of each letter.
    letters: BTreeMap<Position, (u64, usize, Key)>,
    versions: u64,
    /// Published by a replay and not deleted yet: position and version.
    replayed: Option<(Position, u64)>,
    /// Rows that someone gave up.
    pub(super) discarded: HashSet<usize>,
}

fn record(letter: &Letter) -> &Record {
    let Content::Record(record) = &letter.content else { panic!("the model has no such rows") };
    record
}

impl Table {
    fn insert(&mut self, letter: &Letter) {
        let record = record(letter);
        self.versions += 1;
        let key = (Arc::clone(&record.topic), record.key.clone());
        let (row, ..) = names(record);
        let position = (letter.commit_lsn, letter.ordinal, usize::MAX - row);
        self.letters.insert(position, (self.versions, row, key));
    }

    /// The keys with letters.
    pub(super) fn keys(&self) -> HashSet<Key> {
        self.letters.values().map(|(_, _, key)| key.clone()).collect()
    }

    /// Whether the row is stored.
    pub(super) fn holds(&self, row: usize) -> bool {
        self.letters.values().any(|(_, id, _)| *id == row)
    }

    /// Whether no letter is left.
    pub(super) fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// A session of `instance` ends; its last statement may have reached the server, where it stores
    /// nothing if the row is another's.
    pub(super) fn session_ends(&mut self, session: &mut Session, holder: &str, rng: &mut Rng) {
        if let Some(Order::Store { batch, inserted: false }) = session.desk.take()
            && session.instance == holder
            && rng.one_in(2)
        {
            batch.iter().for_each(|parked| self.insert(&parked.letter));
        }
    }

    /// The desk of a session takes its next step: an order begins, is carried out, or is answered. Tells
    /// whether the answer is that `holder` has replaced it.
    pub(super) fn serve(&mut self, session: &mut Session, holder: &str, rng: &mut Rng, now: Instant) -> bool {
        let core = &mut session.core;
        session.desk = match session.desk.take() {
            None if core.has_letters() && rng.below(3) > 0 => {
                Some(Order::Store { batch: core.letters(), inserted: false })
            }
            None if core.parked_keys() > 0 => Some(Order::Look { keys: core.parked_names(), gone: None }),
            None => None,
            Some(Order::Store { inserted: false, .. }) if session.instance != holder => return true,
            Some(Order::Store { batch, inserted: false }) => {
                batch.iter().for_each(|parked| self.insert(&parked.letter));
                Some(Order::Store { batch, inserted: true })
            }
            Some(Order::Store { batch, inserted: true }) => {
                core.stored(&batch);
                batch.iter().for_each(|parked| session.producer.will_not_get(record(&parked.letter)));
                None
            }
            Some(Order::Look { keys, gone: None }) => {
                let held = self.keys();
                let gone = keys.iter().filter(|key| !held.contains(*key)).cloned().collect();
                Some(Order::Look { keys, gone: Some(gone) })
            }
            Some(Order::Look { gone: Some(gone), .. }) => {
                core.hand_back(&gone, now);
                None
            }
        };
        false
    }
}

impl World {
    /// Someone publishes the first letter of a key, deletes what was published, or gives one up.
    pub(super) fn replay_works(&mut self, rng: &mut Rng) {
        let table = &mut self.table;
        if let Some((position, version)) = table.replayed.take() {
            let is_same = table.letters.get(&position).is_some_and(|letter| letter.0 == version);
            // A replay may be broken off before it deletes.
            if is_same && rng.below(8) > 0 {
                table.letters.remove(&position);
            }
            return;
        }
        let mut keys: Vec<Key> = table.keys().into_iter().collect();
        keys.sort();
        if keys.is_empty() {
            return;
        }
        let key = &keys[rng.pick(keys.len())];
        let first = table.letters.iter().find(|(_, letter)| letter.2 == *key);
        let Some((position, (version, row, _))) = first.map(|(position, letter)| (*position, letter.clone()))
        else {
            return;
        };
        if rng.one_in(10) {
            table.letters.remove(&position);
            table.discarded.insert(row);
        } else {
            table.replayed = Some((position, version));
            // Mended first.
            self.broker.poison.remove(&row);
            self.broker.write(self.postgres.rows[row].partition(), row);
            self.broker.acknowledged.insert(row);
        }
    }
}

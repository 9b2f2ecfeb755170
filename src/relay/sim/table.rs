//! A model of the table of dead letters, of the desk between it and the core, and of people who mend,
//! replay and discard.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::model::{Rng, World};
use crate::dead_letter::{Content, Letter};
use crate::postgres::Lsn;
use crate::relay::parking::Parked;

/// Position of a letter.
type Position = (Lsn, u64);

/// Topic and key.
type Key = (Arc<str>, Bytes);

#[derive(Debug)]
enum Order {
    Store { batch: Vec<Parked>, inserted: bool },
    Look { keys: Vec<Key>, gone: Option<Vec<Key>> },
}

/// The table and who works on it.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Version, row id and key of each letter.
    letters: BTreeMap<Position, (u64, usize, Key)>,
    versions: u64,
    order: Option<Order>,
    /// Published by a replay and not deleted yet: position and version.
    replayed: Option<(Position, u64)>,
    /// Rows that someone gave up.
    pub(super) discarded: HashSet<usize>,
}

impl Table {
    fn insert(&mut self, letter: &Letter) {
        let Content::Record(record) = &letter.content else { panic!("the model has no such rows") };
        self.versions += 1;
        let key = (Arc::clone(&record.topic), record.key.clone());
        let id = record.id().parse().unwrap();
        self.letters.insert((letter.commit_lsn, letter.ordinal), (self.versions, id, key));
    }

    /// The keys with letters.
    pub(super) fn keys(&self) -> HashSet<Key> {
        self.letters.values().map(|(_, _, key)| key.clone()).collect()
    }

    /// Whether the row is stored.
    pub(super) fn holds(&self, row: usize) -> bool {
        self.letters.values().any(|(_, id, _)| *id == row)
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.letters.is_empty() && self.order.is_none()
    }

    /// The session ends; its last statement may have reached the server.
    pub(super) fn session_ends(&mut self, rng: &mut Rng) {
        if let Some(Order::Store { batch, inserted: false }) = self.order.take()
            && rng.below(2) == 0
        {
            batch.iter().for_each(|parked| self.insert(&parked.letter));
        }
    }
}

impl World {
    /// The desk takes its next step: an order begins, is carried out, or is answered.
    pub(super) fn desk_works(&mut self, rng: &mut Rng) {
        self.table.order = match self.table.order.take() {
            None if self.core.has_letters() && rng.below(3) > 0 => {
                Some(Order::Store { batch: self.core.letters(), inserted: false })
            }
            None if self.core.parked_keys() > 0 => {
                Some(Order::Look { keys: self.core.parked_names(), gone: None })
            }
            None => None,
            Some(Order::Store { batch, inserted: false }) => {
                batch.iter().for_each(|parked| self.table.insert(&parked.letter));
                Some(Order::Store { batch, inserted: true })
            }
            Some(Order::Store { batch, inserted: true }) => {
                self.core.stored(&batch);
                batch.iter().for_each(|parked| self.no_longer_waits(&parked.letter));
                None
            }
            Some(Order::Look { keys, gone: None }) => {
                let held = self.table.keys();
                let gone = keys.iter().filter(|key| !held.contains(*key)).cloned().collect();
                Some(Order::Look { keys, gone: Some(gone) })
            }
            Some(Order::Look { gone: Some(gone), .. }) => {
                self.core.hand_back(&gone, self.now);
                None
            }
        };
    }

    /// Someone publishes the first letter of a key, deletes what was published, or gives one up.
    pub(super) fn replay_works(&mut self, rng: &mut Rng) {
        if let Some((position, version)) = self.table.replayed.take() {
            let is_same = self.table.letters.get(&position).is_some_and(|letter| letter.0 == version);
            // A replay may be broken off before it deletes.
            if is_same && rng.below(8) > 0 {
                self.table.letters.remove(&position);
            }
            return;
        }
        let keys: Vec<Key> = {
            let mut keys: Vec<Key> = self.table.keys().into_iter().collect();
            keys.sort();
            keys
        };
        if keys.is_empty() {
            return;
        }
        let key = &keys[rng.below(keys.len() as u64) as usize];
        let first = self.table.letters.iter().find(|(_, letter)| letter.2 == *key);
        let Some((position, (version, id, _))) = first.map(|(position, letter)| (*position, letter.clone()))
        else {
            return;
        };
        match rng.below(10) {
            0 => {
                self.table.letters.remove(&position);
                self.table.discarded.insert(id);
            }
            // Mended first.
            _ => {
                self.publish_letter(id);
                self.table.replayed = Some((position, version));
            }
        }
    }
}

//! Which keys are parked, and what is on its way into the table of dead letters.
//!
//! A key (topic and Kafka key) is parked from the first of its records that Kafka will never take. That
//! record and every later one of the key become letters, until the table holds none of them any more.
//!
//! Invariants: letters of a key reach the table in commit order; none reaches it before every earlier
//! record of its key is resolved, or a replay could publish it before them; a key is handed back only
//! when the table holds none of its letters and none that Kafka cannot take is on the way.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytes::Bytes;

use super::ledger::Ledger;
use super::queued::TopicId;
use crate::dead_letter::{Content, Letter, Reason};
use crate::kafka::Ticket;

/// More parked keys than this are no accident of single records: something is wrong with the topic or
/// with what writes the events, and the relay halts.
pub(super) const MAX_PARKED_KEYS: usize = 10_000;

/// A letter on its way into the table.
#[derive(Debug, Clone)]
pub(super) struct Parked {
    /// Its place in the ledger.
    pub(super) ticket: Ticket,
    /// Its topic; a row that cannot be mapped has none.
    pub(super) topic: Option<TopicId>,
    /// What is stored.
    pub(super) letter: Letter,
}

impl Parked {
    /// Topic and key, where it has them.
    fn name(&self) -> Option<(TopicId, &Bytes)> {
        match (&self.topic, &self.letter.content) {
            (Some(topic), Content::Record(record)) => Some((*topic, &record.key)),
            _ => None,
        }
    }

    fn is_refused(&self) -> bool {
        self.letter.reason != Reason::Behind
    }
}

/// A parked key.
#[derive(Debug, Default)]
struct Key {
    /// Records from this ticket on are parked; earlier ones still go to Kafka.
    from: Ticket,
    /// Nothing is stored before every record of the topic below this ticket is resolved or parked itself.
    barrier: Option<Ticket>,
    /// Letters that wait for that.
    waiting: BTreeMap<Ticket, Letter>,
    /// Letters not stored yet that Kafka cannot take.
    refused: usize,
}

/// The keys of a topic that wait for their barriers.
#[derive(Debug)]
struct Unsettled {
    /// Every record of the topic below it is resolved or parked.
    cursor: Ticket,
    keys: VecDeque<(Ticket, Bytes)>,
}

/// The parked keys of a session, and their letters that are not stored yet.
#[derive(Debug, Default)]
pub(super) struct Parking {
    topics: HashMap<TopicId, HashMap<Bytes, Key>>,
    keys: usize,
    unsettled: BTreeMap<TopicId, Unsettled>,
    ready: VecDeque<Parked>,
    at_desk: usize,
}

impl Parking {
    /// How many keys are parked.
    pub(super) fn keys(&self) -> usize {
        self.keys
    }

    /// The parked keys.
    pub(super) fn names(&self) -> impl Iterator<Item = (TopicId, &Bytes)> + '_ {
        self.topics.iter().flat_map(|(topic, keys)| keys.keys().map(move |key| (*topic, key)))
    }

    /// The ticket from which on records of the key are parked.
    pub(super) fn from(&self, topic: TopicId, key: &[u8]) -> Option<Ticket> {
        if self.keys == 0 {
            return None;
        }
        self.topics.get(&topic)?.get(key).map(|key| key.from)
    }

    /// Whether one more key is too many.
    pub(super) fn is_full_for(&self, topic: TopicId, key: &[u8]) -> bool {
        self.keys >= MAX_PARKED_KEYS && self.from(topic, key).is_none()
    }

    /// A key of which the table holds letters from before.
    pub(super) fn load(&mut self, topic: TopicId, key: Bytes) {
        if self.topics.entry(topic).or_default().insert(key, Key::default()).is_none() {
            self.keys += 1;
        }
    }

    /// A row without topic and key.
    pub(super) fn add_row(&mut self, ticket: Ticket, letter: Letter) {
        self.ready.push_back(Parked { ticket, topic: None, letter });
    }

    /// A record: one that Kafka will never take parks its key, one that is [`Reason::Behind`] follows.
    /// `next` is the ledger's next ticket.
    pub(super) fn add(&mut self, topic: TopicId, key: &Bytes, ticket: Ticket, letter: Letter, next: Ticket) {
        let keys = self.topics.entry(topic).or_default();
        if !keys.contains_key(key) {
            self.keys += 1;
            let barrier = Some(next);
            keys.insert(key.clone(), Key { from: ticket, barrier, ..Key::default() });
            let unsettled = self.unsettled.entry(topic);
            let unsettled = unsettled.or_insert_with(|| Unsettled { cursor: 0, keys: VecDeque::new() });
            unsettled.keys.push_back((next, key.clone()));
        }
        let Some(state) = keys.get_mut(key) else { return };
        state.from = state.from.min(ticket);
        state.refused += usize::from(letter.reason != Reason::Behind);
        if state.barrier.is_some() {
            state.waiting.insert(ticket, letter);
        } else {
            self.ready.push_back(Parked { ticket, topic: Some(topic), letter });
        }
    }

    /// Lets go of the letters whose earlier records are resolved; `topic_of` knows a route's topic.
    pub(super) fn settle(&mut self, ledger: &Ledger, topic_of: impl Fn(u32) -> Option<TopicId>) {
        if self.unsettled.is_empty() {
            return;
        }
        let Self { unsettled, topics, ready, .. } = self;
        unsettled.retain(|topic, unsettled| {
            while let Some((barrier, key)) = unsettled.keys.front() {
                if !ledger.settle(&mut unsettled.cursor, *barrier, |route| topic_of(route) == Some(*topic)) {
                    return true;
                }
                if let Some(state) = topics.get_mut(topic).and_then(|keys| keys.get_mut(key)) {
                    state.barrier = None;
                    let letters = std::mem::take(&mut state.waiting);
                    let parked = letters.into_iter().map(|(ticket, letter)| Parked {
                        ticket,
                        topic: Some(*topic),
                        letter,
                    });
                    ready.extend(parked);
                }
                unsettled.keys.pop_front();
            }
            false
        });
    }

    /// The next letters to be stored, at most so many and, but for the first, of so many bytes. They are
    /// at the desk until [`Parking::stored`].
    pub(super) fn batch(&mut self, most: usize, most_bytes: usize) -> Vec<Parked> {
        let mut bytes = 0;
        let fits = |parked: &&Parked| {
            bytes += parked.letter.bytes();
            bytes <= most_bytes
        };
        let count = self.ready.iter().take(most).take_while(fits).count();
        let batch: Vec<Parked> = self.ready.drain(..count.max(1).min(self.ready.len())).collect();
        self.at_desk += batch.len();
        batch
    }

    /// Whether a letter could be stored now.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether there are letters that are not in the table yet.
    pub(super) fn has_unstored(&self) -> bool {
        self.is_ready() || self.at_desk > 0 || !self.unsettled.is_empty()
    }

    /// The letters are in the table for good.
    pub(super) fn stored(&mut self, batch: &[Parked]) {
        self.at_desk -= batch.len();
        for parked in batch.iter().filter(|parked| parked.is_refused()) {
            if let Some((topic, key)) = parked.name()
                && let Some(state) = self.topics.get_mut(&topic).and_then(|keys| keys.get_mut(key))
            {
                state.refused -= 1;
            }
        }
    }

    /// The table held no letter of these keys when it was looked at, with nothing at the desk: they flow
    /// again, and their letters on the way become records again, in order. A key with a letter that Kafka
    /// cannot take stays.
    pub(super) fn hand_back(&mut self, keys: &[(TopicId, Bytes)]) -> Vec<Parked> {
        assert_eq!(self.at_desk, 0, "a look at the table while letters are being stored");
        let mut back: HashSet<(TopicId, &Bytes)> = HashSet::new();
        for (topic, key) in keys {
            let Some(of_topic) = self.topics.get_mut(topic) else { continue };
            if of_topic.get(key).is_some_and(|state| state.barrier.is_none() && state.refused == 0) {
                of_topic.remove(key);
                self.keys -= 1;
                back.insert((*topic, key));
            }
        }
        if back.is_empty() || self.ready.is_empty() {
            return Vec::new();
        }
        let is_back = |parked: &Parked| parked.name().is_some_and(|name| back.contains(&name));
        let (returned, ready) = std::mem::take(&mut self.ready).into_iter().partition(is_back);
        self.ready = ready;
        for Parked { ticket, topic, .. } in &returned {
            // They are unresolved again, perhaps behind what was looked at already.
            if let Some(unsettled) = topic.and_then(|topic| self.unsettled.get_mut(&topic)) {
                unsettled.cursor = unsettled.cursor.min(*ticket);
            }
        }
        Vec::from(returned)
    }
}

#[cfg(test)]
mod tests;

//! A topic that a record failed on waits: nothing more goes to it until all of it in flight has
//! reported, then the failed records go again, in order, after a backoff. Other topics flow.
//!
//! librdkafka keeps order across its own retries; a record that comes back failed has left that
//! order. So everything behind it on the topic is held here until it went first.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
use super::lane::split;
use super::queued::{Queued, TopicId};
use crate::kafka::Ticket;
use crate::kafka::limits::TopicLimit;
use crate::outbox::Record;

/// More topics than this are no topics of events: an identifier has come into the column that names them. Each
/// costs a place here for as long as the session lives, a question to the broker a minute, and a name in the
/// metadata that every client of the cluster reads.
pub(super) const MAX_TOPICS: usize = 10_000;

/// Why and since when a topic waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// What Kafka said.
    pub(super) message: String,
    /// What a person can do, if anything.
    pub(super) remedy: Option<String>,
    /// Since when.
    pub(super) since: Instant,
}

/// Where a topic is on its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Records go as they come.
    Flowing,
    /// A record failed; what is in flight has to report first.
    Draining,
    /// All has reported; the failed records go again at that time.
    Waiting(Instant),
    /// The oldest failed record went alone, to see whether the trouble is over.
    Probing,
}

/// One topic.
#[derive(Debug)]
pub(super) struct Topic {
    /// Its name.
    pub(super) name: Arc<str>,
    /// Largest record it takes; `None` until it was asked for.
    pub(super) limit: Option<TopicLimit>,
    phase: Phase,
    in_flight: usize,
    failed: BTreeMap<Ticket, Record>,
    held: VecDeque<Queued>,
    attempts: u32,
    singly: bool,
    trouble: Option<Trouble>,
}

impl Topic {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            limit: None,
            phase: Phase::Flowing,
            in_flight: 0,
            failed: BTreeMap::new(),
            held: VecDeque::new(),
            attempts: 0,
            singly: false,
            trouble: None,
        }
    }

    /// Whether a new record has to wait behind others of the topic.
    pub(super) fn must_hold(&self) -> bool {
        self.phase != Phase::Flowing || !self.failed.is_empty() || !self.held.is_empty()
    }

    /// Keeps a record until its turn, with bytes of its own: a record that waits must not keep a
    /// whole receive buffer alive.
    pub(super) fn hold(&mut self, queued: Queued) {
        let record = queued.record.detached();
        self.held.push_back(Queued { record, ..queued });
    }

    /// The producer took a record in.
    pub(super) fn sent(&mut self) {
        self.in_flight += 1;
    }

    /// Kafka has one of the records in flight; returns whether that ended the trouble.
    pub(super) fn acknowledged(&mut self) -> bool {
        self.in_flight -= 1;
        if self.phase == Phase::Flowing {
            self.attempts = 0;
        }
        if self.phase != Phase::Probing || self.in_flight > 0 {
            return false;
        }
        self.attempts = 0;
        if self.singly && !self.failed.is_empty() {
            return false;
        }
        self.singly = false;
        self.phase = Phase::Flowing;
        self.trouble.take().is_some()
    }

    /// A record came back; it goes again before anything newer of the topic. `counts` uses up an
    /// attempt; `singly` sends the failed ones one at a time, so that the innocent neighbours of a
    /// batch that was too large are not blamed.
    pub(super) fn failed(
        &mut self,
        ticket: Ticket,
        record: Record,
        trouble: Trouble,
        counts: bool,
        singly: bool,
    ) {
        self.in_flight -= 1;
        if counts && self.phase != Phase::Draining {
            self.attempts += 1;
        }
        self.phase = Phase::Draining;
        self.singly |= singly;
        self.failed.insert(ticket, record);
        let since = self.trouble.as_ref().map_or(trouble.since, |known| known.since);
        self.trouble = Some(Trouble { since, ..trouble });
    }

    /// One of the records in flight, or the one that [`Topic::next`] gave last (`was_in_flight` false), will
    /// not go again: Kafka looked at it, so whatever the topic waited for is over.
    pub(super) fn left(&mut self, was_in_flight: bool) {
        self.in_flight -= usize::from(was_in_flight);
        if self.phase == Phase::Probing && self.in_flight == 0 && (!self.singly || self.failed.is_empty()) {
            self.flow();
        }
    }

    fn flow(&mut self) {
        self.phase = Phase::Flowing;
        self.singly = false;
        self.trouble = None;
    }

    /// Takes out a failed record, which will not go again.
    pub(super) fn take_failed(&mut self, ticket: Ticket) -> Option<Record> {
        self.failed.remove(&ticket)
    }

    /// Undoes [`Topic::take_failed`].
    pub(super) fn put_back_failed(&mut self, ticket: Ticket, record: Record) {
        self.failed.insert(ticket, record);
    }

    /// Takes out the records of a key that were taken after `ticket`.
    pub(super) fn take_key(&mut self, key: &[u8], ticket: Ticket) -> Vec<(Ticket, Record)> {
        let later = |at: Ticket, record: &Record| at > ticket && record.key == key;
        let failed = self.failed.extract_if(ticket.., |at, record| later(*at, record));
        let mut taken: Vec<_> = failed.collect();
        let held: Vec<Queued>;
        (held, self.held) = split(std::mem::take(&mut self.held), |q| later(q.ticket, &q.record));
        taken.extend(held.into_iter().map(|queued| (queued.ticket, queued.record)));
        taken
    }

    /// Whether a record of the key that was taken before `ticket` has to go again.
    pub(super) fn is_behind(&self, key: &[u8], ticket: Ticket) -> bool {
        self.failed.range(..ticket).any(|(_, record)| record.key == key)
    }

    /// Once all in flight has reported, sets the time of the resend and returns the wait.
    fn schedule(&mut self, backoff: &mut Backoff, now: Instant) -> Option<Duration> {
        if self.phase != Phase::Draining || self.in_flight > 0 {
            return None;
        }
        if self.failed.is_empty() && self.held.is_empty() {
            self.flow();
            return None;
        }
        // Finding out who of a batch was too large is no retry, nor is the first try of a record behind
        // those that were given up: at once.
        let delay = if self.failed.is_empty() || (self.attempts == 0 && self.singly) {
            Duration::ZERO
        } else {
            backoff.delay(self.attempts.saturating_sub(1))
        };
        self.phase = Phase::Waiting(now + delay);
        Some(delay)
    }

    /// The next record that has to go before anything of the lanes, if its time has come.
    pub(super) fn next(&mut self, now: Instant) -> Option<(Ticket, Record)> {
        match self.phase {
            Phase::Waiting(at) if now >= at => {
                self.phase = Phase::Probing;
                self.oldest()
            }
            Phase::Probing if self.in_flight == 0 => self.failed.pop_first(),
            Phase::Flowing => self.oldest(),
            _ => None,
        }
    }

    fn oldest(&mut self) -> Option<(Ticket, Record)> {
        self.failed.pop_first().or_else(|| self.held.pop_front().map(|queued| (queued.ticket, queued.record)))
    }

    /// The producer could not take a record of [`Topic::next`]: it stays the next one.
    pub(super) fn give_back(&mut self, ticket: Ticket, record: Record, now: Instant) {
        if self.phase == Phase::Probing {
            self.phase = Phase::Waiting(now);
        }
        self.failed.insert(ticket, record);
    }

    /// When the failed records go again.
    fn retry_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting(at) => Some(at),
            _ => None,
        }
    }

    /// Whether the failed records are sent one at a time.
    pub(super) fn is_single(&self) -> bool {
        self.singly && self.phase == Phase::Probing
    }

    /// Resends used up by the oldest failed record.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Why it waits.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }
}

/// The topics of a session.
#[derive(Debug, Default)]
pub(super) struct Topics {
    topics: Vec<Topic>,
    by_name: HashMap<Arc<str>, TopicId>,
    /// Those whose records have to wait, in the order of their ids.
    holding: BTreeSet<TopicId>,
}

impl Topics {
    /// The topic of that name, known from now on.
    pub(super) fn intern(&mut self, name: &Arc<str>) -> TopicId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = TopicId(u32::try_from(self.topics.len()).unwrap_or(u32::MAX));
        self.topics.push(Topic::new(Arc::clone(name)));
        self.by_name.insert(Arc::clone(name), id);
        id
    }

    /// The topic.
    pub(super) fn get(&self, id: TopicId) -> &Topic {
        &self.topics[id.0 as usize]
    }

    /// Whether the topic is known, or one more may be.
    pub(super) fn has_room_for(&self, name: &Arc<str>) -> bool {
        self.topics.len() < MAX_TOPICS || self.by_name.contains_key(name)
    }

    /// The topic, to change; what it says of holding is looked at again by [`Topics::settle`].
    pub(super) fn get_mut(&mut self, id: TopicId) -> &mut Topic {
        &mut self.topics[id.0 as usize]
    }

    /// Notes whether the topic's records have to wait, after it changed.
    pub(super) fn settle(&mut self, id: TopicId) {
        if self.get(id).must_hold() {
            self.holding.insert(id);
        } else {
            self.holding.remove(&id);
        }
    }

    /// Topics whose records wait.
    pub(super) fn holding(&self) -> impl Iterator<Item = TopicId> + '_ {
        self.holding.iter().copied()
    }

    /// Schedules the resends of topics that have drained; tells each with its attempt and wait.
    pub(super) fn schedule(&mut self, backoff: &mut Backoff, now: Instant) -> Vec<(TopicId, u32, Duration)> {
        let mut scheduled = Vec::new();
        for id in &self.holding {
            let topic = &mut self.topics[id.0 as usize];
            if let Some(delay) = topic.schedule(backoff, now) {
                scheduled.push((*id, topic.attempts(), delay));
            }
        }
        scheduled
    }

    /// When the next resend is due.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.holding.iter().filter_map(|id| self.get(*id).retry_at()).min()
    }
}

#[cfg(test)]
mod tests;

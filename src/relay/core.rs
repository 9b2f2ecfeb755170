//! The relay's decisions: what may be read, what is sent when, what may be confirmed, what a failure
//! means. Inputs in, outputs out; no socket, no clock, no thread, so that a simulation can run
//! thousands of schedules a second through it.
//!
//! This file takes records in; `dispatch` hands them over, `reports` says what came of them, `parks` is
//! the way of those that Kafka will never take, `view` shows the rest of the relay how it stands.
//!
//! Invariants held here: records of a key are sent in commit order and none behind one that has to go
//! again (I5); a failed record holds the confirmed LSN before itself and is retried, parked, or halts
//! the relay, never dropped (I4); bytes read and not acknowledged stay within the budget and one record
//! (I6). The ledger holds I1 to I3.

mod dispatch;
mod parks;
mod reports;
mod view;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::parks::{BEHIND, NO_ROUTE};

use super::backoff::Backoff;
use super::breaker::{Breaker, Transition};
use super::budget::Budget;
use super::checkpoint::Rejected;
use super::gather::Gather;
use super::halt::Halt;
use super::lane::Lanes;
use super::ledger::Ledger;
use super::parking::Parking;
use super::queued::{Queued, TopicId};
use super::refusal::{too_large, too_large_text};
use super::rounds::Rounds;
use super::settings::Settings;
use super::topics::{Topics, Trouble};
use crate::dead_letter::Reason;
use crate::kafka::limits::TopicLimit;
use crate::kafka::{SendError, Ticket};
use crate::outbox::Record;
use crate::postgres::Lsn;

/// Behind the oldest unresolved record at most this many are acknowledged; then intake stops, or
/// the ledger, and what a crash repeats, would grow without bound.
const MAX_RESOLVED_BEHIND: usize = 1_000_000;

/// How soon a producer that was full with nothing left to report is tried again.
const FULL_FOR: Duration = Duration::from_millis(5);

/// Takes records for Kafka; the producer, or a model of it.
pub(super) trait Sink {
    /// As [`crate::kafka::Producer::send`].
    fn send(&mut self, record: &Record, ticket: Ticket) -> Result<(), SendError>;
}

/// What became of a record that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It has its place and its lane.
    Yes,
    /// The topic's size limit has to be learnt first; the record comes back.
    NeedsLimit(Box<Record>),
    /// It is larger than its topic takes: parked, or the halt that it means.
    TooLarge(Option<Halt>),
}

/// An acknowledged record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// Who counts it.
    pub(super) route: u32,
    /// From reading to acknowledgement.
    pub(super) processing: Duration,
    /// From hand-over to acknowledgement.
    pub(super) publishing: Duration,
    /// Commit time, µs since 2000-01-01 UTC.
    pub(super) commit_time: i64,
}

/// A record that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CameBack {
    /// Who counts it.
    pub(super) route: u32,
    /// Resends that its topic has used up.
    pub(super) attempts: u32,
    /// The topic was well until now.
    pub(super) first: bool,
    /// It will not go again: it is a dead letter.
    pub(super) parked: bool,
}

/// Where records come from and go to: an outbox table, an event type, a topic.
#[derive(Debug)]
struct Source {
    topic: TopicId,
    table: Arc<str>,
    event_type: Bytes,
}

/// The record that the relay stops at.
#[derive(Debug)]
struct Refused {
    halt: Halt,
    topic: TopicId,
    key: Bytes,
    ticket: Ticket,
    rejected: Rejected,
}

/// A letter that its table never takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unstorable {
    /// What that means.
    pub(super) halt: Halt,
    /// Where it stands, for the checkpoint row.
    pub(super) rejected: Rejected,
}

/// A topic in trouble, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    /// The topic.
    pub(super) topic: Arc<str>,
    /// Why.
    pub(super) trouble: Trouble,
}

/// The core of one replication session.
#[derive(Debug)]
pub(super) struct Core {
    settings: Settings,
    ledger: Ledger,
    budget: Budget,
    lanes: Lanes,
    topics: Topics,
    parking: Parking,
    routes: Vec<Source>,
    rounds: Rounds,
    breaker: Breaker,
    gather: Gather,
    backoff: Backoff,
    /// The producer takes nothing until something was reported, or until then.
    full_until: Option<Instant>,
    /// Since when a record waits for its topic's limit: it counts like one at the producer, since
    /// Kafka is what it waits for.
    wants_limit_since: Option<Instant>,
    /// Why nothing more is handed over: the record that Kafka refused stays the oldest of its key.
    refused: Option<Refused>,
    /// A letter that its table never takes.
    unstorable: Option<Unstorable>,
    /// Until this is confirmed nothing is read behind a letter that is not stored: the table refused one from
    /// here at the last stop, and may again.
    careful_until: Option<Lsn>,
    fatal: Option<String>,
}

impl Core {
    /// The core of a session that starts where the slot stands.
    pub(super) fn new(
        settings: Settings,
        slot_confirmed_lsn: Lsn,
        breaker: Breaker,
        backoff: Backoff,
    ) -> Self {
        Self {
            ledger: Ledger::new(slot_confirmed_lsn),
            budget: Budget::new(settings.max_in_flight_bytes),
            lanes: Lanes::new(settings.lanes),
            topics: Topics::default(),
            parking: Parking::default(),
            routes: Vec::new(),
            rounds: Rounds::default(),
            breaker,
            gather: Gather::new(),
            backoff,
            full_until: None,
            wants_limit_since: None,
            refused: None,
            unstorable: None,
            careful_until: None,
            fatal: None,
            settings,
        }
    }

    /// Gives back what outlives the session.
    pub(super) fn into_breaker(self) -> Breaker {
        self.breaker
    }

    /// The ledger: what was received and confirmed.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// A transaction begins; `commit_lsn` is where its commit record begins, or whatever rises with commit
    /// order: it is the position of its dead letters.
    pub(super) fn begin(&mut self, commit_lsn: Lsn, commit_time: i64) {
        self.ledger.begin(commit_lsn, 0, commit_time);
    }

    /// A row of the table begins, number `number` of a backfill that reads what was committed before `at`:
    /// its dead letter stands behind those of the stream up to there, and before what comes later.
    pub(super) fn begin_row(&mut self, at: Lsn, number: u64, commit_time: i64) {
        self.ledger.begin(at, number, commit_time);
    }

    /// It ends; returns whether it held any record.
    pub(super) fn commit(&mut self, end_lsn: Lsn) -> bool {
        self.ledger.commit(end_lsn)
    }

    /// WAL up to `lsn` came.
    pub(super) fn received(&mut self, lsn: Lsn) {
        self.ledger.received(lsn);
    }

    /// A keepalive.
    pub(super) fn keepalive(&mut self, wal_end: Lsn) {
        self.ledger.keepalive(wal_end);
    }

    /// Whether records may go to that topic: it is known, or one more may be.
    pub(super) fn has_room_for(&self, topic: &Arc<str>) -> bool {
        self.topics.has_room_for(topic)
    }

    /// A new route: its records are events of a type from a table (`schema.name`) and go to `topic`.
    pub(super) fn add_route(&mut self, topic: &Arc<str>, table: &Arc<str>, event_type: Bytes) -> u32 {
        let topic = self.topics.intern(topic);
        self.routes.push(Source { topic, table: Arc::clone(table), event_type });
        u32::try_from(self.routes.len() - 1).unwrap_or(u32::MAX)
    }

    /// A record of the open transaction; `size` as Kafka counts it.
    pub(super) fn take(&mut self, mut record: Record, route: u32, size: usize, now: Instant) -> Taken {
        let topic = self.routes[route as usize].topic;
        let Some(limit) = self.topics.get(topic).limit else {
            self.wants_limit_since.get_or_insert(now);
            return Taken::NeedsLimit(Box::new(record));
        };
        self.wants_limit_since = None;
        if size > limit.bytes() as usize {
            let error = too_large_text(size, limit);
            let halt = |record: &Record| too_large(record, size, limit);
            return Taken::TooLarge(self.refuse(record, route, Reason::TooLarge, &error, now, halt));
        }
        let ticket = self.ledger.take(record.bytes(), route, now);
        self.observe_budget();
        if self.parking.from(topic, &record.key).is_some() {
            self.park(ticket, record, route, Reason::Behind, BEHIND);
            return Taken::Yes;
        }
        // A record that has to wait must not keep the whole receive buffer that it came in alive:
        // between it and the next one may lie any amount of rows that are not ours.
        if self.is_stuck() || self.breaker.allowance(self.rounds.outstanding()) == 0 {
            record = record.detached();
        }
        self.lanes.push(Queued { ticket, topic, record });
        self.gather.took(1, now);
        Taken::Yes
    }

    /// A topic's size limit is known, from an answer of Kafka: a sign of life like an acknowledgement.
    pub(super) fn learnt_limit(&mut self, topic: &Arc<str>, limit: TopicLimit, now: Instant) {
        if self.wants_limit_since.is_some() {
            self.breaker.answered(now);
        }
        self.set_limit(topic, limit);
    }

    /// A topic's size limit is known from before.
    pub(super) fn set_limit(&mut self, topic: &Arc<str>, limit: TopicLimit) {
        let id = self.topics.intern(topic);
        self.topics.get_mut(id).limit = Some(limit);
    }

    /// Whether more WAL may be read: backpressure reaches the walsender through TCP.
    pub(super) fn may_read(&self) -> bool {
        self.refused().is_none()
            && !self.awaits_letters()
            && self.budget.has_room()
            && self.ledger.oldest().is_none_or(|oldest| oldest.resolved_behind < MAX_RESOLVED_BEHIND)
    }

    fn observe_budget(&mut self) {
        self.budget.observe(self.ledger.in_flight_bytes(), self.rounds.outstanding());
    }

    /// Whether the stream is busy, by its recent rate.
    pub(super) fn is_busy(&self) -> bool {
        self.gather.is_busy()
    }

    /// Whether records come in a flood: then whoever reads them is awake again and again.
    pub(super) fn is_flooded(&self, now: Instant) -> bool {
        self.gather.is_flooded(now)
    }

    /// Time passed. Returns the resends that were scheduled: topic, attempt, wait.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<(Arc<str>, u32, Duration)> {
        self.breaker.tick(self.rounds.oldest().or(self.wants_limit_since), now);
        let Self { parking, ledger, routes, .. } = self;
        parking.settle(ledger, |route| (route != NO_ROUTE).then(|| routes[route as usize].topic));
        if self.refused().is_some() {
            return Vec::new();
        }
        let scheduled = self.topics.schedule(&mut self.backoff, now);
        scheduled.into_iter().map(|(id, n, wait)| (Arc::clone(&self.topics.get(id).name), n, wait)).collect()
    }

    /// When [`Core::tick`] or [`Core::dispatch`] has something to do at the latest.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let can_send = !self.is_stuck() && self.breaker.allowance(self.rounds.outstanding()) > 0;
        let burst = self.gather.due_at().filter(|_| can_send && self.lanes.queued() > 0);
        let retry = self.topics.next_retry().filter(|_| can_send);
        let full = self.full_until.filter(|_| self.rounds.outstanding() == 0);
        [burst, retry, full, self.breaker.next_tick()].into_iter().flatten().min()
    }

    /// Why the relay halts, once nothing is outstanding.
    pub(super) fn refused(&self) -> Option<&Halt> {
        let unstorable = self.unstorable.as_ref().map(|unstorable| &unstorable.halt);
        unstorable.or(self.refused.as_ref().map(|refused| &refused.halt))
    }

    /// Why the session ends at once.
    pub(super) fn fatal(&self) -> Option<&str> {
        self.fatal.as_deref()
    }

    /// Opens or closes the breaker by hand.
    pub(super) fn force_breaker(&mut self, open: bool, now: Instant) {
        if open {
            self.breaker.force_open(now);
        } else {
            self.breaker.force_close();
        }
    }

    /// The breaker's changes of state since the last call.
    pub(super) fn breaker_transitions(&mut self) -> Vec<Transition> {
        self.breaker.take_transitions()
    }
}

#[cfg(test)]
pub(super) mod tests;

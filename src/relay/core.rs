//! The relay's decisions: what may be read, what is sent when, what may be confirmed, what a failure
//! means. Inputs in, outputs out; no socket, no clock, no thread, so that a simulation can run
//! thousands of schedules a second through it.
//!
//! Invariants held here: records of a key are sent in commit order and none behind one that has to go
//! again (I5); a failed record holds the confirmed LSN before itself and is retried or halts the
//! relay, never dropped (I4); bytes read and not acknowledged stay within the budget and one record
//! (I6). The ledger holds I1 to I3.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
use super::breaker::{Breaker, State, Transition};
use super::budget::Budget;
use super::gather::Gather;
use super::halt::Halt;
use super::lane::{Lanes, Queued};
use super::ledger::Ledger;
use super::refusal::{exhausted, refused};
use super::rounds::{Round, Rounds};
use super::settings::Settings;
use super::topics::{TopicId, Topics, Trouble};
use crate::kafka::{Failure, FailureClass, Rejection, SendError, Ticket};
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
    /// It is larger than its topic takes.
    TooLarge {
        /// The record.
        record: Box<Record>,
        /// Its size as Kafka counts it.
        size: usize,
        /// The topic's limit.
        limit: usize,
    },
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
    routes: Vec<TopicId>,
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
    refused: Option<Halt>,
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
            routes: Vec::new(),
            rounds: Rounds::default(),
            breaker,
            gather: Gather::new(),
            backoff,
            full_until: None,
            wants_limit_since: None,
            refused: None,
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

    /// A transaction begins.
    pub(super) fn begin(&mut self, commit_time: i64) {
        self.ledger.begin(commit_time);
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

    /// A new route: its records go to `topic`.
    pub(super) fn add_route(&mut self, topic: &Arc<str>) -> u32 {
        let id = self.topics.intern(topic);
        self.routes.push(id);
        u32::try_from(self.routes.len() - 1).unwrap_or(u32::MAX)
    }

    /// A record of the open transaction; `size` as Kafka counts it.
    pub(super) fn take(&mut self, record: Record, route: u32, size: usize, now: Instant) -> Taken {
        let topic = self.routes[route as usize];
        let Some(limit) = self.topics.get(topic).limit else {
            self.wants_limit_since.get_or_insert(now);
            return Taken::NeedsLimit(Box::new(record));
        };
        self.wants_limit_since = None;
        if size > limit {
            return Taken::TooLarge { record: Box::new(record), size, limit };
        }
        let ticket = self.ledger.take(record.bytes(), route, now);
        self.observe_budget();
        // A record that has to wait must not keep the whole receive buffer that it came in alive:
        // between it and the next one may lie any amount of rows that are not ours.
        let waits = self.is_stuck() || self.breaker.allowance(self.rounds.outstanding()) == 0;
        let record = if waits { record.detached() } else { record };
        let queued = Queued { ticket, topic, record };
        self.lanes.push(queued);
        self.gather.took(1, now);
        Taken::Yes
    }

    /// A topic's size limit is known, from an answer of Kafka: a sign of life like an acknowledgement.
    pub(super) fn learnt_limit(&mut self, topic: &Arc<str>, limit: usize, now: Instant) {
        if self.wants_limit_since.is_some() {
            self.breaker.answered(now);
        }
        self.set_limit(topic, limit);
    }

    /// A topic's size limit is known from before.
    pub(super) fn set_limit(&mut self, topic: &Arc<str>, limit: usize) {
        let id = self.topics.intern(topic);
        self.topics.get_mut(id).limit = Some(limit);
    }

    /// Whether more WAL may be read: backpressure reaches the walsender through TCP.
    pub(super) fn may_read(&self) -> bool {
        self.refused.is_none()
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

    /// Hands over what is due: first what has to go again, then a turn of every lane.
    pub(super) fn dispatch(&mut self, sink: &mut impl Sink, now: Instant) {
        // librdkafka frees a record's place only after its report was handled, so the last report may
        // come while the queue still counts as full.
        self.full_until.take_if(|until| self.rounds.outstanding() == 0 && now >= *until);
        if self.is_stuck() {
            return;
        }
        let mut allowance = self.breaker.allowance(self.rounds.outstanding());
        if allowance == 0 {
            return;
        }
        let round = self.rounds.open(now);
        self.dispatch_topics(sink, round, &mut allowance, now);
        if self.gather.is_due(self.lanes.queued(), !self.may_read(), now) {
            for _ in 0..self.settings.lanes {
                if let Some(lane) = self.lanes.turn() {
                    self.dispatch_lane(lane, sink, round, &mut allowance);
                }
            }
            if self.lanes.queued() == 0 {
                self.gather.handed_over();
            }
        }
        self.rounds.trim();
    }

    fn dispatch_topics(&mut self, sink: &mut impl Sink, round: Round, allowance: &mut usize, now: Instant) {
        let holding: Vec<TopicId> = self.topics.holding().collect();
        for id in holding {
            while *allowance > 0 && !self.is_stuck() {
                let Some((ticket, record)) = self.topics.get_mut(id).next(now) else { break };
                if self.hand_over(&record, ticket, id, sink, round) {
                    *allowance -= 1;
                } else {
                    self.topics.get_mut(id).give_back(ticket, record, now);
                }
            }
            self.topics.settle(id);
        }
    }

    fn dispatch_lane(&mut self, lane: usize, sink: &mut impl Sink, round: Round, allowance: &mut usize) {
        for _ in 0..self.settings.batch_size {
            if *allowance == 0 || self.is_stuck() {
                return;
            }
            let Some(queued) = self.lanes.pop(lane) else { return };
            let topic = self.topics.get_mut(queued.topic);
            if topic.must_hold() {
                topic.hold(queued);
            } else if self.hand_over(&queued.record, queued.ticket, queued.topic, sink, round) {
                *allowance -= 1;
            } else {
                self.lanes.give_back(lane, queued);
            }
        }
    }

    /// Nothing can be handed over until something happens.
    fn is_stuck(&self) -> bool {
        self.full_until.is_some() || self.refused.is_some() || self.fatal.is_some()
    }

    fn hand_over(
        &mut self,
        record: &Record,
        ticket: Ticket,
        topic: TopicId,
        sink: &mut impl Sink,
        round: Round,
    ) -> bool {
        let sent = sink.send(record, ticket);
        let until = self.rounds.opened_at(round) + FULL_FOR;
        match sent {
            Ok(()) | Err(SendError::CameBack) => {
                self.ledger.sent(ticket, round);
                self.rounds.sent(round);
                self.topics.get_mut(topic).sent();
                // Its failure is on the way: nothing may pass it meanwhile.
                if sent.is_err() {
                    self.full_until = Some(until);
                }
                return true;
            }
            Err(SendError::QueueFull) => self.full_until = Some(until),
            Err(SendError::Rejected(rejection, message)) => {
                self.refused = Some(refused(record, rejection, &message));
            }
            Err(SendError::Fatal(message)) => self.fatal = Some(message),
        }
        false
    }

    /// Kafka has the record.
    pub(super) fn acknowledged(&mut self, ticket: Ticket, now: Instant) -> Acknowledged {
        self.full_until = None;
        let resolved = self.ledger.resolve(ticket);
        let sent_at = resolved.round.map_or(now, |round| self.rounds.reported(round));
        self.observe_budget();
        let id = self.routes[resolved.route as usize];
        let topic = self.topics.get_mut(id);
        if topic.acknowledged() {
            tracing::info!(topic = %topic.name, "topic takes records again");
        }
        self.breaker.success(now);
        Acknowledged {
            route: resolved.route,
            processing: now.duration_since(resolved.taken_at),
            publishing: now.duration_since(sent_at),
            commit_time: resolved.commit_time,
        }
    }

    /// The record came back and goes again, or stops the relay.
    pub(super) fn failed(&mut self, failure: Failure, remedy: Option<String>, now: Instant) -> CameBack {
        self.full_until = None;
        let (route, round) = self.ledger.returned(failure.ticket);
        self.rounds.reported(round);
        self.observe_budget();
        let id = self.routes[route as usize];
        let topic = self.topics.get_mut(id);
        let first = topic.trouble().is_none();
        let trouble = Trouble { message: failure.message.clone(), remedy, since: now };
        let too_large = failure.class == FailureClass::Rejected(Rejection::TooLarge);
        let was_alone = topic.is_single();
        let counts = matches!(failure.class, FailureClass::Topic(_));
        match failure.class {
            FailureClass::Transport => self.breaker.failure(now),
            FailureClass::Rejected(rejection) if !too_large || was_alone => {
                self.refused = Some(refused(&failure.record, rejection, &failure.message));
            }
            FailureClass::Fatal => self.fatal = Some(failure.message),
            _ => {}
        }
        topic.failed(failure.ticket, failure.record, trouble, counts, too_large);
        if let (Some(bound), true) = (self.settings.max_retries, counts)
            && topic.attempts() > bound
            && self.refused.is_none()
        {
            self.refused = Some(exhausted(&topic.name, bound, topic.trouble()));
        }
        let attempts = self.topics.get(id).attempts();
        self.topics.settle(id);
        CameBack { route, attempts, first }
    }

    /// All brokers are down, or a connection failed.
    pub(super) fn transport_trouble(&mut self, all_down: bool, now: Instant) {
        let waiting = self.ledger.unresolved() > 0 || self.wants_limit_since.is_some();
        if all_down && waiting {
            self.breaker.failure(now);
        }
    }

    /// The producer is finished.
    pub(super) fn producer_is_finished(&mut self, message: String) {
        self.fatal = Some(message);
    }

    /// Time passed. Returns the resends that were scheduled: topic, attempt, wait.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<(Arc<str>, u32, Duration)> {
        self.breaker.tick(self.rounds.oldest().or(self.wants_limit_since), now);
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
        self.refused.as_ref()
    }

    /// Why the session ends at once.
    pub(super) fn fatal(&self) -> Option<&str> {
        self.fatal.as_deref()
    }

    /// Records at the producer.
    pub(super) fn outstanding(&self) -> usize {
        self.rounds.outstanding()
    }

    /// When the oldest unresolved record was read, one that waits for its topic's limit included.
    pub(super) fn oldest_taken(&self) -> Option<Instant> {
        self.ledger.oldest().map(|oldest| oldest.taken_at).or(self.wants_limit_since)
    }

    /// When the oldest unresolved record was committed, one that waits for its topic's limit included:
    /// µs since 2000-01-01 UTC.
    pub(super) fn oldest_commit_time(&self) -> Option<i64> {
        let oldest = self.ledger.oldest().map(|oldest| oldest.commit_time);
        oldest.or_else(|| self.wants_limit_since.and_then(|_| self.ledger.open_commit_time()))
    }

    /// Records in each lane.
    pub(super) fn lane_depths(&self) -> impl Iterator<Item = usize> + '_ {
        self.lanes.depths()
    }

    /// Topics in trouble.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let named = |id| {
            let topic = self.topics.get(id);
            let trouble = topic.trouble()?.clone();
            Some(Waiting { topic: Arc::clone(&topic.name), trouble })
        };
        self.topics.holding().filter_map(named).collect()
    }

    /// The breaker's state, failures in a row, and whether it was opened by hand.
    pub(super) fn breaker(&self) -> (State, u32, bool) {
        (self.breaker.state(), self.breaker.failures(), self.breaker.is_forced())
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
mod tests;

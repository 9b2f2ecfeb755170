//! What a report of the producer means.

use tokio::time::Instant;

use super::parks::{BEHIND, reason_of};
use super::{Acknowledged, CameBack, Core};
use crate::dead_letter::Reason;
use crate::kafka::{Failure, FailureClass, Rejection, Ticket};
use crate::outbox::Record;
use crate::relay::queued::TopicId;
use crate::relay::refusal::{exhausted, exhausted_text, refused, was_fresh};
use crate::relay::topics::Trouble;

/// Whether records of the topic go alone from now on, and whether Kafka will never take this one, which went
/// `alone` and `fresh`, or not.
pub(super) fn verdict(class: FailureClass, alone: bool, fresh: bool) -> (bool, Option<Rejection>) {
    match class {
        // Of a batch each goes alone then, so that the one at fault is found.
        FailureClass::Rejected(Rejection::TooLarge) => (true, alone.then_some(Rejection::TooLarge)),
        FailureClass::Stale => (true, (alone && fresh).then_some(Rejection::Invalid)),
        FailureClass::Neighbour => (true, None),
        FailureClass::Rejected(rejection) => (false, Some(rejection)),
        FailureClass::Transport | FailureClass::Topic(_) | FailureClass::Fatal | FailureClass::Purged => {
            (false, None)
        }
    }
}

impl Core {
    /// Kafka has the record.
    pub(in crate::relay) fn acknowledged(&mut self, ticket: Ticket, now: Instant) -> Acknowledged {
        self.full_until = None;
        let resolved = self.ledger.resolve(ticket);
        let sent_at = resolved.round.map_or(now, |round| self.rounds.reported(round));
        self.observe_budget();
        let id = self.routes[resolved.route as usize].topic;
        let topic = self.topics.get_mut(id);
        if topic.acknowledged() {
            tracing::info!(topic = %topic.name, "topic takes records again");
        }
        self.breaker.reported();
        self.breaker.success(now);
        Acknowledged {
            route: resolved.route,
            processing: now.duration_since(resolved.taken_at),
            publishing: now.duration_since(sent_at),
            commit_time: resolved.commit_time,
        }
    }

    /// The record came back: it goes again, is parked, or stops the relay.
    pub(in crate::relay) fn failed(
        &mut self,
        failure: Failure,
        remedy: Option<String>,
        now: Instant,
    ) -> CameBack {
        self.full_until = None;
        let Failure { ticket, class, message, record } = failure;
        let (route, round) = self.ledger.returned(ticket);
        let sent_at = self.rounds.reported(round);
        self.breaker.reported();
        self.observe_budget();
        let source = &self.routes[route as usize];
        let id = source.topic;
        // A report knows no event type.
        let record = Record { event_type: source.event_type.clone(), ..record };
        match class {
            FailureClass::Transport => self.breaker.failure(now),
            FailureClass::Fatal => self.fatal = Some(message.clone()),
            _ => {}
        }
        let gone = CameBack { route, attempts: 0, first: false, parked: true };
        if self.parking.from(id, &record.key).is_some_and(|from| ticket > from) {
            self.park(ticket, record, route, Reason::Behind, BEHIND);
            self.topic_let_go(id);
            return gone;
        }
        let (singly, rejection) = verdict(class, self.topics.get(id).is_single(), was_fresh(sent_at, now));
        if let Some(rejection) = rejection {
            if self.may_park(id, &record) {
                self.park(ticket, record, route, reason_of(rejection), &message);
                self.topic_let_go(id);
                return gone;
            }
            let halt = refused(&record, rejection, &message);
            self.stop_at(ticket, &record, route, halt, &message);
        }
        let topic = self.topics.get_mut(id);
        let first = topic.trouble().is_none();
        let trouble = Trouble { message: message.clone(), remedy, since: now };
        let counts = matches!(class, FailureClass::Topic(_));
        topic.failed(ticket, record, trouble, counts, singly);
        let attempts = topic.attempts();
        let parked = counts && self.give_up(ticket, route, &message);
        self.topics.settle(id);
        // One that the relay stops at is told by the halt.
        CameBack { route, attempts, first: first && self.refused().is_none(), parked }
    }

    /// The policy for a record of a topic that failed more often than `KAFKA_MAX_RETRIES` allows. The
    /// bound counts the topic's failures in a row: what fails on it from then on, until something is
    /// acknowledged, has had its tries.
    fn give_up(&mut self, ticket: Ticket, route: u32, message: &str) -> bool {
        let stops = self.refused().is_some();
        let id = self.routes[route as usize].topic;
        let topic = self.topics.get_mut(id);
        let Some(bound) = self.settings.max_retries.filter(|bound| topic.attempts() > *bound) else {
            return false;
        };
        if stops {
            return false;
        }
        let error = exhausted_text(bound, topic.trouble());
        let Some(record) = topic.take_failed(ticket) else { return false };
        if self.may_park(id, &record) {
            self.park(ticket, record, route, Reason::Retries, &error);
            return true;
        }
        self.stop_at(ticket, &record, route, exhausted(&record, &error), message);
        self.topics.get_mut(id).put_back_failed(ticket, record);
        false
    }

    /// One of the topic's records in flight will not go again.
    fn topic_let_go(&mut self, id: TopicId) {
        self.topics.get_mut(id).left(true);
        self.topics.settle(id);
    }

    /// All brokers are down, or a connection failed.
    pub(in crate::relay) fn transport_trouble(&mut self, all_down: bool, now: Instant) {
        let waiting = self.ledger.unresolved() > 0 || self.wants_limit_since.is_some();
        if all_down && waiting {
            self.breaker.failure(now);
        }
    }

    /// The producer is finished.
    pub(in crate::relay) fn producer_is_finished(&mut self, message: String) {
        self.fatal = Some(message);
    }
}

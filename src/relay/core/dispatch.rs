//! What is handed to the producer when: first what has to go again, then a turn of every lane.

use tokio::time::Instant;

use super::{Core, FULL_FOR, Sink};
use crate::kafka::{Rejection, SendError, Ticket};
use crate::relay::gather::BURST_RECORDS;
use crate::relay::queued::{Queued, TopicId};
use crate::relay::rounds::Round;

/// No more than that is handed over before the loop looks at the rest of the world, which takes 5 ms. Twice what is
/// gathered at most, so that only what was held up goes in several pieces.
const MOST_AT_ONCE: usize = 2 * BURST_RECORDS;

/// What became of a record that was to be handed over.
enum Handed {
    Over,
    /// Not now: it stays the oldest of its lane or topic.
    NotNow,
    /// Never.
    Refused(Rejection, String),
}

impl Core {
    /// Hands over what is due: first what has to go again, then what the lanes gathered, in turns.
    pub(in crate::relay) fn dispatch(&mut self, sink: &mut impl Sink, now: Instant) {
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
            // The burst as a whole: in pieces, with reading in between, each piece would be a request of its own.
            let before = self.lanes.queued();
            while before.saturating_sub(self.lanes.queued()) < MOST_AT_ONCE
                && allowance > 0
                && !self.is_stuck()
                && let Some(lane) = self.lanes.turn()
            {
                self.dispatch_lane(lane, sink, round, &mut allowance);
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
                let sent = sink.send(&record, ticket);
                match self.sent(sent, ticket, id, round) {
                    Handed::Over => *allowance -= 1,
                    Handed::NotNow => self.topics.get_mut(id).give_back(ticket, record, now),
                    Handed::Refused(rejection, message) => {
                        match self.refuse_unsent(record, ticket, id, rejection, &message) {
                            None => self.topics.get_mut(id).left(false),
                            Some(record) => self.topics.get_mut(id).give_back(ticket, record, now),
                        }
                    }
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
            let Some(queued) = self.lanes.front(lane) else { return };
            let &Queued { ticket, topic, ref record } = queued;
            if self.topics.get(topic).must_hold() {
                if let Some(queued) = self.lanes.pop(lane) {
                    self.topics.get_mut(topic).hold(queued);
                }
                continue;
            }
            let sent = sink.send(record, ticket);
            match self.sent(sent, ticket, topic, round) {
                Handed::Over => {
                    self.lanes.pop(lane);
                    *allowance -= 1;
                }
                // It stays the oldest of its lane.
                Handed::NotNow => {}
                Handed::Refused(rejection, message) => {
                    let Some(Queued { record, .. }) = self.lanes.pop(lane) else { return };
                    if let Some(record) = self.refuse_unsent(record, ticket, topic, rejection, &message) {
                        self.lanes.give_back(lane, Queued { ticket, topic, record });
                    }
                }
            }
        }
    }

    /// Nothing can be handed over until something happens.
    pub(super) fn is_stuck(&self) -> bool {
        self.full_until.is_some() || self.refused().is_some() || self.fatal.is_some()
    }

    /// What became of a record that the sink was given.
    fn sent(&mut self, sent: Result<(), SendError>, ticket: Ticket, topic: TopicId, round: Round) -> Handed {
        let until = self.rounds.opened_at(round) + FULL_FOR;
        match sent {
            Ok(()) | Err(SendError::CameBack) => {
                self.ledger.sent(ticket, round);
                self.rounds.sent(round);
                self.breaker.handed_over();
                self.topics.get_mut(topic).sent();
                // Its failure is on the way: nothing may pass it meanwhile.
                if sent.is_err() {
                    self.full_until = Some(until);
                }
                Handed::Over
            }
            Err(SendError::Rejected(rejection, message)) => Handed::Refused(rejection, message),
            Err(SendError::QueueFull) => {
                self.full_until = Some(until);
                Handed::NotNow
            }
            Err(SendError::Fatal(message)) => {
                self.fatal = Some(message);
                Handed::NotNow
            }
        }
    }
}

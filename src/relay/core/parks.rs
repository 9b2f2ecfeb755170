//! Records that Kafka will never take: parked, with the later ones of their key, or the end of the run.
//!
//! Whoever drives the core stores letters and gives keys back in this order: [`Core::letters`] gives the
//! next ones; once they are in the table for good, [`Core::stored`] resolves them. Now and then, with
//! nothing taken out and not yet stored, the table is looked at, and [`Core::hand_back`] is told which of
//! [`Core::parked_names`] it holds no letter of.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Core, Refused, Unstorable};
use crate::dead_letter::{Content, Letter, Reason};
use crate::kafka::{Rejection, Ticket};
use crate::outbox::{Record, Unmappable};
use crate::postgres::Lsn;
use crate::relay::checkpoint::Rejected;
use crate::relay::halt::Halt;
use crate::relay::parking::Parked;
use crate::relay::queued::{Queued, TopicId};
use crate::relay::refusal::{refused, too_many_keys};
use crate::relay::settings::OnReject;

/// Most letters that are stored at once.
const MOST_LETTERS: usize = 1_000;

/// And their bytes, but for a single one.
const MOST_LETTER_BYTES: usize = 4 * 1024 * 1024;

/// The route of a row that has no record.
pub(super) const NO_ROUTE: u32 = u32::MAX;

/// The error of a letter that nothing is wrong with.
pub(super) const BEHIND: &str = "an earlier record of its key is a dead letter";

pub(super) fn reason_of(rejection: Rejection) -> Reason {
    match rejection {
        Rejection::TooLarge => Reason::TooLarge,
        Rejection::Invalid => Reason::Invalid,
    }
}

impl Core {
    /// A key of which the table holds letters from before the session.
    pub(in crate::relay) fn load_parked(&mut self, topic: &Arc<str>, key: Bytes) {
        let id = self.topics.intern(topic);
        self.parking.load(id, key);
    }

    /// A record of the open transaction that Kafka will never take, as intake can tell: it is parked, or
    /// the returned halt stops the relay before it.
    pub(in crate::relay) fn refuse(
        &mut self,
        record: Record,
        route: u32,
        reason: Reason,
        error: &str,
        now: Instant,
        halt: impl FnOnce(&Record) -> Halt,
    ) -> Option<Halt> {
        let topic = self.routes[route as usize].topic;
        let follows = self.parking.from(topic, &record.key).is_some();
        if !follows && self.settings.on_reject == OnReject::Halt {
            return Some(halt(&record));
        }
        if self.parking.is_full_for(topic, &record.key) {
            return Some(too_many_keys(&record));
        }
        let ticket = self.ledger.take(record.bytes(), route, now);
        self.observe_budget();
        self.park(ticket, record, route, reason, error);
        None
    }

    /// A row of the open transaction that has no record: it is parked alone, or the returned halt stops
    /// the relay before it.
    pub(in crate::relay) fn refuse_row(
        &mut self,
        row: Unmappable,
        now: Instant,
        halt: impl FnOnce(&Unmappable) -> Halt,
    ) -> Option<Halt> {
        if self.settings.on_reject == OnReject::Halt {
            return Some(halt(&row));
        }
        let mut letter = Letter {
            table: Arc::from(row.table.as_str()),
            row_id: row.has_id().then(|| row.id.clone()),
            commit_lsn: Lsn::ZERO,
            ordinal: 0,
            error: row.reason.clone(),
            content: Content::Row(row.columns),
            reason: Reason::Unmappable,
        };
        tracing::warn!(
            table = &*letter.table,
            id = row.id,
            error = letter.error,
            "row is stored as a dead letter; see txstream dead-letter list"
        );
        let ticket = self.ledger.take(letter.bytes(), NO_ROUTE, now);
        self.observe_budget();
        (letter.commit_lsn, letter.ordinal) = self.ledger.position(ticket);
        self.ledger.park(ticket);
        self.parking.add_row(ticket, letter);
        None
    }

    /// The next letters to be stored; empty when there are none.
    pub(in crate::relay) fn letters(&mut self) -> Vec<Parked> {
        if !self.parking.is_ready() {
            return Vec::new();
        }
        self.parking.batch(MOST_LETTERS, MOST_LETTER_BYTES)
    }

    /// Whether a letter could be stored now.
    pub(in crate::relay) fn has_letters(&self) -> bool {
        self.parking.is_ready()
    }

    /// Letters are in the table for good; returns their routes, `None` for a row that has none.
    pub(in crate::relay) fn stored(&mut self, batch: &[Parked]) -> Vec<Option<u32>> {
        self.parking.stored(batch);
        let routes = batch.iter().map(|parked| self.ledger.resolve(parked.ticket).route);
        let routes = routes.map(|route| (route != NO_ROUTE).then_some(route)).collect();
        self.observe_budget();
        routes
    }

    /// The parked keys, by topic and key.
    pub(in crate::relay) fn parked_names(&self) -> Vec<(Arc<str>, Bytes)> {
        let named = |(id, key): (TopicId, &Bytes)| (Arc::clone(&self.topics.get(id).name), key.clone());
        self.parking.names().map(named).collect()
    }

    /// The table holds no letter of these keys: they flow again. Returns how many do.
    pub(in crate::relay) fn hand_back(&mut self, keys: &[(Arc<str>, Bytes)], now: Instant) -> usize {
        let before = self.parking.keys();
        let keys: Vec<_> = keys.iter().map(|(topic, key)| (self.topics.intern(topic), key.clone())).collect();
        for parked in self.parking.hand_back(&keys) {
            let (ticket, Some(topic), Content::Record(record)) =
                (parked.ticket, parked.topic, parked.letter.content)
            else {
                continue;
            };
            self.ledger.unpark(ticket);
            self.lanes.push(Queued { ticket, topic, record });
            self.gather.took(1, now);
        }
        before - self.parking.keys()
    }

    /// The table of dead letters never takes one of them: nothing more is handed over, and the relay stops.
    pub(in crate::relay) fn letters_refused(&mut self, unstorable: Unstorable) {
        self.unstorable = Some(unstorable);
    }

    /// The table refused a letter of the transaction at `commit_lsn` at the last stop: a supervisor that starts
    /// the relay again and again must not publish what is behind it each time.
    pub(in crate::relay) fn be_careful_until(&mut self, commit_lsn: Lsn) {
        self.careful_until = Some(commit_lsn);
    }

    /// Whether letters have to be stored before anything more is read.
    pub(super) fn awaits_letters(&self) -> bool {
        self.careful_until.is_some_and(|until| self.ledger.confirmed_lsn() <= until)
            && self.parking.has_unstored()
    }

    /// What the relay stopped at, for the checkpoint row: a letter that its table refused, or a record that the
    /// broker refused: the next start sends it alone first. None if an earlier record of its key has to go
    /// again: it would be overtaken.
    pub(in crate::relay) fn remembered(&self) -> Option<&Rejected> {
        if let Some(unstorable) = &self.unstorable {
            return Some(&unstorable.rejected);
        }
        let refused = self.refused.as_ref()?;
        let behind = self.topics.get(refused.topic).is_behind(&refused.key, refused.ticket);
        (!behind).then_some(&refused.rejected)
    }

    /// Whether the policy and the bound of keys let the record be parked; if the bound does not, the relay
    /// stops at the record.
    pub(super) fn may_park(&mut self, topic: TopicId, record: &Record) -> bool {
        if self.refused.is_some() || self.settings.on_reject == OnReject::Halt {
            return false;
        }
        !self.parking.is_full_for(topic, &record.key)
    }

    /// The record, which is not at the producer, becomes a letter, and so does what is held of its key
    /// behind it.
    pub(super) fn park(&mut self, ticket: Ticket, record: Record, route: u32, reason: Reason, error: &str) {
        let topic = self.routes[route as usize].topic;
        let known = self.parking.from(topic, &record.key).is_some_and(|from| ticket >= from);
        let key = record.key.clone();
        if reason != Reason::Behind {
            let topic = &*self.topics.get(topic).name;
            tracing::warn!(
                topic,
                id = record.id(),
                reason = reason.as_str(),
                error,
                "record is stored as a dead letter, and so is what follows of its key; \
                 see txstream dead-letter list"
            );
        }
        self.park_one(ticket, record, route, reason, error);
        if known {
            return;
        }
        let queued = self.lanes.take_key(topic, &key, ticket);
        let queued = queued.into_iter().map(|queued| (queued.ticket, queued.record));
        let held = self.topics.get_mut(topic).take_key(&key, ticket);
        for (ticket, record) in held.into_iter().chain(queued).collect::<Vec<_>>() {
            let route = self.ledger.route(ticket);
            self.park_one(ticket, record, route, Reason::Behind, BEHIND);
        }
        self.topics.settle(topic);
    }

    fn park_one(&mut self, ticket: Ticket, record: Record, route: u32, reason: Reason, error: &str) {
        let (commit_lsn, ordinal) = self.ledger.position(ticket);
        let source = &self.routes[route as usize];
        self.ledger.park(ticket);
        // A letter waits: it must not keep a whole receive buffer alive.
        let record = Record { topic: Arc::clone(&self.topics.get(source.topic).name), ..record.detached() };
        let key = record.key.clone();
        let letter = Letter {
            table: Arc::clone(&source.table),
            row_id: Some(record.id()),
            commit_lsn,
            ordinal,
            content: Content::Record(record),
            reason,
            error: error.to_owned(),
        };
        self.parking.add(source.topic, &key, ticket, letter, self.ledger.next_ticket());
    }

    /// The producer refused to take the record in; it comes back if the relay stops at it.
    pub(super) fn refuse_unsent(
        &mut self,
        record: Record,
        ticket: Ticket,
        topic: TopicId,
        rejection: Rejection,
        message: &str,
    ) -> Option<Record> {
        let route = self.ledger.route(ticket);
        if self.may_park(topic, &record) {
            self.park(ticket, record, route, reason_of(rejection), message);
            return None;
        }
        let halt = refused(&record, rejection, message);
        self.stop_at(ticket, &record, route, halt, message);
        Some(record)
    }

    /// Nothing more is handed over: the record stays the oldest of its key.
    pub(super) fn stop_at(&mut self, ticket: Ticket, record: &Record, route: u32, halt: Halt, message: &str) {
        if self.refused.is_some() {
            return;
        }
        let (commit_lsn, ordinal) = self.ledger.position(ticket);
        let source = &self.routes[route as usize];
        let full = self.settings.on_reject == OnReject::DeadLetter;
        self.refused = Some(Refused {
            halt: if full { too_many_keys(record) } else { halt },
            topic: source.topic,
            key: record.key.clone(),
            ticket,
            rejected: Rejected {
                table: source.table.to_string(),
                row_id: record.id(),
                topic: record.topic.to_string(),
                commit_lsn: commit_lsn.0,
                ordinal,
                reason: message.to_owned(),
                letter: false,
            },
        });
    }
}

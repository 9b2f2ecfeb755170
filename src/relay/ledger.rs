//! What was received, what Kafka has of it, and therefore how far WAL may be confirmed.
//!
//! Every record holds a place in the ledger from the moment it is read until Kafka acknowledged it
//! (or it was parked). The confirmed LSN is the end of the last transaction of the longest prefix in
//! which every transaction is committed and has nothing unresolved, in whatever order the
//! acknowledgements come.
//!
//! Invariants: the confirmed LSN never passes a transaction with an unresolved record (I1), never
//! falls and never exceeds what was received (I2), and moves only to a commit's end or, with nothing
//! open or unresolved, to a keepalive's position (I3).

use std::collections::VecDeque;

use tokio::time::Instant;

use super::rounds::{Round, Rounds};
use crate::kafka::Ticket;
use crate::postgres::Lsn;

/// What a record's place costs besides its key, value and headers: librdkafka's and our own
/// bookkeeping, so that a flood of empty records is bounded too.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 256;

/// The ledger of one replication session.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Places from the oldest unresolved record on; the ticket is `first_ticket` + index.
    places: VecDeque<Place>,
    first_ticket: Ticket,
    /// Transactions from the oldest one that is not confirmed on.
    transactions: VecDeque<Transaction>,
    first_transaction: u32,
    open: bool,
    received_lsn: Lsn,
    confirmed_lsn: Lsn,
    unresolved: usize,
    in_flight_bytes: usize,
}

/// A record's place. Small, since up to a million wait behind one that does not resolve.
#[derive(Debug, Clone, Copy)]
struct Place {
    transaction: u32,
    bytes: u32,
    route: u32,
    /// [`WAITING`], [`RESOLVED`], [`PARKING`], or the round in which the producer took it.
    round: Round,
    taken_at: Instant,
}

/// Not at the producer.
const WAITING: Round = Rounds::LAST + 2;

/// Acknowledged, or durably parked.
const RESOLVED: Round = Rounds::LAST + 1;

/// On its way into the table of dead letters.
const PARKING: Round = Rounds::LAST + 3;

impl Place {
    fn is_resolved(&self) -> bool {
        self.round == RESOLVED
    }
}

#[derive(Debug)]
struct Transaction {
    commit_lsn: Lsn,
    /// What the ordinals of its records begin with.
    first_ordinal: u64,
    /// Ticket of its first record.
    first: Ticket,
    unresolved: u32,
    records: u32,
    commit_time: i64,
    end_lsn: Option<Lsn>,
}

/// What a resolved record was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resolved {
    /// Who counts it.
    pub(super) route: u32,
    /// The round in which the producer took it.
    pub(super) round: Option<Round>,
    /// When it was read.
    pub(super) taken_at: Instant,
    /// Commit time of its transaction, µs since 2000-01-01 UTC.
    pub(super) commit_time: i64,
}

/// The oldest record that is neither acknowledged nor parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Oldest {
    /// When it was read.
    pub(super) taken_at: Instant,
    /// Commit time of its transaction, µs since 2000-01-01 UTC.
    pub(super) commit_time: i64,
    /// Acknowledged records behind it: what a crash now would repeat at most.
    pub(super) resolved_behind: usize,
    /// It is on its way into the table of dead letters.
    pub(super) parking: bool,
}

impl Ledger {
    /// A ledger of a session that starts where the slot stands.
    pub(super) fn new(slot_confirmed_lsn: Lsn) -> Self {
        Self {
            places: VecDeque::new(),
            first_ticket: 0,
            transactions: VecDeque::new(),
            first_transaction: 0,
            open: false,
            received_lsn: slot_confirmed_lsn,
            confirmed_lsn: slot_confirmed_lsn,
            unresolved: 0,
            in_flight_bytes: 0,
        }
    }

    /// A transaction begins; `commit_lsn` is where its commit record begins, and its records are numbered
    /// from `first_ordinal` on.
    pub(super) fn begin(&mut self, commit_lsn: Lsn, first_ordinal: u64, commit_time: i64) {
        assert!(!self.open, "a transaction begins inside another");
        self.open = true;
        let first = self.next_ticket();
        self.transactions.push_back(Transaction {
            commit_lsn,
            first_ordinal,
            first,
            unresolved: 0,
            records: 0,
            commit_time,
            end_lsn: None,
        });
    }

    /// A record of the open transaction takes its place; `bytes` without the overhead.
    pub(super) fn take(&mut self, bytes: usize, route: u32, now: Instant) -> Ticket {
        assert!(self.open, "a record outside a transaction");
        let newest = self.transactions.len() - 1;
        let transaction = &mut self.transactions[newest];
        transaction.unresolved += 1;
        transaction.records += 1;
        let bytes = bytes + RECORD_OVERHEAD_BYTES;
        self.places.push_back(Place {
            transaction: self.first_transaction.wrapping_add(u32::try_from(newest).unwrap_or(u32::MAX)),
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            route,
            round: WAITING,
            taken_at: now,
        });
        self.unresolved += 1;
        self.in_flight_bytes += bytes;
        self.first_ticket + self.places.len() - 1
    }

    /// The open transaction ends; returns whether it held any record.
    pub(super) fn commit(&mut self, end_lsn: Lsn) -> bool {
        assert!(self.open, "a commit without a transaction");
        self.open = false;
        self.received(end_lsn);
        let newest = self.transactions.len() - 1;
        let transaction = &mut self.transactions[newest];
        transaction.end_lsn = Some(end_lsn);
        let held_records = transaction.records > 0;
        if !held_records && newest > 0 {
            // It is confirmed with the one before it: empty transactions (PostgreSQL 14 sends those
            // that touch nothing published) must not pile up behind a record that is stuck.
            self.transactions.pop_back();
            self.transactions[newest - 1].end_lsn = Some(end_lsn);
        }
        self.advance();
        held_records
    }

    /// WAL up to `lsn` came.
    pub(super) fn received(&mut self, lsn: Lsn) {
        self.received_lsn = self.received_lsn.max(lsn);
    }

    /// A keepalive: everything before `wal_end` has already come on this stream, so with nothing
    /// open or unresolved it may be confirmed. Without this an idle outbox in a busy server pins WAL
    /// until the disk is full.
    pub(super) fn keepalive(&mut self, wal_end: Lsn) {
        self.received(wal_end);
        if self.is_idle() {
            self.confirm(wal_end);
        }
    }

    /// Kafka has the record, or it is durably parked.
    pub(super) fn resolve(&mut self, ticket: Ticket) -> Resolved {
        let unresolved = self.place(ticket);
        let place = *unresolved;
        unresolved.round = RESOLVED;
        self.unresolved -= 1;
        self.in_flight_bytes -= place.bytes as usize;
        let age = place.transaction.wrapping_sub(self.first_transaction) as usize;
        let transaction = &mut self.transactions[age];
        transaction.unresolved -= 1;
        let commit_time = transaction.commit_time;
        while self.places.front().is_some_and(Place::is_resolved) {
            self.places.pop_front();
            self.first_ticket += 1;
        }
        self.advance();
        let round = (place.round <= Rounds::LAST).then_some(place.round);
        Resolved { route: place.route, round, taken_at: place.taken_at, commit_time }
    }

    /// The producer took the record in.
    pub(super) fn sent(&mut self, ticket: Ticket, round: Round) {
        let place = self.place(ticket);
        assert!(place.round == WAITING, "ticket {ticket} was sent twice");
        place.round = round;
    }

    /// The record came back from the producer; returns its route and the round it was sent in.
    pub(super) fn returned(&mut self, ticket: Ticket) -> (u32, Round) {
        let place = self.place(ticket);
        assert!(place.round <= Rounds::LAST, "ticket {ticket} came back without being sent");
        let round = std::mem::replace(&mut place.round, WAITING);
        (place.route, round)
    }

    /// The record, which is not at the producer, is on its way into the table of dead letters.
    pub(super) fn park(&mut self, ticket: Ticket) {
        let place = self.place(ticket);
        assert!(place.round == WAITING, "ticket {ticket} is parked while it is at the producer");
        place.round = PARKING;
    }

    /// The record will be sent after all.
    pub(super) fn unpark(&mut self, ticket: Ticket) {
        let place = self.place(ticket);
        assert!(place.round == PARKING, "ticket {ticket} was not parked");
        place.round = WAITING;
    }

    /// The unresolved record's position in the stream: where the commit record of its transaction begins,
    /// and its place among the records of that transaction.
    pub(super) fn position(&mut self, ticket: Ticket) -> (Lsn, u64) {
        let age = self.place(ticket).transaction.wrapping_sub(self.first_transaction) as usize;
        let transaction = &self.transactions[age];
        (transaction.commit_lsn, transaction.first_ordinal + (ticket - transaction.first) as u64)
    }

    /// Who counts the unresolved record.
    pub(super) fn route(&mut self, ticket: Ticket) -> u32 {
        self.place(ticket).route
    }

    /// The ticket of the next record.
    pub(super) fn next_ticket(&self) -> Ticket {
        self.first_ticket + self.places.len()
    }

    /// Moves `cursor` over records that are resolved or on their way into the table of dead letters, and
    /// over those of other topics, up to `until`; tells whether it came there.
    pub(super) fn settle(
        &self,
        cursor: &mut Ticket,
        until: Ticket,
        is_of_topic: impl Fn(u32) -> bool,
    ) -> bool {
        *cursor = (*cursor).max(self.first_ticket);
        while *cursor < until {
            let Some(place) = self.places.get(*cursor - self.first_ticket) else { break };
            let done = place.is_resolved() || place.round == PARKING;
            if !done && is_of_topic(place.route) {
                return false;
            }
            *cursor += 1;
        }
        true
    }

    /// The unresolved record's place.
    fn place(&mut self, ticket: Ticket) -> &mut Place {
        let index = ticket.checked_sub(self.first_ticket);
        match index.and_then(|index| self.places.get_mut(index)) {
            Some(place) if !place.is_resolved() => place,
            _ => panic!("ticket {ticket} was resolved twice or never given"),
        }
    }

    fn advance(&mut self) {
        while let Some(Transaction { unresolved: 0, end_lsn: Some(end_lsn), .. }) = self.transactions.front()
        {
            let end_lsn = *end_lsn;
            self.transactions.pop_front();
            self.first_transaction = self.first_transaction.wrapping_add(1);
            self.confirm(end_lsn);
        }
    }

    fn confirm(&mut self, lsn: Lsn) {
        self.confirmed_lsn = self.confirmed_lsn.max(lsn);
        assert!(self.confirmed_lsn <= self.received_lsn, "confirmed {lsn} that was never received");
    }

    /// No open transaction, no unresolved record, no commit waiting.
    pub(super) fn is_idle(&self) -> bool {
        !self.open && self.transactions.is_empty()
    }

    /// Whether a transaction's Begin came and its Commit did not.
    pub(super) fn in_transaction(&self) -> bool {
        self.open
    }

    /// How far WAL may be confirmed.
    pub(super) fn confirmed_lsn(&self) -> Lsn {
        self.confirmed_lsn
    }

    /// How far WAL came.
    pub(super) fn received_lsn(&self) -> Lsn {
        self.received_lsn
    }

    /// Records neither acknowledged nor parked.
    pub(super) fn unresolved(&self) -> usize {
        self.unresolved
    }

    /// Their bytes, overhead included.
    pub(super) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// Records of transactions that are not confirmed, acknowledged ones among them: what comes again if the
    /// session ends now.
    pub(super) fn unconfirmed(&self) -> usize {
        self.transactions.iter().map(|transaction| transaction.records as usize).sum()
    }

    /// Commit time of the transaction being received.
    pub(super) fn open_commit_time(&self) -> Option<i64> {
        self.transactions.back().filter(|_| self.open).map(|transaction| transaction.commit_time)
    }

    /// The oldest unresolved record.
    pub(super) fn oldest(&self) -> Option<Oldest> {
        let place = self.places.front()?;
        let age = place.transaction.wrapping_sub(self.first_transaction) as usize;
        Some(Oldest {
            taken_at: place.taken_at,
            commit_time: self.transactions[age].commit_time,
            resolved_behind: self.places.len() - self.unresolved,
            parking: place.round == PARKING,
        })
    }
}

#[cfg(test)]
mod tests;

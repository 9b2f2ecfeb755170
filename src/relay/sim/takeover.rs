//! How one session follows another: after a crash, after a lost connection, by hand-over, and while the one
//! before still lives and does not know that the slot is another's.
//!
//! Such a relay goes on as if nothing had happened: what it has read it hands to its producer, what its
//! producer has goes to Kafka late, its letters and its row go to the database. Its status messages reach
//! nobody: the walsender that they are for is gone.

use super::kafka::Producer;
use super::model::World;
use super::rng::Rng;
use super::session::{Cursor, Session, Source};
use crate::postgres::Lsn;
use crate::relay::breaker::Breaker;

/// Who begins a session.
pub(super) struct Process {
    instance: String,
    /// The highest position that it has reported as flushed.
    reported: Lsn,
    breaker: Option<Breaker>,
}

impl World {
    /// A new process.
    pub(super) fn process(&mut self) -> Process {
        self.processes += 1;
        let instance = format!("process {}", self.processes);
        Process { instance, reported: Lsn::ZERO, breaker: None }
    }

    /// A session of the slot begins; the rows below `handed_over` must not come again.
    pub(super) fn begin(&mut self, process: Process, handed_over: usize, rng: &mut Rng) {
        let Process { instance, reported, breaker } = process;
        let before = self.postgres.verdict(&instance, reported);
        assert!(before.may_stream(), "{before:?} where only relays have moved the slot");
        // START_REPLICATION: from here on the slot is ours. The row is not yet.
        for _ in 0..rng.below(6) {
            self.old_works(rng);
        }
        let verdict = self.postgres.verdict(&instance, reported);
        assert!(verdict.may_stream(), "{verdict:?} where only relays have moved the slot");
        let from = verdict.begins_at(self.postgres.view().as_ref()).unwrap();
        self.postgres.claim(&instance);
        let producer = Producer::new(rng, handed_over);
        let mut session = Session::new(&self.settings, from, breaker, Source::Slot, producer, instance);
        // What the server sends is told by the slot alone.
        let slot = self.postgres.slot.unwrap();
        session.heard = slot;
        session.cursor = Cursor { transaction: self.postgres.passed(slot), row: None };
        self.load_parked(&mut session);
        self.holder = Some(session);
    }

    pub(super) fn load_parked(&self, session: &mut Session) {
        for (topic, key) in self.table.keys() {
            session.core.load_parked(&topic, key);
        }
    }

    /// The end of a session: its producer is purged.
    pub(super) fn ends(&mut self, mut session: Session, rng: &mut Rng) -> Breaker {
        self.table.session_ends(&mut session, &self.postgres.checkpoint.instance, rng);
        session.producer.ends(&mut self.broker, rng);
        session.core.into_breaker()
    }

    /// The process is killed. A stream goes on with another one, a backfill has to be run again.
    pub(super) fn crash(&mut self, rng: &mut Rng) {
        let Some(holder) = self.holder.take() else { return };
        let streams = holder.streams();
        self.ends(holder, rng);
        if streams {
            let next = self.process();
            self.begin(next, 0, rng);
        }
    }

    /// The connection to Postgres is lost, and the process sees it.
    pub(super) fn connection_is_lost(&mut self, rng: &mut Rng) {
        let Some(holder) = self.holder.take() else { return };
        let (streams, instance, reported) = (holder.streams(), holder.instance.clone(), holder.confirmed());
        let breaker = Some(self.ends(holder, rng));
        if streams {
            self.begin(Process { instance, reported, breaker }, 0, rng);
        }
    }

    /// The walsender ends, its relay does not hear of it, and another one takes the slot.
    pub(super) fn take_over(&mut self, rng: &mut Rng) {
        if !self.holder.as_ref().is_some_and(Session::streams) {
            return;
        }
        self.old_ends(rng);
        self.old = self.holder.take();
        let next = self.process();
        self.begin(next, 0, rng);
    }

    /// Reads on to the commit of the open transaction, awaits what was taken in, confirms, and hands over:
    /// nothing acknowledged may come again.
    pub(super) fn stop_gracefully(&mut self, rng: &mut Rng) {
        if !self.holder.as_ref().is_some_and(Session::streams) {
            return self.crash(rng);
        }
        self.heal();
        for _ in 0..20_000 {
            let ledger = self.holder.as_ref().unwrap().core.ledger();
            let inside = ledger.in_transaction();
            if !inside && ledger.unresolved() == 0 {
                break;
            }
            if inside {
                self.read();
            }
            self.work(rng);
        }
        self.status_arrives();
        let holder = self.holder.take().unwrap();
        assert_eq!(holder.core.ledger().unresolved(), 0, "the drain did not end");
        let (read, next) = self.postgres.transactions.split_at(holder.cursor.transaction);
        let last = read.last().map_or(Lsn::ZERO, |transaction| transaction.end);
        assert!(self.postgres.slot >= Some(last), "a graceful stop left {last} unconfirmed");
        let first = next.iter().find_map(|transaction| transaction.rows.first());
        let handed_over = first.map_or(self.postgres.rows.len(), |row| row.id);
        holder.row_is_written(&mut self.postgres, true);
        self.ends(holder, rng);
        let next = self.process();
        self.begin(next, handed_over, rng);
    }

    /// The old holder does whatever comes next, until it notices.
    pub(super) fn old_works(&mut self, rng: &mut Rng) {
        let Some(old) = &mut self.old else { return };
        match rng.below(25) {
            0..8 => old.producer.is_served(&mut self.broker, rng, self.now),
            8..14 => old.report_arrives(&mut self.broker, rng, self.now),
            14..18 => old.dispatch(self.now),
            18..21 => {
                if self.table.serve(old, &self.postgres.checkpoint.instance, rng, self.now) {
                    self.old_ends(rng);
                }
            }
            21 => old.row_is_written(&mut self.postgres, false),
            22 => old.producer.partition_fails(rng),
            23 => self.status_of_the_old_one_is_sent(),
            _ => self.old_ends(rng),
        }
    }

    /// Nobody reads it.
    fn status_of_the_old_one_is_sent(&mut self) {}

    /// The old holder notices, or is killed.
    pub(super) fn old_ends(&mut self, rng: &mut Rng) {
        if let Some(old) = self.old.take() {
            self.ends(old, rng);
        }
    }
}

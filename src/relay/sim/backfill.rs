//! A slot that is lost, and its reset with a backfill: rows of the table go through a core of their own,
//! before the relay streams from the new slot. Broken off, it is run again.

use super::kafka::Producer;
use super::model::World;
use super::postgres::{Postgres, Row, Transaction, fresh};
use super::rng::Rng;
use super::session::{Reading, Session, Source};
use crate::postgres::Lsn;
use crate::relay::checkpoint::{self, Verdict};
use crate::relay::slot_life::BY_RESET;

impl Postgres {
    /// The rows that may be unconfirmed, of a snapshot of now, in the order in which they are read.
    fn selected(&self) -> Vec<Row> {
        let since = self.checkpoint.recovery.map_or(0, |pair| pair.xid);
        let mut rows: Vec<Row> = self.rows.iter().filter(|row| row.xid >= since).cloned().collect();
        if !self.by_time {
            rows.sort_by_key(|row| (row.xid, row.id));
        }
        rows
    }
}

impl World {
    /// The server gives the slot up, or someone drops it. Its relay halts, or has not noticed yet.
    pub(super) fn slot_is_lost(&mut self, rng: &mut Rng) {
        if !self.holder.as_ref().is_some_and(Session::streams) {
            return;
        }
        let Some(holder) = self.holder.take() else { return };
        if rng.one_in(3) {
            self.old_ends(rng);
            self.old = Some(holder);
        } else {
            self.ends(holder, rng);
        }
        self.postgres.slot = None;
        let verdict = self.postgres.verdict("a relay", Lsn::ZERO);
        assert!(matches!(verdict, Verdict::Lost { .. }), "{verdict:?}");
    }

    /// `slot reset --backfill`, for the first time or again.
    pub(super) fn reset(&mut self, rng: &mut Rng) {
        if self.holder.is_some() {
            return;
        }
        let row = &mut self.postgres.checkpoint;
        if row.instance != BY_RESET {
            let instance = BY_RESET.to_owned();
            *row = checkpoint::Row { backfill_pending: true, instance, clean: true, ..row.clone() };
            // Broken off before it has made the slot.
            if rng.one_in(4) {
                return;
            }
        }
        let slot = *self.postgres.slot.get_or_insert(self.postgres.wal_end);
        let verdict = self.postgres.verdict("a relay", Lsn::ZERO);
        assert_eq!(verdict, Verdict::BackfillPending, "a relay must wait");
        let rows = self.postgres.selected();
        self.backfilled.extend(rows.iter().map(|row| row.id));
        let numbered = rows.into_iter().zip(1..);
        let reading = Reading {
            at: Lsn(slot.0 - 1),
            rows: numbered.map(|(row, number)| Transaction { rows: vec![row], end: Lsn(number) }).collect(),
            recovery: self.postgres.pair(),
            ended: false,
        };
        let producer = Producer::new(rng, 0);
        let source = Source::Table(reading);
        let mut session =
            Session::new(&self.settings, Lsn::ZERO, None, source, producer, BY_RESET.to_owned());
        self.load_parked(&mut session);
        self.holder = Some(session);
    }

    /// The end of a table that was read, once Kafka has all of it: then a relay streams.
    pub(super) fn backfill_ends(&mut self, rng: &mut Rng) {
        let Some(Session { core, source: Source::Table(reading), .. }) = &self.holder else { return };
        if !reading.ended || core.ledger().unresolved() > 0 {
            return;
        }
        for row in reading.rows.iter().flat_map(|transaction| &transaction.rows) {
            assert!(self.is_safe(row.id), "the backfill ended without row {}", row.id);
        }
        let slot = self.postgres.slot.unwrap();
        self.postgres.checkpoint = fresh(slot, Some(reading.recovery));
        if let Some(holder) = self.holder.take() {
            self.ends(holder, rng);
        }
        let next = self.process();
        self.begin(next, 0, rng);
    }
}

//! What must hold after every step, and what must be true when every fault has ended.

use std::collections::{BTreeMap, HashSet};

use super::kafka::Broker;
use super::model::World;
use super::rng::Rng;
use super::session::{Session, Source};
use super::table::Table;
use crate::postgres::Lsn;

fn is_safe(broker: &Broker, table: &Table, row: usize) -> bool {
    broker.acknowledged.contains(&row) || table.discarded.contains(&row) || table.holds(row)
}

impl World {
    /// Whether the row is in Kafka, or in the table, or was given up.
    pub(super) fn is_safe(&self, row: usize) -> bool {
        is_safe(&self.broker, &self.table, row)
    }

    /// The end of the first transaction of which a row is not safe. What is safe stays so.
    fn first_missing(&mut self) -> Option<Lsn> {
        while let Some(transaction) = self.postgres.transactions.get(self.safe) {
            if !transaction.rows.iter().all(|row| self.is_safe(row.id)) {
                return Some(transaction.end);
            }
            self.safe += 1;
        }
        None
    }

    /// The invariants.
    pub(super) fn check(&mut self) {
        let missing = self.first_missing();
        let lost = |confirmed: Lsn| missing.is_some_and(|missing| confirmed >= missing);
        for session in self.holder.iter_mut().chain(&mut self.old) {
            let before = session.last_confirmed;
            session.check();
            let confirmed = session.confirmed();
            match &session.source {
                Source::Slot => assert!(!lost(confirmed), "confirmed {confirmed} past an unacknowledged row"),
                Source::Table(reading) => {
                    for transaction in &reading.rows[before.0 as usize..confirmed.0 as usize] {
                        let row = transaction.rows[0].id;
                        assert!(is_safe(&self.broker, &self.table, row), "row {row} counts as published");
                    }
                }
            }
        }
        // The slot may be ahead of what a backfill has still to publish.
        if let Some(slot) = self.postgres.slot.filter(|_| !self.postgres.checkpoint.backfill_pending) {
            assert!(!lost(slot), "the slot stands at {slot}, past an unacknowledged row");
        }
        if let Some(holder) = self.holder.as_ref().filter(|holder| holder.streams()) {
            assert!(self.postgres.slot <= Some(holder.confirmed()), "someone else moved the slot");
        }
    }

    /// Every fault ends: then every committed row is in Kafka, in order per key, and confirmed.
    pub(super) fn heal_and_drain(&mut self, rng: &mut Rng) {
        self.old_ends(rng);
        for _ in 0..100_000 {
            self.heal();
            self.reset(rng);
            self.read();
            self.work(rng);
            self.replay_works(rng);
            if self.is_settled() {
                break;
            }
        }
        assert!(self.is_settled(), "an idle stream did not confirm its end");
        for log in self.broker.log.values() {
            self.is_in_order(log);
        }
        for row in self.postgres.rows.iter().filter(|row| !self.table.discarded.contains(&row.id)) {
            let log = self.broker.log.get(&row.partition());
            assert!(log.is_some_and(|log| log.contains(&row.id)), "row {} is missing in Kafka", row.id);
        }
    }

    fn is_settled(&self) -> bool {
        let idle = |holder: &Session| {
            let confirmed = holder.streams() && holder.confirmed() >= self.postgres.wal_end;
            confirmed && holder.core.parked_keys() == 0 && holder.desk.is_none()
        };
        self.table.is_empty() && self.holder.as_ref().is_some_and(idle)
    }

    /// The first records of a key stand in the order of their commits. A backfill without commit times
    /// knows only the order in which transactions began to write, and may swap two that overlapped.
    fn is_in_order(&self, log: &[usize]) {
        let mut seen = HashSet::new();
        let mut keys: BTreeMap<(usize, u64), Vec<usize>> = BTreeMap::new();
        for id in log {
            // One that was given up and comes again after a crash is nowhere out of order.
            if seen.insert(*id) && !self.table.discarded.contains(id) {
                let row = &self.postgres.rows[*id];
                keys.entry((row.topic, row.key)).or_default().push(*id);
            }
        }
        let xid = |row: usize| self.postgres.rows[row].xid;
        for rows in keys.values().filter(|rows| !rows.is_sorted()) {
            for (place, first) in rows.iter().enumerate() {
                for second in rows[place + 1..].iter().filter(|second| *second < first) {
                    let overlapped = xid(*first) < xid(*second) && !self.postgres.by_time;
                    let read = self.backfilled.contains(first) && self.backfilled.contains(second);
                    assert!(overlapped && read, "row {second} came after {first} of its key");
                }
            }
        }
    }
}

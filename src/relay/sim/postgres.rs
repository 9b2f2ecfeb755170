//! A model of Postgres: transactions that overlap and commit, the slot, the checkpoint row.
//!
//! The verdict on slot and row, and whether a recovery pair holds, are the relay's own code; the
//! conditions of its SQL are modelled.

use super::rng::Rng;
use crate::postgres::Lsn;
use crate::postgres::slot::SlotView;
use crate::relay::checkpoint::{self, Identity, Recovery, Verdict, judge};

pub(super) const TOPICS: usize = 3;
pub(super) const PARTITIONS: usize = 3;
const KEYS: u64 = 8;

/// From where a commit record begins to where it ends.
const COMMIT_RECORD: u64 = 5;

const SYSTEM: &str = "1";
const DATABASE: &str = "app";

/// A committed row; its id is its place in commit order.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) id: usize,
    pub(super) topic: usize,
    pub(super) key: u64,
    /// Larger than its topic takes.
    pub(super) large: bool,
    /// Of its transaction: the order in which transactions began to write.
    pub(super) xid: u64,
}

impl Row {
    pub(super) fn partition(&self) -> (usize, usize) {
        (self.topic, self.key as usize % PARTITIONS)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Transaction {
    pub(super) rows: Vec<Row>,
    pub(super) end: Lsn,
}

impl Transaction {
    /// Where its commit record begins.
    pub(super) fn commit_lsn(&self) -> Lsn {
        Lsn(self.end.0 - COMMIT_RECORD)
    }
}

/// The server.
pub(super) struct Postgres {
    pub(super) transactions: Vec<Transaction>,
    pub(super) rows: Vec<Row>,
    pub(super) wal_end: Lsn,
    /// What the slot has confirmed, while there is one.
    pub(super) slot: Option<Lsn>,
    pub(super) checkpoint: checkpoint::Row,
    next_xid: u64,
    /// Transactions that have an id and no end.
    open: Vec<u64>,
    /// `track_commit_timestamp` is on.
    pub(super) by_time: bool,
}

impl Postgres {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let begin = Lsn(100);
        Self {
            transactions: Vec::new(),
            rows: Vec::new(),
            wal_end: begin,
            slot: Some(begin),
            checkpoint: fresh(begin, None),
            next_xid: 1_000,
            open: Vec::new(),
            by_time: rng.one_in(2),
        }
    }

    /// A transaction commits; another may begin and stay open.
    pub(super) fn commits(&mut self, rng: &mut Rng) -> &mut [Row] {
        if rng.one_in(8) {
            let xid = self.begins();
            self.open.push(xid);
        }
        let xid = if !self.open.is_empty() && rng.one_in(4) {
            let which = rng.pick(self.open.len());
            self.open.swap_remove(which)
        } else {
            self.begins()
        };
        let count = if rng.one_in(10) { rng.pick(60) } else { rng.pick(5) };
        let first = self.rows.len();
        for id in first..first + count {
            self.rows.push(Row { id, topic: rng.pick(TOPICS), key: rng.below(KEYS), large: false, xid });
        }
        self.wal_end = Lsn(self.wal_end.0 + 10 + rng.below(50));
        &mut self.rows[first..]
    }

    /// What [`Postgres::commits`] made is complete.
    pub(super) fn committed(&mut self, count: usize) {
        let rows = self.rows[self.rows.len() - count..].to_vec();
        self.transactions.push(Transaction { rows, end: self.wal_end });
    }

    fn begins(&mut self) -> u64 {
        self.next_xid += 1;
        self.next_xid - 1
    }

    pub(super) fn other_traffic(&mut self, rng: &mut Rng) {
        self.wal_end = Lsn(self.wal_end.0 + rng.below(1_000));
    }

    /// As [`checkpoint::take_pair`].
    pub(super) fn pair(&self) -> Recovery {
        let xid = self.open.iter().copied().min().unwrap_or(self.next_xid);
        Recovery { xid, lsn: self.wal_end }
    }

    /// How many transactions the slot has passed.
    pub(super) fn passed(&self, slot: Lsn) -> usize {
        self.transactions.partition_point(|transaction| transaction.end <= slot)
    }

    /// The slot, as the relay sees it.
    pub(super) fn view(&self) -> Option<SlotView> {
        let lsn = self.slot?;
        let view = format!(
            r#"{{"slot_name":"s","plugin":"pgoutput","slot_type":"logical","database":"{DATABASE}","temporary":false,
                "active":false,"restart_lsn":null,"confirmed_flush_lsn":"{lsn}","current_wal_lsn":null}}"#
        );
        Some(serde_json::from_str(&view).unwrap())
    }

    /// What slot and row mean for a process that has reported so much as flushed.
    pub(super) fn verdict(&self, instance: &str, reported_lsn: Lsn) -> Verdict {
        let identity = Identity { system_identifier: SYSTEM, database: DATABASE, instance, reported_lsn };
        judge(Some(&self.checkpoint), self.view().as_ref(), &identity)
    }

    /// As [`checkpoint::claim`].
    pub(super) fn claim(&mut self, instance: &str) {
        let row = &mut self.checkpoint;
        row.confirmed_lsn = self.slot.or(row.confirmed_lsn);
        row.instance = instance.to_owned();
        row.clean = false;
    }

    /// As [`checkpoint::advance`]: a row that is another's by now stays as it is.
    pub(super) fn advance(&mut self, instance: &str, confirmed: Lsn, clean: bool, pair: Option<Recovery>) {
        let row = &mut self.checkpoint;
        if row.instance == instance {
            row.confirmed_lsn = Some(confirmed);
            row.clean = clean;
            row.recovery = pair.or(row.recovery);
        }
    }
}

/// The row of a slot that a command made.
pub(super) fn fresh(at: Lsn, recovery: Option<Recovery>) -> checkpoint::Row {
    checkpoint::Row {
        slot: "s".to_owned(),
        system_identifier: SYSTEM.to_owned(),
        database: DATABASE.to_owned(),
        confirmed_lsn: Some(at),
        instance: "a command".to_owned(),
        clean: true,
        recovery,
        dropped: false,
        backfill_pending: false,
        rejected: None,
    }
}

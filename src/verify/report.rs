//! What a comparison came to.

use std::ops::AddAssign;
use std::sync::Arc;

use serde::Serialize;

/// So many rows are named one by one.
pub(super) const EXAMPLES: usize = 20;

/// What a comparison came to; the keys are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Slot name.
    pub slot_name: String,
    /// Where the slot stood when the topics were read; none without a slot.
    pub confirmed_flush_lsn: Option<String>,
    /// Why the slot will confirm nothing more; rows that are not confirmed will not come by themselves then.
    pub slot_ended: Option<String>,
    /// Where WAL ended when the rows were looked at.
    pub snapshot_lsn: String,
    /// The slot had confirmed every row by then, so that none is counted as not confirmed.
    pub all_confirmed: bool,
    /// Only rows since this moment were compared.
    pub since: Option<String>,
    /// How often the topics were read, each time for a part of the rows.
    pub passes: usize,
    /// Sum over the tables.
    #[serde(flatten)]
    pub counts: Counts,
    /// Why the order of some records was not judged.
    pub order_not_judged_reasons: Vec<String>,
    /// Each of the outbox tables.
    pub tables: Vec<OfTable>,
    /// Each topic that a row goes to, in order of name.
    pub topics: Vec<OfTopic>,
    /// The first of the rows that are missing.
    pub missing_rows: Vec<Named>,
    /// The first of the records that are out of order.
    pub out_of_order_rows: Vec<Named>,
}

/// Rows by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Rows of the table.
    pub rows: u64,
    /// In Kafka.
    pub found: u64,
    /// Confirmed, and not in Kafka: lost.
    pub missing: u64,
    /// Not in Kafka, and not known to be confirmed: on their way.
    pub not_confirmed: u64,
    /// Not in Kafka but in `txstream_dead_letter`.
    pub parked: u64,
    /// Not in Kafka, and perhaps no more: as old as what the partition has lost, or compacted away.
    pub expired: u64,
    /// Records beyond the first of their row.
    pub duplicates: u64,
    /// Records behind one of the same key whose row was committed later.
    pub out_of_order: u64,
    /// Rows found whose place in the order of their key proves nothing.
    pub order_not_judged: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.rows += more.rows;
        self.found += more.found;
        self.missing += more.missing;
        self.not_confirmed += more.not_confirmed;
        self.parked += more.parked;
        self.expired += more.expired;
        self.duplicates += more.duplicates;
        self.out_of_order += more.out_of_order;
        self.order_not_judged += more.order_not_judged;
    }
}

/// What became of the rows of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OfTable {
    /// As `schema.name`.
    pub table: String,
    /// Its rows.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What a topic has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OfTopic {
    /// Its name.
    pub topic: String,
    /// Whether there is one of that name.
    pub exists: bool,
    /// Records read.
    pub records: u64,
    /// Records that no row claims: their rows are gone from the table, or they are somebody else's.
    pub records_without_row: u64,
}

/// A row, named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// As `schema.name`.
    pub table: String,
    /// Its id.
    pub id: String,
    /// Where it should be; none for a row that has no record.
    pub topic: Option<String>,
}

/// A row by the place of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Example {
    pub(super) table: usize,
    pub(super) id: String,
    pub(super) topic: Option<Arc<str>>,
}

impl Example {
    pub(super) fn named(self, tables: &[String]) -> Named {
        Named {
            table: tables.get(self.table).cloned().unwrap_or_default(),
            id: self.id,
            topic: self.topic.map(|topic| topic.to_string()),
        }
    }
}

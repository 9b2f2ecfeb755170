//! The rows of one pass, and what was seen of them in the topics: pure counting.
//!
//! A row is found by its topic and its id. Records that no row of the pass claims are passed over; another
//! pass, or nobody, knows them.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::gone::{Found, Sought, Start};
use super::partition::partition;
use super::report::{Counts, EXAMPLES, Example};

/// Commit timestamps are taken before commits are put in order, so that those of two commits at about the
/// same time may be the other way round. Further apart than this they prove which came first.
const PROVEN_MILLIS: i64 = 100;

/// A row as it should be in Kafka.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    /// Its table, by place.
    pub(super) table: usize,
    /// Its topic, by place.
    pub(super) topic: usize,
    /// The record's id.
    pub(super) id: Box<[u8]>,
    /// Hash of the Kafka key by which its partition is chosen.
    pub(super) partition_hash: u32,
    /// Tells keys apart.
    pub(super) key: u64,
    /// When it was written, in milliseconds since 1970, if that is known.
    pub(super) written: Option<i64>,
    /// When it was committed, where that proves an order.
    pub(super) committed: Option<i64>,
    /// The id of its transaction, if that is still the one that inserted it.
    pub(super) begun: Option<i64>,
    /// Its record has no value: it removes the key from a compacted topic.
    pub(super) no_value: bool,
    /// Everything of its transaction is confirmed.
    pub(super) confirmed: bool,
}

/// A record of a topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passing<'a> {
    /// The value of its header `id`.
    pub(super) id: Option<&'a [u8]>,
    /// Its Kafka key.
    pub(super) key: &'a [u8],
    /// When it was published, in milliseconds since 1970.
    pub(super) published: Option<i64>,
}

/// A row that is in no topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NotFound {
    pub(super) table: usize,
    pub(super) id: String,
    /// None for a row that has no record.
    pub(super) topic: Option<Arc<str>>,
    pub(super) confirmed: bool,
    /// The topic no longer has what is as old as it.
    pub(super) expired: bool,
}

#[derive(Debug)]
struct Row {
    table: u32,
    /// Rows with this id and topic, of whatever table.
    copies: u32,
    seen: u32,
    partition_hash: u32,
    key: u64,
    written: Option<i64>,
    committed: Option<i64>,
    begun: Option<i64>,
    no_value: bool,
    confirmed: bool,
    /// When its first record was published.
    published: Option<i64>,
}

impl Row {
    fn sought(&self) -> Sought {
        Sought { begun: self.begun, committed: self.committed, written: self.written }
    }
}

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    rows: HashMap<Box<[u8]>, Row>,
    /// The latest commit among the first records of a key.
    newest: HashMap<u64, i64>,
    starts: Vec<Start>,
    compaction: Option<Compaction>,
}

/// What is seen of a topic where records of a key may be removed when a later one comes.
#[derive(Debug, Default)]
struct Compaction {
    /// Keys that have a record.
    keys: HashSet<u64>,
    /// Keys that have one of nobody's.
    strange: HashSet<u64>,
    /// Keys that a row without value may have removed altogether.
    removed: HashSet<u64>,
}

/// The rows of one pass.
#[derive(Debug, Default)]
pub(super) struct Book {
    topics: Vec<Topic>,
    /// By table.
    counts: Vec<Counts>,
    unmapped: Vec<NotFound>,
    disordered: Vec<Example>,
    hasher: RandomState,
}

impl Book {
    /// An empty book for so many tables.
    pub(super) fn new(tables: usize) -> Self {
        Self { counts: vec![Counts::default(); tables], ..Self::default() }
    }

    /// The place of a topic, which is made if there is none.
    pub(super) fn topic(&mut self, name: &Arc<str>) -> usize {
        let known = self.topics.iter().position(|topic| topic.name == *name);
        known.unwrap_or_else(|| {
            self.topics.push(Topic {
                name: Arc::clone(name),
                rows: HashMap::new(),
                newest: HashMap::new(),
                starts: Vec::new(),
                compaction: None,
            });
            self.topics.len() - 1
        })
    }

    /// The topics' names, by place.
    pub(super) fn topics(&self) -> Vec<Arc<str>> {
        self.topics.iter().map(|topic| Arc::clone(&topic.name)).collect()
    }

    /// What tells keys apart.
    pub(super) fn key(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// A row that should be in a topic.
    pub(super) fn expect(&mut self, row: Expected) {
        if let Some(counts) = self.counts.get_mut(row.table) {
            counts.rows += 1;
        }
        let Some(topic) = self.topics.get_mut(row.topic) else { return };
        let table = u32::try_from(row.table).unwrap_or(u32::MAX);
        topic
            .rows
            .entry(row.id)
            .and_modify(|known| {
                known.copies += 1;
                known.confirmed &= row.confirmed;
            })
            .or_insert(Row {
                table,
                copies: 1,
                seen: 0,
                partition_hash: row.partition_hash,
                key: row.key,
                written: row.written,
                committed: row.committed,
                begun: row.begun,
                no_value: row.no_value,
                confirmed: row.confirmed,
                published: None,
            });
    }

    /// A row that has no record and can be in no topic.
    pub(super) fn unmapped(&mut self, table: usize, id: String, confirmed: bool) {
        if let Some(counts) = self.counts.get_mut(table) {
            counts.rows += 1;
        }
        self.unmapped.push(NotFound { table, id, topic: None, confirmed, expired: false });
    }

    /// Says before a topic is read that its records of a key may be removed when a later one comes.
    pub(super) fn compacted(&mut self, topic: usize) {
        if let Some(topic) = self.topics.get_mut(topic) {
            let removed = topic.rows.values().filter(|row| row.no_value).map(|row| row.key).collect();
            topic.compaction = Some(Compaction { removed, ..Compaction::default() });
        }
    }

    /// A record of a topic, in the order of its partition; answers whether a row of this pass claims it.
    /// `judge` says whether its place in the order of its key means anything.
    pub(super) fn see(&mut self, topic: usize, record: Passing<'_>, judge: bool) -> bool {
        let Some(topic) = self.topics.get_mut(topic) else { return false };
        let row = record.id.and_then(|id| topic.rows.get_mut(id));
        if let Some(compaction) = &mut topic.compaction {
            let key = self.hasher.hash_one(record.key);
            compaction.keys.insert(key);
            if row.is_none() {
                compaction.strange.insert(key);
            }
        }
        let Some(row) = row else { return false };
        row.seen += 1;
        row.published = row.published.or(record.published);
        // What comes again comes later on purpose.
        if row.seen > 1 {
            return true;
        }
        let Some(counts) = self.counts.get_mut(row.table as usize) else { return true };
        let Some(committed) = row.committed.filter(|_| judge && row.copies == 1) else {
            counts.order_not_judged += 1;
            return true;
        };
        let newest = topic.newest.entry(row.key).or_insert(committed);
        if committed + PROVEN_MILLIS <= *newest {
            counts.out_of_order += 1;
            if self.disordered.len() < EXAMPLES {
                self.disordered.push(Example {
                    table: row.table as usize,
                    id: String::from_utf8_lossy(record.id.unwrap_or_default()).into_owned(),
                    topic: Some(Arc::clone(&topic.name)),
                });
            }
        } else if committed < *newest {
            counts.order_not_judged += 1;
        } else {
            *newest = committed;
        }
        true
    }

    /// Says where the partitions of a topic begin, by number.
    pub(super) fn begins(&mut self, topic: usize, starts: Vec<Start>) {
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.starts = starts;
        }
    }

    /// Whether a confirmed row of a topic was not seen.
    pub(super) fn lacks(&self, topic: usize) -> bool {
        let Some(topic) = self.topics.get(topic) else { return false };
        topic.rows.values().any(|row| row.confirmed && row.seen < row.copies)
    }

    /// The book is done: what was counted by table, rows out of order, and the rows that were not found,
    /// which are not counted yet. `whole_keys` says that all rows of a key were in this book.
    pub(super) fn close(mut self, whole_keys: bool) -> (Vec<Counts>, Vec<Example>, Vec<NotFound>) {
        let mut lost = std::mem::take(&mut self.unmapped);
        for topic in self.topics {
            let mut found = Found::default();
            topic
                .rows
                .values()
                .filter(|row| row.seen > 0)
                .for_each(|row| found.add(row.sought(), row.published));
            found.done();
            let expired: Vec<bool> =
                topic.rows.values().map(|row| topic.is_expired(row, &found, whole_keys)).collect();
            let Topic { name, rows, .. } = topic;
            for ((id, row), expired) in rows.into_iter().zip(expired) {
                let seen = row.seen.min(row.copies);
                if let Some(counts) = self.counts.get_mut(row.table as usize) {
                    counts.found += u64::from(seen);
                    counts.duplicates += u64::from(row.seen - seen);
                }
                lost.extend((seen..row.copies).map(|_| NotFound {
                    table: row.table as usize,
                    id: String::from_utf8_lossy(&id).into_owned(),
                    topic: Some(Arc::clone(&name)),
                    confirmed: row.confirmed,
                    expired,
                }));
            }
        }
        (self.counts, self.disordered, lost)
    }
}

impl Topic {
    /// Whether the record of a row that was not found may have been there.
    fn is_expired(&self, row: &Row, found: &Found, whole_keys: bool) -> bool {
        let start = self.starts.get(partition(row.partition_hash, self.starts.len()));
        let gone = start.is_some_and(|start| found.is_gone(row.sought(), *start));
        gone || self.compaction.as_ref().is_some_and(|seen| !whole_keys || self.is_compacted(row, seen))
    }

    /// Whether compaction may have removed a row's record. It keeps the last one of every key, unless that has
    /// no value.
    fn is_compacted(&self, row: &Row, seen: &Compaction) -> bool {
        if seen.removed.contains(&row.key) || seen.strange.contains(&row.key) {
            return true;
        }
        let is_last = row.committed.zip(self.newest.get(&row.key));
        seen.keys.contains(&row.key) && is_last.is_none_or(|(own, newest)| own < newest + PROVEN_MILLIS)
    }
}

#[cfg(test)]
mod tests;

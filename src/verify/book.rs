//! The rows of one pass, and what was seen of them in the topics: pure counting.
//!
//! A row is found by its topic and its id. Records that no row of the pass claims are passed over; another
//! pass, or nobody, knows them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

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
    /// Everything of its transaction is confirmed.
    pub(super) confirmed: bool,
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

/// Where the records of a partition begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing that was written to it is gone, or nothing as old as the rows that are looked for.
    Whole,
    /// Older records are gone; the first one left is of this time, if it says.
    From(Option<i64>),
    /// All records are gone.
    Empty,
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
    confirmed: bool,
}

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    rows: HashMap<Box<[u8]>, Row>,
    /// The latest commit among the first records of a key.
    newest: HashMap<u64, i64>,
    starts: Vec<Start>,
    /// Records of a key may be removed when a later one comes.
    compacted: bool,
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
                compacted: false,
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
                confirmed: row.confirmed,
            });
    }

    /// A row that has no record and can be in no topic.
    pub(super) fn unmapped(&mut self, table: usize, id: String, confirmed: bool) {
        if let Some(counts) = self.counts.get_mut(table) {
            counts.rows += 1;
        }
        self.unmapped.push(NotFound { table, id, topic: None, confirmed, expired: false });
    }

    /// A record of a topic, in the order of its partition; answers whether a row of this pass claims it.
    /// `judge` says whether its place in the order of its key means anything.
    pub(super) fn see(&mut self, topic: usize, id: &[u8], judge: bool) -> bool {
        let Some(topic) = self.topics.get_mut(topic) else { return false };
        let Some(row) = topic.rows.get_mut(id) else { return false };
        row.seen += 1;
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
                    id: String::from_utf8_lossy(id).into_owned(),
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
    pub(super) fn begins(&mut self, topic: usize, starts: Vec<Start>, compacted: bool) {
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.starts = starts;
            topic.compacted = compacted;
        }
    }

    /// Whether a confirmed row of a topic was not seen.
    pub(super) fn lacks(&self, topic: usize) -> bool {
        let Some(topic) = self.topics.get(topic) else { return false };
        topic.rows.values().any(|row| row.confirmed && row.seen < row.copies)
    }

    /// The book is done: what was counted by table, rows out of order, and the rows that were not found,
    /// which are not counted yet.
    pub(super) fn close(mut self) -> (Vec<Counts>, Vec<Example>, Vec<NotFound>) {
        let mut lost = std::mem::take(&mut self.unmapped);
        for topic in self.topics {
            let Topic { name, rows, starts, compacted, .. } = topic;
            for (id, row) in rows {
                let found = row.seen.min(row.copies);
                if let Some(counts) = self.counts.get_mut(row.table as usize) {
                    counts.found += u64::from(found);
                    counts.duplicates += u64::from(row.seen - found);
                }
                let expired = compacted || is_expired(&row, &starts);
                lost.extend((found..row.copies).map(|_| NotFound {
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

/// Whether the partition of a row no longer has what is as old as it. Without an age nothing is claimed.
fn is_expired(row: &Row, starts: &[Start]) -> bool {
    match starts.get(partition(row.partition_hash, starts.len())) {
        None | Some(Start::Whole) => false,
        Some(Start::Empty) => true,
        Some(Start::From(first)) => match (row.written, first) {
            (Some(written), Some(first)) => written < *first,
            _ => true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, committed: Option<i64>) -> Expected {
        Expected {
            table: 0,
            topic: 0,
            id: id.as_bytes().into(),
            partition_hash: 0,
            key: 1,
            written: committed,
            committed,
            confirmed: true,
        }
    }

    fn book(rows: impl IntoIterator<Item = Expected>) -> Book {
        let mut book = Book::new(1);
        book.topic(&"t".into());
        rows.into_iter().for_each(|row| book.expect(row));
        book
    }

    fn seen(mut book: Book, ids: &[&str]) -> (Counts, Vec<Example>, Vec<NotFound>) {
        for id in ids {
            book.see(0, id.as_bytes(), true);
        }
        let (counts, disordered, lost) = book.close();
        (counts.into_iter().next().unwrap(), disordered, lost)
    }

    #[test]
    fn a_row_is_found_duplicated_or_not_found_and_a_strange_record_is_nobodys() {
        let mut book = book([row("a", None), row("b", None), row("c", None)]);
        assert!(!book.see(0, b"x", true));
        let (counts, _, lost) = seen(book, &["a", "b", "a", "a"]);
        assert_eq!((counts.rows, counts.found, counts.duplicates), (3, 2, 2));
        assert_eq!(lost.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["c"]);
        assert!(!lost[0].expired);
    }

    #[test]
    fn the_same_id_in_two_tables_needs_two_records() {
        let twice = || book([row("1", Some(0)), row("1", Some(0))]);
        let (counts, _, lost) = seen(twice(), &["1"]);
        assert_eq!((counts.found, counts.duplicates, lost.len()), (1, 0, 1));
        let (counts, _, lost) = seen(twice(), &["1", "1", "1"]);
        assert_eq!((counts.found, counts.duplicates, lost.len()), (2, 1, 0));
    }

    #[test]
    fn disorder_is_claimed_only_of_first_records_and_of_commits_that_are_clearly_apart() {
        let rows = || [row("a", Some(0)), row("b", Some(99)), row("c", Some(250)), row("d", None)];
        for (ids, out_of_order, not_judged) in [
            (&["a", "b", "c", "d"][..], 0, 1),
            // Comes again in its old order.
            (&["a", "b", "c", "a", "b", "c"], 0, 0),
            // 99 ms prove nothing.
            (&["b", "a", "c"], 0, 1),
            (&["c", "a", "b"], 2, 0),
            (&["a", "c", "b", "c"], 1, 0),
        ] {
            let (counts, examples, _) = seen(book(rows()), ids);
            assert_eq!((counts.out_of_order, counts.order_not_judged), (out_of_order, not_judged), "{ids:?}");
            assert_eq!(examples.len() as u64, out_of_order);
        }
    }

    #[test]
    fn another_key_has_an_order_of_its_own() {
        let other = Expected { key: 2, ..row("b", Some(0)) };
        let (counts, ..) = seen(book([row("a", Some(1000)), other]), &["a", "b"]);
        assert_eq!(counts.out_of_order, 0);
    }

    #[test]
    fn a_row_is_expired_only_where_its_partition_has_lost_what_is_as_old() {
        for (start, compacted, written, expired) in [
            (Start::Whole, false, Some(5), false),
            (Start::Whole, false, None, false),
            (Start::From(Some(10)), false, Some(5), true),
            (Start::From(Some(10)), false, Some(10), false),
            (Start::From(Some(10)), false, None, true),
            (Start::Empty, false, Some(99), true),
            (Start::Whole, true, Some(99), true),
        ] {
            let mut book = book([row("a", written)]);
            book.begins(0, vec![start], compacted);
            let (_, _, lost) = seen(book, &[]);
            assert_eq!(lost[0].expired, expired, "{start:?} {compacted} {written:?}");
        }
    }
}

//! Whether a row that was not found may have been in its topic once, and be gone by now. Pure.
//!
//! Where in time a row stands is not what it says of itself alone: a writer may date it back, clocks differ,
//! and an outage lies between a commit and its record. So the rows that were found are asked too: one that was
//! begun before it and whose record is younger than what the partition begins with, proves that its own record
//! would be there.
//!
//! Invariant: what says "gone" is never what a writer can choose alone, where a row that was found says otherwise.

/// So many found rows that were begun just before are asked, since one may have stayed open for hours.
const NEAR: usize = 8;

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

/// What the found rows of a topic tell of the others.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Transaction id, and when the record was published, in milliseconds since 1970; by id.
    begun: Vec<(i64, i64)>,
    /// The shortest time from a commit, by the clock of Postgres, to its record, by the relay's.
    least_delay: Option<i64>,
}

/// What is known of a row that was not found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sought {
    /// The id of the transaction that wrote it.
    pub(super) begun: Option<i64>,
    /// When it was committed, by the server.
    pub(super) committed: Option<i64>,
    /// When it was written, by whoever wrote it.
    pub(super) written: Option<i64>,
}

impl Found {
    /// Takes in a found row and the time of its record.
    pub(super) fn add(&mut self, row: Sought, published: Option<i64>) {
        let Some(published) = published else { return };
        self.begun.extend(row.begun.map(|begun| (begun, published)));
        if let Some(committed) = row.committed {
            let delay = published - committed;
            self.least_delay = Some(self.least_delay.map_or(delay, |least| least.min(delay)));
        }
    }

    /// All were taken in.
    pub(super) fn done(&mut self) {
        self.begun.sort_unstable();
    }

    /// Whether a row's partition no longer has what is as old as its record. Of a row without an age nothing is
    /// claimed.
    pub(super) fn is_gone(&self, row: Sought, start: Start) -> bool {
        let first = match start {
            Start::Whole => return false,
            Start::Empty | Start::From(None) => return true,
            Start::From(Some(first)) => first,
        };
        if row.begun.and_then(|begun| self.published(begun)).is_some_and(|published| published >= first) {
            return false;
        }
        let by_server = row.committed.map(|at| at + self.least_delay.unwrap_or(0));
        by_server.or(row.written).is_none_or(|at| at < first)
    }

    /// When the rows begun just before were published: the earliest of them.
    fn published(&self, begun: i64) -> Option<i64> {
        let behind = self.begun.partition_point(|(other, _)| *other <= begun);
        let near = self.begun.get(behind.saturating_sub(NEAR)..behind)?;
        near.iter().map(|(_, published)| *published).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Sought = Sought { begun: None, committed: None, written: None };

    fn found(rows: &[(i64, i64)]) -> Found {
        let mut found = Found::default();
        for (begun, published) in rows {
            found.add(Sought { begun: Some(*begun), ..NOTHING }, Some(*published));
        }
        found.done();
        found
    }

    #[test]
    fn a_row_is_gone_only_where_its_partition_has_lost_what_is_as_old() {
        for (start, written, gone) in [
            (Start::Whole, Some(5), false),
            (Start::Whole, None, false),
            (Start::From(Some(10)), Some(5), true),
            (Start::From(Some(10)), Some(10), false),
            (Start::From(Some(10)), None, true),
            (Start::From(None), Some(99), true),
            (Start::Empty, Some(99), true),
        ] {
            let row = Sought { written, ..NOTHING };
            assert_eq!(Found::default().is_gone(row, start), gone, "{start:?} {written:?}");
        }
    }

    #[test]
    fn a_row_that_is_dated_back_is_not_gone_if_an_older_one_was_published_since() {
        let found = found(&[(100, 1_000), (101, 1_010), (110, 1_100)]);
        for (begun, gone) in [
            // Older than all that was found: its own word counts.
            (99, true),
            (100, false),
            (105, false),
            (200, false),
        ] {
            let row = Sought { begun: Some(begun), written: Some(5), ..NOTHING };
            assert_eq!(found.is_gone(row, Start::From(Some(1_000))), gone, "{begun}");
        }
    }

    #[test]
    fn one_transaction_that_stayed_open_for_long_proves_nothing() {
        let mut rows = vec![(100, 9_000)];
        rows.extend((101..110).map(|begun| (begun, begun)));
        let row = Sought { begun: Some(106), written: Some(5), ..NOTHING };
        assert!(found(&rows).is_gone(row, Start::From(Some(1_000))));
        // Nor does one that began later.
        assert!(found(&[(107, 9_000)]).is_gone(row, Start::From(Some(1_000))));
    }

    #[test]
    fn the_clock_of_postgres_may_go_behind_that_of_kafka() {
        let mut found = Found::default();
        let committed = |at| Sought { committed: Some(at), written: Some(at), ..NOTHING };
        // Behind by 500, and one record came late.
        found.add(committed(1_000), Some(1_510));
        found.add(committed(2_000), Some(9_000));
        found.done();
        assert!(!found.is_gone(committed(1_600), Start::From(Some(2_000))));
        assert!(found.is_gone(committed(1_400), Start::From(Some(2_000))));
    }
}

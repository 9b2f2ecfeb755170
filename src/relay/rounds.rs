//! Hand-overs to the producer, oldest first: how many records of each are still without a report.
//!
//! A round is one call of dispatch, so its records share one time stamp; the oldest round that has
//! something outstanding tells the age of the oldest record at the producer without a search.

use std::collections::VecDeque;

use tokio::time::Instant;

/// A round's number.
pub(super) type Round = u32;

/// Rounds with something outstanding, and empty ones among them.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    rounds: VecDeque<Open>,
    first: Round,
    outstanding: usize,
}

#[derive(Debug)]
struct Open {
    at: Instant,
    outstanding: usize,
}

impl Rounds {
    /// The highest number a round has; the ledger uses those above for records in no round.
    pub(super) const LAST: Round = Round::MAX - 3;

    /// Opens a round. One that stayed empty is used again, so that a stuck record does not pile them
    /// up behind it, and the numbers above [`Rounds::LAST`] are passed over.
    pub(super) fn open(&mut self, now: Instant) -> Round {
        match self.rounds.back_mut().filter(|round| round.outstanding == 0) {
            Some(unused) => unused.at = now,
            None => self.rounds.push_back(Open { at: now, outstanding: 0 }),
        }
        while self.newest() > Self::LAST {
            self.rounds.push_back(Open { at: now, outstanding: 0 });
        }
        self.newest()
    }

    fn newest(&self) -> Round {
        self.first.wrapping_add(u32::try_from(self.rounds.len() - 1).unwrap_or(u32::MAX))
    }

    /// When the round was opened.
    pub(super) fn opened_at(&self, round: Round) -> Instant {
        self.rounds[round.wrapping_sub(self.first) as usize].at
    }

    /// The producer took a record in.
    pub(super) fn sent(&mut self, round: Round) {
        let index = round.wrapping_sub(self.first) as usize;
        self.rounds[index].outstanding += 1;
        self.outstanding += 1;
    }

    /// A report came for a record of the round; returns when the round was.
    pub(super) fn reported(&mut self, round: Round) -> Instant {
        let index = round.wrapping_sub(self.first) as usize;
        let open = &mut self.rounds[index];
        open.outstanding -= 1;
        let at = open.at;
        self.outstanding -= 1;
        self.trim();
        at
    }

    /// Forgets rounds from the front that have nothing outstanding.
    pub(super) fn trim(&mut self) {
        while self.rounds.front().is_some_and(|round| round.outstanding == 0) {
            self.rounds.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Records at the producer.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// When the oldest record at the producer was handed over.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.rounds.front().filter(|round| round.outstanding > 0).map(|round| round.at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_round_with_something_outstanding_tells_the_age() {
        let (mut rounds, now) = (Rounds::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        let first = rounds.open(now);
        rounds.sent(first);
        let second = rounds.open(later);
        rounds.sent(second);
        rounds.sent(second);
        assert_eq!(rounds.reported(second), later);
        assert_eq!((rounds.oldest(), rounds.outstanding()), (Some(now), 2));
        assert_eq!(rounds.reported(first), now);
        assert_eq!((rounds.oldest(), rounds.outstanding()), (Some(later), 1));
        rounds.reported(second);
        assert_eq!((rounds.oldest(), rounds.outstanding()), (None, 0));
    }

    #[test]
    fn numbers_go_round_and_leave_out_those_that_mean_something_else() {
        let now = Instant::now();
        let mut rounds = Rounds { first: Rounds::LAST - 1, ..Rounds::default() };
        let numbers: Vec<Round> = (0..4)
            .map(|_| {
                let round = rounds.open(now);
                rounds.sent(round);
                round
            })
            .collect();
        assert_eq!(numbers, [Rounds::LAST - 1, Rounds::LAST, 0, 1]);
        numbers.into_iter().for_each(|round| _ = rounds.reported(round));
        assert_eq!((rounds.outstanding(), rounds.oldest()), (0, None));
    }

    #[test]
    fn an_empty_round_is_forgotten() {
        let (mut rounds, now) = (Rounds::default(), Instant::now());
        rounds.open(now);
        rounds.trim();
        let next = rounds.open(now);
        rounds.sent(next);
        assert_eq!(rounds.outstanding(), 1);
    }
}

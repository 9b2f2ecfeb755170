//! The partitioned worker pool: lanes keyed by the bytes of the Kafka key.
//!
//! All records of a key take the same lane, and a lane hands its records over in the order in which
//! they came, so the order of an aggregate holds whatever the lanes do among themselves. A lane works
//! in turns of at most a batch, so that none starves the others or the status clock.
//!
//! Lanes are served by the thread that reads, not by threads of their own: the walsender is the
//! limit, one thread serves several times what it gives, and a hop per record costs more than the
//! record's work (ARCHITECTURE.md, *One thread*).

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::queued::{Queued, TopicId};
use crate::kafka::Ticket;

/// The lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Vec<VecDeque<Queued>>,
    next: usize,
    queued: usize,
}

impl Lanes {
    /// `lanes` empty lanes, at least one.
    pub(super) fn new(lanes: usize) -> Self {
        assert!(lanes > 0, "a worker pool without lanes");
        Self { lanes: (0..lanes).map(|_| VecDeque::new()).collect(), next: 0, queued: 0 }
    }

    /// Queues a record in the lane of its key.
    pub(super) fn push(&mut self, queued: Queued) {
        let lane = self.lane_of(&queued.record.key);
        self.lanes[lane].push_back(queued);
        self.queued += 1;
    }

    fn lane_of(&self, key: &[u8]) -> usize {
        if self.lanes.len() == 1 {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        (hasher.finish() % self.lanes.len() as u64) as usize
    }

    /// The lane whose turn it is: the next one that holds a record.
    pub(super) fn turn(&mut self) -> Option<usize> {
        let count = self.lanes.len();
        let lane = (0..count).map(|n| (self.next + n) % count).find(|lane| !self.lanes[*lane].is_empty())?;
        self.next = (lane + 1) % count;
        Some(lane)
    }

    /// The lane's oldest record.
    pub(super) fn front(&self, lane: usize) -> Option<&Queued> {
        self.lanes[lane].front()
    }

    /// Takes the lane's oldest record out.
    pub(super) fn pop(&mut self, lane: usize) -> Option<Queued> {
        let queued = self.lanes[lane].pop_front()?;
        self.queued -= 1;
        Some(queued)
    }

    /// Gives the lane its record back: it stays the oldest.
    pub(super) fn give_back(&mut self, lane: usize, queued: Queued) {
        self.lanes[lane].push_front(queued);
        self.queued += 1;
    }

    /// Takes out the records of a key that were taken after `ticket`.
    pub(super) fn take_key(&mut self, topic: TopicId, key: &[u8], ticket: Ticket) -> Vec<Queued> {
        let lane = self.lane_of(key);
        let is_of_key =
            |queued: &Queued| queued.ticket > ticket && queued.topic == topic && queued.record.key == key;
        let taken: Vec<Queued>;
        (taken, self.lanes[lane]) = split(std::mem::take(&mut self.lanes[lane]), is_of_key);
        self.queued -= taken.len();
        taken
    }

    /// Records in all lanes.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Records per lane.
    pub(super) fn depths(&self) -> impl Iterator<Item = usize> + '_ {
        self.lanes.iter().map(VecDeque::len)
    }
}

/// Those that fit and the rest, each in its order.
pub(super) fn split(
    queue: VecDeque<Queued>,
    fits: impl Fn(&Queued) -> bool,
) -> (Vec<Queued>, VecDeque<Queued>) {
    let (taken, rest): (VecDeque<Queued>, VecDeque<Queued>) = queue.into_iter().partition(fits);
    (taken.into(), rest)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::outbox::{Headers, Record};

    fn queued(key: &str, ticket: Ticket) -> Queued {
        let record = Record {
            topic: Arc::from("t"),
            key: Bytes::copy_from_slice(key.as_bytes()),
            payload: None,
            headers: Headers::new(),
            event_type: Bytes::new(),
        };
        Queued { ticket, topic: TopicId(0), record }
    }

    #[test]
    fn a_key_keeps_its_lane_and_its_order() {
        let mut lanes = Lanes::new(4);
        for ticket in 0..100 {
            lanes.push(queued(&format!("k{}", ticket % 10), ticket));
        }
        let mut last = std::collections::HashMap::new();
        let mut lane_of = std::collections::HashMap::new();
        while let Some(lane) = lanes.turn() {
            let next = lanes.pop(lane).unwrap();
            assert_eq!(*lane_of.entry(next.record.key.clone()).or_insert(lane), lane);
            assert!(
                last.insert(next.record.key.clone(), next.ticket).is_none_or(|before| before < next.ticket)
            );
        }
        assert_eq!(lanes.queued(), 0);
        assert!(
            lane_of.values().collect::<std::collections::HashSet<_>>().len() > 1,
            "keys spread over lanes"
        );
    }

    #[test]
    fn what_is_given_back_stays_first() {
        let mut lanes = Lanes::new(1);
        lanes.push(queued("a", 1));
        lanes.push(queued("a", 2));
        let first = lanes.pop(0).unwrap();
        lanes.give_back(0, first);
        assert_eq!(lanes.pop(0).unwrap().ticket, 1);
    }

    #[test]
    fn turns_go_round() {
        let mut lanes = Lanes::new(3);
        (0..30).for_each(|n| lanes.push(queued(&n.to_string(), n)));
        let turns: std::collections::HashSet<_> = (0..3).filter_map(|_| lanes.turn()).collect();
        assert_eq!(turns.len(), 3);
    }
}

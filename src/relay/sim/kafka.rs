//! A model of Kafka: brokers that acknowledge out of order, stall, refuse topics and records, and the
//! producer of a session, whose records reach them late, or not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::postgres::{PARTITIONS, Row, TOPICS};
use super::rng::Rng;
use crate::kafka::{FailureClass, Rejection, SendError, Ticket, TopicTrouble};
use crate::outbox::Record;
use crate::relay::core::Sink;

/// Topic and number.
pub(super) type Partition = (usize, usize);

/// The brokers.
#[derive(Debug, Default)]
pub(super) struct Broker {
    pub(super) log: BTreeMap<Partition, Vec<usize>>,
    /// Rows of which a core has heard that they are here.
    pub(super) acknowledged: HashSet<usize>,
    /// Topics that we have no right to.
    pub(super) refused: HashSet<usize>,
    /// Rows that only the broker knows to be invalid.
    pub(super) poison: HashSet<usize>,
    pub(super) stalled: bool,
}

impl Broker {
    pub(super) fn write(&mut self, partition: Partition, row: usize) {
        self.log.entry(partition).or_default().push(row);
    }

    pub(super) fn revoke_or_grant(&mut self, rng: &mut Rng) {
        let topic = rng.pick(TOPICS);
        if !self.refused.remove(&topic) {
            self.refused.insert(topic);
        }
    }
}

/// Older than this, a record is refused for its timestamp. Long for the core, which is to tell by it that
/// the record is not at fault.
const MAX_AGE: Duration = Duration::from_secs(11);

/// A record at a broker: ticket, row, bytes, since when.
type InFlight = (Ticket, usize, Record, Option<Instant>);

#[derive(Debug)]
pub(super) enum Report {
    Acknowledged(Ticket, usize),
    Failed(Ticket, usize, Record, FailureClass),
}

/// The producer of one session.
#[derive(Debug, Default)]
pub(super) struct Producer {
    in_flight: BTreeMap<Partition, VecDeque<InFlight>>,
    reports: BTreeMap<Partition, VecDeque<Report>>,
    /// Topics on which a record failed while others were in flight. A record handed to librdkafka
    /// cannot be recalled, so what follows a failure in flight is taken to fail too: that a broker
    /// takes a later record of the key after all is a limit named in the guarantees.
    failing: HashSet<usize>,
    capacity: usize,
    /// The time, as records are handed over.
    pub(super) now: Option<Instant>,
    /// In which place of the session each row was read.
    places: HashMap<usize, usize>,
    /// Places of what the core holds and has not handed over, by topic and key, to see that none is
    /// overtaken.
    waiting: HashMap<(usize, u64), BTreeSet<usize>>,
    /// Rows below were confirmed by a graceful stop: they must not come again.
    handed_over: usize,
}

impl Producer {
    pub(super) fn new(rng: &mut Rng, handed_over: usize) -> Self {
        Self { capacity: 1 + rng.pick(50), handed_over, ..Self::default() }
    }

    /// The core takes the row, as the one in this place.
    pub(super) fn will_get(&mut self, row: &Row, place: usize) {
        self.places.insert(row.id, place);
        self.waiting.entry((row.topic, row.key)).or_default().insert(place);
    }

    /// The row became a letter.
    pub(super) fn will_not_get(&mut self, record: &Record) {
        let (row, topic, key) = names(record);
        let place = self.places[&row];
        if let Some(waiting) = self.waiting.get_mut(&(topic, key)) {
            waiting.remove(&place);
        }
    }

    fn fails(&self, broker: &Broker, topic: usize) -> bool {
        broker.refused.contains(&topic) || self.failing.contains(&topic)
    }

    /// The broker handles the oldest requests of a partition.
    pub(super) fn is_served(&mut self, broker: &mut Broker, rng: &mut Rng, now: Instant) {
        if broker.stalled {
            return;
        }
        let Some(partition) = any(&self.in_flight, rng) else { return };
        for _ in 0..=rng.pick(8) {
            let Some((ticket, row, record, since)) =
                self.in_flight.get_mut(&partition).and_then(VecDeque::pop_front)
            else {
                return;
            };
            let class = if self.fails(broker, partition.0) {
                Some(FailureClass::Topic(TopicTrouble::Authorization))
            } else if broker.poison.contains(&row) {
                Some(FailureClass::Rejected(Rejection::Invalid))
            } else if since.is_some_and(|since| now - since > MAX_AGE) {
                Some(FailureClass::Stale)
            } else {
                None
            };
            let report = match class {
                Some(class) => {
                    self.failing.insert(partition.0);
                    Report::Failed(ticket, row, record, class)
                }
                None => {
                    broker.write(partition, row);
                    Report::Acknowledged(ticket, row)
                }
            };
            self.reports.entry(partition).or_default().push_back(report);
        }
    }

    /// Everything in flight on a partition comes back with a transport error; none was written.
    pub(super) fn partition_fails(&mut self, rng: &mut Rng) {
        let partition = (rng.pick(TOPICS), rng.pick(PARTITIONS));
        let queue = self.in_flight.remove(&partition).unwrap_or_default();
        if !queue.is_empty() {
            self.failing.insert(partition.0);
        }
        let reports = self.reports.entry(partition).or_default();
        for (ticket, row, record, _) in queue {
            reports.push_back(Report::Failed(ticket, row, record, FailureClass::Transport));
        }
    }

    /// Reports of different partitions come in any order.
    pub(super) fn report(&mut self, rng: &mut Rng) -> Option<Report> {
        let partition = any(&self.reports, rng)?;
        let report = self.reports.get_mut(&partition).and_then(VecDeque::pop_front);
        if let Some(Report::Failed(_, row, record, _)) = &report {
            let (_, topic, key) = names(record);
            self.waiting.entry((topic, key)).or_default().insert(self.places[row]);
        }
        let (in_flight, reports) = (&self.in_flight, &self.reports);
        self.failing.retain(|topic| {
            (0..PARTITIONS).any(|number| {
                let of = (*topic, number);
                in_flight.get(&of).is_some_and(|queue| !queue.is_empty())
                    || reports.get(&of).is_some_and(|queue| !queue.is_empty())
            })
        });
        report
    }

    /// It is purged and destroyed, or its process killed; what was in flight may be on the log.
    pub(super) fn ends(self, broker: &mut Broker, rng: &mut Rng) {
        for (partition, queue) in &self.in_flight {
            let written = if self.fails(broker, partition.0) { 0 } else { rng.pick(queue.len() + 1) };
            for (_, row, ..) in queue.iter().take(written) {
                if broker.poison.contains(row) {
                    break;
                }
                broker.write(*partition, *row);
            }
        }
    }
}

impl Sink for Producer {
    fn send(&mut self, record: &Record, ticket: Ticket) -> Result<(), SendError> {
        if self.in_flight.values().map(VecDeque::len).sum::<usize>() >= self.capacity {
            return Err(SendError::QueueFull);
        }
        let (row, topic, key) = names(record);
        let place = self.places[&row];
        let waiting = self.waiting.get_mut(&(topic, key)).unwrap();
        assert_eq!(waiting.first(), Some(&place), "row {row} was sent before an older one of its key");
        waiting.remove(&place);
        assert!(row >= self.handed_over, "row {row} was sent again after a graceful stop");
        let partition = (topic, key as usize % PARTITIONS);
        self.in_flight.entry(partition).or_default().push_back((ticket, row, record.clone(), self.now));
        Ok(())
    }
}

/// A partition with something in its queue.
fn any<T>(queues: &BTreeMap<Partition, VecDeque<T>>, rng: &mut Rng) -> Option<Partition> {
    let filled = || queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(partition, _)| *partition);
    match filled().count() {
        0 => None,
        count => filled().nth(rng.pick(count)),
    }
}

/// Row, topic and key of a record.
pub(super) fn names(record: &Record) -> (usize, usize, u64) {
    let key = std::str::from_utf8(&record.key).unwrap();
    (record.id().parse().unwrap(), record.topic[1..].parse().unwrap(), key.parse().unwrap())
}

//! A model of Postgres and Kafka around the real core.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::table::Table;
use crate::dead_letter::{Content, Letter};
use crate::kafka::{Failure, FailureClass, Rejection, SendError, Ticket, TopicTrouble};
use crate::outbox::{Header, Record};
use crate::postgres::Lsn;
use crate::relay::backoff::Backoff;
use crate::relay::breaker::{Breaker, State};
use crate::relay::core::{Core, Sink, Taken};
use crate::relay::ledger::RECORD_OVERHEAD_BYTES;
use crate::relay::settings::{self, OnReject, Settings};

const TOPICS: usize = 3;
const PARTITIONS: usize = 3;
const KEYS: u64 = 8;

/// splitmix64: a seed gives the same schedule everywhere.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn pick(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }
}

/// A committed record; its id is its place in commit order.
#[derive(Debug, Clone)]
struct Row {
    id: usize,
    topic: usize,
    key: u64,
    /// Larger than its topic takes.
    large: bool,
}

impl Row {
    fn partition(&self) -> (usize, usize) {
        (self.topic, self.key as usize % PARTITIONS)
    }
}

#[derive(Debug, Clone)]
struct Transaction {
    rows: Vec<Row>,
    end: Lsn,
}

/// Where the stream stands: transaction, and row in it once its Begin was read.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    transaction: usize,
    row: Option<usize>,
}

/// Kafka as the producer sees it.
#[derive(Debug, Default)]
struct Kafka {
    log: BTreeMap<(usize, usize), Vec<usize>>,
    acknowledged: HashSet<usize>,
    in_flight: BTreeMap<(usize, usize), VecDeque<InFlight>>,
    reports: BTreeMap<(usize, usize), VecDeque<Report>>,
    refused: HashSet<usize>,
    /// Topics on which a record failed while others were in flight. A record handed to librdkafka
    /// cannot be recalled, so what follows a failure in flight is taken to fail too: that a broker
    /// takes a later record of the key after all is a limit named in the guarantees.
    failing: HashSet<usize>,
    /// Rows that only the broker knows to be invalid.
    poison: HashSet<usize>,
    stalled: bool,
    capacity: usize,
    /// Rows the core holds and has not handed over, to see that none is overtaken.
    waiting: HashMap<(usize, u64), Vec<usize>>,
}

/// A record at the broker: ticket, row id, bytes.
type InFlight = (Ticket, usize, Record);

#[derive(Debug)]
enum Report {
    Acknowledged(Ticket, usize),
    Failed(Ticket, usize, Record, FailureClass),
}

/// Everything outside the core, and the core.
pub(super) struct World {
    transactions: Vec<Transaction>,
    rows: Vec<Row>,
    wal_end: Lsn,
    slot_confirmed: Lsn,
    pub(super) core: Core,
    kafka: Kafka,
    cursor: Cursor,
    pub(super) now: Instant,
    last_confirmed: Lsn,
    topics: Vec<Arc<str>>,
    settings: Settings,
    largest: usize,
    pub(super) table: Table,
}

fn settings(rng: &mut Rng) -> Settings {
    Settings {
        slot: "s".to_owned(),
        publication: "p".to_owned(),
        status_interval: Duration::from_secs(1),
        lanes: 1 + rng.pick(4),
        batch_size: 1 + rng.pick(5),
        max_in_flight_bytes: 500 + rng.pick(20_000),
        on_reject: if rng.below(2) == 0 { OnReject::Halt } else { OnReject::DeadLetter },
        breaker: settings::Breaker {
            enabled: rng.below(4) > 0,
            failure_threshold: 2,
            success_threshold: 2,
            timeout_duration: Duration::from_secs(5),
            reset_timeout: Duration::from_secs(10),
        },
        backoff: settings::Backoff {
            enabled: true,
            base: Duration::from_secs(1),
            max: Duration::from_secs(8),
            multiplier: 2.0,
            constant: Duration::from_secs(1),
        },
        max_retries: None,
        shutdown_timeout: Duration::from_secs(25),
    }
}

fn core(settings: &Settings, from: Lsn, topics: &[Arc<str>]) -> Core {
    let backoff = Backoff::seeded(settings.backoff, 1);
    let mut core = Core::new(settings.clone(), from, Breaker::new(settings.breaker), backoff);
    let table: Arc<str> = Arc::from("public.outbox");
    topics.iter().for_each(|topic| _ = core.add_route(topic, &table, Bytes::new()));
    core
}

impl Kafka {
    fn fails(&self, topic: usize) -> bool {
        self.refused.contains(&topic) || self.failing.contains(&topic)
    }

    fn forget_failing(&mut self) {
        let busy: HashSet<usize> = {
            let in_flight = self.in_flight.iter().filter(|(_, q)| !q.is_empty()).map(|(p, _)| p.0);
            let reports = self.reports.iter().filter(|(_, q)| !q.is_empty()).map(|(p, _)| p.0);
            in_flight.chain(reports).collect()
        };
        self.failing.retain(|topic| busy.contains(topic));
    }
}

impl Sink for Kafka {
    fn send(&mut self, record: &Record, ticket: Ticket) -> Result<(), SendError> {
        if self.in_flight.values().map(VecDeque::len).sum::<usize>() >= self.capacity {
            return Err(SendError::QueueFull);
        }
        let id: usize = record.id().parse().unwrap();
        let topic: usize = record.topic[1..].parse().unwrap();
        let key: u64 = String::from_utf8_lossy(&record.key).parse().unwrap();
        let waiting = self.waiting.get_mut(&(topic, key)).unwrap();
        let oldest = waiting.iter().min().copied();
        assert_eq!(oldest, Some(id), "row {id} was sent before an older one of its key");
        waiting.retain(|other| *other != id);
        let partition = (topic, key as usize % PARTITIONS);
        self.in_flight.entry(partition).or_default().push_back((ticket, id, record.clone()));
        Ok(())
    }
}

impl World {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let settings = settings(rng);
        let topics: Vec<Arc<str>> = (0..TOPICS).map(|n| Arc::from(format!("t{n}"))).collect();
        Self {
            transactions: Vec::new(),
            rows: Vec::new(),
            wal_end: Lsn(100),
            slot_confirmed: Lsn(100),
            core: core(&settings, Lsn(100), &topics),
            kafka: Kafka { capacity: 1 + rng.pick(50), ..Kafka::default() },
            cursor: Cursor { transaction: 0, row: None },
            now: Instant::now(),
            last_confirmed: Lsn(100),
            topics,
            settings,
            largest: 0,
            table: Table::default(),
        }
    }

    pub(super) fn commit_transaction(&mut self, rng: &mut Rng) {
        let count = if rng.below(10) == 0 { rng.pick(60) } else { rng.pick(5) };
        let first = self.rows.len();
        let rows: Vec<Row> = (first..first + count)
            .map(|id| {
                let row = Row { id, topic: rng.pick(TOPICS), key: rng.below(KEYS), large: false };
                self.spoil(row, rng)
            })
            .collect();
        self.rows.extend(rows.iter().cloned());
        self.wal_end = Lsn(self.wal_end.0 + 10 + rng.below(50));
        self.transactions.push(Transaction { rows, end: self.wal_end });
    }

    /// Some rows are nothing for Kafka, if that does not end the run.
    fn spoil(&mut self, mut row: Row, rng: &mut Rng) -> Row {
        if self.settings.on_reject == OnReject::DeadLetter {
            match rng.below(30) {
                0 => row.large = true,
                1 => _ = self.kafka.poison.insert(row.id),
                _ => {}
            }
        }
        row
    }

    pub(super) fn other_traffic(&mut self, rng: &mut Rng) {
        self.wal_end = Lsn(self.wal_end.0 + rng.below(1_000));
    }

    /// The walsender sends its next message, if the relay reads.
    pub(super) fn read(&mut self) {
        if !self.core.may_read() {
            return;
        }
        let Some(transaction) = self.transactions.get(self.cursor.transaction) else {
            self.core.keepalive(self.wal_end);
            return;
        };
        match self.cursor.row {
            None => {
                self.core.begin(transaction.end, 0);
                self.cursor.row = Some(0);
            }
            Some(row) if row < transaction.rows.len() => {
                let row = transaction.rows[row].clone();
                self.take(&row);
                self.cursor.row = self.cursor.row.map(|row| row + 1);
            }
            Some(_) => {
                self.core.commit(transaction.end);
                self.cursor = Cursor { transaction: self.cursor.transaction + 1, row: None };
            }
        }
    }

    fn take(&mut self, row: &Row) {
        let record = Record {
            topic: Arc::clone(&self.topics[row.topic]),
            key: Bytes::from(row.key.to_string()),
            payload: Some(Bytes::from_static(b"payload")),
            headers: vec![Header { name: Arc::from("id"), value: Some(Bytes::from(row.id.to_string())) }],
            event_type: Bytes::new(),
        };
        self.largest = self.largest.max(record.bytes() + RECORD_OVERHEAD_BYTES);
        let route = u32::try_from(row.topic).unwrap();
        let size = if row.large { 2_000 } else { 10 };
        let taken = match self.core.take(record, route, size, self.now) {
            Taken::NeedsLimit(record) => {
                self.core.learnt_limit(&self.topics[row.topic], 1_000, self.now);
                self.core.take(*record, route, size, self.now)
            }
            taken => taken,
        };
        assert_eq!(taken, if row.large { Taken::TooLarge(None) } else { Taken::Yes });
        self.kafka.waiting.entry((row.topic, row.key)).or_default().push(row.id);
    }

    pub(super) fn keepalive_inside(&mut self) {
        if let (Some(transaction), Some(_)) =
            (self.transactions.get(self.cursor.transaction), self.cursor.row)
        {
            self.core.keepalive(transaction.end);
        }
    }

    pub(super) fn dispatch(&mut self) {
        self.core.tick(self.now);
        let open = self.core.breaker().0 == State::Open;
        let before = self.core.outstanding();
        self.core.dispatch(&mut self.kafka, self.now);
        assert!(!open || self.core.outstanding() == before, "handed over while the breaker was open");
    }

    /// The broker handles the oldest request of a partition.
    pub(super) fn broker_works(&mut self, rng: &mut Rng) {
        if self.kafka.stalled {
            return;
        }
        let busy: Vec<_> =
            self.kafka.in_flight.iter().filter(|(_, q)| !q.is_empty()).map(|(p, _)| *p).collect();
        if busy.is_empty() {
            return;
        }
        let partition = busy[rng.pick(busy.len())];
        for _ in 0..=rng.pick(8) {
            let Some((ticket, id, record)) =
                self.kafka.in_flight.get_mut(&partition).and_then(VecDeque::pop_front)
            else {
                return;
            };
            let report = if self.kafka.poison.contains(&id) && !self.kafka.fails(partition.0) {
                self.kafka.failing.insert(partition.0);
                Report::Failed(ticket, id, record, FailureClass::Rejected(Rejection::Invalid))
            } else if self.kafka.fails(partition.0) {
                self.kafka.failing.insert(partition.0);
                Report::Failed(ticket, id, record, FailureClass::Topic(TopicTrouble::Authorization))
            } else {
                self.kafka.log.entry(partition).or_default().push(id);
                Report::Acknowledged(ticket, id)
            };
            self.kafka.reports.entry(partition).or_default().push_back(report);
        }
    }

    /// Everything in flight on a partition comes back with a transport error; none was written.
    pub(super) fn partition_fails(&mut self, rng: &mut Rng) {
        let partition = (rng.pick(TOPICS), rng.pick(PARTITIONS));
        let queue = self.kafka.in_flight.remove(&partition).unwrap_or_default();
        if !queue.is_empty() {
            self.kafka.failing.insert(partition.0);
        }
        let reports = self.kafka.reports.entry(partition).or_default();
        for (ticket, id, record) in queue {
            reports.push_back(Report::Failed(ticket, id, record, FailureClass::Transport));
        }
    }

    /// Reports of different partitions come in any order.
    pub(super) fn report_arrives(&mut self, rng: &mut Rng) {
        let with: Vec<_> =
            self.kafka.reports.iter().filter(|(_, q)| !q.is_empty()).map(|(p, _)| *p).collect();
        if with.is_empty() {
            return;
        }
        let partition = with[rng.pick(with.len())];
        match self.kafka.reports.get_mut(&partition).and_then(VecDeque::pop_front) {
            Some(Report::Acknowledged(ticket, id)) => {
                self.kafka.acknowledged.insert(id);
                self.core.acknowledged(ticket, self.now);
            }
            Some(Report::Failed(ticket, id, record, class)) => {
                let row = &self.rows[id];
                self.kafka.waiting.entry((row.topic, row.key)).or_default().push(id);
                let failure = Failure { ticket, class, message: "refused".to_owned(), record };
                self.core.failed(failure, None, self.now);
            }
            None => {}
        }
        self.kafka.forget_failing();
    }

    pub(super) fn time_passes(&mut self, by: Duration) {
        self.now += by;
        self.core.tick(self.now);
    }

    pub(super) fn status_arrives(&mut self) {
        self.slot_confirmed = self.slot_confirmed.max(self.core.ledger().confirmed_lsn());
    }

    pub(super) fn revoke_or_grant(&mut self, rng: &mut Rng) {
        let topic = rng.pick(TOPICS);
        if !self.kafka.refused.remove(&topic) {
            self.kafka.refused.insert(topic);
        }
    }

    pub(super) fn stall_or_resume(&mut self) {
        self.kafka.stalled = !self.kafka.stalled;
        self.core.transport_trouble(self.kafka.stalled, self.now);
    }

    pub(super) fn force_breaker(&mut self, rng: &mut Rng) {
        self.core.force_breaker(rng.below(3) == 0, self.now);
    }

    /// The session ends without a word; what was in flight may be on the log.
    pub(super) fn crash(&mut self, rng: &mut Rng) {
        let in_flight = std::mem::take(&mut self.kafka.in_flight);
        for (partition, queue) in in_flight {
            let written = if self.kafka.fails(partition.0) { 0 } else { rng.pick(queue.len() + 1) };
            let log = self.kafka.log.entry(partition).or_default();
            let ids = queue.iter().take(written).map(|(_, id, _)| *id);
            log.extend(ids.take_while(|id| !self.kafka.poison.contains(id)));
        }
        self.table.session_ends(rng);
        self.restart();
    }

    /// The row became a letter.
    pub(super) fn no_longer_waits(&mut self, letter: &Letter) {
        let Content::Record(record) = &letter.content else { return };
        let row = &self.rows[record.id().parse::<usize>().unwrap()];
        if let Some(waiting) = self.kafka.waiting.get_mut(&(row.topic, row.key)) {
            waiting.retain(|id| *id != row.id);
        }
    }

    /// A replay has published a letter, which was mended.
    pub(super) fn publish_letter(&mut self, id: usize) {
        self.kafka.poison.remove(&id);
        self.kafka.log.entry(self.rows[id].partition()).or_default().push(id);
        self.kafka.acknowledged.insert(id);
    }

    fn restart(&mut self) {
        self.kafka.reports.clear();
        self.kafka.failing.clear();
        self.kafka.waiting.clear();
        self.core = core(&self.settings, self.slot_confirmed, &self.topics);
        for (topic, key) in self.table.keys() {
            self.core.load_parked(&topic, key);
        }
        self.last_confirmed = self.slot_confirmed;
        let behind = |transaction: &Transaction| transaction.end <= self.slot_confirmed;
        self.cursor =
            Cursor { transaction: self.transactions.iter().take_while(|t| behind(t)).count(), row: None };
    }

    /// Reads on to the commit of the open transaction, awaits what was taken in, confirms, restarts:
    /// nothing acknowledged may come again.
    pub(super) fn stop_gracefully(&mut self, rng: &mut Rng) {
        self.heal();
        for _ in 0..20_000 {
            if !self.core.ledger().in_transaction() && self.core.ledger().unresolved() == 0 {
                break;
            }
            if self.core.ledger().in_transaction() {
                self.read();
            }
            self.work(rng);
        }
        assert_eq!(self.core.ledger().unresolved(), 0, "the drain did not end");
        self.status_arrives();
        let last = self.transactions[..self.cursor.transaction].last().map_or(Lsn(100), |t| t.end);
        assert!(self.slot_confirmed >= last, "a graceful stop left {last} unconfirmed");
        self.restart();
    }

    fn work(&mut self, rng: &mut Rng) {
        self.time_passes(Duration::from_millis(200));
        self.dispatch();
        self.broker_works(rng);
        self.report_arrives(rng);
        self.desk_works(rng);
        self.check();
    }

    fn heal(&mut self) {
        self.kafka.refused.clear();
        self.kafka.stalled = false;
        self.core.force_breaker(false, self.now);
    }

    /// The invariants.
    pub(super) fn check(&mut self) {
        let ledger = self.core.ledger();
        let confirmed = ledger.confirmed_lsn();
        assert!(confirmed >= self.last_confirmed, "the confirmed LSN fell");
        assert!(confirmed <= ledger.received_lsn(), "confirmed more than was received");
        self.last_confirmed = confirmed;
        let is_safe = |id| {
            self.kafka.acknowledged.contains(&id)
                || self.table.holds(id)
                || self.table.discarded.contains(&id)
        };
        let missing = |t: &&Transaction| t.rows.iter().any(|row| !is_safe(row.id));
        if let Some(first) = self.transactions.iter().find(missing) {
            assert!(
                confirmed < first.end,
                "confirmed {confirmed} past an unacknowledged row before {}",
                first.end
            );
        }
        let budget = self.settings.max_in_flight_bytes + self.largest;
        assert!(ledger.in_flight_bytes() <= budget, "{} bytes in flight", ledger.in_flight_bytes());
    }

    /// Every fault ends: then every committed row is in Kafka, in order per key, and confirmed.
    pub(super) fn heal_and_drain(&mut self, rng: &mut Rng) {
        for _ in 0..100_000 {
            self.heal();
            self.read();
            self.work(rng);
            self.replay_works(rng);
            let settled = self.table.is_empty() && self.core.parked_keys() == 0;
            if self.core.ledger().confirmed_lsn() >= self.wal_end && settled {
                break;
            }
        }
        assert_eq!(
            self.core.ledger().confirmed_lsn(),
            self.wal_end,
            "an idle stream did not confirm its end"
        );
        let mut seen = HashSet::new();
        for log in self.kafka.log.values() {
            let mut last: HashMap<u64, usize> = HashMap::new();
            for id in log {
                // One that was given up and comes again after a crash is nowhere out of order.
                if seen.insert(*id) && !self.table.discarded.contains(id) {
                    let before = last.insert(self.rows[*id].key, *id);
                    assert!(
                        before.is_none_or(|before| before < *id),
                        "row {id} came after {before:?} of its key"
                    );
                }
            }
        }
        for row in self.rows.iter().filter(|row| !self.table.discarded.contains(&row.id)) {
            assert!(seen.contains(&row.id), "row {} is missing in Kafka", row.id);
            assert!(self.kafka.log[&row.partition()].contains(&row.id));
        }
    }
}

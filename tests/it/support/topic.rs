//! Reading a topic, by assignment: no consumer group, no offset committed.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::time::Instant;

use super::wait::{SOON, eventually};

/// Records taken in before anything else gets a turn.
const AT_ONCE: usize = 50_000;

/// A consumer that gave nothing for so long is replaced.
const STALE: Duration = Duration::from_secs(10);

/// A record as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Milliseconds since 1970.
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    /// In the order of the record.
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// The first header of that name, as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        value.as_deref().map(text)
    }

    /// The key as text; empty if there is none.
    pub(crate) fn key_text(&self) -> &str {
        text(self.key.as_deref().unwrap_or_default())
    }

    /// The value as text; empty if there is none.
    pub(crate) fn value_text(&self) -> &str {
        text(self.value.as_deref().unwrap_or_default())
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text of a test record")
}

/// What is awaited of a topic, said when it did not come.
struct OfTopic<W> {
    what: W,
    name: String,
}

impl<W: fmt::Display> fmt::Display for OfTopic<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (topic {})", self.what, self.name)
    }
}

/// A reader of one topic from its beginning. It remembers what it read, in the order it came:
/// partition by partition in order of offset, partitions interleaved.
pub(crate) struct Topic {
    bootstrap: String,
    name: String,
    consumer: BaseConsumer,
    /// When something came from it, or it was made.
    came: Instant,
    assigned: bool,
    at_end: HashSet<i32>,
    partitions: usize,
    /// Where each partition is read on, once something of it came.
    next: HashMap<i32, i64>,
    records: Vec<Record>,
}

impl Topic {
    /// A reader of that topic of a broker.
    pub(crate) fn new(bootstrap: &str, name: &str) -> Self {
        let consumer = consumer(bootstrap);
        let (assigned, at_end, partitions) = (false, HashSet::new(), 0);
        let (next, records) = (HashMap::new(), Vec::new());
        let (bootstrap, name, came) = (bootstrap.to_owned(), name.to_owned(), Instant::now());
        Self { bootstrap, name, consumer, came, assigned, at_end, partitions, next, records }
    }

    /// The topic's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What was read so far.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// Reads on until `done` says so of all records read so far; a topic that does not exist yet is
    /// waited for.
    ///
    /// # Panics
    /// After `deadline`, with `what`.
    pub(crate) async fn read_until(
        &mut self,
        deadline: Duration,
        what: impl fmt::Display,
        done: impl Fn(&[Record]) -> bool,
    ) -> &[Record] {
        let name = self.name.clone();
        let what = OfTopic { what, name };
        eventually(deadline, what, async || {
            self.poll();
            done(&self.records).then_some(())
        })
        .await;
        &self.records
    }

    /// Reads on until there are at least `count` records in all.
    pub(crate) async fn read_count(&mut self, count: usize) -> &[Record] {
        self.read_until(SOON, &format!("{count} records"), |records| records.len() >= count).await
    }

    /// Reads on to where every partition ends now. A topic that does not exist has no records.
    pub(crate) async fn read_to_end(&mut self) -> &[Record] {
        let name = self.name.clone();
        // An end seen earlier says nothing about now: ask afresh, from where we stand.
        self.at_end.clear();
        self.rewind_to_position();
        eventually(SOON, format!("reading topic {name} to its end"), async || {
            let exists = self.poll();
            (exists == Some(false) || self.assigned && self.at_end.len() == self.partitions).then_some(())
        })
        .await;
        &self.records
    }

    /// Reads to where every partition ends, and hands each record over instead of remembering it: for more of
    /// them than anybody wants in memory, by a reader that was not used yet.
    ///
    /// # Panics
    /// After `deadline`.
    pub(crate) async fn for_each(&mut self, deadline: Duration, mut see: impl FnMut(&Record)) {
        assert!(!self.assigned, "this reader remembers what came before");
        let what = format!("reading topic {} to its end", self.name);
        eventually(deadline, what, async || {
            self.poll();
            self.records.drain(..).for_each(|record| see(&record));
            (self.assigned && self.at_end.len() == self.partitions).then_some(())
        })
        .await;
    }

    /// Takes in what has come. `Some(false)` if the broker says that the topic does not exist,
    /// `None` if it does not answer.
    fn poll(&mut self) -> Option<bool> {
        if !self.assigned && !self.assign()? {
            return Some(false);
        }
        // One that a broker stood still under may stand still for good; whoever comes anew reads on.
        if self.came.elapsed() > STALE {
            (self.consumer, self.came) = (consumer(&self.bootstrap), Instant::now());
            self.rewind_to_position();
        }
        for _ in 0..AT_ONCE {
            let Some(polled) = self.consumer.poll(Duration::ZERO) else { break };
            match polled {
                Ok(message) => {
                    self.came = Instant::now();
                    self.next.insert(message.partition(), message.offset() + 1);
                    self.records.push(record(&message));
                }
                Err(KafkaError::PartitionEOF(partition)) => {
                    self.at_end.insert(partition);
                }
                // Transport errors pass; the deadline of the caller is what counts.
                Err(_) => {}
            }
        }
        Some(true)
    }

    /// Assigns every partition from the beginning, if the topic exists.
    fn assign(&mut self) -> Option<bool> {
        let metadata = self.consumer.fetch_metadata(Some(&self.name), Duration::from_secs(2)).ok()?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.name)?;
        match topic.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Some(false);
            }
            Some(_) => return None,
        }
        if topic.partitions().iter().any(|partition| partition.leader() < 0) {
            return None;
        }
        let mut list = TopicPartitionList::new();
        for partition in topic.partitions() {
            list.add_partition_offset(&self.name, partition.id(), Offset::Beginning).unwrap();
        }
        self.partitions = list.count();
        self.consumer.assign(&list).unwrap();
        self.assigned = true;
        Some(true)
    }

    /// Assigns again behind the last record read of each partition, so that its end is reported anew.
    fn rewind_to_position(&mut self) {
        if !self.assigned {
            return;
        }
        let mut list = TopicPartitionList::new();
        for partition in 0..i32::try_from(self.partitions).unwrap() {
            let offset = self.next.get(&partition).map_or(Offset::Beginning, |next| Offset::Offset(*next));
            list.add_partition_offset(&self.name, partition, offset).unwrap();
        }
        self.consumer.assign(&list).unwrap();
    }
}

fn consumer(bootstrap: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        // A group is required by the API, never joined.
        .set("group.id", "txstream-test")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "50")
        .set("reconnect.backoff.max.ms", "500")
        // A partition that was without a leader for a moment is not asked for again until then, 5 minutes
        // unless set.
        .set("topic.metadata.refresh.interval.ms", "1000")
        .create()
        .unwrap()
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
    });
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}

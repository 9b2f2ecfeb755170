//! What is in a topic: partitions, offsets and records, read by assignment. No group is joined and no
//! offset committed, so reading disturbs nobody.
//!
//! Every function blocks: call them from `spawn_blocking`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::error::{AUTHENTICATION_REMEDY, reading_remedy, trouble};
use super::{CreateError, Settings, Trouble, config};

/// The name and manners of a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `group.id`.
    pub id: String,
    /// `auto.offset.reset`.
    pub auto_offset_reset: String,
    /// `session.timeout.ms`.
    pub session_timeout: Duration,
}

/// Why a topic could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ReadError {
    /// What happened.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// A partition, by its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub id: i32,
    /// Brokers that keep a copy.
    pub replicas: usize,
    /// Those whose copy is complete.
    pub in_sync: usize,
    /// Whether one of them leads it.
    pub has_leader: bool,
}

/// What the brokers say of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicAnswer {
    /// It exists.
    Found(Vec<Partition>),
    /// There is none of that name.
    Missing,
    /// We may not even see it.
    NotAllowed,
}

/// Offsets of a partition to be read: from, up to but not including `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Partition number.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// The offset behind the last one.
    pub to: i64,
}

/// A record as it is passed by.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Partition number.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, in milliseconds since 1970; none if it has none.
    pub timestamp_millis: Option<i64>,
    /// Its key.
    pub key: &'a [u8],
    /// The value of its first header `id`.
    pub id: Option<&'a [u8]>,
}

/// A consumer without a group.
pub struct Reader {
    consumer: BaseConsumer<Context>,
    brokers: String,
    principal: Option<String>,
    patience: Duration,
}

impl Reader {
    /// Prepares to read; connects in the background. `patience` is the longest wait for an answer.
    ///
    /// # Errors
    /// [`CreateError`] when the settings make no client.
    pub fn new(settings: &Settings, group: &Group, patience: Duration) -> Result<Self, CreateError> {
        let config = config::consumer(settings, group);
        let principal = config.get("sasl.username").map(str::to_owned);
        let brokers = config.get("bootstrap.servers").unwrap_or_default().to_owned();
        let consumer = BaseConsumer::from_config_and_context(&config, Context::default())
            .map_err(|error| CreateError::new(&error))?;
        Ok(Self { consumer, brokers, principal, patience })
    }

    /// The brokers' ids.
    ///
    /// # Errors
    /// [`ReadError`] when none answers.
    pub fn broker_ids(&self) -> Result<Vec<i32>, ReadError> {
        // An unlikely topic's name: to ask for all topics could be a long answer.
        let metadata = self.consumer.fetch_metadata(Some("txstream"), self.patience);
        let metadata = metadata.map_err(|error| self.explain(&error, "ask Kafka for its brokers"))?;
        Ok(metadata.brokers().iter().map(rdkafka::metadata::MetadataBroker::id).collect())
    }

    /// The names of the topics that we may see and that begin with `prefix`, in order.
    ///
    /// # Errors
    /// [`ReadError`] when no broker answers.
    pub fn topics(&self, prefix: &str) -> Result<Vec<String>, ReadError> {
        let metadata = self.consumer.fetch_metadata(None, self.patience);
        let metadata = metadata.map_err(|error| self.explain(&error, "ask Kafka for its topics"))?;
        let names = metadata.topics().iter().map(MetadataTopic::name);
        let mut names: Vec<String> =
            names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// A topic's partitions.
    ///
    /// # Errors
    /// [`ReadError`] when no broker answers.
    pub fn topic(&self, name: &str) -> Result<TopicAnswer, ReadError> {
        let doing = format!("ask Kafka for topic {name}");
        let deadline = Instant::now() + self.patience;
        loop {
            let metadata = self.consumer.fetch_metadata(Some(name), self.patience);
            let metadata = metadata.map_err(|error| self.explain(&error, &doing))?;
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            match topic.and_then(MetadataTopic::error).map(RDKafkaErrorCode::from) {
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                    return Ok(TopicAnswer::Missing);
                }
                Some(RDKafkaErrorCode::InvalidTopic) => return Ok(TopicAnswer::Missing),
                Some(RDKafkaErrorCode::TopicAuthorizationFailed) => return Ok(TopicAnswer::NotAllowed),
                // A topic that was just made has no leader yet.
                Some(RDKafkaErrorCode::LeaderNotAvailable) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Some(code) => return Err(self.explain(&KafkaError::MetadataFetch(code), &doing)),
                None => return Ok(topic.map_or(TopicAnswer::Missing, found)),
            }
        }
    }

    /// The offsets a partition has: the first, and the one behind the last.
    ///
    /// # Errors
    /// [`ReadError`] when its leader does not answer.
    pub fn offsets(&self, topic: &str, partition: i32) -> Result<(i64, i64), ReadError> {
        self.consumer
            .fetch_watermarks(topic, partition, self.patience)
            .map_err(|error| self.explain(&error, &format!("ask for the offsets of topic {topic}")))
    }

    /// The first offset whose record is not older than this time, in milliseconds since 1970; none if
    /// all are.
    ///
    /// # Errors
    /// [`ReadError`] when the partition's leader does not answer.
    pub fn offset_at(&self, topic: &str, partition: i32, millis: i64) -> Result<Option<i64>, ReadError> {
        let mut times = TopicPartitionList::new();
        let asked = times
            .add_partition_offset(topic, partition, Offset::Offset(millis))
            .and_then(|()| self.consumer.offsets_for_times(times, self.patience));
        let answer = asked
            .map_err(|error| self.explain(&error, &format!("ask for offsets of topic {topic} by time")))?;
        Ok(answer.elements().first().and_then(|found| match found.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
    }

    /// Passes every record of these partitions of one topic by, partitions interleaved, each in order
    /// of offset.
    ///
    /// # Errors
    /// [`ReadError`] when the topic may not be read, or when nothing comes for longer than the patience.
    pub fn read(&self, topic: &str, spans: &[Span], mut each: impl FnMut(Seen<'_>)) -> Result<(), ReadError> {
        let failed = |error: &KafkaError| self.explain(error, &format!("read topic {topic}"));
        let mut left: HashSet<i32> = HashSet::new();
        let mut wanted = TopicPartitionList::new();
        for span in spans.iter().filter(|span| span.from < span.to) {
            left.insert(span.partition);
            let from = Offset::Offset(span.from);
            wanted.add_partition_offset(topic, span.partition, from).map_err(|error| failed(&error))?;
        }
        self.consumer.assign(&wanted).map_err(|error| failed(&error))?;
        let mut heard_at = Instant::now();
        while !left.is_empty() {
            let done = match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard_at = Instant::now();
                    let end = spans.iter().find(|span| span.partition == message.partition());
                    let end = end.map_or(i64::MIN, |span| span.to);
                    if message.offset() < end {
                        each(seen(&message));
                    }
                    (message.offset() + 1 >= end).then(|| message.partition())
                }
                // The last offsets may be of no record: aborted, or control records.
                Some(Err(KafkaError::PartitionEOF(partition))) => Some(partition),
                Some(Err(error)) if is_refusal(&error) => return Err(self.refused(topic, &error)),
                // What passes is waited for; librdkafka goes on by itself.
                Some(Err(_)) | None if heard_at.elapsed() < self.patience => None,
                Some(Err(error)) => return Err(failed(&error)),
                None => {
                    return Err(failed(&KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
                }
            };
            if let Some(partition) = done.filter(|partition| left.remove(partition)) {
                // What was written since would only be thrown away.
                let mut finished = TopicPartitionList::new();
                finished.add_partition(topic, partition);
                self.consumer.pause(&finished).map_err(|error| failed(&error))?;
            }
        }
        self.consumer.unassign().map_err(|error| failed(&error))
    }

    fn refused(&self, topic: &str, error: &KafkaError) -> ReadError {
        ReadError {
            what: format!("cannot read topic {topic}: {error}"),
            remedy: reading_remedy(topic, &self.brokers, self.principal.as_deref()),
        }
    }

    /// The error with what librdkafka told of its connections meanwhile, which says more.
    fn explain(&self, error: &KafkaError, doing: &str) -> ReadError {
        // Its words come when it is polled.
        (0..100).any(|_| self.consumer.poll(Duration::ZERO).is_none());
        let told = self.consumer.context().0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (more, remedy) = match told {
            Some(Trouble::Authentication(why)) => (Some(why), AUTHENTICATION_REMEDY.to_owned()),
            Some(Trouble::Transport(why) | Trouble::Fatal(why)) => (Some(why), self.reach()),
            Some(Trouble::AllBrokersDown) | None => (None, self.reach()),
        };
        let why = more.map_or_else(|| error.to_string(), |more| format!("{error} ({more})"));
        ReadError { what: format!("cannot {doing}: {why}"), remedy }
    }

    fn reach(&self) -> String {
        format!("check KAFKA_BROKERS ({}), and that Kafka is running and reachable from here", self.brokers)
    }
}

fn found(topic: &MetadataTopic) -> TopicAnswer {
    let partition = |partition: &rdkafka::metadata::MetadataPartition| Partition {
        id: partition.id(),
        replicas: partition.replicas().len(),
        in_sync: partition.isr().len(),
        has_leader: partition.leader() >= 0,
    };
    TopicAnswer::Found(topic.partitions().iter().map(partition).collect())
}

fn seen<'a>(message: &'a BorrowedMessage<'_>) -> Seen<'a> {
    let id = message
        .headers()
        .and_then(|headers| headers.iter().find(|header| header.key == "id"))
        .and_then(|header| header.value);
    Seen {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_millis: message.timestamp().to_millis(),
        key: message.key().unwrap_or_default(),
        id,
    }
}

/// No waiting helps.
fn is_refusal(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
        )
    )
}

/// Keeps the last trouble that says more than that no broker is there.
#[derive(Default)]
struct Context(Arc<Mutex<Option<Trouble>>>);

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let trouble = trouble(code, reason);
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble != Trouble::AllBrokersDown || told.is_none() {
            *told = Some(trouble);
        }
    }

    /// What matters of it is told with the error.
    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!(target: "librdkafka", facility, "{line}");
    }
}

impl ConsumerContext for Context {}

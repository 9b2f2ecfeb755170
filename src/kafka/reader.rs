//! What brokers say of themselves and of a topic. No group is joined and no offset committed, so asking
//! disturbs nobody. Records are read in [`super::reading`].
//!
//! Every function blocks: call them from `spawn_blocking`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::Instant;

use super::config::Group;
use super::error::{AUTHENTICATION_REMEDY, trouble};
use super::{CreateError, Settings, Trouble, config};

/// Why brokers could not be asked.
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

/// A consumer without a group.
pub struct Reader {
    pub(super) consumer: BaseConsumer<Context>,
    pub(super) brokers: String,
    pub(super) patience: Duration,
}

impl Reader {
    /// Prepares to ask; connects in the background. `patience` is the longest wait for an answer.
    ///
    /// # Errors
    /// [`CreateError`] when the settings make no client.
    pub fn new(settings: &Settings, group: &Group, patience: Duration) -> Result<Self, CreateError> {
        let config = config::consumer(settings, group);
        let brokers = config.get("bootstrap.servers").unwrap_or_default().to_owned();
        let consumer = BaseConsumer::from_config_and_context(&config, Context::default())
            .map_err(|error| CreateError::new(&error))?;
        Ok(Self { consumer, brokers, patience })
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

    /// The error with what librdkafka told of its connections meanwhile, which says more.
    pub(super) fn explain(&self, error: &KafkaError, doing: &str) -> ReadError {
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

/// Keeps the last trouble that says more than that no broker is there.
#[derive(Default)]
pub(super) struct Context(Arc<Mutex<Option<Trouble>>>);

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

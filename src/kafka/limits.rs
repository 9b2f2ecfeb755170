//! How large a record may be: the topic's own limit, or that which brokers would give it, and a record's size as
//! the broker counts it.
//!
//! What a broker would refuse is found before the record is sent: a refusal that comes as a
//! delivery report comes after later records of the key were sent. A topic's `max.message.bytes`
//! holds for the whole batch, so two rules keep it: no record is larger than it in a batch of its
//! own ([`check`]), and no batch of several is (`batch.size`, see [`super::Producer::new`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::metadata::{MetadataBroker, MetadataTopic};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use super::{CreateError, Rejection, Settings, config};
use crate::outbox::Record;

/// A topic's limit where neither it nor the brokers' can be asked for, in bytes: Kafka's default of both.
pub const DEFAULT_TOPIC_LIMIT: u32 = 1_048_588;

/// The setting of a topic that is its limit.
const OF_TOPIC: &str = "max.message.bytes";

/// The setting of a broker that a topic without one of its own goes by.
const OF_BROKER: &str = "message.max.bytes";

/// How long one broker has to say it: the next attempt asks another, and records wait meanwhile.
const BROKER_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a record batch around its records (message format 2): base offset 8, length 4, leader
/// epoch 4, magic 1, checksum 4, attributes 2, last offset delta 4, first and last timestamp 16,
/// producer id 8 and epoch 2, base sequence 4, record count 4.
const BATCH_OVERHEAD: usize = 61;

/// A record's attributes, timestamp delta and offset delta; both deltas are 0 in a batch of one.
const RECORD_FIXED: usize = 3;

/// Longest topic name that Kafka takes, in bytes.
const MAX_TOPIC_NAME: usize = 249;

/// A topic's limit, and how much of it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicLimit {
    /// The topic's own `max.message.bytes`.
    Own(u32),
    /// There is no such topic (yet): what brokers give a new one, if they say. Ask again once it exists.
    Missing(Option<u32>),
    /// Describing the topic is not allowed or not offered: what brokers give one without a limit of its own, if
    /// they say.
    Hidden(Option<u32>),
}

impl TopicLimit {
    /// The limit to go by, in bytes.
    pub fn bytes(self) -> u32 {
        self.told().unwrap_or(DEFAULT_TOPIC_LIMIT)
    }

    /// What `before` becomes with this answer. A limit that the topic had itself holds until the topic names
    /// another: one that was deleted may come back as it was, and a broker that has just started may not know it.
    #[must_use]
    pub fn after(self, before: Option<Self>) -> Self {
        match (self, before) {
            (Self::Missing(_) | Self::Hidden(_), Some(own @ Self::Own(_))) => own,
            (Self::Missing(None), Some(before)) => Self::Missing(before.told()),
            (Self::Hidden(None), Some(before)) => Self::Hidden(before.told()),
            _ => self,
        }
    }

    fn told(self) -> Option<u32> {
        match self {
            Self::Own(bytes) => Some(bytes),
            Self::Missing(told) | Self::Hidden(told) => told,
        }
    }
}

/// What the metadata of a topic that was not described say.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    There,
    Missing,
}

/// Asks brokers for topics' limits, on a connection of its own.
pub struct Limits {
    admin: Arc<AdminClient<DefaultClientContext>>,
    timeout: Duration,
    /// Questions to brokers so far.
    turn: AtomicUsize,
}

impl Limits {
    /// Prepares to ask; connects with the first question.
    ///
    /// # Errors
    /// [`CreateError`] when the settings make no client.
    pub fn new(settings: &Settings) -> Result<Self, CreateError> {
        let admin = AdminClient::from_config(&config::admin(settings)).map_err(|e| CreateError::new(&e))?;
        Ok(Self { admin: Arc::new(admin), timeout: settings.request_timeout, turn: AtomicUsize::new(0) })
    }

    /// The limit of `topic`; each question that it takes is answered within the request timeout.
    ///
    /// # Errors
    /// Why no answer could be had. Ask again.
    ///
    /// # Cancel safety
    /// May be dropped; the answer is then thrown away.
    pub async fn topic_limit(&self, topic: &str) -> Result<TopicLimit, String> {
        if let Some(limit) = self.own(topic).await? {
            return Ok(TopicLimit::Own(limit));
        }
        let (standing, brokers) = self.metadata(topic).await?;
        if standing == Standing::Missing {
            return Ok(TopicLimit::Missing(self.of_brokers(&brokers).await?));
        }
        // It may have come into being between the two questions.
        match self.own(topic).await? {
            Some(limit) => Ok(TopicLimit::Own(limit)),
            None => Ok(TopicLimit::Hidden(self.of_brokers(&brokers).await?)),
        }
    }

    /// The topic's own limit, unless it is missing or may not be described.
    async fn own(&self, topic: &str) -> Result<Option<u32>, String> {
        self.describe(ResourceSpecifier::Topic(topic), OF_TOPIC, self.timeout).await
    }

    /// What a topic without a limit of its own takes, unless brokers may not be described.
    async fn of_brokers(&self, brokers: &[i32]) -> Result<Option<u32>, String> {
        let broker = self.whom(brokers).ok_or("the metadata name no broker")?;
        let patience = self.timeout.min(BROKER_PATIENCE);
        self.describe(ResourceSpecifier::Broker(broker), OF_BROKER, patience).await
    }

    /// Another at each call, so that one that is dead does not keep the answer back.
    fn whom(&self, brokers: &[i32]) -> Option<i32> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        turn.checked_rem(brokers.len()).and_then(|at| brokers.get(at)).copied()
    }

    /// A setting that is a number; none if it is not told.
    async fn describe(
        &self,
        resource: ResourceSpecifier<'_>,
        setting: &str,
        timeout: Duration,
    ) -> Result<Option<u32>, String> {
        let options = AdminOptions::new().request_timeout(Some(timeout));
        match self.admin.describe_configs(&[resource], &options).await {
            Ok(mut results) => match results.pop() {
                Some(result) => answer(result, setting),
                None => Err("the broker's answer is empty".to_owned()),
            },
            Err(KafkaError::AdminOp(code)) => answer(Err(code), setting),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Tells a topic that is missing from one that we may not describe, and names the brokers.
    async fn metadata(&self, topic: &str) -> Result<(Standing, Vec<i32>), String> {
        let (admin, topic, timeout) = (Arc::clone(&self.admin), topic.to_owned(), self.timeout);
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = admin.inner().fetch_metadata(Some(&topic), timeout).map_err(|e| e.to_string())?;
            let standing = standing(metadata.topics().first().and_then(MetadataTopic::error))?;
            Ok((standing, metadata.brokers().iter().map(MetadataBroker::id).collect()))
        });
        asked.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Closes the connection. Blocks for up to a second or so: call it from `spawn_blocking`.
    pub fn close(self) {}
}

/// What a topic's metadata say of a topic that was not described.
fn standing(error: Option<RDKafkaRespErr>) -> Result<Standing, String> {
    use RDKafkaErrorCode as Code;
    match error.map(RDKafkaErrorCode::from) {
        None | Some(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => Ok(Standing::There),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic) => {
            Ok(Standing::Missing)
        }
        Some(other) => Err(other.to_string()),
    }
}

/// What a description, or the error in its place, says of a setting; none is: it is not there, not allowed, not
/// offered, or kept from us.
fn answer(result: Result<ConfigResource, RDKafkaErrorCode>, setting: &str) -> Result<Option<u32>, String> {
    use RDKafkaErrorCode as Code;
    match result {
        // rdkafka 0.39 drops the error that a broker gave in place of the entries.
        Ok(resource) => {
            let value = resource.get(setting).and_then(|entry| entry.value.as_deref());
            Ok(value.and_then(|value| value.parse().ok()))
        }
        Err(
            Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SecurityDisabled
            | Code::PolicyViolation
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::InvalidRequest
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::InvalidTopic,
        ) => Ok(None),
        Err(other) => Err(other.to_string()),
    }
}

/// Whether Kafka could take `record` into a topic that takes `limit` bytes.
///
/// # Errors
/// The reason, without key or payload: too large, a topic name that Kafka does not allow, or a
/// header name with a NUL character, which librdkafka cannot give back unharmed.
pub fn check(record: &Record, limit: u32) -> Result<(), (Rejection, String)> {
    let size = record_size(record);
    if size > limit as usize {
        let text = format!(
            "the record takes {size} bytes, topic {} takes {limit} (max.message.bytes)",
            record.topic
        );
        return Err((Rejection::TooLarge, text));
    }
    if let Some(fault) = topic_name_fault(&record.topic) {
        return Err((Rejection::Invalid, format!("topic name {:?} {fault}", &*record.topic)));
    }
    if record.headers.iter().any(|header| header.name.as_bytes().contains(&0)) {
        return Err((Rejection::Invalid, "a header's name contains a NUL character".to_owned()));
    }
    Ok(())
}

/// Bytes of `record` in a batch of its own, uncompressed, as the broker compares them with
/// `max.message.bytes`. Exact for message format 2; compression can only make it less, because
/// librdkafka sends a batch as it is when compressing would enlarge it.
pub fn record_size(record: &Record) -> usize {
    let sized = |len: usize| varint_len(len) + len;
    // A missing value is the length -1, one byte like the length 0.
    let optional = |value: &Option<bytes::Bytes>| value.as_ref().map_or(1, |value| sized(value.len()));
    let headers: usize =
        record.headers.iter().map(|header| sized(header.name.len()) + optional(&header.value)).sum();
    let body = RECORD_FIXED
        + sized(record.key.len())
        + optional(&record.payload)
        + varint_len(record.headers.len())
        + headers;
    BATCH_OVERHEAD + sized(body)
}

/// Bytes of `value` as a zigzag varint, seven bits a byte.
fn varint_len(value: usize) -> usize {
    let bits = usize::BITS - (value << 1 | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// What is wrong with a topic's name, by Kafka's rule: 1 to 249 ASCII letters, digits, `.`, `_`
/// and `-`, and neither `.` nor `..`.
pub(super) fn topic_name_fault(name: &str) -> Option<&'static str> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match name {
        "" => Some("is empty"),
        "." | ".." => Some("is reserved"),
        _ if name.len() > MAX_TOPIC_NAME => Some("is longer than 249 characters"),
        _ if !name.bytes().all(legal) => Some("has characters other than letters, digits, '.', '_' and '-'"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

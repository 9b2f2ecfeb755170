//! How large a record may be: the topic's own limit, and a record's size as the broker counts it.
//!
//! What a broker would refuse is found before the record is sent: a refusal that comes as a
//! delivery report comes after later records of the key were sent. A topic's `max.message.bytes`
//! holds for the whole batch, so two rules keep it: no record is larger than it in a batch of its
//! own ([`check`]), and no batch of several is (`batch.size`, see [`super::Producer::new`]).

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use super::{CreateError, Rejection, Settings, config};
use crate::outbox::Record;

/// A topic's limit where it cannot be asked for, in bytes: Kafka's default `max.message.bytes`.
pub const DEFAULT_TOPIC_LIMIT: u32 = 1_048_588;

/// Bytes of a record batch around its records (message format 2): base offset 8, length 4, leader
/// epoch 4, magic 1, checksum 4, attributes 2, last offset delta 4, first and last timestamp 16,
/// producer id 8 and epoch 2, base sequence 4, record count 4.
const BATCH_OVERHEAD: usize = 61;

/// A record's attributes, timestamp delta and offset delta; both deltas are 0 in a batch of one.
const RECORD_FIXED: usize = 3;

/// Longest topic name that Kafka takes, in bytes.
const MAX_TOPIC_NAME: usize = 249;

/// What a broker says of a topic's limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitAnswer {
    /// The topic's `max.message.bytes`.
    Known(u32),
    /// Describing the topic is not allowed or not offered: assume [`DEFAULT_TOPIC_LIMIT`], say so once.
    NotAllowed,
    /// There is no such topic (yet): assume [`DEFAULT_TOPIC_LIMIT`], ask again once it exists.
    UnknownTopic,
    /// No answer could be had; the text says why. Ask again.
    Unavailable(String),
}

/// Asks brokers for topics' limits, on a connection of its own.
pub struct Limits {
    admin: Arc<AdminClient<DefaultClientContext>>,
    timeout: Duration,
}

impl Limits {
    /// Prepares to ask; connects with the first question.
    ///
    /// # Errors
    /// [`CreateError`] when the settings make no client.
    pub fn new(settings: &Settings) -> Result<Self, CreateError> {
        let admin = AdminClient::from_config(&config::admin(settings)).map_err(|e| CreateError::new(&e))?;
        Ok(Self { admin: Arc::new(admin), timeout: settings.request_timeout })
    }

    /// The limit of `topic`, within the request timeout.
    ///
    /// # Cancel safety
    /// May be dropped; the answer is then thrown away.
    pub async fn topic_limit(&self, topic: &str) -> LimitAnswer {
        let options = AdminOptions::new().request_timeout(Some(self.timeout));
        let resource = [ResourceSpecifier::Topic(topic)];
        match self.admin.describe_configs(&resource, &options).await {
            Ok(mut results) => match results.pop() {
                // rdkafka 0.39 drops the error that a broker gave in place of the entries.
                Some(Ok(resource)) if resource.entries.is_empty() => self.why_undescribed(topic).await,
                Some(result) => answer(result),
                None => LimitAnswer::Unavailable("the broker's answer is empty".to_owned()),
            },
            Err(KafkaError::AdminOp(code)) => answer(Err(code)),
            Err(error) => LimitAnswer::Unavailable(error.to_string()),
        }
    }

    /// Tells a topic that is missing from one that we may not describe, by its metadata.
    async fn why_undescribed(&self, topic: &str) -> LimitAnswer {
        let (admin, topic, timeout) = (Arc::clone(&self.admin), topic.to_owned(), self.timeout);
        let asked =
            tokio::task::spawn_blocking(move || match admin.inner().fetch_metadata(Some(&topic), timeout) {
                Ok(metadata) => exists(metadata.topics().first().and_then(MetadataTopic::error)),
                Err(error) => LimitAnswer::Unavailable(error.to_string()),
            });
        asked.await.unwrap_or_else(|error| LimitAnswer::Unavailable(error.to_string()))
    }

    /// Closes the connection. Blocks for up to a second or so: call it from `spawn_blocking`.
    pub fn close(self) {}
}

/// What a topic's metadata say of a topic that was not described.
fn exists(error: Option<RDKafkaRespErr>) -> LimitAnswer {
    error.map_or(LimitAnswer::NotAllowed, |error| answer(Err(error.into())))
}

/// What one described topic, or the error in its place, says.
fn answer(result: Result<ConfigResource, RDKafkaErrorCode>) -> LimitAnswer {
    use RDKafkaErrorCode as Code;
    let code = match result {
        Ok(resource) => {
            let value = resource.get("max.message.bytes").and_then(|entry| entry.value.as_deref());
            return match value.and_then(|value| value.parse().ok()) {
                Some(limit) => LimitAnswer::Known(limit),
                // Described, but this broker keeps the entry to itself.
                None => LimitAnswer::NotAllowed,
            };
        }
        Err(code) => code,
    };
    match code {
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::SecurityDisabled
        | Code::PolicyViolation
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::InvalidRequest => LimitAnswer::NotAllowed,
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic => LimitAnswer::UnknownTopic,
        other => LimitAnswer::Unavailable(other.to_string()),
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

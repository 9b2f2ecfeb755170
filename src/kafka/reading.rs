//! The records of a topic, read by assignment from one offset to another. No group is joined and no offset
//! committed, so reading disturbs nobody.
//!
//! Every function blocks: call them from `spawn_blocking`.

use std::collections::HashSet;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::error::reading_remedy;
use super::reader::{ReadError, Reader};

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
    /// Its key; none if it has none.
    pub key: Option<&'a [u8]>,
    /// The value of its first header `id`.
    pub id: Option<&'a [u8]>,
}

impl Reader {
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
        // A pause outlives the assignment: the next reading of the topic would wait for ever.
        self.consumer.resume(&wanted).map_err(|error| failed(&error))?;
        self.consumer.unassign().map_err(|error| failed(&error))
    }

    /// The error of a topic that may not be read.
    pub fn refused(&self, topic: &str, why: &dyn std::fmt::Display) -> ReadError {
        ReadError {
            what: format!("cannot read topic {topic}: {why}"),
            remedy: reading_remedy(topic, &self.brokers),
        }
    }
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
        key: message.key(),
        id,
    }
}

/// No waiting helps. librdkafka looks for the coordinator of its group unasked; a user who may not see the group
/// loses nothing, for it is used by nobody here.
fn is_refusal(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)
    )
}

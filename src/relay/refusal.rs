//! What a refused record means, in words for the person who has to find it: id, key and topic, never its
//! payload; and what it is called when Kafka refuses all of us.

use std::time::Duration;

use tokio::time::Instant;

use super::checkpoint::Rejected;
use super::core::Unstorable;
use super::halt::{AGAIN, Halt, STAYS};
use super::parking::MAX_PARKED_KEYS;
use super::topics::{MAX_TOPICS, Trouble};
use crate::dead_letter::{Content, DeadLetterError, Letter};
use crate::kafka::Rejection;
use crate::kafka::error::BROKERS;
use crate::kafka::limits::TopicLimit;
use crate::outbox::Record;

/// A record that was handed over longer ago than this may have waited for Kafka until its timestamp was too
/// old: a refused one says nothing of the record then.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// Whether the timestamp of a record handed over at `sent_at` was new when Kafka answered.
pub(super) fn was_fresh(sent_at: Instant, now: Instant) -> bool {
    now.duration_since(sent_at) <= FRESH_FOR
}

/// The way out that parks the record instead.
pub(super) const OR_PARK: &str =
    "WORKER_ON_REJECT=dead-letter stores such records and goes on with other keys";

/// Credentials or certificates, ours or a broker's.
pub(super) const KAFKA_REFUSES_US: &str = "Kafka refuses our credentials or certificate";

/// Kafka will never take the record.
pub(super) fn refused(record: &Record, rejection: Rejection, message: &str) -> Halt {
    let (reason, remedy) = match rejection {
        Rejection::TooLarge => {
            ("is too large for its topic", "raise max.message.bytes of the topic (and of the brokers)")
        }
        Rejection::Invalid => ("is invalid for Kafka", "correct what the text names"),
    };
    Halt::new(
        format!("record {}, {reason}: {message}", describe(record)),
        format!("{STAYS}; {remedy} and {AGAIN}; {OR_PARK}"),
    )
}

/// The record is larger than its topic takes.
pub(super) fn too_large(record: &Record, size: usize, limit: TopicLimit) -> Halt {
    let topic = &record.topic;
    // Not the real ones: a halt is shown by /status too.
    let raise = format!(
        "raise the topic's limit (kafka-configs.sh --bootstrap-server {BROKERS} --alter --entity-type topics \
         --entity-name {topic} --add-config max.message.bytes={size})"
    );
    let create = format!(
        "create the topic with a limit of its own (kafka-topics.sh --bootstrap-server {BROKERS} --create --topic \
         {topic} --config max.message.bytes={size})"
    );
    let mend = match limit {
        TopicLimit::Own(_) => raise,
        TopicLimit::Missing(Some(_)) => create,
        TopicLimit::Hidden(_) => format!("{raise}, or grant DescribeConfigs on the topic if it takes more,"),
        TopicLimit::Missing(None) => {
            format!("{create}, or grant DescribeConfigs on the cluster if brokers give a new one more,")
        }
    };
    Halt::new(
        format!("record {} is too large: {}", describe(record), too_large_text(size, limit)),
        format!("{STAYS}; {mend} and {AGAIN}; {OR_PARK}"),
    )
}

/// The same as a dead letter says it.
pub(super) fn too_large_text(size: usize, limit: TopicLimit) -> String {
    let takes = limit.bytes();
    match limit {
        TopicLimit::Own(_) => format!("{size} bytes, and the topic takes {takes}"),
        TopicLimit::Missing(Some(_)) => format!(
            "{size} bytes, and the topic does not exist yet: brokers give a new one {takes} (message.max.bytes)"
        ),
        TopicLimit::Missing(None) => format!(
            "{size} bytes, and the topic does not exist yet: {takes} is assumed, brokers may not be asked"
        ),
        TopicLimit::Hidden(_) => {
            format!("{size} bytes, and {takes} is assumed for the topic: describing it is not allowed")
        }
    }
}

/// A record failed more often than `KAFKA_MAX_RETRIES` allows.
pub(super) fn exhausted(record: &Record, failed: &str) -> Halt {
    Halt::new(
        format!("record {}, {failed}", describe(record)),
        format!("mend the topic, or set KAFKA_MAX_RETRIES=-1 to go on trying, and {AGAIN}; {OR_PARK}"),
    )
}

/// The same as a dead letter says it.
pub(super) fn exhausted_text(bound: u32, trouble: Option<&Trouble>) -> String {
    let why = trouble.map_or("", |trouble| trouble.message.as_str());
    format!("failed {} times: {why}", u64::from(bound) + 1)
}

/// One more key would be parked than may be.
pub(super) fn too_many_keys(record: &Record) -> Halt {
    Halt::new(
        format!(
            "{MAX_PARKED_KEYS} keys are parked, and record {} would park another: something is wrong with more \
             than single records",
            describe(record)
        ),
        format!(
            "{STAYS}; see txstream dead-letter list, mend the cause, then run txstream dead-letter replay or discard, \
             and {AGAIN}"
        ),
    )
}

/// The table of dead letters does not take a letter, for a reason that stays.
pub(super) fn unstorable(letter: &Letter, error: &DeadLetterError) -> Unstorable {
    let table = &letter.table;
    let topic = match &letter.content {
        Content::Record(record) => record.topic.to_string(),
        Content::Row(_) => String::new(),
    };
    let what = match &letter.content {
        Content::Record(record) => format!("record {}, of table {table}", describe(record)),
        Content::Row(_) => {
            format!("row {} of table {table}", letter.row_id.as_deref().unwrap_or("without id"))
        }
    };
    let halt = Halt::new(
        format!("{what}, has to be stored as a dead letter: {error}"),
        format!("{STAYS}; {}, then {AGAIN}", error.remedy()),
    );
    let rejected = Rejected {
        table: table.to_string(),
        row_id: letter.row_id.clone().unwrap_or_default(),
        topic,
        commit_lsn: letter.commit_lsn.0,
        ordinal: letter.ordinal,
        reason: error.to_string(),
        letter: true,
    };
    Unstorable { halt, rejected }
}

/// The record would take one topic more than there may be: its table, and the column that names topics.
pub(super) fn too_many_topics(record: &Record, table: &str, column: &str, skipping: &str) -> Halt {
    Halt::new(
        format!(
            "records of this run go to {MAX_TOPICS} topics already, and record {} would take another: the values of \
             column {column} of table {table} look like identifiers",
            describe(record)
        ),
        format!(
            "{STAYS}; set KAFKA_TOPIC_EVENTS to publish to one topic, or correct what writes {column} and {skipping}"
        ),
    )
}

/// A record for the person who has to find it: id, key and topic, never its payload.
pub(super) fn describe(record: &Record) -> String {
    format!("id {}, key {:?}, topic {}", record.id(), String::from_utf8_lossy(&record.key), record.topic)
}

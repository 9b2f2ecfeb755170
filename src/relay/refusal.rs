//! The halts that a refused record means, in words for the person who has to find it: id, key and
//! topic, never its payload.

use super::halt::Halt;
use super::topics::Trouble;
use crate::kafka::Rejection;
use crate::outbox::Record;

/// Kafka will never take the record.
pub(super) fn refused(record: &Record, rejection: Rejection, message: &str) -> Halt {
    let (reason, remedy) = match rejection {
        Rejection::TooLarge => (
            "is too large for its topic",
            "raise max.message.bytes of the topic (and of the brokers) and run it again",
        ),
        Rejection::Invalid => ("is invalid for Kafka", "correct what the text names and run it again"),
    };
    Halt::new(
        format!("record {}, {reason}: {message}", describe(record)),
        format!("nothing is confirmed beyond it; {remedy}"),
    )
}

/// A record failed more often than `KAFKA_MAX_RETRIES` allows.
pub(super) fn exhausted(topic: &str, bound: u32, trouble: Option<&Trouble>) -> Halt {
    let why = trouble.map_or("", |trouble| trouble.message.as_str());
    Halt::new(
        format!("a record of topic {topic} failed {} times: {why}", u64::from(bound) + 1),
        "mend the topic, or set KAFKA_MAX_RETRIES=-1 to go on trying, and run it again",
    )
}

/// A record for the person who has to find it: id, key and topic, never its payload.
pub(super) fn describe(record: &Record) -> String {
    format!("id {}, key {:?}, topic {}", record.id(), String::from_utf8_lossy(&record.key), record.topic)
}

//! What an error code of librdkafka means, and what a person can do about it.
//!
//! One table for delivery reports and refused sends ([`classify`]), one for the client's error
//! callback ([`trouble`]). A code that neither table names is retried: giving up is by table only.

use rdkafka::types::RDKafkaErrorCode;

use super::{FailureClass, Rejection, TopicTrouble, Trouble};

/// What a record needs that failed with `code`.
pub fn classify(code: RDKafkaErrorCode) -> FailureClass {
    use RDKafkaErrorCode as Code;
    match code {
        // Rights and missing topics: a person mends them, then the same record goes through.
        Code::TopicAuthorizationFailed => FailureClass::Topic(TopicTrouble::Authorization),
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            FailureClass::Topic(TopicTrouble::Unknown)
        }

        // The record or the topic's name is at fault: no resend helps.
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            FailureClass::Rejected(Rejection::TooLarge)
        }
        Code::InvalidRecord
        | Code::InvalidTopic
        | Code::PolicyViolation
        | Code::UnsupportedForMessageFormat
        | Code::InvalidArgument
        | Code::BadMessage => FailureClass::Rejected(Rejection::Invalid),

        // librdkafka gives a record its time when it is handed over: one that waited for Kafka to come
        // back is older than a topic may want it (`message.timestamp.before.max.ms`), and sent again is not.
        Code::InvalidTimestamp => FailureClass::Stale,

        // A broker refused the batch for another record of it.
        Code::InvalidDifferentRecord => FailureClass::Neighbour,

        // The idempotent producer lost its sequence or its right to write: only a new one helps.
        Code::OutOfOrderSequenceNumber
        | Code::UnknownProducerId
        | Code::InvalidProducerEpoch
        | Code::InvalidProducerIdMapping
        | Code::ProducerFenced
        | Code::Fenced
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::InvalidRequiredAcks
        | Code::UnsupportedVersion
        | Code::UnsupportedCompressionType
        | Code::UnsupportedFeature
        | Code::Inconsistent
        | Code::GaplessGuarantee
        | Code::Fatal => FailureClass::Fatal,

        // Nobody failed: the producer was emptied or is going down.
        Code::PurgeQueue | Code::PurgeInflight | Code::BrokerDestroy | Code::DestroyBroker => {
            FailureClass::Purged
        }

        // `_TRANSPORT`, timeouts, elections, too few replicas, storage errors, and what is not listed.
        _ => FailureClass::Transport,
    }
}

/// What the error callback's `code` says of the client as a whole; `reason` is librdkafka's text.
pub fn trouble(code: RDKafkaErrorCode, reason: &str) -> Trouble {
    use RDKafkaErrorCode as Code;
    match code {
        Code::AllBrokersDown => Trouble::AllBrokersDown,
        Code::Authentication
        | Code::SSL
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled => Trouble::Authentication(reason.to_owned()),
        // Fenced, out of sequence and the like; a code about the cluster's rights too.
        _ if classify(code) == FailureClass::Fatal => Trouble::Fatal(reason.to_owned()),
        _ => Trouble::Transport(reason.to_owned()),
    }
}

/// Stands for the broker list where it shall not be read.
pub const BROKERS: &str = "BROKERS";

/// The command that mends a topic's trouble, with the broker list and topic filled in.
///
/// `principal` is the name Kafka knows us by (`sasl.username`), where it is known.
pub fn remedy(trouble: TopicTrouble, topic: &str, brokers: &str, principal: Option<&str>) -> String {
    let (topic, brokers) = (quoted(topic), quoted(brokers));
    match trouble {
        TopicTrouble::Unknown => format!(
            "create the topic: kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic} \
             --partitions 6"
        ),
        TopicTrouble::Authorization => {
            let principal = quoted(&format!("User:{}", principal.unwrap_or("PRINCIPAL")));
            format!(
                "grant the right to write: kafka-acls.sh --bootstrap-server {brokers} --add \
                 --allow-principal {principal} --producer --topic {topic}"
            )
        }
    }
}

/// What to do about [`Trouble::Authentication`].
pub const AUTHENTICATION_REMEDY: &str = "check security.protocol, sasl.mechanism, sasl.username, sasl.password \
     and ssl.ca.location in KAFKA_CONFIG_FILE or -X; the producer keeps trying";

/// What to do when a record was rejected; the broker list and topic are filled in.
pub fn rejection_remedy(rejection: Rejection, topic: &str, brokers: &str) -> String {
    let (topic, brokers) = (quoted(topic), quoted(brokers));
    match rejection {
        Rejection::TooLarge => format!(
            "raise the topic's limit: kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics \
             --entity-name {topic} --add-config max.message.bytes=BYTES"
        ),
        Rejection::Invalid => "mend the row's topic or headers at their source".to_owned(),
    }
}

/// What to do where a topic wants records younger, or older, than they are when they are sent.
pub const TIMESTAMP_REMEDY: &str = "the records go again with a new timestamp; if that is refused too, set the clock \
     of this machine, or raise the topic's message.timestamp.before.max.ms (message.timestamp.after.max.ms)";

/// The command that grants the right to read a topic, without a group.
pub fn reading_remedy(topic: &str, brokers: &str) -> String {
    format!(
        "grant the right to read: kafka-acls.sh --bootstrap-server {} --add --allow-principal User:PRINCIPAL \
         --operation Read --operation Describe --topic {}",
        quoted(brokers),
        quoted(topic)
    )
}

/// `text` as one word of a shell.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:,/=@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaErrorCode as Code;

    use super::*;

    #[test]
    fn every_named_code_has_its_class() {
        let topic = FailureClass::Topic;
        let rejected = FailureClass::Rejected;
        let table = [
            (
                FailureClass::Transport,
                &[
                    Code::BrokerTransportFailure,
                    Code::AllBrokersDown,
                    Code::OperationTimedOut,
                    Code::TimedOutQueue,
                    Code::MessageTimedOut,
                    Code::RequestTimedOut,
                    Code::NotEnoughReplicas,
                    Code::NotEnoughReplicasAfterAppend,
                    Code::LeaderNotAvailable,
                    Code::NotLeaderForPartition,
                    Code::KafkaStorageError,
                    Code::Resolve,
                    Code::Authentication,
                    Code::SSL,
                    Code::NetworkException,
                    Code::InvalidMessage,
                    Code::ThrottlingQuotaExceeded,
                    Code::QueueFull,
                    Code::Unknown,
                ][..],
            ),
            (topic(TopicTrouble::Authorization), &[Code::TopicAuthorizationFailed]),
            (
                topic(TopicTrouble::Unknown),
                &[Code::UnknownTopicOrPartition, Code::UnknownTopic, Code::UnknownPartition],
            ),
            (rejected(Rejection::TooLarge), &[Code::MessageSizeTooLarge, Code::MessageBatchTooLarge]),
            (FailureClass::Stale, &[Code::InvalidTimestamp]),
            (FailureClass::Neighbour, &[Code::InvalidDifferentRecord]),
            (rejected(Rejection::Invalid), &[Code::InvalidRecord, Code::InvalidTopic]),
            (
                FailureClass::Fatal,
                &[
                    Code::OutOfOrderSequenceNumber,
                    Code::UnknownProducerId,
                    Code::InvalidProducerEpoch,
                    Code::ProducerFenced,
                    Code::Fenced,
                    Code::ClusterAuthorizationFailed,
                    Code::Fatal,
                ],
            ),
            (FailureClass::Purged, &[Code::PurgeQueue, Code::PurgeInflight]),
        ];
        for (class, codes) in table {
            for code in codes {
                assert_eq!(classify(*code), class, "{code:?}");
            }
        }
    }

    #[test]
    fn the_error_callback_tells_credentials_from_transport() {
        let reason = || "why".to_owned();
        for (code, expected) in [
            (Code::AllBrokersDown, Trouble::AllBrokersDown),
            (Code::Authentication, Trouble::Authentication(reason())),
            (Code::SSL, Trouble::Authentication(reason())),
            (Code::Resolve, Trouble::Transport(reason())),
            (Code::BrokerTransportFailure, Trouble::Transport(reason())),
            (Code::OperationTimedOut, Trouble::Transport(reason())),
            (Code::Fatal, Trouble::Fatal(reason())),
            (Code::ClusterAuthorizationFailed, Trouble::Fatal(reason())),
        ] {
            assert_eq!(trouble(code, "why"), expected, "{code:?}");
        }
    }

    #[test]
    fn remedies_are_commands_that_can_be_pasted() {
        assert_eq!(
            remedy(TopicTrouble::Unknown, "outbox.event.order", "k1:9092,k2:9092", None),
            "create the topic: kafka-topics.sh --bootstrap-server k1:9092,k2:9092 --create \
             --topic outbox.event.order --partitions 6"
        );
        assert_eq!(
            remedy(TopicTrouble::Authorization, "a b'c", "k:9092", Some("relay")),
            "grant the right to write: kafka-acls.sh --bootstrap-server k:9092 --add \
             --allow-principal User:relay --producer --topic 'a b'\\''c'"
        );
    }
}

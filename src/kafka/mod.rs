//! Kafka: a record goes in with a ticket, a delivery with that ticket comes out.
//!
//! Wraps librdkafka's idempotent producer. Knows nothing of Postgres or of the order of records;
//! only a delivery report confirms.

use crate::outbox::Record;

/// One librdkafka property as a person set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// librdkafka's name.
    pub name: String,
    /// Its value; may be a secret.
    pub value: String,
}

/// How to reach Kafka.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `bootstrap.servers`.
    pub brokers: String,
    /// `client.id`.
    pub client_id: String,
    /// `request.timeout.ms`.
    pub request_timeout: std::time::Duration,
    /// Other properties, in rising precedence; validated.
    pub properties: Vec<Property>,
}

/// Names a record between `send` and its delivery; chosen by the caller.
pub type Ticket = usize;

/// What the producer reports.
#[derive(Debug)]
pub enum Event {
    /// Kafka has the record.
    Acknowledged(Ticket),
    /// Kafka will not get the record without more doing; it comes back.
    Failed(Box<Failure>),
    /// A condition of the client as a whole.
    Trouble(Trouble),
}

/// A failed record.
#[derive(Debug)]
pub struct Failure {
    /// Its ticket.
    pub ticket: Ticket,
    /// What kind of failure.
    pub class: FailureClass,
    /// The error's text.
    pub message: String,
    /// The record, copied out of the report.
    pub record: Record,
}

/// What a failed record needs. One pure function decides: `error::classify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// A transport error: send again, no attempt used up.
    Transport,
    /// A person must act (rights, missing topic): the topic waits.
    Topic(TopicTrouble),
    /// This record will never be taken.
    Rejected(Rejection),
    /// The producer is finished: end the run.
    Fatal,
    /// Our own purge.
    Purged,
}

/// Why a topic waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicTrouble {
    /// No right to write.
    Authorization,
    /// No such topic or partition.
    Unknown,
}

/// Why a record will never be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Larger than the topic takes.
    TooLarge,
    /// Invalid for the broker, or the topic's name is.
    Invalid,
}

/// A condition that no single record carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// No broker is reachable.
    AllBrokersDown,
    /// A connection failed.
    Transport(String),
    /// Credentials or certificates are refused; librdkafka keeps trying.
    Authentication(String),
    /// The producer is finished.
    Fatal(String),
}

/// Why a record was not taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// The queue is full: backpressure, not a failure.
    QueueFull,
    /// It will never be taken.
    Rejected(Rejection, String),
    /// The producer is finished.
    Fatal(String),
}

/// An idempotent producer.
pub struct Producer(());

impl Producer {
    /// Hands a record to librdkafka, which copies it. Never blocks.
    ///
    /// # Errors
    /// [`SendError`]; the record was not taken.
    pub fn send(&self, _record: &Record, _ticket: Ticket) -> Result<(), SendError> {
        todo!("kafka package")
    }
}

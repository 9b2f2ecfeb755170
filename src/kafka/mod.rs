//! Kafka: a record goes in with a ticket, a delivery with that ticket comes out.
//!
//! Wraps librdkafka's idempotent producer. Knows nothing of Postgres or of the order of records;
//! only a delivery report confirms.
//!
//! - [`properties`]: the text of a properties file or of `-X name=value` becomes [`Property`]s.
//! - [`config`]: which properties are forced, refused, passed through; defaults of ours.
//! - [`producer`]: [`Producer`], over librdkafka's queue, polled by a thread or by the loop itself.
//! - [`inbox`]: [`Inbox`], the border between them and the loop that waits for [`Event`]s.
//! - [`error`]: what an error code means ([`error::classify`]) and what a person can do about it.
//! - [`limits`]: a topic's own size limit, and the size of a record as a broker counts it.
//! - [`reader`]: [`Reader`], what brokers say of themselves and of a topic, without joining a group.
//! - [`reading`]: the records of a topic, passed by without committing an offset.
//! - [`describe`]: [`Describer`], how topics and brokers are set up.
//!
//! Invariant: a ticket that [`Producer::send`] took comes back exactly once, as
//! [`Event::Acknowledged`] or [`Event::Failed`], unless the producer is closed before.

use std::fmt;

use crate::outbox::Record;

pub mod config;
pub mod describe;
pub mod error;
pub mod inbox;
pub mod limits;
pub mod producer;
pub mod properties;
pub mod reader;
pub mod reading;

pub use describe::Describer;
pub use inbox::Inbox;
pub use producer::{CreateError, Producer};
pub use reader::Reader;

/// One librdkafka property as a person set it.
#[derive(Clone, PartialEq, Eq)]
pub struct Property {
    /// librdkafka's name.
    pub name: String,
    /// Its value; may be a secret, see [`config::is_secret`].
    pub value: String,
}

/// Shows the value only when it is no secret.
impl fmt::Debug for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if config::is_secret(&self.name) { "***" } else { &self.value };
        write!(f, "{}={value}", self.name)
    }
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
    /// Other properties, in rising precedence; validated. One that names what a field above says
    /// (`bootstrap.servers`, `client.id`, `request.timeout.ms`) beats the field.
    pub properties: Vec<Property>,
}

impl Settings {
    /// The name that brokers know us by: `sasl.username`, with a mechanism that uses it.
    pub fn principal(&self) -> Option<&str> {
        let protocol = config::last(&self.properties, "security.protocol")?;
        let mechanism = config::last(&self.properties, "sasl.mechanism")?.to_ascii_uppercase();
        let named = mechanism == "PLAIN" || mechanism.starts_with("SCRAM-");
        if !protocol.to_ascii_lowercase().starts_with("sasl") || !named {
            return None;
        }
        config::last(&self.properties, "sasl.username").filter(|name| !name.is_empty())
    }
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
    /// The record, copied out of the report: topic, key, value and headers byte for byte. A report
    /// knows no event type, so `event_type` is empty; whoever holds the ticket knows it.
    pub record: Record,
}

/// What a failed record needs. One pure function decides: [`error::classify`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// A transport error: send again, no attempt used up.
    Transport,
    /// A person must act (rights, missing topic): the topic waits.
    Topic(TopicTrouble),
    /// This record will never be taken.
    Rejected(Rejection),
    /// Its timestamp is refused: it goes again alone with a new one, and that refused too, it will never
    /// be taken.
    Stale,
    /// Another record of its batch is at fault: it goes again alone.
    Neighbour,
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
    /// It was taken and failed at once; the inbox has its [`Event::Failed`].
    CameBack,
    /// It will never be taken.
    Rejected(Rejection, String),
    /// The producer is finished.
    Fatal(String),
}

//! A record between intake and the producer.

use crate::kafka::Ticket;
use crate::outbox::Record;

/// Names a topic within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TopicId(pub(super) u32);

/// A record on its way to the producer.
#[derive(Debug)]
pub(super) struct Queued {
    /// Its place in the ledger.
    pub(super) ticket: Ticket,
    /// Its topic.
    pub(super) topic: TopicId,
    /// What goes to Kafka.
    pub(super) record: Record,
}

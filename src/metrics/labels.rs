//! The label sets, all closed: a label never carries a key, an id or a payload, and no sender of
//! events can make the number of series grow without bound.

use std::collections::HashSet;

/// Stands for everything beyond a bound.
pub(super) const OTHER: &str = "other";

/// `retry_count` and `retry_attempt`: the last one stands for all later attempts.
pub(super) const ATTEMPTS: [&str; 10] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10+"];

/// `status` of a processed event.
pub(super) const PROCESSED: [&str; 3] = ["published", "parked", "rejected"];

/// `status` of an event on its way: waiting in a lane, or handed to Kafka and not acknowledged.
pub(super) const QUEUED: [&str; 2] = ["lane", "in_flight"];

/// `wal_status` of a slot, as `pg_replication_slots` names it.
pub(super) const WAL_STATUS: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];

/// The index in [`ATTEMPTS`] of the `attempt`-th resend, counted from 1; 0 counts as the first.
pub(super) fn attempt_index(attempt: u32) -> usize {
    usize::try_from(attempt).unwrap_or(usize::MAX).clamp(1, ATTEMPTS.len()) - 1
}

/// Why an event failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorType {
    /// Larger than its topic takes.
    TooLarge,
    /// Invalid for the broker.
    Invalid,
    /// The row cannot become a record.
    Unmappable,
    /// No right to write to the topic.
    Authorization,
    /// No such topic or partition.
    UnknownTopic,
    /// A transport error of a send or a delivery report.
    Transport,
    /// The producer is finished.
    Fatal,
}

impl ErrorType {
    /// Every member, in the order of the enum.
    pub const ALL: [Self; 7] = [
        Self::TooLarge,
        Self::Invalid,
        Self::Unmappable,
        Self::Authorization,
        Self::UnknownTopic,
        Self::Transport,
        Self::Fatal,
    ];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
            Self::Unmappable => "unmappable",
            Self::Authorization => "authorization",
            Self::UnknownTopic => "unknown_topic",
            Self::Transport => "transport",
            Self::Fatal => "fatal",
        }
    }
}

/// State of the circuit breaker, as metrics see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Records flow.
    Closed,
    /// A few records probe Kafka.
    HalfOpen,
    /// Nothing is handed to Kafka.
    Open,
}

impl BreakerState {
    /// Every transition there is; from open to closed leads only an order by hand.
    pub(super) const TRIPS: [(Self, Self); 5] = [
        (Self::Closed, Self::Open),
        (Self::Open, Self::HalfOpen),
        (Self::Open, Self::Closed),
        (Self::HalfOpen, Self::Closed),
        (Self::HalfOpen, Self::Open),
    ];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::HalfOpen => "HALF_OPEN",
            Self::Open => "OPEN",
        }
    }

    /// The gauge's value.
    pub(super) fn number(self) -> i64 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

/// What arrived and is left out on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// A row of a table that is not an outbox table.
    ForeignRow,
    /// An UPDATE, sent by a publication that is not ours.
    Update,
    /// A DELETE, sent by a publication that is not ours.
    Delete,
    /// A TRUNCATE, sent by a publication that is not ours.
    Truncate,
    /// A Stream Abort, which PostgreSQL 18 may send although streaming is off.
    StreamAbort,
    /// A tracing column that holds no trace context.
    TraceContext,
}

impl Ignored {
    /// Every member.
    pub const ALL: [Self; 6] =
        [Self::ForeignRow, Self::Update, Self::Delete, Self::Truncate, Self::StreamAbort, Self::TraceContext];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::ForeignRow => "foreign_row",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
            Self::StreamAbort => "stream_abort",
            Self::TraceContext => "trace_context",
        }
    }
}

/// The first names seen, up to a bound; later ones are [`OTHER`].
#[derive(Debug)]
pub(super) struct FirstSeen {
    names: HashSet<String>,
    most: usize,
}

impl FirstSeen {
    /// Keeps at most `most` names.
    pub(super) fn new(most: usize) -> Self {
        Self { names: HashSet::new(), most }
    }

    /// The label for `name`, and whether it was seen for the first time just now.
    pub(super) fn label<'a>(&mut self, name: &'a str) -> (&'a str, bool) {
        if name == OTHER || self.names.contains(name) {
            return (name, false);
        }
        if self.names.len() == self.most {
            return (OTHER, false);
        }
        self.names.insert(name.to_owned());
        (name, true)
    }
}

/// An event type as a label candidate: text of at most 40 characters, else [`OTHER`].
pub(super) fn event_type_text(event_type: &[u8]) -> &str {
    const MOST_CHARACTERS: usize = 40;
    match std::str::from_utf8(event_type) {
        Ok(text) if text.chars().nth(MOST_CHARACTERS).is_none() => text,
        _ => OTHER,
    }
}

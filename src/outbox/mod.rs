//! From a row of an outbox table to a [`Record`].
//!
//! A [`Mapper`] keeps one column plan per relation; a row becomes topic, key, value and headers,
//! all slices of the row's message. Values are never reformatted or cut, payloads never parsed.
//!
//! Invariant: the same row gives the same bytes on every replay, whether the stream is text or
//! binary.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

mod columns;
#[cfg(test)]
mod conformance;
mod datetime;
mod envelope;
#[cfg(test)]
mod golden;
mod headers;
mod mapper;
mod placement;
mod plan;
mod preset;
mod row;
mod table_name;
#[cfg(test)]
mod tests;
mod topic;
mod trace;
mod value;

pub use mapper::Mapper;
pub use placement::{Placement, PlacementError};
pub use preset::{Columns, Preset, PresetError};
pub use table_name::{TableName, TableNameError};
pub use topic::{check_topic_name, routed_topic};
pub use trace::TraceContext;
pub use value::{binary_safe, binary_safe_types};

/// What goes to Kafka for one row. The same row gives the same bytes on every replay.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Topic name.
    pub topic: Arc<str>,
    /// Kafka key.
    pub key: Bytes,
    /// Value; `None` is a record without value.
    pub payload: Option<Bytes>,
    /// Headers in order, `id` first.
    pub headers: Headers,
    /// The event's type, for metric labels.
    pub event_type: Bytes,
}

/// Headers of a record. Every record has `id`, most have no other, and it lies where the record is: a record waits long
/// enough for its memory to leave the cache, and what is elsewhere costs a miss of its own.
pub type Headers = SmallVec<[Header; 1]>;

/// One header.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// Name.
    pub name: Arc<str>,
    /// Value; `None` is a header without value.
    pub value: Option<Bytes>,
}

impl Record {
    /// Bytes of key, value and headers: what Kafka's size limits and our budget count.
    pub fn bytes(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|h| h.name.len() + h.value.as_ref().map_or(0, Bytes::len)).sum();
        self.key.len() + self.payload.as_ref().map_or(0, Bytes::len) + headers
    }

    /// The record with bytes of its own, so that a record that has to wait does not keep a whole
    /// receive buffer alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        let own = Bytes::copy_from_slice;
        Self {
            topic: Arc::clone(&self.topic),
            key: own(&self.key),
            payload: self.payload.as_deref().map(own),
            headers: self
                .headers
                .iter()
                .map(|h| Header { name: Arc::clone(&h.name), value: h.value.as_deref().map(own) })
                .collect(),
            event_type: own(&self.event_type),
        }
    }

    /// The value of the `id` header as text, for messages to people.
    pub fn id(&self) -> String {
        let id = self.headers.first().and_then(|h| h.value.as_deref()).unwrap_or_default();
        String::from_utf8_lossy(id).into_owned()
    }
}

/// Sizes instead of contents: a record must not end in a log.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("topic", &self.topic)
            .field("id", &self.id())
            .field("bytes", &self.bytes())
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// The value's size instead of the value: a record must not end in a log.
impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} ({} bytes)", self.name, value.len()),
            None => write!(f, "{} (no value)", self.name),
        }
    }
}

/// What is read and how it is shaped.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The outbox tables.
    pub tables: Vec<TableName>,
    /// Their preset.
    pub preset: Preset,
    /// Extra columns into headers.
    pub placement: Vec<Placement>,
    /// One topic for all events instead of one per aggregate type; `None` leaves it to the preset.
    pub fixed_topic: Option<String>,
}

/// A row that cannot become a record. It belongs to no topic and no key.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("row {id} of {table} cannot be mapped: {reason}")]
pub struct Unmappable {
    /// The table, as `schema.name`.
    pub table: String,
    /// The row's id as text, or "(no id)".
    pub id: String,
    /// Why, without any value but the id.
    pub reason: String,
    /// The row: column names with their values as Postgres prints them, `None` for NULL. A binary
    /// value of a type that has no printer is its bytes in hex, `\x…`.
    pub columns: Vec<(String, Option<String>)>,
}

impl Unmappable {
    /// Whether the row has an id.
    pub fn has_id(&self) -> bool {
        self.id != NO_ID
    }
}

/// Stands for the id of a row without one.
const NO_ID: &str = "(no id)";

/// The columns are left out: a row must not end in a log.
impl fmt::Debug for Unmappable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unmappable({self})")
    }
}

/// Why a row was not mapped. None of the texts holds a value but the row's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The row itself has no record: a matter for the policy on rejected records.
    #[error(transparent)]
    Unmappable(Box<Unmappable>),
    /// A value came in binary and its type can only be printed by Postgres. Nothing is wrong with
    /// the row: the stream has to start again from the slot, as text.
    #[error(
        "column {column} of table {table} has type {type_id}, which cannot be read in binary; the stream must be text"
    )]
    NeedsText {
        /// The table, as `schema.name`.
        table: String,
        /// The column.
        column: String,
        /// Its type's OID.
        type_id: u32,
    },
    /// The stream contradicts itself; going on could lose rows.
    #[error("{0}")]
    Broken(String),
}

/// A relation whose columns do not serve: nothing of it can be mapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(pub String);

/// What a row came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mapped {
    /// A record for Kafka.
    Record(Record),
    /// A record whose topic no broker accepts: a rejected record, which must not be produced but has
    /// topic and key, so that later ones of its key can follow it.
    InvalidTopic {
        /// The record.
        record: Record,
        /// What is wrong with the topic's name.
        reason: &'static str,
    },
    /// A row of a table that is not an outbox table.
    Foreign,
}

//! From a row of an outbox table to a [`Record`].
//!
//! A [`Mapper`] keeps one column plan per relation; a row becomes topic, key, value and headers,
//! all slices of the row's frame. Values are never parsed, reformatted or cut.

mod columns;

use std::sync::Arc;

use bytes::Bytes;

use crate::pgoutput::{Relation, Tuple};

/// What goes to Kafka for one row. The same row gives the same bytes on every replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Topic name.
    pub topic: Arc<str>,
    /// Kafka key.
    pub key: Bytes,
    /// Value; `None` is a record without value.
    pub payload: Option<Bytes>,
    /// Headers in order, `id` first.
    pub headers: Vec<Header>,
    /// The event's type, for metric labels.
    pub event_type: Bytes,
}

/// One header.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// A table's name, resolved by SQL's rules: unquoted folds to lower case, unqualified means `public`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// Schema, unquoted.
    pub schema: String,
    /// Table, unquoted.
    pub name: String,
}

/// Column mapping and record shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preset {
    /// Debezium's outbox event router.
    #[default]
    Debezium,
    /// The polling ancestor's table and envelope.
    Txstream,
}

/// One entry of `OUTBOX_PLACEMENT`: a column that becomes a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Column name.
    pub column: String,
    /// Header name.
    pub header: String,
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
    /// One topic for all events instead of one per aggregate type.
    pub fixed_topic: Option<String>,
}

/// A row that cannot become a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row {id} of {table} cannot be mapped: {reason}")]
pub struct Unmappable {
    /// The table, as `schema.name`.
    pub table: String,
    /// The row's id as text, or "(no id)".
    pub id: String,
    /// Why, without any value but the id.
    pub reason: String,
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
    /// A row of a table that is not an outbox table.
    Foreign,
}

/// Maps rows by the plan of their relation.
#[derive(Debug)]
pub struct Mapper(());

impl Mapper {
    /// A mapper without any relation yet.
    pub fn new(_settings: Settings) -> Self {
        todo!("outbox package")
    }

    /// Learns a relation, replacing what was known of its id.
    ///
    /// # Errors
    /// [`PlanError`] when an outbox table lacks a column that the preset or a placement needs.
    pub fn relation(&mut self, _relation: &Relation) -> Result<(), PlanError> {
        todo!("outbox package")
    }

    /// Maps one inserted row.
    ///
    /// # Errors
    /// [`Unmappable`] when the row has no record, such as a NULL aggregate.
    pub fn map(&mut self, _relation_id: u32, _row: &Tuple) -> Result<Mapped, Unmappable> {
        todo!("outbox package")
    }
}

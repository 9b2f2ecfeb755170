//! The output of the `pgoutput` plugin, protocol version 1, decoded without copying.
//!
//! [`decode`] turns one message's bytes into a [`Message`] or says what is wrong with them; it never
//! panics and never allocates more than the message's own size. A row is checked once, as a whole,
//! and then is a [`Tuple`] whose values are slices of the message.
//!
//! Knows nothing of connections or outbox tables.

use bytes::Bytes;

use crate::postgres::Lsn;

mod decode;
#[cfg(test)]
mod encode;
#[cfg(test)]
mod tests;
mod tuple;

pub use decode::decode;
pub(crate) use tuple::{Format, Span};
pub use tuple::{Tuple, Value};

/// One message of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// A committed transaction begins.
    Begin {
        /// LSN of its commit record.
        final_lsn: Lsn,
        /// Commit time, µs since 2000-01-01 UTC.
        commit_time: i64,
        /// Transaction id.
        xid: u32,
    },
    /// It ends.
    Commit {
        /// LSN of the commit record.
        commit_lsn: Lsn,
        /// LSN behind it: the only position of a transaction that may be confirmed.
        end_lsn: Lsn,
        /// Commit time, µs since 2000-01-01 UTC.
        commit_time: i64,
    },
    /// The transaction was replicated here from another server.
    Origin {
        /// LSN of the commit on that server.
        commit_lsn: Lsn,
        /// The origin's name.
        name: String,
    },
    /// A table and its columns; sent before its first row and after changes.
    Relation(Relation),
    /// A type that is not built in; sent before a [`Relation`] that uses it.
    Type {
        /// The type's OID.
        id: u32,
        /// Schema.
        namespace: String,
        /// Type name.
        name: String,
    },
    /// A row.
    Insert {
        /// The [`Relation`] it belongs to.
        relation_id: u32,
        /// Its values.
        row: Tuple,
    },
    /// A row changed. Only counted, so its values are checked and dropped.
    Update {
        /// The [`Relation`] it belongs to.
        relation_id: u32,
    },
    /// A row was deleted. Only counted, so its values are checked and dropped.
    Delete {
        /// The [`Relation`] it belongs to.
        relation_id: u32,
    },
    /// Tables were emptied.
    Truncate {
        /// Their [`Relation`]s.
        relation_ids: Vec<u32>,
    },
    /// A message written by `pg_logical_emit_message`.
    Logical {
        /// Whether it belongs to the open transaction; if not, it stands outside of any.
        transactional: bool,
        /// LSN of the message.
        lsn: Lsn,
        /// Its prefix.
        prefix: String,
        /// Its content.
        content: Bytes,
    },
    /// PostgreSQL 18 may send this although protocol 1 has no streamed transactions; it concerns
    /// nothing that was sent and is only counted.
    StreamAbort {
        /// Transaction id.
        xid: u32,
        /// Subtransaction id; equals `xid` when the whole transaction was aborted.
        subxid: u32,
    },
}

/// A table as the publication shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The table's OID, of the root where published via the root.
    pub id: u32,
    /// Schema; the message's empty one is resolved to `pg_catalog`.
    pub namespace: String,
    /// Table name, unquoted.
    pub name: String,
    /// Published columns in order.
    pub columns: Vec<RelationColumn>,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    /// Name, unquoted.
    pub name: String,
    /// Type OID.
    pub type_id: u32,
    /// Type modifier.
    pub type_modifier: i32,
}

/// Bytes that are not pgoutput protocol 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

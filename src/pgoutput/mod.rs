//! The output of the `pgoutput` plugin, protocol version 1, decoded without copying.
//!
//! Knows nothing of connections or outbox tables.

use bytes::Bytes;

use crate::postgres::Lsn;

/// One message of the plugin.
#[derive(Debug, Clone, PartialEq)]
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
    /// A table and its columns; sent before its first row and after changes.
    Relation(Relation),
    /// A row.
    Insert {
        /// The [`Relation`] it belongs to.
        relation_id: u32,
        /// Its values.
        row: Tuple,
    },
}

/// A table as the publication shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The table's OID, of the root where published via the root.
    pub id: u32,
    /// Schema; empty in the message means `pg_catalog`.
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

/// A row's values: slices of the frame, found by walking it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuple {
    /// Number of columns.
    pub columns: u16,
    /// The columns' bytes, validated when decoded.
    pub body: Bytes,
}

/// One value of a [`Tuple`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL.
    Null,
    /// A TOASTed value that did not change: never valid in an insert.
    Unchanged,
    /// As Postgres prints it.
    Text(Bytes),
    /// As the type's send function writes it.
    Binary(Bytes),
}

/// Bytes that are not pgoutput protocol 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// Decodes one message.
///
/// # Errors
/// [`DecodeError`] for anything that protocol 1 does not allow, trailing bytes included.
pub fn decode(_body: Bytes) -> Result<Message, DecodeError> {
    todo!("pgoutput package")
}

//! A column as the catalog has it, and the types that the writer knows.

/// A column of a table in the database.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) type_id: u32,
    /// It is never NULL and has no default: an insert must name it.
    pub(super) must_be_given: bool,
}

pub(super) const UUID: u32 = 2950;
pub(super) const TEXT: u32 = 25;
pub(super) const VARCHAR: u32 = 1043;
pub(super) const JSON: u32 = 114;
pub(super) const JSONB: u32 = 3802;
pub(super) const BYTEA: u32 = 17;
pub(super) const TIMESTAMP: u32 = 1114;
pub(super) const TIMESTAMPTZ: u32 = 1184;
pub(super) const NUMERIC: u32 = 1700;

//! The value that preset `txstream` writes: a JSON object around the event.

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::IgnoredAny;

use super::MapError;
use super::datetime::rfc3339;
use super::row::Row;
use super::value::Kind;

/// What an envelope is made of: columns read already, and positions of others.
pub(super) struct Parts<'a> {
    pub(super) id: &'a [u8],
    pub(super) aggregate_id: &'a [u8],
    pub(super) aggregate_type: &'a [u8],
    pub(super) event_type: &'a [u8],
    pub(super) created_at: usize,
    pub(super) metadata: Option<usize>,
}

/// The bytes around the members' values, escapes aside; only a first guess.
const FRAME_BYTES: usize = 192;

/// Writes the envelope, its members always in the same order. Event and metadata go in byte for byte;
/// a NULL event is `null`, NULL metadata is left out.
///
/// # Errors
/// [`MapError::Unmappable`] when a member has no JSON form.
pub(super) fn write(row: &mut Row<'_>, parts: &Parts<'_>) -> Result<Bytes, MapError> {
    let created_at = row.required(parts.created_at)?;
    let created_at = std::str::from_utf8(&created_at).ok().and_then(rfc3339);
    let created_at = created_at.ok_or_else(|| row.unmappable("created_at has no RFC 3339 form"))?;
    let data = json(row, row.plan.payload)?;
    let metadata = parts.metadata.map(|column| json(row, column)).transpose()?.flatten();

    let texts = [parts.id, parts.aggregate_id, parts.aggregate_type, parts.event_type];
    let mut length: usize = FRAME_BYTES + texts.iter().map(|text| text.len()).sum::<usize>();
    length += [&data, &metadata].into_iter().flatten().map(Bytes::len).sum::<usize>();
    let mut out = BytesMut::with_capacity(length);
    let names = ["event_id", "aggregate_id", "aggregate_type", "event_type"];
    let mut separator = b'{';
    for (name, value) in names.into_iter().zip(texts) {
        out.put_u8(separator);
        separator = b',';
        out.put_u8(b'"');
        out.put_slice(name.as_bytes());
        out.put_slice(b"\":");
        string(&mut out, value)
            .ok_or_else(|| row.unmappable(&format!("the envelope's {name} is not UTF-8")))?;
    }
    out.put_slice(b",\"event_data\":");
    out.put_slice(data.as_deref().unwrap_or(b"null"));
    out.put_slice(b",\"created_at\":\"");
    out.put_slice(created_at.as_bytes());
    out.put_u8(b'"');
    if let Some(metadata) = metadata {
        out.put_slice(b",\"event_metadata\":");
        out.put_slice(&metadata);
    }
    out.put_u8(b'}');
    Ok(out.freeze())
}

/// A column's JSON text; a column that is not of a JSON type must hold JSON all the same.
fn json(row: &mut Row<'_>, column: usize) -> Result<Option<Bytes>, MapError> {
    let Some(text) = row.value(column)? else { return Ok(None) };
    let is_json = |text: &[u8]| {
        std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
    };
    match row.kind(column) {
        Kind::Json | Kind::Jsonb => Ok(Some(text)),
        _ if is_json(&text) => Ok(Some(text)),
        _ => Err(row.unmappable(&format!("{} is not JSON", row.name(column)))),
    }
}

/// A JSON string; `None` if the bytes are not UTF-8.
fn string(out: &mut BytesMut, text: &[u8]) -> Option<()> {
    let text = std::str::from_utf8(text).ok()?;
    serde_json::to_writer(out.writer(), text).ok()
}

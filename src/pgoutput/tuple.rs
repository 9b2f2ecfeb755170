//! A row: checked once, then walked without a way to fail.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::DecodeError;

/// A row's values: slices of the message, found by walking it.
///
/// Invariant: `body` holds exactly `columns` well-formed columns. Only `split` and
/// [`Tuple::from_values`] make one, and both see to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Tuple {
    columns: u16,
    body: Bytes,
}

/// One value of a [`Tuple`].
#[derive(Clone, PartialEq, Eq)]
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

/// How a column's bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Null,
    Unchanged,
    Text,
    Binary,
}

/// Where a column's bytes lie in its tuple; for [`Tuple::bytes`] of that tuple only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) format: Format,
    start: usize,
    end: usize,
}

impl Tuple {
    /// Number of columns.
    pub fn columns(&self) -> u16 {
        self.columns
    }

    /// The values in order, each a slice of the message.
    pub fn values(&self) -> impl Iterator<Item = Value> + '_ {
        self.spans().map(|span| match span.format {
            Format::Null => Value::Null,
            Format::Unchanged => Value::Unchanged,
            Format::Text => Value::Text(self.keep(self.bytes(span))),
            Format::Binary => Value::Binary(self.keep(self.bytes(span))),
        })
    }

    /// Where the values lie, in order: for callers that need few of them.
    #[inline]
    pub(crate) fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            // The tuple was checked when it was made, so `None` means its end.
            let span = next_span(&self.body, at)?;
            at = span.end;
            Some(span)
        })
    }

    /// The bytes of one of this tuple's columns.
    #[inline]
    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        &self.body[span.start..span.end]
    }

    /// A part of [`Tuple::bytes`] that outlives the tuple, without being copied.
    #[inline]
    pub(crate) fn keep(&self, part: &[u8]) -> Bytes {
        self.body.slice_ref(part)
    }

    /// A row made of values that did not come from the plugin, such as those of a query.
    ///
    /// # Errors
    /// [`DecodeError`] for more than 65,535 values or one of 4 GiB and more.
    pub fn from_values(values: &[Value]) -> Result<Self, DecodeError> {
        let columns = u16::try_from(values.len())
            .map_err(|_| DecodeError(format!("a row of {} columns was to be built", values.len())))?;
        let mut body = BytesMut::new();
        for value in values {
            let (tag, bytes) = match value {
                Value::Null => (b'n', None),
                Value::Unchanged => (b'u', None),
                Value::Text(bytes) => (b't', Some(bytes)),
                Value::Binary(bytes) => (b'b', Some(bytes)),
            };
            body.put_u8(tag);
            if let Some(bytes) = bytes {
                let length = u32::try_from(bytes.len())
                    .map_err(|_| DecodeError(format!("a value of {} bytes was to be built", bytes.len())))?;
                body.put_u32(length);
                body.put_slice(bytes);
            }
        }
        Ok(Self { columns, body: body.freeze() })
    }

    /// Makes the tuple that [`measure`] found at the start of `body`; what follows it is dropped.
    pub(super) fn split(mut body: Bytes, measured: Measured) -> Self {
        // In place, so that the one reference is moved and not counted up and down.
        bytes::Buf::advance(&mut body, COUNT_BYTES);
        body.truncate(measured.bytes - COUNT_BYTES);
        Self { columns: measured.columns, body }
    }

    /// The columns as they stand in a message, without their count.
    #[cfg(test)]
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }
}

/// The number of columns stands before them.
const COUNT_BYTES: usize = 2;

/// The proven extent of a tuple.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    columns: u16,
    /// Its bytes, the count included.
    pub(super) bytes: usize,
}

/// Walks the tuple at the start of `bytes` and says where it ends.
pub(super) fn measure(bytes: &[u8], what: &str) -> Result<Measured, DecodeError> {
    let Some((count, body)) = bytes.split_first_chunk::<COUNT_BYTES>() else {
        return Err(DecodeError(format!("{what}: the message ends before the number of columns")));
    };
    let columns = u16::from_be_bytes(*count);
    let mut at = 0;
    for column in 0..columns {
        match next_span(body, at) {
            Some(span) => at = span.end,
            None => return Err(broken_column(body, at, column, what)),
        }
    }
    Ok(Measured { columns, bytes: COUNT_BYTES + at })
}

/// The column that begins at `at`, `None` if there is no well-formed one.
#[inline]
fn next_span(body: &[u8], at: usize) -> Option<Span> {
    let (tag, rest) = body.get(at..)?.split_first()?;
    let format = match tag {
        b'n' => return Some(Span { format: Format::Null, start: at + 1, end: at + 1 }),
        b'u' => return Some(Span { format: Format::Unchanged, start: at + 1, end: at + 1 }),
        b't' => Format::Text,
        b'b' => Format::Binary,
        _ => return None,
    };
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    (length <= rest.len()).then(|| Span { format, start: at + 5, end: at + 5 + length })
}

#[cold]
fn broken_column(body: &[u8], at: usize, column: u16, what: &str) -> DecodeError {
    let number = u32::from(column) + 1;
    let reason = match body.get(at) {
        None => "is missing",
        Some(b't' | b'b') => "is longer than the message",
        Some(_) => "has an unknown format",
    };
    DecodeError(format!("{what}: column {number} {reason}"))
}

/// Never the values: a row must not end in a log.
impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tuple({} columns, {} bytes)", self.columns, self.body.len())
    }
}

/// Never the value: a row must not end in a log.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Unchanged => f.write_str("Unchanged"),
            Self::Text(bytes) => write!(f, "Text({} bytes)", bytes.len()),
            Self::Binary(bytes) => write!(f, "Binary({} bytes)", bytes.len()),
        }
    }
}

//! A value as Postgres prints it, from either form in which the plugin sends it.
//!
//! A record must have the same bytes in text and in binary mode, so every type that may come in
//! binary has its printer here, exact to the byte; a type without one must be asked for as text.

use std::fmt::{self, Write as _};
use std::ops::Deref;

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::datetime;
use crate::pgoutput::Format;

/// How values of a type are printed. Numbers are the types' OIDs in `pg_type`, which never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Bytea,
    Int2,
    Int4,
    Int8,
    Oid,
    Json,
    Jsonb,
    /// `text`, `varchar`, `bpchar`, `name`: both forms are the same bytes.
    Text,
    Date,
    Timestamp,
    Timestamptz,
    Uuid,
    /// Printed by Postgres alone.
    Other,
}

impl Kind {
    pub(super) fn of(type_id: u32) -> Self {
        match type_id {
            16 => Self::Bool,
            17 => Self::Bytea,
            20 => Self::Int8,
            21 => Self::Int2,
            23 => Self::Int4,
            26 => Self::Oid,
            114 => Self::Json,
            19 | 25 | 1042 | 1043 => Self::Text,
            1082 => Self::Date,
            1114 => Self::Timestamp,
            1184 => Self::Timestamptz,
            2950 => Self::Uuid,
            3802 => Self::Jsonb,
            _ => Self::Other,
        }
    }

    pub(super) fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonb)
    }
}

/// Whether a column of this type (OID) that is read may be asked for in binary: whether its binary
/// form can be printed exactly as Postgres prints the value.
pub fn binary_safe(type_id: u32) -> bool {
    Kind::of(type_id) != Kind::Other
}

/// Whether all of these types (OIDs) are [`binary_safe`]; if not, the stream has to be text.
pub fn binary_safe_types(type_ids: &[u32]) -> bool {
    type_ids.iter().all(|type_id| binary_safe(*type_id))
}

/// Why a value has no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unprintable {
    /// Binary, of a type without a printer.
    UnknownType,
    /// The bytes are not what the type's output or send function writes.
    Malformed,
}

/// A value as it goes into a record. Without `Debug`: a value must not end in a log.
pub(super) enum Printed<'a> {
    /// What came, or a part of it: most values are text in either form.
    Part(&'a [u8]),
    /// Made anew.
    Text(Bytes),
}

impl Deref for Printed<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Part(part) => part,
            Self::Text(text) => text,
        }
    }
}

/// Printed texts are carved from blocks of this size: large enough that a block serves some hundred
/// rows, small enough that a waiting record which holds one costs little.
const BLOCK_BYTES: usize = 8 * 1024;

/// Prints values without an allocation for each.
pub(super) struct Printer {
    block: BytesMut,
    text: String,
}

impl Printer {
    pub(super) fn new() -> Self {
        Self { block: BytesMut::with_capacity(BLOCK_BYTES), text: String::new() }
    }

    /// The value as it goes into a record: as Postgres prints it, but `bytea` raw.
    #[inline(always)]
    pub(super) fn print<'a>(
        &mut self,
        kind: Kind,
        format: Format,
        value: &'a [u8],
    ) -> Result<Printed<'a>, Unprintable> {
        match (format, kind) {
            (Format::Binary, Kind::Text | Kind::Json | Kind::Bytea) => Ok(Printed::Part(value)),
            // Version 1 is the text that Postgres prints behind the version's byte.
            (Format::Binary, Kind::Jsonb) => {
                value.strip_prefix(b"\x01").map(Printed::Part).ok_or(Unprintable::Malformed)
            }
            (Format::Binary, _) => self.print_binary(kind, value).map(Printed::Text),
            (_, Kind::Bytea) => self.undo_hex(value).map(Printed::Text),
            _ => Ok(Printed::Part(value)),
        }
    }

    fn print_binary(&mut self, kind: Kind, value: &[u8]) -> Result<Bytes, Unprintable> {
        // Every row has one.
        if kind == Kind::Uuid {
            let uuid = Uuid::from_bytes(array(value)?);
            return Ok(self.carve(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes()));
        }
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let written = write_text(&mut text, kind, value);
        let printed = written.map(|()| self.carve(text.as_bytes()));
        self.text = text;
        printed
    }

    /// The bytes of a `bytea` printed with `bytea_output = hex`.
    fn undo_hex(&mut self, text: &[u8]) -> Result<Bytes, Unprintable> {
        let digits = text.strip_prefix(b"\\x").ok_or(Unprintable::Malformed)?;
        let (pairs, []) = digits.as_chunks::<2>() else { return Err(Unprintable::Malformed) };
        self.block.reserve(pairs.len());
        for [high, low] in pairs {
            match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => self.block.put_u8(high << 4 | low),
                _ => {
                    self.block.clear();
                    return Err(Unprintable::Malformed);
                }
            }
        }
        Ok(self.block.split().freeze())
    }

    /// A copy of `text` in the current block.
    pub(super) fn carve(&mut self, text: &[u8]) -> Bytes {
        self.block.reserve(text.len());
        self.block.put_slice(text);
        self.block.split().freeze()
    }
}

/// Never the block: a value must not end in a log.
impl fmt::Debug for Printer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Printer").finish_non_exhaustive()
    }
}

/// The value as a person may keep it: as Postgres prints it, `bytea` and what has no printer in hex.
pub(super) fn for_people(kind: Kind, format: Format, value: &[u8]) -> String {
    let raw = match (kind, format) {
        (_, Format::Text) => Ok(Printed::Part(value)),
        (Kind::Bytea, _) => Err(Unprintable::UnknownType),
        _ => Printer::new().print(kind, format, value),
    };
    match raw {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => value.iter().fold("\\x".to_owned(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
    }
}

/// What its binary form is not the text of.
fn write_text(out: &mut String, kind: Kind, value: &[u8]) -> Result<(), Unprintable> {
    match kind {
        Kind::Bool => out.push(match array(value)? {
            [0] => 'f',
            [1] => 't',
            [_] => return Err(Unprintable::Malformed),
        }),
        Kind::Int2 => integer(out, i16::from_be_bytes(array(value)?)),
        Kind::Int4 => integer(out, i32::from_be_bytes(array(value)?)),
        Kind::Int8 => integer(out, i64::from_be_bytes(array(value)?)),
        Kind::Oid => integer(out, u32::from_be_bytes(array(value)?)),
        Kind::Date => datetime::date(out, i32::from_be_bytes(array(value)?)),
        Kind::Timestamp => datetime::timestamp(out, i64::from_be_bytes(array(value)?), false),
        Kind::Timestamptz => datetime::timestamp(out, i64::from_be_bytes(array(value)?), true),
        Kind::Uuid | Kind::Text | Kind::Json | Kind::Jsonb | Kind::Bytea | Kind::Other => {
            return Err(Unprintable::UnknownType);
        }
    }
    Ok(())
}

fn integer(out: &mut String, number: impl fmt::Display) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{number}");
}

fn array<const N: usize>(value: &[u8]) -> Result<[u8; N], Unprintable> {
    value.try_into().map_err(|_| Unprintable::Malformed)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_BYTES, Format, Kind, Printer, Unprintable, binary_safe_types};

    fn print(kind: Kind, format: Format, value: &[u8]) -> Result<Vec<u8>, Unprintable> {
        Printer::new().print(kind, format, value).map(|printed| printed.to_vec())
    }

    #[test]
    fn binary_values_print_as_postgres_prints_them() {
        for (kind, binary, text) in [
            (Kind::Bool, &b"\x01"[..], &b"t"[..]),
            (Kind::Bool, b"\0", b"f"),
            (Kind::Int2, b"\xff\xff", b"-1"),
            (Kind::Int4, b"\x80\0\0\0", b"-2147483648"),
            (Kind::Int8, b"\x7f\xff\xff\xff\xff\xff\xff\xff", b"9223372036854775807"),
            (Kind::Oid, b"\xff\xff\xff\xff", b"4294967295"),
            (Kind::Text, b" \xc3\xa4 ", b" \xc3\xa4 "),
            (Kind::Json, b" {}", b" {}"),
            (Kind::Jsonb, b"\x01{}", b"{}"),
            (Kind::Bytea, b"\0\xff", b"\0\xff"),
            (Kind::Date, b"\0\0\0\x3b", b"2000-02-29"),
            (Kind::Timestamptz, b"\0\0\0\0\0\0\0\0", b"2000-01-01 00:00:00+00"),
            (
                Kind::Uuid,
                b"\x01\x23\x45\x67\x89\xab\xcd\xef\0\0\0\0\0\0\0\x01",
                b"01234567-89ab-cdef-0000-000000000001",
            ),
        ] {
            assert_eq!(print(kind, Format::Binary, binary).unwrap(), text, "{kind:?}");
        }
    }

    #[test]
    fn text_is_taken_as_it_is_but_bytea_is_raw() {
        assert_eq!(print(Kind::Other, Format::Text, b"(1,2)").unwrap(), b"(1,2)");
        assert_eq!(print(Kind::Bytea, Format::Text, b"\\x00fF").unwrap(), b"\0\xff"[..]);
        assert_eq!(print(Kind::Bytea, Format::Text, b"\\x").unwrap(), b"");
    }

    #[test]
    fn what_cannot_be_printed_is_an_error() {
        assert_eq!(print(Kind::Other, Format::Binary, b"x"), Err(Unprintable::UnknownType));
        for (kind, format, value) in [
            (Kind::Bool, Format::Binary, &b"\x02"[..]),
            (Kind::Bool, Format::Binary, b""),
            (Kind::Int4, Format::Binary, b"\0\0"),
            (Kind::Uuid, Format::Binary, b"short"),
            (Kind::Jsonb, Format::Binary, b"\x02{}"),
            (Kind::Jsonb, Format::Binary, b""),
            (Kind::Bytea, Format::Text, b"abc"),
            (Kind::Bytea, Format::Text, b"\\x0"),
            (Kind::Bytea, Format::Text, b"\\x0g"),
        ] {
            assert_eq!(print(kind, format, value), Err(Unprintable::Malformed), "{kind:?} {value:?}");
        }
    }

    #[test]
    fn a_failed_value_leaves_nothing_for_the_next() {
        let mut printer = Printer::new();
        assert!(printer.print(Kind::Bytea, Format::Text, b"\\x0102zz").is_err());
        assert_eq!(printer.carve(b"next"), "next");
    }

    #[test]
    fn printed_texts_share_a_block() {
        let mut printer = Printer::new();
        let (first, second) = (printer.carve(&[1; 36]), printer.carve(&[2; 36]));
        assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, 36);
        let large = printer.carve(&vec![3; BLOCK_BYTES * 3]);
        assert_eq!((&first[..], &second[..], large.len()), (&[1; 36][..], &[2; 36][..], BLOCK_BYTES * 3));
    }

    #[test]
    fn a_stream_is_binary_only_if_every_type_has_a_printer() {
        assert!(binary_safe_types(&[2950, 1043, 3802, 1114]));
        assert!(!binary_safe_types(&[2950, 1700]));
    }
}

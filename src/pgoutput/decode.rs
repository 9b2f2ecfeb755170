//! Bytes into messages. The layout is the manual's "Logical Replication Message Formats".

use bytes::{Buf, Bytes};

use super::tuple::{self, Tuple};
use super::{DecodeError, Message, Relation, RelationColumn};
use crate::postgres::Lsn;

/// An insert's tag, relation id and the tag of its tuple.
const INSERT_HEAD_BYTES: usize = 6;

/// Decodes one message.
///
/// # Errors
/// [`DecodeError`] for anything that protocol 1 does not allow, trailing bytes included.
pub fn decode(body: Bytes) -> Result<Message, DecodeError> {
    let Some((&tag, rest)) = body.split_first() else {
        return Err(DecodeError("an empty message came".to_owned()));
    };
    if tag == b'I' {
        return insert(body);
    }
    let mut reader = Reader { what: name(tag), rest };
    let message = match tag {
        b'B' => Message::Begin { final_lsn: reader.lsn()?, commit_time: reader.i64()?, xid: reader.u32()? },
        b'C' => commit(&mut reader)?,
        b'O' => Message::Origin { commit_lsn: reader.lsn()?, name: reader.text()? },
        b'R' => Message::Relation(relation(&mut reader)?),
        b'Y' => Message::Type { id: reader.u32()?, namespace: reader.namespace()?, name: reader.text()? },
        b'U' => update(&mut reader)?,
        b'D' => delete(&mut reader)?,
        b'T' => truncate(&mut reader)?,
        b'M' => logical(&mut reader, &body)?,
        b'A' => stream_abort(&mut reader)?,
        _ => return Err(unknown(tag)),
    };
    reader.finish()?;
    Ok(message)
}

/// The hot path: one walk over the row, no allocation, no reference counted.
fn insert(mut body: Bytes) -> Result<Message, DecodeError> {
    let Some((head, rest)) = body.split_first_chunk::<INSERT_HEAD_BYTES>() else {
        return Err(DecodeError("Insert: the message ends too early".to_owned()));
    };
    let [_, id @ .., kind] = *head;
    if kind != b'N' {
        return Err(DecodeError(format!(
            "Insert: a tuple of kind 0x{kind:02x} came, a new row was expected"
        )));
    }
    let measured = tuple::measure(rest, "Insert")?;
    Reader { what: "Insert", rest: rest.get(measured.bytes..).unwrap_or_default() }.finish()?;
    body.advance(INSERT_HEAD_BYTES);
    Ok(Message::Insert { relation_id: u32::from_be_bytes(id), row: Tuple::split(body, measured) })
}

fn commit(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let flags = reader.u8()?;
    if flags != 0 {
        return Err(reader.error(&format!("flags 0x{flags:02x} are unknown")));
    }
    Ok(Message::Commit { commit_lsn: reader.lsn()?, end_lsn: reader.lsn()?, commit_time: reader.i64()? })
}

fn relation(reader: &mut Reader<'_>) -> Result<Relation, DecodeError> {
    let id = reader.u32()?;
    let namespace = reader.namespace()?;
    let name = reader.text()?;
    let _replica_identity = reader.u8()?;
    let count = usize::from(reader.u16()?);
    // Flags, an empty name's end, type and modifier: a column is 10 bytes or more, so that a count
    // the message cannot hold is refused before anything is allocated for it.
    if count > reader.rest.len() / 10 {
        return Err(reader.error(&format!("{count} columns do not fit into the message")));
    }
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let _flags = reader.u8()?;
        columns.push(RelationColumn {
            name: reader.text()?,
            type_id: reader.u32()?,
            type_modifier: reader.i32()?,
        });
    }
    Ok(Relation { id, namespace, name, columns })
}

fn update(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let relation_id = reader.u32()?;
    let mut kind = reader.u8()?;
    if matches!(kind, b'K' | b'O') {
        reader.skip_tuple()?;
        kind = reader.u8()?;
    }
    if kind != b'N' {
        return Err(reader.error(&format!("a tuple of kind 0x{kind:02x} came, a new row was expected")));
    }
    reader.skip_tuple()?;
    Ok(Message::Update { relation_id })
}

fn delete(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let relation_id = reader.u32()?;
    let kind = reader.u8()?;
    if !matches!(kind, b'K' | b'O') {
        return Err(
            reader.error(&format!("a tuple of kind 0x{kind:02x} came, a key or old row was expected"))
        );
    }
    reader.skip_tuple()?;
    Ok(Message::Delete { relation_id })
}

fn truncate(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let count = reader.u32()? as usize;
    let _options = reader.u8()?;
    if count > reader.rest.len() / 4 {
        return Err(reader.error(&format!("{count} relations do not fit into the message")));
    }
    let relation_ids = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
    Ok(Message::Truncate { relation_ids })
}

fn logical(reader: &mut Reader<'_>, body: &Bytes) -> Result<Message, DecodeError> {
    let transactional = match reader.u8()? {
        0 => false,
        1 => true,
        flags => return Err(reader.error(&format!("flags 0x{flags:02x} are unknown"))),
    };
    let lsn = reader.lsn()?;
    let prefix = reader.text()?;
    let length = reader.u32()? as usize;
    let content = body.slice_ref(reader.bytes(length)?);
    Ok(Message::Logical { transactional, lsn, prefix, content })
}

fn stream_abort(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let message = Message::StreamAbort { xid: reader.u32()?, subxid: reader.u32()? };
    if !reader.rest.is_empty() {
        // Since 16 the abort's LSN and time may follow.
        let _lsn = reader.lsn()?;
        let _time = reader.i64()?;
    }
    Ok(message)
}

fn name(tag: u8) -> &'static str {
    match tag {
        b'B' => "Begin",
        b'C' => "Commit",
        b'O' => "Origin",
        b'R' => "Relation",
        b'Y' => "Type",
        b'U' => "Update",
        b'D' => "Delete",
        b'T' => "Truncate",
        b'M' => "Message",
        b'A' => "Stream Abort",
        b'S' => "Stream Start",
        b'E' => "Stream Stop",
        b'c' => "Stream Commit",
        b'b' => "Begin Prepare",
        b'P' => "Prepare",
        b'K' => "Commit Prepared",
        b'r' => "Rollback Prepared",
        b'p' => "Stream Prepare",
        _ => "unknown",
    }
}

#[cold]
fn unknown(tag: u8) -> DecodeError {
    DecodeError(match name(tag) {
        "unknown" => format!("a message with the unknown tag 0x{tag:02x} came"),
        name => format!("a {name} message came, which protocol 1 does not have"),
    })
}

/// Walks a message; every step fails rather than passes its end.
struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.too_short())?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        self.array().map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.too_short())?;
        self.rest = rest;
        Ok(head)
    }

    /// A name: UTF-8 up to a zero byte.
    fn text(&mut self) -> Result<String, DecodeError> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.too_short())?;
        let bytes = self.bytes(end)?;
        let _zero = self.u8()?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.error("a name is not UTF-8")),
        }
    }

    /// A schema; the plugin writes `pg_catalog` as nothing.
    fn namespace(&mut self) -> Result<String, DecodeError> {
        let name = self.text()?;
        Ok(if name.is_empty() { "pg_catalog".to_owned() } else { name })
    }

    fn skip_tuple(&mut self) -> Result<(), DecodeError> {
        let measured = tuple::measure(self.rest, self.what)?;
        self.bytes(measured.bytes).map(|_| ())
    }

    fn finish(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(self.error(&format!("{left} bytes are left over"))),
        }
    }

    #[cold]
    fn too_short(&self) -> DecodeError {
        self.error("the message ends too early")
    }

    #[cold]
    fn error(&self, reason: &str) -> DecodeError {
        DecodeError(format!("{}: {reason}", self.what))
    }
}

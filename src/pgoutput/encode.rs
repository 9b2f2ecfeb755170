//! Messages into bytes, as the plugin writes them; for tests.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Message, Relation, Tuple};

/// Encodes one message. What decoding drops (keys, flags, old rows) is made up.
pub(crate) fn encode(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    match message {
        Message::Begin { final_lsn, commit_time, xid } => {
            out.put_u8(b'B');
            out.put_u64(final_lsn.0);
            out.put_i64(*commit_time);
            out.put_u32(*xid);
        }
        Message::Commit { commit_lsn, end_lsn, commit_time } => {
            out.put_slice(b"C\0");
            out.put_u64(commit_lsn.0);
            out.put_u64(end_lsn.0);
            out.put_i64(*commit_time);
        }
        Message::Origin { commit_lsn, name } => {
            out.put_u8(b'O');
            out.put_u64(commit_lsn.0);
            text(&mut out, name);
        }
        Message::Relation(relation) => encode_relation(&mut out, relation),
        Message::Type { id, namespace, name } => {
            out.put_u8(b'Y');
            out.put_u32(*id);
            text(&mut out, namespace);
            text(&mut out, name);
        }
        Message::Insert { relation_id, row } => {
            out.put_u8(b'I');
            out.put_u32(*relation_id);
            tuple(&mut out, b'N', row);
        }
        Message::Update { relation_id } => {
            out.put_u8(b'U');
            out.put_u32(*relation_id);
            tuple(&mut out, b'O', &some_row());
            tuple(&mut out, b'N', &some_row());
        }
        Message::Delete { relation_id } => {
            out.put_u8(b'D');
            out.put_u32(*relation_id);
            tuple(&mut out, b'K', &some_row());
        }
        Message::Truncate { relation_ids } => {
            out.put_u8(b'T');
            out.put_u32(relation_ids.len().try_into().unwrap());
            out.put_u8(1);
            relation_ids.iter().for_each(|id| out.put_u32(*id));
        }
        Message::Logical { transactional, lsn, prefix, content } => {
            out.put_u8(b'M');
            out.put_u8(u8::from(*transactional));
            out.put_u64(lsn.0);
            text(&mut out, prefix);
            out.put_u32(content.len().try_into().unwrap());
            out.put_slice(content);
        }
        Message::StreamAbort { xid, subxid } => {
            out.put_u8(b'A');
            out.put_u32(*xid);
            out.put_u32(*subxid);
        }
    }
    out.freeze()
}

fn encode_relation(out: &mut BytesMut, relation: &Relation) {
    out.put_u8(b'R');
    out.put_u32(relation.id);
    text(out, if relation.namespace == "pg_catalog" { "" } else { &relation.namespace });
    text(out, &relation.name);
    out.put_u8(b'd');
    out.put_u16(relation.columns.len().try_into().unwrap());
    for column in &relation.columns {
        out.put_u8(1);
        text(out, &column.name);
        out.put_u32(column.type_id);
        out.put_i32(column.type_modifier);
    }
}

fn some_row() -> Tuple {
    use super::Value;
    Tuple::from_values(&[Value::Text(Bytes::from_static(b"1")), Value::Unchanged, Value::Null]).unwrap()
}

fn tuple(out: &mut BytesMut, kind: u8, row: &Tuple) {
    out.put_u8(kind);
    out.put_u16(row.columns());
    out.put_slice(row.body());
}

fn text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

//! From a message's bytes to a record: what every row costs before it is sent.
//!
//! The performance goal is a relay cheaper than the walsender (about 5 µs a row); decoding and
//! mapping together should stay below a tenth of that.

use std::hint::black_box;

use bytes::{BufMut, Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use txstream::outbox::{Mapped, Mapper, Preset, Settings, TableName};
use txstream::pgoutput::{Message, Relation, RelationColumn, decode};

const RELATION_ID: u32 = 16_385;
const PAYLOAD: &str = r#"{"order": 4711, "items": [{"sku": "a-1", "quantity": 2}, {"sku": "b-2", "quantity": 1}], "note": "gift wrapped, please deliver in the morning", "total": 129.90}"#;

/// The table of `migrate up`.
fn relation() -> Relation {
    let column =
        |(name, type_id): (&str, u32)| RelationColumn { name: name.to_owned(), type_id, type_modifier: -1 };
    let columns = [
        ("id", 2950),
        ("aggregatetype", 1043),
        ("aggregateid", 1043),
        ("type", 1043),
        ("payload", 3802),
        ("headers", 3802),
        ("tracingspancontext", 1043),
        ("timestamp", 1114),
    ];
    Relation {
        id: RELATION_ID,
        namespace: "public".to_owned(),
        name: "outbox".to_owned(),
        columns: columns.map(column).into(),
    }
}

/// An insert as the plugin writes it.
fn insert(binary: bool, headers: Option<&str>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(b'I');
    out.put_u32(RELATION_ID);
    out.put_u8(b'N');
    out.put_u16(8);
    let id = b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef";
    put(&mut out, binary, b"01234567-89ab-cdef-0123-456789abcdef", id);
    for text in ["Order", "customer-0000042", "OrderCreated"] {
        put(&mut out, binary, text.as_bytes(), text.as_bytes());
    }
    let jsonb = |text: &str| [b"\x01", text.as_bytes()].concat();
    put(&mut out, binary, PAYLOAD.as_bytes(), &jsonb(PAYLOAD));
    match headers {
        Some(headers) => put(&mut out, binary, headers.as_bytes(), &jsonb(headers)),
        None => out.put_u8(b'n'),
    }
    out.put_u8(b'n');
    put(&mut out, binary, b"2024-05-06 07:08:09.123456", &768_294_489_123_456_i64.to_be_bytes());
    out.freeze()
}

/// A value in the form asked for.
fn put(out: &mut BytesMut, binary: bool, as_text: &[u8], as_binary: &[u8]) {
    let (tag, bytes) = if binary { (b'b', as_binary) } else { (b't', as_text) };
    out.put_u8(tag);
    out.put_u32(u32::try_from(bytes.len()).unwrap_or_default());
    out.put_slice(bytes);
}

fn settings() -> Settings {
    let tables = vec![TableName { schema: "public".to_owned(), name: "outbox".to_owned() }];
    Settings { tables, preset: Preset::Debezium, placement: Vec::new(), fixed_topic: None }
}

fn decode_and_map(mapper: &mut Mapper, frame: &Bytes) -> Option<Mapped> {
    match decode(frame.clone()) {
        Ok(Message::Insert { relation_id, row }) => mapper.map(relation_id, &row).ok(),
        _ => None,
    }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("insert");
    group.throughput(Throughput::Elements(1));
    let headers = r#"{"tenant": "acme", "version": 3}"#;
    for (name, binary, headers) in
        [("text", false, None), ("binary", true, None), ("text with headers", false, Some(headers))]
    {
        let frame = insert(binary, headers);
        group.bench_function(format!("decode {name}"), |bencher| {
            bencher.iter(|| decode(black_box(&frame).clone()));
        });
        let mut mapper = Mapper::new(settings());
        let planned = mapper.relation(&relation()).is_ok();
        let mapped = decode_and_map(&mut mapper, &frame);
        assert!(planned && matches!(mapped, Some(Mapped::Record(_))), "the bench maps nothing: {mapped:?}");
        group.bench_function(format!("decode and map {name}"), |bencher| {
            bencher.iter(|| decode_and_map(&mut mapper, black_box(&frame)));
        });
    }
    group.finish();
}

criterion_group!(decoding, benches);
criterion_main!(decoding);

use bytes::Bytes;

use super::*;
use crate::pgoutput::{Relation, RelationColumn, Tuple, Value};

pub(super) const UUID: u32 = 2950;
pub(super) const VARCHAR: u32 = 1043;
pub(super) const JSONB: u32 = 3802;
pub(super) const BYTEA: u32 = 17;
pub(super) const INT4: u32 = 23;
pub(super) const NUMERIC: u32 = 1700;
const TIMESTAMPTZ: u32 = 1184;

pub(super) const TABLE_ID: u32 = 16_385;
pub(super) const ID: &str = "01234567-89ab-cdef-0123-456789abcdef";

/// The five columns that preset `debezium` needs.
pub(super) const FIVE: [(&str, u32); 5] = [
    ("id", UUID),
    ("aggregatetype", VARCHAR),
    ("aggregateid", VARCHAR),
    ("type", VARCHAR),
    ("payload", JSONB),
];

pub(super) fn settings() -> Settings {
    Settings {
        tables: TableName::parse_list("outbox").unwrap(),
        preset: Preset::Debezium,
        placement: vec![],
        fixed_topic: None,
    }
}

pub(super) fn placing(placement: &str) -> Settings {
    Settings { placement: Placement::parse_list(placement).unwrap(), ..settings() }
}

pub(super) fn outbox(columns: &[(&str, u32)]) -> Relation {
    let column = |(name, type_id): &(&str, u32)| RelationColumn {
        name: (*name).to_owned(),
        type_id: *type_id,
        type_modifier: -1,
    };
    Relation {
        id: TABLE_ID,
        namespace: "public".to_owned(),
        name: "outbox".to_owned(),
        columns: columns.iter().map(column).collect(),
    }
}

pub(super) fn text(value: &str) -> Value {
    Value::Text(Bytes::copy_from_slice(value.as_bytes()))
}

pub(super) fn row(values: &[Option<&str>]) -> Tuple {
    let values: Vec<_> = values.iter().map(|value| value.map_or(Value::Null, text)).collect();
    Tuple::from_values(&values).unwrap()
}

pub(super) fn mapper(settings: Settings, columns: &[(&str, u32)]) -> Mapper {
    let mut mapper = Mapper::new(settings);
    mapper.relation(&outbox(columns)).unwrap();
    mapper
}

/// The record of a row given as text.
pub(super) fn record(mapper: &mut Mapper, values: &[Option<&str>]) -> Record {
    match mapper.map(TABLE_ID, &row(values)).unwrap() {
        Mapped::Record(record) => record,
        other => panic!("{other:?}"),
    }
}

pub(super) fn unmappable(mapper: &mut Mapper, values: &[Option<&str>]) -> Unmappable {
    match mapper.map(TABLE_ID, &row(values)) {
        Err(MapError::Unmappable(row)) => *row,
        other => panic!("{other:?}"),
    }
}

pub(super) fn headers(record: &Record) -> Vec<(&str, Option<&str>)> {
    let text = |value| std::str::from_utf8(value).unwrap();
    record.headers.iter().map(|h| (&*h.name, h.value.as_deref().map(text))).collect()
}

const ORDER: [Option<&str>; 5] = [Some(ID), Some("Order"), Some("o-1"), Some("OrderCreated"), Some("{}")];

#[test]
fn a_table_of_five_columns_suffices() {
    let record = record(&mut mapper(settings(), &FIVE), &ORDER);
    assert_eq!(&*record.topic, "outbox.event.Order");
    assert_eq!(record.key, "o-1");
    assert_eq!(record.payload.as_deref(), Some(&b"{}"[..]));
    assert_eq!(headers(&record), [("id", Some(ID))]);
    assert_eq!(record.event_type, "OrderCreated");
    assert_eq!(record.id(), ID);
    assert_eq!(record.bytes(), "o-1".len() + "{}".len() + "id".len() + ID.len());
    assert_eq!(record.detached(), record);
}

#[test]
fn headers_come_in_a_fixed_order() {
    let columns = [&FIVE[..], &[("headers", JSONB), ("tracingspancontext", VARCHAR)]].concat();
    let mut mapper = mapper(placing("type:header,aggregateid:header:key"), &columns);
    let context = "traceparent=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let values = [&ORDER[..], &[Some(r#"{"b": 1, "a": null, "id": 2}"#), Some(context)]].concat();
    assert_eq!(
        headers(&record(&mut mapper, &values)),
        [
            ("id", Some(ID)),
            ("b", Some("1")),
            ("a", None),
            ("traceparent", Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
            ("type", Some("OrderCreated")),
            ("key", Some("o-1")),
        ]
    );
    assert_eq!(mapper.ignored_trace_contexts(), 0);
}

#[test]
fn garbage_in_the_trace_context_is_ignored_and_counted() {
    let columns = [&FIVE[..], &[("tracingspancontext", VARCHAR)]].concat();
    let mut mapper = mapper(settings(), &columns);
    for (context, count) in [(Some("what"), 1), (None, 1), (Some(""), 1), (Some("traceparent=1"), 2)] {
        let record = record(&mut mapper, &[&ORDER[..], &[context]].concat());
        assert_eq!(headers(&record), [("id", Some(ID))]);
        assert_eq!(mapper.ignored_trace_contexts(), count);
    }
}

#[test]
fn a_headers_column_that_is_not_json_is_not_used() {
    let columns = [&FIVE[..], &[("headers", VARCHAR)]].concat();
    let record = record(&mut mapper(settings(), &columns), &[&ORDER[..], &[Some("{\"a\": 1}")]].concat());
    assert_eq!(headers(&record), [("id", Some(ID))]);
}

#[test]
fn a_row_without_its_needed_values_cannot_be_mapped() {
    for (column, name) in ["id", "aggregatetype", "aggregateid", "type"].into_iter().enumerate() {
        let mut values = ORDER;
        values[4] = Some("secret");
        values[column] = None;
        let row = unmappable(&mut mapper(settings(), &FIVE), &values);
        assert_eq!(row.reason, format!("{name} is NULL"));
        assert_eq!(row.table, "public.outbox");
        assert_eq!(row.id, if name == "id" { "(no id)" } else { ID });
        assert_eq!(row.columns[column], (name.to_owned(), None));
        assert_eq!(row.columns[4], ("payload".to_owned(), Some("secret".to_owned())));
        assert!(!format!("{row} {row:?}").contains("secret"));
    }
}

#[test]
fn headers_that_are_no_object_make_the_row_unmappable() {
    let columns = [&FIVE[..], &[("headers", JSONB)]].concat();
    let row = unmappable(&mut mapper(settings(), &columns), &[&ORDER[..], &[Some("[\"secret\"]")]].concat());
    assert_eq!(
        row.to_string(),
        format!("row {ID} of public.outbox cannot be mapped: the headers are not a JSON object")
    );
}

#[test]
fn an_illegal_topic_is_found_before_anything_is_produced() {
    let mut mapper = mapper(settings(), &FIVE);
    let long = "x".repeat(240);
    for aggregate_type in ["a/b", "größe", "a b", &long] {
        let mut values = ORDER;
        values[1] = Some(aggregate_type);
        match mapper.map(TABLE_ID, &row(&values)).unwrap() {
            Mapped::InvalidTopic { record, .. } => {
                assert_eq!(*record.topic, format!("outbox.event.{aggregate_type}"));
                assert_eq!(record.key, "o-1");
            }
            other => panic!("{aggregate_type}: {other:?}"),
        }
    }
}

#[test]
fn one_topic_may_be_set_for_all() {
    let fixed = Settings { fixed_topic: Some("all.events".to_owned()), ..settings() };
    let mut values = ORDER;
    values[1] = Some("a/b");
    assert_eq!(&*record(&mut mapper(fixed, &FIVE), &values).topic, "all.events");
}

#[test]
fn rows_of_other_tables_are_foreign() {
    let mut mapper = Mapper::new(settings());
    for (namespace, name) in [("other", "outbox"), ("public", "outbox_p1"), ("public", "OUTBOX")] {
        // Without any column that an outbox table has.
        let relation =
            Relation { namespace: namespace.to_owned(), name: name.to_owned(), ..outbox(&[("n", NUMERIC)]) };
        mapper.relation(&relation).unwrap();
        assert_eq!(mapper.map(TABLE_ID, &row(&[None])), Ok(Mapped::Foreign));
    }
}

#[test]
fn a_table_altered_mid_stream_is_planned_anew() {
    let mut mapper = mapper(placing("type:header"), &FIVE);
    let mut columns = FIVE;
    columns.reverse();
    mapper.relation(&outbox(&[&[("added", INT4)], &columns[..]].concat())).unwrap();
    let values = [Some("1"), Some("{}"), Some("OrderCreated"), Some("o-1"), Some("Order"), Some(ID)];
    let record = record(&mut mapper, &values);
    assert_eq!((&*record.topic, &record.key[..]), ("outbox.event.Order", &b"o-1"[..]));
    assert_eq!(headers(&record), [("id", Some(ID)), ("type", Some("OrderCreated"))]);
}

#[test]
fn a_relation_that_does_not_serve_leaves_no_old_plan_behind() {
    let mut mapper = mapper(settings(), &FIVE);
    let error = mapper.relation(&outbox(&FIVE[1..4])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "table public.outbox lacks column id (preset debezium), payload (preset debezium)"
    );
    assert!(matches!(mapper.map(TABLE_ID, &row(&ORDER)), Err(MapError::Broken(_))));
}

#[test]
fn a_stream_that_contradicts_itself_is_refused() {
    let mut mapper = mapper(settings(), &FIVE);
    let broken = |result: Result<Mapped, MapError>| match result {
        Err(MapError::Broken(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(broken(mapper.map(1, &row(&ORDER))), "a row of relation 1 came before any description of it");
    assert_eq!(
        broken(mapper.map(TABLE_ID, &row(&ORDER[..4]))),
        "a row of table public.outbox has 4 columns, its relation has 5"
    );
    let mut values = ORDER.map(|value| text(value.unwrap()));
    values[4] = Value::Unchanged;
    assert_eq!(
        broken(mapper.map(TABLE_ID, &Tuple::from_values(&values).unwrap())),
        "an inserted row of table public.outbox leaves column payload unchanged, which only an update can"
    );
    values[4] = Value::Binary(Bytes::from_static(b"\x02secret"));
    assert_eq!(
        broken(mapper.map(TABLE_ID, &Tuple::from_values(&values).unwrap())),
        "column payload of table public.outbox holds bytes that its type 3802 never has"
    );
}

#[test]
fn a_binary_value_that_only_postgres_prints_asks_for_text() {
    let mut columns = FIVE;
    columns[2].1 = NUMERIC;
    let mut mapper = mapper(settings(), &columns);
    let mut values = ORDER.map(|value| text(value.unwrap()));
    assert!(matches!(mapper.map(TABLE_ID, &Tuple::from_values(&values).unwrap()), Ok(Mapped::Record(_))));
    values[2] = Value::Binary(Bytes::from_static(&[0; 8]));
    assert_eq!(
        mapper.map(TABLE_ID, &Tuple::from_values(&values).unwrap()),
        Err(MapError::NeedsText {
            table: "public.outbox".to_owned(),
            column: "aggregateid".to_owned(),
            type_id: NUMERIC
        })
    );
    // A column that nobody reads may come as it likes.
    let mut other = self::mapper(settings(), &[&FIVE[..], &[("n", NUMERIC)]].concat());
    values[2] = text("o-1");
    let values = [&values[..], &[Value::Binary(Bytes::from_static(&[0; 8]))]].concat();
    assert!(matches!(other.map(TABLE_ID, &Tuple::from_values(&values).unwrap()), Ok(Mapped::Record(_))));
}

#[test]
fn a_record_is_slices_of_the_row_and_never_printed() {
    let mut values = ORDER;
    values[4] = Some("{\"secret\": 1}");
    let record = record(&mut mapper(settings(), &FIVE), &values);
    let gap = |from: &[u8], to: &[u8]| (to.as_ptr() as usize).wrapping_sub(from.as_ptr() as usize);
    assert_eq!(gap(&record.key, &record.event_type), "o-1".len() + 5, "key and type lie in the row");
    assert!(!format!("{record:?}").contains("secret"));
}

const EVENTS: [(&str, u32); 8] = [
    ("id", UUID),
    ("aggregate_id", VARCHAR),
    ("aggregate_type", VARCHAR),
    ("event_type", VARCHAR),
    ("event_data", JSONB),
    ("created_at", TIMESTAMPTZ),
    ("event_metadata", JSONB),
    ("status", VARCHAR),
];

fn ancestor() -> Settings {
    Settings { preset: Preset::Txstream, ..settings() }
}

fn event<'a>(data: Option<&'a str>, metadata: Option<&'a str>) -> [Option<&'a str>; 8] {
    let at = Some("2024-05-06 07:08:09.987+00");
    [Some(ID), Some("o-\"1\""), Some("Order"), Some("OrderCreated"), data, at, metadata, Some("pending")]
}

#[test]
fn preset_txstream_writes_the_ancestors_envelope() {
    let mut mapper = mapper(ancestor(), &EVENTS);
    let record = record(&mut mapper, &event(Some("{\"n\":  1e400}"), Some("{}")));
    assert_eq!(&*record.topic, "txstream.events");
    assert_eq!(record.key, "o-\"1\"");
    assert_eq!(
        headers(&record),
        [
            ("id", Some(ID)),
            ("event_id", Some(ID)),
            ("event_type", Some("OrderCreated")),
            ("aggregate_type", Some("Order")),
        ]
    );
    let value = format!(
        r#"{{"event_id":"{ID}","aggregate_id":"o-\"1\"","aggregate_type":"Order","event_type":"OrderCreated","event_data":{{"n":  1e400}},"created_at":"2024-05-06T07:08:09Z","event_metadata":{{}}}}"#
    );
    assert_eq!(record.payload, Some(value.into()));
}

#[test]
fn the_envelope_has_no_metadata_if_that_is_null_or_no_column() {
    let value = format!(
        r#"{{"event_id":"{ID}","aggregate_id":"o-\"1\"","aggregate_type":"Order","event_type":"OrderCreated","event_data":null,"created_at":"2024-05-06T07:08:09Z"}}"#
    );
    for columns in [8, 6] {
        let mut mapper = mapper(ancestor(), &EVENTS[..columns]);
        let record = record(&mut mapper, &event(None, None)[..columns]);
        assert_eq!(record.payload.as_deref(), Some(value.as_bytes()));
    }
}

#[test]
fn the_envelope_is_always_json() {
    let mut columns = EVENTS;
    columns[4].1 = VARCHAR;
    let mut mapper = mapper(ancestor(), &columns);
    assert!(record(&mut mapper, &event(Some(" [1] "), None)).payload.is_some());
    assert_eq!(unmappable(&mut mapper, &event(Some("text"), None)).reason, "event_data is not JSON");
    let mut values = event(Some("1"), None);
    values[5] = Some("infinity");
    assert_eq!(unmappable(&mut mapper, &values).reason, "created_at has no RFC 3339 form");
    values[5] = None;
    assert_eq!(unmappable(&mut mapper, &values).reason, "created_at is NULL");
    let mut values = event(Some("1"), None).map(|value| value.map_or(Value::Null, text));
    values[1] = Value::Text(Bytes::from_static(b"\xff"));
    let error = mapper.map(TABLE_ID, &Tuple::from_values(&values).unwrap()).unwrap_err();
    assert!(error.to_string().ends_with("the envelope's aggregate_id is not UTF-8"), "{error}");
}

#[test]
fn created_at_must_be_a_time() {
    let mut columns = EVENTS;
    columns[5].1 = VARCHAR;
    let error = Mapper::new(ancestor()).relation(&outbox(&columns)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "column created_at of table public.outbox is neither timestamp nor timestamptz, which preset txstream needs"
    );
}

#[test]
fn presets_are_known_by_name() {
    for preset in [Preset::Debezium, Preset::Txstream] {
        assert_eq!(preset.to_string().parse(), Ok(preset));
    }
    assert_eq!(
        "watermill".parse::<Preset>().unwrap_err().to_string(),
        "\"watermill\" is not a preset; known are debezium and txstream"
    );
}

#[test]
fn a_catalog_can_be_checked_before_any_row_comes() {
    let settings = placing("type:header,tenant:header");
    assert_eq!(
        settings.missing_columns(&["id", "aggregatetype", "type", "payload"]),
        ["aggregateid (preset debezium)", "tenant (OUTBOX_PLACEMENT)"]
    );
    for (column, reads) in [("payload", true), ("headers", true), ("tenant", true), ("timestamp", false)] {
        assert_eq!(settings.reads_column(column), reads, "{column}");
    }
}

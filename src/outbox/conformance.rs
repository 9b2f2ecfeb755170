//! The cases of Debezium's `EventRouterTest`, by its names. Where txstream leaves a feature out, the
//! test asserts the refusal.

use bytes::Bytes;

use super::tests::{
    BYTEA, FIVE, ID, INT4, JSONB, TABLE_ID, VARCHAR, headers, mapper, outbox, placing, record, row, settings,
    text, unmappable,
};
use super::{Mapped, Mapper, Placement, PlacementError, Settings, TableName};
use crate::pgoutput::{self, Message, Tuple, Value};

const TIMESTAMP: u32 = 1114;

fn order(payload: Option<&'static str>) -> [Option<&'static str>; 5] {
    [Some(ID), Some("Order"), Some("10"), Some("OrderCreated"), payload]
}

/// The plugin has no tombstones: what follows a deletion in Kafka Connect does not exist here, and a
/// deletion carries nothing that could be mapped.
#[test]
fn can_skip_tombstone() {
    let delete = Bytes::from_static(b"D\0\0\x40\x01K\0\x01n");
    assert_eq!(pgoutput::decode(delete), Ok(Message::Delete { relation_id: TABLE_ID }));
}

#[test]
fn can_skip_deletion() {
    let delete = Bytes::from_static(b"D\0\0\x40\x01O\0\x02t\0\0\0\x01an");
    assert_eq!(pgoutput::decode(delete), Ok(Message::Delete { relation_id: TABLE_ID }));
}

#[test]
fn can_skip_updates() {
    let update = Bytes::from_static(b"U\0\0\x40\x01N\0\x02t\0\0\0\x01au");
    assert_eq!(pgoutput::decode(update), Ok(Message::Update { relation_id: TABLE_ID }));
}

#[test]
fn can_set_default_message_key() {
    assert_eq!(record(&mut mapper(settings(), &FIVE), &order(Some("{}"))).key, "10");
}

/// The Kafka timestamp is always the time of producing; the column can go into a header.
#[test]
fn can_set_timestamp_by_user_defined_configuration() {
    let columns = [&FIVE[..], &[("timestamp", TIMESTAMP)]].concat();
    let mut mapper = mapper(placing("timestamp:header:occurredAt"), &columns);
    let record = record(&mut mapper, &[&order(None)[..], &[Some("2024-05-06 07:08:09.5")]].concat());
    assert_eq!(headers(&record), [("id", Some(ID)), ("occurredAt", Some("2024-05-06 07:08:09.5"))]);
}

/// By `aggregatetype` only, verbatim and without a change of case, or to one topic.
#[test]
fn can_route_based_on_field() {
    let mut mapper = mapper(settings(), &FIVE);
    for kind in ["User", "user", "UserProfile.v1"] {
        let values = [Some(ID), Some(kind), Some("10"), Some("UserCreated"), Some("{}")];
        assert_eq!(*record(&mut mapper, &values).topic, format!("outbox.event.{kind}"));
    }
}

/// The columns' names are the preset's; the table's name can be any.
#[test]
fn can_configure_every_table_field() {
    let mut renamed = FIVE;
    renamed[0].0 = "event_id";
    let error = Mapper::new(settings()).relation(&outbox(&renamed)).unwrap_err();
    assert_eq!(error.to_string(), "table public.outbox lacks column id (preset debezium)");

    let tables = TableName::parse_list("\"App\".\"OutboxEvent\"").unwrap();
    let mut mapper = Mapper::new(Settings { tables, ..settings() });
    let mut relation = outbox(&FIVE);
    (relation.namespace, relation.name) = ("App".to_owned(), "OutboxEvent".to_owned());
    mapper.relation(&relation).unwrap();
    assert!(matches!(mapper.map(TABLE_ID, &row(&order(None))), Ok(Mapped::Record(_))));
}

#[test]
fn can_set_payload_type_into_the_envelope_with_alias() {
    let refused =
        PlacementError::Unsupported { entry: "type:envelope:aggregateType".into(), place: "envelope" };
    assert_eq!(Placement::parse_list("type:envelope:aggregateType"), Err(vec![refused]));
}

#[test]
fn can_set_multiple_fields_into_the_envelope() {
    let refused = ["b:envelope", "c:envelope"]
        .map(|entry| PlacementError::Unsupported { entry: entry.into(), place: "envelope" });
    assert_eq!(Placement::parse_list("a:header,b:envelope,c:envelope"), Err(refused.into()));
}

#[test]
fn can_set_partition_with_additional_fields() {
    let refused = PlacementError::Unsupported { entry: "p:partition".into(), place: "partition" };
    assert_eq!(Placement::parse_list("p:partition"), Err(vec![refused]));
}

#[test]
fn can_pass_binary_key() {
    let mut columns = FIVE;
    columns[2].1 = BYTEA;
    let mut mapper = mapper(settings(), &columns);
    let mut values = order(None);
    values[2] = Some("\\x00ff");
    assert_eq!(record(&mut mapper, &values).key, &b"\0\xff"[..]);
}

#[test]
fn can_pass_int_key() {
    let mut columns = FIVE;
    columns[2].1 = INT4;
    let mut mapper = mapper(settings(), &columns);
    assert_eq!(record(&mut mapper, &order(None)).key, "10");
    let mut binary = order(None).map(|value| value.map_or(Value::Null, text));
    binary[2] = Value::Binary(Bytes::from_static(&[0, 0, 0, 10]));
    let Ok(Mapped::Record(record)) = mapper.map(TABLE_ID, &Tuple::from_values(&binary).unwrap()) else {
        panic!("no record");
    };
    assert_eq!(record.key, "10");
}

#[test]
fn can_pass_binary_message() {
    let mut columns = FIVE;
    columns[4].1 = BYTEA;
    let record = record(&mut mapper(settings(), &columns), &order(Some("\\x89504e470d0a1a0a")));
    assert_eq!(record.payload.as_deref(), Some(&b"\x89PNG\r\n\x1a\n"[..]));
}

/// A NULL payload is a record without value, which on a compacted topic deletes the key.
#[test]
fn can_mark_an_event_as_deleted() {
    let record = record(&mut mapper(settings(), &FIVE), &order(None));
    assert_eq!((&record.key[..], record.payload), (&b"10"[..], None));
}

/// A blank payload stays what it is; an event never makes a second record.
#[test]
fn no_tombstone_if_not_configured() {
    let mut columns = FIVE;
    columns[4].1 = VARCHAR;
    let mut mapper = mapper(settings(), &columns);
    for blank in ["", " ", "\n"] {
        assert_eq!(record(&mut mapper, &order(Some(blank))).payload.as_deref(), Some(blank.as_bytes()));
    }
}

#[test]
fn should_fail_on_missing_field() {
    for missing in 0..FIVE.len() {
        let mut columns = FIVE.to_vec();
        let (name, _) = columns.remove(missing);
        let error = Mapper::new(settings()).relation(&outbox(&columns)).unwrap_err();
        assert_eq!(error.to_string(), format!("table public.outbox lacks column {name} (preset debezium)"));
    }
    let error = Mapper::new(placing("tenant:header")).relation(&outbox(&FIVE)).unwrap_err();
    assert_eq!(error.to_string(), "table public.outbox lacks column tenant (OUTBOX_PLACEMENT)");
}

/// Debezium writes such a row as a record without key, which no order holds; here it is rejected.
#[test]
fn a_row_without_aggregate_is_not_published() {
    let mut values = order(Some("{}"));
    values[2] = None;
    assert_eq!(unmappable(&mut mapper(settings(), &FIVE), &values).reason, "aggregateid is NULL");
}

/// Quarkus' own table, its `tracingspancontext` as its setter leaves it.
#[test]
fn quarkus_table() {
    let columns = [
        FIVE[0],
        FIVE[2],
        FIVE[1],
        FIVE[3],
        ("timestamp", TIMESTAMP),
        ("payload", VARCHAR),
        ("tracingspancontext", VARCHAR),
        ("headers", JSONB),
    ];
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let context = format!("#Mon May 06 07:08:09 UTC 2024\ntraceparent={parent}\n");
    let values = [
        Some(ID),
        Some("10"),
        Some("Order"),
        Some("OrderCreated"),
        Some("2024-05-06 07:08:09"),
        Some("{\"id\":10}"),
        Some(context.as_str()),
        None,
    ];
    let record = record(&mut mapper(placing("type:header:eventType"), &columns), &values);
    assert_eq!(&*record.topic, "outbox.event.Order");
    assert_eq!(record.key, "10");
    assert_eq!(record.payload.as_deref(), Some(&b"{\"id\":10}"[..]));
    assert_eq!(
        headers(&record),
        [("id", Some(ID)), ("traceparent", Some(parent)), ("eventType", Some("OrderCreated"))]
    );
}

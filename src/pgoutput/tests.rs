use bytes::Bytes;
use proptest::prelude::*;

use super::encode::encode;
use super::*;

fn insert(values: &[Value]) -> Message {
    Message::Insert { relation_id: 16_385, row: Tuple::from_values(values).unwrap() }
}

/// One of every message, in its plainest form.
fn samples() -> Vec<Message> {
    let lsn = Lsn(0x16_B374_D848);
    vec![
        Message::Begin { final_lsn: lsn, commit_time: -1, xid: 733 },
        Message::Commit { commit_lsn: lsn, end_lsn: Lsn(lsn.0 + 48), commit_time: i64::MAX },
        Message::Origin { commit_lsn: lsn, name: "elsewhere".to_owned() },
        Message::Relation(Relation {
            id: 16_385,
            namespace: "pg_catalog".to_owned(),
            name: "Straße".to_owned(),
            columns: vec![RelationColumn { name: "id".to_owned(), type_id: 2950, type_modifier: -1 }],
        }),
        Message::Type { id: 16_400, namespace: "public".to_owned(), name: "mood".to_owned() },
        insert(&[
            Value::Null,
            Value::Unchanged,
            Value::Text(Bytes::new()),
            Value::Text(Bytes::from_static(b"abc")),
            Value::Binary(Bytes::from_static(&[0; 16])),
        ]),
        Message::Update { relation_id: 7 },
        Message::Delete { relation_id: 8 },
        Message::Truncate { relation_ids: vec![7, 8] },
        Message::Logical {
            transactional: true,
            lsn,
            prefix: "outbox".to_owned(),
            content: Bytes::from_static(b"\0\xff"),
        },
        Message::Logical { transactional: false, lsn, prefix: String::new(), content: Bytes::new() },
        Message::StreamAbort { xid: 733, subxid: 734 },
    ]
}

#[test]
fn every_message_comes_back_as_it_was() {
    for message in samples() {
        assert_eq!(decode(encode(&message)), Ok(message));
    }
}

#[test]
fn every_message_cut_short_or_too_long_is_an_error() {
    for message in samples() {
        let whole = encode(&message);
        for end in 0..whole.len() {
            assert!(decode(whole.slice(..end)).is_err(), "{message:?} was accepted with {end} bytes");
        }
        let longer = [&whole[..], b"\0"].concat();
        let error = decode(longer.into()).unwrap_err();
        assert!(!error.0.is_empty(), "{message:?}");
    }
}

#[test]
fn an_error_says_what_came() {
    for (bytes, text) in [
        (&b""[..], "an empty message came"),
        (b"S\0\0\0\0\x01", "a Stream Start message came, which protocol 1 does not have"),
        (b"p", "a Stream Prepare message came, which protocol 1 does not have"),
        (b"?", "a message with the unknown tag 0x3f came"),
        (b"B\0", "Begin: the message ends too early"),
        (b"C\x01", "Commit: flags 0x01 are unknown"),
        (b"I\0\0\0\x01K\0\0", "Insert: a tuple of kind 0x4b came, a new row was expected"),
        (b"I\0\0\0\x01N\0\x02n", "Insert: column 2 is missing"),
        (b"I\0\0\0\x01N\0\x01x", "Insert: column 1 has an unknown format"),
        (b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xffabc", "Insert: column 1 is longer than the message"),
        (b"I\0\0\0\x01N\0\x01nn", "Insert: 1 bytes are left over"),
        (b"U\0\0\0\x01K\0\x01nX", "Update: a tuple of kind 0x58 came, a new row was expected"),
        (b"D\0\0\0\x01N\0\x01n", "Delete: a tuple of kind 0x4e came, a key or old row was expected"),
        (b"T\xff\xff\xff\xff\0\0\0\0\x01", "Truncate: 4294967295 relations do not fit into the message"),
        (b"R\0\0\0\x01s\0t\0d\xff\xff\0a\0", "Relation: 65535 columns do not fit into the message"),
        (b"R\0\0\0\x01\xff\0t\0d\0\0", "Relation: a name is not UTF-8"),
        (b"Y\0\0\0\x01s\0\xc3\0", "Type: a name is not UTF-8"),
        (b"M\x02\0\0\0\0\0\0\0\0p\0\0\0\0\0", "Message: flags 0x02 are unknown"),
        (b"M\0\0\0\0\0\0\0\0\0p\0\0\0\0\x05abc", "Message: the message ends too early"),
    ] {
        assert_eq!(decode(Bytes::from_static(bytes)), Err(DecodeError(text.to_owned())));
    }
}

#[test]
fn a_stream_abort_of_postgres_18_may_carry_lsn_and_time() {
    let bytes = [&b"A\0\0\0\x07\0\0\0\x08"[..], &[1; 16]].concat();
    assert_eq!(decode(bytes.into()), Ok(Message::StreamAbort { xid: 7, subxid: 8 }));
}

#[test]
fn a_value_is_a_slice_of_the_message() {
    let frame = encode(&insert(&[Value::Null, Value::Text(Bytes::from_static(b"payload"))]));
    let within = frame.as_ptr_range();
    let Ok(Message::Insert { row, .. }) = decode(frame.clone()) else { panic!("no insert") };
    let Some(Value::Text(value)) = row.values().nth(1) else { panic!("no text") };
    assert_eq!(value, "payload");
    assert!(within.contains(&value.as_ptr()));
}

#[test]
fn a_row_is_never_printed() {
    let message = insert(&[Value::Text(Bytes::from_static(b"secret"))]);
    assert!(!format!("{message:?} {:?}", Value::Binary(Bytes::from_static(b"secret"))).contains("secret"));
}

fn any_value() -> impl Strategy<Value = Value> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    prop_oneof![
        Just(Value::Null),
        Just(Value::Unchanged),
        bytes().prop_map(Value::Text),
        bytes().prop_map(Value::Binary),
    ]
}

fn any_name() -> impl Strategy<Value = String> {
    "[^\0]{1,12}"
}

fn any_message() -> impl Strategy<Value = Message> {
    let lsn = || any::<u64>().prop_map(Lsn);
    let column = (any_name(), any::<u32>(), any::<i32>())
        .prop_map(|(name, type_id, type_modifier)| RelationColumn { name, type_id, type_modifier });
    prop_oneof![
        (lsn(), any::<i64>(), any::<u32>()).prop_map(|(final_lsn, commit_time, xid)| Message::Begin {
            final_lsn,
            commit_time,
            xid
        }),
        (lsn(), lsn(), any::<i64>()).prop_map(|(commit_lsn, end_lsn, commit_time)| Message::Commit {
            commit_lsn,
            end_lsn,
            commit_time
        }),
        (lsn(), any_name()).prop_map(|(commit_lsn, name)| Message::Origin { commit_lsn, name }),
        (any::<u32>(), any_name(), any_name(), proptest::collection::vec(column, 0..8)).prop_map(
            |(id, namespace, name, columns)| Message::Relation(Relation { id, namespace, name, columns })
        ),
        (any::<u32>(), any_name(), any_name()).prop_map(|(id, namespace, name)| Message::Type {
            id,
            namespace,
            name
        }),
        (any::<u32>(), proptest::collection::vec(any_value(), 0..12)).prop_map(|(relation_id, values)| {
            Message::Insert { relation_id, row: Tuple::from_values(&values).unwrap() }
        }),
        any::<u32>().prop_map(|relation_id| Message::Update { relation_id }),
        any::<u32>().prop_map(|relation_id| Message::Delete { relation_id }),
        proptest::collection::vec(any::<u32>(), 0..5)
            .prop_map(|relation_ids| Message::Truncate { relation_ids }),
        (any::<bool>(), lsn(), any_name(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(
            |(transactional, lsn, prefix, content)| Message::Logical {
                transactional,
                lsn,
                prefix,
                content: content.into()
            }
        ),
        (any::<u32>(), any::<u32>()).prop_map(|(xid, subxid)| Message::StreamAbort { xid, subxid }),
    ]
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(message in any_message()) {
        prop_assert_eq!(decode(encode(&message)), Ok(message));
    }

    #[test]
    fn values_come_back_as_they_were(values in proptest::collection::vec(any_value(), 0..20)) {
        let Ok(Message::Insert { row, .. }) = decode(encode(&insert(&values))) else {
            return Err(TestCaseError::fail("no insert"));
        };
        prop_assert_eq!(row.values().collect::<Vec<_>>(), values);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(Message::Insert { row, .. }) = decode(bytes.into()) {
            prop_assert_eq!(row.values().count(), usize::from(row.columns()));
        }
    }

    #[test]
    fn a_damaged_message_never_panics(message in any_message(), at: prop::sample::Index, to: u8) {
        let mut bytes = encode(&message).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(Message::Insert { row, .. }) = decode(bytes.into()) {
            prop_assert_eq!(row.values().count(), usize::from(row.columns()));
        }
    }
}

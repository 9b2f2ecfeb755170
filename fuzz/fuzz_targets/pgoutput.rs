//! Any bytes as a message of the output plugin: what is decoded is not larger than what came.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use txstream::pgoutput::{Message, Value, decode};

fuzz_target!(|bytes: &[u8]| {
    match decode(Bytes::copy_from_slice(bytes)) {
        Ok(Message::Insert { row, .. }) => {
            assert_eq!(row.values().count(), usize::from(row.columns()));
            let size = |value| match value {
                Value::Text(bytes) | Value::Binary(bytes) => bytes.len(),
                Value::Null | Value::Unchanged => 0,
            };
            assert!(row.values().map(size).sum::<usize>() <= bytes.len());
        }
        Ok(Message::Relation(relation)) => assert!(relation.columns.capacity() * 10 <= bytes.len()),
        Ok(Message::Truncate { relation_ids }) => assert!(relation_ids.len() * 4 <= bytes.len()),
        Ok(_) => {}
        Err(error) => assert!(!error.0.is_empty()),
    }
});

//! The `headers` column: a JSON object whose entries become Kafka headers.
//!
//! A string is written as it is, null becomes a header without value, anything else stays the JSON
//! text that Postgres printed: numbers and nested objects are cut out of the row, never parsed. Plain
//! `json` may name a key twice; both become headers, in order, so that a consumer who takes a name's
//! last header sees what `jsonb` would have kept.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer as _, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Header, Headers};

/// Header names are few; with more than this many the memory of known ones starts anew.
const KNOWN_MAX: usize = 256;

/// Known header names, shared between records.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<Arc<str>>);

impl Names {
    fn of(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        if self.0.len() >= KNOWN_MAX {
            self.0.clear();
        }
        let name: Arc<str> = name.into();
        self.0.insert(Arc::clone(&name));
        name
    }
}

/// Appends the entries of `json` but one called `id`, which is the row's own.
///
/// # Errors
/// Why these headers cannot be written; without any of the text.
pub(super) fn read(json: &Bytes, names: &mut Names, headers: &mut Headers) -> Result<(), &'static str> {
    let mut wrong = None;
    let entries = Entries { json, names, headers, wrong: &mut wrong };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read = deserializer.deserialize_map(entries).and_then(|()| deserializer.end());
    match (wrong, read) {
        (Some(wrong), _) => Err(wrong),
        // serde's own text may quote the value.
        (None, Err(_)) => Err("the headers are not a JSON object"),
        (None, Ok(())) => Ok(()),
    }
}

struct Entries<'a> {
    json: &'a Bytes,
    names: &'a mut Names,
    headers: &'a mut Headers,
    wrong: &'a mut Option<&'static str>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(name)) = map.next_key()? {
            let value = map.next_value::<&'de RawValue>()?.get();
            if name == "id" {
                continue;
            }
            if name.contains('\0') {
                // librdkafka's names are C strings.
                *self.wrong = Some("a header's name contains a NUL");
                return Err(A::Error::custom("name"));
            }
            let value = match value.as_bytes().first() {
                Some(b'n') => None,
                Some(b'"') => match serde_json::from_str::<Text<'_>>(value) {
                    Ok(Text(Cow::Borrowed(text))) => Some(self.json.slice_ref(text.as_bytes())),
                    Ok(Text(Cow::Owned(text))) => Some(text.into()),
                    Err(_) => {
                        *self.wrong = Some("a header's string is not Unicode");
                        return Err(A::Error::custom("string"));
                    }
                },
                _ => Some(self.json.slice_ref(value.as_bytes())),
            };
            if !self.headers.spilled() {
                // Who has one more has several.
                self.headers.reserve(3);
            }
            self.headers.push(Header { name: self.names.of(&name), value });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::{KNOWN_MAX, Names, read};

    fn headers(json: &str) -> Result<Vec<(String, Option<String>)>, &'static str> {
        let mut headers = super::Headers::new();
        read(&Bytes::copy_from_slice(json.as_bytes()), &mut Names::default(), &mut headers)?;
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        Ok(headers.iter().map(|h| (h.name.to_string(), h.value.as_ref().map(text))).collect())
    }

    fn one(json: &str) -> Option<String> {
        let headers = headers(json).unwrap();
        assert_eq!(headers.len(), 1, "{json}");
        headers[0].1.clone()
    }

    #[test]
    fn a_string_is_written_as_it_is() {
        assert_eq!(one(r#"{"a": "plain ä"}"#).as_deref(), Some("plain ä"));
        assert_eq!(one(r#"{"a": ""}"#).as_deref(), Some(""));
        assert_eq!(one(r#"{"a": "q\"\\\n\u00e4\ud83d\ude00"}"#).as_deref(), Some("q\"\\\nä😀"));
    }

    #[test]
    fn null_is_a_header_without_value() {
        assert_eq!(one(r#"{"a": null}"#), None);
    }

    #[test]
    fn anything_else_stays_the_text_that_postgres_printed() {
        for json in
            ["1", "1.10", "1e400", "123456789012345678901234567890", "true", r#"{"b":  [1,"\u00e4"]}"#, "[]"]
        {
            assert_eq!(one(&format!(" {{\"a\" : {json} }}")).as_deref(), Some(json));
        }
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        assert_eq!(one(&format!("{{\"a\":{deep}}}")), Some(deep));
    }

    #[test]
    fn the_order_is_kept_and_a_repeated_key_too() {
        let pair = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        assert_eq!(
            headers(r#"{"b": "1", "a": "2", "b": "3"}"#),
            Ok(vec![pair("b", "1"), pair("a", "2"), pair("b", "3")])
        );
    }

    #[test]
    fn an_entry_called_id_is_ignored() {
        assert_eq!(headers(r#"{"id": "mine", "\u0069d": 1}"#), Ok(vec![]));
        assert_eq!(headers("{}"), Ok(vec![]));
    }

    #[test]
    fn what_is_no_object_is_refused_without_a_value_in_the_reason() {
        for json in ["[]", "\"secret\"", "1", "null", "", "{", "{}x", "{\"secret\"}"] {
            assert_eq!(headers(json), Err("the headers are not a JSON object"), "{json}");
        }
        assert_eq!(headers(r#"{"a\u0000": 1}"#), Err("a header's name contains a NUL"));
        assert_eq!(headers(r#"{"a": "\ud800"}"#), Err("a header's string is not Unicode"));
    }

    #[test]
    fn names_are_shared_and_their_memory_is_bounded() {
        let mut names = Names::default();
        assert!(Arc::ptr_eq(&names.of("a"), &names.of("a")));
        for n in 0..KNOWN_MAX * 3 {
            names.of(&n.to_string());
            assert!(names.0.len() <= KNOWN_MAX);
        }
    }
}

//! Events as clients send them: one or an array becomes [`NewEvents`].
//!
//! What the relay could not publish is refused here, where somebody can mend it, and not found in the
//! outbox, where it would stop the relay.

use std::collections::HashMap;

use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::fields::{self, Object, Problem, Problems};
use super::orders::NAME;
use crate::outbox::{check_topic_name, routed_topic};

/// Events that keep every rule, column by column, in the order they came.
#[derive(Debug, Default)]
pub(super) struct NewEvents<'a> {
    pub(super) ids: Vec<Uuid>,
    pub(super) aggregate_types: Vec<String>,
    pub(super) aggregate_ids: Vec<String>,
    pub(super) event_types: Vec<String>,
    /// As they were sent, byte for byte; `None` is NULL.
    pub(super) payloads: Vec<Option<&'a str>>,
    /// JSON objects.
    pub(super) headers: Vec<Option<&'a str>>,
    /// Whether the client chose one of the ids, so that it may be known already.
    pub(super) ids_given: bool,
    /// Whether the body was an array.
    pub(super) is_list: bool,
}

impl NewEvents<'_> {
    /// The path of the event at a place, for problems found later.
    pub(super) fn path(&self, place: usize, field: &str) -> String {
        if self.is_list { format!("[{place}].{field}") } else { field.to_owned() }
    }
}

/// Reads the body of new events. `routed` says that the topic is made of the aggregate type.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn read(body: &RawValue, routed: bool) -> Result<NewEvents<'_>, Vec<Problem>> {
    let mut problems = Problems::default();
    let mut events = NewEvents { is_list: body.get().starts_with('['), ..NewEvents::default() };
    let elements = if events.is_list { fields::elements(body).unwrap_or_default() } else { vec![body] };
    if elements.is_empty() {
        problems.note("body", "must be an event or an array of events");
        return Err(problems.into_list());
    }
    let mut places = HashMap::new();
    for (place, raw) in elements.into_iter().enumerate() {
        let path = if events.is_list { format!("[{place}]") } else { String::new() };
        let Some(mut event) = Object::read(raw, &path, &mut problems) else { continue };
        let id = id(&mut event, &mut events.ids_given, &mut problems);
        if let Some(first) = places.insert(id, place) {
            problems.note(event.path("id"), format!("is the id of [{first}] too"));
        }
        events.ids.push(id);
        events.aggregate_types.push(aggregate_type(&mut event, routed, &mut problems));
        events.aggregate_ids.push(event.text("aggregateid", &NAME, &mut problems));
        events.event_types.push(event.text("type", &NAME, &mut problems));
        events.payloads.push(payload(&mut event, &mut problems));
        events.headers.push(headers(&mut event, &mut problems));
        event.finish(&mut problems);
    }
    problems.or(events)
}

fn id(event: &mut Object<'_>, given: &mut bool, problems: &mut Problems) -> Uuid {
    let Some(raw) = event.optional("id") else { return Uuid::new_v4() };
    *given = true;
    // The form with hyphens alone, which is how it comes back.
    let text = fields::text(raw, &(36..=36)).ok();
    text.and_then(|text| Uuid::try_parse(&text).ok()).unwrap_or_else(|| {
        problems.note(event.path("id"), "must be a UUID, like 6ba7b810-9dad-11d1-80b4-00c04fd430c8");
        Uuid::new_v4()
    })
}

fn aggregate_type(event: &mut Object<'_>, routed: bool, problems: &mut Problems) -> String {
    let text = event.text("aggregatetype", &NAME, problems);
    if routed
        && !text.is_empty()
        && let Err(reason) = check_topic_name(&routed_topic(&text))
    {
        problems.note(
            event.path("aggregatetype"),
            format!("makes no topic outbox.event.<aggregatetype>: {reason}"),
        );
    }
    text
}

fn payload<'a>(event: &mut Object<'a>, problems: &mut Problems) -> Option<&'a str> {
    let text = event.required("payload", problems)?.get();
    if !storable(text) {
        problems.note(
            event.path("payload"),
            "has text that Postgres cannot store: \\u0000, or half of a surrogate pair",
        );
    }
    (text != "null").then_some(text)
}

fn headers<'a>(event: &mut Object<'a>, problems: &mut Problems) -> Option<&'a str> {
    let raw = event.optional("headers")?;
    let path = event.path("headers");
    if Object::read(raw, &path, problems).is_some() && !storable(raw.get()) {
        problems.note(path, "has text that Postgres cannot store: \\u0000, or half of a surrogate pair");
    }
    Some(raw.get())
}

/// Whether every text in valid JSON is one for Postgres. Only an escape can be none.
fn storable(json: &str) -> bool {
    if !json.contains("\\u") {
        return true;
    }
    fn without_nul(value: &Value) -> bool {
        match value {
            Value::String(text) => !text.contains('\0'),
            Value::Array(values) => values.iter().all(without_nul),
            Value::Object(members) => {
                members.iter().all(|(name, value)| !name.contains('\0') && without_nul(value))
            }
            _ => true,
        }
    }
    // Nesting is bounded by the parser.
    serde_json::from_str(json).is_ok_and(|value| without_nul(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<NewEvents<'_>, Vec<Problem>> {
        read(serde_json::from_str(text).unwrap(), true)
    }

    fn wrong_fields(text: &str) -> Vec<String> {
        read_text(text).unwrap_err().into_iter().map(|problem| problem.field).collect()
    }

    const ID: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

    #[test]
    fn payloads_and_headers_are_the_bytes_that_were_sent() {
        let text = r#"[{"aggregatetype": "order", "aggregateid": "1", "type": "T", "payload": { "b":1.50, "a" : 1e2 }},
                       {"aggregatetype": "order", "aggregateid": "2", "type": "T", "payload": null, "headers": {"h": "\u0041"}}]"#;
        let events = read_text(text).unwrap();
        assert_eq!(events.payloads, [Some(r#"{ "b":1.50, "a" : 1e2 }"#), None]);
        assert_eq!(events.headers, [None, Some(r#"{"h": "\u0041"}"#)]);
        assert_eq!(events.aggregate_ids, ["1", "2"]);
        assert!(!events.ids_given && events.is_list);
        assert_ne!(events.ids[0], events.ids[1]);
    }

    #[test]
    fn every_invalid_field_is_named_at_once() {
        assert_eq!(
            wrong_fields(
                r#"{"id": 1, "aggregatetype": "a b", "aggregateid": "", "payload": "\u0000", "headers": [], "x": 1}"#
            ),
            ["id", "aggregatetype", "aggregateid", "type", "payload", "headers", "x"]
        );
        let event = format!(
            r#"{{"id": "{ID}", "aggregatetype": "a", "aggregateid": "1", "type": "T", "payload": 1}}"#
        );
        assert_eq!(wrong_fields(&format!("[{event}, 3, {event}]")), ["[1]", "[2].id"]);
        for text in ["[]", "3", "\"x\"", "null"] {
            assert_eq!(wrong_fields(text), ["body"], "{text}");
        }
    }

    #[test]
    fn an_aggregate_type_that_makes_no_topic_is_refused_only_where_it_makes_one() {
        let text = r#"{"aggregatetype": "a b", "aggregateid": "1", "type": "T", "payload": 1}"#;
        assert_eq!(wrong_fields(text), ["aggregatetype"]);
        assert!(read(serde_json::from_str(text).unwrap(), false).is_ok());
    }

    #[test]
    fn ids_are_uuids_with_hyphens() {
        for (id, fits) in [
            (ID.to_owned(), true),
            (ID.to_uppercase(), true),
            (ID.replace('-', ""), false),
            (format!("{{{ID}}}"), false),
            (format!("{}x", &ID[..35]), false),
        ] {
            let text = format!(
                r#"{{"id": "{id}", "aggregatetype": "a", "aggregateid": "1", "type": "T", "payload": 1}}"#
            );
            assert_eq!(read_text(&text).is_ok(), fits, "{id}");
        }
    }

    #[test]
    fn text_that_postgres_cannot_store_is_found() {
        for (json, fits) in [
            (r#""\\u0000""#, true),
            (r#""\u0000""#, false),
            (r#"[{"a\u0000": 1}]"#, false),
            (r#""\ud83d\ude00""#, true),
            (r#""\ud83d""#, false),
            (r#""\ude00x""#, false),
        ] {
            assert_eq!(storable(json), fits, "{json}");
        }
    }
}

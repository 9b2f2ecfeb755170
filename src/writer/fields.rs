//! A JSON object, read field by field. Every problem is noted under the field's path, so that a client
//! hears of all of them at once.
//!
//! Values stay slices of the body: what is stored byte for byte is never parsed into something else.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A body full of mistakes gets an answer of a bounded size.
const PROBLEMS_MAX: usize = 1000;

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Problem {
    /// Its path, as in `items[0].quantity`; `body` is the whole.
    pub(super) field: String,
    /// What it must be.
    pub(super) message: String,
}

/// Everything that is wrong with a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    /// Notes a problem; those beyond a thousand are left out.
    pub(super) fn note(&mut self, field: impl Into<String>, message: impl Into<String>) {
        if self.0.len() < PROBLEMS_MAX {
            self.0.push(Problem { field: field.into(), message: message.into() });
        }
    }

    /// All of them.
    pub(super) fn into_list(self) -> Vec<Problem> {
        self.0
    }

    /// `value`, unless there were problems.
    ///
    /// # Errors
    /// The problems.
    pub(super) fn or<T>(self, value: T) -> Result<T, Vec<Problem>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }
}

/// The members of a JSON object, duplicates included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// An object whose fields are taken one by one; [`Object::finish`] notes what nobody took.
#[derive(Debug)]
pub(super) struct Object<'a> {
    /// What stands before a field's name in its path: empty, or it ends with a dot.
    prefix: String,
    members: Vec<(String, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// Reads an object at `path` (empty for the body itself), and notes names that come twice.
    pub(super) fn read(raw: &'a RawValue, path: &str, problems: &mut Problems) -> Option<Self> {
        let Ok(Members(members)) = serde_json::from_str(raw.get()) else {
            problems.note(if path.is_empty() { "body" } else { path }, "must be an object");
            return None;
        };
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let mut said = "";
        for pair in names.windows(2) {
            if pair[0] == pair[1] && said != pair[0] {
                said = pair[0];
                problems.note(format!("{prefix}{said}"), "is given more than once");
            }
        }
        Some(Self { prefix, members })
    }

    /// The path of a field.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Takes a field; `None` if it is not there or null.
    pub(super) fn optional(&mut self, name: &str) -> Option<&'a RawValue> {
        self.given(name).filter(|raw| raw.get() != "null")
    }

    /// Takes a field, which may be null, and notes if it is not there.
    pub(super) fn required(&mut self, name: &str, problems: &mut Problems) -> Option<&'a RawValue> {
        let given = self.given(name);
        if given.is_none() {
            problems.note(self.path(name), "is required");
        }
        given
    }

    fn given(&mut self, name: &str) -> Option<&'a RawValue> {
        let given = self.members.iter().rev().find(|(member, _)| member == name).map(|(_, raw)| *raw);
        self.members.retain(|(member, _)| member != name);
        given
    }

    /// Takes a text of so many characters; empty after a problem.
    pub(super) fn text(
        &mut self,
        name: &str,
        characters: &RangeInclusive<usize>,
        problems: &mut Problems,
    ) -> String {
        let Some(raw) = self.required(name, problems) else { return String::new() };
        text(raw, characters).unwrap_or_else(|message| {
            problems.note(self.path(name), message);
            String::new()
        })
    }

    /// Notes every field that was not taken.
    pub(super) fn finish(mut self, problems: &mut Problems) {
        self.members.dedup_by(|one, other| one.0 == other.0);
        for (name, _) in &self.members {
            // A name may be as long as the body.
            let shown: String = name.chars().take(100).collect();
            problems.note(format!("{}{shown}", self.prefix), "is unknown");
        }
    }
}

/// A text of so many characters, none of them NUL, which Postgres cannot store.
///
/// # Errors
/// What it must be.
pub(super) fn text(raw: &RawValue, characters: &RangeInclusive<usize>) -> Result<String, String> {
    let wrong = || {
        format!("must be a text of {} to {} characters, without NUL", characters.start(), characters.end())
    };
    let text: String = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
    let fits = characters.contains(&text.chars().count()) && !text.contains('\0');
    if fits { Ok(text) } else { Err(wrong()) }
}

/// The elements of an array, `None` if it is none.
pub(super) fn elements(raw: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(raw.get()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_problem_is_noted_with_its_path() {
        let mut problems = Problems::default();
        let body =
            r#"{"a": "x", "a": 1, "\u0061": 2, "b": "", "c": null, "z": 1, "n": "\u0000", "s": "\ud800"}"#;
        let mut object = Object::read(raw(body), "items[0]", &mut problems).unwrap();
        let some = 1..=3;
        for name in ["a", "b", "c", "n", "s", "missing"] {
            object.text(name, &some, &mut problems);
        }
        assert!(object.optional("nothing").is_none());
        object.finish(&mut problems);
        let rule = "must be a text of 1 to 3 characters, without NUL";
        let expected = [
            ("items[0].a", "is given more than once"),
            ("items[0].a", rule),
            ("items[0].b", rule),
            ("items[0].c", rule),
            ("items[0].n", rule),
            ("items[0].s", rule),
            ("items[0].missing", "is required"),
            ("items[0].z", "is unknown"),
        ];
        let found = problems.or(()).unwrap_err();
        let found: Vec<_> = found.iter().map(|p| (p.field.as_str(), p.message.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_object_is_said_of_the_body() {
        for text in ["1", "[]", "\"x\"", "null"] {
            let mut problems = Problems::default();
            assert!(Object::read(raw(text), "", &mut problems).is_none());
            let expected = Problem { field: "body".into(), message: "must be an object".into() };
            assert_eq!(problems.or(()), Err(vec![expected]), "{text}");
        }
    }

    #[test]
    fn characters_are_counted_and_not_bytes() {
        assert_eq!(text(raw("\"äöü\""), &(1..=3)), Ok("äöü".to_owned()));
        assert!(text(raw("\"äöüß\""), &(1..=3)).is_err());
    }

    #[test]
    fn an_answer_has_at_most_a_thousand_problems() {
        let mut problems = Problems::default();
        for n in 0..5000 {
            problems.note(n.to_string(), "is unknown");
        }
        assert_eq!(problems.or(()).unwrap_err().len(), 1000);
    }
}

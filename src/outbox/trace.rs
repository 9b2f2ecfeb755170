//! The `tracingspancontext` column: W3C trace context in the text of a Java `Properties` file.
//!
//! Writers put `traceparent` and `tracestate` in it, a comment with the date first; some write one
//! key at a time, so that either may stand alone. The text is a courtesy of the writer: what is wrong
//! with it never holds up the event.

use std::iter::Peekable;
use std::str::Chars;

/// What the column held.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Context {
    /// A valid `traceparent`.
    pub(super) traceparent: Option<String>,
    /// A valid `tracestate`; dropped where the `traceparent` beside it is invalid, as W3C asks.
    pub(super) tracestate: Option<String>,
    /// Whether something was there that could not be used.
    pub(super) garbage: bool,
}

/// What the column of our own table takes, in characters; Debezium's has the same.
const COLUMN_CHARACTERS: usize = 256;

/// The trace of whoever writes an event, to be stored with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    traceparent: String,
    tracestate: Option<String>,
}

impl TraceContext {
    /// From the values of a request's headers; `None` without a valid `traceparent`. A `tracestate`
    /// that is invalid, or too long for the column beside it, is left out, as W3C allows.
    pub fn of_headers(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let mut context = Self { traceparent: traceparent.to_owned(), tracestate: None };
        if !is_traceparent(traceparent) || context.to_properties().len() > COLUMN_CHARACTERS {
            return None;
        }
        context.tracestate =
            tracestate.map(str::trim).filter(|s| !s.is_empty() && is_tracestate(s)).map(str::to_owned);
        if context.to_properties().len() > COLUMN_CHARACTERS {
            context.tracestate = None;
        }
        Some(context)
    }

    /// `traceparent`, and `tracestate` if there is one, with their values.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let state = self.tracestate.as_deref().map(|state| ("tracestate", state));
        [("traceparent", self.traceparent.as_str())].into_iter().chain(state)
    }

    /// The text for the `tracingspancontext` column.
    pub fn to_properties(&self) -> String {
        // All other characters of a value mean themselves, and a value never begins with a blank.
        let line = |(name, value): (&str, &str)| format!("{name}={}\n", value.replace('\\', "\\\\"));
        self.entries().map(line).collect()
    }
}

pub(super) fn read(text: &[u8]) -> Context {
    let properties = std::str::from_utf8(text).ok().and_then(properties);
    let Some(properties) = properties else {
        return Context { garbage: true, ..Context::default() };
    };
    let last = |name: &str| {
        let value = properties.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty())
    };
    let (parent, state) = (last("traceparent"), last("tracestate"));
    let parent_fits = parent.is_none_or(is_traceparent);
    let state_fits = state.is_none_or(is_tracestate);
    let nothing_known = !properties.is_empty() && parent.is_none() && state.is_none();
    Context {
        traceparent: parent.filter(|_| parent_fits).map(str::to_owned),
        tracestate: state.filter(|_| parent_fits && state_fits).map(str::to_owned),
        garbage: nothing_known || !parent_fits || !state_fits,
    }
}

/// `version-traceid-parentid-flags` in lower-case hex; versions above 00 may have more behind it.
fn is_traceparent(value: &str) -> bool {
    let mut parts = value.splitn(5, '-');
    let mut hex = |length: usize| {
        let fits = |part: &&str| {
            part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        parts.next().filter(fits)
    };
    let (Some(version), Some(trace), Some(parent), Some(_)) = (hex(2), hex(32), hex(16), hex(2)) else {
        return false;
    };
    let is_zero = |id: &str| id.bytes().all(|b| b == b'0');
    let more_is_allowed = version != "00" && value.bytes().all(|b| b.is_ascii_graphic());
    version != "ff" && !is_zero(trace) && !is_zero(parent) && (parts.next().is_none() || more_is_allowed)
}

/// Only the characters are checked: what its members mean is their vendors' business.
fn is_tracestate(value: &str) -> bool {
    value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// The entries of a `Properties` text in order, `None` for a broken `\u` escape, its only error.
fn properties(text: &str) -> Option<Vec<(String, String)>> {
    let mut entries = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| is_blank(*c) || is_line_end(*c)).is_some() {}
        match chars.peek() {
            None => return Some(entries),
            Some('#' | '!') => while chars.next_if(|c| !is_line_end(*c)).is_some() {},
            Some(_) => {
                let key = part(&mut chars, |c| is_blank(c) || c == '=' || c == ':')?;
                skip_blanks(&mut chars);
                if chars.next_if(|c| matches!(c, '=' | ':')).is_some() {
                    skip_blanks(&mut chars);
                }
                entries.push((key, part(&mut chars, |_| false)?));
            }
        }
    }
}

/// Unescaped text up to the line's end or a bare character that `ends` it.
fn part(chars: &mut Peekable<Chars<'_>>, ends: impl Fn(char) -> bool) -> Option<String> {
    let mut out = String::new();
    while let Some(c) = chars.next_if(|c| !is_line_end(*c) && !ends(*c)) {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            None => {}
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let digits: String = chars.take(4).collect();
                if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return None;
                }
                let code = u32::from_str_radix(&digits, 16).ok()?;
                // Halves of a surrogate pair belong to no key or value we use.
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            // An escaped line end joins the next line without its indentation.
            Some(end) if is_line_end(end) => {
                if end == '\r' {
                    chars.next_if_eq(&'\n');
                }
                skip_blanks(chars);
            }
            Some(other) => out.push(other),
        }
    }
    Some(out)
}

fn skip_blanks(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|c| is_blank(*c)).is_some() {}
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Context, TraceContext, properties, read};

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn context(parent: Option<&str>, state: Option<&str>, garbage: bool) -> Context {
        Context { traceparent: parent.map(Into::into), tracestate: state.map(Into::into), garbage }
    }

    #[test]
    fn reads_what_java_writes() {
        let text =
            format!("#Mon May 06 07:08:09 UTC 2024\ntracestate=vendor\\=a\\:b\ntraceparent={PARENT}\n");
        assert_eq!(read(text.as_bytes()), context(Some(PARENT), Some("vendor=a:b"), false));
    }

    #[test]
    fn what_is_written_reads_back() {
        for (state, kept) in [
            (None, None),
            (Some(" "), None),
            (Some("ä=1"), None),
            (Some(" a=\\#!:=, b=x "), Some("a=\\#!:=, b=x")),
            (Some(&*"v".repeat(170)), Some(&*"v".repeat(170))),
            (Some(&*"v".repeat(400)), None),
        ] {
            let written = TraceContext::of_headers(PARENT, state).unwrap().to_properties();
            assert!(written.len() <= 256);
            assert_eq!(read(written.as_bytes()), context(Some(PARENT), kept, false), "{state:?}");
        }
        let long = format!("cc{}-{}", &PARENT[2..], "x".repeat(300));
        for wrong in ["", "x", &PARENT.to_uppercase(), &long] {
            assert_eq!(TraceContext::of_headers(wrong, Some("a=1")), None, "{wrong}");
        }
    }

    #[test]
    fn either_key_may_stand_alone() {
        assert_eq!(read(format!("traceparent={PARENT}").as_bytes()), context(Some(PARENT), None, false));
        assert_eq!(read(b"tracestate: v=1"), context(None, Some("v=1"), false));
        assert_eq!(
            read(format!("traceparent={PARENT}\ntracestate=").as_bytes()),
            context(Some(PARENT), None, false)
        );
    }

    #[test]
    fn no_property_is_no_garbage() {
        for text in ["", "  \n", "#Mon May 06 07:08:09 UTC 2024\n", "! x"] {
            assert_eq!(read(text.as_bytes()), Context::default(), "{text:?}");
        }
    }

    #[test]
    fn garbage_is_ignored_and_said() {
        for text in [
            "hello",
            "{\"traceparent\": \"x\"}",
            "uber-trace-id=1:2:3:1",
            "traceparent=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "traceparent=00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "traceparent=ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "traceparent=00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "traceparent=00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "traceparent=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "traceparent=x\ntracestate=v=1",
            "tracestate=\\u00e4",
            "tracestate=\\u00",
        ] {
            assert_eq!(read(text.as_bytes()), context(None, None, true), "{text}");
        }
        assert_eq!(read(b"traceparent=\xff"), context(None, None, true));
        let text = format!("traceparent={PARENT}\ntracestate=a\\nb");
        assert_eq!(read(text.as_bytes()), context(Some(PARENT), None, true));
    }

    #[test]
    fn a_later_version_may_have_more() {
        let later = format!("cc{}-what", &PARENT[2..]);
        assert_eq!(read(format!("traceparent={later}").as_bytes()), context(Some(&later), None, false));
    }

    #[test]
    fn properties_are_read_by_javas_rules() {
        let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        for (text, expected) in [
            ("a=1\r\nb:2\rc 3", vec![entry("a", "1"), entry("b", "2"), entry("c", "3")]),
            ("  a  =  1 ", vec![entry("a", "1 ")]),
            ("a\\=b\\ c=d=e", vec![entry("a=b c", "d=e")]),
            ("a=1\\\n   2\\\r\n 3", vec![entry("a", "123")]),
            ("a\nb=", vec![entry("a", ""), entry("b", "")]),
            ("a=\\u0041\\t\\q\\", vec![entry("a", "A\tq")]),
            ("#a\\\nb=1", vec![entry("b", "1")]),
            ("a = = b", vec![entry("a", "= b")]),
        ] {
            assert_eq!(properties(text), Some(expected), "{text:?}");
        }
        assert_eq!(properties("a=\\u00g1"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            read(&text);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[a\\\\u0=:# \n\r]{0,30}") {
            read(text.as_bytes());
        }
    }
}

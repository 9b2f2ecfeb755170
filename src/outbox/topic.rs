//! Topic names: made of aggregate types, checked, and shared between records.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Kafka's own limit for a topic's name, in bytes.
const NAME_BYTES_MAX: usize = 249;

/// Aggregate types are few; with more than this many the memory of known ones starts anew.
const KNOWN_MAX: usize = 1024;

/// Says what is wrong with a topic's name, by the rules of the broker.
///
/// # Errors
/// The reason, fit to follow the name.
pub fn check_topic_name(name: &str) -> Result<(), &'static str> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match name {
        "" => Err("the topic's name is empty"),
        "." | ".." => Err("the topic's name is . or .."),
        _ if name.len() > NAME_BYTES_MAX => Err("the topic's name is longer than 249 characters"),
        _ if !name.bytes().all(legal) => Err("the topic's name has characters other than a-z A-Z 0-9 . _ -"),
        _ => Ok(()),
    }
}

/// Where events of an aggregate type go unless one topic takes all.
pub fn routed_topic(aggregate_type: &str) -> String {
    format!("outbox.event.{aggregate_type}")
}

/// A topic's name and what is wrong with it.
#[derive(Debug, Clone)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    pub(super) wrong: Option<&'static str>,
}

impl Topic {
    fn new(name: &str) -> Self {
        Self { name: name.into(), wrong: check_topic_name(name).err() }
    }
}

/// Which topic an aggregate type goes to.
#[derive(Debug)]
pub(super) enum Topics {
    /// One for all.
    Fixed(Topic),
    /// `outbox.event.<aggregatetype>`, remembered by the type's bytes so that a known one costs no
    /// allocation; for the few there are an ordered map is faster than a hashed one.
    Routed(BTreeMap<Box<[u8]>, Topic>),
}

impl Topics {
    pub(super) fn new(fixed: Option<&str>) -> Self {
        fixed.map_or_else(|| Self::Routed(BTreeMap::new()), |name| Self::Fixed(Topic::new(name)))
    }

    pub(super) fn of(&mut self, aggregate_type: &[u8]) -> Topic {
        match self {
            Self::Fixed(topic) => topic.clone(),
            Self::Routed(known) => {
                if let Some(topic) = known.get(aggregate_type) {
                    return topic.clone();
                }
                if known.len() >= KNOWN_MAX {
                    known.clear();
                }
                // Bytes that are not UTF-8 become replacement characters, which no topic may have; so does
                // NUL, which no text of Postgres may have, or the name could not stand in a dead letter.
                let text = String::from_utf8_lossy(aggregate_type).replace('\0', "\u{fffd}");
                let topic = Topic::new(&routed_topic(&text));
                known.insert(aggregate_type.into(), topic.clone());
                topic
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{KNOWN_MAX, Topics, check_topic_name};

    #[test]
    fn a_topic_name_is_checked_as_the_broker_does() {
        for name in ["a", "...", "A-z_0.9", &"x".repeat(249)] {
            assert_eq!(check_topic_name(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a b", "a/b", "ä", "a\n", &"x".repeat(250)] {
            assert!(check_topic_name(name).is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn a_known_aggregate_type_shares_its_topic() {
        let mut topics = Topics::new(None);
        let first = topics.of(b"Order");
        assert_eq!(&*first.name, "outbox.event.Order");
        assert!(Arc::ptr_eq(&first.name, &topics.of(b"Order").name));
    }

    #[test]
    fn a_type_that_is_no_text_of_postgres_has_a_name_that_is_one_and_no_topic() {
        for bytes in [&b"a\0b"[..], b"a\xffb"] {
            let topic = Topics::new(None).of(bytes);
            assert_eq!(&*topic.name, "outbox.event.a\u{fffd}b");
            assert!(topic.wrong.is_some());
        }
    }

    #[test]
    fn the_memory_of_topics_is_bounded() {
        let mut topics = Topics::new(None);
        for n in 0..KNOWN_MAX * 3 {
            assert_eq!(&*topics.of(n.to_string().as_bytes()).name, format!("outbox.event.{n}"));
            let Topics::Routed(known) = &topics else { panic!("not routed") };
            assert!(known.len() <= KNOWN_MAX);
        }
    }
}

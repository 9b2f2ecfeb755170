//! A topic's `max.message.bytes` below the records of the outbox: the relay halts at the first that is larger.

use super::Finding;
use super::payloads::TopicLoad;
use crate::kafka::describe::TopicSettings;
use crate::kafka::error::quoted;
use crate::kafka::limits::DEFAULT_TOPIC_LIMIT;

pub(super) const NAME: &str = "max_message_bytes";

pub(super) fn judge(load: &TopicLoad, sampled: bool, settings: &TopicSettings, bootstrap: &str) -> Finding {
    let topic = &load.topic;
    let limit = settings.max_message_bytes.unwrap_or(u64::from(DEFAULT_TOPIC_LIMIT));
    let assumed =
        if settings.max_message_bytes.is_none() { " (assumed: it cannot be asked for)" } else { "" };
    let of = if sampled { " of a sample of the table's rows" } else { "" };
    let Some(largest) = load.largest_bytes.and_then(|bytes| u64::try_from(bytes).ok()) else {
        return Finding::ok(
            NAME,
            format!("topic {topic} takes {limit} bytes{assumed}; there are no rows to compare"),
        );
    };
    let seen = format!("the largest record{of} for topic {topic} takes about {largest} bytes");
    if largest <= limit {
        return Finding::ok(NAME, format!("{seen}, the topic takes {limit}{assumed}"));
    }
    // Room for what comes, in whole MiB.
    let wanted = (largest * 2).next_multiple_of(1 << 20);
    Finding::fail(NAME, format!("{seen}, but the topic takes {limit}{assumed}: the relay halts at it")).mended_by(
        format!(
            "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {} --add-config \
             max.message.bytes={wanted}",
            quoted(bootstrap),
            quoted(topic)
        ),
    )
}

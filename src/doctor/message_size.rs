//! A topic's limit below the records of the outbox: the relay halts at the first that is larger. Of a topic that does
//! not exist yet it is what brokers give a new one.

use super::Finding;
use super::payloads::TopicLoad;
use crate::kafka::error::quoted;
use crate::kafka::limits::TopicLimit;

pub(super) const NAME: &str = "max_message_bytes";

pub(super) fn judge(load: &TopicLoad, sampled: bool, limit: TopicLimit, bootstrap: &str) -> Finding {
    let topic = &load.topic;
    let takes = match (limit, limit.bytes()) {
        (TopicLimit::Own(_), bytes) => format!("takes {bytes}"),
        (TopicLimit::Missing(Some(_)), bytes) => format!("takes {bytes} as brokers will create it"),
        (TopicLimit::Missing(None) | TopicLimit::Hidden(_), bytes) => {
            format!("takes {bytes} (assumed: it cannot be asked for)")
        }
    };
    let of = if sampled { " of a sample of the table's rows" } else { "" };
    let Some(largest) = load.largest_bytes.and_then(|bytes| u64::try_from(bytes).ok()) else {
        return Finding::ok(NAME, format!("topic {topic} {takes}; there are no rows to compare"));
    };
    let seen = format!("the largest record{of} for topic {topic} takes about {largest} bytes");
    if largest <= u64::from(limit.bytes()) {
        return Finding::ok(NAME, format!("{seen}, the topic {takes}"));
    }
    // Room for what comes, in whole MiB.
    let wanted = (largest * 2).next_multiple_of(1 << 20);
    let (bootstrap, topic) = (quoted(bootstrap), quoted(topic));
    let mend = if matches!(limit, TopicLimit::Missing(_)) {
        format!(
            "kafka-topics.sh --bootstrap-server {bootstrap} --create --topic {topic} --config max.message.bytes={wanted}"
        )
    } else {
        format!(
            "kafka-configs.sh --bootstrap-server {bootstrap} --alter --entity-type topics --entity-name {topic} \
             --add-config max.message.bytes={wanted}"
        )
    };
    Finding::fail(NAME, format!("{seen}, but the topic {takes}: the relay halts at it")).mended_by(mend)
}

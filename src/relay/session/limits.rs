//! What Kafka says of topics' size limits, and what of it is only assumed.

use std::mem;
use std::sync::Arc;

use tokio::time::Instant;

use super::Session;
use crate::kafka::limits::TopicLimit;

impl Session<'_> {
    pub(super) fn limit_answered(&mut self, topic: &Arc<str>, answer: TopicLimit) {
        self.say_what_to_grant(topic, answer);
        let now = Instant::now();
        let limit = answer.after(self.known.limits.get(topic).copied());
        self.known.limits.insert(Arc::clone(topic), limit);
        let bytes = limit.bytes();
        self.core.learnt_limit(topic, limit, now);
        let smallest = self.known.batch_limit.map_or(bytes, |known| known.min(bytes));
        self.known.batch_limit = Some(smallest);
        if self.producer.as_ref().is_some_and(|producer| smallest < producer.batch_bytes()) {
            self.shrink.get_or_insert(now);
        }
        self.intake.retry_pending(&mut self.core, &self.routes, now);
        if let Some(topic) = self.intake.wanted_limit() {
            self.desk.ask(topic);
        }
    }

    /// What would make a guess needless, once for topics and once for brokers.
    fn say_what_to_grant(&mut self, topic: &Arc<str>, answer: TopicLimit) {
        let assumed = answer.bytes();
        match answer {
            TopicLimit::Hidden(_) if !mem::replace(&mut self.known.said_topics_hidden, true) => {
                tracing::warn!(%topic, assumed,
                    "describing topics is not allowed, so their max.message.bytes is assumed; grant DescribeConfigs on them");
            }
            TopicLimit::Missing(None) if !mem::replace(&mut self.known.said_brokers_hidden, true) => {
                tracing::warn!(%topic, assumed,
                    "the topic does not exist yet, and asking brokers for the message.max.bytes that it will have is not \
                     allowed, so it is assumed; grant DescribeConfigs on the cluster");
            }
            _ => {}
        }
    }
}

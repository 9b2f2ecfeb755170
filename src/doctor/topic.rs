//! Kafka: whether it answers, and for each topic of the outbox whether it is there.

use std::time::Duration;

use super::payloads::{Payloads, TopicLoad};
use super::{Finding, Subject, acknowledgements, message_size};
use crate::kafka::error::{quoted, reading_remedy};
use crate::kafka::limits::Limits;
use crate::kafka::reader::{ReadError, Reader, TopicAnswer};
use crate::kafka::{CreateError, Describer};

/// Whether brokers answer.
const KAFKA: &str = "kafka";

/// Whether a topic is there.
const TOPIC: &str = "topic";

/// Long enough for a broker far away, short enough for a person who waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// The answer about one topic.
type Asked = (TopicLoad, Result<TopicAnswer, ReadError>);

/// What the brokers answered.
struct Answers {
    brokers: Vec<i32>,
    topics: Vec<Asked>,
}

pub(super) async fn examine(subject: &Subject, payloads: Result<Payloads, Finding>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (loads, sampled) = match payloads {
        Ok(payloads) => {
            findings.extend(payloads.findings);
            (payloads.topics, payloads.sampled)
        }
        Err(finding) => {
            findings.push(finding);
            let topic = subject.outbox.fixed_topic.clone();
            (topic.map(|topic| TopicLoad { topic, largest_bytes: None }).into_iter().collect(), false)
        }
    };
    let answers = match ask(subject, loads).await {
        Ok(answers) => answers,
        Err(error) => {
            findings.push(Finding::fail(KAFKA, error.what).mended_by(error.remedy));
            let rest = [TOPIC, message_size::NAME, acknowledgements::NAME];
            findings.extend(rest.map(|name| Finding::unchecked(name, "Kafka does not answer")));
            return findings;
        }
    };
    let count = answers.brokers.len();
    findings.push(Finding::ok(KAFKA, format!("{count} broker(s) answer at {}", subject.kafka.brokers)));
    if answers.topics.is_empty() {
        findings.push(Finding::ok(TOPIC, "the outbox has no rows, so there is no topic to look at"));
    }
    let (describer, limits) = match (Describer::new(&subject.kafka), Limits::new(&subject.kafka)) {
        (Ok(describer), Ok(limits)) => (describer, limits),
        (Err(error), _) | (_, Err(error)) => {
            findings.push(Finding::unchecked(TOPIC, &error.to_string()));
            return findings;
        }
    };
    let bootstrap = &subject.kafka.brokers;
    for (load, answer) in &answers.topics {
        let topic = &load.topic;
        match answer {
            Err(error) => findings.push(Finding::unchecked(TOPIC, &error.what)),
            Ok(TopicAnswer::NotAllowed) => findings.push(
                Finding::fail(TOPIC, format!("topic {topic} may not be seen with these credentials"))
                    .mended_by(reading_remedy(topic, bootstrap)),
            ),
            Ok(TopicAnswer::Missing) => {
                let creates = match answers.brokers.first() {
                    Some(broker) => describer.creates_topics(*broker).await,
                    None => None,
                };
                findings.push(missing(topic, creates, count, bootstrap));
                findings.push(size(&limits, load, sampled, bootstrap).await);
            }
            Ok(TopicAnswer::Found(partitions)) => {
                findings
                    .push(Finding::ok(TOPIC, format!("topic {topic} has {} partition(s)", partitions.len())));
                findings.push(size(&limits, load, sampled, bootstrap).await);
                let settings = describer.topic(topic).await;
                findings.extend(acknowledgements::judge(topic, partitions, &settings, count, bootstrap));
            }
        }
    }
    // Closing waits for a thread of librdkafka.
    let _ = tokio::task::spawn_blocking(move || limits.close()).await;
    findings
}

/// Whether the topic's records fit, by the limit that the relay goes by.
async fn size(limits: &Limits, load: &TopicLoad, sampled: bool, bootstrap: &str) -> Finding {
    match limits.topic_limit(&load.topic).await {
        Ok(limit) => message_size::judge(load, sampled, limit, bootstrap),
        Err(why) => Finding::unchecked(message_size::NAME, &why),
    }
}

/// A missing topic waits, unless the brokers make it at the first record.
fn missing(topic: &str, creates: Option<bool>, brokers: usize, bootstrap: &str) -> Finding {
    let finding = match creates {
        Some(false) => Finding::fail(
            TOPIC,
            format!("topic {topic} does not exist, and brokers create none: its records wait"),
        ),
        Some(true) => Finding::warn(
            TOPIC,
            format!(
                "topic {topic} does not exist yet; brokers will create it with their defaults at its first record"
            ),
        ),
        None => Finding::warn(
            TOPIC,
            format!("topic {topic} does not exist; unless brokers create it, its records wait"),
        ),
    };
    finding.mended_by(format!(
        "kafka-topics.sh --bootstrap-server {} --create --topic {} --partitions 6 --replication-factor {}",
        quoted(bootstrap),
        quoted(topic),
        brokers.clamp(1, 3)
    ))
}

/// Asks on a thread that may block.
async fn ask(subject: &Subject, loads: Vec<TopicLoad>) -> Result<Answers, ReadError> {
    let (kafka, group, patience) = (subject.kafka.clone(), subject.group.clone(), PATIENCE.max(subject.wait));
    let asked = tokio::task::spawn_blocking(move || {
        let unmade = |error: CreateError| ReadError {
            what: error.to_string(),
            remedy: "correct the Kafka settings (txstream config shows them)".to_owned(),
        };
        let reader = Reader::new(&kafka, &group, patience).map_err(unmade)?;
        let brokers = reader.broker_ids()?;
        let topics = loads.into_iter().map(|load| {
            let answer = reader.topic(&load.topic);
            (load, answer)
        });
        Ok(Answers { brokers, topics: topics.collect() })
    });
    asked.await.unwrap_or_else(|error| {
        Err(ReadError {
            what: format!("asking Kafka failed: {error}"),
            remedy: "report this as a bug".to_owned(),
        })
    })
}

//! librdkafka's configuration: what is forced, refused, passed through, and defaults of ours.
//!
//! Three layers, later ones win: defaults of ours, what the [`Settings`] say, what the promise
//! forces. [`validate`] has refused whatever a forced value would overrule, so nothing a person
//! set is dropped in silence.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;
use rdkafka::types::RDKafkaConfRes;

use super::{Property, Settings};

mod names;
mod rules;

/// What the promise forces: all replicas, no duplicate or reordering by retries (idempotence brings
/// at most five requests in flight and endless retries), no local timeout that would expire records
/// in the middle of a key, the Java client's partitions, a report for every record.
const FORCED: &[(&str, &str)] = &[
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("message.timeout.ms", "0"),
    ("partitioner", "murmur2_random"),
    ("delivery.report.only.error", "false"),
    ("statistics.interval.ms", "0"),
];

/// The default `batch.size` below: a topic whose limit is smaller needs another producer.
pub const DEFAULT_BATCH_BYTES: u32 = 1_000_000;

/// Defaults of ours where librdkafka's do not suit; every one may be set otherwise.
const DEFAULTS: &[(&str, &str)] = &[
    // The relay gathers records by the recent rate and hands them over in bursts; lingering would
    // only add latency. See the batching rule of the relay.
    ("linger.ms", "0"),
    ("batch.size", "1000000"),
    // The topic's own limit decides, and is checked before a record comes here.
    ("message.max.bytes", "1000000000"),
    // The relay's byte budget is the real bound; these must never be met before it.
    ("queue.buffering.max.messages", "10000000"),
    ("queue.buffering.max.kbytes", "2147483647"),
    ("socket.nagle.disable", "true"),
    ("socket.keepalive.enable", "true"),
    // Back within two seconds of a broker's return, not ten.
    ("reconnect.backoff.max.ms", "2000"),
    // A topic without rights or not existing is refused on our side until its metadata is read
    // again: this is how long it takes to notice that a person mended it. librdkafka waits 5 minutes.
    ("topic.metadata.refresh.interval.ms", "10000"),
    // Nobody asked for client metrics to be pushed to the cluster.
    ("enable.metrics.push", "false"),
];

/// Names that mean the same; both set, the order of setting would decide, so one is used throughout.
const ALIASES: &[(&str, &str)] = &[
    ("metadata.broker.list", "bootstrap.servers"),
    ("queue.buffering.max.ms", "linger.ms"),
    ("compression.codec", "compression.type"),
    ("sasl.mechanisms", "sasl.mechanism"),
];

/// Of the producer alone; a client that only asks questions must not get a producer id.
const PRODUCER_ONLY: &[&str] = &["enable.idempotence", "message.timeout.ms", "acks", "partitioner"];

/// Whether a property's value must not be shown. Judged by the name, so that a misspelt one is hidden too.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let marks = [
        "pas",
        "pwd",
        "secret",
        "jaas",
        "token",
        "private",
        "key.pem",
        "ssl_key",
        "keystore.key",
        "bearer.config",
    ];
    marks.iter().any(|mark| name.contains(mark)) && !name.ends_with(".url")
}

/// Checks properties as a whole: none refused, all known and well formed, and together they make a
/// client (files readable, SASL complete). Connects nowhere.
///
/// # Errors
/// All errors at once, each naming its property and what to do; no secret value is shown.
pub fn validate(properties: &[Property]) -> Result<(), Vec<String>> {
    let mut errors: Vec<String> = properties.iter().filter_map(fault).collect();
    let sasl = last(properties, "security.protocol")
        .is_some_and(|value| value.to_ascii_lowercase().starts_with("sasl"));
    if sasl && last(properties, "sasl.mechanism").is_none() {
        errors.push(rules::missing_mechanism());
    }
    if errors.is_empty() {
        errors.extend(trial(properties));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// What is wrong with one property by itself.
fn fault(property: &Property) -> Option<String> {
    let Property { name, value } = property;
    if let Some(objection) = rules::objection(name, value) {
        return Some(objection);
    }
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => None,
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            let hint = names::nearest(name).map(|near| format!("; did you mean {near}?"));
            Some(format!("{name} is not a property of librdkafka{}", hint.unwrap_or_default()))
        }
        Err(KafkaError::ClientConfig(_, text, ..)) if !is_secret(name) => {
            Some(format!("{name} cannot be used: {}", lower_first(&text)))
        }
        Err(_) => Some(format!("{name} has a value that librdkafka does not take")),
    }
}

/// Makes and drops a client with the properties, without a broker to connect to.
fn trial(properties: &[Property]) -> Option<String> {
    let settings = Settings {
        brokers: String::new(),
        client_id: "txstream".to_owned(),
        request_timeout: std::time::Duration::from_secs(30),
        properties: properties.to_vec(),
    };
    let mut config = producer(&settings, None);
    config.remove("bootstrap.servers").set_log_level(RDKafkaLogLevel::Emerg).set("log_level", "0");
    match config.create::<BaseProducer>() {
        Ok(_) => None,
        Err(KafkaError::ClientCreation(text)) => Some(format!("the properties make no client: {text}")),
        Err(_) => Some("the properties make no client".to_owned()),
    }
}

/// The producer's configuration; `max_batch_bytes` is the smallest limit of the topics it serves.
pub(super) fn producer(settings: &Settings, max_batch_bytes: Option<u32>) -> ClientConfig {
    let mut config = ClientConfig::new();
    let socket_timeout = millis(settings.request_timeout, 1_000, 10, 300_000);
    for (name, value) in DEFAULTS {
        config.set(*name, *value);
    }
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", &settings.client_id)
        .set("request.timeout.ms", millis(settings.request_timeout, 0, 1, 900_000))
        // After a leader change a partition waits for its old requests this long: little more than
        // the broker may take itself.
        .set("socket.timeout.ms", socket_timeout)
        .set_log_level(RDKafkaLogLevel::Info);
    for property in &settings.properties {
        config.set(canonical(&property.name), &property.value);
    }
    for (name, value) in FORCED {
        config.set(*name, *value);
    }
    if let Some(most) = max_batch_bytes {
        config.set("batch.size", batch_bytes(&config).min(most).max(1).to_string());
    }
    // Someone who sets `debug` wants to see its lines.
    if config.get("debug").is_some_and(|facilities| !facilities.is_empty()) {
        config.set_log_level(RDKafkaLogLevel::Debug);
    }
    config
}

/// Bytes that a batch of several records may come to in a producer with this configuration.
pub(super) fn batch_bytes(config: &ClientConfig) -> u32 {
    config.get("batch.size").and_then(|size| size.parse().ok()).unwrap_or(DEFAULT_BATCH_BYTES)
}

/// The configuration of a client that only asks brokers questions.
pub(super) fn admin(settings: &Settings) -> ClientConfig {
    let mut config = producer(settings, None);
    for name in PRODUCER_ONLY {
        config.remove(name);
    }
    // Asking for a topic must not create it.
    config.set("allow.auto.create.topics", "false");
    // Nothing polls this client's log queue, so nothing may be put there. Its errors come with answers.
    config.remove("debug").set_log_level(RDKafkaLogLevel::Emerg).set("log_level", "0");
    config
}

/// The name and manners of a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `group.id`.
    pub id: String,
    /// `auto.offset.reset`.
    pub auto_offset_reset: String,
    /// `session.timeout.ms`.
    pub session_timeout: std::time::Duration,
}

/// The configuration of a client that asks for topics as a consumer would, and reads them by assignment.
pub(super) fn consumer(settings: &Settings, group: &Group) -> ClientConfig {
    let mut config = admin(settings);
    config
        // librdkafka wants a name; nobody joins the group, and no offset is committed to it.
        .set("group.id", &group.id)
        .set("session.timeout.ms", millis(group.session_timeout, 0, 1, 3_600_000))
        .set("max.poll.interval.ms", millis(group.session_timeout, 0, 300_000, 86_400_000))
        .set("auto.offset.reset", &group.auto_offset_reset)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // The last offsets of a partition may be of no record; its end is told all the same.
        .set("enable.partition.eof", "true");
    config
}

/// A duration plus `extra` milliseconds, in the bounds that librdkafka takes.
fn millis(duration: std::time::Duration, extra: u128, least: u128, most: u128) -> String {
    (duration.as_millis() + extra).clamp(least, most).to_string()
}

/// The value of a property, by its canonical name, that is in force.
pub(super) fn last<'a>(properties: &'a [Property], name: &str) -> Option<&'a str> {
    properties
        .iter()
        .rev()
        .find(|property| canonical(&property.name) == name)
        .map(|property| &*property.value)
}

fn canonical(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, canonical)| canonical)
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests;

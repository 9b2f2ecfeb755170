//! Properties that may not be set, or only to what the promise needs, and what to do instead.

/// The rule for one property.
pub(super) struct Rule {
    /// librdkafka's name, or a Java client's that librdkafka lacks.
    pub(super) name: &'static str,
    /// Values that say what txstream does anyway; empty: the property is refused whatever it says.
    pub(super) accepted: &'static [&'static str],
    /// Why, and what to do instead.
    pub(super) instead: &'static str,
}

const fn rule(name: &'static str, accepted: &'static [&'static str], instead: &'static str) -> Rule {
    Rule { name, accepted, instead }
}

const ACKS: &str = "a record counts only when all in-sync replicas have it; leave the property out";
const IDEMPOTENCE: &str = "order and freedom from duplicates across retries need it; leave the property out";
const TIMEOUT: &str = "records wait for Kafka however long it is away; leave the property out, \
     KAFKA_TIMEOUT_DURATION says when a wait counts as a failure";
const RETRIES: &str = "librdkafka retries without end and in order; KAFKA_MAX_RETRIES bounds our own resends";
const IN_FLIGHT: &str = "the idempotent producer keeps at most 5 requests in flight; leave the property out";
const MECHANISM: &str = "this build does not offer it; use sasl.mechanism=SCRAM-SHA-512 (or SCRAM-SHA-256, PLAIN) \
     with sasl.username and sasl.password";
const JAVA_CODE: &str = "it names a class of the Java client; leave it out";
const TRUSTSTORE: &str =
    "a setting of the Java client; give the CA certificate as a PEM file in ssl.ca.location";
const MOCK: &str = "it replaces Kafka by a mock that keeps nothing; leave it out";

/// Every refused or forced name. Aliases stand beside the name they mean.
pub(super) const RULES: &[Rule] = &[
    rule("acks", &["all", "-1"], ACKS),
    rule("request.required.acks", &["all", "-1"], ACKS),
    rule("enable.idempotence", &["true"], IDEMPOTENCE),
    rule(
        "partitioner",
        &["murmur2_random"],
        "a key goes to the partition that the Java client chooses; leave the property out",
    ),
    rule("message.timeout.ms", &["0"], TIMEOUT),
    rule("delivery.timeout.ms", &["0"], TIMEOUT),
    rule("retries", &[], RETRIES),
    rule("message.send.max.retries", &[], RETRIES),
    rule("max.in.flight", &[], IN_FLIGHT),
    rule("max.in.flight.requests.per.connection", &[], IN_FLIGHT),
    rule("queuing.strategy", &["fifo"], "any other order breaks the order of a key; leave the property out"),
    rule(
        "transactional.id",
        &[],
        "the promise is at least once with a stable id header, without Kafka transactions; leave it out",
    ),
    rule(
        "delivery.report.only.error",
        &["false"],
        "only a delivery report confirms a record; leave the property out",
    ),
    rule(
        "enable.gapless.guarantee",
        &["false"],
        "it makes every permanent error fatal, missing rights too; leave it out",
    ),
    rule(
        "topic.blacklist",
        &[],
        "records of a hidden topic would wait for ever; take the rows out of the outbox instead",
    ),
    rule("statistics.interval.ms", &["0"], "nothing reads them; the relay serves its own at METRICS_PATH"),
    rule("log_level", &[], "set LOGGING_LEVEL"),
    rule("log.queue", &["true"], "librdkafka's log goes into ours; leave it out"),
    rule("enabled_events", &[], "deliveries come by events; leave it out"),
    rule("plugin.library.paths", &[], "foreign code could drop or change records; leave it out"),
    rule(
        "api.version.request",
        &["true"],
        "headers and idempotence need the broker's versions; leave the property out",
    ),
    rule("test.mock.num.brokers", &[], MOCK),
    rule("test.mock.broker.rtt", &[], MOCK),
    // Of the Java client, where librdkafka has another name or none.
    rule("key.serializer", &[], JAVA_CODE),
    rule("value.serializer", &[], JAVA_CODE),
    rule("key.deserializer", &[], JAVA_CODE),
    rule("value.deserializer", &[], JAVA_CODE),
    rule("partitioner.class", &[], "a key goes to the partition that the Java client chooses by default"),
    rule("interceptor.classes", &[], JAVA_CODE),
    rule("metric.reporters", &[], JAVA_CODE),
    rule("message.max.bytes", &[], "the topic's max.message.bytes decides; leave it out"),
    rule("max.request.size", &[], "the topic's max.message.bytes decides; leave it out"),
    rule("buffer.memory", &[], "set WORKER_MAX_IN_FLIGHT_BYTES"),
    rule("max.block.ms", &[], "sending never blocks; leave it out"),
    rule("send.buffer.bytes", &[], "set socket.send.buffer.bytes"),
    rule("receive.buffer.bytes", &[], "set socket.receive.buffer.bytes"),
    rule("ssl.truststore.location", &[], TRUSTSTORE),
    rule("ssl.truststore.password", &[], TRUSTSTORE),
    rule("ssl.truststore.type", &[], TRUSTSTORE),
    rule("ssl.truststore.certificates", &[], "set ssl.ca.pem or ssl.ca.location"),
    rule("ssl.keystore.type", &[], "ssl.keystore.location takes PKCS#12; leave the type out"),
    rule("ssl.keystore.key", &[], "set ssl.key.pem or ssl.key.location"),
    rule("ssl.keystore.certificate.chain", &[], "set ssl.certificate.pem or ssl.certificate.location"),
    rule("sasl.jaas.config", &[], "set sasl.username and sasl.password"),
    rule("sasl.client.callback.handler.class", &[], MECHANISM),
    rule("sasl.login.callback.handler.class", &[], MECHANISM),
    rule("enable.sasl.oauthbearer.unsecure.jwt", &[], MECHANISM),
];

/// Beginnings of names that are refused as a family.
const FAMILIES: &[(&str, &str)] = &[("sasl.kerberos.", MECHANISM), ("sasl.oauthbearer.", MECHANISM)];

/// Mechanisms that this build offers.
const MECHANISMS: &[&str] = &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// Why `value` of `name` is refused, and what to do instead; `None` when no rule is against it.
///
/// The text never shows the value.
pub(super) fn objection(name: &str, value: &str) -> Option<String> {
    if let Some(rule) = RULES.iter().find(|rule| rule.name == name) {
        if rule.accepted.iter().any(|accepted| accepted.eq_ignore_ascii_case(value.trim())) {
            return None;
        }
        let must = rule.accepted.first().map(|value| format!(" to anything but {value}"));
        return Some(format!("{name} cannot be set{}: {}", must.unwrap_or_default(), rule.instead));
    }
    if let Some((_, instead)) = FAMILIES.iter().find(|(family, _)| name.starts_with(family)) {
        return Some(format!("{name} cannot be set: {instead}"));
    }
    if matches!(name, "sasl.mechanism" | "sasl.mechanisms") {
        let known = MECHANISMS.contains(&value);
        return (!known).then(|| unoffered(name, value));
    }
    None
}

/// The refusal of a mechanism, by its name where it is one that people ask for.
fn unoffered(name: &str, value: &str) -> String {
    let asked = ["GSSAPI", "AWS_MSK_IAM", "OAUTHBEARER"].into_iter().find(|m| m.eq_ignore_ascii_case(value));
    format!("{name}={} cannot be used: {MECHANISM}", asked.unwrap_or("(unknown mechanism)"))
}

/// SASL without a mechanism means GSSAPI to librdkafka, which this build does not offer.
pub(super) fn missing_mechanism() -> String {
    format!("security.protocol asks for SASL without sasl.mechanism, which means GSSAPI: {MECHANISM}")
}

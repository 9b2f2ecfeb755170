use std::time::Duration;

use super::*;

fn property(name: &str, value: &str) -> Property {
    Property { name: name.into(), value: value.into() }
}

fn settings(properties: &[(&str, &str)]) -> Settings {
    Settings {
        brokers: "k1:9092".into(),
        client_id: "txstream".into(),
        request_timeout: Duration::from_secs(30),
        properties: properties.iter().map(|(name, value)| property(name, value)).collect(),
    }
}

fn errors(properties: &[(&str, &str)]) -> Vec<String> {
    validate(&settings(properties).properties).err().unwrap_or_default()
}

fn only_error(name: &str, value: &str) -> String {
    let mut errors = errors(&[(name, value)]);
    assert_eq!(errors.len(), 1, "{name}={value}: {errors:?}");
    errors.remove(0)
}

#[test]
fn every_refused_property_is_refused_by_name_with_a_way_out() {
    for rule in rules::RULES {
        let error = only_error(rule.name, "7hunter2");
        assert!(error.starts_with(&format!("{} cannot be set", rule.name)), "{error}");
        assert!(error.ends_with(rule.instead) && !error.contains("hunter2"), "{error}");
    }
}

/// Listed once more, so that a rule that is lost is missed.
#[test]
fn whatever_breaks_the_promise_is_refused() {
    for (name, value) in [
        ("acks", "1"),
        ("acks", "0"),
        ("request.required.acks", "1"),
        ("enable.idempotence", "false"),
        ("message.timeout.ms", "300000"),
        ("delivery.timeout.ms", "120000"),
        ("retries", "3"),
        ("message.send.max.retries", "3"),
        ("max.in.flight", "1"),
        ("max.in.flight.requests.per.connection", "1"),
        ("queuing.strategy", "lifo"),
        ("transactional.id", "t"),
        ("delivery.report.only.error", "true"),
        ("enable.gapless.guarantee", "true"),
        ("partitioner", "consistent_random"),
        ("plugin.library.paths", "/x.so"),
        ("test.mock.num.brokers", "3"),
        ("topic.blacklist", "outbox.*"),
        ("api.version.request", "false"),
        ("statistics.interval.ms", "1000"),
        ("sasl.kerberos.service.name", "kafka"),
        ("sasl.oauthbearer.method", "oidc"),
        ("key.serializer", "org.apache.kafka.common.serialization.StringSerializer"),
        ("sasl.jaas.config", "x"),
    ] {
        assert!(only_error(name, value).contains(name));
    }
}

#[test]
fn saying_what_is_done_anyway_is_accepted() {
    for (name, value) in [
        ("acks", "all"),
        ("acks", "-1"),
        ("enable.idempotence", "true"),
        ("partitioner", "murmur2_random"),
        ("message.timeout.ms", "0"),
        ("queuing.strategy", "fifo"),
    ] {
        assert_eq!(errors(&[(name, value)]), Vec::<String>::new());
    }
}

#[test]
fn mechanisms_that_are_not_offered_point_to_scram() {
    for mechanism in ["GSSAPI", "AWS_MSK_IAM", "OAUTHBEARER"] {
        for name in ["sasl.mechanism", "sasl.mechanisms"] {
            let error = only_error(name, mechanism);
            assert!(error.contains(mechanism) && error.contains("SCRAM-SHA-512"), "{error}");
        }
    }
    let error = only_error("security.protocol", "SASL_SSL");
    assert!(error.contains("GSSAPI") && error.contains("SCRAM-SHA-512"), "{error}");
}

#[test]
fn scram_over_tls_and_compression_pass() {
    let good = [
        ("bootstrap.servers", "k9:9092"),
        ("security.protocol", "sasl_ssl"),
        ("sasl.mechanisms", "SCRAM-SHA-512"),
        ("sasl.username", "relay"),
        ("sasl.password", "hunter2"),
        ("compression.type", "zstd"),
        ("linger.ms", "5"),
    ];
    assert_eq!(errors(&good), Vec::<String>::new());
}

#[test]
fn all_errors_come_at_once_and_show_no_secret() {
    let errors = errors(&[
        ("acks", "1"),
        ("sasl.pasword", "hunter2"),
        ("socket.timeout.ms", "soon"),
        ("sasl.password", "hun\0ter2"),
        ("compression.type", "zip"),
    ]);
    assert_eq!(errors.len(), 5, "{errors:?}");
    assert!(errors[1].ends_with("did you mean sasl.password?"), "{errors:?}");
    assert!(errors[2].contains("socket.timeout.ms"));
    assert!(!errors.iter().any(|error| error.contains("hun")), "{errors:?}");
}

#[test]
fn properties_that_do_not_work_together_are_found() {
    let error = errors(&[("security.protocol", "ssl"), ("ssl.ca.location", "/nonexistent.pem")]);
    assert!(error.len() == 1 && error[0].contains("ssl.ca.location"), "{error:?}");
}

#[test]
fn every_name_offered_as_a_suggestion_is_known_and_allowed() {
    for name in names::KNOWN {
        assert!(rules::objection(name, "SCRAM-SHA-256").is_none(), "{name}");
        if let Err(KafkaError::ClientConfig(result, ..)) =
            ClientConfig::new().set(*name, "no value").create_native_config()
        {
            assert_ne!(result, RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, "{name}");
        }
    }
    assert_eq!(names::nearest("linger_ms"), Some("linger.ms"));
    assert_eq!(names::nearest("ssl.ca.loaction"), Some("ssl.ca.location"));
    assert_eq!(names::nearest("something.else.entirely"), None);
}

#[test]
fn secrets_are_known_by_name_and_never_printed() {
    for name in [
        "sasl.password",
        "SASL.PASSWORD",
        "sasl.pasword",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
        "sasl.oauthbearer.client.secret",
        "sasl.jaas.config",
    ] {
        assert!(is_secret(name), "{name}");
        let printed = format!("{:?}", settings(&[(name, "hunter2")]));
        assert!(printed.contains(name) && !printed.contains("hunter2"), "{printed}");
    }
    for name in ["sasl.username", "ssl.ca.location", "bootstrap.servers", "ssl.key.location"] {
        assert!(!is_secret(name), "{name}");
    }
}

#[test]
fn the_promise_is_forced_and_properties_beat_defaults_and_fields() {
    let config = producer(&settings(&[]), None);
    for (name, value) in [
        ("acks", "all"),
        ("enable.idempotence", "true"),
        ("message.timeout.ms", "0"),
        ("partitioner", "murmur2_random"),
        ("linger.ms", "0"),
        ("bootstrap.servers", "k1:9092"),
        ("request.timeout.ms", "30000"),
        ("socket.timeout.ms", "31000"),
    ] {
        assert_eq!(config.get(name), Some(value), "{name}");
    }
    let set = [
        ("metadata.broker.list", "k2:9092"),
        ("queue.buffering.max.ms", "3"),
        ("linger.ms", "5"),
        ("request.timeout.ms", "1000"),
        ("acks", "-1"),
    ];
    let config = producer(&settings(&set), None);
    assert_eq!(config.get("bootstrap.servers"), Some("k2:9092"));
    assert_eq!(config.get("linger.ms"), Some("5"), "the later of two names for one thing wins");
    assert_eq!(config.get("request.timeout.ms"), Some("1000"));
    assert_eq!(config.get("acks"), Some("all"));
}

#[test]
fn batches_stay_below_the_smallest_topic_limit() {
    let batch = |properties: &[(&str, &str)], most| {
        producer(&settings(properties), most).get("batch.size").unwrap().to_owned()
    };
    assert_eq!(batch(&[], None), "1000000");
    assert_eq!(batch(&[], Some(1_048_588)), "1000000");
    assert_eq!(batch(&[], Some(20_000)), "20000");
    assert_eq!(batch(&[("batch.size", "5000")], Some(20_000)), "5000");
}

#[test]
fn a_client_that_only_asks_gets_no_producer_id_and_queues_no_log() {
    let config = admin(&settings(&[("debug", "all"), ("sasl.username", "u")]));
    assert_eq!((config.get("enable.idempotence"), config.get("debug")), (None, None));
    assert_eq!((config.get("log_level"), config.get("sasl.username")), (Some("0"), Some("u")));
}

#[test]
fn the_default_batch_size_is_the_one_that_topics_are_compared_with() {
    let text = DEFAULTS.iter().find(|(name, _)| *name == "batch.size").map(|(_, value)| *value);
    assert_eq!(text.and_then(|text| text.parse().ok()), Some(DEFAULT_BATCH_BYTES));
}

#[test]
fn the_principal_is_the_user_of_a_mechanism_that_has_one() {
    let principal = |properties: &[(&str, &str)]| settings(properties).principal().map(str::to_owned);
    let scram = [
        ("security.protocol", "sasl_ssl"),
        ("sasl.mechanisms", "SCRAM-SHA-512"),
        ("sasl.username", "old"),
        ("sasl.username", "relay"),
    ];
    assert_eq!(principal(&scram).as_deref(), Some("relay"));
    assert_eq!(principal(&[scram[0], ("sasl.mechanism", "plain"), scram[2]]).as_deref(), Some("old"));
    assert_eq!(principal(&scram[1..]), None, "not in use");
    assert_eq!(principal(&[scram[0], ("sasl.mechanism", "OAUTHBEARER"), scram[3]]), None);
    assert_eq!(principal(&[]), None);
}

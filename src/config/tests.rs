use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use super::*;
use crate::outbox::Preset;
use crate::postgres::conninfo::SslMode;
use crate::relay::settings::OnReject;

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn inputs(flags: Pairs<'_>, environment: Pairs<'_>, dotenv: &str, properties: &[&str]) -> Inputs {
    let owned = |pairs: Pairs<'_>| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    Inputs {
        flags: owned(flags),
        properties: properties.iter().map(|p| (*p).to_owned()).collect(),
        environment: environment.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))).collect(),
        dotenv: (!dotenv.is_empty()).then(|| dotenv.to_owned()),
    }
}

fn loaded(inputs: &Inputs) -> (Config, Vec<String>) {
    let (config, warnings) = load(inputs).unwrap_or_else(|errors| panic!("{errors:#?}"));
    (config, warnings.into_iter().map(|warning| warning.message).collect())
}

fn from_env(environment: Pairs<'_>) -> (Config, Vec<String>) {
    loaded(&inputs(&[], environment, "", &[]))
}

fn errors(environment: Pairs<'_>) -> Vec<String> {
    load(&inputs(&[], environment, "", &[])).map(|_| ()).expect_err("it was accepted")
}

fn shown<'a>(config: &'a Config, name: &str) -> (&'a str, &'a str) {
    let mut entries = config.report.iter().filter(|entry| entry.name == name);
    let entry = entries.next().unwrap_or_else(|| panic!("{name} is not shown"));
    assert!(entries.next().is_none(), "{name} is shown twice");
    (entry.value.as_deref().unwrap_or("-"), &entry.source)
}

#[test]
fn nothing_set_gives_the_documented_defaults() {
    let (config, warnings) = from_env(&[]);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.app.name, "txstream");
    assert_eq!(config.app.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(config.app.environment, "development");
    let database = &config.database;
    assert_eq!((database.host.as_str(), database.port), ("localhost", 5432));
    assert_eq!((database.dbname.as_str(), database.user.as_str()), ("txstream", "postgres"));
    assert!(database.password.is_none());
    assert_eq!(database.ssl_mode, SslMode::Prefer);
    assert_eq!(config.replication.host, "localhost");
    assert_eq!(config.outbox.tables.len(), 1);
    assert_eq!(
        (config.outbox.tables[0].schema.as_str(), config.outbox.tables[0].name.as_str()),
        ("public", "outbox")
    );
    assert_eq!(config.outbox.preset, Preset::Debezium);
    assert_eq!(config.outbox.fixed_topic, None);
    assert_eq!(config.kafka.brokers, "localhost:9092");
    assert_eq!(config.kafka.client_id, "txstream");
    assert_eq!(config.kafka.request_timeout, Duration::from_secs(30));
    assert!(config.kafka.properties.is_empty());
    assert_eq!(config.consumer.id, "txstream-consumer-group");
    let relay = &config.relay;
    assert_eq!((relay.slot.as_str(), relay.publication.as_str()), ("txstream", "txstream_outbox"));
    assert_eq!(relay.status_interval, Duration::from_secs(1));
    assert_eq!(relay.lanes, std::thread::available_parallelism().unwrap().get());
    assert_eq!((relay.batch_size, relay.max_in_flight_bytes), (1024, 16 << 20));
    assert_eq!(relay.on_reject, OnReject::Halt);
    assert!(relay.breaker.enabled);
    assert_eq!((relay.breaker.failure_threshold, relay.breaker.success_threshold), (5, 3));
    assert_eq!(relay.breaker.timeout_duration, Duration::from_secs(10));
    assert_eq!(relay.breaker.reset_timeout, Duration::from_secs(30));
    assert!(relay.backoff.enabled);
    assert_eq!((relay.backoff.base, relay.backoff.max), (Duration::from_secs(1), Duration::from_secs(30)));
    assert_eq!((relay.backoff.multiplier, relay.backoff.constant), (2.0, Duration::from_secs(1)));
    assert_eq!(relay.max_retries, None);
    assert_eq!(relay.shutdown_timeout, Duration::from_secs(25));
    assert_eq!((config.admin.enabled, config.admin.port), (true, 9090));
    assert_eq!((config.admin.host.as_str(), config.admin.path.as_str()), ("0.0.0.0", "/metrics"));
    assert!(config.admin.admin_token.is_none());
    assert_eq!(
        (config.writer.host.as_str(), config.writer.port, config.writer.metrics_port),
        ("localhost", 8080, 9091)
    );
    assert_eq!((config.writer.max_open_conns, config.writer.max_idle_conns), (25, 5));
    assert_eq!((config.logging.level.as_str(), config.logging.format), ("info", LogFormat::Json));
}

#[test]
fn every_variable_is_shown_once_with_its_default() {
    let (config, _) = from_env(&[]);
    for variable in variables::VARIABLES {
        let (value, source) = shown(&config, variable.name);
        assert_eq!(source, "default", "{}", variable.name);
        match variable.default {
            variables::Default::None => assert_eq!(value, "-", "{}", variable.name),
            variables::Default::Is(text) => assert_eq!(value, text, "{}", variable.name),
            variables::Default::Derived(_) => {}
        }
    }
    assert_eq!(config.report.len(), variables::VARIABLES.len());
}

#[test]
fn flags_beat_the_environment_which_beats_dotenv_which_beats_the_default() {
    let name = "WORKER_BATCH_SIZE";
    for (flags, environment, dotenv, value, source) in [
        (&[(name, "1")][..], &[(name, "2")][..], "WORKER_BATCH_SIZE=3", 1, "flag"),
        (&[], &[(name, "2")], "WORKER_BATCH_SIZE=3", 2, "environment"),
        (&[], &[], "WORKER_BATCH_SIZE=3", 3, ".env"),
        (&[], &[(name, "")], "WORKER_BATCH_SIZE=3", 3, ".env"),
        (&[], &[(name, " ")], "", 1024, "default"),
    ] {
        let (config, _) = loaded(&inputs(flags, environment, dotenv, &[]));
        assert_eq!(config.relay.batch_size, value);
        assert_eq!(shown(&config, name), (value.to_string().as_str(), source));
    }
}

#[test]
fn all_errors_are_told_at_once_and_each_names_its_variable() {
    let wrong: Pairs<'_> = &[
        ("DB_PORT", "0"),
        ("DB_SSL_MODE", "verify"),
        ("DB_MAX_OPEN_CONNS", "0"),
        ("DB_CONN_MAX_LIFETIME", "5"),
        ("REPLICATION_SLOT", "My-Slot"),
        ("REPLICATION_STATUS_INTERVAL", "0"),
        ("OUTBOX_PRESET", "watermill"),
        ("KAFKA_BROKERS", "localhost:0"),
        ("KAFKA_TOPIC_EVENTS", "a/b"),
        ("KAFKA_REQUIRED_ACKS", "most"),
        ("KAFKA_TIMEOUT", "16m"),
        ("KAFKA_AUTO_OFFSET_RESET", "first"),
        ("KAFKA_SESSION_TIMEOUT", "x"),
        ("KAFKA_CONFIG_FILE", "/nowhere/kafka.properties"),
        ("KAFKA_CIRCUIT_BREAKER_ENABLED", "maybe"),
        ("KAFKA_FAILURE_THRESHOLD", "0"),
        ("KAFKA_SUCCESS_THRESHOLD", "0"),
        ("KAFKA_TIMEOUT_DURATION", "0s"),
        ("KAFKA_RESET_TIMEOUT", "-1s"),
        ("KAFKA_BASE_DELAY", "0ms"),
        ("KAFKA_MULTIPLIER", "0.5"),
        ("KAFKA_RETRY_DELAY", "fast"),
        ("KAFKA_MAX_RETRIES", "-2"),
        ("WORKER_POOL_SIZE", "0"),
        ("WORKER_BATCH_SIZE", "0"),
        ("WORKER_MAX_IN_FLIGHT_BYTES", "16M"),
        ("WORKER_ON_REJECT", "skip"),
        ("SERVER_PORT", "70000"),
        ("METRICS_PORT", "0"),
        ("METRICS_PATH", "metrics"),
        ("SHUTDOWN_TIMEOUT", "long"),
        ("LOGGING_LEVEL", "loud"),
        ("LOGGING_FORMAT", "xml"),
    ];
    let errors = errors(wrong);
    for (name, _) in wrong {
        let told = errors.iter().filter(|error| error.starts_with(&format!("{name}:"))).count();
        assert_eq!(told, 1, "{name} in {errors:#?}");
    }
    assert_eq!(errors.len(), wrong.len(), "{errors:#?}");
}

#[test]
fn what_is_wrong_with_one_setting_of_the_database_hides_no_other() {
    let told = |environment: Pairs<'_>, names: &[&str]| {
        let errors = errors(environment);
        for name in names {
            assert!(errors.iter().any(|error| error.starts_with(name)), "{name} in {errors:#?}");
        }
        assert_eq!(errors.len(), names.len(), "{errors:#?}");
    };
    told(&[("DB_PORT", "abc"), ("DB_SSL_CERT", "/x.crt")], &["DB_PORT:", "DB_SSL_*:"]);
    told(
        &[("DB_PASSWORD_FILE", "/nowhere"), ("DB_PORT", "0"), ("DB_SSL_CERT", "/x.crt")],
        &["DB_PASSWORD_FILE:", "DB_PORT:", "DB_SSL_*:"],
    );
    told(&[("DATABASE_URL", "foo"), ("DB_SSL_CERT", "/x.crt")], &["DATABASE_URL:", "DB_SSL_*:"]);
    told(&[("DATABASE_URL", "host=h user=u sslmode=bad"), ("DB_SSL_CERT", "/x.crt")], &["DATABASE_URL:"]);
    told(
        &[("DATABASE_URL_FILE", "/nowhere"), ("REPLICATION_URL", "foo")],
        &["DATABASE_URL_FILE:", "REPLICATION_URL:"],
    );
}

#[test]
fn brokers_with_the_scheme_of_the_protocol_are_taken() {
    let with_ssl = |brokers| {
        load(&inputs(&[], &[("KAFKA_BROKERS", brokers)], "", &["security.protocol=ssl"])).map(|_| ())
    };
    with_ssl("SSL://a:1,b").unwrap();
    let told = with_ssl("a,PLAINTEXT://b").unwrap_err();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("\"PLAINTEXT\"") && told[0].contains("security.protocol is ssl"), "{told:?}");
}

#[test]
fn values_at_the_edge_of_a_rule() {
    for (name, good, bad) in [
        ("KAFKA_MULTIPLIER", "1.0", "NaN"),
        ("KAFKA_MULTIPLIER", "1", "0.99"),
        ("KAFKA_MAX_RETRIES", "0", "1.5"),
        ("METRICS_PATH", "/m", "/status"),
        ("METRICS_PATH", "/internal/metrics", "/"),
        ("SERVER_PORT", "65535", "65536"),
        ("SHUTDOWN_TIMEOUT", "0", "2d"),
        ("DB_CONN_MAX_LIFETIME", "0", "400d"),
        ("WORKER_MAX_IN_FLIGHT_BYTES", "1", "0"),
        ("LOGGING_LEVEL", "info,txstream::kafka=DEBUG", "info,=debug"),
        ("LOGGING_LEVEL", "off", "info,kafka"),
        ("KAFKA_TOPIC_EVENTS", "a._-Z9", ".."),
        ("REPLICATION_SLOT", "a_1", "a b"),
        ("KAFKA_BROKERS", "a, b:9092,PLAINTEXT://[::1]:9093", "a,,b"),
        ("KAFKA_BROKERS", "plaintext://a", "ssl://a"),
        ("KAFKA_BROKERS", "a", "b,http://a:9092"),
        ("KAFKA_CIRCUIT_BREAKER_ENABLED", "FALSE", "2"),
        ("KAFKA_BASE_DELAY", "30s", "31s"),
    ] {
        from_env(&[(name, good)]);
        let told = errors(&[(name, bad)]);
        assert!(told.len() == 1 && told[0].starts_with(name), "{name}={bad}: {told:?}");
    }
}

#[test]
fn an_error_names_the_flag_when_the_flag_was_used() {
    let told = load(&inputs(&[("KAFKA_TIMEOUT", "30")], &[], "", &[])).map(|_| ()).unwrap_err();
    assert!(told[0].starts_with("--kafka-timeout: \"30\" has no unit"), "{told:?}");
    let told = load(&inputs(&[], &[], "KAFKA_TIMEOUT=30", &[])).map(|_| ()).unwrap_err();
    assert!(told[0].starts_with("KAFKA_TIMEOUT (.env): \"30\" has no unit"), "{told:?}");
}

#[test]
fn the_highest_layer_that_names_the_database_decides_and_the_url_wins_within_it() {
    let env_url = ("DATABASE_URL", "postgres://u@env-url/db");
    let flag_url = ("DATABASE_URL", "postgres://u@flag-url/db");
    for (flags, environment, dotenv, host, user) in [
        (&[][..], &[][..], "", "localhost", "postgres"),
        (&[], &[env_url, ("DB_HOST", "env-host")], "", "env-url", "u"),
        (&[("DB_HOST", "flag-host")], &[env_url], "", "flag-host", "postgres"),
        (&[("DB_USER", "flag-user")], &[env_url], "", "localhost", "flag-user"),
        (&[flag_url], &[env_url, ("DB_HOST", "env-host")], "", "flag-url", "u"),
        (&[], &[("DB_USER", "me")], "DATABASE_URL=postgres://u@dot/db", "localhost", "me"),
        (&[], &[("DATABASE_HOST", "alias")], "DB_USER=dot\nDB_HOST=dot", "alias", "postgres"),
        (&[], &[], "DATABASE_URL=postgres://u@dot/db\nDB_HOST=other", "dot", "u"),
        // How to connect is not where.
        (&[], &[("DB_SSL_MODE", "require"), ("DB_MAX_OPEN_CONNS", "1")], "DB_HOST=dot", "dot", "postgres"),
        // An empty value and a service link name nothing.
        (&[], &[("DATABASE_URL", "")], "DB_HOST=dot", "dot", "postgres"),
        (&[], &[("DB_PORT", "tcp://10.0.0.1:5432")], "DB_HOST=dot", "dot", "postgres"),
    ] {
        let (config, _) = loaded(&inputs(flags, environment, dotenv, &[]));
        let found = (config.database.host.as_str(), config.database.user.as_str());
        assert_eq!(found, (host, user), "{flags:?} {environment:?} {dotenv:?}");
        assert_eq!(config.replication.host, config.database.host);
    }
}

#[test]
fn what_loses_in_the_database_rule_is_said_without_its_value() {
    let (_, warnings) = loaded(&inputs(&[("DB_HOST", "h")], &[("DB_PASSWORD", "hunter2")], "", &[]));
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("DB_PASSWORD (environment) is not used"), "{warnings:?}");
    let (_, warnings) = from_env(&[("DATABASE_URL", "postgres://u@h/db"), ("DB_PASSWORD", "hunter2")]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("DATABASE_URL wins"), "{warnings:?}");
    assert!(!warnings[0].contains("hunter2"));
}

#[test]
fn db_ssl_applies_where_the_url_names_no_ssl_key() {
    for (url, mode) in [
        ("postgres://u@h/db", SslMode::Require),
        ("postgres://u@h/db?sslmode=verify-full", SslMode::VerifyFull),
    ] {
        let replication = ("REPLICATION_URL", url);
        let (config, warnings) = from_env(&[("DATABASE_URL", url), ("DB_SSL_MODE", "require"), replication]);
        assert_eq!(config.database.ssl_mode, mode);
        assert_eq!(config.replication.ssl_mode, mode);
        assert_eq!(warnings.len(), if mode == SslMode::Require { 0 } else { 2 }, "{warnings:?}");
    }
    let (config, _) = from_env(&[("DB_SSL_MODE", "verify-ca")]);
    assert_eq!(config.database.ssl_mode, SslMode::VerifyCa);
}

#[test]
fn replication_goes_where_its_own_url_says() {
    let (config, _) = from_env(&[("DB_HOST", "pooler"), ("REPLICATION_URL", "postgres://u@direct/db")]);
    assert_eq!((config.database.host.as_str(), config.replication.host.as_str()), ("pooler", "direct"));
}

#[test]
fn secrets_come_from_the_environment_or_a_file_but_not_both() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    fs::write(&path, " s3 cret\r\n").unwrap();
    let path = path.to_str().unwrap();

    let (config, _) = from_env(&[("DB_PASSWORD_FILE", path), ("METRICS_ADMIN_TOKEN", "t")]);
    assert_eq!(config.database.password.as_ref().unwrap().expose(), " s3 cret");
    assert_eq!(config.admin.admin_token.as_ref().unwrap().expose(), "t");
    let (config, _) =
        loaded(&inputs(&[("SERVER_AUTH_TOKEN_FILE", path)], &[("SERVER_AUTH_TOKEN", "low")], "", &[]));
    assert_eq!(config.writer.auth_token.as_ref().unwrap().expose(), " s3 cret");
    let (config, _) = from_env(&[("DATABASE_PASSWORD_FILE", path)]);
    assert_eq!(config.database.password.unwrap().expose(), " s3 cret");

    let told = errors(&[("DB_PASSWORD", "hunter2"), ("DB_PASSWORD_FILE", path)]);
    assert!(told[0].contains("DB_PASSWORD and DB_PASSWORD_FILE are both set"), "{told:?}");
    let told = errors(&[("METRICS_ADMIN_TOKEN_FILE", "/nowhere")]);
    assert!(told[0].starts_with("METRICS_ADMIN_TOKEN_FILE: read /nowhere"), "{told:?}");
}

#[test]
fn no_secret_is_in_debug_output_report_warnings_or_errors() {
    let secrets = [
        ("DB_PASSWORD", "hunter2"),
        ("SERVER_AUTH_TOKEN", "hunter2"),
        ("METRICS_ADMIN_TOKEN", "hunter2"),
        ("DB_PASSWROD", "hunter2"),
        ("REPLICATION_URL", "postgres://u:hunter2@h/db"),
    ];
    let properties =
        ["sasl.password=hunter2", "ssl.key.password=hunter2", "ssl.key.pem=hunter2", "client.id=me"];
    let (config, warnings) = load(&inputs(&[], &secrets, "", &properties)).unwrap();
    let report = serde_json::to_string(&config.report).unwrap();
    for text in [format!("{config:?}"), report, format!("{warnings:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    assert_eq!(shown(&config, "DB_PASSWORD"), ("***", "environment"));
    assert_eq!(shown(&config, "sasl.password"), ("***", "flag"));

    let dotenv = "OK=1\nDB_PASSWORD=hunter2 and more\n";
    let told = load(&inputs(&[], &[], dotenv, &["hunter2", "=hunter2"])).map(|_| ()).unwrap_err();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].starts_with(".env line 2 "), "{told:?}");
    assert!(!format!("{told:?}").contains("hunter2"), "{told:?}");
}

#[test]
fn a_name_within_two_edits_of_ours_is_warned_about_without_its_value() {
    for (name, meant) in [
        ("KAFKA_BROKER", Some("KAFKA_BROKERS")),
        ("KAFKA_BORKERS", Some("KAFKA_BROKERS")),
        ("DB_PASSWROD", Some("DB_PASSWORD")),
        ("DB_PASSWORD_FIL", Some("DB_PASSWORD_FILE")),
        ("DATABASE_URI", Some("DATABASE_URL")),
        ("OUTBOX_TABLES", Some("OUTBOX_TABLE")),
        ("LOGGING_LEVL", Some("LOGGING_LEVEL")),
        ("WORKER_INTERVL", Some("WORKER_INTERVAL")),
        ("WORKER_MAX_RETRIS", Some("WORKER_MAX_RETRIES")),
        ("WORKER_RETRY_DELY", Some("WORKER_RETRY_DELAY")),
        // Not close, or not ours.
        ("DB_PASS", None),
        ("KAFKA_HEAP_OPTS", None),
        ("AFKA_BROKERS", None),
        ("KAFKA_PORT_9092_TCP", None),
        ("PATH", None),
    ] {
        let (_, warnings) = from_env(&[(name, "hunter2")]);
        match meant {
            Some(meant) => {
                assert_eq!(warnings.len(), 1, "{name}: {warnings:?}");
                assert!(warnings[0].contains(&format!("did you mean {meant}?")), "{name}: {warnings:?}");
                assert!(warnings[0].starts_with(&format!("{name} (environment)")), "{warnings:?}");
                assert!(!warnings[0].contains("hunter2"));
            }
            None => assert!(warnings.is_empty(), "{name}: {warnings:?}"),
        }
    }
    let (_, warnings) = loaded(&inputs(&[], &[], "KAFKA_BROKER=x", &[]));
    assert!(warnings[0].starts_with("KAFKA_BROKER (.env)"), "{warnings:?}");
}

#[test]
fn kubernetes_service_links_are_ignored_and_named() {
    let (config, warnings) = from_env(&[
        ("DB_PORT", "tcp://10.0.0.1:5432"),
        ("METRICS_PORT", "tcp://10.0.0.2:80"),
        ("SERVER_PORT", "udp://10.0.0.3:80"),
    ]);
    assert_eq!((config.database.port, config.admin.port, config.writer.port), (5432, 9090, 8080));
    assert_eq!(config.writer.metrics_port, 9091);
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings.iter().all(|w| w.contains("Kubernetes service link")), "{warnings:?}");
    assert!(warnings.iter().any(|w| w.contains("DB_PORT") && w.contains("\"db\"")), "{warnings:?}");
    assert!(warnings.iter().all(|w| !w.contains("10.0.0")), "{warnings:?}");
}

#[test]
fn the_ancestors_variables_are_accepted_and_said_once() {
    let old = [("WORKER_INTERVAL", "5s"), ("WORKER_MAX_RETRIES", "7"), ("WORKER_RETRY_DELAY", "3s")];
    let (config, warnings) = from_env(&old);
    assert_eq!(config.relay.max_retries, Some(7));
    assert_eq!(config.relay.backoff.constant, Duration::from_secs(3));
    assert_eq!(shown(&config, "KAFKA_MAX_RETRIES"), ("7", "environment"));
    for ((name, _), says) in
        old.iter().zip(["has no effect", "stands for KAFKA_MAX_RETRIES", "stands for KAFKA_RETRY_DELAY"])
    {
        let said: Vec<_> = warnings.iter().filter(|w| w.starts_with(name)).collect();
        assert!(said.len() == 1 && said[0].contains(says), "{name}: {warnings:?}");
    }
    let (config, warnings) = from_env(&[("WORKER_MAX_RETRIES", "7"), ("KAFKA_MAX_RETRIES", "-1")]);
    assert_eq!(config.relay.max_retries, None);
    assert!(warnings.len() == 1 && warnings[0].contains("has no effect"), "{warnings:?}");
}

#[test]
fn weaker_acknowledgements_are_accepted_with_a_warning_and_not_used() {
    for (text, warned) in
        [("all", false), ("-1", false), ("0", true), ("1", true), ("none", true), ("leader", true)]
    {
        let (config, warnings) = from_env(&[("KAFKA_REQUIRED_ACKS", text)]);
        assert_eq!(shown(&config, "KAFKA_REQUIRED_ACKS").0, "all");
        assert_eq!(warnings.len(), usize::from(warned), "{text}: {warnings:?}");
        assert!(config.kafka.properties.iter().all(|property| property.name != "acks"));
    }
}

#[test]
fn minus_x_beats_explicit_variables_which_beat_the_file_which_beats_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kafka.properties");
    fs::write(&path, "bootstrap.servers=file:1\nclient.id=file\nrequest.timeout.ms=7000\nlinger.ms=9\n")
        .unwrap();
    let file = ("KAFKA_CONFIG_FILE", path.to_str().unwrap());
    let explicit = ("KAFKA_BROKERS", "explicit:2");
    for (environment, properties, brokers, source) in [
        (&[][..], &[][..], "localhost:9092", "default"),
        (&[file], &[], "file:1", "KAFKA_CONFIG_FILE"),
        (&[file, explicit], &[], "explicit:2", "environment"),
        (&[file, explicit], &["bootstrap.servers=x:3"], "x:3", "flag"),
        (&[file, explicit], &["bootstrap.servers=x:3", "metadata.broker.list=y:4"], "y:4", "flag"),
    ] {
        let (config, _) = loaded(&inputs(&[], environment, "", properties));
        assert_eq!(config.kafka.brokers, brokers);
        assert_eq!(shown(&config, "KAFKA_BROKERS"), (brokers, source));
        assert!(
            config.kafka.properties.iter().all(|p| !p.name.contains("broker") && !p.name.contains("servers"))
        );
    }

    let (config, _) =
        loaded(&inputs(&[], &[file], "", &["linger.ms=1", "group.id=g", "session.timeout.ms=6000"]));
    assert_eq!(config.kafka.client_id, "file");
    assert_eq!(shown(&config, "client.id"), ("file", "KAFKA_CONFIG_FILE"));
    assert_eq!(config.kafka.request_timeout, Duration::from_secs(7));
    assert_eq!(config.consumer.id, "g");
    assert_eq!(config.consumer.session_timeout, Duration::from_secs(6));
    let values: Vec<_> =
        config.kafka.properties.iter().map(|p| (p.name.as_str(), p.value.as_str())).collect();
    assert_eq!(values, [("linger.ms", "9"), ("linger.ms", "1")], "rising precedence");
    let (config, _) = loaded(&inputs(&[], &[file, ("KAFKA_TIMEOUT", "8s")], "", &[]));
    assert_eq!(config.kafka.request_timeout, Duration::from_secs(8));
    let told = load(&inputs(&[], &[], "", &["request.timeout.ms=soon"])).map(|_| ()).unwrap_err();
    assert_eq!(told, ["request.timeout.ms (-X): \"soon\" is not a whole number of milliseconds"]);
}

#[test]
fn properties_that_would_break_the_promise_are_refused_by_name() {
    let told = load(&inputs(&[], &[], "", &["acks=1", "compression.type=zstd"])).map(|_| ()).unwrap_err();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("acks"), "{told:?}");
}

#[test]
fn the_txstream_preset_has_a_topic_of_its_own() {
    let (config, _) = from_env(&[("OUTBOX_PRESET", "txstream")]);
    assert_eq!(config.outbox.fixed_topic.as_deref(), Some("txstream.events"));
    let (config, _) = from_env(&[("OUTBOX_PRESET", "txstream"), ("KAFKA_TOPIC_EVENTS", "mine")]);
    assert_eq!(config.outbox.fixed_topic.as_deref(), Some("mine"));
}

#[test]
fn a_dotenv_is_read_like_a_shell_would() {
    let dotenv = "# comment\nexport APP_NAME=shop # ours\nDB_PASSWORD='a b$c#d'\n\nFOREIGN=1\r\n";
    let (config, warnings) = loaded(&inputs(&[], &[], dotenv, &[]));
    assert_eq!(config.app.name, "shop");
    assert_eq!(config.kafka.client_id, "shop");
    assert_eq!(config.database.password.unwrap().expose(), "a b$c#d");
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_utf8_is_an_error_only_under_our_names() {
    use std::os::unix::ffi::OsStringExt;
    let mut inputs = inputs(&[], &[], "", &[]);
    let value = OsString::from_vec(vec![0xFF]);
    inputs.environment.push((OsString::from("LS_COLORS"), value.clone()));
    loaded(&inputs);
    inputs.environment.push((OsString::from("APP_NAME"), value));
    let told = load(&inputs).map(|_| ()).unwrap_err();
    assert_eq!(told, ["APP_NAME in the environment is not UTF-8"]);
}

#[test]
fn a_url_is_shown_redacted_and_its_errors_show_no_password() {
    let (config, _) = from_env(&[("DATABASE_URL", "postgresql://me:hunter2@db.example/shop")]);
    assert!(!format!("{:?} {config:?}", config.report).contains("hunter2"));
    assert_eq!(shown(&config, "DATABASE_URL").1, "environment");
    assert!(shown(&config, "DATABASE_URL").0.contains("db.example"));
    assert_eq!(shown(&config, "DB_HOST"), ("db.example", "DATABASE_URL"));
    assert_eq!(shown(&config, "DB_PASSWORD"), ("***", "DATABASE_URL"));
    assert!(shown(&config, "REPLICATION_URL").0.contains("db.example"));

    let (config, _) = from_env(&[("DATABASE_URL", "host=/var/run/postgresql user=me dbname=shop")]);
    assert_eq!(config.database.host, "/var/run/postgresql");

    let told = errors(&[("DATABASE_URL", "postgresql://me:hunter2@h/d?sslmod=require&nonsense=hunter2")]);
    assert!(told.len() == 2 && told.iter().all(|error| error.starts_with("DATABASE_URL: ")), "{told:?}");
    assert!(!format!("{told:?}").contains("hunter2"), "{told:?}");
}

#[test]
fn a_contradiction_in_db_ssl_is_told_once_for_both_connections() {
    let (config, _) = from_env(&[("DB_SSL_MODE", "verify-full"), ("DB_SSL_ROOT_CERT", "system")]);
    assert_eq!(config.database.ssl_mode, SslMode::VerifyFull);
    let told = errors(&[
        ("DB_SSL_MODE", "require"),
        ("DB_SSL_ROOT_CERT", "system"),
        ("REPLICATION_URL", "postgresql://u@h/d"),
    ]);
    assert!(told.len() == 1 && told[0].starts_with("DB_SSL_*: "), "{told:?}");
}

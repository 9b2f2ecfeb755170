//! Kafka's settings: `-X` beats `KAFKA_*` set explicitly, that beats the file, that beats defaults.

use std::fs;
use std::time::Duration;

use super::layers::{Given, label};
use super::read::Reader;
use super::{Source, units};
use crate::kafka::config::Group;
use crate::kafka::config::{is_secret, validate};
use crate::kafka::properties::{parse_argument, parse_file};
use crate::kafka::{Property, Settings};

/// Producer and consumers.
pub(super) struct Kafka {
    pub(super) producer: Settings,
    pub(super) consumer: Group,
}

/// A property and where it was set.
struct Set {
    property: Property,
    source: Source,
}

/// Properties that have a variable of their own, with librdkafka's other names for them.
const BROKERS: &[&str] = &["bootstrap.servers", "metadata.broker.list"];
const CLIENT_ID: &[&str] = &["client.id"];
const REQUEST_TIMEOUT: &[&str] = &["request.timeout.ms"];
const GROUP_ID: &[&str] = &["group.id"];
const OFFSET_RESET: &[&str] = &["auto.offset.reset"];
const SESSION_TIMEOUT: &[&str] = &["session.timeout.ms"];

/// Resolves all of it; errors are noted.
pub(super) fn resolve(read: &mut Reader<'_>, app_name: &str, arguments: &[String]) -> Kafka {
    acks(read);
    let mut set = file(read);
    set.extend(arguments.iter().filter_map(|argument| from_argument(read, argument)));

    let brokers = pick(read, &mut set, "KAFKA_BROKERS", BROKERS, brokers);
    let client_id = take(&mut set, CLIENT_ID).map_or_else(
        || app_name.to_owned(),
        |Set { property, source }| {
            read.show(property.name, Some(property.value.clone()), source);
            property.value
        },
    );
    let request_timeout = pick(read, &mut set, "KAFKA_TIMEOUT", REQUEST_TIMEOUT, |text| up_to(text, 900_000));
    let consumer = Group {
        id: pick(read, &mut set, "KAFKA_GROUP_ID", GROUP_ID, |text| Ok(text.to_owned())),
        auto_offset_reset: pick(read, &mut set, "KAFKA_AUTO_OFFSET_RESET", OFFSET_RESET, offset_reset),
        session_timeout: pick(read, &mut set, "KAFKA_SESSION_TIMEOUT", SESSION_TIMEOUT, |text| {
            up_to(text, 3_600_000)
        }),
    };
    for Set { property, source } in &set {
        let value = if is_secret(&property.name) { "***".to_owned() } else { property.value.clone() };
        read.show(&property.name, Some(value), *source);
    }
    let properties: Vec<Property> = set.into_iter().map(|set| set.property).collect();
    for problem in foreign_schemes(&brokers, &properties) {
        read.wrong(problem);
    }
    let producer = Settings { brokers, client_id, request_timeout, properties };
    for problem in validate(&producer.properties).err().unwrap_or_default() {
        read.wrong(problem.to_string());
    }
    Kafka { producer, consumer }
}

/// The value of a variable that is a property too, by precedence.
fn pick<T: Default>(
    read: &mut Reader<'_>,
    set: &mut Vec<Set>,
    variable: &'static str,
    names: &[&str],
    rule: impl Fn(&str) -> Result<T, String>,
) -> T {
    let explicit = read.layers.get(variable).is_some();
    match take(set, names) {
        Some(Set { property, source }) if source == Source::Flag || !explicit => {
            read.show(variable, Some(property.value.clone()), source);
            let value = match property.name.ends_with(".ms") {
                true => milliseconds(&property.value).and_then(|text| rule(&text)),
                false => rule(&property.value),
            };
            value.unwrap_or_else(|error| {
                read.wrong(format!("{} ({}): {error}", property.name, of(source)));
                T::default()
            })
        }
        _ => read.parse(variable, rule),
    }
}

/// A property's number as a variable's duration.
fn milliseconds(text: &str) -> Result<String, String> {
    match text.parse::<u64>() {
        Ok(number) => Ok(format!("{number}ms")),
        Err(_) => Err(format!("{text:?} is not a whole number of milliseconds")),
    }
}

/// Takes a property out of the list: the last one set, whichever of its names it has.
fn take(set: &mut Vec<Set>, names: &[&str]) -> Option<Set> {
    let (mut taken, rest): (Vec<Set>, Vec<Set>) =
        set.drain(..).partition(|set| names.contains(&set.property.name.as_str()));
    *set = rest;
    taken.pop()
}

fn of(source: Source) -> String {
    if source == Source::Flag { "-X".to_owned() } else { source.to_string() }
}

fn file(read: &mut Reader<'_>) -> Vec<Set> {
    let path = read.optional("KAFKA_CONFIG_FILE");
    let Some(path) = path else { return Vec::new() };
    let source = read.layers.get("KAFKA_CONFIG_FILE").map_or(Source::Default, |given| given.source);
    let name = label("KAFKA_CONFIG_FILE", source);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            read.wrong(format!("{name}: read {path}: {error}"));
            return Vec::new();
        }
    };
    match parse_file(&text) {
        Ok(properties) => {
            properties.into_iter().map(|property| Set { property, source: Source::KafkaConfigFile }).collect()
        }
        Err(errors) => {
            for error in errors {
                read.wrong(format!("{name}: {path} {error}"));
            }
            Vec::new()
        }
    }
}

/// One `-X`. What is wrong is told without the text: it may be a password.
fn from_argument(read: &mut Reader<'_>, argument: &str) -> Option<Set> {
    match parse_argument(argument) {
        Ok(property) => Some(Set { property, source: Source::Flag }),
        Err(reason) => {
            read.wrong(format!("-X {reason}, such as -X compression.type=zstd"));
            None
        }
    }
}

/// The ancestor could ask for less than all; that would break the promise.
fn acks(read: &mut Reader<'_>) {
    const NAME: &str = "KAFKA_REQUIRED_ACKS";
    let Some(Given { text, source }) = read.layers.get(NAME) else {
        read.show(NAME, Some("all".to_owned()), Source::Default);
        return;
    };
    match text.trim().to_ascii_lowercase().as_str() {
        "all" | "-1" => read.show(NAME, Some("all".to_owned()), source),
        "0" | "1" | "none" | "one" | "leader" | "local" => {
            read.warn(
                NAME,
                format!("{NAME} ({source}) asks for weaker acknowledgements; it is not used, always all"),
            );
            read.show(NAME, Some("all".to_owned()), Source::Default);
        }
        _ => read.wrong(format!(
            "{}: {text:?} is not a number of acknowledgements; write all",
            label(NAME, source)
        )),
    }
}

/// A list of `host[:port]`, perhaps with a protocol before it as librdkafka takes it.
fn brokers(text: &str) -> Result<String, String> {
    let fits = |broker: &str| {
        let address = broker.split_once("://").map_or(broker, |(_, address)| address);
        let port = match address.rsplit_once(':') {
            Some((_, port)) if !address.ends_with(']') => port.parse::<u16>().is_ok_and(|port| port > 0),
            _ => true,
        };
        !address.is_empty() && !address.starts_with(':') && !address.contains(char::is_whitespace) && port
    };
    let brokers: Vec<&str> = text.split(',').map(str::trim).collect();
    if brokers.iter().all(|broker| fits(broker)) {
        Ok(brokers.join(","))
    } else {
        Err(format!(
            "{text:?} is not a list of brokers; write host:port, comma-separated ([::1]:9092 for IPv6)"
        ))
    }
}

/// librdkafka leaves out a broker whose scheme is not its `security.protocol`, and says so only in a line of the
/// log (`rd_kafka_broker_name_parse`).
fn foreign_schemes(brokers: &str, properties: &[Property]) -> Vec<String> {
    let protocol = properties.iter().rfind(|property| property.name == "security.protocol");
    let protocol = protocol.map_or("plaintext", |property| property.value.as_str());
    let schemes = brokers.split(',').filter_map(|broker| broker.split_once("://")).map(|(scheme, _)| scheme);
    schemes
        .filter(|scheme| !scheme.eq_ignore_ascii_case(protocol))
        .map(|scheme| {
            format!(
                "KAFKA_BROKERS (bootstrap.servers): a broker with {scheme:?} would not be connected to, since security.protocol is \
                 {protocol}; write host:port alone"
            )
        })
        .collect()
}

fn offset_reset(text: &str) -> Result<String, String> {
    ["earliest", "latest", "error"]
        .contains(&text)
        .then(|| text.to_owned())
        .ok_or_else(|| format!("{text:?} is not one of earliest, latest and error"))
}

fn up_to(text: &str, most_millis: u64) -> Result<Duration, String> {
    let most = Duration::from_millis(most_millis);
    let value = units::duration(text)?;
    if value.is_zero() || value > most {
        return Err(format!("{text:?} must be more than 0 and at most {}", units::shown(most)));
    }
    Ok(value)
}

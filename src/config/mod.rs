//! Flags, environment and `.env` become one validated [`Config`], or all that is wrong with them.

mod database;
mod kafka;
mod layers;
mod read;
mod report;
mod sections;
pub mod units;
pub mod variables;

#[cfg(test)]
mod tests;

use std::fmt;

pub use layers::Inputs;
pub use report::Entry;

use crate::postgres::ConnInfo;
use crate::{admin, outbox, relay, writer};

/// Everything that people can set, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// What this process calls itself.
    pub app: App,
    /// The database for ordinary SQL; may lead through a pooler.
    pub database: ConnInfo,
    /// The server to replicate from, for slot views, checkpoint and dead letters too.
    pub replication: ConnInfo,
    /// Outbox tables and record shape.
    pub outbox: outbox::Settings,
    /// The producer.
    pub kafka: crate::kafka::Settings,
    /// Who asks Kafka for topics in `doctor`.
    pub consumer: crate::kafka::config::Group,
    /// The relay.
    pub relay: relay::Settings,
    /// The admin server.
    pub admin: admin::Settings,
    /// The HTTP service and its connection pool.
    pub writer: writer::Settings,
    /// Logs.
    pub logging: Logging,
    /// Every setting as text, with where it came from; nothing secret is in it.
    pub report: Vec<Entry>,
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// `.env` in the working directory.
    DotEnv,
    /// The file that `KAFKA_CONFIG_FILE` names.
    KafkaConfigFile,
    /// The connection string that decided where the database is.
    DatabaseUrl,
    /// Nobody set it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::DotEnv => ".env",
            Self::KafkaConfigFile => "KAFKA_CONFIG_FILE",
            Self::DatabaseUrl => "DATABASE_URL",
            Self::Default => "default",
        })
    }
}

/// Something that was accepted but is probably not what was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The variable or property.
    pub variable: String,
    /// What is odd about it, without its value.
    pub message: String,
}

impl Warning {
    fn new(variable: impl Into<String>, message: impl Into<String>) -> Self {
        Self { variable: variable.into(), message: message.into() }
    }
}

/// Reads, resolves and checks everything.
///
/// # Errors
/// Every problem at once, each saying how to mend it.
pub fn load(inputs: &Inputs) -> Result<(Config, Vec<Warning>), Vec<String>> {
    let mut warnings = Vec::new();
    let mut errors = Vec::new();
    let layers = layers::Layers::new(inputs, &mut warnings, &mut errors);
    let mut read = read::Reader::new(&layers, warnings, errors);
    let app = App {
        name: read.text("APP_NAME"),
        version: read.derived("APP_VERSION", env!("CARGO_PKG_VERSION")),
        environment: read.text("APP_ENV"),
    };
    let databases = database::resolve(&mut read);
    let kafka::Kafka { producer, consumer } = kafka::resolve(&mut read, &app.name, &inputs.properties);
    let outbox = read.outbox();
    let relay = read.relay();
    let admin = read.admin();
    let writer = read.writer();
    let logging = read.logging();
    let (report, warnings, errors) = read.finish();
    match databases {
        Some(database::Databases { sql, replication }) if errors.is_empty() => Ok((
            Config {
                app,
                database: sql,
                replication,
                outbox,
                kafka: producer,
                consumer,
                relay,
                admin,
                writer,
                logging,
                report,
            },
            warnings,
        )),
        _ => Err(errors),
    }
}

/// Names that appear in logs, `client.id` and `/health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// `APP_NAME`.
    pub name: String,
    /// `APP_VERSION`.
    pub version: String,
    /// `APP_ENV`.
    pub environment: String,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// A level, or tracing's directives such as `info,rdkafka=debug`.
    pub level: String,
    /// Shape of a line.
    pub format: LogFormat,
}

/// Shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// Checks a log level: a name of a level, or comma-separated `module=level` besides.
///
/// # Errors
/// What is wrong with it.
pub fn check_level(text: &str) -> Result<(), String> {
    sections::level(text)
}

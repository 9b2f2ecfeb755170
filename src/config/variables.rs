//! The one table of variables: flags and their help, `txstream config`, warnings about misspelt
//! names, `env.example` and `docs/configuration.md` all come from it.

/// One variable.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name in the environment and in `.env`.
    pub name: &'static str,
    /// What it is when nobody sets it.
    pub default: Default,
    /// How its value is treated.
    pub kind: Kind,
    /// What the value is, for help: `DURATION`, `PORT`.
    pub value_name: &'static str,
    /// The heading it stands under.
    pub group: &'static str,
    /// What it means, in one line.
    pub help: &'static str,
}

/// What a variable is when nobody sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// Nothing.
    None,
    /// This value.
    Is(&'static str),
    /// A value found at start or taken from another setting; the text says which.
    Derived(&'static str),
}

/// How a variable's value is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Shown as it is.
    Plain,
    /// A URL that may hold a password: shown redacted, may come from a file.
    Url,
    /// Never shown; a command line is visible to others, so its only flag names a file.
    Secret,
    /// Of the polling ancestor: accepted so that its settings start, and said to have no effect of its own.
    Ancestor,
}

impl Variable {
    /// The flag that takes the value, such as `kafka-brokers`; secrets have none.
    pub fn flag(&self) -> Option<String> {
        (self.kind != Kind::Secret).then(|| kebab(self.name))
    }

    /// The variable that names a file with the value, such as `DB_PASSWORD_FILE`.
    pub fn file_name(&self) -> Option<String> {
        matches!(self.kind, Kind::Secret | Kind::Url).then(|| format!("{}_FILE", self.name))
    }

    /// The flag that names a file with the value, such as `db-password-file`.
    pub fn file_flag(&self) -> Option<String> {
        self.file_name().map(|name| kebab(&name))
    }
}

fn kebab(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// Other names of a variable: alias, then the name it stands for.
pub const ALIASES: [(&str, &str); 5] = [
    ("DATABASE_HOST", "DB_HOST"),
    ("DATABASE_PORT", "DB_PORT"),
    ("DATABASE_NAME", "DB_NAME"),
    ("DATABASE_USER", "DB_USER"),
    ("DATABASE_PASSWORD", "DB_PASSWORD"),
];

/// What our variables begin with; names elsewhere are none of our business.
pub const PREFIXES: [&str; 11] = [
    "APP_",
    "DATABASE_",
    "DB_",
    "REPLICATION_",
    "OUTBOX_",
    "KAFKA_",
    "WORKER_",
    "SERVER_",
    "METRICS_",
    "SHUTDOWN_",
    "LOGGING_",
];

/// Finds a variable of [`VARIABLES`] by its name.
pub fn find(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}

const fn plain(
    group: &'static str,
    name: &'static str,
    default: Default,
    value_name: &'static str,
    help: &'static str,
) -> Variable {
    Variable { name, default, kind: Kind::Plain, value_name, group, help }
}

const fn of_kind(kind: Kind, variable: Variable) -> Variable {
    Variable { kind, ..variable }
}

use self::Default::{Derived, Is, None as Unset};

const APP: &str = "Application";
const DATABASE: &str = "Database";
const REPLICATION: &str = "Replication";
const OUTBOX: &str = "Outbox";
const KAFKA: &str = "Kafka";
const BREAKER: &str = "Circuit breaker";
const RETRIES: &str = "Retries";
const WORKERS: &str = "Workers";
const WRITER: &str = "Writer";
const ADMIN: &str = "Admin server";
const PROCESS: &str = "Process";
const ANCESTOR: &str = "Of the polling ancestor";

/// Every variable, in the order people read them.
pub const VARIABLES: &[Variable] = &[
    plain(APP, "APP_NAME", Is("txstream"), "NAME", "Name of this process in logs, client.id and /health"),
    plain(APP, "APP_VERSION", Derived("the build's"), "VERSION", "Version shown in logs and /health"),
    plain(APP, "APP_ENV", Is("development"), "NAME", "Environment shown in logs and /health"),
    of_kind(
        Kind::Url,
        plain(
            DATABASE,
            "DATABASE_URL",
            Unset,
            "URL",
            "libpq URI or keyword string; Unix sockets too (host=/var/run/postgresql). Beats DB_* of the same layer",
        ),
    ),
    plain(DATABASE, "DB_HOST", Is("localhost"), "HOST", "Host, or the directory of a Unix socket"),
    plain(DATABASE, "DB_PORT", Is("5432"), "PORT", "Port"),
    plain(DATABASE, "DB_NAME", Is("txstream"), "NAME", "Database"),
    plain(DATABASE, "DB_USER", Is("postgres"), "ROLE", "Role"),
    of_kind(Kind::Secret, plain(DATABASE, "DB_PASSWORD", Unset, "FILE", "Password")),
    plain(
        DATABASE,
        "DB_SSL_MODE",
        Is("prefer"),
        "MODE",
        "disable, prefer, require, verify-ca or verify-full, for SQL and replication alike; used where the URL names no ssl key",
    ),
    plain(DATABASE, "DB_SSL_ROOT_CERT", Unset, "FILE", "Certificates of trusted authorities, or system"),
    plain(DATABASE, "DB_SSL_CERT", Unset, "FILE", "Client certificate"),
    plain(DATABASE, "DB_SSL_KEY", Unset, "FILE", "Key of the client certificate"),
    plain(DATABASE, "DB_MAX_OPEN_CONNS", Is("25"), "COUNT", "Most connections of the writer's pool"),
    plain(DATABASE, "DB_MAX_IDLE_CONNS", Is("5"), "COUNT", "Most idle connections of the writer's pool"),
    plain(
        DATABASE,
        "DB_CONN_MAX_LIFETIME",
        Is("5m"),
        "DURATION",
        "Age at which a pooled connection is replaced; 0 is never",
    ),
    of_kind(
        Kind::Url,
        plain(
            REPLICATION,
            "REPLICATION_URL",
            Derived("what the SQL side resolved to"),
            "URL",
            "A direct connection, where DATABASE_URL goes through a pooler",
        ),
    ),
    plain(REPLICATION, "REPLICATION_SLOT", Is("txstream"), "NAME", "Replication slot"),
    plain(REPLICATION, "REPLICATION_PUBLICATION", Is("txstream_outbox"), "NAME", "Publication"),
    plain(
        REPLICATION,
        "REPLICATION_STATUS_INTERVAL",
        Is("1s"),
        "DURATION",
        "Longest time between two standby status messages",
    ),
    plain(
        OUTBOX,
        "OUTBOX_TABLE",
        Is("public.outbox"),
        "TABLES",
        "Outbox tables, comma-separated; unquoted folds to lower case, unqualified means public",
    ),
    plain(
        OUTBOX,
        "OUTBOX_PRESET",
        Is("debezium"),
        "PRESET",
        "Column mapping and record shape: debezium or txstream",
    ),
    plain(
        OUTBOX,
        "OUTBOX_PLACEMENT",
        Unset,
        "COLUMNS",
        "Extra columns into the record: column:header[:name], comma-separated",
    ),
    plain(
        KAFKA,
        "KAFKA_BROKERS",
        Is("localhost:9092"),
        "HOSTS",
        "Brokers to start from, host:port, comma-separated",
    ),
    plain(
        KAFKA,
        "KAFKA_TOPIC_EVENTS",
        Derived("none; preset txstream: txstream.events"),
        "TOPIC",
        "One topic for all events instead of routing by aggregate",
    ),
    plain(
        KAFKA,
        "KAFKA_REQUIRED_ACKS",
        Is("all"),
        "ACKS",
        "Always all; weaker values are accepted with a warning and not used",
    ),
    plain(KAFKA, "KAFKA_TIMEOUT", Is("30s"), "DURATION", "Request timeout"),
    plain(
        KAFKA,
        "KAFKA_GROUP_ID",
        Is("txstream-consumer-group"),
        "NAME",
        "Group that verify and doctor name to brokers; they join none, commit no offset and need no right to it",
    ),
    plain(
        KAFKA,
        "KAFKA_AUTO_OFFSET_RESET",
        Is("earliest"),
        "WHERE",
        "Without effect: verify reads by assignment, each topic from its beginning: earliest, latest or error",
    ),
    plain(KAFKA, "KAFKA_SESSION_TIMEOUT", Is("30s"), "DURATION", "Without effect, since no group is joined"),
    plain(
        KAFKA,
        "KAFKA_CONFIG_FILE",
        Unset,
        "FILE",
        "Properties file with any other librdkafka property (TLS, SASL, compression)",
    ),
    plain(BREAKER, "KAFKA_CIRCUIT_BREAKER_ENABLED", Is("true"), "BOOL", "Whether failures open the breaker"),
    plain(BREAKER, "KAFKA_FAILURE_THRESHOLD", Is("5"), "COUNT", "Failures in a row that open it"),
    plain(BREAKER, "KAFKA_SUCCESS_THRESHOLD", Is("3"), "COUNT", "Acknowledged probes that close it"),
    plain(
        BREAKER,
        "KAFKA_TIMEOUT_DURATION",
        Is("10s"),
        "DURATION",
        "A record this long unacknowledged is a failure",
    ),
    plain(BREAKER, "KAFKA_RESET_TIMEOUT", Is("30s"), "DURATION", "Time from open to half-open"),
    plain(
        RETRIES,
        "KAFKA_EXPONENTIAL_RETRY_ENABLED",
        Is("true"),
        "BOOL",
        "Exponential backoff with jitter; false waits KAFKA_RETRY_DELAY each time",
    ),
    plain(
        RETRIES,
        "KAFKA_BASE_DELAY",
        Is("1s"),
        "DURATION",
        "First wait before a failed record is sent again",
    ),
    plain(RETRIES, "KAFKA_MAX_DELAY", Is("30s"), "DURATION", "Longest wait, give or take a fifth of jitter"),
    plain(RETRIES, "KAFKA_MULTIPLIER", Is("2.0"), "FACTOR", "Growth of the wait"),
    plain(RETRIES, "KAFKA_RETRY_DELAY", Is("1s"), "DURATION", "The wait without exponential backoff"),
    plain(
        RETRIES,
        "KAFKA_MAX_RETRIES",
        Is("-1"),
        "COUNT",
        "Our own resends of a failed record before it is rejected, -1 is for ever; transport failures never count",
    ),
    plain(
        WORKERS,
        "WORKER_POOL_SIZE",
        Derived("the number of cores"),
        "COUNT",
        "Lanes; an aggregate always takes the same one",
    ),
    plain(WORKERS, "WORKER_BATCH_SIZE", Is("1024"), "ROWS", "Most rows handed to a worker at once"),
    plain(
        WORKERS,
        "WORKER_MAX_IN_FLIGHT_BYTES",
        Is("16MiB"),
        "SIZE",
        "Memory bound of everything read and not yet acknowledged",
    ),
    plain(
        WORKERS,
        "WORKER_ON_REJECT",
        Is("halt"),
        "POLICY",
        "What to do with a record that Kafka will never take: halt, or dead-letter",
    ),
    plain(WRITER, "SERVER_HOST", Is("localhost"), "HOST", "Address of the HTTP service"),
    plain(WRITER, "SERVER_PORT", Is("8080"), "PORT", "Port of the HTTP service"),
    plain(WRITER, "SERVER_TIMEOUT", Is("30s"), "DURATION", "Longest time for one request"),
    of_kind(
        Kind::Secret,
        plain(
            WRITER,
            "SERVER_AUTH_TOKEN",
            Unset,
            "FILE",
            "Bearer token that all routes but /health and /ready want, if set",
        ),
    ),
    plain(ADMIN, "METRICS_ENABLED", Is("true"), "BOOL", "Whether there is an admin server"),
    plain(ADMIN, "METRICS_HOST", Is("0.0.0.0"), "HOST", "Its address"),
    plain(ADMIN, "METRICS_PORT", Is("9090"), "PORT", "Its port; the writer's is 9091 by default"),
    plain(ADMIN, "METRICS_PATH", Is("/metrics"), "PATH", "Path of the metrics"),
    of_kind(
        Kind::Secret,
        plain(
            ADMIN,
            "METRICS_ADMIN_TOKEN",
            Unset,
            "FILE",
            "Bearer token that POST and PUT want; without one they are refused",
        ),
    ),
    plain(PROCESS, "SHUTDOWN_TIMEOUT", Is("25s"), "DURATION", "Grace period to drain after a signal"),
    plain(
        PROCESS,
        "LOGGING_LEVEL",
        Is("info"),
        "LEVEL",
        "error, warn, info, debug, trace or off, also per module: info,txstream::kafka=debug",
    ),
    plain(PROCESS, "LOGGING_FORMAT", Is("json"), "FORMAT", "json, or text for people"),
    of_kind(
        Kind::Ancestor,
        plain(
            ANCESTOR,
            "WORKER_INTERVAL",
            Unset,
            "DURATION",
            "No effect: nothing is polled, rows arrive as they commit",
        ),
    ),
    of_kind(
        Kind::Ancestor,
        plain(
            ANCESTOR,
            "WORKER_MAX_RETRIES",
            Unset,
            "COUNT",
            "Stands for KAFKA_MAX_RETRIES where that is not set",
        ),
    ),
    of_kind(
        Kind::Ancestor,
        plain(
            ANCESTOR,
            "WORKER_RETRY_DELAY",
            Unset,
            "DURATION",
            "Stands for KAFKA_RETRY_DELAY where that is not set",
        ),
    ),
];

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::expect_file;

    use super::*;

    fn groups() -> Vec<(&'static str, Vec<&'static Variable>)> {
        let mut groups: Vec<(&str, Vec<&Variable>)> = Vec::new();
        for variable in VARIABLES {
            match groups.last_mut() {
                Some((group, members)) if *group == variable.group => members.push(variable),
                _ => groups.push((variable.group, vec![variable])),
            }
        }
        groups
    }

    fn default(variable: &Variable) -> String {
        match variable.default {
            Default::None => "–".to_owned(),
            Default::Is(text) => format!("`{text}`"),
            Default::Derived(text) => text.to_owned(),
        }
    }

    #[test]
    fn names_are_unique_and_have_one_of_our_prefixes() {
        for (index, variable) in VARIABLES.iter().enumerate() {
            assert!(PREFIXES.iter().any(|prefix| variable.name.starts_with(prefix)), "{}", variable.name);
            assert!(
                VARIABLES[index + 1..].iter().all(|other| other.name != variable.name),
                "{}",
                variable.name
            );
        }
        let mut names: Vec<_> = groups().into_iter().map(|(group, _)| group).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), groups().len(), "a group is torn apart");
    }

    #[test]
    fn env_example_lists_exactly_the_variables_with_their_defaults() {
        let mut text = String::from(
            "# Copy to .env in the directory that txstream runs in; flags and the environment beat it.\n\
             # What is commented out shows the default. Durations: 500ms, 30s, 5m, 1h. Sizes: 64MiB, 16MB, bytes.\n\
             # Put single quotes around a value that has blanks, # or $.\n",
        );
        for (group, variables) in groups() {
            write!(text, "\n# {group}\n\n").unwrap();
            for variable in variables {
                let value = match variable.default {
                    Default::Is(text) => text,
                    Default::None | Default::Derived(_) => "",
                };
                writeln!(text, "# {}", variable.help).unwrap();
                if let Default::Derived(text_) = variable.default {
                    writeln!(text, "# Default: {text_}").unwrap();
                }
                if let Some(file) = variable.file_name() {
                    writeln!(text, "# {file} names a file with it instead").unwrap();
                }
                writeln!(text, "#{}={value}", variable.name).unwrap();
            }
        }
        expect_file!["../../env.example"].assert_eq(&text);
    }

    #[test]
    fn the_documentation_lists_exactly_the_variables_with_their_defaults() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let (from, to) = ("<!-- variables -->\n", "<!-- end of variables -->\n");
        let document = std::fs::read_to_string(path).unwrap();
        let (before, rest) = document.split_once(from).unwrap();
        let (_, after) = rest.split_once(to).unwrap();
        let mut tables = String::new();
        for (group, variables) in groups() {
            write!(tables, "\n### {group}\n\n| variable | flag | default | meaning |\n|---|---|---|---|\n")
                .unwrap();
            for variable in variables {
                let name = match variable.file_name() {
                    Some(file) => format!("`{}` or `{file}`", variable.name),
                    None => format!("`{}`", variable.name),
                };
                let flags: Vec<_> = [variable.flag(), variable.file_flag()]
                    .into_iter()
                    .flatten()
                    .map(|flag| format!("`--{flag}`"))
                    .collect();
                let flags = flags.join(" or ");
                writeln!(tables, "| {name} | {flags} | {} | {} |", default(variable), variable.help).unwrap();
            }
        }
        expect_file!["../../docs/configuration.md"]
            .assert_eq(&format!("{before}{from}{tables}\n{to}{after}"));
    }
}

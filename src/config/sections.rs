//! What each module is told, section by section, and the rules that its texts must keep.

use std::num::NonZero;
use std::thread;
use std::time::Duration;

use super::layers::Given;
use super::read::{Reader, number, within};
use super::{LogFormat, Logging, units};
use crate::outbox::{self, Placement, PlacementError, Preset, PresetError, TableName, check_topic_name};
use crate::relay::settings::{Backoff, Breaker, OnReject};
use crate::{admin, relay, writer};

/// Long enough for any wait of ours; longer is a slip of the pen.
const A_DAY: Duration = Duration::from_secs(86_400);

impl Reader<'_> {
    pub(super) fn outbox(&mut self) -> outbox::Settings {
        let tables =
            self.parse("OUTBOX_TABLE", |text| TableName::parse_list(text).map_err(|error| error.to_string()));
        let preset: Preset =
            self.parse("OUTBOX_PRESET", |text| text.parse().map_err(|error: PresetError| error.to_string()));
        let placement = self.parse("OUTBOX_PLACEMENT", |text| {
            let told =
                |errors: Vec<PlacementError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
            Placement::parse_list(text).map_err(|errors| told(errors).join("; "))
        });
        let (topic, source) = self.raw("KAFKA_TOPIC_EVENTS");
        let topic = topic.or(preset.default_topic()).map(str::to_owned);
        self.show("KAFKA_TOPIC_EVENTS", topic.clone(), source);
        if let Some(topic) = &topic {
            self.checked(
                "KAFKA_TOPIC_EVENTS",
                source,
                check_topic_name(topic).map_err(|reason| format!("{topic:?}: {reason}")),
            );
        }
        outbox::Settings { tables, preset, placement, fixed_topic: topic }
    }

    pub(super) fn relay(&mut self) -> relay::Settings {
        let slot = self.parse("REPLICATION_SLOT", slot_name);
        let publication = self.parse("REPLICATION_PUBLICATION", publication_name);
        let status_interval = self.duration("REPLICATION_STATUS_INTERVAL", millis(1)..=A_DAY);
        let lanes = self.lanes();
        let batch_size = self.number("WORKER_BATCH_SIZE", 1..=1_000_000);
        let max_in_flight_bytes = self.parse("WORKER_MAX_IN_FLIGHT_BYTES", |text| {
            let bytes = units::bytes(text)?;
            usize::try_from(bytes)
                .ok()
                .filter(|b| *b > 0)
                .ok_or_else(|| format!("{text:?} must be more than 0"))
        });
        let on_reject = self.parse("WORKER_ON_REJECT", |text| match text {
            "halt" => Ok(OnReject::Halt),
            "dead-letter" => Ok(OnReject::DeadLetter),
            _ => Err(format!("{text:?} is not a policy; write halt or dead-letter")),
        });
        relay::Settings {
            slot,
            publication,
            status_interval,
            lanes,
            batch_size,
            max_in_flight_bytes,
            on_reject,
            breaker: self.breaker(),
            backoff: self.backoff(),
            max_retries: self.max_retries(),
            shutdown_timeout: self.duration("SHUTDOWN_TIMEOUT", Duration::ZERO..=A_DAY),
        }
    }

    fn lanes(&mut self) -> usize {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let (text, source) = self.raw("WORKER_POOL_SIZE");
        let lanes = text.map_or(Ok(cores), |text| number(text, &(1..=1024)));
        let lanes = self.checked("WORKER_POOL_SIZE", source, lanes);
        self.show("WORKER_POOL_SIZE", Some(lanes.to_string()), source);
        lanes
    }

    fn breaker(&mut self) -> Breaker {
        Breaker {
            enabled: self.bool("KAFKA_CIRCUIT_BREAKER_ENABLED"),
            failure_threshold: self.number("KAFKA_FAILURE_THRESHOLD", 1..=1_000_000),
            success_threshold: self.number("KAFKA_SUCCESS_THRESHOLD", 1..=1_000_000),
            timeout_duration: self.duration("KAFKA_TIMEOUT_DURATION", millis(1)..=A_DAY),
            reset_timeout: self.duration("KAFKA_RESET_TIMEOUT", millis(1)..=A_DAY),
        }
    }

    fn backoff(&mut self) -> Backoff {
        let backoff = Backoff {
            enabled: self.bool("KAFKA_EXPONENTIAL_RETRY_ENABLED"),
            base: self.duration("KAFKA_BASE_DELAY", millis(1)..=A_DAY),
            max: self.duration("KAFKA_MAX_DELAY", millis(1)..=A_DAY),
            multiplier: self.parse("KAFKA_MULTIPLIER", |text| {
                let factor: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
                // Written so that NaN fails too.
                if (1.0..=1000.0).contains(&factor) {
                    Ok(factor)
                } else {
                    Err(format!("{text:?} must be from 1.0 to 1000"))
                }
            }),
            constant: self.standing_for("KAFKA_RETRY_DELAY", "WORKER_RETRY_DELAY", |text| {
                within(units::duration(text)?, &(millis(1)..=A_DAY), text, |d| format!("{d:?}"))
            }),
        };
        self.no_effect("WORKER_INTERVAL");
        if backoff.base > backoff.max && !backoff.max.is_zero() {
            self.wrong("KAFKA_BASE_DELAY is longer than KAFKA_MAX_DELAY; raise the one or lower the other");
        }
        backoff
    }

    fn max_retries(&mut self) -> Option<u32> {
        self.standing_for("KAFKA_MAX_RETRIES", "WORKER_MAX_RETRIES", |text| match text {
            "-1" => Ok(None),
            _ => number(text, &(0..=u32::MAX))
                .map(Some)
                .map_err(|_| format!("{text:?} must be -1 (for ever), or 0 or more resends")),
        })
    }

    pub(super) fn admin(&mut self) -> admin::Settings {
        admin::Settings {
            enabled: self.bool("METRICS_ENABLED"),
            host: self.text("METRICS_HOST"),
            port: self.number("METRICS_PORT", 1..=u16::MAX),
            path: self.parse("METRICS_PATH", metrics_path),
            admin_token: self.secret("METRICS_ADMIN_TOKEN"),
        }
    }

    pub(super) fn writer(&mut self) -> writer::Settings {
        let max_open_conns = self.number("DB_MAX_OPEN_CONNS", 1..=10_000);
        let metrics_port = match self.layers.get("METRICS_PORT") {
            Some(Given { text, .. }) => text.trim().parse().unwrap_or_default(),
            None => 9091,
        };
        writer::Settings {
            host: self.text("SERVER_HOST"),
            port: self.number("SERVER_PORT", 1..=u16::MAX),
            timeout: self.duration("SERVER_TIMEOUT", millis(1)..=A_DAY),
            auth_token: self.secret("SERVER_AUTH_TOKEN"),
            metrics_port,
            max_open_conns,
            // More idle connections than connections is no error, only less to keep.
            max_idle_conns: self.number("DB_MAX_IDLE_CONNS", 0..=10_000).min(max_open_conns),
            conn_max_lifetime: self.duration("DB_CONN_MAX_LIFETIME", Duration::ZERO..=A_DAY * 365),
        }
    }

    pub(super) fn logging(&mut self) -> Logging {
        Logging {
            level: self.parse("LOGGING_LEVEL", |text| level(text).map(|()| text.to_owned())),
            format: self.parse("LOGGING_FORMAT", |text| match text {
                "json" => Ok(LogFormat::Json),
                "text" => Ok(LogFormat::Text),
                _ => Err(format!("{text:?} is not a format; write json or text")),
            }),
        }
    }
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Postgres' rule for slot names (`ReplicationSlotValidateName`).
fn slot_name(text: &str) -> Result<String, String> {
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!("{text:?} is not a slot name; write 1 to 63 lower-case letters, digits and underscores")
    })
}

/// An identifier as Postgres stores it: 63 bytes, the rest would be cut silently.
fn publication_name(text: &str) -> Result<String, String> {
    let fits = (1..=63).contains(&text.len()) && !text.contains('\0');
    fits.then(|| text.to_owned())
        .ok_or_else(|| format!("{text:?} is not a publication name; write 1 to 63 bytes"))
}

fn metrics_path(text: &str) -> Result<String, String> {
    let taken = ["/", "/livez", "/readyz", "/status", "/log-level", "/breaker/open", "/breaker/close"];
    let plain = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#{}*".contains(&b));
    match (plain, taken.contains(&text)) {
        (false, _) => Err(format!("{text:?} is not a path; write it like /metrics")),
        (true, true) => Err(format!("{text:?} is another page of the admin server; write it like /metrics")),
        (true, false) => Ok(text.to_owned()),
    }
}

/// Checks a log level: a name of a level, or comma-separated `module=level` besides.
///
/// # Errors
/// What is wrong with it.
pub(super) fn level(text: &str) -> Result<(), String> {
    let known = |level: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].iter().any(|l| l.eq_ignore_ascii_case(level))
    };
    let directive = |part: &str| match part.split_once('=') {
        None => known(part),
        Some((module, level)) => !module.is_empty() && known(level),
    };
    if text.split(',').all(directive) {
        Ok(())
    } else {
        Err(format!(
            "{text:?} is not a level; write error, warn, info, debug, trace or off, or info,txstream::kafka=debug"
        ))
    }
}

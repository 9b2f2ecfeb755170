//! `txstream lag`: how far the slot is behind.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

use super::admin_client::{self, Refused};
use super::connect;
use super::output::{self, Format};
use super::signals;
use super::slot_words::{bytes, held_back, seconds, standing};
use super::{Failure, OutputArgs, WaitArgs};
use crate::config::{Config, units};
use crate::postgres::slot::SlotView;

/// Show how far the slot is behind, and what holds it
#[derive(Debug, clap::Args)]
pub(super) struct LagArgs {
    /// Refresh in place until interrupted; where there is no terminal, a line each time
    #[arg(long)]
    follow: bool,
    /// Time between two looks with --follow
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = units::duration)]
    interval: Duration,
    /// The relay's admin server, for the age of the oldest unconfirmed record; by default on METRICS_HOST,
    /// at METRICS_PORT
    #[arg(long, value_name = "URL", value_parser = admin_client::base_url)]
    admin_url: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

/// The slot, and its lag in bytes and seconds.
#[derive(Debug, Serialize)]
struct Lag {
    #[serde(flatten)]
    slot: SlotView,
    /// Bytes of WAL until the server may give the slot up; none without a limit.
    slot_safe_wal_bytes: Option<i64>,
    /// Age of the oldest record that Kafka has not acknowledged.
    oldest_unconfirmed_age_seconds: Option<f64>,
    /// Where the seconds come from: `relay` or `pg_stat_replication`.
    oldest_unconfirmed_age_source: Option<&'static str>,
    /// Why there are no seconds.
    oldest_unconfirmed_age_reason: Option<String>,
}

pub(super) async fn run(args: &LagArgs, config: &Config) -> Result<(), Failure> {
    let client = connect::postgres(&config.replication, "lag", args.wait.wait).await?;
    if !args.follow {
        let lag = look(&client, args, config).await?;
        return match args.output.output {
            Format::Json => output::print_json(&lag),
            Format::Table => output::print(&table(&lag)),
        };
    }
    tokio::select! {
        biased;
        // Being interrupted is how this ends well, whatever is waited for.
        interrupted = signals::interrupted() => interrupted,
        followed = follow(client, args, config) => followed,
    }
}

async fn follow(mut client: Client, args: &LagArgs, config: &Config) -> Result<(), Failure> {
    let mut ticks = interval(args.interval.max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut screen = Screen { lines: 0, terminal: std::io::stdout().is_terminal() };
    loop {
        ticks.tick().await;
        // A server that restarts is waited for: whoever follows wants to see it come back.
        if client.is_closed() {
            tracing::warn!("lost the connection to Postgres, connecting again");
            client = connect::postgres(&config.replication, "lag", Duration::from_secs(3600)).await?;
            screen.lines = 0;
        }
        match look(&client, args, config).await {
            Ok(lag) => screen.show(&lag, args.output.output)?,
            Err(_) if client.is_closed() => {}
            Err(failure) => return Err(failure),
        }
    }
}

async fn look(client: &Client, args: &LagArgs, config: &Config) -> Result<Lag, Failure> {
    let slot = super::slot::existing(client, &config.relay.slot).await?;
    let age = age(&slot, args, config).await;
    let (age, source, reason) = match age {
        Ok((age, source)) => (Some(age), Some(source), None),
        Err(reason) => (None, None, Some(reason)),
    };
    Ok(Lag {
        slot_safe_wal_bytes: slot.safe_wal_size,
        slot,
        oldest_unconfirmed_age_seconds: age,
        oldest_unconfirmed_age_source: source,
        oldest_unconfirmed_age_reason: reason,
    })
}

/// The relay knows the age of its records; the server only that of its walsender's last flush.
async fn age(slot: &SlotView, args: &LagArgs, config: &Config) -> Result<(f64, &'static str), String> {
    let url = args.admin_url.clone().or_else(|| admin_client::default_url(&config.admin));
    let asked = match url {
        Some(url) => age_from_relay(&url, slot).await,
        None => Err("METRICS_ENABLED is false and there is no --admin-url".to_owned()),
    };
    let reason = match asked {
        Ok(age) => return Ok((age, "relay")),
        Err(reason) => reason,
    };
    let holder = slot.holder.as_ref();
    match holder.and_then(|holder| holder.flush_lag_seconds) {
        Some(age) => Ok((age, "pg_stat_replication")),
        None if holder.is_none() => Err(format!("nobody holds the slot, and the relay gives none: {reason}")),
        None => Err(format!(
            "the server measures none while the stream is idle, and the relay gives none: {reason}"
        )),
    }
}

async fn age_from_relay(url: &str, slot: &SlotView) -> Result<f64, String> {
    let status = admin_client::get_json(url, "/status").await.map_err(Refused::what)?;
    // On this host may run the relay of another slot.
    let other = status.get("slot").and_then(|name| name.as_str()).filter(|name| *name != slot.slot_name);
    if let Some(other) = other {
        return Err(format!("the relay at {url} has slot {other}"));
    }
    let state = status.get("state").and_then(|state| state.as_str()).unwrap_or("in an unknown state");
    match status.get("oldest_unconfirmed_age_seconds") {
        // Everything that was read is confirmed; a relay that does not stream knows nothing of the rest.
        Some(serde_json::Value::Null) if state == "streaming" => Ok(0.0),
        Some(serde_json::Value::Null) => Err(format!("the relay at {url} is {state}")),
        age => age
            .and_then(serde_json::Value::as_f64)
            .ok_or_else(|| format!("{url}/status has no oldest_unconfirmed_age_seconds")),
    }
}

fn age_words(lag: &Lag) -> String {
    match (lag.oldest_unconfirmed_age_seconds, lag.oldest_unconfirmed_age_source) {
        (Some(0.0), Some("relay")) => "none".to_owned(),
        (Some(age), Some("relay")) => seconds(age),
        (Some(age), _) => format!("{} (walsender's flush lag)", seconds(age)),
        (None, _) => {
            let reason = lag.oldest_unconfirmed_age_reason.as_deref().unwrap_or("unknown");
            format!("unknown: {reason}")
        }
    }
}

fn table(lag: &Lag) -> comfy_table::Table {
    let size = |number: Option<u64>| number.map_or_else(|| "unknown".to_owned(), bytes);
    let slot = &lag.slot;
    let mut table = output::table(["SLOT", slot.slot_name.as_str()]);
    for (name, value) in [
        ("state", standing(slot)),
        ("not confirmed", format!("{} of WAL", size(slot.slot_confirmed_lag_bytes))),
        ("oldest unconfirmed", age_words(lag)),
        ("retained", format!("{} of WAL", size(slot.slot_retained_wal_bytes))),
        ("wal_status", slot.wal_status.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("held back by", held_back(slot)),
    ] {
        table.add_row([name.to_owned(), value]);
    }
    table
}

/// What `--follow` writes on: a terminal is redrawn, anything else gets a line each time.
struct Screen {
    lines: usize,
    terminal: bool,
}

impl Screen {
    fn show(&mut self, lag: &Lag, format: Format) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            Failure::halted(format!("write to stdout: {error}"), "see where stdout leads")
        };
        match format {
            Format::Json => {
                let line = serde_json::to_string(lag).map_err(|error| {
                    Failure::halted(format!("write JSON: {error}"), "report this as a bug")
                })?;
                output::print(&line)
            }
            Format::Table if self.terminal => {
                let text = table(lag).to_string();
                if self.lines > 0 {
                    // To the start of the last table, and clear from there.
                    write!(std::io::stdout(), "\x1b[{}F\x1b[J", self.lines).map_err(failed)?;
                }
                self.lines = text.lines().count();
                output::print(&text)
            }
            Format::Table => {
                let size = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), bytes);
                let slot = &lag.slot;
                output::print(&format!(
                    "not confirmed {}, oldest {}, retained {}, wal_status {}",
                    size(slot.slot_confirmed_lag_bytes),
                    lag.oldest_unconfirmed_age_seconds.map_or_else(|| "?".to_owned(), seconds),
                    size(slot.slot_retained_wal_bytes),
                    slot.wal_status.as_deref().unwrap_or("?"),
                ))
            }
        }
    }
}

//! `txstream writer`: the HTTP service.

use std::sync::Arc;

use tokio::sync::watch;

use super::Failure;
use super::logging::SetLevel;
use super::signals::second_signal;
use crate::admin::{self, listen};
use crate::config::Config;
use crate::writer::{self, About, Halt, Writer};

/// Serve HTTP: write orders and events into the outbox table
#[derive(Debug, clap::Args)]
pub(super) struct WriterArgs {}

pub(super) async fn run(_: &WriterArgs, config: &Config, set_level: SetLevel) -> Result<(), Failure> {
    let settings = &config.writer;
    let about = About {
        name: config.app.name.clone(),
        version: config.app.version.clone(),
        environment: config.app.environment.clone(),
    };
    let failure = |Halt { what, remedy }| Failure::Halted { what, remedy };
    let writer = Writer::new(settings.clone(), about, &config.outbox, &config.database).map_err(failure)?;
    let admin = admin::Settings { port: settings.metrics_port, ..config.admin.clone() };
    let admin = admin::start(admin, Arc::clone(&writer) as _, writer.metrics().registry(), set_level)
        .map_err(|error| {
            Failure::halted(error.to_string(), "free the port, or set METRICS_PORT or METRICS_HOST")
        })?;
    let listeners = listen::bind(&settings.host, settings.port).map_err(|error| {
        Failure::halted(format!("{error} for requests"), "free the port, or set SERVER_PORT or SERVER_HOST")
    })?;
    let addresses: Vec<_> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    tracing::info!(
        name = config.app.name,
        version = config.app.version,
        environment = config.app.environment,
        addresses = ?addresses,
        table = config.outbox.tables.first().map(ToString::to_string),
        database = config.database.redacted(),
        authorization = if settings.auth_token.is_some() { "bearer" } else { "none" },
        "writing orders and events into the outbox table"
    );
    let (stop, stopped) = watch::channel(false);
    let finished = tokio::select! {
        finished = Box::pin(writer::run(&writer, listeners, stopped, config.relay.shutdown_timeout)) => finished,
        signal = second_signal(&stop, "requests that came are answered") => return Err(signal),
    };
    admin.stop();
    match finished.map_err(failure)?.cut {
        0 => tracing::info!("stopped; every request was answered"),
        cut => tracing::warn!(connections = cut, "stopped before every request was answered"),
    }
    Ok(())
}

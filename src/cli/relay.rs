//! `txstream relay`: tail the slot, publish.

use std::sync::Arc;

use tokio::sync::watch;

use super::Failure;
use super::logging::SetLevel;
use super::signals::second_signal;
use crate::admin;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::relay::{self, Board, Relay};

/// Tail the replication slot and publish every committed outbox row to Kafka
#[derive(Debug, clap::Args)]
pub(super) struct RelayArgs {
    /// Create the slot on the very first start only; never one that was lost or dropped
    #[arg(long)]
    pub(super) create_slot: bool,
}

pub(super) async fn run(args: &RelayArgs, config: &Config, set_level: SetLevel) -> Result<(), Failure> {
    let metrics = Metrics::new();
    let (board, orders) = Board::new(&config.relay.slot, &config.relay.publication);
    // Before anything else is touched: a port in use must not cost the other instance its slot.
    let admin = admin::start(config.admin.clone(), Arc::clone(&board) as _, metrics.registry(), set_level)
        .map_err(|error| {
            Failure::halted(error.to_string(), "free the port, or set METRICS_PORT or METRICS_HOST")
        })?;
    tracing::info!(
        name = config.app.name,
        version = config.app.version,
        environment = config.app.environment,
        slot = config.relay.slot,
        publication = config.relay.publication,
        tables = %config.outbox.tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        database = config.replication.redacted(),
        brokers = config.kafka.brokers,
        "relaying committed outbox rows to Kafka"
    );
    let relay = relay(config, args.create_slot, board, metrics);
    let (stop, stopped) = watch::channel(false);
    let finished = tokio::select! {
        finished = Box::pin(relay::run(&relay, stopped, orders)) => finished,
        signal = second_signal(&stop, "what was taken in is drained and confirmed") => return Err(signal),
    };
    admin.stop();
    let stopped = finished.map_err(|halt| Failure::Halted { what: halt.what, remedy: halt.remedy })?;
    if stopped.unconfirmed > 0 {
        tracing::warn!(
            records = stopped.unconfirmed,
            "stopped before Kafka acknowledged everything; these records may repeat"
        );
    } else {
        tracing::info!("stopped; everything that was read is confirmed");
    }
    Ok(())
}

/// A relay with these settings.
pub(super) fn relay(config: &Config, create_slot: bool, board: Arc<Board>, metrics: Arc<Metrics>) -> Relay {
    Relay {
        settings: config.relay.clone(),
        outbox: config.outbox.clone(),
        kafka: config.kafka.clone(),
        conninfo: config.replication.clone(),
        application_name: config.app.name.clone(),
        create_slot,
        board,
        metrics,
    }
}

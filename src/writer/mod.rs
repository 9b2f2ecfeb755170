//! The HTTP service that writes orders and events into the outbox table.
//!
//! A request is read whole and checked whole, and becomes one transaction in one round trip; then
//! it is answered. It knows nothing of Kafka and of the slot: a committed row is the relay's business.
//!
//! Invariant: a request is stored wholly or not at all, and an answer that says so tells which. Only an answer with
//! the code `outcome_unknown` leaves it open.

mod answer;
mod body;
mod column;
mod events;
mod fields;
mod health;
mod number;
mod order_table;
mod orders;
mod outbox_table;
mod routes;
mod server;
mod service;
mod session;
mod settings;
mod store;
mod subject;
#[cfg(test)]
mod tests;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

pub use settings::{About, Settings};

use crate::metrics::WriterMetrics;
use crate::outbox;
use crate::postgres::ConnInfo;

/// The writer cannot work until a person does something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// What happened.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// How a writer ended that was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that were cut because they were not answered in time.
    pub cut: usize,
}

/// The service, shared by its connections and the admin server.
pub struct Writer {
    settings: Settings,
    about: About,
    store: store::Store,
    health: health::Health,
    metrics: Arc<WriterMetrics>,
    routes: routes::Routes,
    /// Whether the topic of an event is made of its aggregate type.
    routed: bool,
}

impl Writer {
    /// A writer that has not connected to anything yet.
    ///
    /// # Errors
    /// [`Halt`] if there is no outbox table to write into.
    pub fn new(
        settings: Settings,
        about: About,
        outbox: &outbox::Settings,
        conninfo: &ConnInfo,
    ) -> Result<Arc<Self>, Halt> {
        let store = store::Store::new(&settings, outbox, conninfo, &about.name);
        let store = store.ok_or_else(|| Halt {
            what: "there is no outbox table to write into".to_owned(),
            remedy: "set OUTBOX_TABLE".to_owned(),
        })?;
        let metrics = WriterMetrics::new(routes::ROUTES.iter().map(|route| (route.name, route.statuses)));
        metrics.pool_max_connections.set(settings.max_open_conns);
        let routed = outbox.fixed_topic.is_none();
        Ok(Arc::new(Self {
            settings,
            about,
            store,
            health: health::Health::new(),
            metrics,
            routes: routes::Routes::new(),
            routed,
        }))
    }

    /// What is served as metrics.
    pub fn metrics(&self) -> Arc<WriterMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Closes connections that nobody needs, for ever.
    async fn tidy(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(store::IDLE_LOOK).await;
            self.store.tidy();
        }
    }
}

/// Serves until `stop` is true, then drains for at most `grace`. It serves from the first moment, answering
/// 503 while the database is away.
///
/// # Errors
/// [`Halt`], only at the start: a person must act before anything can be written.
pub async fn run(
    writer: &Arc<Writer>,
    listeners: Vec<TcpListener>,
    stop: watch::Receiver<bool>,
    grace: Duration,
) -> Result<Stopped, Halt> {
    let listeners: Result<Vec<_>, _> = listeners.into_iter().map(tokio::net::TcpListener::from_std).collect();
    let listeners = listeners.map_err(|error| Halt {
        what: format!("listen for requests: {error}"),
        remedy: "raise the limit of open files".to_owned(),
    })?;
    tokio::select! {
        cut = Box::pin(server::serve(writer, listeners, stop, grace)) => Ok(Stopped { cut }),
        halt = Box::pin(writer.health.watch(&writer.store)) => Err(halt),
        never = writer.health.turn() => match never {},
        never = writer.tidy() => match never {},
    }
}

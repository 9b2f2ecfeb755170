//! The SQL side of a session, in a task of its own: it looks at slot and tables from time to time and
//! writes the checkpoint row. Nothing here is waited for by the stream.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::backoff::Backoff;
use super::board::Board;
use super::checkpoint::{self, Identity, Progress, Recovery, Rejected};
use super::halt::Halt;
use super::preflight::{self, Problem, Server, TableIdentity};
use super::settings::Settings;
use crate::metrics::Metrics;
use crate::outbox;
use crate::postgres::slot;
use crate::postgres::sql::SqlConn;
use crate::postgres::{ConnInfo, Lsn, PgError};

/// How often the checkpoint row is written while records are confirmed: after a crash it lags by
/// this, which is all its detection loses.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);

/// How often the slot is looked at.
const SLOT_EVERY: Duration = Duration::from_secs(2);

/// How often the tables are checked.
const TABLES_EVERY: Duration = Duration::from_secs(10);

/// How often it is said that the row cannot be written.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Longest wait for one statement: a server that does not answer is connected to anew.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);

/// What the stream has to know.
#[derive(Debug)]
pub(super) enum Notice {
    /// A person must act.
    Halt(Halt),
    /// The partitions of the outbox tables by now, by OID.
    Partitions(HashSet<u32>),
    /// The server shuts down; it waits for us to confirm or to go.
    ServerStopping,
}

/// How far the stream is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stand {
    /// The confirmed LSN.
    pub(super) confirmed_lsn: Lsn,
    /// Records acknowledged or parked in this session.
    pub(super) resolved: u64,
}

/// A recovery pair of this session that holds once its `lsn` is confirmed: every transaction below its
/// `xid` had ended before `lsn` was taken.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<Option<Recovery>>);

impl Pending {
    /// Takes note of a pair that was taken.
    pub(super) fn set(&self, pair: Option<Recovery>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pair;
    }

    /// Whether there is one.
    pub(super) fn is_some(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The pair, if it holds by now.
    pub(super) fn confirmed(&self, confirmed_lsn: Lsn) -> Option<Recovery> {
        let pair = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pair.filter(|pair| confirmed_lsn >= pair.lsn)
    }
}

/// What the monitor needs.
pub(super) struct Monitor {
    pub(super) conninfo: ConnInfo,
    pub(super) application_name: String,
    pub(super) settings: Settings,
    pub(super) outbox: outbox::Settings,
    pub(super) tables: Vec<TableIdentity>,
    pub(super) server: Server,
    pub(super) database: String,
    pub(super) instance: String,
    pub(super) board: Arc<Board>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) pending: Pending,
}

impl Monitor {
    /// Runs until the stand's sender is gone; gives back the connection if it is alive.
    pub(super) async fn run(
        self: Arc<Self>,
        conn: SqlConn,
        mut stand: watch::Receiver<Stand>,
        notices: mpsc::Sender<Notice>,
    ) -> Option<SqlConn> {
        let mut conn = Some(conn);
        let mut backoff = Backoff::reconnect();
        let mut attempt = 0;
        loop {
            let Some(live) = conn.take() else {
                tokio::select! {
                    () = tokio::time::sleep(backoff.delay(attempt)) => {}
                    () = gone(&mut stand) => return None,
                }
                attempt = attempt.saturating_add(1);
                let connected = tokio::select! {
                    connected = self.connect() => connected,
                    () = gone(&mut stand) => return None,
                };
                match connected {
                    Ok(live) => conn = Some(live),
                    Err(error) => self.failed(&error, &notices).await,
                }
                continue;
            };
            let since = Instant::now();
            let mut over = stand.clone();
            let ended = tokio::select! {
                () = gone(&mut over) => return Some(live),
                ended = self.watch(&live, stand.clone(), &notices) => ended,
                end = live.closed() => {
                    if is_shutdown(end.sqlstate.as_deref()) {
                        send(&notices, Notice::ServerStopping).await;
                    }
                    PgError::Timeout { doing: format!("the connection ended: {}", end.message), limit: Duration::ZERO }
                }
            };
            tracing::debug!(error = %ended.report(), "the monitoring connection is set up again");
            if since.elapsed() > CHECKPOINT_EVERY * 5 {
                attempt = 0;
            }
        }
    }

    async fn connect(&self) -> Result<SqlConn, PgError> {
        preflight::connect_to(&self.conninfo, &self.application_name, &self.server).await
    }

    async fn failed(&self, error: &PgError, notices: &mpsc::Sender<Notice>) {
        if is_shutdown(error.sqlstate()) {
            send(notices, Notice::ServerStopping).await;
        }
        tracing::debug!(error = %error.report(), "the monitoring connection cannot be made");
    }

    /// Looks and writes until something fails.
    async fn watch(
        &self,
        conn: &SqlConn,
        stand: watch::Receiver<Stand>,
        notices: &mpsc::Sender<Notice>,
    ) -> PgError {
        let mut every = interval(Duration::from_millis(500));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut slot_at, mut tables_at, mut row_at) =
            (Instant::now(), Instant::now() + TABLES_EVERY, Instant::now());
        let mut written = Stand { resolved: 0, ..*stand.borrow() };
        self.pending.set(None);
        let mut said = None;
        loop {
            every.tick().await;
            let now = Instant::now();
            let current = *stand.borrow();
            let step = async {
                if now >= slot_at {
                    slot_at = now + SLOT_EVERY;
                    self.look_at_slot(conn).await?;
                }
                if now >= row_at && current.resolved != written.resolved {
                    match self.write_row(conn, current).await {
                        Ok(()) => written = current,
                        // Others have it: the connection is well, and the row only detects.
                        Err(error @ PgError::Locked { .. }) => say_locked(&error, &mut said),
                        Err(error) => return Err(error),
                    }
                    row_at = now + CHECKPOINT_EVERY;
                }
                if now >= tables_at {
                    tables_at = now + TABLES_EVERY;
                    self.look_at_tables(conn, notices).await?;
                }
                Ok::<(), PgError>(())
            };
            match timeout(STATEMENT_TIMEOUT, step).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(_) => {
                    return PgError::Timeout {
                        doing: "look at the slot".to_owned(),
                        limit: STATEMENT_TIMEOUT,
                    };
                }
            }
        }
    }

    async fn look_at_slot(&self, conn: &SqlConn) -> Result<(), PgError> {
        let Some(view) = slot::view(&**conn, &self.settings.slot).await? else { return Ok(()) };
        let metrics = &self.metrics;
        metrics.slot_confirmed_lag_bytes.set(view.slot_confirmed_lag_bytes.unwrap_or(0));
        metrics.slot_retained_wal_bytes.set(view.slot_retained_wal_bytes.unwrap_or(0));
        metrics.safe_wal_bytes(view.safe_wal_size);
        metrics.wal_status(view.wal_status.as_deref());
        let waited_for = view.holder.as_ref().and_then(|holder| holder.sync_state.as_deref());
        let warnings: Vec<String> = match waited_for {
            Some(state @ ("sync" | "quorum" | "potential")) => vec![format!(
                "commits may wait for Kafka: the server takes the relay for a synchronous standby ({state}); take it out of \
                 synchronous_standby_names (txstream doctor prints the command)"
            )],
            _ => Vec::new(),
        };
        self.board.note(|report| {
            if report.warnings != warnings {
                warnings.iter().for_each(|warning| tracing::error!("{warning}"));
                report.warnings = warnings;
            }
            let signed = |bytes: Option<u64>| bytes.and_then(|bytes| i64::try_from(bytes).ok());
            report.lag.confirmed_lag_bytes = signed(view.slot_confirmed_lag_bytes);
            report.lag.retained_wal_bytes = signed(view.slot_retained_wal_bytes);
            report.lag.safe_wal_bytes = view.safe_wal_size;
            report.lag.wal_status = view.wal_status;
        });
        Ok(())
    }

    async fn look_at_tables(&self, conn: &SqlConn, notices: &mpsc::Sender<Notice>) -> Result<(), PgError> {
        match preflight::recheck(conn, &self.settings, &self.outbox, &self.tables).await {
            Ok(partitions) => {
                send(notices, Notice::Partitions(partitions)).await;
                Ok(())
            }
            Err(Problem::Wait(_)) => Ok(()),
            Err(Problem::Retry(error)) => Err(error),
            Err(Problem::Halt(halt)) => {
                send(notices, Notice::Halt(halt)).await;
                Ok(())
            }
        }
    }

    /// Writes the row, with the recovery pair once the stream has confirmed it.
    async fn write_row(&self, conn: &SqlConn, stand: Stand) -> Result<(), PgError> {
        let confirmed = self.pending.confirmed(stand.confirmed_lsn);
        write(self, conn, stand.confirmed_lsn, false, confirmed).await?;
        if confirmed.is_some() || !self.pending.is_some() {
            self.pending.set(Some(checkpoint::take_pair(conn).await?));
        }
        Ok(())
    }
}

/// Writes the checkpoint row of a session. An error that is not the connection's is logged: the row
/// only detects.
async fn write(
    monitor: &Monitor,
    conn: &SqlConn,
    confirmed_lsn: Lsn,
    clean: bool,
    recovery: Option<Recovery>,
) -> Result<(), PgError> {
    let identity = Identity {
        system_identifier: &monitor.server.system_identifier,
        database: &monitor.database,
        instance: &monitor.instance,
        reported_lsn: confirmed_lsn,
    };
    let progress =
        Progress { slot: &monitor.settings.slot, identity: &identity, confirmed_lsn, clean, recovery };
    match checkpoint::advance(conn, &progress).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            tracing::debug!("the checkpoint row belongs to another holder by now, and was left to it");
            Ok(())
        }
        Err(checkpoint::CheckpointError::Pg(error)) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "the checkpoint row cannot be written");
            Ok(())
        }
    }
}

/// Waits until the slot shows what was last reported, and then writes the row, clean when the process ends:
/// after a graceful stop the slot must not be found ahead of it. The caller bounds the wait. One that was
/// given up may still be written, but not once the row is another's.
pub(super) async fn close_cleanly(
    monitor: &Monitor,
    conn: &SqlConn,
    confirmed_lsn: Lsn,
    clean: bool,
) -> bool {
    loop {
        match slot::view(&**conn, &monitor.settings.slot).await {
            Ok(Some(view)) if view.confirmed_flush_lsn >= Some(confirmed_lsn) => break,
            Ok(Some(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            Ok(None) | Err(_) => return false,
        }
    }
    match write(monitor, conn, confirmed_lsn, clean, monitor.pending.confirmed(confirmed_lsn)).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(error = %error.report(), "the checkpoint row of the stop cannot be written");
            false
        }
    }
}

/// Writes down the record that Kafka refused, for the next start.
pub(super) async fn remember(monitor: &Monitor, conn: &SqlConn, rejected: &Rejected) {
    let (slot, instance) = (&monitor.settings.slot, &monitor.instance);
    if let Err(error) = checkpoint::set_rejected(conn, slot, instance, Some(rejected)).await {
        tracing::warn!(%error, "the rejected record cannot be remembered; the next start repeats what is before it");
    }
}

/// Says from time to time who keeps the row from being written.
fn say_locked(error: &PgError, said: &mut Option<Instant>) {
    if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
        *said = Some(Instant::now());
        let remedy = error.hint();
        tracing::warn!(error = %error.report(), remedy, "the checkpoint row cannot be written; trying on");
    }
}

async fn gone(stand: &mut watch::Receiver<Stand>) {
    while stand.changed().await.is_ok() {}
}

async fn send(notices: &mpsc::Sender<Notice>, notice: Notice) {
    // The session may be over; then nobody needs to know.
    let _ = notices.send(notice).await;
}

/// 57P01 admin_shutdown, 57P03 cannot_connect_now: a fast shutdown that waits for us.
fn is_shutdown(sqlstate: Option<&str>) -> bool {
    matches!(sqlstate, Some("57P01" | "57P03"))
}

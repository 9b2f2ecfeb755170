//! The relay: what may be read, sent and confirmed, and the loop that does it.
//!
//! [`run`] supervises: it prepares, holds one session after another, waits while another instance
//! holds the slot, and returns when it is told to stop or a person must act. `core` decides,
//! `session` does the I/O, `intake` turns the stream into records, `monitor` keeps an eye on slot and
//! tables, `board` is what the admin server shows.

pub mod backfill;
mod backoff;
pub mod board;
mod breaker;
mod budget;
pub mod checkpoint;
mod core;
mod credentials;
mod gather;
mod halt;
mod intake;
mod lane;
mod ledger;
mod letter_desk;
mod limit_desk;
mod monitor;
mod not_ready;
mod pacing;
mod parking;
pub(crate) mod preflight;
mod prepare;
mod probe;
mod queued;
mod refusal;
mod reporter;
mod rounds;
mod routes;
mod rows;
mod session;
pub mod settings;
mod silence;
pub mod slot_life;
mod status_clock;
mod summary;
mod topics;

#[cfg(test)]
mod sim;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep, timeout};

pub use board::Board;
pub use halt::Halt;
pub use settings::Settings;

use self::backoff::Backoff;
use self::breaker::Breaker;
use self::monitor::Stand;
use self::not_ready::NotReady;
use self::pacing::Pacing;
use self::prepare::Prepared;
use self::reporter::Reporter;
use self::session::{End, Lines, Session, Source, Statuses};
use crate::admin::BreakerOrder;
use crate::kafka::limits::TopicLimit;
use crate::kafka::{self, Producer};
use crate::metrics::Metrics;
use crate::outbox;
use crate::postgres::sql::SqlConn;
use crate::postgres::{ConnInfo, Lsn, stream};

/// How often a held slot is looked at: a takeover after a graceful stop takes no longer.
const STANDBY_LOOK: Duration = Duration::from_millis(250);

/// A session that lived this long was well: what ended it is news, and tried again at once.
const LONG_SESSION: Duration = Duration::from_secs(5);

/// How often the loop makes a turn while a session is prepared.
const TURN_EVERY: Duration = Duration::from_secs(1);

/// Longest wait for the last status to be written at the end of a session.
const LAST_STATUS: Duration = Duration::from_secs(1);

/// Longest wait to see the last status arrive at the slot.
const LAST_STATUS_SEEN: Duration = Duration::from_secs(2);

/// A relay that can be run.
pub struct Relay {
    /// How it works.
    pub settings: Settings,
    /// What it reads.
    pub outbox: outbox::Settings,
    /// Where it writes.
    pub kafka: kafka::Settings,
    /// The server to replicate from.
    pub conninfo: ConnInfo,
    /// What its connections call themselves.
    pub application_name: String,
    /// Create the slot if there never was one.
    pub create_slot: bool,
    /// What it says of itself.
    pub board: Arc<Board>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
}

/// What the sessions of a process know from each other.
struct Known {
    /// Differs at every start of a process.
    instance: String,
    reported_lsn: Lsn,
    /// Topics' size limits.
    limits: HashMap<Arc<str>, TopicLimit>,
    batch_limit: Option<u32>,
    said_topics_hidden: bool,
    said_brokers_hidden: bool,
    /// Columns have to come as text.
    text: bool,
    /// The walsender that served us last: its slot is ours, not another instance's.
    last_pid: Option<i32>,
    /// The connection of a standby, between two looks at the slot.
    standby_conn: Option<SqlConn>,
    breaker: Option<Breaker>,
    /// The table of dead letters refused one of the transaction at this position at the last stop.
    careful_until: Option<Lsn>,
}

impl Known {
    /// Of a process that starts.
    fn new() -> Self {
        Self {
            instance: uuid::Uuid::new_v4().to_string(),
            reported_lsn: Lsn::ZERO,
            limits: HashMap::new(),
            batch_limit: None,
            said_topics_hidden: false,
            said_brokers_hidden: false,
            text: false,
            last_pid: None,
            standby_conn: None,
            breaker: None,
            careful_until: None,
        }
    }
}

/// How a relay ended as it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Records that were read and not confirmed in time: they may repeat at the next start.
    pub unconfirmed: usize,
}

/// Runs the relay until `stop` becomes true.
///
/// # Errors
/// [`Halt`] when a person must act.
pub async fn run(
    relay: &Relay,
    mut stop: watch::Receiver<bool>,
    mut orders: mpsc::Receiver<BreakerOrder>,
) -> Result<Stopped, Halt> {
    let mut known = Known::new();
    relay.metrics.worker_pool_size.set(relay.settings.lanes);
    let mut backoff = Backoff::reconnect();
    let mut waiting = Waiting::default();
    // What the last session left to the next one.
    let mut unconfirmed = 0;
    loop {
        let prepared = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(Stopped { unconfirmed }),
            prepared = turning(&relay.board, prepare::prepare(relay, &mut known)) => prepared,
        };
        let wait = match prepared {
            Ok(prepared) => {
                let began = Instant::now();
                let (end, left) = stream(relay, &mut known, prepared, &mut stop, &mut orders).await;
                unconfirmed = left;
                relay.metrics.replication_connected.set(0);
                Reporter::over(relay);
                match end {
                    // Asked to stop, and the session ended otherwise meanwhile.
                    End::Lost(_)
                    | End::Producer(_)
                    | End::SmallerBatches
                    | End::Replaced
                    | End::ServerStopping
                        if *stop.borrow() =>
                    {
                        return Ok(Stopped { unconfirmed });
                    }
                    // A slot has no end.
                    End::Stopped | End::Exhausted => return Ok(Stopped { unconfirmed }),
                    End::Halted(halt) => return Err(halt),
                    End::NeedsText(why) => {
                        tracing::warn!(why, "starting again from the slot, with columns as text");
                        known.text = true;
                    }
                    End::Lost(error) if error.class() == crate::postgres::error::Class::Halt => {
                        return Err(prepare::explain_lost(relay, &error).await);
                    }
                    end => waiting.say(relay, "connecting", &end.why()),
                }
                relay.metrics.reconnected();
                relay.board.note(|report| report.reconnects += 1);
                // One that ends at once, again and again, must not decode the same WAL all day.
                if began.elapsed() >= LONG_SESSION {
                    waiting.over();
                }
                backoff.delay(waiting.attempts())
            }
            Err(NotReady::Halt(halt)) => return Err(halt),
            Err(NotReady::Again) => Duration::ZERO,
            Err(NotReady::Standby(holder)) => {
                waiting.say(relay, "standby", &holder);
                STANDBY_LOOK
            }
            Err(NotReady::Wait(why)) => {
                waiting.say(relay, "waiting", &why);
                STANDBY_LOOK
            }
            Err(NotReady::Retry(why)) => {
                waiting.say(relay, "connecting", &why);
                backoff.delay(waiting.attempts())
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(Stopped { unconfirmed }),
            () = sleep(wait) => {}
        }
    }
}

/// Does `work`, and makes turns of the loop meanwhile: a server that is slow to answer is no loop that is stuck.
async fn turning<T>(board: &Board, work: impl Future<Output = T>) -> T {
    let mut turns = interval(TURN_EVERY);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = turns.tick() => board.turn(),
        }
    }
}

/// What is being waited for, said at once and then every 10 s.
#[derive(Debug, Default)]
struct Waiting {
    last: Option<String>,
    pacing: Pacing,
    attempts: u32,
}

impl Waiting {
    fn say(&mut self, relay: &Relay, state: &str, why: &str) {
        self.attempts = self.attempts.saturating_add(1);
        relay.board.state(state, Some(why.to_owned()));
        if self.last.as_deref() != Some(why) {
            self.last = Some(why.to_owned());
            self.pacing.begin_anew();
        }
        if self.pacing.is_due(Instant::now()) {
            tracing::warn!(state, why, "not streaming; trying on");
            if state != "standby" {
                relay.board.note(|report| report.last_error = Some(why.to_owned()));
            }
        }
    }

    /// Tries since the last session, counted from 0.
    fn attempts(&self) -> u32 {
        self.attempts.saturating_sub(1)
    }

    fn over(&mut self) {
        *self = Self::default();
    }
}

/// One session and its end: the last status, the checkpoint row, the producer. Returns how many records
/// were read and not confirmed.
async fn stream(
    relay: &Relay,
    known: &mut Known,
    prepared: Prepared,
    stop: &mut watch::Receiver<bool>,
    orders: &mut mpsc::Receiver<BreakerOrder>,
) -> (End, usize) {
    let Prepared { conn, monitor, opened } = prepared;
    let confirmed_lsn = opened.core.ledger().confirmed_lsn();
    let (stand, stand_seen) = watch::channel(Stand { confirmed_lsn, resolved: 0 });
    let (to_notice, mut notices) = mpsc::channel(4);
    let monitor = Arc::new(monitor);
    let watching = tokio::spawn(Arc::clone(&monitor).run(conn, stand_seen, to_notice));
    relay.metrics.replication_connected.set(1);
    relay.board.state("streaming", None);
    let mut session = Session::new(relay, known, *opened);
    let mut lines = Lines { stop, orders, notices: &mut notices, stand: &stand };
    let end = session.run(&mut lines).await;
    if matches!(end, End::Lost(_) | End::Producer(_) | End::SmallerBatches | End::Replaced) {
        relay.board.state("connecting", None);
    }
    drop(stand);
    let unconfirmed = session.unconfirmed();
    let Session { core, reader, mut writer, mut producer, .. } = session;
    let confirmed_lsn = core.ledger().confirmed_lsn();
    if matches!(end, End::Stopped | End::Halted(_) | End::ServerStopping | End::NeedsText(_)) {
        writer.queue_status(core.ledger().received_lsn(), confirmed_lsn);
        let flushed = timeout(LAST_STATUS, writer.flush()).await;
        if matches!(flushed, Ok(Ok(()))) && !matches!(end, End::ServerStopping) {
            let abort = watching.abort_handle();
            let seen = async {
                let conn = watching.await.ok().flatten()?;
                // The next session of this process goes on from here: a clean row that comes late must not be its.
                let clean = !matches!(end, End::NeedsText(_));
                let seen = monitor::close_cleanly(&monitor, &conn, confirmed_lsn, clean).await;
                if let (End::Halted(_), Some(rejected)) = (&end, core.remembered()) {
                    monitor::remember(&monitor, &conn, rejected).await;
                }
                seen.then_some(())
            };
            if timeout(LAST_STATUS_SEEN, seen).await.ok().flatten().is_none() {
                abort.abort();
                tracing::warn!(%confirmed_lsn, "the last confirmation was sent and could not be seen at the slot");
            }
        }
        // Whoever takes the slot next must not be overtaken by what this producer still holds. With
        // nothing outstanding the slot is free first: a takeover is quicker.
        if core.outstanding() > 0 {
            close(producer.take()).await;
        }
        if let (Source::Wal(reader), Statuses::Wal(writer)) = (reader, writer)
            && let Err(error) = stream::finish(reader, writer).await
        {
            tracing::debug!(error = %error.report(), "the replication connection did not end in order");
        }
    }
    known.reported_lsn = known.reported_lsn.max(confirmed_lsn);
    let mut breaker = core.into_breaker();
    obey(&mut breaker, orders, &relay.board);
    known.breaker = Some(breaker);
    // Purged and destroyed before the next START_REPLICATION: a new session must not be overtaken by
    // records of the old one.
    close(producer).await;
    (end, unconfirmed)
}

/// Carries out what was ordered, with success as the answer, just as the session ended: the breaker goes over
/// to the next one as it was left by hand. The board takes no order any more.
fn obey(breaker: &mut Breaker, orders: &mut mpsc::Receiver<BreakerOrder>, board: &Board) {
    while let Ok(order) = orders.try_recv() {
        match order {
            BreakerOrder::Open => breaker.force_open(Instant::now()),
            BreakerOrder::Close => breaker.force_close(),
        }
        board.note(|report| {
            breaker.state().name().clone_into(&mut report.breaker.state);
            report.breaker.forced = breaker.is_forced();
        });
    }
}

/// Purges and destroys the producer. A panic in there leaves nothing of it either.
async fn close(producer: Option<Producer>) {
    if let Some(producer) = producer {
        let _ = tokio::task::spawn_blocking(move || producer.close()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Subject;

    #[tokio::test]
    async fn an_order_given_as_a_session_ends_holds_in_the_next_one() {
        let (board, mut orders) = Board::new("s", "p");
        let mut breaker = Breaker::new(settings::Breaker {
            enabled: true,
            failure_threshold: 5,
            success_threshold: 3,
            timeout_duration: Duration::from_secs(10),
            reset_timeout: Duration::from_secs(30),
        });
        board.state("streaming", None);
        board.breaker(BreakerOrder::Open).unwrap();
        board.state("connecting", None);
        obey(&mut breaker, &mut orders, &board);
        assert_eq!((breaker.state(), breaker.is_forced()), (breaker::State::Open, true));
        assert_eq!(board.status()["breaker"]["state"], "OPEN");
        assert!(orders.try_recv().is_err(), "the next session finds nothing to do twice");
        board.state("streaming", None);
        board.breaker(BreakerOrder::Close).unwrap();
        obey(&mut breaker, &mut orders, &board);
        assert_eq!((breaker.state(), breaker.is_forced()), (breaker::State::Closed, false));
    }
}

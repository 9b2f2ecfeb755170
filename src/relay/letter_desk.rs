//! Stores dead letters and looks at their table, in a task of its own with a connection of its own: the
//! loop hands in an order and gets an answer once it is carried out, however often the database has to
//! be connected to anew for it.
//!
//! Invariant: one order at a time, so a look never runs beside letters that are being stored, and its
//! answer can give keys back.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::backoff::Backoff;
use super::core::{Core, Unstorable};
use super::parking::Parked;
use super::preflight::{self, Server};
use super::refusal;
use crate::dead_letter::ask::{self, Key, Look};
use crate::dead_letter::store;
use crate::dead_letter::{DeadLetterError, Letter};
use crate::postgres::sql::SqlConn;
use crate::postgres::{ConnInfo, Lsn, PgError};

/// How often the table is looked at while it holds letters: a replayed key flows again this soon.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The same while someone replays or discards, who waits for us.
const LOOK_EVERY_IN_REPLAY: Duration = Duration::from_millis(100);

/// How long letters are held back while someone replays, so that the key's end can be reached although
/// records of it keep coming. It holds the confirmed LSN for as long.
const HOLD_IN_REPLAY: Duration = Duration::from_secs(2);

/// How often letters are counted, and how much of the time that may take: the table can be large.
const COUNT_EVERY: Duration = Duration::from_secs(2);
const COUNT_SHARE: u32 = 20;

/// A count holds back letters that are to be stored, and with them the confirmed LSN: the server gives it up.
const COUNT_LIMIT: Duration = Duration::from_secs(3);

/// How soon a count is tried again that was given up: the table does not get small in a moment.
const COUNT_AGAIN: Duration = Duration::from_secs(600);

/// How often a trouble is mentioned again.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Longest wait for one statement: a server that does not answer is connected to anew.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);

/// Who stores, and where.
pub(super) struct Sender {
    pub(super) conninfo: ConnInfo,
    pub(super) application_name: String,
    /// The server that streams.
    pub(super) server: Server,
    pub(super) slot: String,
    pub(super) instance: String,
    /// Standbys keep a copy of the slot.
    pub(super) failover: bool,
}

#[derive(Debug)]
enum Order {
    Store(Vec<Letter>),
    Look { keys: Vec<Key>, count: bool },
}

/// What became of an order.
#[derive(Debug)]
pub(super) enum Answer {
    /// The letters are in the table for good.
    Stored,
    /// Another instance has taken the slot over; nothing was stored.
    Replaced,
    /// The table does not take a letter and never will; nothing was stored.
    Refused(Box<Unstorable>),
    /// The task that carries orders out has ended, which it should not.
    Gone,
    /// What the table holds.
    Looked {
        /// Keys without letters, and whether someone replays.
        look: Look,
        /// Letters by topic, if they were to be counted.
        counts: Option<Counted>,
    },
}

/// What came of counting letters.
#[derive(Debug)]
pub(super) struct Counted {
    /// Letters by topic; none if there are too many to be counted within [`COUNT_LIMIT`].
    pub(super) by_topic: Option<Vec<(String, u64)>>,
    /// How long it took.
    took: Duration,
}

/// The loop's side of the desk.
pub(super) struct LetterDesk {
    orders: mpsc::Sender<Order>,
    answers: mpsc::Receiver<Answer>,
    /// What is being carried out: the letters being stored, or none for a look.
    under_way: Option<Vec<Parked>>,
    look_at: Instant,
    count_at: Instant,
    /// The table may hold letters.
    holds_letters: bool,
    /// The last count was given up.
    uncounted: bool,
    hold: Hold,
}

/// Whether letters are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Nobody replays.
    No,
    /// Somebody replays: nothing is stored before.
    Until(Instant),
    /// They were held back long enough: all that gathered is stored before any are held back again, or a
    /// long replay would slow the stream down.
    Over,
}

impl Hold {
    fn next(self, replaying: bool, has_letters: bool, now: Instant) -> Self {
        match self {
            _ if !replaying => Self::No,
            Self::Until(until) if now < until => self,
            Self::Until(_) | Self::Over if has_letters => Self::Over,
            Self::Until(_) | Self::Over | Self::No => Self::Until(now + HOLD_IN_REPLAY),
        }
    }

    fn until(self) -> Option<Instant> {
        match self {
            Self::Until(until) => Some(until),
            Self::No | Self::Over => None,
        }
    }
}

impl LetterDesk {
    /// Opens the desk. Nothing is connected before the first order.
    pub(super) fn open(sender: Sender, holds_letters: bool) -> Self {
        let (orders, to_do) = mpsc::channel(1);
        let (done, answers) = mpsc::channel(1);
        tokio::spawn(serve(sender, to_do, done));
        let now = Instant::now();
        Self {
            orders,
            answers,
            under_way: None,
            look_at: now,
            count_at: now,
            holds_letters,
            uncounted: false,
            hold: Hold::No,
        }
    }

    /// Orders what is due: letters to be stored, or a look.
    pub(super) fn turn(&mut self, core: &mut Core, now: Instant) {
        if self.under_way.is_some() {
            return;
        }
        if self.looks(core) && now >= self.look_at {
            let count = now >= self.count_at;
            self.order(Order::Look { keys: core.parked_names(), count }, Vec::new());
        } else if core.has_letters() && self.hold.until().is_none_or(|until| now >= until) {
            let batch = core.letters();
            let letters = batch.iter().map(|parked| parked.letter.clone()).collect();
            self.order(Order::Store(letters), batch);
        }
    }

    /// Whether the table is looked at now and then.
    fn looks(&self, core: &Core) -> bool {
        self.holds_letters || core.parked_keys() > 0
    }

    fn order(&mut self, order: Order, batch: Vec<Parked>) {
        // The channel has room: the order before was answered. If nobody is there, `answered` says so.
        let _ = self.orders.try_send(order);
        self.under_way = Some(batch);
    }

    /// When [`LetterDesk::turn`] has something to do at the latest.
    pub(super) fn next_wake(&self, core: &Core) -> Option<Instant> {
        if self.under_way.is_some() {
            return None;
        }
        let look = self.looks(core).then_some(self.look_at);
        let store = core.has_letters().then_some(self.hold.until()).flatten();
        look.into_iter().chain(store).min()
    }

    /// The next answer.
    ///
    /// # Cancel safety
    /// May be dropped at any await.
    pub(super) async fn answered(&mut self) -> Answer {
        self.answers.recv().await.unwrap_or(Answer::Gone)
    }

    /// Takes note of an answer; returns the letters that were under way. Those that the table refuses stay so:
    /// what is behind them must not be stored before them, nor may a key flow again meanwhile.
    pub(super) fn done(&mut self, answer: &Answer, core: &Core, now: Instant) -> Vec<Parked> {
        match answer {
            Answer::Stored => self.holds_letters = true,
            Answer::Replaced | Answer::Gone => {}
            Answer::Refused(_) => return Vec::new(),
            Answer::Looked { look, counts } => {
                self.look_at = now + if look.replaying { LOOK_EVERY_IN_REPLAY } else { LOOK_EVERY };
                self.hold = self.hold.next(look.replaying, core.has_letters(), now);
                if let Some(counted) = counts {
                    self.counted(counted, now);
                }
            }
        }
        self.under_way.take().unwrap_or_default()
    }
}

impl LetterDesk {
    /// Takes note of a count, or that there is none; that is said once, until there is one again.
    fn counted(&mut self, counted: &Counted, now: Instant) {
        let Some(counts) = &counted.by_topic else {
            self.count_at = now + COUNT_AGAIN;
            // What cannot be counted is there.
            self.holds_letters = true;
            if !std::mem::replace(&mut self.uncounted, true) {
                tracing::warn!(limit = ?COUNT_LIMIT, again = ?COUNT_AGAIN,
                    "the dead letters are too many to be counted; txstream_dead_letters stays as it was, \
                     txstream_parked_keys has the keys");
            }
            return;
        };
        self.count_at = now + COUNT_EVERY.max(counted.took * COUNT_SHARE);
        self.holds_letters = !counts.is_empty();
        self.uncounted = false;
    }
}

async fn serve(sender: Sender, mut orders: mpsc::Receiver<Order>, answers: mpsc::Sender<Answer>) {
    let mut conn = None;
    while let Some(order) = orders.recv().await {
        let answer = tokio::select! {
            answer = carry_out(&sender, &mut conn, &order) => answer,
            // The session is over: it waits for no answer.
            () = answers.closed() => return,
        };
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}

/// How far letters are stored, over all attempts. Once committed they are not stored again: whoever replayed
/// or discarded them meanwhile would find them anew.
#[derive(Debug, Default)]
struct Progress {
    committed: bool,
    /// Where the standbys have to be.
    behind: Option<Lsn>,
}

/// Tries until it is done.
async fn carry_out(sender: &Sender, conn: &mut Option<SqlConn>, order: &Order) -> Answer {
    let mut backoff = Backoff::reconnect();
    let mut said: Option<Instant> = None;
    let mut progress = Progress::default();
    for attempt in 0.. {
        let error = match attempt_once(sender, conn, order, &mut progress).await {
            Ok(answer) => return answer,
            Err(error) => error,
        };
        if let (DeadLetterError::Refused { place, .. }, Order::Store(letters)) = (&error, order)
            && let Some(letter) = letters.get(*place)
        {
            return Answer::Refused(Box::new(refusal::unstorable(letter, &error)));
        }
        // A connection that went away meanwhile is no news; what fails twice is, and who locks the table.
        let locked = matches!(error, DeadLetterError::Pg(PgError::Locked { .. }));
        if (attempt > 0 || locked) && said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            said = Some(Instant::now());
            let remedy = error.remedy();
            tracing::error!(error = %crate::postgres::error::report(&error), remedy,
                "dead letters cannot be stored or looked at; the confirmed LSN waits, trying on");
        }
        sleep(backoff.delay(attempt)).await;
    }
    Answer::Replaced
}

async fn attempt_once(
    sender: &Sender,
    conn: &mut Option<SqlConn>,
    order: &Order,
    progress: &mut Progress,
) -> Result<Answer, DeadLetterError> {
    let live = match conn.take() {
        Some(live) if !live.is_closed() => live,
        _ => {
            let connect = preflight::connect_to(&sender.conninfo, &sender.application_name, &sender.server);
            bounded("connect for dead letters", connect).await?
        }
    };
    let tried = carry_out_on(&live, sender, order, progress).await;
    // A lock is somebody else's: the connection is well.
    if matches!(tried, Ok(_) | Err(DeadLetterError::Pg(PgError::Locked { .. }))) {
        *conn = Some(live);
    }
    tried
}

async fn carry_out_on(
    conn: &SqlConn,
    sender: &Sender,
    order: &Order,
    progress: &mut Progress,
) -> Result<Answer, DeadLetterError> {
    let slot = &sender.slot;
    match order {
        Order::Store(letters) => {
            if !progress.committed {
                let store = store::store(conn, slot, &sender.instance, letters);
                if !bounded("store dead letters", store).await? {
                    return Ok(Answer::Replaced);
                }
                progress.committed = true;
            }
            if sender.failover {
                await_standbys(conn, &mut progress.behind).await?;
            }
            Ok(Answer::Stored)
        }
        Order::Look { keys, count } => {
            let mut counts = None;
            if *count {
                let began = Instant::now();
                let count = ask::counts(conn, slot, COUNT_LIMIT);
                let by_topic = bounded("count the dead letters", count).await?;
                counts = Some(Counted { by_topic, took: began.elapsed() });
            }
            let look = bounded("look at the dead letters", ask::look(conn, slot, keys)).await?;
            Ok(Answer::Looked { look, counts })
        }
    }
}

/// Waits for the standbys that a failover may go to: a letter that they lack would be gone, while their copy
/// of the slot may have passed it.
async fn await_standbys(conn: &SqlConn, behind: &mut Option<Lsn>) -> Result<(), DeadLetterError> {
    const DOING: &str = "look at the standbys' slots";
    let position = match *behind {
        Some(position) => position,
        None => *behind.insert(bounded(DOING, store::wal_position(conn)).await?),
    };
    let mut said = Instant::now();
    while !bounded(DOING, store::standbys_have(conn, position)).await? {
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            tracing::warn!(%position, remedy = "txstream doctor names those that are behind",
                "the confirmed LSN waits for dead letters to reach the standbys of synchronized_standby_slots");
        }
        sleep(LOOK_EVERY_IN_REPLAY).await;
    }
    Ok(())
}

/// Gives up on a server that does not answer.
async fn bounded<T, E: Into<DeadLetterError>>(
    doing: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, DeadLetterError> {
    match timeout(STATEMENT_TIMEOUT, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(PgError::Timeout { doing: doing.to_owned(), limit: STATEMENT_TIMEOUT }.into()),
    }
}

#[cfg(test)]
mod tests;

//! One replication session: the loop that does the I/O the core asks for.
//!
//! It ends when the stream is lost, the producer is finished, a person must act, or it is told to
//! stop; whatever is unconfirmed then is streamed again by the next session.

mod closing;
mod deliveries;
mod end;
mod letters;
mod limits;
mod source;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use self::closing::{Closing, Why};
pub(super) use self::end::End;
use self::source::Incoming;
pub(super) use self::source::{Source, Statuses};
use super::core::{Core, Sink};
use super::credentials::Credentials;
use super::halt::Halt;
use super::intake::Intake;
use super::letter_desk::LetterDesk;
use super::limit_desk::LimitDesk;
use super::monitor::{Notice, Stand};
use super::pacing::Pacing;
use super::reporter::Reporter;
use super::routes::Routes;
use super::silence::silent_at;
use super::slot_life::RESET;
use super::status_clock::StatusClock;
use super::{Known, Relay};
use crate::admin::BreakerOrder;
use crate::kafka::{self, Event, Inbox, Producer};
use crate::outbox::Record;
use crate::postgres::stream::ReplicationMessage;
use crate::postgres::{PgError, publication};

/// Messages read in one turn, so that deliveries and the status clock get theirs.
const MESSAGES_PER_TURN: usize = 2_048;

/// How long the thread rests when a busy stream (over 10,000 rows a second) has run dry. Short beside
/// a window of gathering, long beside the cost of a turn; halves the CPU per row of a drain.
const REST: Duration = Duration::from_micros(500);

/// How often the loop looks at the producer in a flood: reports wait that long, or until it has read what there is.
const POLL: Duration = Duration::from_millis(2);

/// How long a server that shuts down waits for Kafka's acknowledgements.
const SERVER_STOP_GRACE: Duration = Duration::from_secs(5);

/// The drain at a stop while the breaker is open: nothing is to be expected from Kafka.
const DRAIN_WITH_BREAKER_OPEN: Duration = Duration::from_secs(1);

/// How long everything waits for the producer to drain before one with smaller batches takes over.
const DRAIN_TO_SHRINK: Duration = Duration::from_secs(5);

/// Kafka may be away for long when a table has been read to its end.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// What the session talks to besides Postgres and Kafka.
pub(super) struct Lines<'a> {
    pub(super) stop: &'a mut watch::Receiver<bool>,
    pub(super) orders: &'a mut mpsc::Receiver<BreakerOrder>,
    pub(super) notices: &'a mut mpsc::Receiver<Notice>,
    pub(super) stand: &'a watch::Sender<Stand>,
}

/// One session.
pub(super) struct Session<'a> {
    pub(super) relay: &'a Relay,
    pub(super) known: &'a mut Known,
    pub(super) core: Core,
    pub(super) reader: Source,
    pub(super) writer: Statuses,
    pub(super) producer: Option<Producer>,
    /// The loop looks at it, soon and again: it polls it itself, or is about to.
    polls: bool,
    inbox: Inbox,
    intake: Intake,
    routes: Routes,
    desk: LimitDesk,
    letters: LetterDesk,
    reporter: Reporter,
    events: Vec<Event>,
    closing: Option<Closing>,
    /// Since when the producer drains, for one that makes smaller batches.
    shrink: Option<Instant>,
    clock: StatusClock,
    reading_since: Option<Instant>,
    acknowledged: u64,
    parked: u64,
    credentials: Credentials,
    /// That no broker is reachable.
    unreachable: Pacing,
    /// The server's last notice.
    server_said: Option<String>,
}

/// The stream and the producer of a session to come.
pub(super) struct Opened {
    pub(super) reader: Source,
    pub(super) writer: Statuses,
    pub(super) producer: Producer,
    pub(super) inbox: Inbox,
    pub(super) desk: LimitDesk,
    pub(super) letters: LetterDesk,
    pub(super) core: Core,
    pub(super) intake: Intake,
    pub(super) status_every: Duration,
}

impl Sink for Producer {
    fn send(&mut self, record: &Record, ticket: kafka::Ticket) -> Result<(), kafka::SendError> {
        Producer::send(self, record, ticket)
    }
}

impl<'a> Session<'a> {
    /// A session over what was opened.
    pub(super) fn new(relay: &'a Relay, known: &'a mut Known, opened: Opened) -> Self {
        let mut core = opened.core;
        for (topic, limit) in &known.limits {
            core.set_limit(topic, *limit);
        }
        Self {
            relay,
            known,
            core,
            reader: opened.reader,
            writer: opened.writer,
            producer: Some(opened.producer),
            polls: false,
            inbox: opened.inbox,
            intake: opened.intake,
            routes: Routes::new(Arc::clone(&relay.metrics)),
            desk: opened.desk,
            letters: opened.letters,
            reporter: Reporter::new(&relay.metrics),
            events: Vec::new(),
            closing: None,
            shrink: None,
            clock: StatusClock::new(opened.status_every, Instant::now()),
            reading_since: None,
            acknowledged: 0,
            parked: 0,
            credentials: Credentials::default(),
            unreachable: Pacing::default(),
            server_said: None,
        }
    }

    /// Runs until the session ends.
    pub(super) async fn run(&mut self, lines: &mut Lines<'_>) -> End {
        // One for all turns: a new one each turn would wake the runtime each time, to no purpose.
        let mut timer = pin!(sleep_until(Instant::now()));
        loop {
            let now = Instant::now();
            if let Err(end) = self.turn(lines, now) {
                return end;
            }
            let may_read = self.may_read();
            self.watch_silence(may_read, now);
            let wake = self.next_wake(now);
            if timer.deadline() != wake {
                timer.as_mut().reset(wake);
            }
            tokio::select! {
                biased;
                // A stop must not wait behind traffic.
                stopped = lines.stop.changed(), if self.closing.as_ref().is_none_or(Closing::may_be_cut_short) => {
                    if stopped.is_err() || *lines.stop.borrow() {
                        self.close(Why::Stop, self.relay.settings.shutdown_timeout);
                    }
                }
                Some(order) = lines.orders.recv() => {
                    self.core.force_breaker(order == BreakerOrder::Open, now);
                }
                Some(notice) = lines.notices.recv() => self.noticed(notice),
                // Deliveries free budget and move the confirmed LSN.
                () = self.inbox.arrived() => self.deliveries(),
                // So do letters that are stored.
                answer = self.letters.answered() => {
                    if let Err(end) = self.letters_answered(answer) { return end }
                }
                (topic, answer) = self.desk.answered() => self.limit_answered(&topic, answer),
                // The clock waits for nothing: status, dead peer, breaker, resends, bursts.
                () = timer.as_mut() => {}
                flushed = self.writer.flush(), if self.writer.pending() => {
                    if let Err(error) = flushed { return End::Lost(error) }
                }
                // WAL only while there is budget: backpressure reaches the walsender through TCP.
                ready = self.reader.ready(), if may_read => {
                    if let Err(error) = ready.and_then(|()| self.read()) { return End::Lost(error) }
                }
            }
        }
    }

    /// Records that were read and are not confirmed, one that waits for its topic's limit included: what comes
    /// again if the session ends now.
    pub(super) fn unconfirmed(&self) -> usize {
        self.core.ledger().unconfirmed() + usize::from(self.intake.wanted_limit().is_some())
    }

    /// What is due now.
    fn turn(&mut self, lines: &Lines<'_>, now: Instant) -> Result<(), End> {
        self.relay.board.turn();
        self.poll(now);
        for (topic, attempt, wait) in self.core.tick(now) {
            self.relay.metrics.retry_delay(attempt.max(1), wait);
            tracing::debug!(%topic, attempt, ?wait, "failed records of the topic go again");
        }
        self.letters.turn(&mut self.core, now);
        self.swap_producer(now)?;
        if let (Some(producer), None) = (&mut self.producer, &self.shrink) {
            self.core.dispatch(producer, now);
        }
        self.status(now);
        let resolved = self.acknowledged + self.parked;
        let stand = Stand { confirmed_lsn: self.core.ledger().confirmed_lsn(), resolved };
        lines.stand.send_if_modified(|known| std::mem::replace(known, stand) != stand);
        let refusal = self.credentials.refusal(self.core.oldest_taken(), now);
        self.reporter.report(self.relay, &mut self.core, self.acknowledged, refusal, now);
        self.look_for_an_end(now)
    }

    /// In a flood the loop is awake anyhow, and the thread that waits for reports need not be woken for them. What there
    /// is to know of records is known before others are handed over.
    fn poll(&mut self, now: Instant) {
        self.polls = self.core.is_flooded(now);
        if let Some(producer) = &mut self.producer {
            producer.poll(self.polls);
        }
        if self.polls && !self.inbox.is_empty() {
            self.deliveries();
        }
    }

    /// A topic takes smaller batches than the producer makes: drain it, then another. What does not
    /// drain soon must not hold up everything else, and a batch that the topic refuses would be overtaken by
    /// the next one: the session ends then, and the one after it makes smaller batches from the start. A
    /// backfill holds nothing up.
    fn swap_producer(&mut self, now: Instant) -> Result<(), End> {
        let Some(since) = self.shrink else { return Ok(()) };
        if self.core.outstanding() > 0 {
            let may_end = self.closing.is_none() && matches!(self.writer, Statuses::Wal(_));
            return if may_end && now >= since + DRAIN_TO_SHRINK { Err(End::SmallerBatches) } else { Ok(()) };
        }
        if let Some(old) = self.producer.take() {
            // Nothing of it is outstanding; it only waits for librdkafka's threads.
            tokio::task::spawn_blocking(move || old.close());
        }
        self.inbox = Inbox::new();
        let producer = Producer::new(&self.relay.kafka, self.known.batch_limit, self.inbox.clone());
        self.producer = Some(producer.map_err(|error| End::Producer(error.to_string()))?);
        self.shrink = None;
        Ok(())
    }

    fn may_read(&self) -> bool {
        let wanted = match &self.closing {
            None => true,
            // Read on to the commit of the transaction being received, no further.
            Some(Closing { why: Why::Stop, .. }) => self.core.ledger().in_transaction(),
            Some(_) => false,
        };
        wanted && self.intake.is_open() && self.core.may_read()
    }

    fn watch_silence(&mut self, may_read: bool, now: Instant) {
        // The silence clock runs only while we read.
        self.reading_since = may_read.then(|| self.reading_since.unwrap_or(now));
    }

    fn silent_at(&self) -> Option<Instant> {
        self.reading_since.map(|since| silent_at(since, self.reader.last_heard()))
    }

    fn read(&mut self) -> Result<(), PgError> {
        let now = Instant::now();
        for _ in 0..MESSAGES_PER_TURN {
            if !self.may_read() {
                break;
            }
            match self.reader.pop()? {
                None => {
                    // The relay is faster than the walsender and would wake for every few rows; on a
                    // busy stream the thread rests until there is a bufferful. A timer does not do:
                    // the socket's readiness would wake the runtime all the same.
                    if self.core.is_busy() {
                        std::thread::sleep(REST);
                    }
                    break;
                }
                Some(Incoming::Stream(ReplicationMessage::XLogData { start, body })) => {
                    self.core.received(start);
                    self.intake.message(body, &mut self.core, &mut self.routes, now);
                }
                Some(Incoming::Stream(ReplicationMessage::KeepAlive { wal_end, reply_requested })) => {
                    self.core.keepalive(wal_end);
                    if reply_requested {
                        self.clock.asked();
                    }
                }
                Some(Incoming::Stream(ReplicationMessage::Notice { code, message })) => {
                    self.server_says(&code, &message);
                }
                Some(Incoming::Row(message)) => {
                    self.intake.decoded(message, &mut self.core, &mut self.routes, now);
                }
                Some(Incoming::End) => self.close(Why::Exhausted, FOR_EVER),
            }
        }
        if let Some(topic) = self.intake.wanted_limit() {
            self.desk.ask(topic);
        }
        Ok(())
    }

    /// From PostgreSQL 18 on a missing publication is only a warning, and its rows are skipped.
    fn server_says(&mut self, code: &str, message: &str) {
        // Some it repeats every second for as long as they are true.
        if self.server_said.as_deref() != Some(message) {
            tracing::warn!(sqlstate = code, message, "the server says");
            self.server_said = Some(message.to_owned());
        }
        if publication::is_skipped(&self.relay.settings.publication, code, message) {
            let halt = Halt::new(
                format!("the server skips a publication: {message}"),
                format!("run txstream migrate up; rows written while it was missing: {RESET}"),
            );
            self.close(Why::Halt(halt), self.relay.settings.shutdown_timeout);
        }
    }

    fn noticed(&mut self, notice: Notice) {
        match notice {
            Notice::Partitions(partitions) => self.intake.refuse_too(partitions),
            Notice::Halt(halt) => self.close(Why::Halt(halt), self.relay.settings.shutdown_timeout),
            Notice::ServerStopping => {
                let by = Instant::now() + SERVER_STOP_GRACE;
                match &mut self.closing {
                    Some(closing) => closing.deadline = closing.deadline.min(by),
                    None => self.close(Why::ServerStopping, SERVER_STOP_GRACE),
                }
            }
        }
    }

    fn status(&mut self, now: Instant) {
        self.clock.idle(self.core.ledger().unresolved() == 0, now);
        if now >= self.status_due() {
            let ledger = self.core.ledger();
            self.writer.queue_status(ledger.received_lsn(), ledger.confirmed_lsn());
            self.known.reported_lsn = ledger.confirmed_lsn();
            self.clock.told(now);
        }
    }

    fn status_due(&self) -> Instant {
        self.clock.due(self.core.ledger().confirmed_lsn() > self.known.reported_lsn)
    }

    fn next_wake(&self, now: Instant) -> Instant {
        let deadline = self.closing.as_ref().map(|closing| closing.deadline);
        let wakes = [
            Some(self.status_due()),
            self.core.next_wake().filter(|_| self.shrink.is_none()),
            self.letters.next_wake(&self.core),
            self.silent_at(),
            deadline,
            Some(self.reporter.due_at()),
            self.polls.then(|| now + POLL),
        ];
        // While the breaker is open a stop ends earlier than its deadline.
        let soon = self.closing.as_ref().map(|_| now + DRAIN_WITH_BREAKER_OPEN);
        wakes.into_iter().chain([soon]).flatten().min().unwrap_or(now)
    }
}

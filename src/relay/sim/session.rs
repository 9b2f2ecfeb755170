//! A session as the relay's loop runs it: the real core, fed by a slot or by a table, with a producer and a
//! desk of its own.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::smallvec;
use tokio::time::Instant;

use super::kafka::{Broker, Producer, Report};
use super::postgres::{Postgres, Row, TOPICS, Transaction};
use super::rng::Rng;
use super::table::Order;
use crate::kafka::Failure;
use crate::kafka::limits::TopicLimit;
use crate::outbox::{Header, Record};
use crate::postgres::Lsn;
use crate::relay::backoff::Backoff;
use crate::relay::breaker::{Breaker, State};
use crate::relay::checkpoint::Recovery;
use crate::relay::core::{Core, Taken};
use crate::relay::ledger::RECORD_OVERHEAD_BYTES;
use crate::relay::monitor::Pending;
use crate::relay::settings::Settings;

/// What a topic takes, and what a row that is too large has.
const LIMIT: u32 = 1_000;

/// Where a source stands: transaction, and row in it once its Begin was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    pub(super) transaction: usize,
    pub(super) row: Option<usize>,
}

/// A table that is read: each row a transaction of its own.
pub(super) struct Reading {
    /// Where its letters stand.
    pub(super) at: Lsn,
    pub(super) rows: Vec<Transaction>,
    /// What holds once all of it is published.
    pub(super) recovery: Recovery,
    /// It was read to its end.
    pub(super) ended: bool,
}

/// Where rows come from.
pub(super) enum Source {
    Slot,
    Table(Reading),
}

/// A session.
pub(super) struct Session {
    pub(super) core: Core,
    pub(super) producer: Producer,
    pub(super) desk: Option<Order>,
    /// The process that it is of.
    pub(super) instance: String,
    pub(super) source: Source,
    pub(super) cursor: Cursor,
    /// How far the server has sent, whatever the ledger makes of it.
    pub(super) heard: Lsn,
    pub(super) last_confirmed: Lsn,
    /// A recovery pair that is not confirmed yet.
    pending: Pending,
    largest: usize,
    budget: usize,
    topics: Vec<Arc<str>>,
}

impl Session {
    /// A session that is about to read. Its ledger begins at `from`, the server where `cursor` says.
    pub(super) fn new(
        settings: &Settings,
        from: Lsn,
        breaker: Option<Breaker>,
        source: Source,
        producer: Producer,
        instance: String,
    ) -> Self {
        let backoff = Backoff::seeded(settings.backoff, 1);
        let breaker = breaker.unwrap_or_else(|| Breaker::new(settings.breaker));
        let mut core = Core::new(settings.clone(), from, breaker, backoff);
        let topics: Vec<Arc<str>> = (0..TOPICS).map(|n| Arc::from(format!("t{n}"))).collect();
        let table: Arc<str> = Arc::from("public.outbox");
        topics.iter().for_each(|topic| _ = core.add_route(topic, &table, Bytes::new()));
        Self {
            core,
            producer,
            desk: None,
            instance,
            source,
            cursor: Cursor { transaction: 0, row: None },
            heard: Lsn::ZERO,
            last_confirmed: from,
            pending: Pending::default(),
            largest: 0,
            budget: settings.max_in_flight_bytes,
            topics,
        }
    }

    /// Whether a slot feeds it.
    pub(super) fn streams(&self) -> bool {
        matches!(self.source, Source::Slot)
    }

    pub(super) fn confirmed(&self) -> Lsn {
        self.core.ledger().confirmed_lsn()
    }

    /// The source gives its next message, if the session reads.
    pub(super) fn read(&mut self, postgres: &Postgres, now: Instant) {
        if !self.core.may_read() {
            return;
        }
        let Cursor { transaction: number, row } = self.cursor;
        let (script, at) = match &self.source {
            Source::Slot => (&postgres.transactions, None),
            Source::Table(reading) => (&reading.rows, Some(reading.at)),
        };
        let Some(transaction) = script.get(number) else { return self.nothing_more(postgres.wal_end) };
        match row {
            None => {
                match at {
                    None => self.core.begin(transaction.commit_lsn(), 0),
                    Some(at) => self.core.begin_row(at, transaction.end.0, 0),
                }
                self.cursor.row = Some(0);
            }
            Some(row) if row < transaction.rows.len() => {
                let taken = transaction.rows[row].clone();
                // In the order in which they come: that of the table may be another than that of commits.
                self.take(&taken, if at.is_some() { number } else { taken.id }, now);
                self.cursor.row = Some(row + 1);
            }
            Some(_) => {
                let end = transaction.end;
                self.heard = self.heard.max(end);
                self.core.commit(end);
                self.cursor = Cursor { transaction: number + 1, row: None };
            }
        }
    }

    fn nothing_more(&mut self, wal_end: Lsn) {
        match &mut self.source {
            Source::Slot => self.keepalive(wal_end),
            Source::Table(reading) => reading.ended = true,
        }
    }

    fn keepalive(&mut self, wal_end: Lsn) {
        self.heard = self.heard.max(wal_end);
        self.core.keepalive(wal_end);
    }

    /// The server says in the middle of a transaction how far its WAL goes.
    pub(super) fn keepalive_inside(&mut self, postgres: &Postgres) {
        if self.streams() && self.cursor.row.is_some() {
            self.keepalive(postgres.transactions[self.cursor.transaction].end);
        }
    }

    fn take(&mut self, row: &Row, place: usize, now: Instant) {
        let record = Record {
            topic: Arc::clone(&self.topics[row.topic]),
            key: Bytes::from(row.key.to_string()),
            payload: Some(Bytes::from_static(b"payload")),
            headers: smallvec![Header {
                name: Arc::from("id"),
                value: Some(Bytes::from(row.id.to_string()))
            }],
            event_type: Bytes::new(),
        };
        self.largest = self.largest.max(record.bytes() + RECORD_OVERHEAD_BYTES);
        let route = u32::try_from(row.topic).unwrap();
        let size = if row.large { LIMIT as usize + 1 } else { 10 };
        let taken = match self.core.take(record, route, size, now) {
            Taken::NeedsLimit(record) => {
                self.core.learnt_limit(&self.topics[row.topic], TopicLimit::Own(LIMIT), now);
                self.core.take(*record, route, size, now)
            }
            taken => taken,
        };
        assert_eq!(taken, if row.large { Taken::TooLarge(None) } else { Taken::Yes });
        self.producer.will_get(row, place);
    }

    pub(super) fn dispatch(&mut self, now: Instant) {
        self.core.tick(now);
        self.producer.now = Some(now);
        let open = self.core.breaker().0 == State::Open;
        let before = self.core.outstanding();
        self.core.dispatch(&mut self.producer, now);
        assert!(!open || self.core.outstanding() == before, "handed over while the breaker was open");
    }

    pub(super) fn report_arrives(&mut self, broker: &mut Broker, rng: &mut Rng, now: Instant) {
        match self.producer.report(rng) {
            Some(Report::Acknowledged(ticket, row)) => {
                broker.acknowledged.insert(row);
                self.core.acknowledged(ticket, now);
            }
            Some(Report::Failed(ticket, _, record, class)) => {
                let failure = Failure { ticket, class, message: "refused".to_owned(), record };
                self.core.failed(failure, None, now);
            }
            None => {}
        }
    }

    /// The monitor writes the row of a stream, and takes a new pair once the one before is confirmed.
    pub(super) fn row_is_written(&self, postgres: &mut Postgres, clean: bool) {
        if !self.streams() {
            return;
        }
        let confirmed = self.confirmed();
        let pair = self.pending.confirmed(confirmed);
        postgres.advance(&self.instance, confirmed, clean, pair);
        if pair.is_some() || !self.pending.is_some() {
            self.pending.set(Some(postgres.pair()));
        }
    }

    /// What holds of a session by itself.
    pub(super) fn check(&mut self) {
        let ledger = self.core.ledger();
        let confirmed = ledger.confirmed_lsn();
        assert!(confirmed >= self.last_confirmed, "the confirmed LSN fell");
        assert!(confirmed <= ledger.received_lsn(), "confirmed more than was received");
        assert!(confirmed <= self.heard, "confirmed {confirmed}, and the server sent {}", self.heard);
        let budget = self.budget + self.largest;
        assert!(ledger.in_flight_bytes() <= budget, "{} bytes in flight", ledger.in_flight_bytes());
        self.last_confirmed = confirmed;
    }
}

//! The record that a broker refused at the last stop goes alone first.
//!
//! What only a broker can refuse is found out by sending it, and by then others are under way: a supervisor
//! that starts the relay again and again would repeat those at every start. So the stop writes the record's
//! place down, and the next start reads up to it, sends it and nothing else, and stops again if it is still
//! refused. If it is taken, streaming begins anew from the slot, and the record comes a second time, in its
//! order.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::Relay;
use super::backoff::Backoff;
use super::checkpoint::Rejected;
use super::credentials::gist;
use super::halt::Halt;
use super::not_ready::NotReady;
use super::pacing::Pacing;
use super::refusal::{KAFKA_REFUSES_US, exhausted, exhausted_text, refused, was_fresh};
use super::silence::{silent, silent_at};
use super::topics::Trouble as TopicTrouble;
use crate::kafka::{Event, FailureClass, Inbox, Producer, Rejection, SendError, Trouble};
use crate::outbox::{Mapped, Mapper, Record};
use crate::pgoutput::{self, Message};
use crate::postgres::sql::SqlConn;
use crate::postgres::stream::{self, ReplicationMessage, StatusWriter, WalReader};
use crate::postgres::{Lsn, PgError};

/// Streams up to the record, without confirming anything.
pub(super) struct Probe {
    pub(super) reader: WalReader,
    pub(super) writer: StatusWriter,
    pub(super) producer: Producer,
    pub(super) inbox: Inbox,
    pub(super) confirmed_lsn: Lsn,
    pub(super) rejected: Rejected,
    /// Often enough that neither side takes the other for dead.
    pub(super) status_every: Duration,
    /// That Kafka has not taken the record yet.
    pub(super) said: Pacing,
}

/// What came of the record.
pub(super) enum Outcome {
    /// Kafka has it, or it is not in the stream any more: nothing is to be remembered.
    Over,
    /// A person must act, or there was trouble.
    NotReady(NotReady),
}

/// Where the reading of the stream stands.
struct Search {
    mapper: Mapper,
    commit_lsn: Lsn,
    ordinal: u64,
}

enum Found {
    NotYet,
    Record(Record),
    Gone,
}

impl Probe {
    /// Sends the record alone, while the server stays up: one that shuts down waits for our stream to end.
    pub(super) async fn run(mut self, relay: &Relay, conn: &SqlConn) -> Outcome {
        tracing::warn!(
            table = self.rejected.table,
            id = self.rejected.row_id,
            topic = self.rejected.topic,
            reason = self.rejected.reason,
            "Kafka refused this record at the last stop; it is sent alone first"
        );
        let outcome = tokio::select! {
            outcome = self.find_and_send(relay) => outcome,
            end = conn.closed() => Outcome::NotReady(NotReady::Retry(end.message)),
        };
        let Self { reader, writer, producer, .. } = self;
        if let Err(error) = stream::finish(reader, writer).await {
            tracing::debug!(error = %error.report(), "the replication connection did not end in order");
        }
        let _ = tokio::task::spawn_blocking(move || producer.close()).await;
        outcome
    }

    async fn find_and_send(&mut self, relay: &Relay) -> Outcome {
        match self.find(relay).await {
            Ok(None) => Outcome::Over,
            Ok(Some(record)) => self.send(record, relay).await,
            Err(error) => Outcome::NotReady(error.into()),
        }
    }

    /// Reads up to the record. A server that is silent for long is taken for dead, as while streaming.
    async fn find(&mut self, relay: &Relay) -> Result<Option<Record>, PgError> {
        let mapper = Mapper::new(relay.outbox.clone());
        let mut search = Search { mapper, commit_lsn: Lsn::ZERO, ordinal: 0 };
        let mut clock = interval(self.status_every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let since = Instant::now();
        loop {
            let silent_at = silent_at(since, self.reader.last_heard());
            tokio::select! {
                biased;
                _ = clock.tick() => self.alive(relay),
                flushed = self.writer.flush(), if self.writer.pending() => flushed?,
                ready = self.reader.ready() => {
                    ready?;
                    while let Some(message) = self.reader.pop()? {
                        match message {
                            ReplicationMessage::XLogData { body, .. } => match search.step(body, &self.rejected) {
                                Found::NotYet => {}
                                Found::Record(record) => return Ok(Some(record)),
                                Found::Gone => return Ok(None),
                            },
                            // The server has nothing up to there that is not read: it is not in the stream.
                            ReplicationMessage::KeepAlive { wal_end, .. } => {
                                if search.is_outside() && wal_end.0 > self.rejected.commit_lsn {
                                    return Ok(None);
                                }
                            }
                            ReplicationMessage::Notice { .. } => {}
                        }
                    }
                }
                () = sleep_until(silent_at) => return Err(silent()),
            }
        }
    }

    /// Tells both sides that we are there.
    fn alive(&mut self, relay: &Relay) {
        relay.board.turn();
        self.writer.queue_status(self.confirmed_lsn, self.confirmed_lsn);
    }

    /// Sends it until Kafka takes or refuses it.
    async fn send(&mut self, record: Record, relay: &Relay) -> Outcome {
        let mut backoff = Backoff::new(relay.settings.backoff);
        let mut clock = interval(self.status_every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut attempts = 0;
        let mut sent_at = Instant::now();
        let mut send_at = Some(sent_at);
        let mut events = Vec::new();
        loop {
            tokio::select! {
                biased;
                _ = clock.tick() => self.alive(relay),
                flushed = self.writer.flush(), if self.writer.pending() => {
                    if let Err(error) = flushed { return Outcome::NotReady(error.into()) }
                }
                () = self.inbox.arrived() => {
                    self.inbox.take(&mut events);
                    for event in events.drain(..) {
                        match self.judge(event, &record, sent_at, &mut attempts, relay) {
                            None => {}
                            Some(Ok(())) => send_at = Some(Instant::now() + backoff.delay(attempts)),
                            Some(Err(outcome)) => return outcome,
                        }
                    }
                }
                () = sleep_until(send_at.unwrap_or_else(Instant::now)), if send_at.is_some() => {
                    send_at = None;
                    sent_at = Instant::now();
                    match self.producer.send(&record, 0) {
                        Ok(()) | Err(SendError::CameBack) => {}
                        Err(SendError::QueueFull) => send_at = Some(Instant::now() + backoff.delay(0)),
                        Err(SendError::Rejected(rejection, why)) => {
                            return Outcome::NotReady(NotReady::Halt(refused(&record, rejection, &why)));
                        }
                        Err(SendError::Fatal(why)) => return Outcome::NotReady(NotReady::Retry(why)),
                    }
                }
            }
        }
    }

    /// What an event means: it goes again (`Ok`), or it is over.
    fn judge(
        &mut self,
        event: Event,
        record: &Record,
        sent_at: Instant,
        attempts: &mut u32,
        relay: &Relay,
    ) -> Option<Result<(), Outcome>> {
        let halt = |halt: Halt| Some(Err(Outcome::NotReady(NotReady::Halt(halt))));
        let failure = match event {
            Event::Acknowledged(_) => return Some(Err(Outcome::Over)),
            Event::Trouble(trouble) => {
                match trouble {
                    Trouble::AllBrokersDown => self.say("no Kafka broker is reachable", relay),
                    Trouble::Authentication(why) => {
                        self.say(&format!("{KAFKA_REFUSES_US}: {}", gist(&why)), relay)
                    }
                    Trouble::Transport(_) | Trouble::Fatal(_) => {}
                }
                return None;
            }
            Event::Failed(failure) => failure,
        };
        match failure.class {
            FailureClass::Rejected(rejection) => {
                relay.metrics.late_rejection();
                halt(refused(record, rejection, &failure.message))
            }
            // It went alone. One that waited for Kafka until it was too old goes again.
            FailureClass::Stale if was_fresh(sent_at, Instant::now()) => {
                relay.metrics.late_rejection();
                halt(refused(record, Rejection::Invalid, &failure.message))
            }
            FailureClass::Fatal | FailureClass::Purged => {
                Some(Err(Outcome::NotReady(NotReady::Retry(failure.message))))
            }
            FailureClass::Topic(_) => {
                *attempts += 1;
                self.say(&failure.message, relay);
                let trouble = TopicTrouble { message: failure.message, remedy: None, since: Instant::now() };
                match relay.settings.max_retries {
                    Some(bound) if *attempts > bound => {
                        halt(exhausted(record, &exhausted_text(bound, Some(&trouble))))
                    }
                    _ => Some(Ok(())),
                }
            }
            // It goes again at once, by itself as before.
            FailureClass::Transport | FailureClass::Neighbour | FailureClass::Stale => {
                self.say(&failure.message, relay);
                Some(Ok(()))
            }
        }
    }

    /// Says why Kafka has not taken the record yet: where one sees why the relay is not ready, and in the log
    /// from time to time.
    fn say(&mut self, why: &str, relay: &Relay) {
        if self.said.is_due(Instant::now()) {
            tracing::warn!(
                topic = self.rejected.topic,
                error = why,
                "Kafka has not taken the record yet; trying on"
            );
        }
        relay.board.note(|report| {
            report.last_error = Some(why.to_owned());
            report.detail =
                Some(format!("Kafka refused a record at the last stop and has not taken it yet: {why}"));
        });
    }
}

impl Search {
    fn is_outside(&self) -> bool {
        self.commit_lsn == Lsn::ZERO
    }

    /// Looks at one message of the stream. Whatever is wrong with it is for the session to say.
    fn step(&mut self, body: bytes::Bytes, rejected: &Rejected) -> Found {
        match pgoutput::decode(body) {
            Err(_) => Found::Gone,
            Ok(Message::Begin { final_lsn, .. }) => {
                (self.commit_lsn, self.ordinal) = (final_lsn, 0);
                if final_lsn.0 > rejected.commit_lsn { Found::Gone } else { Found::NotYet }
            }
            Ok(Message::Commit { .. }) => {
                self.commit_lsn = Lsn::ZERO;
                Found::NotYet
            }
            Ok(Message::Relation(relation)) => match self.mapper.relation(&relation) {
                Ok(()) => Found::NotYet,
                Err(_) => Found::Gone,
            },
            Ok(Message::Insert { relation_id, row }) => match self.mapper.map(relation_id, &row) {
                Err(_) => Found::Gone,
                Ok(Mapped::Foreign) => Found::NotYet,
                Ok(Mapped::InvalidTopic { .. }) => self.passed(),
                Ok(Mapped::Record(record)) => {
                    let is_it = self.commit_lsn.0 == rejected.commit_lsn
                        && self.ordinal == rejected.ordinal
                        && record.id() == rejected.row_id;
                    if is_it { Found::Record(record.detached()) } else { self.passed() }
                }
            },
            Ok(_) => Found::NotYet,
        }
    }

    fn passed(&mut self) -> Found {
        self.ordinal += 1;
        Found::NotYet
    }
}

#[cfg(test)]
mod tests;

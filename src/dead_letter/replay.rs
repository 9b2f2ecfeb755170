//! Letters back to Kafka, in order.
//!
//! A key's letters are published in commit order and deleted once Kafka has them; the relay, which goes on
//! storing what follows of the key, lets it flow again when it sees none of them left. So the order of a
//! key holds however the two meet. Needs no relay.
//!
//! Invariant: a letter is deleted only after its acknowledgement, and by the version that was published.

mod error;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::select::{self, Selection, Target, record};
use super::{Reason, lock_key};
use crate::kafka::limits::{self, Limits};
use crate::kafka::{self, Event, Inbox, Producer, SendError, Trouble};
use crate::outbox::Record;
use crate::postgres::PgError;

pub use self::error::ReplayError;

/// Letters of a key that are at Kafka together, and their bytes, but for a single one.
const BATCH: i64 = 500;
const BATCH_BYTES: i64 = 4 * 1024 * 1024;

/// How long a relay gets to see that a key has no letter left, before the end is believed: it looks ten
/// times a second while we are at work.
const LINGER: Duration = Duration::from_secs(2);

/// How often the table is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long another command may take to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes the lock of the slot's letters, for as long as the connection lives.
///
/// # Errors
/// [`ReplayError::Busy`].
pub async fn lock(client: &Client, slot: &str) -> Result<(), ReplayError> {
    const DOING: &str = "lock the dead letters";
    let failed = |source| PgError::statement(DOING, source);
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        const SQL: &str = "select pg_catalog.pg_try_advisory_lock($1)";
        let row = client.query_typed_one(SQL, &[(&lock_key(slot), Type::INT8)]).await.map_err(failed)?;
        if row.try_get(0).map_err(failed)? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ReplayError::Busy { slot: slot.to_owned() });
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What a replay came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Records that Kafka has, and that are deleted.
    pub published: u64,
    /// Keys that kept letters, and why.
    pub left: Vec<Left>,
}

/// A key that kept letters.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    /// Its topic.
    pub topic: String,
    /// The Kafka key.
    pub key: Bytes,
    /// The id of the record that Kafka did not take.
    pub id: String,
    /// Why not.
    pub why: String,
}

/// A letter on its way.
struct Outgoing {
    seq: i64,
    refused: bool,
    record: Record,
}

/// What was reported of some records.
#[derive(Default)]
struct Reports {
    acknowledged: Vec<usize>,
    /// The first that Kafka did not take, and why.
    failure: Option<(usize, String)>,
    /// Kafka says nothing of the rest.
    silent: Option<ReplayError>,
}

/// One replay.
pub struct Replay<'a> {
    client: &'a Client,
    slot: &'a str,
    settings: &'a kafka::Settings,
    patience: Duration,
    limits: Limits,
    known_limits: HashMap<String, u32>,
    producer: Option<(Producer, Inbox)>,
    done: Replayed,
}

impl<'a> Replay<'a> {
    /// A replay of letters of `slot`. Kafka may be silent for `patience`.
    ///
    /// # Errors
    /// [`ReplayError::Client`].
    pub fn new(
        client: &'a Client,
        slot: &'a str,
        settings: &'a kafka::Settings,
        patience: Duration,
    ) -> Result<Self, ReplayError> {
        Ok(Self {
            client,
            slot,
            settings,
            patience,
            limits: Limits::new(settings)?,
            known_limits: HashMap::new(),
            producer: None,
            done: Replayed::default(),
        })
    }

    /// Publishes the letters of a selection and whatever comes behind them meanwhile; the lock must be held.
    ///
    /// # Errors
    /// [`ReplayError`]; what Kafka did not take is no error but [`Replayed::left`].
    pub async fn run(
        mut self,
        selection: &Selection,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Replayed, ReplayError> {
        let ended = self.all(selection, progress).await;
        if let Some((producer, _)) = self.producer.take() {
            // It waits for librdkafka's threads.
            let _ = tokio::task::spawn_blocking(move || producer.close()).await;
        }
        let limits = self.limits;
        let _ = tokio::task::spawn_blocking(move || limits.close()).await;
        ended.map(|()| self.done)
    }

    async fn all(
        &mut self,
        selection: &Selection,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), ReplayError> {
        if let Selection::Id(id) = selection {
            return self.one(id, progress).await;
        }
        let mut failed: BTreeSet<Target> = BTreeSet::new();
        let mut quiet_since: Option<Instant> = None;
        loop {
            let mut targets = select::targets(self.client, self.slot, selection).await?;
            targets.retain(|target| !failed.contains(target));
            if targets.is_empty() {
                // A relay that still stores letters of these keys has to see the end first.
                let since = *quiet_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= LINGER || !self.relay_is_up().await? {
                    return Ok(());
                }
                sleep(LOOK_EVERY).await;
                continue;
            }
            quiet_since = None;
            for target in targets {
                if !self.key(&target, progress).await? {
                    failed.insert(target);
                }
            }
        }
    }

    /// The record of one id, which must be the first of its key.
    async fn one(&mut self, id: &str, progress: &mut (dyn FnMut(u64) + Send)) -> Result<(), ReplayError> {
        let wanted = select::list(self.client, self.slot, &Selection::Id(id.to_owned()), BATCH).await?;
        for entry in wanted {
            let Some(target) = entry.target else { continue };
            let first = self.next(&target, 1).await?.into_iter().next();
            match first {
                Some(first) if first.seq == entry.seq => {
                    self.send(&target, vec![first], progress).await?;
                }
                Some(first) => {
                    return Err(ReplayError::NotFirst { id: id.to_owned(), first: first.record.id() });
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Publishes a key's letters until none is left; false if Kafka did not take one.
    async fn key(
        &mut self,
        target: &Target,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<bool, ReplayError> {
        loop {
            let mut batch = self.next(target, BATCH).await?;
            if batch.is_empty() {
                return Ok(true);
            }
            // A record that was refused once goes alone: whatever were behind it could overtake it.
            let alone = batch.first().is_some_and(|first| first.refused);
            let count = if alone { 1 } else { batch.iter().take_while(|letter| !letter.refused).count() };
            batch.truncate(count);
            if !self.send(target, batch, progress).await? {
                return Ok(false);
            }
        }
    }

    /// The next letters of a key, in order.
    async fn next(&self, (topic, key): &Target, most: i64) -> Result<Vec<Outgoing>, ReplayError> {
        const DOING: &str = "read dead letters";
        const SQL: &str = "select seq, reason, topic, key, payload, header_names, header_values, event_type
               from (select *, sum(coalesce(octet_length(payload), 0)) over (order by commit_lsn, ordinal)
                               - coalesce(octet_length(payload), 0) as before
                       from (select * from public.txstream_dead_letter
                              where slot = $1 and topic = $2 and md5(key) = md5($3) and key = $3
                              order by commit_lsn, ordinal limit $4) next) sized
              where before < $5 order by commit_lsn, ordinal";
        let rows = self
            .client
            .query_typed(
                SQL,
                &[
                    (&self.slot, Type::TEXT),
                    (topic, Type::TEXT),
                    (&&key[..], Type::BYTEA),
                    (&most, Type::INT8),
                    (&BATCH_BYTES, Type::INT8),
                ],
            )
            .await
            .map_err(|source| PgError::statement(DOING, source))?;
        let letters: Result<_, tokio_postgres::Error> = rows.iter().map(outgoing).collect();
        Ok(letters.map_err(|source| PgError::statement(DOING, source))?)
    }

    /// Whether a relay holds the slot.
    async fn relay_is_up(&self) -> Result<bool, ReplayError> {
        const SQL: &str =
            "select exists (select from pg_catalog.pg_replication_slots where slot_name = $1 and active)";
        let failed = |source| PgError::statement("look at the slot", source);
        let row = self.client.query_typed_one(SQL, &[(&self.slot, Type::TEXT)]).await.map_err(failed)?;
        Ok(row.try_get(0).map_err(failed)?)
    }

    /// Publishes some letters of a key, in order, and deletes what Kafka has; false if it did not take one.
    async fn send(
        &mut self,
        target: &Target,
        batch: Vec<Outgoing>,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<bool, ReplayError> {
        let limit = self.limit(&target.0).await?;
        let (mut sent, mut refused) = (0, None);
        let inbox = {
            let made = self.producer()?;
            for letter in &batch {
                let problem = limits::check(&letter.record, limit).err().map(|(_, why)| why);
                match problem.map_or_else(|| offer(&made.0, &letter.record, sent), Err) {
                    Ok(()) => sent += 1,
                    Err(why) => {
                        refused = Some(why);
                        break;
                    }
                }
            }
            made.1.clone()
        };
        let reports = self.reports(&inbox, sent).await;
        let failed = reports.failure.or(refused.map(|why| (sent, why)));
        let versions: Vec<i64> = reports.acknowledged.iter().map(|ticket| batch[*ticket].seq).collect();
        select::delete(self.client, &versions).await?;
        self.done.published += versions.len() as u64;
        progress(versions.len() as u64);
        if let Some(silent) = reports.silent {
            return Err(silent);
        }
        let Some((ticket, why)) = failed else { return Ok(true) };
        let (topic, key) = target.clone();
        let id = batch.get(ticket).map(|letter| letter.record.id()).unwrap_or_default();
        self.done.left.push(Left { topic, key, id, why });
        // Whatever it still holds must not follow.
        if let Some((producer, _)) = self.producer.take() {
            let _ = tokio::task::spawn_blocking(move || producer.close()).await;
        }
        Ok(false)
    }

    /// Awaits so many reports.
    async fn reports(&self, inbox: &Inbox, sent: usize) -> Reports {
        let mut reports = Reports::default();
        let (mut failures, mut trouble) = (0, None);
        let mut deadline = Instant::now() + self.patience;
        let mut events = Vec::new();
        while reports.acknowledged.len() + failures < sent {
            if timeout_at(deadline, inbox.arrived()).await.is_err() {
                reports.silent = Some(ReplayError::Silent { waited: self.patience, trouble });
                break;
            }
            inbox.take(&mut events);
            for event in events.drain(..) {
                match event {
                    Event::Acknowledged(ticket) => {
                        reports.acknowledged.push(ticket);
                        deadline = Instant::now() + self.patience;
                    }
                    Event::Failed(failed) => {
                        failures += 1;
                        if reports.failure.as_ref().is_none_or(|(first, _)| failed.ticket < *first) {
                            reports.failure = Some((failed.ticket, failed.message));
                        }
                    }
                    Event::Trouble(Trouble::AllBrokersDown) => {
                        trouble = Some("no broker is reachable".to_owned());
                    }
                    Event::Trouble(
                        Trouble::Transport(why) | Trouble::Authentication(why) | Trouble::Fatal(why),
                    ) => trouble = Some(why),
                }
            }
        }
        reports
    }

    fn producer(&mut self) -> Result<&(Producer, Inbox), ReplayError> {
        let made = match self.producer.take() {
            Some(made) => made,
            None => {
                let smallest = self.known_limits.values().min().copied();
                let inbox = Inbox::new();
                (Producer::new(self.settings, smallest, inbox.clone())?, inbox)
            }
        };
        Ok(self.producer.insert(made))
    }

    /// The topic's limit; a producer whose batches are larger is replaced.
    async fn limit(&mut self, topic: &str) -> Result<u32, ReplayError> {
        if let Some(limit) = self.known_limits.get(topic) {
            return Ok(*limit);
        }
        let asked = self.limits.topic_limit(topic).await;
        let limit = asked
            .map_err(|why| ReplayError::Silent { waited: self.settings.request_timeout, trouble: Some(why) })?
            .bytes();
        let smallest = self.known_limits.values().min().copied();
        self.known_limits.insert(topic.to_owned(), limit);
        if smallest.is_none_or(|smallest| limit < smallest)
            && let Some((producer, _)) = self.producer.take()
        {
            let _ = tokio::task::spawn_blocking(move || producer.close()).await;
        }
        Ok(limit)
    }
}

fn outgoing(row: &Row) -> Result<Outgoing, tokio_postgres::Error> {
    let refused = row.try_get::<_, &str>(1)? != Reason::Behind.as_str();
    Ok(Outgoing { seq: row.try_get(0)?, refused, record: record(row, 2)? })
}

/// Hands a record to the producer.
fn offer(producer: &Producer, record: &Record, ticket: usize) -> Result<(), String> {
    match producer.send(record, ticket) {
        // It comes back as a failure.
        Ok(()) | Err(SendError::CameBack) => Ok(()),
        Err(SendError::QueueFull) => Err("the producer's queue is full".to_owned()),
        Err(SendError::Rejected(_, why) | SendError::Fatal(why)) => Err(why),
    }
}

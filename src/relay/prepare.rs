//! Everything before a session: connections, checks, slot, producer, START_REPLICATION, checks again.

mod letters;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use postgres_protocol::escape::escape_identifier;

pub(super) use self::letters::{Parked, letter_desk, no_letters, parked};
use super::backoff::Backoff;
use super::breaker::Breaker;
use super::checkpoint::{self, Identity, Verdict};
use super::core::Core;
use super::halt::Halt;
use super::intake::{Intake, Origin};
use super::limit_desk::LimitDesk;
use super::monitor::{Monitor, Pending};
use super::not_ready::NotReady;
use super::pacing::Pacing;
use super::preflight::{self, Instance, Problem, Ready, Server};
use super::probe::{Outcome, Probe};
use super::session::{Opened, Source, Statuses};
use super::settings::OnReject;
use super::silence::SILENCE;
use super::slot_life::{self, CreateSlot};
use super::{Known, Relay};
use crate::kafka::{CreateError, Inbox, Producer};
use crate::outbox::Mapper;
use crate::postgres::error::Class;
use crate::postgres::replication::{ReplicationConn, StartOptions, WalSenderTimeout};
use crate::postgres::slot::SlotView;
use crate::postgres::sql::{self, SqlConn};
use crate::postgres::stream::{StatusWriter, WalReader};
use crate::postgres::{Lsn, PgError, locks};

/// Longest wait for an open transaction while the slot of a first start is created.
const CREATE_LOCK_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest wait for the end of a session that is not seen to hold its slot.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Longest wait for the answers to all checks: the server of a kept connection may have vanished without
/// a word.
const LOOK_TIMEOUT: Duration = Duration::from_secs(20);

/// The same with the beginning of the stream and the dead letters.
const LETTERS_TIMEOUT: Duration = Duration::from_secs(120);

/// A session that can begin.
pub(super) struct Prepared {
    pub(super) conn: SqlConn,
    pub(super) monitor: Monitor,
    pub(super) opened: Box<Opened>,
}

/// Prepares a session. May be dropped at any await: nothing is held but connections.
pub(super) async fn prepare(relay: &Relay, known: &mut Known) -> Result<Prepared, NotReady> {
    relay.board.turn();
    let conn = connect(relay, known).await?;
    let ready = look(relay, known, &conn).await?;
    if let Some(not_ready) = held(relay, known, ready.slot.as_ref()) {
        known.standby_conn = Some(conn);
        return Err(not_ready);
    }
    let walsender = WalSenderTimeout::choose(&conn, &relay.conninfo).await?;
    let mut replication =
        ReplicationConn::connect_asking(&relay.conninfo, &relay.application_name, walsender.ask)
            .await
            .map_err(|error| {
                refused(relay, error, |role, _| {
                    format!(
                        "ALTER ROLE {role} REPLICATION; (on Amazon RDS: GRANT rds_replication TO {role};)"
                    )
                })
            })?;
    let identity = replication.identify_system().await?;
    if identity.system_id != ready.system_identifier || identity.timeline != ready.timeline {
        let why = "the replication connection led to another server than the one before it; trying again";
        return Err(NotReady::Retry(why.to_owned()));
    }
    // Only now it is known that no pooler is in between.
    locks::bound_waits(&conn).await?;
    let (producer, inbox, desk) = kafka(relay, known)?;
    // What is sent alone first is read as text: that can always be read.
    let binary = ready.binary && !known.text && ready.rejected.is_none();
    let options =
        StartOptions { publications: vec![relay.settings.publication.clone()], binary, messages: false };
    let begun = Box::pin(within(LETTERS_TIMEOUT, async {
        let (mut reader, writer) = start(relay, replication, &options).await?;
        let looked = match look_again(relay, known, &conn, ready).await? {
            Some(looked) => looked,
            None => return Err(not_held(relay, &mut reader).await),
        };
        Ok(((reader, writer), looked))
    }));
    let ((reader, writer), (ready, confirmed_lsn, parked)) = match begun.await {
        Ok(begun) => begun,
        Err(not_ready) => {
            let _ = tokio::task::spawn_blocking(move || producer.close()).await;
            return Err(not_ready);
        }
    };
    // Often enough that neither side takes the other for dead.
    let status_every = walsender
        .effective
        .map_or(relay.settings.status_interval, |timeout| relay.settings.status_interval.min(timeout / 2))
        .min(SILENCE / 3);
    if let Some(rejected) = ready.rejected.clone() {
        let said = Pacing::default();
        let probe = Probe { reader, writer, producer, inbox, confirmed_lsn, rejected, status_every, said };
        return Err(alone_first(relay, &conn, known, probe).await);
    }
    tracing::info!(
        slot = relay.settings.slot, %confirmed_lsn, binary, lanes = relay.settings.lanes,
        server = replication_version(&conn).await, "streaming from the slot"
    );
    let breaker = known.breaker.take().unwrap_or_else(|| Breaker::new(relay.settings.breaker));
    let mut core =
        Core::new(relay.settings.clone(), confirmed_lsn, breaker, Backoff::new(relay.settings.backoff));
    for (topic, key) in parked.keys {
        core.load_parked(&topic, key);
    }
    if let Some(commit_lsn) = known.careful_until {
        core.be_careful_until(commit_lsn);
    }
    let failover = ready.slot.as_ref().and_then(|slot| slot.failover) == Some(true);
    let letters = letter_desk(relay, &known.instance, server_of(&ready), failover, parked.holds_letters);
    let intake = Intake::new(Origin::Slot, Mapper::new(relay.outbox.clone()), Arc::clone(&relay.metrics))
        .refusing(ready.partitions.clone());
    let (reader, writer) = (Source::Wal(reader), Statuses::Wal(writer));
    let opened = Opened { reader, writer, producer, inbox, desk, letters, core, intake, status_every };
    Ok(Prepared { conn, monitor: monitor(relay, known, ready), opened: Box::new(opened) })
}

/// Begins to stream, unless another instance was faster.
async fn start(
    relay: &Relay,
    replication: ReplicationConn,
    options: &StartOptions,
) -> Result<(WalReader, StatusWriter), NotReady> {
    let started = replication.start_replication(&relay.settings.slot, options).await;
    started.map_err(|error| match error.class() {
        Class::Busy => NotReady::Standby(error.report()),
        _ => error.into(),
    })
}

/// Gives up on a server that does not answer.
async fn within<T, E: Into<NotReady>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, NotReady> {
    match timeout(limit, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(NotReady::Retry(format!("the server did not answer the checks within {limit:?}"))),
    }
}

/// Sends the record that Kafka refused at the last stop, alone. Where it would only be stored as a dead
/// letter it goes its way in the session, which is careful with what is behind a letter that was refused.
async fn alone_first(relay: &Relay, conn: &SqlConn, known: &mut Known, probe: Probe) -> NotReady {
    if probe.rejected.letter {
        known.careful_until = Some(Lsn(probe.rejected.commit_lsn));
    } else if relay.settings.on_reject == OnReject::Halt
        && let Outcome::NotReady(not_ready) = probe.run(relay, conn).await
    {
        return not_ready;
    }
    match checkpoint::set_rejected(conn, &relay.settings.slot, &known.instance, None).await {
        Ok(()) => NotReady::Again,
        Err(error) => Problem::from(error).into(),
    }
}

/// A connection that failed. For want of a right (42501) the SQL that grants it is named, which takes
/// the names of role and database.
fn refused(relay: &Relay, error: PgError, grant: impl Fn(&str, &str) -> String) -> NotReady {
    if error.sqlstate() != Some("42501") {
        return error.into();
    }
    let role = escape_identifier(&relay.conninfo.user);
    let database = escape_identifier(&relay.conninfo.dbname);
    NotReady::Halt(Halt::new(error.report(), grant(&role, &database)))
}

/// The connection for everything but the stream. A standby looks four times a second: it keeps its own.
async fn connect(relay: &Relay, known: &mut Known) -> Result<SqlConn, NotReady> {
    if let Some(kept) = known.standby_conn.take().filter(|conn| !conn.is_closed()) {
        return Ok(kept);
    }
    sql::connect(&relay.conninfo, &relay.application_name).await.map_err(|error| {
        refused(relay, error, |role, database| format!("GRANT CONNECT ON DATABASE {database} TO {role};"))
    })
}

/// Who holds the slot: another instance, or what the server still takes for our last session.
fn held(relay: &Relay, known: &Known, slot: Option<&SlotView>) -> Option<NotReady> {
    let holder = slot.and_then(SlotView::held_by)?;
    let ours = slot.and_then(|slot| slot.active_pid).is_some_and(|pid| known.last_pid == Some(pid));
    Some(if ours {
        NotReady::Retry("the server still serves our broken session".to_owned())
    } else {
        NotReady::Standby(format!("slot {} is held by {holder}", relay.settings.slot))
    })
}

/// The producer and what asks for topics' limits. Both connect by themselves, now or later.
pub(super) fn kafka(relay: &Relay, known: &Known) -> Result<(Producer, Inbox, LimitDesk), NotReady> {
    let failed = |error: CreateError| {
        NotReady::Halt(Halt::new(
            format!("the Kafka client cannot be made: {error}"),
            "correct the Kafka settings (txstream config shows them)",
        ))
    };
    let inbox = Inbox::new();
    let producer = Producer::new(&relay.kafka, known.batch_limit, inbox.clone()).map_err(failed)?;
    let desk = LimitDesk::open(&relay.kafka, known.limits.keys()).map_err(failed)?;
    Ok((producer, inbox, desk))
}

async fn replication_version(conn: &SqlConn) -> String {
    let row = conn.query_typed_one("select current_setting('server_version')", &[]).await;
    row.and_then(|row| row.try_get(0)).unwrap_or_default()
}

/// The checks, once nobody keeps the tables that they look at from being read.
async fn check(relay: &Relay, conn: &SqlConn, instance: &Instance) -> Result<Ready, Problem> {
    locks::ensure_readable(conn, checkpoint::TABLE).await?;
    for table in &relay.outbox.tables {
        locks::ensure_readable(conn, &table.quoted()).await?;
    }
    preflight::check(conn, &relay.settings, &relay.outbox, instance).await
}

/// The checks of the start; creates the slot of a first start.
async fn look(relay: &Relay, known: &Known, conn: &SqlConn) -> Result<Ready, NotReady> {
    let instance = Instance { name: known.instance.clone(), reported_lsn: known.reported_lsn };
    let ready = within(LOOK_TIMEOUT, check(relay, conn, &instance)).await?;
    if ready.verdict == Verdict::NeverExisted && relay.create_slot {
        let new = CreateSlot {
            slot: &relay.settings.slot,
            publication: &relay.settings.publication,
            outbox: &relay.outbox,
            failover: false,
            lock_timeout: CREATE_LOCK_TIMEOUT,
            first_only: true,
        };
        slot_life::create(conn, &new).await.map_err(Problem::from)?;
        tracing::info!(slot = relay.settings.slot, "the slot was created, since there never was one");
        return within(LOOK_TIMEOUT, check(relay, conn, &instance)).await;
    }
    // Row and slot are read one after the other: a holder who came in between looks as if somebody had moved the
    // slot. His claim is in the row by now.
    let ready = match ready.verdict {
        Verdict::Ahead { .. } => within(LOOK_TIMEOUT, check(relay, conn, &instance)).await?,
        _ => ready,
    };
    match preflight::objection(&ready.verdict, &relay.settings.slot) {
        Some(problem) => Err(problem.into()),
        None => Ok(ready),
    }
}

/// After START_REPLICATION: `confirmed_flush_lsn` may have moved in between, and only now nobody else
/// can move it. `None` when the slot is not seen to be held.
async fn look_again(
    relay: &Relay,
    known: &mut Known,
    conn: &SqlConn,
    before: Ready,
) -> Result<Option<(Ready, Lsn, Parked)>, NotReady> {
    let now = look(relay, known, conn).await?;
    // Through this connection the slot must be seen to be held: at a failover an address can lead to
    // the old primary once and to the new one then, and one server's position is not the other's.
    let slot = now.slot.as_ref();
    known.last_pid = slot.and_then(|slot| slot.active_pid);
    if known.last_pid.is_none() {
        return Ok(None);
    }
    if now.tables != before.tables {
        return Err(NotReady::Retry("an outbox table changed while streaming began".to_owned()));
    }
    if let Verdict::Behind { slot_lsn, row_lsn } = now.verdict {
        tracing::warn!(%slot_lsn, %row_lsn, "the slot is behind what was confirmed before; records in between come again");
    }
    let confirmed_lsn = now.verdict.begins_at(slot);
    // A clean row of a holder before would look as if someone else had moved the slot.
    let identity = Identity {
        system_identifier: &now.system_identifier,
        database: &now.database,
        instance: &known.instance,
        reported_lsn: confirmed_lsn.unwrap_or(Lsn::ZERO),
    };
    let claimed = checkpoint::claim(conn, &relay.settings.slot, &identity, confirmed_lsn).await;
    claimed.map_err(Problem::from)?;
    let parked = parked(relay, conn).await?;
    Ok(Some((now, confirmed_lsn.unwrap_or(Lsn::ZERO), parked)))
}

/// Why the slot is not held although streaming began: the server may have ended the session already, and said why.
async fn not_held(relay: &Relay, reader: &mut WalReader) -> NotReady {
    let end = async {
        loop {
            while reader.pop()?.is_some() {}
            reader.ready().await?;
        }
    };
    match timeout(LAST_WORDS, end).await.map_or(Ok(()), |end: Result<(), PgError>| end) {
        Err(error) if error.class() == Class::Halt => NotReady::Halt(explain_lost(relay, &error).await),
        Err(error) => NotReady::Retry(format!("the session ended as it began: {}", error.report())),
        Ok(()) => NotReady::Retry("SQL and replication connections lead to different servers".to_owned()),
    }
}

fn server_of(ready: &Ready) -> Server {
    Server { system_identifier: ready.system_identifier.clone(), timeline: ready.timeline }
}

fn monitor(relay: &Relay, known: &Known, ready: Ready) -> Monitor {
    Monitor {
        conninfo: relay.conninfo.clone(),
        application_name: relay.application_name.clone(),
        settings: relay.settings.clone(),
        outbox: relay.outbox.clone(),
        server: server_of(&ready),
        tables: ready.tables,
        database: ready.database,
        instance: known.instance.clone(),
        board: Arc::clone(&relay.board),
        metrics: Arc::clone(&relay.metrics),
        pending: Pending::default(),
    }
}

/// A stream that ended with an error that halts: 55000 and 42704 have several causes, so slot and
/// publication are looked at before one is named.
pub(super) async fn explain_lost(relay: &Relay, error: &PgError) -> Halt {
    let plain = preflight::halt_of(error);
    let Ok(conn) = sql::connect(&relay.conninfo, &relay.application_name).await else { return plain };
    let instance = Instance { name: String::new(), reported_lsn: Lsn::ZERO };
    let found = match timeout(LOOK_TIMEOUT, check(relay, &conn, &instance)).await {
        Ok(Ok(ready)) => preflight::objection(&ready.verdict, &relay.settings.slot),
        Ok(Err(problem)) => Some(problem),
        Err(_) => None,
    };
    match found {
        Some(Problem::Halt(halt)) => Halt::new(format!("{} ({})", halt.what, plain.what), halt.remedy),
        _ => plain,
    }
}

//! What must hold before streaming, looked at on an ordinary connection to the replication server:
//! the server's settings, the publication, the tables, the slot and its checkpoint row. The table
//! part is looked at again while streaming.

use std::collections::HashSet;

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::checkpoint::{self, CheckpointError, Identity, Rejected, Verdict, judge};
use super::halt::Halt;
use super::settings::Settings;
use super::slot_life::{self, SlotError};
use crate::dead_letter::DeadLetterError;
use crate::outbox;
use crate::postgres::slot::{self, SlotView};
use crate::postgres::sql::{self, SqlConn};
use crate::postgres::{ConnInfo, Lsn, PgError, error, locks, publication};

/// Why streaming cannot begin.
#[derive(Debug)]
pub(crate) enum Problem {
    /// Try again.
    Retry(PgError),
    /// A person must act.
    Halt(Halt),
    /// A backfill is under way: wait for it.
    Wait(&'static str),
}

impl From<PgError> for Problem {
    fn from(error: PgError) -> Self {
        match error.class() {
            error::Class::Halt => Self::Halt(halt_of(&error)),
            _ => Self::Retry(error),
        }
    }
}

impl From<SlotError> for Problem {
    fn from(error: SlotError) -> Self {
        match error {
            SlotError::Pg(error)
            | SlotError::Checkpoint(CheckpointError::Pg(error))
            | SlotError::Letters(DeadLetterError::Pg(error)) => error.into(),
            other => Self::Halt(Halt::new(other.to_string(), other.remedy())),
        }
    }
}

impl From<CheckpointError> for Problem {
    fn from(error: CheckpointError) -> Self {
        SlotError::Checkpoint(error).into()
    }
}

/// The halt that an error of Postgres means.
pub(super) fn halt_of(error: &PgError) -> Halt {
    let remedy = error.hint().unwrap_or_else(|| "see the server's log, and txstream slot status".to_owned());
    Halt::new(error.report(), remedy)
}

/// The identity of an outbox table when streaming began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableIdentity {
    name: String,
    oid: u32,
}

/// The server that streams. Another one of the same cluster (a promoted standby, or the primary that it
/// replaced) knows nothing of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) system_identifier: String,
    pub(super) timeline: u32,
}

/// Connects to that server, or not at all. Nothing that is done there waits for ever for a lock.
pub(super) async fn connect_to(
    info: &ConnInfo,
    application_name: &str,
    server: &Server,
) -> Result<SqlConn, PgError> {
    let conn = sql::connect(info, application_name).await?;
    let system_identifier = checkpoint::whereabouts(&conn).await?.0;
    if *server != (Server { system_identifier, timeline: timeline(&conn).await? }) {
        return Err(PgError::protocol(
            "connect for what is not streamed",
            "the address leads to another server than the stream",
        ));
    }
    locks::bound_waits(&conn).await?;
    Ok(conn)
}

/// What the checks found out.
#[derive(Debug)]
pub(super) struct Ready {
    /// Cluster and database.
    pub(super) system_identifier: String,
    /// The server's timeline.
    pub(super) timeline: u32,
    /// Database name.
    pub(super) database: String,
    /// The outbox tables.
    pub(super) tables: Vec<TableIdentity>,
    /// OIDs of their partitions.
    pub(super) partitions: HashSet<u32>,
    /// Columns can be asked for in binary: about a tenth less work for the walsender.
    pub(super) binary: bool,
    /// The slot, if there is one.
    pub(super) slot: Option<SlotView>,
    /// Where the checkpoint row and the slot leave us.
    pub(super) verdict: Verdict,
    /// The record that a broker refused at the last stop.
    pub(super) rejected: Option<Rejected>,
}

/// Who we are.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    /// Differs at every start of a process.
    pub(super) name: String,
    /// The highest position this process reported as flushed.
    pub(super) reported_lsn: Lsn,
}

/// Looks at everything.
pub(super) async fn check(
    client: &Client,
    settings: &Settings,
    outbox: &outbox::Settings,
    instance: &Instance,
) -> Result<Ready, Problem> {
    server(client).await?;
    let (system_identifier, database) = checkpoint::whereabouts(client).await?;
    let timeline = timeline(client).await?;
    slot_life::ensure_published(client, &settings.publication, outbox).await?;
    let (tables, types) = identities(client, settings, outbox).await?;
    let partitions = partitions(client, &tables).await?;
    let row = checkpoint::read(client, &settings.slot).await?;
    let slot = slot::view(client, &settings.slot).await?;
    if let Some(view) = &slot {
        view.ensure_ours(&database).map_err(SlotError::from)?;
        // A backfill that is pending is about to replace the slot, or has to be run again.
        let pending = row.as_ref().is_some_and(|row| row.backfill_pending && !row.dropped);
        if let Some(terminal) = view.terminal().filter(|_| !pending) {
            return Err(SlotError::Terminal { slot: settings.slot.clone(), terminal }.into());
        }
    }
    let identity = Identity {
        system_identifier: &system_identifier,
        database: &database,
        instance: &instance.name,
        reported_lsn: instance.reported_lsn,
    };
    let verdict = judge(row.as_ref(), slot.as_ref(), &identity);
    Ok(Ready {
        timeline,
        partitions,
        binary: outbox::binary_safe_types(&types),
        system_identifier,
        database,
        tables,
        slot,
        verdict,
        rejected: row.and_then(|row| row.rejected),
    })
}

async fn server(client: &Client) -> Result<(), Problem> {
    let row = client
        .query_typed_one("select current_setting('wal_level'), pg_catalog.pg_is_in_recovery()", &[])
        .await
        .map_err(|source| PgError::statement("read wal_level", source))?;
    let get = |source| PgError::statement("read wal_level", source);
    let wal_level: String = row.try_get(0).map_err(get)?;
    if row.try_get(1).map_err(get)? {
        // It may be promoted, or the address may come to lead to the primary.
        return Err(Problem::Wait("the server is a standby in recovery; waiting for the primary"));
    }
    if wal_level != "logical" {
        return Err(Problem::Halt(Halt::new(
            format!("wal_level is {wal_level}, and logical replication needs logical"),
            "ALTER SYSTEM SET wal_level = 'logical'; and restart the server",
        )));
    }
    Ok(())
}

/// The server's timeline: with the system identifier it tells a promoted standby from the primary
/// that it replaced.
pub(super) async fn timeline(client: &Client) -> Result<u32, PgError> {
    const DOING: &str = "read the timeline";
    const SQL: &str = "select pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())";
    let failed = |source| PgError::statement(DOING, source);
    let row = client.query_typed_one(SQL, &[]).await.map_err(failed)?;
    let name: String = row.try_get(0).map_err(failed)?;
    let timeline = name.get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    timeline.ok_or_else(|| PgError::protocol(DOING, "a WAL file's name without one"))
}

/// The tables' OIDs, and the types of the columns that are read.
async fn identities(
    client: &Client,
    settings: &Settings,
    outbox: &outbox::Settings,
) -> Result<(Vec<TableIdentity>, Vec<u32>), Problem> {
    let mut tables = Vec::new();
    let mut types = Vec::new();
    for name in &outbox.tables {
        let table = publication::table(client, &name.schema, &name.name, &settings.publication).await?;
        let table = table.ok_or_else(|| SlotError::NoTable(name.to_string()))?;
        let read = table.columns.iter().filter(|column| outbox.reads_column(&column.name));
        types.extend(read.map(|column| column.type_id));
        tables.push(TableIdentity { name: name.to_string(), oid: table.oid });
    }
    Ok((tables, types))
}

/// The partitions of the tables. A row that comes under the name of one would pass for a foreign one.
async fn partitions(client: &Client, tables: &[TableIdentity]) -> Result<HashSet<u32>, PgError> {
    const SQL: &str = "select t.relid::oid
         from unnest($1) as root(oid), pg_catalog.pg_partition_tree(root.oid::regclass) t
        where t.relid::oid <> all ($1)";
    let failed = |source| PgError::statement("look for the partitions of the outbox tables", source);
    let roots: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let rows = client.query_typed(SQL, &[(&roots, Type::OID_ARRAY)]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// The table checks again, while streaming: a table dropped and recreated, or swapped by rename,
/// would be skipped silently. Answers with the partitions that there are by now.
pub(super) async fn recheck(
    client: &Client,
    settings: &Settings,
    outbox: &outbox::Settings,
    began_with: &[TableIdentity],
) -> Result<HashSet<u32>, Problem> {
    slot_life::ensure_published(client, &settings.publication, outbox).await?;
    let (now, _) = identities(client, settings, outbox).await?;
    match began_with.iter().zip(&now).find(|(before, now)| before != now) {
        None => Ok(partitions(client, &now).await?),
        Some((before, now)) => Err(Problem::Halt(Halt::new(
            format!(
                "outbox table {} is another table than streaming began with (OID {} then, {} now): it was dropped and \
                 recreated, or swapped by rename; rows of the old one and rows written before the new one was \
                 published may be missing in Kafka",
                before.name, before.oid, now.oid
            ),
            "start the relay again to go on with the new table; compare both tables with Kafka",
        ))),
    }
}

/// What a verdict means for a relay; `None` is: go on.
pub(crate) fn objection(verdict: &Verdict, slot: &str) -> Option<Problem> {
    let halt = |what: String, remedy: &str| Some(Problem::Halt(Halt::new(what, remedy)));
    match verdict {
        Verdict::Resume | Verdict::Unknown | Verdict::Behind { .. } => None,
        Verdict::NeverExisted => halt(
            format!("replication slot {slot} does not exist"),
            "run txstream slot create, or start the relay with --create-slot",
        ),
        Verdict::Dropped => halt(
            format!("replication slot {slot} was dropped by txstream slot drop"),
            "run txstream slot create to begin anew; what was written in between is not published",
        ),
        Verdict::Lost { confirmed_lsn } => halt(
            format!(
                "replication slot {slot} is gone; it existed and was confirmed up to {}",
                confirmed_lsn.map_or_else(|| "an unknown position".to_owned(), |lsn| lsn.to_string())
            ),
            slot_life::RESET,
        ),
        Verdict::Ahead { row_lsn, slot_lsn } => halt(
            format!(
                "replication slot {slot} stands at {slot_lsn}, ahead of {row_lsn}, the last position its relay \
                 confirmed: what lies between was moved past by someone else and not published"
            ),
            "find out who advanced the slot; to go on from where it stands: txstream slot adopt; to publish what was \
             passed and is still in the table: txstream slot reset --backfill",
        ),
        Verdict::OtherSystem { row, server } => halt(
            format!(
                "this is another cluster (system identifier {server}) than the slot's checkpoint was written in ({row})"
            ),
            slot_life::ELSEWHERE,
        ),
        Verdict::OtherDatabase { row, server } => halt(
            format!("this is another database ({server}) than the slot's checkpoint was written in ({row})"),
            slot_life::ELSEWHERE,
        ),
        Verdict::BackfillPending => Some(Problem::Wait(
            "a backfill of the slot was begun and is not finished; if no txstream slot command is at work, run txstream \
             slot reset --backfill again",
        )),
    }
}

//! From the output plugin's bytes to records in the core, in commit order.
//!
//! A row is mapped and measured before anything behind it is handed out: a row that has no record,
//! or one that is too large for its topic, is parked, or stops intake, and what was read before it still
//! goes out. So a relay that is started again on the same bad row publishes nothing behind it.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::core::{Core, Taken};
use super::halt::{AGAIN, Halt, STAYS};
use super::refusal::{OR_PARK, describe, too_many_topics};
use super::routes::Routes;
use crate::dead_letter::Reason;
use crate::kafka;
use crate::metrics::{ErrorType, Ignored, Metrics, Route};
use crate::outbox::{MapError, Mapped, Mapper, Record};
use crate::pgoutput::{self, Message};
use crate::postgres::Lsn;

/// What intake is stopped by.
#[derive(Debug)]
enum Stopped {
    /// A person must act.
    Halt(Halt),
    /// The stream has to start again with columns as text.
    NeedsText(String),
}

/// A record that waits for its topic's size limit; nothing is read behind it.
struct Pending {
    record: Record,
    route: u32,
    size: usize,
}

/// Where the rows come from, for what a person can do about one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The slot.
    Slot,
    /// The table: a backfill of what was committed before `at`.
    Table {
        /// The end of WAL when it began.
        at: Lsn,
    },
}

/// Intake of one session.
pub(super) struct Intake {
    mapper: Mapper,
    metrics: Arc<Metrics>,
    pending: Option<Pending>,
    stopped: Option<Stopped>,
    trace_contexts: u64,
    origin: Origin,
    /// LSN of the commit record of the transaction being read.
    commit_lsn: Lsn,
    /// Outbox tables by relation id; they are few.
    tables: Vec<(u32, Arc<str>)>,
    /// Partitions of outbox tables, under whose names no row may come.
    partitions: HashSet<u32>,
}

impl Intake {
    /// Nothing read yet.
    pub(super) fn new(origin: Origin, mapper: Mapper, metrics: Arc<Metrics>) -> Self {
        Self {
            mapper,
            metrics,
            pending: None,
            stopped: None,
            trace_contexts: 0,
            origin,
            commit_lsn: Lsn::ZERO,
            tables: Vec::new(),
            partitions: HashSet::new(),
        }
    }

    /// Stops at a row of one of these, by relation id: partitions of outbox tables, whose rows have to come under
    /// the name of the table.
    pub(super) fn refusing(self, partitions: HashSet<u32>) -> Self {
        Self { partitions, ..self }
    }

    /// Partitions that were made since.
    pub(super) fn refuse_too(&mut self, partitions: HashSet<u32>) {
        let known = self.partitions.len();
        self.partitions.extend(partitions);
        if self.partitions.len() > known {
            tracing::debug!(partitions = self.partitions.len(), "an outbox table has new partitions");
        }
    }

    /// Whether more may be read.
    pub(super) fn is_open(&self) -> bool {
        self.pending.is_none() && self.stopped.is_none()
    }

    /// The topic whose limit has to be learnt before anything more is read.
    pub(super) fn wanted_limit(&self) -> Option<&Arc<str>> {
        self.pending.as_ref().map(|pending| &pending.record.topic)
    }

    /// Why intake stopped for good.
    pub(super) fn halt(&self) -> Option<&Halt> {
        match &self.stopped {
            Some(Stopped::Halt(halt)) => Some(halt),
            _ => None,
        }
    }

    /// Why the stream has to start again as text.
    pub(super) fn needs_text(&self) -> Option<&str> {
        match &self.stopped {
            Some(Stopped::NeedsText(why)) => Some(why),
            _ => None,
        }
    }

    /// One message of the output plugin.
    pub(super) fn message(&mut self, body: Bytes, core: &mut Core, routes: &mut Routes, now: Instant) {
        match pgoutput::decode(body) {
            Ok(message) => self.decoded(message, core, routes, now),
            Err(error) => self.protocol(&error.to_string()),
        }
    }

    /// The same, decoded.
    pub(super) fn decoded(&mut self, message: Message, core: &mut Core, routes: &mut Routes, now: Instant) {
        let inside = core.ledger().in_transaction();
        match message {
            Message::Insert { relation_id, row } if inside => match self.mapper.map(relation_id, &row) {
                Ok(mapped) => self.mapped(mapped, relation_id, core, routes, now),
                Err(error) => self.unmapped(error, core, now),
            },
            Message::Begin { final_lsn, commit_time, .. } if !inside => {
                self.commit_lsn = final_lsn;
                match self.origin {
                    Origin::Slot => core.begin(final_lsn, commit_time),
                    Origin::Table { at } => core.begin_row(at, final_lsn.0, commit_time),
                }
            }
            Message::Commit { end_lsn, .. } if inside => {
                core.commit(end_lsn);
                self.count_trace_contexts();
            }
            Message::Relation(relation) => {
                let name: Arc<str> = format!("{}.{}", relation.namespace, relation.name).into();
                self.tables.retain(|(id, _)| *id != relation.id);
                self.tables.push((relation.id, name));
                if let Err(error) = self.mapper.relation(&relation) {
                    let remedy = format!(
                        "add the column, or set OUTBOX_PRESET or OUTBOX_PLACEMENT to what the table has; then {AGAIN}"
                    );
                    self.stopped = Some(Stopped::Halt(Halt::new(error.to_string(), remedy)));
                }
            }
            Message::Origin { .. } | Message::Type { .. } | Message::Logical { .. } => {}
            Message::Update { .. } => self.metrics.ignored(Ignored::Update, 1),
            Message::Delete { .. } => self.metrics.ignored(Ignored::Delete, 1),
            Message::Truncate { .. } => self.metrics.ignored(Ignored::Truncate, 1),
            Message::StreamAbort { .. } => self.metrics.ignored(Ignored::StreamAbort, 1),
            Message::Insert { .. } => self.protocol("a row outside a transaction"),
            Message::Begin { .. } => self.protocol("a transaction inside another"),
            Message::Commit { .. } => self.protocol("a commit without a transaction"),
        }
    }

    fn mapped(
        &mut self,
        mapped: Mapped,
        relation_id: u32,
        core: &mut Core,
        routes: &mut Routes,
        now: Instant,
    ) {
        match mapped {
            Mapped::Record(record) => {
                let Some(route) = self.route(&record, relation_id, core, routes) else { return };
                let size = kafka::limits::record_size(&record);
                self.take(record, route, size, core, routes, now);
            }
            Mapped::InvalidTopic { record, reason } => {
                let Some(route) = self.route(&record, relation_id, core, routes) else { return };
                self.invalid_topic(record, route, reason, core, routes, now);
            }
            Mapped::Foreign if self.partitions.contains(&relation_id) => self.partition(relation_id),
            Mapped::Foreign => self.metrics.ignored(Ignored::ForeignRow, 1),
        }
    }

    /// Who counts the record; without one intake has stopped.
    fn route(
        &mut self,
        record: &Record,
        relation_id: u32,
        core: &mut Core,
        routes: &mut Routes,
    ) -> Option<u32> {
        // The mapper knows the relation, or there would be no record.
        let Some((_, table)) = self.tables.iter().find(|(id, _)| *id == relation_id) else {
            self.protocol(&format!("a row of relation {relation_id}, which has no name"));
            return None;
        };
        let route = routes.of(record, table, core);
        if route.is_none() {
            let halt = too_many_topics(record, table, self.mapper.topic_column(), &self.skipping());
            self.stopped = Some(Stopped::Halt(halt));
        }
        route
    }

    /// The server decodes a row by what the publication said when it was written, so a publication that is right
    /// by now hides it all the same.
    fn partition(&mut self, relation_id: u32) {
        let name = self.tables.iter().find(|(id, _)| *id == relation_id).map_or("?", |(_, name)| name);
        self.stopped = Some(Stopped::Halt(Halt::new(
            format!(
                "a row comes under the name of {name}, a partition of an outbox table: the publication did not show \
                 partitions through their root when it was written, and changing it does not help rows that are \
                 written"
            ),
            format!(
                "{STAYS}; publish such rows from the table: txstream slot reset --backfill; or skip the whole transaction: \
                 txstream slot advance {}",
                Lsn(self.commit_lsn.0 + 1)
            ),
        )));
    }

    fn invalid_topic(
        &mut self,
        record: Record,
        route: u32,
        reason: &str,
        core: &mut Core,
        routes: &Routes,
        now: Instant,
    ) {
        let halt = core.refuse(record, route, Reason::Invalid, reason, now, |record| {
            Halt::new(
                format!("record {}: {reason}", describe(record)),
                format!(
                    "{STAYS}; set KAFKA_TOPIC_EVENTS, or correct what writes \
                     aggregatetype and {}",
                    self.skipping()
                ),
            )
        });
        self.refused(halt, ErrorType::Invalid, routes.get(route));
    }

    /// Counts a record that Kafka will never take, and stops where the policy says so.
    fn refused(&mut self, halt: Option<Halt>, error: ErrorType, counters: &Route) {
        counters.failed(error);
        if let Some(halt) = halt {
            counters.rejected();
            self.stopped = Some(Stopped::Halt(halt));
        }
    }

    fn take(
        &mut self,
        record: Record,
        route: u32,
        size: usize,
        core: &mut Core,
        routes: &Routes,
        now: Instant,
    ) {
        match core.take(record, route, size, now) {
            Taken::Yes => {}
            Taken::NeedsLimit(record) => self.pending = Some(Pending { record: *record, route, size }),
            Taken::TooLarge(halt) => self.refused(halt, ErrorType::TooLarge, routes.get(route)),
        }
    }

    /// A limit was learnt: the record that waited for it goes on.
    pub(super) fn retry_pending(&mut self, core: &mut Core, routes: &Routes, now: Instant) {
        if let Some(Pending { record, route, size }) = self.pending.take() {
            self.take(record, route, size, core, routes, now);
        }
    }

    /// Who counts a row that has no record, by its columns.
    pub(super) fn unmapped_row(&self, columns: &[(String, Option<String>)]) -> Route {
        self.metrics.unmapped(self.mapper.event_type(columns))
    }

    fn unmapped(&mut self, error: MapError, core: &mut Core, now: Instant) {
        match error {
            MapError::NeedsText { .. } => self.stopped = Some(Stopped::NeedsText(error.to_string())),
            MapError::Broken(what) => self.protocol(&what),
            MapError::Unmappable(row) => {
                let counters = self.unmapped_row(&row.columns);
                let halt = core.refuse_row(*row, now, |row| {
                    Halt::new(
                        row.to_string(),
                        format!("{STAYS}; correct what writes such rows and {}", self.skipping()),
                    )
                });
                self.refused(halt, ErrorType::Unmappable, &counters);
            }
        }
    }

    /// How to skip the transaction being read. The server decodes no transaction whose commit record
    /// begins before the slot's position, so one byte behind that beginning is enough, and nothing
    /// else is skipped.
    fn skipping(&self) -> String {
        match self.origin {
            Origin::Slot => format!(
                "{AGAIN}; {OR_PARK}; or skip its whole transaction: txstream slot advance {}",
                Lsn(self.commit_lsn.0 + 1)
            ),
            Origin::Table { .. } => {
                format!("correct it in the table, or leave it out with --where; {OR_PARK}; then {AGAIN}")
            }
        }
    }

    fn protocol(&mut self, what: &str) {
        self.stopped = Some(Stopped::Halt(Halt::new(
            format!("the replication stream holds what this version does not understand: {what}"),
            "nothing behind it was published or confirmed; please report this text with the server's version",
        )));
    }

    fn count_trace_contexts(&mut self) {
        let ignored = self.mapper.ignored_trace_contexts();
        if ignored > self.trace_contexts {
            self.metrics.ignored(Ignored::TraceContext, ignored - self.trace_contexts);
            self.trace_contexts = ignored;
        }
    }
}

#[cfg(test)]
mod tests;

//! The mapper: plans by relation, rows into records.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::envelope::{self, Parts};
use super::headers::{self, Names};
use super::plan::{Plan, Shape};
use super::row::Row;
use super::topic::Topics;
use super::value::Printer;
use super::{Header, Headers, MapError, Mapped, PlanError, Record, Settings, trace};
use crate::pgoutput::{Relation, Span, Tuple};

/// Maps rows by the plan of their relation.
#[derive(Debug)]
pub struct Mapper {
    settings: Settings,
    /// By relation id; `None` for a table that is not an outbox table. They are few, and a small
    /// ordered map is searched faster than a key is hashed.
    plans: BTreeMap<u32, Option<Box<Plan>>>,
    topics: Topics,
    names: HeaderNames,
    printer: Printer,
    /// Lent to each row, so that none allocates its own.
    spans: Vec<Span>,
    ignored_trace_contexts: u64,
}

/// The names of headers that do not come from a row, and those that do.
#[derive(Debug)]
struct HeaderNames {
    id: Arc<str>,
    event_id: Arc<str>,
    event_type: Arc<str>,
    aggregate_type: Arc<str>,
    traceparent: Arc<str>,
    tracestate: Arc<str>,
    others: Names,
}

impl Mapper {
    /// A mapper without any relation yet.
    pub fn new(settings: Settings) -> Self {
        let fixed = settings.fixed_topic.as_deref().or(settings.preset.default_topic());
        Self {
            topics: Topics::new(fixed),
            settings,
            plans: BTreeMap::new(),
            names: HeaderNames {
                id: "id".into(),
                event_id: "event_id".into(),
                event_type: "event_type".into(),
                aggregate_type: "aggregate_type".into(),
                traceparent: "traceparent".into(),
                tracestate: "tracestate".into(),
                others: Names::default(),
            },
            printer: Printer::new(),
            spans: Vec::new(),
            ignored_trace_contexts: 0,
        }
    }

    /// Learns a relation, replacing what was known of its id.
    ///
    /// # Errors
    /// [`PlanError`] when an outbox table lacks a column that the preset or a placement needs, or has
    /// it in a type that cannot serve. What was known of the id is forgotten then.
    pub fn relation(&mut self, relation: &Relation) -> Result<(), PlanError> {
        self.plans.remove(&relation.id);
        let plan = Plan::of(relation, &self.settings)?;
        self.plans.insert(relation.id, plan.map(Box::new));
        Ok(())
    }

    /// Maps one inserted row.
    ///
    /// # Errors
    /// [`MapError::Unmappable`] when the row has no record, such as a NULL aggregate; the others when
    /// the stream cannot go on as it is.
    pub fn map(&mut self, relation_id: u32, tuple: &Tuple) -> Result<Mapped, MapError> {
        let plan = match self.plans.get(&relation_id) {
            Some(Some(plan)) => plan,
            Some(None) => return Ok(Mapped::Foreign),
            None => {
                return Err(MapError::Broken(format!(
                    "a row of relation {relation_id} came before any description of it"
                )));
            }
        };
        let mut row = Row::new(plan, tuple, &mut self.spans, &mut self.printer)?;
        let names = &mut self.names;

        let id = row.required_value(plan.id)?;
        let aggregate_type = row.required(plan.aggregate_type)?;
        let topic = self.topics.of(&aggregate_type);
        let key = row.required_value(plan.aggregate_id)?;
        let event_type = row.required_value(plan.event_type)?;
        let mut headers = Headers::new();
        let payload = match plan.shape {
            Shape::Debezium { headers: column, trace } => {
                headers.push(header(&names.id, id));
                if let Some(json) = column.map(|column| row.value(column)).transpose()?.flatten() {
                    headers::read(&json, &mut names.others, &mut headers)
                        .map_err(|reason| row.unmappable(reason))?;
                }
                if let Some(text) = trace.map(|column| row.value(column)).transpose()?.flatten() {
                    let context = trace::read(&text);
                    self.ignored_trace_contexts += u64::from(context.garbage);
                    headers.extend(context.traceparent.map(|value| header(&names.traceparent, value.into())));
                    headers.extend(context.tracestate.map(|value| header(&names.tracestate, value.into())));
                }
                row.value(plan.payload)?
            }
            Shape::Txstream { created_at, metadata } => {
                headers.reserve_exact(4 + plan.placed.len());
                headers.push(header(&names.id, id.clone()));
                headers.push(header(&names.event_id, id.clone()));
                headers.push(header(&names.event_type, event_type.clone()));
                let parts = Parts {
                    id: &id,
                    aggregate_id: &key,
                    aggregate_type: &aggregate_type,
                    event_type: &event_type,
                    created_at,
                    metadata,
                };
                let envelope = envelope::write(&mut row, &parts)?;
                headers.push(header(&names.aggregate_type, row.keep(aggregate_type)));
                Some(envelope)
            }
        };
        for (column, name) in &plan.placed {
            headers.push(Header { name: Arc::clone(name), value: row.value(*column)? });
        }
        let record = Record { topic: topic.name, key, payload, headers, event_type };
        Ok(match topic.wrong {
            None => Mapped::Record(record),
            Some(reason) => Mapped::InvalidTopic { record, reason },
        })
    }

    /// The column that names topics, where one topic does not take all.
    pub fn topic_column(&self) -> &'static str {
        self.settings.preset.columns().aggregate_type
    }

    /// The event type of a row that cannot be mapped, by its columns; `None` where it has none.
    pub fn event_type<'a>(&self, columns: &'a [(String, Option<String>)]) -> Option<&'a str> {
        let name = self.settings.preset.columns().event_type;
        columns.iter().find(|(column, _)| column == name)?.1.as_deref()
    }

    /// How many rows had a `tracingspancontext` that could not be used, since the mapper was made.
    pub fn ignored_trace_contexts(&self) -> u64 {
        self.ignored_trace_contexts
    }
}

fn header(name: &Arc<str>, value: Bytes) -> Header {
    Header { name: Arc::clone(name), value: Some(value) }
}

//! Which column of a relation serves what, found once per relation and not per row.

use std::sync::Arc;

use super::value::Kind;
use super::{PlanError, Preset, Settings, TableName};
use crate::pgoutput::Relation;

/// A column of the table.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: Box<str>,
    pub(super) type_id: u32,
    pub(super) kind: Kind,
}

/// The numbers are positions in `columns`.
#[derive(Debug)]
pub(super) struct Plan {
    /// For messages.
    pub(super) table: Box<str>,
    pub(super) columns: Vec<Column>,
    pub(super) id: usize,
    pub(super) aggregate_type: usize,
    pub(super) aggregate_id: usize,
    pub(super) event_type: usize,
    pub(super) payload: usize,
    pub(super) shape: Shape,
    /// Columns placed into headers.
    pub(super) placed: Vec<(usize, Arc<str>)>,
}

/// What differs by preset.
#[derive(Debug)]
pub(super) enum Shape {
    /// The payload alone.
    Debezium { headers: Option<usize>, trace: Option<usize> },
    /// A JSON envelope.
    Txstream { created_at: usize, metadata: Option<usize> },
}

impl Plan {
    /// The plan of an outbox table, `None` for another table.
    ///
    /// # Errors
    /// [`PlanError`] naming every column that is missing, or one whose type cannot serve.
    pub(super) fn of(relation: &Relation, settings: &Settings) -> Result<Option<Self>, PlanError> {
        let table = TableName { schema: relation.namespace.clone(), name: relation.name.clone() };
        if !settings.tables.contains(&table) {
            return Ok(None);
        }
        let present: Vec<&str> = relation.columns.iter().map(|column| column.name.as_str()).collect();
        let missing = settings.missing_columns(&present);
        if !missing.is_empty() {
            return Err(PlanError(format!("table {table} lacks column {}", missing.join(", "))));
        }
        let find = |name: &str| present.iter().position(|column| *column == name);
        // Missing columns were found above; this only spares a panic.
        let need =
            |name: &str| find(name).ok_or_else(|| PlanError(format!("table {table} lacks column {name}")));
        let columns: Vec<Column> = relation
            .columns
            .iter()
            .map(|column| Column {
                name: column.name.as_str().into(),
                type_id: column.type_id,
                kind: Kind::of(column.type_id),
            })
            .collect();
        let kind_of = |column: usize| columns.get(column).map_or(Kind::Other, |column| column.kind);
        let shape = match settings.preset {
            Preset::Debezium => Shape::Debezium {
                // A `headers` column of another type is the application's own.
                headers: find("headers").filter(|column| kind_of(*column).is_json()),
                trace: find("tracingspancontext"),
            },
            Preset::Txstream => {
                let created_at = need("created_at")?;
                if !matches!(kind_of(created_at), Kind::Timestamp | Kind::Timestamptz) {
                    return Err(PlanError(format!(
                        "column created_at of table {table} is neither timestamp nor timestamptz, which preset txstream needs"
                    )));
                }
                Shape::Txstream { created_at, metadata: find("event_metadata") }
            }
        };
        let names = settings.preset.columns();
        let placed = settings.placement.iter();
        Ok(Some(Self {
            id: need(names.id)?,
            aggregate_type: need(names.aggregate_type)?,
            aggregate_id: need(names.aggregate_id)?,
            event_type: need(names.event_type)?,
            payload: need(names.payload)?,
            shape,
            placed: placed
                .map(|placed| Ok((need(&placed.column)?, placed.header.as_str().into())))
                .collect::<Result<_, PlanError>>()?,
            table: table.to_string().into(),
            columns,
        }))
    }
}

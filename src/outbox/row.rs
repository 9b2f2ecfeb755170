//! One row under its plan: values by column, and what to say when there is none.
//!
//! What is called for every column is inlined by force: a value handed back through memory, four words written one by
//! one and read in pairs, stalls the processor each time. Decoding and mapping a row takes a third less
//! (`cargo bench --bench decode`).

use bytes::Bytes;

use super::plan::{Column, Plan};
use super::value::{self, Kind, Printed, Printer, Unprintable};
use super::{MapError, NO_ID, Unmappable};
use crate::pgoutput::{Format, Span, Tuple};

/// A row being mapped.
pub(super) struct Row<'a> {
    pub(super) plan: &'a Plan,
    tuple: &'a Tuple,
    spans: &'a [Span],
    pub(super) printer: &'a mut Printer,
}

impl<'a> Row<'a> {
    /// Finds the row's columns; `spans` is only lent for its memory.
    ///
    /// # Errors
    /// [`MapError::Broken`] when the row does not fit its relation.
    pub(super) fn new(
        plan: &'a Plan,
        tuple: &'a Tuple,
        spans: &'a mut Vec<Span>,
        printer: &'a mut Printer,
    ) -> Result<Self, MapError> {
        let (has, expected) = (usize::from(tuple.columns()), plan.columns.len());
        if has != expected {
            let table = &plan.table;
            return Err(MapError::Broken(format!(
                "a row of table {table} has {has} columns, its relation has {expected}"
            )));
        }
        spans.clear();
        spans.extend(tuple.spans());
        if let Some(at) = spans.iter().position(|span| span.format == Format::Unchanged) {
            let (table, column) = (&plan.table, plan.columns.get(at).map_or("", |column| &column.name));
            return Err(MapError::Broken(format!(
                "an inserted row of table {table} leaves column {column} unchanged, which only an update can"
            )));
        }
        Ok(Self { plan, tuple, spans, printer })
    }

    /// A column as it goes into a record, `None` for NULL.
    #[inline(always)]
    pub(super) fn printed(&mut self, column: usize) -> Result<Option<Printed<'a>>, MapError> {
        let (Some(span), Some(Column { kind, .. })) = (self.spans.get(column), self.plan.columns.get(column))
        else {
            return Err(MapError::Broken(format!("table {} has no column {column}", self.plan.table)));
        };
        if span.format == Format::Null {
            return Ok(None);
        }
        match self.printer.print(*kind, span.format, self.tuple.bytes(*span)) {
            Ok(printed) => Ok(Some(printed)),
            Err(reason) => Err(self.unprintable(column, reason)),
        }
    }

    /// A column that must have a value.
    ///
    /// # Errors
    /// [`MapError::Unmappable`] for NULL.
    #[inline(always)]
    pub(super) fn required(&mut self, column: usize) -> Result<Printed<'a>, MapError> {
        match self.printed(column)? {
            Some(printed) => Ok(printed),
            None => Err(self.unmappable(&format!("{} is NULL", self.name(column)))),
        }
    }

    /// As [`Row::printed`], to be kept.
    #[inline(always)]
    pub(super) fn value(&mut self, column: usize) -> Result<Option<Bytes>, MapError> {
        Ok(self.printed(column)?.map(|printed| self.keep(printed)))
    }

    /// As [`Row::required`], to be kept.
    #[inline(always)]
    pub(super) fn required_value(&mut self, column: usize) -> Result<Bytes, MapError> {
        let printed = self.required(column)?;
        Ok(self.keep(printed))
    }

    /// What was printed of this row, beyond the row: without copying it, but for the count of a reference.
    #[inline(always)]
    pub(super) fn keep(&self, printed: Printed<'_>) -> Bytes {
        match printed {
            Printed::Part(part) => self.tuple.keep(part),
            Printed::Text(text) => text,
        }
    }

    pub(super) fn name(&self, column: usize) -> &'a str {
        self.plan.columns.get(column).map_or("", |column| &column.name)
    }

    pub(super) fn kind(&self, column: usize) -> Kind {
        self.plan.columns.get(column).map_or(Kind::Other, |column| column.kind)
    }

    /// The row as it is parked. The reason must not hold a value.
    #[cold]
    pub(super) fn unmappable(&self, reason: &str) -> MapError {
        let columns: Vec<_> = self
            .plan
            .columns
            .iter()
            .zip(self.spans)
            .map(|(column, span)| {
                let value = self.tuple.bytes(*span);
                let text =
                    (span.format != Format::Null).then(|| value::for_people(column.kind, span.format, value));
                (column.name.to_string(), text)
            })
            .collect();
        let id = columns.get(self.plan.id).and_then(|(_, id)| id.clone());
        MapError::Unmappable(Box::new(Unmappable {
            table: self.plan.table.to_string(),
            id: id.unwrap_or_else(|| NO_ID.to_owned()),
            reason: reason.to_owned(),
            columns,
        }))
    }

    #[cold]
    fn unprintable(&self, column: usize, reason: Unprintable) -> MapError {
        let (table, name) = (self.plan.table.to_string(), self.name(column).to_owned());
        let type_id = self.plan.columns.get(column).map_or(0, |column| column.type_id);
        match reason {
            Unprintable::UnknownType => MapError::NeedsText { table, column: name, type_id },
            Unprintable::Malformed => MapError::Broken(format!(
                "column {name} of table {table} holds bytes that its type {type_id} never has"
            )),
        }
    }
}

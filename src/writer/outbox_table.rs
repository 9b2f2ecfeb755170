//! The outbox table that events are written into, and the SQL that fits it.
//!
//! It may be somebody else's: its columns decide how a text becomes their value, and
//! where the trace of a request goes.

use postgres_protocol::escape::escape_identifier;

use super::column::{BYTEA, Column, JSON, JSONB, TEXT, TIMESTAMP, TIMESTAMPTZ, UUID, VARCHAR};
use crate::outbox::{Preset, TableName};

/// SQL expressions of type text for what an event is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) id: &'static str,
    pub(super) aggregate_type: &'static str,
    pub(super) aggregate_id: &'static str,
    pub(super) event_type: &'static str,
    pub(super) payload: &'static str,
    pub(super) headers: &'static str,
    pub(super) trace: &'static str,
}

/// Where the trace of a request is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TraceHome {
    /// In a column of its own.
    Column,
    /// Among the headers.
    Headers,
    /// The table has no place for it.
    Nowhere,
}

/// How events are written into an outbox table.
#[derive(Debug)]
pub(super) struct OutboxTable {
    name: String,
    preset: Preset,
    columns: Vec<Column>,
    pub(super) trace_home: TraceHome,
    pub(super) has_headers: bool,
}

/// A column's value from an expression of type text; `None` for types that the writer does not know.
fn cast(type_id: u32, text: &str) -> Option<String> {
    Some(match type_id {
        UUID => format!("({text})::uuid"),
        TEXT | VARCHAR => format!("({text})::text"),
        JSON => format!("({text})::json"),
        JSONB => format!("({text})::jsonb"),
        BYTEA => format!("pg_catalog.convert_to({text}, 'UTF8')"),
        _ => return None,
    })
}

fn is_json(type_id: u32) -> bool {
    [JSON, JSONB].contains(&type_id)
}

impl OutboxTable {
    /// Looks at the columns of the table.
    ///
    /// # Errors
    /// Why events cannot be written into it, for people.
    pub(super) fn new(name: &TableName, preset: Preset, columns: Vec<Column>) -> Result<Self, String> {
        let names = preset.columns();
        let find = |name: &str| columns.iter().find(|column| column.name == name);
        let trace_column =
            names.trace.and_then(find).filter(|column| [TEXT, VARCHAR].contains(&column.type_id));
        // A headers column of another type is the application's own.
        let has_headers = find(names.headers).is_some_and(|column| is_json(column.type_id));
        let trace_home = match (trace_column, has_headers) {
            (Some(_), _) => TraceHome::Column,
            (None, true) => TraceHome::Headers,
            (None, false) => TraceHome::Nowhere,
        };
        let table = Self { name: name.quoted(), preset, columns, trace_home, has_headers };
        let given = [names.id, names.aggregate_type, names.aggregate_id, names.event_type, names.payload];
        for wanted in given {
            let column = table.columns.iter().find(|column| column.name == wanted);
            let column = column.ok_or_else(|| format!("table {name} has no column {wanted}"))?;
            if cast(column.type_id, "").is_none() {
                return Err(format!(
                    "column {wanted} of table {name} has a type that the writer cannot write"
                ));
            }
        }
        let filled: Vec<String> = table.values(&OF_INPUT).into_iter().map(|(column, _)| column).collect();
        if let Some(column) = table.columns.iter().find(|c| c.must_be_given && !filled.contains(&c.name)) {
            let column = &column.name;
            return Err(format!(
                "column {column} of table {name} is NOT NULL without a default, and the writer does not know it"
            ));
        }
        Ok(table)
    }

    /// Columns with the expressions that fill them.
    fn values(&self, event: &Event) -> Vec<(String, String)> {
        let names = self.preset.columns();
        let find = |name: &str| self.columns.iter().find(|column| column.name == name);
        let mut values = Vec::new();
        let mut fill = |name: &str, text: &str| {
            if let Some(value) = find(name).and_then(|column| cast(column.type_id, text)) {
                values.push((name.to_owned(), value));
            }
        };
        fill(names.id, event.id);
        fill(names.aggregate_type, event.aggregate_type);
        fill(names.aggregate_id, event.aggregate_id);
        fill(names.event_type, event.event_type);
        fill(names.payload, event.payload);
        if self.has_headers {
            fill(names.headers, event.headers);
        }
        if let (TraceHome::Column, Some(name)) = (self.trace_home, names.trace) {
            fill(name, event.trace);
        }
        let created_at = names.created_at.and_then(find);
        let now = created_at.and_then(|column| match column.type_id {
            TIMESTAMPTZ => Some("now()"),
            TIMESTAMP => Some("now() at time zone 'utc'"),
            _ => None,
        });
        values.extend(created_at.zip(now).map(|(column, now)| (column.name.clone(), now.to_owned())));
        values
    }

    /// The expression that gives an event's stored payload, to be measured.
    fn stored(&self, name: &str, text: &str) -> String {
        let column = self.columns.iter().find(|column| column.name == name);
        match column {
            Some(column) if column.type_id == JSONB => format!("octet_length(({text})::jsonb::text)"),
            _ => format!("octet_length({text})"),
        }
    }

    /// An insert of an event per row of `from`.
    pub(super) fn insert(&self, event: &Event, from: &str) -> String {
        let (columns, values): (Vec<_>, Vec<_>) =
            self.values(event).into_iter().map(|(column, value)| (escape_identifier(&column), value)).unzip();
        format!("insert into {} ({}) select {} from {from}", self.name, columns.join(", "), values.join(", "))
    }

    /// The statement that writes events: arrays of ids, aggregate types, aggregate ids, types,
    /// payloads, headers; the trace; whether ids may be known. It gives what keeps it from writing, as
    /// (`known`, id) and (`large`, place from 0), and then writes nothing.
    pub(super) fn write_events(&self) -> String {
        let names = self.preset.columns();
        let id_type = self.columns.iter().find(|column| column.name == names.id);
        let ids = match id_type.map(|column| column.type_id) {
            Some(UUID) => "$1::text[]::uuid[]",
            _ => "$1::text[]",
        };
        format!(
            "with input as materialized (
                 select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
                     with ordinality as input(id, aggregate_type, aggregate_id, event_type, payload, headers, place)
             ), known as materialized (
                 select known.{id}::text as id from {table} known where $8::boolean and known.{id} = any({ids})
             ), large as materialized (
                 select (place - 1)::text as place from input
                  where coalesce({payload}, 0) + coalesce({headers}, 0) > {EVENT_BYTES_MAX}
             ), written as (
                 {insert} where not exists (select from known) and not exists (select from large)
                  order by input.place
             )
             select 'known', id from known union all select 'large', place from large",
            id = escape_identifier(names.id),
            table = self.name,
            payload = self.stored(names.payload, "payload"),
            headers = self.stored(names.headers, "headers"),
            insert = self.insert(&OF_INPUT, "input"),
        )
    }
}

/// Most bytes of an event's payload and headers as they are stored. A topic takes 1,048,588 bytes
/// unless it is told otherwise; a larger record would stop the relay, so it is refused at the door.
pub(super) const EVENT_BYTES_MAX: u32 = 1_000_000;

/// An event of the request.
const OF_INPUT: Event = Event {
    id: "input.id",
    aggregate_type: "input.aggregate_type",
    aggregate_id: "input.aggregate_id",
    event_type: "input.event_type",
    payload: "input.payload",
    headers: "input.headers",
    trace: "$7::text",
};

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, type_id: u32) -> Column {
        Column { name: name.to_owned(), type_id, must_be_given: false }
    }

    fn table(preset: Preset, columns: Vec<Column>) -> Result<OutboxTable, String> {
        OutboxTable::new(&TableName { schema: "app".into(), name: "out\"box".into() }, preset, columns)
    }

    fn debezium() -> Vec<Column> {
        [
            ("id", UUID),
            ("aggregatetype", VARCHAR),
            ("aggregateid", VARCHAR),
            ("type", VARCHAR),
            ("payload", JSONB),
        ]
        .map(|(name, type_id)| column(name, type_id))
        .into()
    }

    #[test]
    fn the_trace_goes_where_the_table_has_a_place_for_it() {
        let (trace, headers) = (column("tracingspancontext", VARCHAR), column("headers", JSON));
        for (more, home, has_headers) in [
            (vec![trace.clone(), headers.clone()], TraceHome::Column, true),
            (vec![trace], TraceHome::Column, false),
            (vec![headers], TraceHome::Headers, true),
            (vec![column("headers", TEXT), column("tracingspancontext", BYTEA)], TraceHome::Nowhere, false),
            (vec![], TraceHome::Nowhere, false),
        ] {
            let table = table(Preset::Debezium, [debezium(), more].concat()).unwrap();
            assert_eq!((table.trace_home, table.has_headers), (home, has_headers));
        }
    }

    #[test]
    fn names_are_quoted_and_values_take_the_type_of_their_column() {
        let mut columns = debezium();
        columns[0].type_id = TEXT;
        columns[4].type_id = BYTEA;
        let sql = table(Preset::Debezium, columns).unwrap().write_events();
        assert!(sql.contains(r#"insert into "app"."out""box" ("id", "aggregatetype", "#), "{sql}");
        assert!(sql.contains("convert_to(input.payload, 'UTF8')"), "{sql}");
        assert!(sql.contains("= any($1::text[])"), "{sql}");
    }

    #[test]
    fn a_table_that_cannot_be_written_is_said_why() {
        let mut lacking = debezium();
        lacking.remove(2);
        let mut odd = debezium();
        odd[0].type_id = 23;
        let must = Column { must_be_given: true, ..column("tenant", 23) };
        for (columns, why) in [
            (lacking, "has no column aggregateid"),
            (odd, "column id of table app"),
            ([debezium(), vec![must]].concat(), "column tenant of table app"),
        ] {
            let error = table(Preset::Debezium, columns).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_ancestors_table_gets_its_time_and_the_trace_in_its_metadata() {
        let columns = [
            ("id", UUID),
            ("aggregate_type", TEXT),
            ("aggregate_id", TEXT),
            ("event_type", TEXT),
            ("event_data", JSON),
            ("event_metadata", JSONB),
            ("created_at", TIMESTAMP),
        ]
        .map(|(name, type_id)| Column { must_be_given: true, ..column(name, type_id) });
        let table = table(Preset::Txstream, columns.into()).unwrap();
        assert_eq!(table.trace_home, TraceHome::Headers);
        let sql = table.write_events();
        assert!(sql.contains(r#""event_metadata", "created_at") select"#), "{sql}");
        assert!(sql.contains("now() at time zone 'utc' from input"), "{sql}");
    }
}

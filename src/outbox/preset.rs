//! The known kinds of outbox tables: which columns they have and how a record is made of them.

use std::fmt;
use std::str::FromStr;

use super::Settings;

/// Column mapping and record shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preset {
    /// Debezium's outbox event router.
    #[default]
    Debezium,
    /// The polling ancestor's table and envelope.
    Txstream,
}

/// The name is not a preset's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a preset; known are debezium and txstream")]
pub struct PresetError(String);

/// A preset's columns, by their meaning.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// The event's id.
    pub id: &'static str,
    /// What the event is about.
    pub aggregate_type: &'static str,
    /// Which one of them; the Kafka key.
    pub aggregate_id: &'static str,
    /// What happened.
    pub event_type: &'static str,
    /// The event itself.
    pub payload: &'static str,
    /// A JSON object of what goes along, where the table has it.
    pub headers: &'static str,
    /// The trace context, where the preset has a column for it.
    pub trace: Option<&'static str>,
    /// The time of the event, where the preset reads it.
    pub created_at: Option<&'static str>,
}

impl Preset {
    /// The columns without which no record can be made.
    pub fn required_columns(self) -> &'static [&'static str] {
        match self {
            Self::Debezium => &["id", "aggregatetype", "aggregateid", "type", "payload"],
            Self::Txstream => {
                &["id", "aggregate_type", "aggregate_id", "event_type", "event_data", "created_at"]
            }
        }
    }

    /// The columns that are used where the table has them.
    pub fn optional_columns(self) -> &'static [&'static str] {
        match self {
            Self::Debezium => &["headers", "tracingspancontext"],
            Self::Txstream => &["event_metadata"],
        }
    }

    /// The column that says when a row was written, in tables made for this preset.
    pub fn time_column(self) -> &'static str {
        match self {
            Self::Debezium => "timestamp",
            Self::Txstream => "created_at",
        }
    }

    /// The column without which a record has no value; `None` where a record always has one.
    pub fn value_column(self) -> Option<&'static str> {
        match self {
            Self::Debezium => Some("payload"),
            Self::Txstream => None,
        }
    }

    /// The topic of all events unless another one is set; `None` routes by aggregate type.
    pub fn default_topic(self) -> Option<&'static str> {
        match self {
            Self::Debezium => None,
            Self::Txstream => Some("txstream.events"),
        }
    }

    /// The name that `OUTBOX_PRESET` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debezium => "debezium",
            Self::Txstream => "txstream",
        }
    }

    /// The names of its columns.
    pub fn columns(self) -> Columns {
        match self {
            Self::Debezium => Columns {
                id: "id",
                aggregate_type: "aggregatetype",
                aggregate_id: "aggregateid",
                event_type: "type",
                payload: "payload",
                headers: "headers",
                trace: Some("tracingspancontext"),
                created_at: None,
            },
            Self::Txstream => Columns {
                id: "id",
                aggregate_type: "aggregate_type",
                aggregate_id: "aggregate_id",
                event_type: "event_type",
                payload: "event_data",
                headers: "event_metadata",
                trace: None,
                created_at: Some("created_at"),
            },
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = PresetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Debezium, Self::Txstream]
            .into_iter()
            .find(|preset| preset.name() == text)
            .ok_or_else(|| PresetError(text.to_owned()))
    }
}

impl Settings {
    /// The columns that a table needs and does not have, each with who needs it, as people read it:
    /// `aggregateid (preset debezium)`.
    pub fn missing_columns(&self, present: &[&str]) -> Vec<String> {
        self.missing(present).map(|(column, who, name)| format!("{column} ({who}{name})")).collect()
    }

    /// The names of the columns that a table needs and does not have.
    pub fn missing_column_names(&self, present: &[&str]) -> Vec<&str> {
        self.missing(present).map(|(column, ..)| column).collect()
    }

    /// Column, who needs it, and that one's name.
    fn missing<'a>(
        &'a self,
        present: &[&str],
    ) -> impl Iterator<Item = (&'a str, &'static str, &'static str)> {
        let preset =
            self.preset.required_columns().iter().map(|column| (*column, "preset ", self.preset.name()));
        let placed = self.placement.iter().map(|placed| (placed.column.as_str(), "OUTBOX_PLACEMENT", ""));
        preset.chain(placed).filter(|(column, ..)| !present.contains(column))
    }

    /// Whether a column is read: by the preset or by a placement.
    pub fn reads_column(&self, column: &str) -> bool {
        self.preset.required_columns().contains(&column)
            || self.preset.optional_columns().contains(&column)
            || self.placement.iter().any(|placed| placed.column == column)
    }
}

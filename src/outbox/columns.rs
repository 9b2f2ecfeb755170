//! Which columns of a table a preset reads.

use super::{Preset, Settings};

impl Preset {
    /// Columns that a table must have.
    pub fn required_columns(self) -> &'static [&'static str] {
        match self {
            Self::Debezium => &["id", "aggregatetype", "aggregateid", "type", "payload"],
            Self::Txstream => {
                &["id", "aggregate_id", "aggregate_type", "event_type", "event_data", "event_metadata"]
            }
        }
    }

    /// Columns that are used where a table has them.
    pub fn optional_columns(self) -> &'static [&'static str] {
        match self {
            Self::Debezium => &["headers", "tracingspancontext"],
            Self::Txstream => &["created_at"],
        }
    }
}

impl Settings {
    /// Columns that every outbox table must have: the preset's and those of the placements.
    pub fn required_columns(&self) -> Vec<&str> {
        let placed = self.placement.iter().map(|placement| placement.column.as_str());
        self.preset.required_columns().iter().copied().chain(placed).collect()
    }

    /// Columns that go into a record where a table has them: those that must be published.
    pub fn mapped_columns(&self) -> Vec<&str> {
        let mut columns = self.required_columns();
        columns.extend(self.preset.optional_columns());
        columns
    }
}

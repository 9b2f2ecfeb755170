//! Which columns of a table a preset reads.

use super::Settings;

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

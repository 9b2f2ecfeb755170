//! The outbox tables: there, replicated at all, and with the columns that the preset reads.

use super::server::Server;
use super::{Checked, Finding};
use crate::postgres::publication::TableKind;
use crate::relay::slot_life::add_columns;

pub(super) const NAME: &str = "outbox_table";

pub(super) fn check(server: &Server<'_>) -> Checked {
    let outbox = &server.subject.outbox;
    let judged = server.tables.iter().map(|(name, table)| {
        let Some(table) = table else {
            return Finding::fail(NAME, format!("outbox table {name} does not exist"))
                .mended_by("txstream migrate up");
        };
        if table.kind == TableKind::NotReplicated {
            return Finding::fail(
                NAME,
                format!("{name} is a view, a temporary or an unlogged table: its rows are never replicated"),
            )
            .mended_by("set OUTBOX_TABLE to an ordinary or partitioned table");
        }
        let missing = outbox.missing_columns(&table.column_names());
        if missing.is_empty() {
            return Finding::ok(NAME, format!("{name} has what preset {} reads", outbox.preset));
        }
        Finding::fail(NAME, format!("{name} has no column {}", missing.join(", ")))
            .mended_by(add_columns(&table.quoted(), &outbox.missing_column_names(&table.column_names())))
    });
    Ok(judged.collect())
}

//! The publication: there, and every outbox table in it, whole.

use super::server::Server;
use super::{Checked, Finding};

pub(super) const NAME: &str = "publication";

pub(super) fn check(server: &Server<'_>) -> Checked {
    let name = &server.subject.publication;
    let Some(found) = &server.publication else {
        return Ok(vec![
            Finding::fail(NAME, format!("publication {name} does not exist"))
                .mended_by("txstream migrate up"),
        ]);
    };
    let outbox = &server.subject.outbox;
    let mut findings = Vec::new();
    for (table_name, table) in server.existing() {
        for gap in table.gaps(found, |column| outbox.reads_column(column)) {
            findings.push(
                Finding::fail(NAME, format!("publication {name} does not cover {table_name}: {gap}"))
                    .mended_by(gap.sql(name, table)),
            );
        }
    }
    if findings.is_empty() {
        findings
            .push(Finding::ok(NAME, format!("publication {name} brings every row of every outbox table")));
    }
    Ok(findings)
}

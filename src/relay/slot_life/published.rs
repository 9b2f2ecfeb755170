//! Publication before slot: it must exist and bring every row of every outbox table, whole.

use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Client;

use super::SlotError;
use crate::outbox;
use crate::postgres::publication::{self, TableKind};

/// Checks that the publication exists and brings every row of every outbox table, whole.
///
/// # Errors
/// [`SlotError`] naming the first thing that is missing.
pub async fn ensure_published(
    client: &Client,
    publication: &str,
    outbox: &outbox::Settings,
) -> Result<(), SlotError> {
    let Some(found) = publication::publication(client, publication).await? else {
        return Err(SlotError::NoPublication(publication.to_owned()));
    };
    for name in &outbox.tables {
        let table = publication::table(client, &name.schema, &name.name, publication).await?;
        let table = table.ok_or_else(|| SlotError::NoTable(name.to_string()))?;
        if table.kind == TableKind::NotReplicated {
            return Err(SlotError::NotReplicated(name.to_string()));
        }
        let columns = outbox.missing_columns(&table.column_names());
        if !columns.is_empty() {
            let names = outbox.missing_column_names(&table.column_names());
            let sql = add_columns(&table.quoted(), &names);
            return Err(SlotError::NoColumns { table: name.to_string(), columns, sql });
        }
        if let Some(gap) = table.gaps(&found, |column| outbox.reads_column(column)).into_iter().next() {
            let sql = gap.sql(publication, &table);
            let publication = publication.to_owned();
            return Err(SlotError::Gap { publication, table: name.to_string(), gap, sql });
        }
    }
    Ok(())
}

/// The SQL that adds columns to a table.
pub(crate) fn add_columns(table: &str, columns: &[&str]) -> String {
    let add = |column: &&str| format!("ADD COLUMN {} text", escape_identifier(column));
    format!("ALTER TABLE {table} {};", columns.iter().map(add).collect::<Vec<_>>().join(", "))
}

//! What several checks need to know of the server, read once.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::Subject;
use crate::outbox::TableName;
use crate::postgres::publication::{self, Publication, Table};
use crate::postgres::slot::{self, SlotView};
use crate::postgres::{PgError, sql};

/// PostgreSQL 17, which brought failover slots.
pub(super) const FAILOVER_SLOTS: i32 = 170_000;

/// The server as it was at the start.
pub(super) struct Server<'a> {
    pub(super) client: &'a Client,
    pub(super) subject: &'a Subject,
    /// As `server_version_num`.
    pub(super) version: i32,
    pub(super) in_recovery: bool,
    pub(super) role: String,
    pub(super) database: String,
    pub(super) system_identifier: String,
    pub(super) slot: Option<SlotView>,
    pub(super) publication: Option<Publication>,
    /// Every outbox table, in the order of the setting; none that do not exist.
    pub(super) tables: Vec<(&'a TableName, Option<Table>)>,
}

impl<'a> Server<'a> {
    pub(super) async fn look(client: &'a sql::SqlConn, subject: &'a Subject) -> Result<Self, PgError> {
        const DOING: &str = "look at the server";
        let failed = |source| PgError::statement(DOING, source);
        let row = client
            .query_typed_one(
                "select current_setting('server_version_num')::int4, pg_catalog.pg_is_in_recovery(), current_user::text,
                        current_database()::text,
                        (select system_identifier::text from pg_catalog.pg_control_system())
",
                &[],
            )
            .await
            .map_err(failed)?;
        let mut tables = Vec::new();
        for name in &subject.outbox.tables {
            let table = publication::table(&**client, &name.schema, &name.name, &subject.publication).await?;
            tables.push((name, table));
        }
        Ok(Self {
            client,
            subject,
            version: row.try_get(0).map_err(failed)?,
            in_recovery: row.try_get(1).map_err(failed)?,
            role: row.try_get(2).map_err(failed)?,
            database: row.try_get(3).map_err(failed)?,
            system_identifier: row.try_get(4).map_err(failed)?,
            slot: slot::view(&**client, &subject.slot).await?,
            publication: publication::publication(&**client, &subject.publication).await?,
            tables,
        })
    }

    /// The rows of a query.
    pub(super) async fn rows(
        &self,
        doing: &str,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, PgError> {
        self.client.query_typed(sql, params).await.map_err(|source| PgError::statement(doing, source))
    }

    /// The first column of the only row of a query.
    pub(super) async fn value<T: tokio_postgres::types::FromSqlOwned>(
        &self,
        doing: &str,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<T, PgError> {
        let row = self.client.query_typed_one(sql, params).await;
        row.and_then(|row| row.try_get(0)).map_err(|source| PgError::statement(doing, source))
    }

    /// A server setting as the server shows it; none where this version lacks it.
    pub(super) async fn setting(&self, name: &str) -> Result<Option<String>, PgError> {
        let sql = "select current_setting($1, true)";
        self.value(&format!("read {name}"), sql, &[(&name, Type::TEXT)]).await
    }

    /// A server setting that is a number, in the unit of `pg_settings`.
    pub(super) async fn number(&self, name: &str) -> Result<Option<i64>, PgError> {
        let sql = "select max(setting)::int8 from pg_catalog.pg_settings where name = $1";
        self.value(&format!("read {name}"), sql, &[(&name, Type::TEXT)]).await
    }

    /// The outbox tables that exist.
    pub(super) fn existing(&self) -> impl Iterator<Item = (&'a TableName, &Table)> {
        self.tables.iter().filter_map(|(name, table)| Some((*name, table.as_ref()?)))
    }
}

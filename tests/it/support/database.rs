//! A database of one's own.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::types::FromSqlOwned;
use tokio_postgres::{Client, Config, NoTls, Row};

use super::postgres::Postgres;

/// A fresh database, dropped with its slots when the value is, unless the server goes anyway.
pub(crate) struct Database {
    name: String,
    port: u16,
    socket_dir: String,
    shared: bool,
}

impl Database {
    pub(super) async fn create(postgres: &Postgres) -> Self {
        let database = Self::named(super::unique("db"), postgres);
        let create = format!("CREATE DATABASE {}", database.name);
        database.connect_to("postgres").await.unwrap().batch_execute(&create).await.unwrap();
        database
    }

    fn named(name: String, postgres: &Postgres) -> Self {
        Self {
            name,
            port: postgres.port(),
            socket_dir: postgres.socket_dir().to_str().unwrap().to_owned(),
            shared: postgres.is_shared(),
        }
    }

    /// The database of the same name on another server: a standby of ours.
    pub(crate) fn on(&self, postgres: &Postgres) -> Self {
        Self::named(self.name.clone(), postgres)
    }

    /// A connection to the server's own database.
    pub(super) async fn maintenance(postgres: &Postgres) -> Client {
        Self::named("postgres".to_owned(), postgres).client().await
    }

    /// The database's name. Slots belong to the whole server, so this is also a good slot name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A libpq URI over TCP, with user and password.
    pub(crate) fn url(&self) -> String {
        self.url_through(self.port)
    }

    /// The same through another port of 127.0.0.1, that of a proxy.
    pub(crate) fn url_through(&self, port: u16) -> String {
        format!("postgresql://postgres:postgres@127.0.0.1:{port}/{}", self.name)
    }

    /// A libpq URI over the Unix socket.
    pub(crate) fn socket_url(&self) -> String {
        let Self { name, port, socket_dir, .. } = self;
        format!("postgresql:///{name}?host={socket_dir}&port={port}&user=postgres")
    }

    /// A new connection, over the Unix socket.
    pub(crate) async fn client(&self) -> Client {
        self.connect_to(&self.name).await.expect("connecting to the test database")
    }

    /// The same where the database may not be there yet.
    pub(crate) async fn try_client(&self) -> Result<Client, tokio_postgres::Error> {
        self.connect_to(&self.name).await
    }

    /// Runs statements on a connection of their own.
    pub(crate) async fn exec(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.unwrap_or_else(|err| panic!("{sql}: {err:?}"));
    }

    /// Runs a query on a connection of its own.
    pub(crate) async fn query(&self, sql: &str) -> Vec<Row> {
        self.client().await.query(sql, &[]).await.unwrap_or_else(|err| panic!("{sql}: {err:?}"))
    }

    /// The first column of the only row of a query.
    pub(crate) async fn value<T: FromSqlOwned>(&self, sql: &str) -> T {
        let rows = self.query(sql).await;
        assert_eq!(rows.len(), 1, "rows of {sql}");
        rows[0].get(0)
    }

    async fn connect_to(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = Config::new()
            .host_path(&self.socket_dir)
            .port(self.port)
            .user("postgres")
            .dbname(database)
            .connect(NoTls)
            .await?;
        // Its end is seen by whoever uses the client.
        tokio::spawn(connection);
        Ok(client)
    }

    /// Frees what a shared server has few of. Errors are ignored: the server may be gone.
    async fn discard(&self) -> Result<(), tokio_postgres::Error> {
        let name = &self.name;
        let client = self.connect_to("postgres").await?;
        client
            .batch_execute(&format!(
                "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots
                     WHERE database = '{name}' AND active;
                 SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{name}'"
            ))
            .await?;
        client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if !self.shared {
            return;
        }
        // A drop cannot await, and the test's runtime may be ending: this one has its own.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let _ = runtime.block_on(async { timeout(Duration::from_secs(10), self.discard()).await });
            });
        });
    }
}

//! A real Postgres that tests may stop, crash and freeze.

use std::path::Path;

use tokio::sync::OnceCell;

use super::database::Database;
use super::server::Server;

/// How a server is told to stop, in the words of `pg_ctl`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shutdown {
    /// Ends sessions, waits for walsenders to deliver what they have, writes a checkpoint.
    Fast,
    /// A crash: the next start recovers from WAL.
    Immediate,
}

/// A running server with `wal_level=logical`, 32 slots and walsenders, and durability off.
pub(crate) struct Postgres {
    server: Server,
    shared: bool,
}

impl Postgres {
    /// The server that all tests of this process use who do not stop or configure it.
    ///
    /// Its major version is that of the environment variable `POSTGRES_VERSION`, else the newest.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(|| async { Self { shared: true, ..Self::run(None, &[], &[]).await } }).await
    }

    /// A server of one's own, of major version 14 to 18, with settings of `postgresql.conf`.
    pub(crate) async fn start(version: u32, settings: &[(&str, &str)]) -> Self {
        Self::run(Some(version), settings, &[]).await
    }

    /// Like [`Postgres::start`], with TLS switched on: see [`Postgres::root_cert`].
    pub(crate) async fn start_with_tls(version: u32, settings: &[(&str, &str)]) -> Self {
        Self::run(Some(version), settings, &["--tls"]).await
    }

    /// A standby of this server, which is stopped and started for it: streams through the physical slot
    /// `standby`.
    pub(crate) async fn standby(&self) -> Self {
        let client = Database::maintenance(self).await;
        client.batch_execute("select pg_create_physical_replication_slot('standby')").await.unwrap();
        self.stop(Shutdown::Fast).await;
        let primary = self.server.dir().to_str().unwrap().to_owned();
        let server = Server::run("postgres", vec!["--standby-of".to_owned(), primary]).await;
        self.start_again().await;
        Self { server, shared: false }
    }

    /// Makes a standby sync failover slots (17 and later). Once they are there: the worker that syncs them
    /// rests for half a minute when it found none.
    pub(crate) async fn sync_slots(&self) {
        let client = Database::maintenance(self).await;
        client.batch_execute("alter system set sync_replication_slots = on").await.unwrap();
        client.batch_execute("select pg_reload_conf()").await.unwrap();
    }

    /// Makes a standby a primary.
    pub(crate) async fn promote(&self) {
        let client = Database::maintenance(self).await;
        let row = client.query_one("select pg_promote()", &[]).await.unwrap();
        assert!(row.get::<_, bool>(0), "the standby was not promoted in time");
    }

    /// The major version tests run against where they do not care.
    pub(crate) fn default_version() -> u32 {
        std::env::var("POSTGRES_VERSION").map_or(18, |version| {
            version.parse().expect("POSTGRES_VERSION is a major version of Postgres, 14 to 18")
        })
    }

    async fn run(version: Option<u32>, settings: &[(&str, &str)], flags: &[&str]) -> Self {
        let version = version.unwrap_or_else(Self::default_version);
        let mut options = vec!["--version".to_owned(), version.to_string()];
        options.extend(flags.iter().map(|&flag| flag.to_owned()));
        for (name, value) in settings {
            options.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        Self { server: Server::run("postgres", options).await, shared: false }
    }

    /// Major version.
    pub(crate) fn version(&self) -> u32 {
        self.server.fact("version").parse().unwrap()
    }

    /// TCP port on 127.0.0.1; the same after a restart. Passwords are asked for, with SCRAM.
    pub(crate) fn port(&self) -> u16 {
        self.server.fact("port").parse().unwrap()
    }

    /// The directory of its Unix socket, which trusts everyone.
    pub(crate) fn socket_dir(&self) -> &Path {
        self.server.dir()
    }

    /// The certificate that signed the server's, of a server started with TLS. The server's own is
    /// for `localhost` and 127.0.0.1.
    pub(crate) fn root_cert(&self) -> &Path {
        Path::new(self.server.fact("root_cert"))
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        self.server.log()
    }

    /// Whether other tests use this server too.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// A new, empty database.
    pub(crate) async fn database(&self) -> Database {
        Database::create(self).await
    }

    /// Stops the server and returns when it is gone. A fast shutdown waits for walsenders: give
    /// this a timeout where that is what is tested.
    pub(crate) async fn stop(&self, shutdown: Shutdown) {
        self.assert_own();
        let mode = match shutdown {
            Shutdown::Fast => "fast",
            Shutdown::Immediate => "immediate",
        };
        self.server.order("stop", &[mode]).await;
    }

    /// Starts the stopped server again on the same data and port.
    pub(crate) async fn start_again(&self) {
        self.server.order("start", &[]).await;
    }

    /// Stops and starts again.
    pub(crate) async fn restart(&self, shutdown: Shutdown) {
        self.stop(shutdown).await;
        self.start_again().await;
    }

    /// Stops every process of the server where it is: connections stay open and say nothing.
    pub(crate) async fn freeze(&self) {
        self.assert_own();
        self.server.order("freeze", &[]).await;
    }

    /// Undoes [`Postgres::freeze`].
    pub(crate) async fn thaw(&self) {
        self.server.order("thaw", &[]).await;
    }

    fn assert_own(&self) {
        assert!(!self.shared, "other tests use the shared server: start one of your own");
    }
}

//! A migrated database with a relay's settings, and what every halt has in common.

use std::process::Output as ProcessOutput;

use super::database::Database;
use super::http;
use super::kafka::Kafka;
use super::postgres::Postgres;
use super::relay::{Exit, Output, Relay, run_cli};
use super::topic::Topic;
use super::wait::{SOON, eventually};

/// An outbox on a server, published to the shared Kafka. Its slot is named like its database.
pub(crate) struct Outbox {
    pub(crate) database: Database,
    pub(crate) kafka: &'static Kafka,
}

/// A relay that halted: exit code 1, and the last line of its log and its last words agree.
#[derive(Debug)]
pub(crate) struct Halted {
    /// What happened.
    pub(crate) what: String,
    /// What to do.
    pub(crate) remedy: String,
    /// Whether `/readyz` was 200 in between.
    pub(crate) was_ready: bool,
    pub(crate) stderr: String,
}

impl Outbox {
    /// A database of the shared server, without tables.
    pub(crate) async fn bare() -> Self {
        Self::bare_on(Postgres::shared().await).await
    }

    /// A database of that server, without tables.
    pub(crate) async fn bare_on(postgres: &Postgres) -> Self {
        Self { database: postgres.database().await, kafka: Kafka::shared().await }
    }

    /// With tables and publication, without slot.
    pub(crate) async fn migrated() -> Self {
        Self::migrated_on(Postgres::shared().await).await
    }

    /// The same on that server.
    pub(crate) async fn migrated_on(postgres: &Postgres) -> Self {
        let outbox = Self::bare_on(postgres).await;
        outbox.done(&["migrate", "up"]).await;
        outbox
    }

    /// Ready for a relay.
    pub(crate) async fn with_slot() -> Self {
        Self::with_slot_on(Postgres::shared().await).await
    }

    /// The same on that server.
    pub(crate) async fn with_slot_on(postgres: &Postgres) -> Self {
        let outbox = Self::migrated_on(postgres).await;
        // Other tests' transactions on the shared server are waited for.
        outbox.done(&["slot", "create", "--lock-timeout", "30s"]).await;
        outbox
    }

    /// The slot's name.
    pub(crate) fn slot(&self) -> &str {
        self.database.name()
    }

    /// `txstream <args>` with this outbox's settings.
    pub(crate) async fn cli(&self, args: &[&str]) -> Output {
        let url = self.database.url();
        run_cli(args, &[("DATABASE_URL", &url), ("REPLICATION_SLOT", self.slot())]).await
    }

    /// The same, and it must succeed.
    pub(crate) async fn done(&self, args: &[&str]) -> Output {
        let output = self.cli(args).await;
        assert_eq!(output.code, Some(0), "txstream {}: {}", args.join(" "), output.stderr);
        output
    }

    /// The same with the broker: a command that publishes.
    pub(crate) async fn repair(&self, args: &[&str]) -> Output {
        let output = self.publishing(args, &[]).await;
        assert_eq!(output.code, Some(0), "txstream {}: {}", args.join(" "), output.stderr);
        output
    }

    /// The same with more settings, and however it ends.
    pub(crate) async fn publishing(&self, args: &[&str], env: &[(&str, &str)]) -> Output {
        let url = self.database.url();
        let mut all = vec![
            ("DATABASE_URL", url.as_str()),
            ("REPLICATION_SLOT", self.slot()),
            ("KAFKA_BROKERS", self.kafka.bootstrap()),
        ];
        all.extend_from_slice(env);
        run_cli(args, &all).await
    }

    /// Starts a relay; it need not become ready.
    pub(crate) async fn relay(&self, args: &[&str], env: &[(&str, &str)]) -> Relay {
        Relay::start(&self.database, self.kafka.bootstrap(), args, env).await
    }

    /// Starts a relay that must halt before it is ever ready.
    pub(crate) async fn halts(&self, args: &[&str], env: &[(&str, &str)]) -> Halted {
        let halted = halted(self.relay(args, env).await).await;
        assert!(!halted.was_ready, "it was ready: {halted:?}");
        halted
    }

    /// Starts a relay that must become ready and publish an event, and stops it.
    pub(crate) async fn streams(&self, args: &[&str], env: &[(&str, &str)]) {
        let relay = self.streaming(args, env).await;
        relay.sigterm().await;
        let exit = relay.wait_exit(SOON).await;
        assert_eq!(exit.status.code(), Some(0), "{}", exit.stderr);
    }

    /// The same, left running.
    pub(crate) async fn streaming(&self, args: &[&str], env: &[(&str, &str)]) -> Relay {
        let mut relay = self.relay(args, env).await;
        relay.wait_ready().await;
        self.insert("ready", "1", "{}").await;
        published(&relay, 1).await;
        relay
    }

    /// Commits an event of that aggregate.
    pub(crate) async fn insert(&self, aggregatetype: &str, aggregateid: &str, payload: &str) {
        self.database
            .exec(&format!(
                "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
                     VALUES ('{aggregatetype}', '{aggregateid}', 'Tested', '{payload}')"
            ))
            .await;
    }

    /// The topic of an aggregate type.
    pub(crate) fn topic(&self, aggregatetype: &str) -> Topic {
        self.kafka.topic(&format!("outbox.event.{aggregatetype}"))
    }

    /// How many slots of its name there are, of whatever kind.
    pub(crate) async fn slots(&self) -> i64 {
        let slot = self.slot();
        self.database
            .value(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}'"))
            .await
    }

    /// Drops the slot past the relay, which has to let go of it.
    pub(crate) async fn drop_slot_behind_its_back(&self) {
        let slot = self.slot();
        let client = self.database.client().await;
        eventually(SOON, "the slot is dropped", async || {
            client
                .batch_execute(&format!(
                    "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots
                         WHERE slot_name = '{slot}' AND active;
                     SELECT pg_drop_replication_slot('{slot}')"
                ))
                .await
                .ok()
        })
        .await;
    }

    /// Runs `sql/roles.sql` as a superuser.
    pub(crate) async fn roles(&self, names: &[(&str, &str)]) {
        self.sql_file("roles.sql", names).await;
    }

    /// Runs a file of `sql/` as a superuser; names are variables of psql. Gives what it printed.
    ///
    /// # Panics
    /// If a statement fails.
    pub(crate) async fn sql_file(&self, file: &str, variables: &[(&str, &str)]) -> String {
        let mut args = vec![format!("--file={}/sql/{file}", env!("CARGO_MANIFEST_DIR"))];
        args.extend(variables.iter().map(|(name, value)| format!("--set={name}={value}")));
        let (done, said) = self.psql(&args).await;
        assert!(done, "{file}: {said}");
        said
    }

    /// Runs psql as a superuser: whether all went well, and what it printed.
    pub(crate) async fn psql(&self, args: &[impl AsRef<std::ffi::OsStr>]) -> (bool, String) {
        let mut command = tokio::process::Command::new("psql");
        command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]).args(args);
        let ProcessOutput { status, stdout, stderr } =
            command.arg(self.database.url()).output().await.unwrap();
        let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (status.success(), said)
    }

    /// Waits until the slot has confirmed all that is written by now.
    pub(crate) async fn confirmed(&self) {
        let now: String = self.database.value("SELECT pg_current_wal_insert_lsn()::text").await;
        let client = self.database.client().await;
        let sql = format!(
            "SELECT confirmed_flush_lsn >= '{now}' FROM pg_replication_slots WHERE slot_name = '{}'",
            self.slot()
        );
        eventually(SOON * 2, format!("the slot has confirmed {now}"), async || {
            client.query_one(&sql, &[]).await.ok()?.get::<_, bool>(0).then_some(())
        })
        .await;
    }
}

/// Waits until the relay has counted so many acknowledged events.
pub(crate) async fn published(relay: &Relay, count: u32) {
    eventually(SOON, format!("{count} events are published"), async || {
        let metrics = relay.metrics().await;
        let published = metrics.get("txstream_events_published_total", &[]).unwrap_or(0.0);
        (published >= f64::from(count)).then_some(())
    })
    .await;
}

/// Waits for the end of a relay that halts.
///
/// # Panics
/// If it ends otherwise, or its last words are not what happened and what to do.
pub(crate) async fn halted(mut relay: Relay) -> Halted {
    let admin = relay.admin();
    let mut was_ready = false;
    eventually(SOON, "the relay halts", async || {
        if !relay.is_running() {
            return Some(());
        }
        was_ready |= http::get(admin, "/readyz").await.is_ok_and(|response| response.status == 200);
        None
    })
    .await;
    let Exit { status, stderr } = relay.wait_exit(SOON).await;
    assert_eq!(status.code(), Some(1), "{stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    let [.., logged, what, remedy] = lines[..] else { panic!("too few lines: {stderr}") };
    let (Some(what), Some(remedy)) = (what.strip_prefix("error: "), remedy.strip_prefix("what to do: "))
    else {
        panic!("the last words are not what happened and what to do: {stderr}");
    };
    let logged: serde_json::Value = serde_json::from_str(logged).expect("the last log line is JSON");
    assert_eq!(logged["level"], "ERROR", "{stderr}");
    assert_eq!(logged["message"], what, "the log and the last words agree");
    assert_eq!(logged["remedy"], remedy, "the log and the last words agree");
    let errors = lines.iter().filter(|line| line.contains(r#""level":"ERROR""#)).count();
    assert_eq!(errors, 1, "it is said once: {stderr}");
    Halted { what: what.to_owned(), remedy: remedy.to_owned(), was_ready, stderr: stderr.clone() }
}

impl Halted {
    /// Asserts that the message names all of this.
    pub(crate) fn names(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.what.contains(part), "{part:?} is missing in {:?}", self.what);
        }
        self
    }

    /// Asserts that the remedy names this command, SQL or setting, and gives it back to be followed.
    pub(crate) fn advises<'a>(&self, command: &'a str) -> &'a str {
        assert!(self.remedy.contains(command), "{command:?} is missing in {:?}", self.remedy);
        command
    }
}

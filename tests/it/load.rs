//! What the tests of delivery and of faults write, and how they judge what arrived.
//!
//! The table is the truth: whatever is committed in it must be in the topic, nothing else may be,
//! and the first records of a key stand in the order in which its rows were committed.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_postgres::Client;

use crate::support::wait::SOON;
use crate::support::{Database, Kafka, Postgres, Record, Relay, Topic, eventually, run_cli, unique};

/// Long enough for everything that a fault holds up, retries and restarts of servers included.
pub(crate) const RECOVERY: Duration = Duration::from_secs(60);

/// A migrated database with a slot, and one kind of aggregate of its own.
pub(crate) struct Outbox {
    pub(crate) database: Database,
    /// What every row of [`Load`] has as `aggregatetype`.
    pub(crate) aggregate_type: String,
    /// The relay's own settings.
    settings: Vec<(String, String)>,
}

impl Outbox {
    /// Migrated, with a slot, as a user does it.
    pub(crate) async fn new(postgres: &Postgres) -> Self {
        Self::with(postgres.database().await, &[]).await
    }

    /// The same in a database where `OUTBOX_TABLE` may be there already, with settings of the relay.
    pub(crate) async fn with(database: Database, settings: &[(&str, &str)]) -> Self {
        let outbox = Self::without_slot(database, settings).await;
        outbox.command(&["slot", "create"]).await;
        outbox
    }

    /// The same before the slot is made.
    pub(crate) async fn without_slot(database: Database, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let outbox = Self { database, aggregate_type: unique("order"), settings: settings.collect() };
        outbox.command(&["migrate", "up"]).await;
        outbox
    }

    /// Runs a command that must succeed.
    pub(crate) async fn command(&self, args: &[&str]) -> String {
        let url = self.database.socket_url();
        let mut env = vec![("DATABASE_URL", url.as_str()), ("REPLICATION_SLOT", self.database.name())];
        env.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let output = run_cli(args, &env).await;
        assert_eq!(output.code, Some(0), "{args:?}: {}", output.stderr);
        output.stdout
    }

    /// A relay that streams; `env` wins over everything else.
    pub(crate) async fn relay(&self, brokers: &str, env: &[(&str, &str)]) -> Relay {
        let mut relay = self.start(brokers, env).await;
        relay.wait_ready().await;
        relay
    }

    /// A relay that was started; it need not be ready.
    pub(crate) async fn start(&self, brokers: &str, env: &[(&str, &str)]) -> Relay {
        let own = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut all = vec![("LOGGING_FORMAT", "text")];
        all.extend(own);
        all.extend_from_slice(env);
        Relay::start(&self.database, brokers, &[], &all).await
    }

    /// The topic of [`Outbox::aggregate_type`].
    pub(crate) fn topic_name(&self) -> String {
        format!("outbox.event.{}", self.aggregate_type)
    }

    /// Its reader.
    pub(crate) fn topic(&self, kafka: &Kafka) -> Topic {
        kafka.topic(&self.topic_name())
    }

    /// Inserts one row of a key; `n` is its place in the order of the key.
    pub(crate) async fn insert(&self, key: &str, n: u32) {
        insert(&self.database.client().await, &self.aggregate_type, key, n).await.unwrap();
    }

    /// Waits until the slot has confirmed all that is written by now.
    pub(crate) async fn confirmed(&self) {
        let slot = self.database.name();
        let now: String = self.database.value("select pg_current_wal_insert_lsn()::text").await;
        let client = self.database.client().await;
        let sql = format!(
            "select confirmed_flush_lsn >= '{now}' from pg_replication_slots where slot_name = '{slot}'"
        );
        eventually(RECOVERY, format!("the slot has confirmed {now}"), async || {
            client.query_one(&sql, &[]).await.ok()?.get::<_, bool>(0).then_some(())
        })
        .await;
    }

    /// The slot's walsender, if it has one.
    pub(crate) async fn walsender(&self) -> Option<i32> {
        let slot = self.database.name();
        self.database
            .value(&format!("select active_pid from pg_replication_slots where slot_name = '{slot}'"))
            .await
    }

    /// What the table holds, of [`Outbox::aggregate_type`].
    pub(crate) async fn rows(&self) -> Truth {
        let rows = self
            .database
            .query(&format!(
                "select id::text, aggregateid, payload::text from outbox where aggregatetype = '{}'",
                self.aggregate_type
            ))
            .await;
        Truth(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
    }

    /// Waits until every committed row is in the topic, and judges what is there.
    ///
    /// # Panics
    /// If a row is missing, a record is nobody's, a record differs from its row or from its
    /// duplicate, or the first records of a key are out of order.
    pub(crate) async fn all_arrive(&self, topic: &mut Topic) -> Arrived {
        let truth = self.all_there(topic).await;
        // A duplicate may come after the last missing row.
        self.confirmed().await;
        truth.judge(topic.read_to_end().await)
    }

    /// The same, not waiting for the slot to confirm them. Returns the rows.
    pub(crate) async fn all_there(&self, topic: &mut Topic) -> Truth {
        let truth = self.rows().await;
        let awaited = Awaited { rows: truth.0.len(), records: Cell::new(0), missing: RefCell::default() };
        let records = topic
            .read_until(RECOVERY, &awaited, |records| {
                awaited.records.set(records.len());
                if records.len() < awaited.rows {
                    return false;
                }
                *awaited.missing.borrow_mut() = truth.missing(records);
                awaited.missing.borrow().is_empty()
            })
            .await;
        truth.judge(records);
        truth
    }
}

/// Reads on until there are so many records more.
pub(crate) async fn more(topic: &mut Topic, count: usize) {
    let wanted = topic.records().len() + count;
    topic.read_until(RECOVERY, "more records", |records| records.len() >= wanted).await;
}

/// How long something lasts whose length is what is tested: so many seconds in an ordinary run, as many as
/// the environment variable says in the run of `make` that is for it.
pub(crate) fn seconds(variable: &str, usual: u64) -> Duration {
    let given = std::env::var(variable).ok();
    let given = given.map(|seconds| seconds.parse().unwrap_or_else(|_| panic!("{variable} is a number")));
    Duration::from_secs(given.unwrap_or(usual))
}

/// The unbroken time that a fault has to last, where its length is what is tested.
pub(crate) async fn lasts(duration: Duration, mut meanwhile: impl AsyncFnMut()) {
    let end = Instant::now() + duration;
    eventually(duration + SOON, "time passes", async || {
        meanwhile().await;
        (Instant::now() >= end).then_some(())
    })
    .await;
}

/// What was judged to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// Different ids.
    pub(crate) rows: usize,
    /// Records beyond the first of their id.
    pub(crate) duplicates: usize,
}

/// What is awaited, and what did not come.
struct Awaited {
    rows: usize,
    records: Cell<usize>,
    /// Key and payload; looked for once there are records enough.
    missing: RefCell<Vec<(String, String)>>,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.missing.borrow();
        let some = &missing[..missing.len().min(20)];
        write!(f, "all {} committed rows arrive; {} records came", self.rows, self.records.get())?;
        if some.is_empty() { Ok(()) } else { write!(f, ", none of {} rows: {some:?}", missing.len()) }
    }
}

/// The committed rows: id → key and payload.
pub(crate) struct Truth(HashMap<String, (String, String)>);

impl Truth {
    /// Rows without a record: key and payload.
    fn missing(&self, records: &[Record]) -> Vec<(String, String)> {
        let have: HashSet<&str> = records.iter().filter_map(|record| record.header("id")).collect();
        self.0.iter().filter(|(id, _)| !have.contains(id.as_str())).map(|(_, row)| row.clone()).collect()
    }

    fn judge(&self, records: &[Record]) -> Arrived {
        let mut first: HashMap<&str, &Record> = HashMap::new();
        let mut last: HashMap<&str, u32> = HashMap::new();
        let mut duplicates = 0;
        for record in records {
            let id = record.header("id").expect("every record has an id");
            let (key, payload) =
                self.0.get(id).unwrap_or_else(|| panic!("a record of no committed row: {record:?}"));
            assert_eq!((record.key_text(), record.value_text()), (key.as_str(), payload.as_str()));
            if let Some(original) = first.get(id) {
                duplicates += 1;
                assert_eq!(
                    (&record.key, &record.value, &record.headers, record.partition),
                    (&original.key, &original.value, &original.headers, original.partition),
                    "a duplicate differs"
                );
                continue;
            }
            first.insert(id, record);
            let n = place(record);
            let before = last.insert(record.key_text(), n);
            assert!(
                before.is_none_or(|before| before < n),
                "key {}: {n} after {before:?}",
                record.key_text()
            );
        }
        Arrived { rows: first.len(), duplicates }
    }
}

/// The place of a record in its key's order.
fn place(record: &Record) -> u32 {
    let payload: serde_json::Value = serde_json::from_str(record.value_text()).unwrap();
    u32::try_from(payload["n"].as_u64().unwrap()).unwrap()
}

async fn insert(client: &Client, kind: &str, key: &str, n: u32) -> Result<u64, tokio_postgres::Error> {
    let payload = format!(r#"{{"n": {n}}}"#);
    client
        .execute(
            "insert into outbox (aggregatetype, aggregateid, type, payload, headers)
                 values ($1, $2, 'Changed', $3::text::jsonb, '{\"source\": \"load\"}')",
            &[&kind, &key, &payload],
        )
        .await
}

/// Writers that commit, roll back and use savepoints until they are told to stop. Each has keys of
/// its own, so that the order of a key's commits is known. They survive a server that goes and comes.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    committed: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<()>>,
}

/// Transactions of one writer are at least this far apart: a load that leaves the machine, which the
/// tests share, time for the relay.
const PACE: Duration = Duration::from_millis(5);

impl Load {
    /// Starts `writers` of them.
    pub(crate) fn start(outbox: &Outbox, writers: usize) -> Self {
        Self::start_numbered(outbox, 0..writers)
    }

    /// Starts those writers: others than an earlier load had, since a writer's keys are its own.
    pub(crate) fn start_numbered(outbox: &Outbox, writers: std::ops::Range<usize>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let committed = Arc::new(AtomicUsize::new(0));
        let config = outbox.database.socket_url();
        let spawn = |writer| {
            let (url, kind) = (config.clone(), outbox.aggregate_type.clone());
            tokio::spawn(write(url, kind, writer, stopped.clone(), Arc::clone(&committed)))
        };
        let writers = writers.map(spawn).collect();
        Self { stop, committed, writers }
    }

    /// Rows committed so far, at least.
    pub(crate) fn committed(&self) -> usize {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits for so many rows more.
    pub(crate) async fn commits(&self, more: usize) {
        let wanted = self.committed() + more;
        eventually(RECOVERY, format!("{wanted} rows are committed"), async || {
            (self.committed() >= wanted).then_some(())
        })
        .await;
    }

    /// Stops the writers and returns when nothing of theirs is open.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        for writer in self.writers {
            writer.await.unwrap();
        }
    }
}

async fn write(
    url: String,
    kind: String,
    writer: usize,
    stopped: watch::Receiver<bool>,
    committed: Arc<AtomicUsize>,
) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Never repeated, also where a commit's fate is unknown because the server went.
    let mut n = 0;
    while !*stopped.borrow() {
        let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await else {
            pace.tick().await;
            continue;
        };
        let connection = tokio::spawn(connection);
        while !*stopped.borrow() && !client.is_closed() {
            pace.tick().await;
            if let Ok(rows) = transaction(&client, &kind, writer, &mut n).await {
                committed.fetch_add(rows, Ordering::Relaxed);
            }
        }
        drop(client);
        let _ = connection.await;
    }
}

/// One transaction: three rows, with now and then a savepoint rolled back in it, or all of it.
async fn transaction(
    client: &Client,
    kind: &str,
    writer: usize,
    n: &mut u32,
) -> Result<usize, tokio_postgres::Error> {
    let mut next = || {
        *n += 1;
        (format!("key-{writer}-{}", *n % 5), *n)
    };
    client.batch_execute("begin").await?;
    for _ in 0..3 {
        let (key, n) = next();
        insert(client, kind, &key, n).await?;
    }
    let (key, n) = next();
    if n % 7 == 0 {
        client.batch_execute("savepoint s").await?;
        insert(client, kind, &key, n).await?;
        client.batch_execute("rollback to s").await?;
    }
    let rolls_back = n % 10 == 0;
    client.batch_execute(if rolls_back { "rollback" } else { "commit" }).await?;
    Ok(if rolls_back { 0 } else { 3 })
}

/// Waits for the state that `/status` tells.
pub(crate) async fn state_is(relay: &Relay, state: &str) {
    eventually(SOON, format!("the relay is {state}"), async || {
        (relay.status().await["state"] == state).then_some(())
    })
    .await;
}

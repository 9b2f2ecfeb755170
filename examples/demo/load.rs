//! The events: SQL by hand, and writers at work. What was committed and what was rolled back is kept
//! in the books, to be compared with Kafka.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::Outcome;
use crate::support::Database;

pub(crate) const WRITERS: usize = 6;
pub(crate) const ACCOUNTS: usize = 24;

/// Pause of a writer between two transactions.
const PACE: Duration = Duration::from_millis(8);
/// One transaction in so many is rolled back.
const ROLLED_BACK_EVERY: usize = 5;

/// The event of a transaction that is rolled back, known by its id.
const NEVER: Uuid = Uuid::from_u128(0x0bad_0bad_0bad_4bad_8bad_0bad_0bad_0bad);

/// The first transactions, one after the other.
pub(crate) const BY_HAND: [&str; 4] = [
    "BEGIN;
INSERT INTO account (id, balance, version) VALUES ('alice', 100, 1);
INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers)
VALUES ('account', 'alice', 'Opened', '{\"version\": 1, \"balance\": 100}', '{\"source\": \"demo\", \"attempt\": 1}');
COMMIT;",
    "BEGIN;  -- the same through a function
UPDATE account SET balance = 70, version = 2 WHERE id = 'alice';
SELECT outbox_publish('account', 'alice', 'Withdrawn', '{\"version\": 2, \"balance\": 70}');
COMMIT;",
    "BEGIN;  -- changed its mind
UPDATE account SET balance = 0, version = 3 WHERE id = 'alice';
INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
VALUES ('0bad0bad-0bad-4bad-8bad-0bad0bad0bad', 'account', 'alice', 'Robbed', '{\"version\": 3, \"balance\": 0}');
ROLLBACK;",
    "BEGIN;  -- several events of several aggregates are one transaction
INSERT INTO account (id, balance, version) VALUES ('Zoë', 30, 1);
INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers)
VALUES ('account', 'Zoë', 'Opened', '{\"version\": 1, \"balance\": 30}', NULL),
       ('transfer', 'first', 'Done', '{\"version\": 1, \"from\": \"alice\", \"to\": \"Zoë\"}', '{\"source\": \"demo\"}');
COMMIT;",
];

/// The statements between BEGIN and COMMIT of a transfer. The row locks make the order of the
/// versions of an account the order of the commits, which is what the proof compares with.
pub(crate) const TRANSFER: [&str; 3] = [
    "SELECT FROM account WHERE id IN ($1, $2) ORDER BY id FOR UPDATE;",
    "WITH moved AS (
  UPDATE account SET balance = balance + CASE id WHEN $1 THEN -$3::int ELSE $3 END, version = version + 1
  WHERE id IN ($1, $2) RETURNING id, balance, version)
INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers)
SELECT 'account', id, CASE id WHEN $1 THEN 'Withdrawn' ELSE 'Deposited' END,
       jsonb_build_object('version', version, 'balance', balance), '{\"source\": \"demo\"}'
FROM moved RETURNING id;",
    "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
VALUES ('transfer', $1, 'Done', jsonb_build_object('version', 1, 'amount', $2::int)) RETURNING id;",
];

/// What the writers know: which events they committed and when, and which they rolled back.
#[derive(Clone, Default)]
pub(crate) struct Books(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    /// When COMMIT had returned.
    committed: HashMap<Uuid, Instant>,
    rolled_back: HashSet<Uuid>,
}

impl Books {
    /// Creates the business table, with an account for every key that the writers use.
    pub(crate) async fn open(database: &Database) -> Outcome<Self> {
        let accounts = format!(
            "CREATE TABLE account (id text PRIMARY KEY, balance int NOT NULL, version int NOT NULL);
             INSERT INTO account SELECT 'account-' || n, 1000, 0 FROM generate_series(0, {ACCOUNTS} - 1) n"
        );
        database.client().await.batch_execute(&accounts).await?;
        Ok(Self::default())
    }

    /// Runs a text of [`BY_HAND`] and enters what is new in the table.
    pub(crate) async fn run(&self, client: &Client, sql: &str) -> Outcome<()> {
        client.batch_execute(sql).await?;
        let returned = Instant::now();
        if sql.ends_with("ROLLBACK;") {
            self.entries().rolled_back.insert(NEVER);
        }
        for row in client.query("SELECT id FROM outbox", &[]).await? {
            self.entries().committed.entry(row.get(0)).or_insert(returned);
        }
        Ok(())
    }

    /// Number of events committed.
    pub(crate) fn committed(&self) -> usize {
        self.entries().committed.len()
    }

    /// Number of events rolled back.
    pub(crate) fn rolled_back(&self) -> usize {
        self.entries().rolled_back.len()
    }

    /// When the COMMIT of that event had returned.
    pub(crate) fn commit_time(&self, id: Uuid) -> Option<Instant> {
        self.entries().committed.get(&id).copied()
    }

    /// Whether the event was rolled back.
    pub(crate) fn was_rolled_back(&self, id: Uuid) -> bool {
        self.entries().rolled_back.contains(&id)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writers at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Result<(), tokio_postgres::Error>>>,
}

impl Load {
    /// Starts them, each on a connection of its own.
    pub(crate) async fn start(database: &Database, books: &Books) -> Outcome<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            let client = database.client().await;
            writers.push(tokio::spawn(write(client, number, books.clone(), Arc::clone(&stop))));
        }
        Ok(Self { stop, writers })
    }

    /// Lets them end their transactions and go.
    ///
    /// # Errors
    /// If a writer could not write.
    pub(crate) async fn stop(self) -> Outcome<()> {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await??;
        }
        Ok(())
    }
}

/// One writer: a transfer at every tick, accounts chosen so that writers meet.
async fn write(
    mut client: Client,
    number: usize,
    books: Books,
    stop: Arc<AtomicBool>,
) -> Result<(), tokio_postgres::Error> {
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn = number;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        turn += 1;
        let from = (turn * 7 + number) % ACCOUNTS;
        let to = (from + 1 + turn % (ACCOUNTS - 1)) % ACCOUNTS;
        let (from, to) = (format!("account-{from}"), format!("account-{to}"));
        let transfer = format!("{number}-{turn}");
        let committed = !turn.is_multiple_of(ROLLED_BACK_EVERY);
        let ids = move_money(&mut client, &from, &to, &transfer, committed).await?;
        let returned = Instant::now();
        let mut entries = books.entries();
        if committed {
            entries.committed.extend(ids.into_iter().map(|id| (id, returned)));
        } else {
            entries.rolled_back.extend(ids);
        }
    }
    Ok(())
}

/// One transaction; returns the ids of its events.
async fn move_money(
    client: &mut Client,
    from: &str,
    to: &str,
    transfer: &str,
    commit: bool,
) -> Result<Vec<Uuid>, tokio_postgres::Error> {
    let [lock, accounts, done] = TRANSFER;
    let amount = 25_i32;
    let transaction = client.transaction().await?;
    transaction.query(lock, &[&from, &to]).await?;
    let mut rows = transaction.query(accounts, &[&from, &to, &amount]).await?;
    rows.extend(transaction.query(done, &[&transfer, &amount]).await?);
    if commit {
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

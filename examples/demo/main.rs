//! `make demo`: events go from SQL to Kafka, the relay is killed half-way, and at the end the topics
//! themselves show that nothing is missing, nothing is out of order and nothing was invented.
//!
//! Everything is real and everything is temporary: a Postgres and a Kafka on free ports of 127.0.0.1
//! with their data under the temporary directory, and the release binary as a child process. The
//! exit code is 0 only if every claim held; whatever was started ends with this process.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a demo talks to a person")]

mod load;
mod proof;
#[path = "../../tests/it/support/mod.rs"]
mod support;
mod watch;
mod words;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use load::{Books, Load};
use support::{Database, Kafka, Postgres, Relay, run_cli};
use tokio::time::sleep;
use watch::Watch;
use words::{count, note, say, step};

/// A step that did not do what it claims ends the demo with the reason.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// Preset `debezium` routes by aggregate type.
pub(crate) const TOPICS: [&str; 2] = ["outbox.event.account", "outbox.event.transfer"];

/// How long the writers write before the kill, between kill and restart, and after it.
const BEFORE_KILL: Duration = Duration::from_secs(5);
const WITHOUT_RELAY: Duration = Duration::from_secs(2);
const AFTER_RESTART: Duration = Duration::from_secs(5);
/// Far more than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One thread runs it all: the relay dies with the thread that started it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match demo().await {
        Ok(()) => {
            say("\nEvery claim held. Postgres, Kafka and the relay are stopped, their directories deleted.");
            ExitCode::SUCCESS
        }
        Err(err) => {
            eprintln!("\nThe demo failed: {}", words::whole(err.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Outcome<()> {
    step("Start a real Postgres and a real Kafka");
    note("both listen on 127.0.0.1 only, on free ports, and keep their data in a temporary directory");
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let database = postgres.database().await;
    say(&format!("PostgreSQL {}  {}", postgres.version(), database.url()));
    let kafka = Kafka::start(&[]).await;
    say(&format!("Kafka          {}", kafka.bootstrap()));
    for topic in TOPICS {
        kafka.create_topic(topic, 6, &[]).await;
        say(&format!("topic          {topic}, 6 partitions"));
    }

    step("Create the outbox table and its publication");
    note("the publication tells Postgres which table's inserts to stream");
    txstream(&["migrate", "up"], &database, &kafka).await?;

    step("Create the replication slot");
    note("the slot is Postgres's bookmark: the server keeps its log until the relay has confirmed it");
    txstream(&["slot", "create"], &database, &kafka).await?;

    step("Start the relay");
    let watch = Watch::start(kafka.bootstrap())?;
    let relay = start_relay(&database, &kafka).await;

    let books = Books::open(&database).await?;
    by_hand(&database, &books, &watch).await?;
    let relay = crash_under_load(&database, &kafka, &books, &watch, relay).await?;

    step("Stop the relay gracefully");
    note("SIGTERM: it sends what it has read, waits for Kafka, tells the slot and ends");
    relay.sigterm().await;
    let exit = relay.wait_exit(PATIENCE).await;
    if !exit.status.success() {
        return Err(format!("the relay ended with {}:\n{}", exit.status, exit.stderr).into());
    }
    say("the relay ended with exit code 0");
    txstream(&["slot", "status"], &database, &kafka).await?;
    watch.stop();

    step("Prove it from Kafka");
    note("both topics are read again from the first record and compared with the table");
    proof::prove(&database, &kafka, &books).await
}

/// Runs a command of the binary that ends by itself, and shows it with what it says.
async fn txstream(args: &[&str], database: &Database, kafka: &Kafka) -> Outcome<()> {
    say(&format!("$ txstream {}", args.join(" ")));
    let url = database.url();
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("REPLICATION_SLOT", database.name()),
        ("KAFKA_BROKERS", kafka.bootstrap()),
        ("LOGGING_LEVEL", "warn"),
        ("NO_COLOR", "1"),
    ];
    let output = run_cli(args, &env).await;
    for line in output.stdout.lines() {
        say(&format!("  {line}"));
    }
    if output.code == Some(0) {
        return Ok(());
    }
    Err(format!("txstream {} ended with {:?}:\n{}", args.join(" "), output.code, output.stderr).into())
}

async fn start_relay(database: &Database, kafka: &Kafka) -> Relay {
    say("$ txstream relay");
    let mut relay = Relay::start(database, kafka.bootstrap(), &[], &[]).await;
    relay.wait_ready().await;
    say(&format!(
        "  pid {}, /readyz says 200: it streams. Metrics: http://{}/metrics",
        relay.pid(),
        relay.admin()
    ));
    relay
}

/// Plain SQL, one transaction after the other, with what becomes of it.
async fn by_hand(database: &Database, books: &Books, watch: &Watch) -> Outcome<()> {
    step("Write events with plain SQL");
    note("an event is a row inserted in the transaction that makes the business change");
    let client = database.client().await;
    for sql in load::BY_HAND {
        say("");
        for line in sql.lines() {
            say(&format!("  {line}"));
        }
        books.run(&client, sql).await?;
    }
    let committed = books.committed();
    watch.wait_for(committed, PATIENCE).await?;
    say(&format!(
        "\n{} of these {} events were committed, and so many are in Kafka:\n",
        committed,
        committed + books.rolled_back()
    ));
    words::records(&watch.arrivals(), books);
    Ok(())
}

/// Concurrent writers, a relay killed in the middle of their work, and another one.
async fn crash_under_load(
    database: &Database,
    kafka: &Kafka,
    books: &Books,
    watch: &Watch,
    relay: Relay,
) -> Outcome<Relay> {
    step("Put it under load");
    note(&format!(
        "{} connections move money between {} accounts at once; a transfer is three events in one \
         transaction, and every fifth transaction is rolled back",
        load::WRITERS,
        load::ACCOUNTS
    ));
    for line in load::TRANSFER.iter().flat_map(|sql| sql.lines()) {
        say(&format!("  {line}"));
    }
    say("");
    let load = Load::start(database, books).await?;
    words::follow(BEFORE_KILL, books, watch).await;

    step("Kill the relay in the middle of it");
    note("SIGKILL: it cannot finish, flush or say goodbye; the writers do not notice");
    say(&format!("$ kill -9 {}", relay.pid()));
    relay.kill9().await;
    words::follow(WITHOUT_RELAY, books, watch).await;

    step("Start it again");
    note("it keeps no position of its own: it goes on where the slot's last confirmation is");
    let relay = start_relay(database, kafka).await;
    words::follow(AFTER_RESTART, books, watch).await;
    load.stop().await?;
    say(&format!(
        "the writers stopped: {} events committed, {} rolled back",
        count(books.committed()),
        count(books.rolled_back())
    ));
    watch.wait_for(books.committed(), PATIENCE).await?;
    say("every one of the committed ones has been seen in Kafka; the last ones:\n");
    // A record may come a moment after the one that was waited for.
    sleep(Duration::from_millis(100)).await;
    let arrivals = watch.arrivals();
    words::records(&arrivals[arrivals.len().saturating_sub(6)..], books);
    Ok(relay)
}

//! The programs of `examples/`, each run as its readme says, against a real Postgres, relay and Kafka.
//!
//! A language that this machine has not got is skipped, and said so by name on stderr.

mod consumer;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{Outbox, unique};

/// Long enough for a compiler that has nothing in its cache on a busy machine.
const PATIENCE: Duration = Duration::from_secs(400);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the first line is that a program prints, if there is such a program.
fn version(program: &str, argument: &str) -> Result<String, String> {
    let output = std::process::Command::new(program).arg(argument).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(said) } else { Err(format!("{program} {argument} failed")) }
}

/// Looks for a program of at least that version, which stands in its first line behind `before`.
fn at_least(program: &str, argument: &str, before: &str, wanted: [u32; 2]) -> Result<(), String> {
    let said = version(program, argument)?;
    let digits = said.split_once(before).map_or("", |(_, rest)| rest);
    let mut numbers = digits.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let found = [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)];
    if found >= wanted {
        Ok(())
    } else {
        Err(format!("{program} {}.{} is older than {}.{}", found[0], found[1], wanted[0], wanted[1]))
    }
}

/// Says that a language is left out, so that nobody takes it for tested.
fn skipped(what: &str, missing: &str) {
    // Not by `eprintln!`, which a test that passes keeps for itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED: the {what}: {missing}");
}

/// The libraries of an example, fetched on first use into the cache, outside the work tree.
async fn fetched(example: &str) -> PathBuf {
    let script = Command::new(root().join("scripts/fetch-example"))
        .arg(example)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, script).await.expect("scripts/fetch-example ends").unwrap();
    assert!(output.status.success(), "{example}: {}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// A command that runs in a directory of `examples/`.
fn command(program: impl AsRef<std::ffi::OsStr>, example: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root().join(example)).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// `java` on one source file, with the jars of a directory.
async fn java(example: &str, source: &str) -> Result<Command, String> {
    version("javac", "-version").map_err(|_| "no JDK: javac is missing".to_owned())?;
    let jars = fetched(example).await;
    let mut command = command("java", example);
    command.arg("-cp").arg(jars.join("*")).arg(source);
    Ok(command)
}

/// `python` with the libraries of a directory.
async fn python(example: &str, source: &str) -> Result<Command, String> {
    at_least("python3", "--version", "Python ", [3, 10])?;
    let mut command = command(fetched(example).await.join("bin/python"), example);
    command.arg(source).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// Runs an example, and sees exactly the committed event come out at Kafka.
async fn publishes(mut command: Command) {
    let outbox = Outbox::with_slot().await;
    let schema = format!("--file={}", root().join("examples/schema.sql").display());
    assert!(outbox.psql(&[schema]).await.0);
    let name = unique("example");
    let _relay = outbox.streaming(&[], &[("KAFKA_TOPIC_EVENTS", &name)]).await;

    let run = command.env("DATABASE_URL", outbox.database.url()).output();
    let output = timeout(PATIENCE, run).await.expect("the example ends").unwrap();
    let (said, complaints) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complaints}");
    let [committed, rolled_back] = said.lines().collect::<Vec<_>>()[..] else {
        panic!("not two lines: {said}{complaints}")
    };
    let id = committed.strip_prefix("committed invoice 1 with event ").expect(committed);
    assert_eq!(rolled_back, "rolled back: 5000.00 is over the limit");

    outbox.confirmed().await;
    let mut topic = outbox.kafka.topic(&name);
    let mut records = topic.read_to_end().await.to_vec();
    // The event with which the relay was seen to stream.
    records.retain(|record| record.value_text() != "{}");
    let [record] = &records[..] else { panic!("not one record: {records:?}") };
    assert_eq!(record.key_text(), "1");
    let value: Value = serde_json::from_str(record.value_text()).unwrap();
    assert_eq!(value, json!({"invoice": 1, "customer": "Ada", "total": "99.90"}));
    assert_eq!(record.headers, [("id".to_owned(), Some(id.as_bytes().to_vec()))]);
    let stored: String = outbox
        .database
        .value("select string_agg(concat_ws(' ', id, customer, total), ',') from invoices")
        .await;
    assert_eq!(stored, "1 Ada 99.90", "of the business rows too, only the committed one");
}

/// The same, or says why not.
async fn publishes_or_is_skipped(language: &str, command: Result<Command, String>) {
    match command {
        Ok(command) => publishes(command).await,
        Err(missing) => skipped(&format!("{language} example"), &missing),
    }
}

#[tokio::test]
async fn the_psql_example_publishes_the_committed_event_alone() {
    // Through a shell, because the address is an argument.
    let mut shell = command("sh", "examples/psql");
    shell.args(["-c", r#"psql -X "$DATABASE_URL" -f publish.sql"#]);
    publishes(shell).await;
}

#[tokio::test]
async fn the_rust_example_publishes_the_committed_event_alone() {
    let mut command = command(env!("CARGO"), "examples/rust");
    command.args(["run", "--quiet", "--locked", "--example", "publish"]);
    publishes(command).await;
}

#[tokio::test]
async fn the_python_example_publishes_the_committed_event_alone() {
    publishes_or_is_skipped("Python", python("examples/python", "publish.py").await).await;
}

#[tokio::test]
async fn the_go_example_publishes_the_committed_event_alone() {
    let found = at_least("go", "version", "version go", [1, 25]);
    let command = found.map(|()| {
        let mut command = command("go", "examples/go");
        command.args(["run", "."]);
        command
    });
    publishes_or_is_skipped("Go", command).await;
}

#[tokio::test]
async fn the_node_example_publishes_the_committed_event_alone() {
    let found = at_least("node", "--version", "v", [18, 0]).and_then(|()| version("npm", "--version"));
    if let Err(missing) = found {
        return skipped("Node example", &missing);
    }
    // Node looks for libraries beside the program, and ours are in the cache.
    let directory = tempfile::tempdir().unwrap();
    for file in ["publish.mjs", "package.json"] {
        std::fs::copy(root().join("examples/node").join(file), directory.path().join(file)).unwrap();
    }
    let libraries = fetched("examples/node").await.join("node_modules");
    std::os::unix::fs::symlink(libraries, directory.path().join("node_modules")).unwrap();
    let mut command = command("node", "examples/node");
    command.arg("publish.mjs").current_dir(directory.path());
    publishes(command).await;
}

#[tokio::test]
async fn the_java_example_publishes_the_committed_event_alone() {
    publishes_or_is_skipped("Java", java("examples/java", "Publish.java").await).await;
}

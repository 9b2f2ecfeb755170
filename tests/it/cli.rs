//! What a shell sees: exit codes, stdout and stderr of the binary. No server is needed, but for those that
//! are waited for.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use crate::support::port::free_port;
use crate::support::wait::SOON;
use crate::support::{Outbox, Postgres, Proxy, Relay, run_cli};

/// Runs txstream in an empty directory with nothing of this process's environment but what is given.
fn txstream(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_txstream"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("run txstream")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn exit_codes_and_streams() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for (arguments, code, stdout, stderr) in [
        (&["--help"][..], 0, "Usage: txstream", ""),
        (&["relay", "--help"], 0, "[env: KAFKA_BROKERS]", ""),
        (&["--version"], 0, concat!("txstream ", env!("CARGO_PKG_VERSION")), ""),
        (&["completions", "bash"], 0, "_txstream()", ""),
        (&["completions", "zsh"], 0, "#compdef txstream", ""),
        (&["man"], 0, ".TH txstream 1", ""),
        (&["config"], 0, "KAFKA_BROKERS", ""),
        (&[], 64, "", "requires a subcommand"),
        (&["slot"], 64, "", "requires a subcommand"),
        (&["rely"], 64, "", "relay"),
        (&["relay", "--nonsense"], 64, "", "--nonsense"),
        (&["relay", "--kafka-timeout", "30"], 64, "", "--kafka-timeout: \"30\" has no unit"),
        (&["config", "-X", "linger.ms"], 64, "", "-X needs the form name=value"),
    ] {
        let output = txstream(directory.path(), arguments, &[]);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {err}");
        assert!(out.contains(stdout), "{arguments:?}: {out}");
        assert!(err.contains(stderr), "{arguments:?}: {err}");
        assert_eq!(
            (out.is_empty(), err.is_empty()),
            (stdout.is_empty(), stderr.is_empty()),
            "{arguments:?}: {err}"
        );
        assert!(
            !out.contains('\u{1b}') && !err.contains('\u{1b}'),
            "coloured without a terminal: {arguments:?}"
        );
    }
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let directory = tempfile::tempdir().expect("temporary directory");
    // A terminal of its own for stdout and stderr alike.
    let on_a_terminal = |command: &str, environment: &[(&str, &str)]| {
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command"])
            .arg(format!("{} {command}", env!("CARGO_BIN_EXE_txstream")))
            .arg("/dev/null")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(environment.iter().copied())
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .output()
            .expect("run script");
        (output.status.code(), text(&output.stdout))
    };
    for (command, code) in [("config", 0), ("--help", 0), ("config --db-port=x", 64), ("rely", 64)] {
        for (environment, coloured) in [
            (&[("TERM", "xterm")][..], true),
            // Empty means nothing, as https://no-color.org has it.
            (&[("TERM", "xterm"), ("NO_COLOR", "")], true),
            (&[("TERM", "xterm"), ("NO_COLOR", "1")], false),
        ] {
            let (ended, said) = on_a_terminal(command, environment);
            assert_eq!(ended, Some(code), "{command}: {said}");
            // The terminal does not say how wide it is.
            assert!(!command.ends_with("config") || said.contains("KAFKA_BROKERS"), "{said}");
            assert_eq!(said.contains('\u{1b}'), coloured, "{command} with {environment:?}: {said}");
        }
        let arguments: Vec<&str> = command.split(' ').collect();
        let output = txstream(directory.path(), &arguments, &[("TERM", "xterm")]);
        assert!(!text(&output.stdout).contains('\u{1b}') && !text(&output.stderr).contains('\u{1b}'));
    }
}

#[test]
fn all_configuration_errors_are_told_at_once() {
    let directory = tempfile::tempdir().expect("temporary directory");
    std::fs::write(directory.path().join(".env"), "SERVER_PORT=0\n").expect("write .env");
    let output = txstream(directory.path(), &["config", "--db-port=x"], &[("LOGGING_FORMAT", "xml")]);
    assert_eq!(output.status.code(), Some(64));
    let err = text(&output.stderr);
    for told in ["--db-port:", "LOGGING_FORMAT:", "SERVER_PORT (.env):"] {
        assert!(err.contains(told), "{told}: {err}");
    }
}

#[test]
fn config_shows_values_and_where_they_came_from_and_no_secret() {
    let directory = tempfile::tempdir().expect("temporary directory");
    std::fs::write(directory.path().join(".env"), "APP_ENV=staging\nDB_PASSWORD=hunter2\n")
        .expect("write .env");
    let environment = [("KAFKA_BROKERS", "k:9092"), ("REPLICATION_URL", "postgresql://u:hunter2@h/d")];
    let arguments = ["config", "--output", "json", "--replication-slot", "s", "-X", "sasl.password=hunter2"];
    let output = txstream(directory.path(), &arguments, &environment);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    assert!(!out.contains("hunter2"), "{out}");
    let entries: Vec<serde_json::Value> = serde_json::from_str(&out).expect("JSON");
    for (name, value, source) in [
        ("APP_ENV", "staging", ".env"),
        ("DB_PASSWORD", "***", ".env"),
        ("KAFKA_BROKERS", "k:9092", "environment"),
        ("REPLICATION_SLOT", "s", "flag"),
        ("REPLICATION_PUBLICATION", "txstream_outbox", "default"),
    ] {
        let expected = serde_json::json!({"name": name, "value": value, "source": source});
        assert!(entries.contains(&expected), "{expected}: {out}");
    }
}

#[test]
fn warnings_are_logged_to_stderr_as_json_without_the_value() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let environment =
        [("KAFKA_BROKER", "hunter2"), ("DB_PORT", "tcp://10.0.0.1:5432"), ("WORKER_INTERVAL", "5s")];
    let output = txstream(directory.path(), &["config"], &environment);
    assert_eq!(output.status.code(), Some(0));
    let err = text(&output.stderr);
    assert!(!err.contains("hunter2"), "{err}");
    let lines: Vec<serde_json::Value> =
        err.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    for variable in ["KAFKA_BROKER", "DB_PORT", "WORKER_INTERVAL"] {
        let said: Vec<_> = lines.iter().filter(|line| line["variable"] == variable).collect();
        assert_eq!(said.len(), 1, "{variable}: {err}");
        assert_eq!(said[0]["level"], "WARN");
    }
}

#[tokio::test]
async fn an_absent_postgres_is_waited_for_as_long_as_asked() {
    let outbox = Outbox::with_slot().await;
    // What is in the table is confirmed: `verify` has nothing else to wait for.
    let _relay = outbox.streaming(&[], &[]).await;
    let proxy = Proxy::to(Postgres::shared().await.port()).await;
    proxy.refuse();
    let url = outbox.database.url_through(proxy.port());
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("REPLICATION_SLOT", outbox.slot()),
        ("KAFKA_BROKERS", outbox.kafka.bootstrap()),
    ];
    let mut waiting = Vec::new();
    for command in ["migrate status", "slot status", "dead-letter list", "lag", "doctor", "verify"] {
        let args: Vec<&str> = command.split(' ').collect();
        let at_once = run_cli(&args, &env).await;
        assert_eq!(at_once.code, Some(1), "{command}: {}", at_once.stderr);
        let child = Relay::spawn(&[&args[..], &["--wait", "60s"]].concat(), &env).await;
        child.wait_for_log("it waits", SOON, |line| line.contains("waiting for Postgres")).await;
        waiting.push((command, child));
    }
    proxy.resume();
    for (command, child) in waiting {
        let exit = child.wait_exit(SOON).await;
        assert_eq!(exit.status.code(), Some(0), "{command}: {}", exit.stderr);
    }
}

#[tokio::test]
async fn absent_brokers_are_waited_for_as_long_as_asked() {
    let outbox = Outbox::with_slot().await;
    let _relay = outbox.streaming(&[], &[]).await;
    let (url, nobody) = (outbox.database.url(), format!("127.0.0.1:{}", free_port().await));
    let env =
        [("DATABASE_URL", url.as_str()), ("REPLICATION_SLOT", outbox.slot()), ("KAFKA_BROKERS", &nobody)];
    // Longer than it waits unasked.
    for command in ["verify", "doctor"] {
        let begin = Instant::now();
        let said = run_cli(&[command, "--wait", "14s"], &env).await;
        assert_eq!(said.code, Some(1), "{command}: {}", said.stderr);
        assert!(begin.elapsed() >= Duration::from_secs(13), "{command} gave up after {:?}", begin.elapsed());
    }
}

//! `lag` beside a relay that streams and beside none.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::port::free_port;
use crate::support::relay::binary;
use crate::support::wait::SOON;
use crate::support::{Outbox, Postgres, Proxy, eventually, http, run_cli};

#[tokio::test]
async fn an_idle_relay_has_nothing_unconfirmed() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    let url = format!("http://{}", relay.admin());
    let lag = eventually(SOON, "the relay says that nothing is unconfirmed", async || {
        let said = outbox.done(&["lag", "--output", "json", "--admin-url", &url]).await;
        let lag: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        (lag["oldest_unconfirmed_age_seconds"] == 0.0).then_some(lag)
    })
    .await;
    assert_eq!(lag["oldest_unconfirmed_age_source"], "relay");
    assert!(lag["oldest_unconfirmed_age_reason"].is_null(), "{lag}");
    assert_eq!(lag["active"], true);
    assert_eq!(lag["wal_status"], "reserved");
    assert!(lag["slot_confirmed_lag_bytes"].is_u64() && lag["slot_retained_wal_bytes"].is_u64(), "{lag}");
    let table = outbox.done(&["lag", "--admin-url", &url]).await.stdout;
    let row = |name: &str| {
        table
            .lines()
            .find(|line| line.contains(name))
            .unwrap_or_else(|| panic!("no {name} in {table}"))
            .to_owned()
    };
    assert!(row("state").contains("held by pid"), "{table}");
    assert!(row("oldest unconfirmed").contains("none"), "{table}");
    assert!(!table.contains("unknown"), "{table}");
}

#[tokio::test]
async fn without_a_relay_the_seconds_are_unknown_and_the_reason_is_said() {
    let outbox = Outbox::with_slot().await;
    outbox.insert("lag", "1", "{}").await;
    let nobody = format!("http://127.0.0.1:{}", free_port().await);
    let said = outbox.done(&["lag", "--output", "json", "--admin-url", &nobody]).await;
    let lag: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(lag["oldest_unconfirmed_age_seconds"].is_null(), "{lag}");
    assert!(
        lag["oldest_unconfirmed_age_reason"].as_str().unwrap().contains("nobody holds the slot"),
        "{lag}"
    );
    assert_eq!(lag["active"], false);
    assert!(lag["slot_confirmed_lag_bytes"].as_u64().unwrap() > 0, "{lag}");
    let table = outbox.done(&["lag", "--admin-url", &nobody]).await.stdout;
    assert!(table.contains("nobody holds it") && table.contains("unknown: nobody holds the slot"), "{table}");
}

#[tokio::test]
async fn the_relay_of_another_slot_is_not_believed() {
    let (outbox, other) = (Outbox::with_slot().await, Outbox::with_slot().await);
    let relay = other.streaming(&[], &[]).await;
    let url = format!("http://{}", relay.admin());
    let said = outbox.done(&["lag", "--output", "json", "--admin-url", &url]).await;
    let lag: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(lag["oldest_unconfirmed_age_seconds"].is_null(), "{lag}");
    let reason = lag["oldest_unconfirmed_age_reason"].as_str().unwrap();
    assert!(reason.contains(&format!("has slot {}", other.slot())), "{reason}");
}

#[tokio::test]
async fn a_relay_that_listens_on_one_address_is_asked_there() {
    let outbox = Outbox::with_slot().await;
    // Loopback like 127.0.0.1, and yet another address.
    let (host, port) = ("127.0.0.2", free_port().await);
    let text = port.to_string();
    let env = [("METRICS_HOST", host), ("METRICS_PORT", text.as_str())];
    let _relay = outbox.relay(&[], &env).await;
    let address = (host.parse::<std::net::IpAddr>().unwrap(), port).into();
    eventually(SOON, "the relay is ready", async || {
        http::get(address, "/readyz").await.ok().filter(|answer| answer.status == 200)
    })
    .await;
    let url = outbox.database.url();
    let env = [&[("DATABASE_URL", url.as_str()), ("REPLICATION_SLOT", outbox.slot())], &env[..]].concat();
    let said = run_cli(&["lag", "--output", "json"], &env).await;
    let lag: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(lag["oldest_unconfirmed_age_source"], "relay", "{lag}");
    let said = run_cli(&["breaker", "status"], &env).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}

#[tokio::test]
async fn without_a_slot_it_says_how_to_get_one() {
    let outbox = Outbox::migrated().await;
    let said = outbox.cli(&["lag"]).await;
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("there is no slot") && said.stderr.contains("txstream slot create"),
        "{said:?}"
    );
}

#[tokio::test]
async fn followed_it_shows_new_traffic_line_by_line_and_ends_well_when_interrupted() {
    let outbox = Outbox::with_slot().await;
    let mut child = Command::new(binary())
        .args(["lag", "--follow", "--interval", "100ms"])
        .env_clear()
        .env("DATABASE_URL", outbox.database.url())
        .env("REPLICATION_SLOT", outbox.slot())
        .env("METRICS_ENABLED", "false")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = timeout(SOON, lines.next_line()).await.expect("a first line").unwrap().unwrap();
    assert!(first.starts_with("not confirmed ") && first.contains("wal_status reserved"), "{first}");
    // Nobody confirms, so it only grows.
    outbox.insert("lag", "1", &format!("\"{}\"", "x".repeat(100_000))).await;
    let grown = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if line.split(',').next() != first.split(',').next() {
                return line;
            }
        }
        panic!("it ended");
    };
    let grown = timeout(SOON, grown).await.expect("another line");
    assert!(grown.contains("KiB") || grown.contains("MiB"), "{grown}");
    let interrupt = format!("kill -INT {}", child.id().unwrap());
    assert!(Command::new("sh").args(["-c", &interrupt]).status().await.unwrap().success());
    assert_eq!(timeout(SOON, child.wait()).await.expect("it ends").unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_follower_that_waits_for_its_server_ends_well_when_told_to() {
    let outbox = Outbox::with_slot().await;
    for signal in ["INT", "TERM"] {
        let proxy = Proxy::to(Postgres::shared().await.port()).await;
        let mut child = Command::new(binary())
            .args(["lag", "--follow", "--interval", "100ms"])
            .env_clear()
            .env("DATABASE_URL", outbox.database.url_through(proxy.port()))
            .env("REPLICATION_SLOT", outbox.slot())
            .env("METRICS_ENABLED", "false")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        timeout(SOON, lines.next_line()).await.expect("a first line").unwrap().unwrap();
        proxy.refuse();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let lost = async {
            while let Ok(Some(line)) = said.next_line().await {
                if line.contains("connecting again") {
                    return;
                }
            }
            panic!("it ended");
        };
        timeout(SOON, lost).await.expect("it says that it connects again");
        let kill = format!("kill -{signal} {}", child.id().unwrap());
        assert!(Command::new("sh").args(["-c", &kill]).status().await.unwrap().success());
        assert_eq!(timeout(SOON, child.wait()).await.expect("it ends").unwrap().code(), Some(0), "{signal}");
    }
}

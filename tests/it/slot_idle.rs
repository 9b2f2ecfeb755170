//! A slot that nobody used for longer than `idle_replication_slot_timeout` (PostgreSQL 18) is given up by the
//! server at its next checkpoint. It is told apart from one that never was and from one that is in use.

use std::time::Duration;

use serde_json::Value;

use crate::checks::assert_not_hot;
use crate::load::{lasts, state_is};
use crate::support::wait::SOON;
use crate::support::{Halted, Outbox, Postgres, Proxy, eventually, run_cli, unique};

/// As short as the server takes it.
const TIMEOUT: &str = "1s";
const LONGER: Duration = Duration::from_millis(1500);
const RESET: &str = "txstream slot reset --backfill";
const PREVENTION: &str = "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();";

async fn impatient_server() -> Postgres {
    Postgres::start(18, &[("idle_replication_slot_timeout", TIMEOUT)]).await
}

/// Why the server gave the slot up, if it did; only a checkpoint looks.
async fn given_up_because(outbox: &Outbox) -> Option<String> {
    outbox.database.exec("CHECKPOINT").await;
    let slot = outbox.slot();
    let sql = format!("SELECT invalidation_reason FROM pg_replication_slots WHERE slot_name = '{slot}'");
    outbox.database.value(&sql).await
}

/// Waits until the server gave it up.
async fn is_given_up(outbox: &Outbox) {
    eventually(SOON, "the server gives the slot up", async || given_up_because(outbox).await).await;
    assert_eq!(given_up_because(outbox).await.as_deref(), Some("idle_timeout"));
}

fn assert_says_why(halted: &Halted, slot: &str) {
    halted.names(&[slot, "is lost", "inactive for longer than idle_replication_slot_timeout"]);
    halted.advises(RESET);
    halted.advises(PREVENTION);
    assert_not_hot(halted);
}

/// What `doctor` found of that name.
async fn diagnosed(outbox: &Outbox, check: &str) -> Value {
    let url = outbox.database.url();
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("REPLICATION_SLOT", outbox.slot()),
        ("KAFKA_BROKERS", outbox.kafka.bootstrap()),
    ];
    let said = run_cli(&["doctor", "--output", "json"], &env).await;
    let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
    let found = report["checks"].as_array().unwrap().iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("no finding of {check}: {report:#}")).clone()
}

#[tokio::test]
async fn a_slot_given_up_for_being_idle_is_neither_busy_nor_taken_for_one_that_never_was() {
    let postgres = impatient_server().await;
    let outbox = Outbox::migrated_on(&postgres).await;
    let never = outbox.halts(&[], &[]).await;
    assert!(!never.what.contains("lost"), "{never:?}");
    never.advises("txstream slot create");

    // In use it is not idle, whether anything is written or not, and who waits for it waits on.
    let holder = outbox.streaming(&["--create-slot"], &[]).await;
    let mut second = outbox.relay(&[], &[]).await;
    second.wait_ready().await;
    state_is(&second, "standby").await;
    lasts(LONGER, async || {}).await;
    assert_eq!(given_up_because(&outbox).await, None, "a slot in use is not idle");
    assert!(second.is_running(), "it stands by");
    second.sigterm().await;
    assert_eq!(second.wait_exit(SOON).await.status.code(), Some(0));
    holder.sigterm().await;
    assert_eq!(holder.wait_exit(SOON).await.status.code(), Some(0));

    is_given_up(&outbox).await;
    let lost = outbox.halts(&[], &[]).await;
    assert_says_why(&lost, outbox.slot());
    assert_says_why(&outbox.halts(&["--create-slot"], &[]).await, outbox.slot());
    let kind = unique("kept");
    outbox.insert(&kind, "1", "{}").await;

    let said = outbox.done(&["slot", "status"]).await.stdout;
    for part in ["inactive for longer than idle_replication_slot_timeout", RESET, "idle_timeout"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    let found = diagnosed(&outbox, "slot").await;
    assert_eq!((&found["status"], &found["mend"]), (&"fail".into(), &RESET.into()), "{found}");
    assert!(found["why"].as_str().unwrap().contains(PREVENTION), "{found}");
    let found = diagnosed(&outbox, "idle_replication_slot_timeout").await;
    assert_eq!(found["status"], "warn", "{found}");
    assert!(found["mend"].as_str().unwrap().contains("idle_replication_slot_timeout = '0'"), "{found}");

    // The advice, followed: nothing is lost, and it does not happen again.
    for statement in PREVENTION.split_inclusive(';') {
        outbox.database.exec(statement).await;
    }
    outbox.repair(&["slot", "reset", "--backfill", "--yes", "--lock-timeout", "30s"]).await;
    outbox.topic(&kind).read_count(1).await;
    lasts(LONGER, async || {}).await;
    assert_eq!(given_up_because(&outbox).await, None, "a slot may be idle for ever now");
    outbox.streams(&[], &[]).await;
    assert_eq!(outbox.topic(&kind).read_to_end().await.len(), 1, "the backfill brought it, and only that");
}

#[tokio::test]
async fn a_relay_cut_off_for_longer_than_its_slot_may_be_idle_halts_once() {
    let postgres = impatient_server().await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let proxy = Proxy::to(postgres.port()).await;
    let url = outbox.database.url_through(proxy.port());
    let mut relay = outbox.streaming(&[], &[("DATABASE_URL", &url)]).await;
    proxy.refuse();
    is_given_up(&outbox).await;
    assert!(relay.is_running(), "a server that cannot be reached is waited for");
    proxy.resume();
    let halted = crate::support::halted(relay).await;
    assert_says_why(&halted, outbox.slot());
    outbox.repair(&["slot", "reset", "--backfill", "--yes", "--lock-timeout", "30s"]).await;
    outbox.streams(&[], &[]).await;
}

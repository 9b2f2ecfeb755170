//! A slot that is moved on purpose, taken over, or cannot decode: the commands say what that means before
//! they change anything.

use crate::slot_reset::{BACKFILL, noted};
use crate::support::wait::SOON;
use crate::support::{Outbox, Postgres, published, unique};

async fn confirmed(outbox: &Outbox) -> String {
    let slot = outbox.slot();
    outbox
        .database
        .value(&format!(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
        ))
        .await
}

async fn ends_here(outbox: &Outbox) -> String {
    outbox.database.value("SELECT pg_current_wal_lsn()::text").await
}

/// Keys in the topic.
async fn keys(outbox: &Outbox, kind: &str) -> Vec<String> {
    let mut topic = outbox.topic(kind);
    let mut keys: Vec<String> =
        topic.read_to_end().await.iter().map(|record| record.key_text().to_owned()).collect();
    keys.sort();
    keys
}

async fn refused(outbox: &Outbox, args: &[&str], parts: &[&str]) {
    let said = outbox.publishing(args, &[]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    for part in parts {
        assert!(said.stderr.contains(part) || said.stdout.contains(part), "{part} is missing: {said:?}");
    }
}

#[tokio::test]
async fn advance_says_how_many_rows_it_skips_and_no_backfill_brings_them() {
    // A server of its own: what is open elsewhere may come again.
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let kind = unique("moved");
    // With a note of how far everything is confirmed, which the move must renew.
    let relay = outbox.streaming(&[], &[]).await;
    noted(&outbox, "ready").await;
    relay.sigterm().await;
    assert_eq!(relay.wait_exit(SOON).await.status.code(), Some(0));
    for n in 0..3 {
        outbox.insert(&kind, &format!("skipped-{n}"), "{}").await;
    }
    let to = ends_here(&outbox).await;
    outbox.insert(&kind, "behind", "{}").await;
    let before = confirmed(&outbox).await;
    refused(&outbox, &["slot", "advance", &to], &["3 rows of public.outbox", &before, &to, "--yes"]).await;
    assert_eq!(confirmed(&outbox).await, before, "nothing is changed");
    let said = outbox.done(&["slot", "advance", &to, "--yes"]).await;
    assert!(said.stdout.contains("3 rows of public.outbox"), "{}", said.stdout);
    assert!(said.stdout.contains(&format!("stands at {}", confirmed(&outbox).await)), "{}", said.stdout);
    refused(
        &outbox,
        &["slot", "advance", "0/1", "--yes"],
        &["cannot be moved back", "slot reset --backfill"],
    )
    .await;
    refused(&outbox, &["slot", "advance", "FFFF/0", "--yes"], &["beyond the end of the server's WAL"]).await;

    outbox.drop_slot_behind_its_back().await;
    outbox.repair(&["slot", "reset", "--backfill", "--yes"]).await;
    outbox.streams(&[], &[]).await;
    assert_eq!(keys(&outbox, &kind).await, ["behind"], "what was passed on purpose does not come");
}

/// Ends a command where the slot is done and the row is not.
const STOPPED: &str = "create function stopped() returns trigger language plpgsql as
         $$ begin raise exception 'stopped before the row says so'; end $$;
     create trigger stopped before update on txstream_checkpoint for each row
         when (old.confirmed_lsn <> new.confirmed_lsn) execute function stopped()";

const GOES_ON: &str = "drop trigger stopped on txstream_checkpoint";

/// What the row does not say yet must not pass for the act of another program.
#[tokio::test]
async fn a_relay_that_starts_while_a_slot_is_moved_goes_on_from_there() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("moving");
    outbox.streams(&[], &[]).await;
    outbox.insert(&kind, "skipped", "{}").await;
    let to = ends_here(&outbox).await;
    outbox.insert(&kind, "behind", "{}").await;
    outbox.database.exec(STOPPED).await;
    refused(&outbox, &["slot", "advance", &to, "--yes"], &["stopped before the row says so"]).await;
    assert_eq!(confirmed(&outbox).await, to, "the slot was moved");
    outbox.database.exec(GOES_ON).await;
    outbox.streams(&[], &[]).await;
    assert_eq!(keys(&outbox, &kind).await, ["behind"]);
}

#[tokio::test]
async fn a_relay_waits_for_a_reset_that_was_stopped_whether_it_backfills_or_not() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("between");
    outbox.streams(&[], &[]).await;
    outbox.database.exec(STOPPED).await;
    let reset = ["slot", "reset", "--yes", "--lock-timeout", "30s"];
    refused(&outbox, &reset, &["stopped before the row says so"]).await;
    assert_eq!(outbox.slots().await, 1, "the new slot is there");
    outbox.database.exec(GOES_ON).await;
    let mut relay = outbox.relay(&[], &[]).await;
    relay.wait_for_log("it waits", SOON, |line| line.contains("slot reset --backfill again")).await;
    outbox.insert(&kind, "in-the-gap", "{}").await;
    outbox.repair(&reset).await;
    relay.wait_ready().await;
    outbox.insert(&kind, "behind", "{}").await;
    published(&relay, 1).await;
    assert_eq!(keys(&outbox, &kind).await, ["behind"]);
}

#[tokio::test]
async fn a_slot_in_use_or_lost_is_neither_advanced_nor_adopted() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    let to = ends_here(&outbox).await;
    let commands = [&["slot", "advance", &to, "--yes"][..], &["slot", "adopt", "--yes"]];
    for args in commands {
        refused(&outbox, args, &["is in use by pid"]).await;
    }
    drop(relay);
    outbox.drop_slot_behind_its_back().await;
    for args in commands {
        refused(&outbox, args, &["txstream slot reset --backfill"]).await;
    }
}

#[tokio::test]
async fn adopt_shows_what_the_checkpoint_says_asks_and_moves_nothing() {
    let outbox = Outbox::with_slot().await;
    outbox.streams(&[], &[]).await;
    let said = outbox.done(&["slot", "adopt"]).await;
    assert!(said.stdout.contains("nothing to adopt"), "{}", said.stdout);

    let kind = unique("adopted");
    outbox.insert(&kind, "passed-by-another", "{}").await;
    let slot = outbox.slot();
    let advance = format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())");
    outbox.database.exec(&advance).await;
    outbox.database.exec("UPDATE txstream_checkpoint SET system_identifier = '4711', database = 'old'").await;
    outbox.insert(&kind, "behind", "{}").await;
    let at = confirmed(&outbox).await;
    let shown = ["4711", "old", slot, &at, "--yes"];
    refused(&outbox, &["slot", "adopt"], &shown).await;
    outbox.halts(&[], &[]).await.advises("txstream slot adopt");
    outbox.done(&["slot", "adopt", "--yes"]).await;
    assert_eq!(confirmed(&outbox).await, at);
    outbox.streams(&[], &[]).await;
    assert_eq!(keys(&outbox, &kind).await, ["behind"]);
}

#[tokio::test]
async fn what_another_passed_is_still_brought_by_a_backfill() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("passed");
    outbox.streams(&[], &[]).await;
    outbox.insert(&kind, "passed-by-another", "{}").await;
    let advance = format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())", outbox.slot());
    outbox.database.exec(&advance).await;
    outbox.halts(&[], &[]).await.advises("txstream slot reset --backfill");
    outbox.repair(&["slot", "reset", "--backfill", "--yes", "--lock-timeout", "30s"]).await;
    outbox.streams(&[], &[]).await;
    assert_eq!(keys(&outbox, &kind).await, ["passed-by-another"]);
}

#[tokio::test]
async fn dead_letters_of_another_cluster_are_dealt_with_before_a_slot_goes_on() {
    let outbox = Outbox::with_slot().await;
    let slot = outbox.slot();
    // As a dump of another cluster brings it.
    let restored = format!(
        "INSERT INTO txstream_dead_letter
             (slot, table_name, row_id, commit_lsn, ordinal, topic, key, reason, error, header_names, header_values)
         SELECT '{slot}', 'public.outbox', n::text, 'FFFF/0', n, 'outbox.event.other', 'k', 'behind', '', '{{}}', '{{}}'
           FROM generate_series(1, 2) n"
    );
    let discard = &["dead-letter", "discard", "--all", "--yes"];
    let counted = format!("2 dead letters of slot {slot}");
    let says = [
        counted.as_str(),
        "stand beyond the end of this server's WAL",
        "txstream dead-letter replay --all",
        "txstream dead-letter discard --all",
    ];
    outbox.database.exec(&restored).await;
    outbox.database.exec("UPDATE txstream_checkpoint SET system_identifier = '4711'").await;
    for args in [&["slot", "adopt", "--yes"][..], &["slot", "reset", "--yes"], BACKFILL] {
        refused(&outbox, args, &says).await;
    }
    assert_eq!(outbox.slots().await, 1, "the slot is as it was");
    outbox.done(discard).await;
    outbox.done(&["slot", "adopt", "--yes"]).await;
    outbox.database.exec(&restored).await;
    outbox.halts(&[], &[]).await.names(&says[..2]).advises("txstream dead-letter discard --all");
    outbox.done(discard).await;
    outbox.streams(&[], &[]).await;

    outbox.done(&["slot", "drop", "--yes"]).await;
    outbox.database.exec(&restored).await;
    for args in [&["slot", "create"][..], &["slot", "create", "--backfill"]] {
        refused(&outbox, args, &says).await;
    }
    assert_eq!(outbox.slots().await, 0);
    outbox.done(discard).await;
    outbox.done(&["slot", "create", "--lock-timeout", "30s"]).await;
    outbox.streams(&[], &[]).await;
}

/// A slot made by hand before its publication, with rows in between.
async fn younger(version: u32) {
    let postgres = Postgres::start(version, &[]).await;
    let outbox = Outbox::migrated_on(&postgres).await;
    let kind = unique("younger");
    // From 18 on only a warning tells, whatever people want to hear.
    let quiet = format!("ALTER DATABASE \"{}\" SET client_min_messages = error", outbox.database.name());
    outbox.database.exec(&quiet).await;
    outbox.database.exec("DROP PUBLICATION txstream_outbox").await;
    let slot = outbox.slot();
    outbox.database.exec(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    outbox.insert(&kind, "in-between", "{}").await;
    outbox.done(&["migrate", "up"]).await;
    outbox.insert(&kind, "behind", "{}").await;
    outbox.halts(&[], &[]).await.names(&["publication"]).advises("txstream slot reset --backfill");
    refused(&outbox, &["slot", "create"], &["is younger than slot", "txstream slot reset --backfill"]).await;
    let said = outbox.cli(&["doctor", "--output", "json"]).await;
    let report: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|found| found["check"] == "publication_age").unwrap();
    assert_eq!(
        (&found["status"], &found["mend"]),
        (&"fail".into(), &"txstream slot reset --backfill".into())
    );
    outbox.repair(&["slot", "reset", "--backfill", "--yes"]).await;
    let said = outbox.done(&["slot", "create"]).await;
    assert!(said.stdout.contains("exists already"), "{}", said.stdout);
    outbox.streams(&[], &[]).await;
    assert_eq!(keys(&outbox, &kind).await, ["behind", "in-between"]);
}

#[tokio::test]
async fn a_publication_younger_than_the_slot_is_named_on_17() {
    younger(17).await;
}

#[tokio::test]
async fn a_publication_younger_than_the_slot_is_named_on_18() {
    younger(18).await;
}

//! What changes under a relay: a table that is not the one it began with, a publication that hides
//! rows, a slot that is lost or was moved. Each would be a silent gap; each ends with exit code 1
//! and what to do.

use std::time::Duration;

use crate::starting::DROP_AND_ADD;
use crate::support::port::free_port;
use crate::support::wait::SOON;
use crate::support::{Halted, Kafka, Outbox, Postgres, eventually, halted, published, run_cli, unique};

/// The tables are looked at every ten seconds.
const NOTICED: Duration = Duration::from_secs(14);

/// Starts a relay, changes something behind its back and waits until it halts.
async fn halts_after(outbox: &Outbox, sql: &str) -> Halted {
    let relay = outbox.streaming(&[], &[]).await;
    outbox.database.exec(sql).await;
    let begin = tokio::time::Instant::now();
    let halted = halted(relay).await;
    assert!(begin.elapsed() < NOTICED, "it took {:?}", begin.elapsed());
    halted
}

#[tokio::test]
async fn a_table_dropped_and_recreated_while_streaming_halts() {
    let outbox = Outbox::with_slot().await;
    let sql =
        "CREATE TABLE new (LIKE outbox INCLUDING ALL); DROP TABLE outbox; ALTER TABLE new RENAME TO outbox";
    let halted = halts_after(&outbox, sql).await;
    halted.names(&["txstream_outbox does not cover public.outbox"]);
    let sql = halted.advises(r#"ALTER PUBLICATION "txstream_outbox" ADD TABLE "public"."outbox";"#);
    outbox.database.exec(sql).await;
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn a_table_swapped_and_published_while_streaming_halts_all_the_same() {
    let outbox = Outbox::with_slot().await;
    let sql = "CREATE TABLE new (LIKE outbox INCLUDING ALL);
               ALTER PUBLICATION txstream_outbox ADD TABLE new;
               ALTER TABLE outbox RENAME TO old; ALTER TABLE new RENAME TO outbox";
    let halted = halts_after(&outbox, sql).await;
    halted.names(&["public.outbox is another table than streaming began with"]);
    halted.advises("start the relay again to go on with the new table");
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn a_table_taken_from_the_publication_while_streaming_halts() {
    let outbox = Outbox::with_slot().await;
    let halted = halts_after(&outbox, "ALTER PUBLICATION txstream_outbox DROP TABLE outbox").await;
    halted.names(&["txstream_outbox does not cover public.outbox"]).advises("txstream migrate up");
    outbox.done(&["migrate", "up"]).await;
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn a_row_filter_added_while_streaming_halts() {
    // Publications can do so from 15 on.
    if Postgres::default_version() < 15 {
        return;
    }
    let outbox = Outbox::with_slot().await;
    let sql = "ALTER PUBLICATION txstream_outbox SET TABLE outbox WHERE (aggregatetype <> 'secret')";
    let halted = halts_after(&outbox, sql).await;
    outbox.database.exec(halted.names(&["hides rows by the filter"]).advises(DROP_AND_ADD)).await;
    outbox.streams(&[], &[]).await;
}

/// Follows the advice for a slot that is lost.
async fn begin_anew(outbox: &Outbox, halted: &Halted) {
    halted.advises("txstream slot reset --backfill");
    outbox.repair(&["slot", "reset", "--backfill", "--yes", "--lock-timeout", "30s"]).await;
    outbox.streams(&[], &[]).await;
}

/// Few lines: it did not try again and again.
pub(crate) fn assert_not_hot(halted: &Halted) {
    assert!(halted.stderr.lines().count() < 30, "{}", halted.stderr);
}

#[tokio::test]
async fn a_slot_dropped_while_streaming_halts_once_and_is_not_made_again() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&["--create-slot"], &[]).await;
    outbox.drop_slot_behind_its_back().await;
    let halted = halted(relay).await;
    halted.names(&[outbox.slot(), "is gone", "confirmed up to"]);
    assert_not_hot(&halted);
    assert_eq!(outbox.slots().await, 0);
    begin_anew(&outbox, &halted).await;
}

#[tokio::test]
async fn a_slot_that_the_server_gave_up_halts_between_sessions_and_while_streaming() {
    let settings = [("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")];
    let postgres = Postgres::start(Postgres::default_version(), &settings).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    outbox.database.exec("CREATE TABLE noise (a text)").await;

    outbox.streams(&[], &[]).await;
    remove_wal(&outbox).await;
    let between = outbox.halts(&[], &[]).await;
    between.names(&[outbox.slot(), "is lost", "max_slot_wal_keep_size"]);
    assert_not_hot(&between);
    begin_anew(&outbox, &between).await;

    let relay = outbox.streaming(&[], &[]).await;
    // Decoding needs WAL from where the oldest open transaction began, whatever is confirmed.
    let open = outbox.database.client().await;
    open.batch_execute("BEGIN; INSERT INTO noise VALUES ('open')").await.unwrap();
    remove_wal(&outbox).await;
    let streaming = halted(relay).await;
    streaming.names(&[outbox.slot(), "is lost", "max_slot_wal_keep_size"]);
    assert_not_hot(&streaming);
    open.batch_execute("ROLLBACK").await.unwrap();
    begin_anew(&outbox, &streaming).await;

    // A relay that cannot publish reads nothing, and sees it all the same.
    let nobody = format!("127.0.0.1:{}", free_port().await);
    let mut relay = outbox.relay(&[], &[("KAFKA_BROKERS", &nobody), ("SHUTDOWN_TIMEOUT", "1s")]).await;
    relay.wait_ready().await;
    outbox.insert("kept", "1", "{}").await;
    remove_wal(&outbox).await;
    let away = halted(relay).await;
    away.names(&[outbox.slot(), "is lost", "max_slot_wal_keep_size"]);
    begin_anew(&outbox, &away).await;
}

/// Writes until a checkpoint takes WAL from the slot.
pub(crate) async fn remove_wal(outbox: &Outbox) {
    let slot = outbox.slot();
    let lost = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND wal_status = 'lost'"
    );
    for _ in 0..10 {
        let noise = "INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 20000)";
        outbox.database.exec(noise).await;
        outbox.database.exec("CHECKPOINT").await;
        if outbox.database.value::<i64>(&lost).await == 1 {
            return;
        }
    }
    panic!("the server still keeps the slot's WAL");
}

#[tokio::test]
async fn a_server_that_ends_the_session_is_no_reason_to_halt() {
    let outbox = Outbox::with_slot().await;
    let mut relay = outbox.streaming(&[], &[]).await;
    let slot = outbox.slot();
    outbox
        .database
        .exec(&format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}'"
        ))
        .await;
    relay.wait_for_log("it connects again", SOON, |line| line.contains("not streaming")).await;
    relay.wait_ready().await;
    outbox.insert("ready", "1", "{}").await;
    published(&relay, 2).await;
}

#[tokio::test]
async fn what_was_confirmed_before_a_crash_is_not_taken_for_a_gap() {
    let outbox = Outbox::with_slot().await;
    // Each session ends abruptly right after its first confirmation, sooner than any periodic write.
    for _ in 0..3 {
        let relay = outbox.streaming(&[], &[]).await;
        let slot = outbox.slot();
        let confirmed = format!(
            "SELECT s.confirmed_flush_lsn > c.confirmed_lsn FROM pg_replication_slots s
               JOIN txstream_checkpoint c ON c.slot = s.slot_name WHERE s.slot_name = '{slot}'"
        );
        eventually(SOON, "the slot is ahead of its row", async || {
            outbox.insert("ready", "1", "{}").await;
            outbox.database.value::<bool>(&confirmed).await.then_some(())
        })
        .await;
        relay.kill9().await;
        let clean = format!("SELECT clean FROM txstream_checkpoint WHERE slot = '{slot}'");
        assert!(!outbox.database.value::<bool>(&clean).await, "the row says that the stop was clean");
    }
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn a_slot_moved_past_what_was_confirmed_halts_and_names_the_gap() {
    let outbox = Outbox::with_slot().await;
    outbox.streams(&[], &[]).await;
    let slot = outbox.slot();
    let confirmed =
        format!("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let before: String = outbox.database.value(&confirmed).await;
    outbox.insert("skipped", "1", "{}").await;
    let advance = format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())");
    outbox.database.exec(&advance).await;
    let after: String = outbox.database.value(&confirmed).await;
    let halted = outbox.halts(&[], &[]).await;
    halted.names(&[slot, &before, &after, "ahead of"]);
    halted.advises("txstream slot adopt");
    outbox.done(&["slot", "adopt", "--yes"]).await;
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn a_checkpoint_of_another_cluster_or_database_halts() {
    let outbox = Outbox::with_slot().await;
    for (column, named) in [("system_identifier", "another cluster"), ("database", "another database")] {
        outbox.database.exec(&format!("UPDATE txstream_checkpoint SET {column} = '7'")).await;
        let halted = outbox.halts(&[], &[]).await;
        halted.names(&[named]).advises("txstream slot adopt");
        outbox.done(&["slot", "adopt", "--yes"]).await;
        outbox.streams(&[], &[]).await;
    }
}

#[tokio::test]
async fn a_copied_database_gets_no_slot_in_place_of_the_original_one() {
    let outbox = Outbox::migrated().await;
    let slot = outbox.slot();
    outbox
        .database
        .exec(&format!(
            "INSERT INTO txstream_checkpoint (slot, system_identifier, database, instance, clean)
                 VALUES ('{slot}', '7', 'original', 'i', true)"
        ))
        .await;
    let halted = outbox.halts(&["--create-slot"], &[]).await;
    halted.names(&["another cluster"]);
    let said = outbox.cli(&["slot", "create"]).await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert_eq!(outbox.slots().await, 0);
    let reset = "txstream slot reset --backfill";
    assert!(said.stderr.contains(reset), "{}", said.stderr);
    halted.advises(reset);
    outbox.repair(&["slot", "reset", "--backfill", "--yes", "--lock-timeout", "30s"]).await;
    outbox.streams(&["--create-slot"], &[]).await;
}

#[tokio::test]
async fn a_slot_behind_its_checkpoint_is_resumed_with_a_warning() {
    let outbox = Outbox::with_slot().await;
    outbox
        .database
        .exec("UPDATE txstream_checkpoint SET confirmed_lsn = pg_current_wal_lsn() + 100000")
        .await;
    let relay = outbox.streaming(&[], &[]).await;
    assert!(relay.log().iter().any(|line| line.contains("the slot is behind")), "{:?}", relay.log());
}

#[tokio::test]
async fn a_slot_that_was_never_there_is_no_slot_to_drop() {
    let outbox = Outbox::migrated().await;
    let url = outbox.database.url();
    let env = [("DATABASE_URL", url.as_str()), ("REPLICATION_SLOT", outbox.slot())];
    let said = run_cli(&["slot", "drop", "--yes"], &env).await;
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("there is no slot"), "{}", said.stderr);
}

/// Sets or resets the standbys that commits wait for.
async fn synchronous_standbys(outbox: &Outbox, names: &str) {
    // ALTER SYSTEM runs alone.
    let client = outbox.database.client().await;
    client.batch_execute(&format!("alter system set synchronous_standby_names = '{names}'")).await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
}

#[tokio::test]
async fn a_relay_taken_for_a_synchronous_standby_says_so_and_none_of_its_own_commits_waits() {
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let (outbox, kafka) = (Outbox::with_slot_on(&postgres).await, Kafka::start(&[]).await);
    let kind = unique("synchronous");
    let env = [("KAFKA_BROKERS", kafka.bootstrap()), ("WORKER_ON_REJECT", "dead-letter")];
    let mut relay = outbox.relay(&[], &env).await;
    relay.wait_ready().await;
    outbox.insert(&kind, "flows", "{}").await;
    published(&relay, 1).await;

    synchronous_standbys(&outbox, "txstream").await;
    let warned = |line: &str| line.contains("ERROR") && line.contains("synchronous standby");
    relay.wait_for_log("commits may wait for Kafka", SOON, warned).await;
    let warnings = async || relay.status().await["warnings"].as_array().unwrap().clone();
    assert!(warnings().await[0].as_str().unwrap().contains("synchronous_standby_names"));

    kafka.freeze().await;
    // An application's commit does wait: that is what the warning is about.
    let waiting = outbox.database.client().await;
    let insert = format!(
        "insert into outbox (aggregatetype, aggregateid, type, payload) values ('{kind}', 'waits', 'T', '{{}}')"
    );
    let waiting = tokio::spawn(async move { waiting.batch_execute(&insert).await });
    let sessions = "select coalesce(array_agg(application_name), '{}') from pg_stat_activity where wait_event = 'SyncRep'";
    let waits = async || outbox.database.value::<Vec<String>>(sessions).await;
    eventually(SOON, "the commit waits", async || (waits().await == [""]).then_some(())).await;

    // What the relay itself commits meanwhile: a letter, of a topic that nothing else waits for, and its checkpoint row.
    let now: String = outbox.database.value("select clock_timestamp()::text").await;
    outbox
        .database
        .exec(
            "set synchronous_commit = local;
             insert into outbox (aggregatetype, aggregateid, type) values ('no name of a topic', 'k', 'T')",
        )
        .await;
    let letters = "select count(*) from txstream_dead_letter";
    eventually(SOON, "the letter is stored", async || {
        (outbox.database.value::<i64>(letters).await == 1).then_some(())
    })
    .await;
    let noted =
        format!("select updated_at > '{now}' from txstream_checkpoint where slot = '{}'", outbox.slot());
    eventually(SOON, "the checkpoint row is written", async || {
        outbox.database.value::<bool>(&noted).await.then_some(())
    })
    .await;
    assert_eq!(waits().await, [""], "only the application waits");
    assert!(!waiting.is_finished(), "it waits for Kafka");

    synchronous_standbys(&outbox, "").await;
    tokio::time::timeout(SOON, waiting).await.expect("nothing waits any more").unwrap().unwrap();
    eventually(SOON, "the warning goes", async || warnings().await.is_empty().then_some(())).await;
    kafka.thaw().await;
    published(&relay, 2).await;
    relay.sigterm().await;
    assert_eq!(relay.wait_exit(SOON).await.status.code(), Some(0));
}

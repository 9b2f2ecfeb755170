//! A slot that was lost is made anew, and what it had not confirmed is published from the table: all of
//! it, before anything newer, and few rows again. Broken off anywhere, it is run again.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::sleep;

use crate::checks::remove_wal;
use crate::load::RECOVERY;
use crate::support::port::free_port;
use crate::support::wait::SOON;
use crate::support::{Outbox, Postgres, Relay, eventually, http, published, unique};

/// What repairs: other tests' transactions on the shared server are waited for.
pub(crate) const BACKFILL: &[&str] = &["slot", "reset", "--backfill", "--yes", "--lock-timeout", "30s"];

/// Rows of one commit each, with the key `key` and payloads that count from 1.
pub(crate) async fn rows(outbox: &Outbox, kind: &str, key: &str, count: u32) {
    let client = outbox.database.client().await;
    for n in 1..=count {
        let sql = format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('{kind}', '{key}', 't', '{n}')"
        );
        client.batch_execute(&sql).await.unwrap();
    }
}

/// The ids that the table has.
pub(crate) async fn written(outbox: &Outbox, kind: &str, condition: &str) -> BTreeSet<String> {
    let sql = format!("SELECT id::text FROM outbox WHERE aggregatetype = '{kind}' AND {condition}");
    outbox.database.query(&sql).await.iter().map(|row| row.get(0)).collect()
}

/// The ids that the topic has, and how often.
pub(crate) async fn arrived(outbox: &Outbox, kind: &str) -> HashMap<String, usize> {
    let mut topic = outbox.topic(kind);
    let mut ids = HashMap::new();
    for record in topic.read_to_end().await {
        *ids.entry(record.header("id").unwrap().to_owned()).or_default() += 1;
    }
    ids
}

/// Every row of the table is in the topic, and nothing else.
pub(crate) async fn assert_all_arrived(outbox: &Outbox, kind: &str) -> HashMap<String, usize> {
    let (written, arrived) = (written(outbox, kind, "true").await, arrived(outbox, kind).await);
    let ids: BTreeSet<String> = arrived.keys().cloned().collect();
    assert!(written == ids, "missing {:?}", written.difference(&ids).take(5).collect::<Vec<_>>());
    arrived
}

/// Commits rows until the relay has noted that all of this kind are confirmed.
pub(crate) async fn noted(outbox: &Outbox, kind: &str) {
    let noted = format!(
        "SELECT count(*) FROM txstream_checkpoint WHERE recovery_xid >
             (SELECT max(xmin::text::bigint) FROM outbox WHERE aggregatetype = '{kind}')"
    );
    eventually(RECOVERY, "the relay has noted how far everything is confirmed", async || {
        outbox.insert("tick", "1", "{}").await;
        (outbox.database.value::<i64>(&noted).await == 1).then_some(())
    })
    .await;
}

async fn stop(relay: Relay) {
    relay.sigterm().await;
    let exit = relay.wait_exit(SOON).await;
    assert_eq!(exit.status.code(), Some(0), "{}", exit.stderr);
}

/// Rows that a relay confirmed and noted before it stopped, then rows that none has seen.
async fn confirmed_and_not(outbox: &Outbox, kind: &str, confirmed: u32, unpublished: u32) {
    let relay = outbox.streaming(&[], &[]).await;
    rows(outbox, kind, "confirmed", confirmed).await;
    noted(outbox, kind).await;
    stop(relay).await;
    rows(outbox, kind, "unpublished", unpublished).await;
}

pub(crate) async fn pending(outbox: &Outbox) -> bool {
    outbox.database.value("SELECT coalesce(bool_or(backfill_pending), false) FROM txstream_checkpoint").await
}

#[tokio::test]
async fn what_a_lost_slot_had_not_confirmed_is_published_once_and_what_was_confirmed_is_not_repeated() {
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let kind = unique("lost");
    confirmed_and_not(&outbox, &kind, 200, 1_000).await;
    // Rows written under savepoints have ids of their own.
    outbox
        .database
        .exec(&format!(
            "BEGIN; INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('{kind}', 's', 't');
             SAVEPOINT one; INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('{kind}', 's', 't');
             SAVEPOINT two; INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('{kind}', 's', 't');
             ROLLBACK TO two; RELEASE one; COMMIT;
             DO $$ BEGIN INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('{kind}', 'x', 't');
                EXCEPTION WHEN others THEN NULL; END $$"
        ))
        .await;
    outbox.drop_slot_behind_its_back().await;
    let said = outbox.repair(BACKFILL).await;
    assert!(said.stdout.contains("the gap is ["), "{}", said.stdout);
    assert!(said.stdout.contains("published 10"), "{}", said.stdout);
    let arrived = assert_all_arrived(&outbox, &kind).await;
    assert_eq!(arrived.len(), 1_203);
    let again: Vec<_> = arrived.iter().filter(|(_, times)| **times > 1).collect();
    assert!(again.is_empty(), "{again:?}");
    let mut topic = outbox.topic(&kind);
    let order: Vec<u32> = topic
        .read_to_end()
        .await
        .iter()
        .filter(|record| record.key_text() == "unpublished")
        .map(|record| record.value_text().parse().unwrap())
        .collect();
    assert!(order.is_sorted(), "in the order in which their transactions began");

    let relay = outbox.streaming(&[], &[]).await;
    rows(&outbox, &kind, "behind", 10).await;
    published(&relay, 11).await;
    let arrived = assert_all_arrived(&outbox, &kind).await;
    assert_eq!(arrived.values().sum::<usize>(), 1_213, "the stream begins where the backfill ended");
}

#[tokio::test]
async fn rows_of_a_transaction_that_is_open_across_the_reset_arrive() {
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let kind = unique("open");
    let relay = outbox.streaming(&[], &[]).await;
    rows(&outbox, &kind, "first", 1).await;
    noted(&outbox, &kind).await;
    let insert = |key: &str| {
        format!("INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('{kind}', '{key}', 't')")
    };
    let open = outbox.database.client().await;
    open.batch_execute(&format!("BEGIN; {}; SAVEPOINT s; {}", insert("open"), insert("open"))).await.unwrap();
    // The relay notes again, with the transaction open.
    rows(&outbox, &kind, "second", 50).await;
    let before: i64 = outbox.database.value("SELECT recovery_xid FROM txstream_checkpoint").await;
    eventually(RECOVERY, "the relay notes the open transaction", async || {
        outbox.insert("tick", "1", "{}").await;
        (outbox.database.value::<i64>("SELECT recovery_xid FROM txstream_checkpoint").await > before)
            .then_some(())
    })
    .await;
    stop(relay).await;
    outbox.drop_slot_behind_its_back().await;
    let reset = outbox.repair(BACKFILL);
    let commits = async {
        let waits = "SELECT count(*) FROM pg_stat_activity a JOIN txstream_checkpoint c ON c.backfill_pending
                      WHERE a.application_name LIKE 'txstream%'";
        // The command waits for the transaction before it drops anything: it asks now and then.
        let client = outbox.database.client().await;
        eventually(SOON, "the command is at work", async || {
            let at_work = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'txstream slot'";
            (client.query_one(at_work, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
        })
        .await;
        assert_eq!(client.query_one(waits, &[]).await.unwrap().get::<_, i64>(0), 0, "nothing is changed yet");
        open.batch_execute(&format!("{}; COMMIT", insert("open"))).await.unwrap();
    };
    tokio::join!(reset, commits);
    outbox.streams(&[], &[]).await;
    assert_all_arrived(&outbox, &kind).await;
}

#[tokio::test]
async fn rows_of_a_slot_that_the_server_gave_up_arrive() {
    let settings = [("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")];
    let postgres = Postgres::start(Postgres::default_version(), &settings).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    outbox.database.exec("CREATE TABLE noise (a text)").await;
    let kind = unique("given_up");
    confirmed_and_not(&outbox, &kind, 20, 100).await;
    remove_wal(&outbox).await;
    outbox.halts(&[], &[]).await.advises("txstream slot reset --backfill");
    outbox.repair(BACKFILL).await;
    outbox.streams(&[], &[]).await;
    let arrived = assert_all_arrived(&outbox, &kind).await;
    assert_eq!(arrived.values().sum::<usize>(), 120, "each once");
}

#[tokio::test]
async fn a_backfill_killed_midway_is_run_again_and_a_relay_waits_until_it_is_done() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("killed");
    outbox
        .database
        .exec(&format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
                 SELECT '{kind}', 'key-' || n % 7, 't', to_jsonb(n) FROM generate_series(1, 30000) n"
        ))
        .await;
    outbox.drop_slot_behind_its_back().await;
    let url = outbox.database.url();
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("REPLICATION_SLOT", outbox.slot()),
        ("KAFKA_BROKERS", outbox.kafka.bootstrap()),
        // Slow: a few records at a time.
        ("WORKER_MAX_IN_FLIGHT_BYTES", "4KiB"),
    ];
    let mut command = Relay::spawn(BACKFILL, &env).await;
    let mut topic = outbox.topic(&kind);
    topic.read_count(100).await;
    assert!(command.is_running(), "it was done sooner than it could be killed");
    command.kill9().await;
    assert!(pending(&outbox).await);

    let mut relay = outbox.relay(&[], &[]).await;
    relay.wait_for_log("it says what for", SOON, |line| line.contains("slot reset --backfill again")).await;
    let ready = relay.get("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.body);
    assert!(ready.body.contains("backfill"), "{}", ready.body);
    // Written and deleted: it can only come by the slot that was made.
    let gone = format!(
        "BEGIN; INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('{kind}', 'gone', 't');
         DELETE FROM outbox WHERE aggregateid = 'gone'; COMMIT"
    );
    outbox.database.exec(&gone).await;
    let advance = outbox.cli(&["slot", "advance", "0/1", "--yes"]).await;
    assert!(advance.stderr.contains("was begun and not finished"), "{advance:?}");

    let said = outbox.repair(BACKFILL).await;
    assert!(!pending(&outbox).await, "{said:?}");
    relay.wait_ready().await;
    published(&relay, 1).await;
    let mut arrived = arrived(&outbox, &kind).await;
    let ids = written(&outbox, &kind, "true").await;
    assert_eq!(ids.len(), 30_000);
    assert!(ids.iter().all(|id| arrived.remove(id).is_some()), "a row is missing");
    assert_eq!(arrived.len(), 1, "and the one that was deleted");
}

#[tokio::test]
async fn a_reset_killed_before_it_published_anything_goes_on_with_the_slot_that_it_made() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("early");
    rows(&outbox, &kind, "k", 20).await;
    let nobody = format!("127.0.0.1:{}", free_port().await);
    let url = outbox.database.url();
    let env =
        [("DATABASE_URL", url.as_str()), ("REPLICATION_SLOT", outbox.slot()), ("KAFKA_BROKERS", &nobody)];
    let command = Relay::spawn(BACKFILL, &env).await;
    let made = format!(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots JOIN txstream_checkpoint c ON slot = slot_name
          WHERE slot_name = '{}' AND c.backfill_pending AND c.instance = 'txstream slot reset'",
        outbox.slot()
    );
    let client = outbox.database.client().await;
    let at: String = eventually(SOON, "the new slot is there", async || {
        client.query_opt(&made, &[]).await.unwrap()?.get::<_, Option<String>>(0)
    })
    .await;
    command.kill9().await;
    let said = outbox.repair(BACKFILL).await;
    assert!(said.stdout.contains(&format!("slot {} at {at}", outbox.slot())), "{}", said.stdout);
    outbox.streams(&[], &[]).await;
    assert_all_arrived(&outbox, &kind).await;
}

#[tokio::test]
async fn a_backfill_told_to_stop_says_that_it_has_to_be_run_again() {
    let outbox = Outbox::with_slot().await;
    rows(&outbox, "stopped", "k", 5).await;
    let nobody = format!("127.0.0.1:{}", free_port().await);
    let url = outbox.database.url();
    let env =
        [("DATABASE_URL", url.as_str()), ("REPLICATION_SLOT", outbox.slot()), ("KAFKA_BROKERS", &nobody)];
    let command = Relay::spawn(BACKFILL, &[&env[..], &[("SHUTDOWN_TIMEOUT", "1s")]].concat()).await;
    eventually(SOON, "the backfill is pending", async || pending(&outbox).await.then_some(())).await;
    command.wait_for_log("Kafka is not there", SOON, |line| line.contains("no Kafka broker")).await;
    command.sigterm().await;
    let exit = command.wait_exit(SOON).await;
    assert_eq!(exit.status.code(), Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains("run it again"), "{}", exit.stderr);
    assert!(pending(&outbox).await);
    outbox.repair(BACKFILL).await;
    outbox.streams(&[], &[]).await;
}

#[tokio::test]
async fn a_reset_shows_the_gap_and_asks_and_without_a_backfill_skips_it() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("gap");
    outbox.streams(&[], &[]).await;
    rows(&outbox, &kind, "in-the-gap", 7).await;
    let confirmed = format!(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{}'",
        outbox.slot()
    );
    let before: String = outbox.database.value(&confirmed).await;
    for args in [&["slot", "reset"][..], &["slot", "reset", "--backfill"]] {
        let said = outbox.publishing(args, &[]).await;
        assert_eq!(said.code, Some(1), "no terminal and no --yes: {said:?}");
        assert!(said.stderr.contains("--yes"), "{said:?}");
        assert!(said.stdout.contains(" rows of public.outbox"), "{said:?}");
        assert_eq!(outbox.database.value::<String>(&confirmed).await, before, "nothing is changed");
        assert!(!pending(&outbox).await);
    }
    let said = outbox.done(&["slot", "reset", "--yes", "--lock-timeout", "30s"]).await;
    assert!(said.stdout.contains(&format!("the gap is [{before}, ")), "{}", said.stdout);
    outbox.streams(&[], &[]).await;
    rows(&outbox, &kind, "behind", 3).await;
    outbox.streams(&[], &[]).await;
    let ids: BTreeSet<String> = arrived(&outbox, &kind).await.into_keys().collect();
    assert_eq!(ids, written(&outbox, &kind, "aggregateid = 'behind'").await);
}

#[tokio::test]
async fn a_slot_in_use_is_not_reset() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    for args in [BACKFILL, &["slot", "reset", "--yes"]] {
        let said = outbox.publishing(args, &[]).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("is in use by pid"), "{said:?}");
    }
    assert!(!pending(&outbox).await);
    assert_eq!(http::get(relay.admin(), "/readyz").await.unwrap().status, 200);
    outbox.insert("ready", "1", "{}").await;
    published(&relay, 2).await;
}

#[tokio::test]
async fn a_reset_killed_at_any_moment_is_finished_by_the_next_run() {
    // A server of its own: nothing delays the making of a slot.
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let kind = unique("any_moment");
    confirmed_and_not(&outbox, &kind, 20, 500).await;
    outbox.drop_slot_behind_its_back().await;
    let url = outbox.database.url();
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("REPLICATION_SLOT", outbox.slot()),
        ("KAFKA_BROKERS", outbox.kafka.bootstrap()),
        ("WORKER_MAX_IN_FLIGHT_BYTES", "4KiB"),
    ];
    let mut killed = 0;
    for moment in 0..12 {
        let mut command = Relay::spawn(BACKFILL, &env).await;
        // Connecting, looking, marking, dropping, creating and publishing take a few hundred.
        sleep(Duration::from_millis(20 + 40 * moment)).await;
        killed += u32::from(command.is_running());
        command.kill9().await;
        outbox.insert(&kind, "meanwhile", "{}").await;
    }
    assert!(killed > 3, "too few of them were at work: {killed}");
    outbox.repair(BACKFILL).await;
    outbox.streams(&[], &[]).await;
    assert_all_arrived(&outbox, &kind).await;
}

//! `outbox prune` removes old rows that are confirmed, and never one that is not.

use serde_json::Value;

use crate::support::outbox::{Outbox, published};
use crate::support::wait::SOON;
use crate::support::{Relay, eventually};

const OLD: &str = "now() at time zone 'utc' - interval '10 days'";

/// Commits a row whose `timestamp` says that it is ten days old.
async fn insert_old(outbox: &Outbox, aggregateid: &str) {
    let sql = format!(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, \"timestamp\")
             VALUES ('pruned', '{aggregateid}', 'Tested', '{{}}', {OLD})"
    );
    outbox.database.exec(&sql).await;
}

async fn rows(outbox: &Outbox) -> i64 {
    outbox.database.value("SELECT count(*) FROM outbox").await
}

async fn prune(outbox: &Outbox, args: &[&str]) -> Value {
    let all = [&["outbox", "prune", "--older-than", "7d", "--output", "json"], args].concat();
    serde_json::from_str(&outbox.done(&all).await.stdout).unwrap()
}

/// Waits until the relay has noted what is confirmed, and stops it.
async fn stop_when_noted(outbox: &Outbox, relay: Relay) {
    let noted = format!(
        "SELECT count(*) = 1 FROM txstream_checkpoint WHERE slot = '{}' AND recovery_xid IS NOT NULL",
        outbox.slot()
    );
    eventually(SOON, "a recovery pair", async || {
        // It is noted only while records are confirmed.
        outbox.insert("ready", "1", "{}").await;
        outbox.database.value::<bool>(&noted).await.then_some(())
    })
    .await;
    relay.sigterm().await;
    assert_eq!(relay.wait_exit(SOON).await.status.code(), Some(0));
}

#[tokio::test]
async fn old_confirmed_rows_go_and_young_ones_stay() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    for n in 0..50 {
        insert_old(&outbox, &n.to_string()).await;
    }
    published(&relay, 51).await;

    // Any open transaction of the server, such as other tests', may hold back what is known.
    let dry = eventually(SOON, "50 rows to be known as confirmed", async || {
        let dry = prune(&outbox, &["--dry-run"]).await;
        (dry["rows_deleted"] == 50).then_some(dry)
    })
    .await;
    assert_eq!(dry["dry_run"], true, "{dry}");
    assert_eq!(rows(&outbox).await, 51, "a dry run changes nothing");

    eventually(SOON, "all of them to go", async || {
        prune(&outbox, &[]).await;
        (rows(&outbox).await == 1).then_some(())
    })
    .await;
    assert_eq!(rows(&outbox).await, 1, "the young row stays");
    assert_eq!(prune(&outbox, &[]).await["rows_deleted"], 0);
}

#[tokio::test]
async fn an_old_row_that_is_not_confirmed_stays_until_it_is() {
    let outbox = Outbox::with_slot().await;
    stop_when_noted(&outbox, outbox.streaming(&[], &[]).await).await;
    let young = rows(&outbox).await;
    insert_old(&outbox, "late").await;
    let report = prune(&outbox, &[]).await;
    assert_eq!(
        (&report["rows_deleted"], &report["tables"][0]["rows_not_confirmed"]),
        (&0.into(), &1.into()),
        "{report}"
    );
    assert_eq!(rows(&outbox).await, young + 1);

    let _relay = outbox.streaming(&[], &[]).await;
    eventually(SOON, "the row to be pruned", async || {
        (prune(&outbox, &[]).await["rows_deleted"] == 1).then_some(())
    })
    .await;
    assert_eq!(rows(&outbox).await, young + 1, "the young ones, with that of the new start");
}

#[tokio::test]
async fn without_a_relay_that_ever_streamed_nothing_goes_and_the_reason_is_said() {
    let outbox = Outbox::with_slot().await;
    insert_old(&outbox, "1").await;
    let output = outbox.cli(&["outbox", "prune", "--older-than", "7d"]).await;
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("no relay has streamed"), "{}", output.stderr);
    assert_eq!(rows(&outbox).await, 1);

    outbox.drop_slot_behind_its_back().await;
    let output = outbox.cli(&["outbox", "prune", "--older-than", "7d"]).await;
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert_eq!(rows(&outbox).await, 1);
}

#[tokio::test]
async fn an_age_that_is_none_is_bad_usage() {
    let outbox = Outbox::with_slot().await;
    for age in ["", "7 apples", "-1d"] {
        let output = outbox.cli(&["outbox", "prune", &format!("--older-than={age}")]).await;
        assert_eq!(output.code, Some(64), "{age}: {}", output.stderr);
    }
}

#[tokio::test]
async fn an_old_partition_is_dropped_only_once_all_its_rows_are_confirmed() {
    let outbox = Outbox::bare().await;
    outbox
        .database
        .exec(
            "CREATE TABLE outbox (id uuid NOT NULL DEFAULT gen_random_uuid(), aggregatetype varchar(255) NOT NULL,
                 aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb,
                 \"timestamp\" timestamp NOT NULL DEFAULT (now() at time zone 'utc')) PARTITION BY RANGE (\"timestamp\");
             CREATE TABLE outbox_old PARTITION OF outbox FOR VALUES FROM ('2000-01-01') TO ('2020-01-01');
             CREATE TABLE outbox_new PARTITION OF outbox FOR VALUES FROM ('2020-01-01') TO ('3000-01-01')",
        )
        .await;
    outbox.done(&["migrate", "up"]).await;
    outbox.done(&["slot", "create", "--lock-timeout", "30s"]).await;
    stop_when_noted(&outbox, outbox.streaming(&[], &[]).await).await;
    let late = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, \"timestamp\")
                    VALUES ('pruned', 'late', 'Tested', '{}', '2010-01-01')";
    let young = rows(&outbox).await;
    outbox.database.exec(late).await;
    let report = prune(&outbox, &[]).await;
    assert_eq!(report["tables"][0]["partitions_kept"][0]["partition"], "public.outbox_old", "{report}");
    assert_eq!(rows(&outbox).await, young + 1, "the partition holds a row that is not confirmed");

    let _relay = outbox.streaming(&[], &[]).await;
    let report = eventually(SOON, "the partition to be dropped", async || {
        let report = prune(&outbox, &[]).await;
        (report["tables"][0]["partitions_dropped"].as_array()?.len() == 1).then_some(report)
    })
    .await;
    assert_eq!(report["tables"][0]["partitions_dropped"][0]["partition"], "public.outbox_old", "{report}");
    let left: Option<String> = outbox.database.value("SELECT to_regclass('outbox_old')::text").await;
    assert_eq!(left, None);
    assert_eq!(rows(&outbox).await, young + 1, "the young ones, with that of the new start");
}

//! `doctor` beside a real standby: what would not outlive a failover, found at the primary and at the standby,
//! and mended by what it prints.

use crate::doctor_mends::{findings, found, is_well, mend, paste};
use crate::load::RECOVERY;
use crate::support::wait::SOON;
use crate::support::{Outbox, Postgres, Shutdown, eventually};

/// The first version that carries a logical slot over to a standby.
const FAILOVER_SINCE: u32 = 17;

/// A server, an outbox with its slot on it, and a standby made of a copy of both.
async fn pair() -> (Outbox, Postgres, Postgres) {
    let primary = Postgres::start(Postgres::default_version().max(FAILOVER_SINCE), &[]).await;
    let outbox = Outbox::with_slot_on(&primary).await;
    let standby = primary.standby().await;
    (outbox, primary, standby)
}

/// Runs a command as it is printed, in a shell.
async fn shell(command: &str) {
    let run = tokio::process::Command::new("sh").args(["-c", command]).env("PGPASSWORD", "postgres").output();
    let run = run.await.unwrap();
    assert!(run.status.success(), "{command}: {}", String::from_utf8_lossy(&run.stderr));
}

/// What mends the finding of a check that names `what`, once there is one that bad.
async fn mending(outbox: &Outbox, check: &str, status: &str, what: &str) -> String {
    eventually(RECOVERY, format!("{check} is {status} and says {what:?}"), async || {
        let findings = found(outbox, check, &[]).await;
        let finding = findings.iter().find(|finding| {
            finding["status"] == status && finding["why"].as_str().is_some_and(|why| why.contains(what))
        })?;
        Some(finding["mend"].as_str().unwrap_or_else(|| panic!("nothing mends it: {finding:#}")).to_owned())
    })
    .await
}

/// Waits until a check finds nothing that bad which names `what`.
async fn mended(outbox: &Outbox, check: &str, status: &str, what: &str) {
    eventually(RECOVERY, format!("{check} is no longer {status} because of {what:?}"), async || {
        let findings = found(outbox, check, &[]).await;
        let bad = |why: &str| why.contains(what);
        let bad = findings
            .iter()
            .any(|finding| finding["status"] == status && bad(finding["why"].as_str().unwrap()));
        (!bad).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_primary_with_a_standby_is_made_ready_for_a_failover_by_the_printed_commands() {
    const SLOTS: &str = "synchronized_standby_slots";
    let (outbox, _primary, standby) = pair().await;
    let streams = "select active from pg_replication_slots where slot_name = 'standby'";
    let streams = async || outbox.database.value::<bool>(streams).await.then_some(());
    eventually(SOON, "the standby streams", streams).await;

    shell(&mend(&outbox, "failover", "warn").await).await;
    is_well(&outbox, "failover", "the slot was made a failover slot").await;

    // Nothing waits for the standby: a record may outlive its transaction.
    paste(&outbox, &mend(&outbox, SLOTS, "warn").await).await;
    mended(&outbox, SLOTS, "warn", "it is empty").await;
    is_well(&outbox, SLOTS, "the standby is waited for").await;
    assert_eq!(outbox.database.value::<String>(&format!("show {SLOTS}")).await, "standby");

    // A standby that was taken away, and its slot with it.
    outbox.database.exec("select pg_create_physical_replication_slot('gone')").await;
    paste(&outbox, &format!("alter system set {SLOTS} = 'standby, gone'; select pg_reload_conf();")).await;
    mending(&outbox, SLOTS, "fail", "gone (no standby uses it)").await;
    outbox.database.exec("select pg_drop_replication_slot('gone')").await;
    paste(&outbox, &mending(&outbox, SLOTS, "fail", "gone (no physical slot of that name)").await).await;
    mended(&outbox, SLOTS, "fail", "gone").await;
    assert_eq!(outbox.database.value::<String>(&format!("show {SLOTS}")).await, "standby");

    // One that is away: it may come back, or be given up.
    standby.stop(Shutdown::Fast).await;
    mending(&outbox, SLOTS, "fail", "start that standby").await;
    standby.start_again().await;
    mended(&outbox, SLOTS, "fail", "standby").await;
    is_well(&outbox, SLOTS, "the standby is back").await;
    standby.stop(Shutdown::Fast).await;
    paste(&outbox, &mending(&outbox, SLOTS, "fail", "standby (no standby uses it)").await).await;
    mended(&outbox, SLOTS, "fail", "standby").await;
    assert_eq!(outbox.database.value::<String>(&format!("show {SLOTS}")).await, "");
}

#[tokio::test]
async fn a_standby_gets_the_slot_when_what_is_printed_there_is_done_one_after_the_other() {
    let (outbox, _primary, standby) = pair().await;
    let there = Outbox { database: outbox.database.on(&standby), kafka: outbox.kafka };

    // Each alone keeps slots from being synced, and the server only says so in its log.
    let conninfo: String = there.database.value("show primary_conninfo").await;
    let nameless = conninfo.replace(" dbname=postgres", "");
    assert_ne!(conninfo, nameless);
    for (setting, wrong) in
        [("hot_standby_feedback", "off"), ("primary_slot_name", ""), ("primary_conninfo", nameless.as_str())]
    {
        mended(&there, "standby", "fail", setting).await;
        paste(&there, &format!("alter system set {setting} = '{wrong}'; select pg_reload_conf();")).await;
        let mend = mending(&there, "standby", "fail", setting).await;
        assert!(!mend.contains("host="), "an address may hold a password: {mend}");
        match mend.strip_prefix("on the primary: ").and_then(|mend| mend.split_once(" here: ")) {
            Some((at_primary, here)) => {
                paste(&outbox, at_primary).await;
                paste(&there, here).await;
            }
            None => paste(&there, &mend).await,
        }
        mended(&there, "standby", "fail", setting).await;
    }

    // The copy brought a slot of its own along, which the primary's cannot replace.
    paste(&there, &mending(&there, "failover", "fail", "is its own").await).await;
    paste(&there, &mending(&there, "failover", "fail", "does not sync slots").await).await;
    mended(&there, "standby", "fail", "sync_replication_slots").await;
    let elsewhere = mending(&there, "failover", "fail", "which syncs slots").await;
    assert!(elsewhere.contains("against the primary"), "{elsewhere}");
    let slot = found(&there, "slot", &[]).await;
    assert_eq!(slot[0]["status"], "warn", "what is not here is not lost: {slot:#?}");
    shell(&mend(&outbox, "failover", "warn").await).await;

    // Another's, which is read at the primary alone.
    outbox
        .database
        .exec("select pg_create_logical_replication_slot('other', 'pgoutput', failover => true)")
        .await;
    let _relay = outbox.streaming(&[], &[]).await;
    let synced = "select count(*) from pg_replication_slots where synced and not temporary";
    eventually(RECOVERY, "both slots are on the standby", async || {
        outbox.insert("ready", "1", "{}").await;
        outbox.database.exec("select pg_log_standby_snapshot()").await;
        outbox.database.exec("select pg_replication_slot_advance('other', pg_current_wal_lsn())").await;
        (there.database.value::<i64>(synced).await == 2).then_some(())
    })
    .await;
    is_well(&there, "failover", "the slot is on the standby").await;
    for finding in findings(&there, &[]).await {
        assert_ne!(finding["status"], "fail", "a standby that is well: {finding:#}");
        let mend = finding["mend"].as_str().unwrap_or_default();
        assert!(!mend.contains("slot reset") && !mend.contains("pg_drop_replication_slot"), "{finding:#}");
    }
}

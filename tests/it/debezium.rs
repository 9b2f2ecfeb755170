//! A connector of Debezium hands over its slot and its publication: exactly what it had not confirmed arrives,
//! whatever else its publication sends, and nothing comes again later.

use std::collections::HashSet;

use crate::load::RECOVERY;
use crate::support::wait::SOON;
use crate::support::{Outbox, Postgres, Record, Relay, Topic, eventually, halted, unique};

/// The names that a connector has by default.
const NAMES: [(&str, &str); 2] =
    [("REPLICATION_SLOT", "debezium"), ("REPLICATION_PUBLICATION", "dbz_publication")];

/// A database as a connector with its defaults leaves it: five columns, all tables, all operations.
async fn left_behind(outbox: &Outbox) {
    outbox
        .database
        .exec(
            "create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype varchar(255) not null,
                                  aggregateid varchar(255) not null, type varchar(255) not null, payload jsonb);
             create table customers (id int primary key, name text)",
        )
        .await;
    outbox.database.exec("create publication dbz_publication for all tables").await;
    outbox.database.exec("select pg_create_logical_replication_slot('debezium', 'pgoutput')").await;
}

/// A transaction of an application: events of two keys between changes of its own table.
async fn commit(outbox: &Outbox, kind: &str, n: u32) {
    let event = |key: &str| {
        format!(
            "insert into outbox (aggregatetype, aggregateid, type, payload)
                 values ('{kind}', '{key}', 'Tested', '{{\"n\": {n}}}');"
        )
    };
    outbox
        .database
        .exec(&format!(
            "begin; insert into customers values ({n}, 'new'); {} update customers set name = 'old' where id = {n};
             {} delete from customers where id = {n}; commit",
            event("a"),
            event("b"),
        ))
        .await;
}

/// What an outbox table never gets and a publication of all operations sends all the same.
async fn noise(outbox: &Outbox, kind: &str) {
    for statement in [
        format!("update outbox set type = 'Changed' where aggregatetype = '{kind}'"),
        format!("delete from outbox where aggregatetype = '{kind}'"),
        "insert into customers values (0, 'zero')".to_owned(),
        "truncate customers, outbox".to_owned(),
    ] {
        outbox.database.exec(&statement).await;
    }
}

/// The values of the first records of each key, in order, and how many records there are.
fn of_key(records: &[Record], key: &str) -> Vec<String> {
    records.iter().filter(|record| record.key_text() == key).map(|r| r.value_text().to_owned()).collect()
}

fn numbered(from: u32, to: u32) -> Vec<String> {
    (from..=to).map(|n| format!("{{\"n\": {n}}}")).collect()
}

async fn ids(outbox: &Outbox) -> Vec<String> {
    let rows = outbox.database.query("select id::text from outbox").await;
    rows.iter().map(|row| row.get(0)).collect()
}

async fn relay(outbox: &Outbox) -> Relay {
    let mut relay = outbox.relay(&[], &NAMES).await;
    relay.wait_ready().await;
    relay
}

/// Waits until the slot has confirmed all that is written by now.
async fn confirmed(outbox: &Outbox) {
    let now: String = outbox.database.value("select pg_current_wal_insert_lsn()::text").await;
    let sql = format!(
        "select confirmed_flush_lsn >= '{now}' from pg_replication_slots where slot_name = 'debezium'"
    );
    eventually(RECOVERY, format!("the slot has confirmed {now}"), async || {
        outbox.database.value::<bool>(&sql).await.then_some(())
    })
    .await;
}

async fn stop(relay: Relay) {
    relay.sigterm().await;
    let exit = relay.wait_exit(SOON).await;
    assert_eq!(exit.status.code(), Some(0), "{}", exit.stderr);
}

/// Each of these ids once, and nothing else.
fn assert_once(records: &[Record], ids: &[String]) {
    let arrived: Vec<&str> = records.iter().map(|record| record.header("id").expect("an id")).collect();
    let different: HashSet<&str> = arrived.iter().copied().collect();
    assert_eq!(different.len(), arrived.len(), "a record came twice");
    assert_eq!(different, ids.iter().map(String::as_str).collect(), "other rows than the unconfirmed ones");
}

async fn all_of<'a>(outbox: &Outbox, topic: &'a mut Topic, count: usize) -> &'a [Record] {
    topic.read_count(count).await;
    // One too many would be there by now.
    confirmed(outbox).await;
    topic.read_to_end().await
}

#[tokio::test]
async fn a_slot_of_debezium_goes_on_where_the_connector_had_confirmed_and_repeats_nothing_later() {
    // A server of its own: the slot has the name that a connector gives it.
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::bare_on(&postgres).await;
    left_behind(&outbox).await;
    let kind = unique("handed_over");
    for n in 1..=10 {
        commit(&outbox, &kind, n).await;
    }
    outbox.database.exec("select pg_replication_slot_advance('debezium', pg_current_wal_lsn())").await;
    let sent = ids(&outbox).await;
    for n in 11..=20 {
        commit(&outbox, &kind, n).await;
    }
    let mut due: Vec<String> = ids(&outbox).await;
    due.retain(|id| !sent.contains(id));
    noise(&outbox, &kind).await;

    let migrated = outbox.publishing(&["migrate", "up"], &NAMES).await;
    assert_eq!(migrated.code, Some(0), "{}", migrated.stderr);
    let publication =
        "select puballtables and pubinsert and pubupdate and pubdelete and pubtruncate from pg_publication";
    assert!(
        outbox.database.value::<bool>(publication).await,
        "it is altered in nothing, and there is no other"
    );
    let at = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = 'debezium'";
    let before: String = outbox.database.value(at).await;

    let first = relay(&outbox).await;
    let mut topic = outbox.topic(&kind);
    let records = all_of(&outbox, &mut topic, 20).await;
    assert_once(records, &due);
    for key in ["a", "b"] {
        assert_eq!(of_key(records, key), numbered(11, 20), "key {key}");
    }
    let metrics = first.metrics().await;
    for what in ["foreign_row", "update", "delete", "truncate"] {
        let ignored = metrics.get("txstream_ignored_total", &[("what", what)]).unwrap_or(0.0);
        assert!(ignored >= 1.0, "{what} was not counted");
    }
    assert_eq!(metrics.value("txstream_replication_reconnects_total"), 0.0);
    let moved = format!("select confirmed_flush_lsn > '{before}' from pg_replication_slots");
    assert!(outbox.database.value::<bool>(&moved).await, "the connector's slot is the one that moves");

    commit(&outbox, &kind, 21).await;
    all_of(&outbox, &mut topic, 22).await;
    stop(first).await;
    commit(&outbox, &kind, 22).await;
    let second = relay(&outbox).await;
    let records = all_of(&outbox, &mut topic, 24).await;
    due.extend(ids(&outbox).await);
    assert_once(records, &due);
    for key in ["a", "b"] {
        assert_eq!(of_key(records, key), numbered(11, 22), "key {key}");
    }
    stop(second).await;
}

/// An outbox table of Debezium's shape in partitions.
const BY_TYPE: &str =
    "create table outbox (id uuid default gen_random_uuid(), aggregatetype varchar(255) not null,
                          aggregateid varchar(255) not null, type varchar(255) not null, payload jsonb)
         partition by list (type)";

/// The partitions that there were when it began to stream are not all that there are.
#[tokio::test]
async fn rows_under_a_partition_that_was_made_since_the_relay_began_halt_it_too() {
    let outbox = Outbox::bare_on(Postgres::shared().await).await;
    outbox
        .database
        .exec(&format!(
                "{BY_TYPE};
                 create publication txstream_outbox for table outbox with (publish_via_partition_root = true)"
            ))
        .await;
    outbox.done(&["migrate", "up"]).await;
    outbox.done(&["slot", "create"]).await;
    outbox.database.exec("create table outbox_ready partition of outbox for values in ('Ready')").await;
    let mut relay = outbox.relay(&[], &[("LOGGING_LEVEL", "debug")]).await;
    relay.wait_ready().await;
    outbox.database.exec("create table outbox_tested partition of outbox for values in ('Tested')").await;
    relay.wait_for_log("it looks at the tables", SOON, |line| line.contains("has new partitions")).await;
    // Its next look, which finds the publication wrong, is 10 s away.
    let kind = unique("leaf");
    outbox
        .database
        .exec(&format!(
            "alter publication txstream_outbox set (publish_via_partition_root = false);
             insert into outbox (aggregatetype, aggregateid, type, payload) values ('{kind}', '1', 'Tested', '{{}}')"
        ))
        .await;
    let halted = halted(relay).await;
    halted
        .names(&["a row comes under the name of public.outbox_tested"])
        .advises("txstream slot reset --backfill");
}

#[tokio::test]
async fn rows_that_the_publication_showed_under_their_partition_halt_and_come_from_the_table() {
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::bare_on(&postgres).await;
    outbox
        .database
        .exec(&format!(
            "{BY_TYPE};
                 create table outbox_tested partition of outbox for values in ('Tested');
                 create publication dbz_publication for table outbox"
        ))
        .await;
    outbox.database.exec("select pg_create_logical_replication_slot('debezium', 'pgoutput')").await;
    let kind = unique("leaf");
    outbox.insert(&kind, "before", "{}").await;
    let refused = outbox.publishing(&["migrate", "up"], &NAMES).await;
    let mend = r#"ALTER PUBLICATION "dbz_publication" SET (publish_via_partition_root = true);"#;
    assert!(refused.code == Some(1) && refused.stderr.contains(mend), "{}", refused.stderr);
    // That is right for every row from now on, and too late for the one before.
    outbox.database.exec(mend).await;
    let migrated = outbox.publishing(&["migrate", "up"], &NAMES).await;
    assert_eq!(migrated.code, Some(0), "{}", migrated.stderr);
    outbox.insert(&kind, "behind", "{}").await;

    let halted = halted(outbox.relay(&[], &NAMES).await).await;
    halted.names(&["public.outbox_tested", "partition"]).advises("txstream slot reset --backfill");
    let mut topic = outbox.topic(&kind);
    assert!(topic.read_to_end().await.is_empty(), "nothing behind it is published");
    let reset = outbox.publishing(&["slot", "reset", "--backfill", "--yes"], &NAMES).await;
    assert_eq!(reset.code, Some(0), "{}", reset.stderr);
    let relay = relay(&outbox).await;
    let records = all_of(&outbox, &mut topic, 2).await;
    assert_once(records, &ids(&outbox).await);
    stop(relay).await;
}

//! `migrate down`: what it would destroy it names, and asks before.

use crate::migrate::{objects, shared};
use crate::slot::txstream;
use crate::support::wait::SOON;
use crate::support::{Outbox, unique};

const SLOTS: &str = "select count(*) from pg_replication_slots where database = current_database()";

#[tokio::test]
async fn down_asks_while_rows_parked_records_or_the_slot_exist() {
    let database = shared().await;
    assert_eq!(txstream(&database, &["migrate", "up"]).await.code, Some(0));
    assert_eq!(txstream(&database, &["migrate", "down"]).await.code, Some(0), "there is nothing to lose");
    for (sql, word) in [
        (
            "insert into outbox (aggregatetype, aggregateid, type) values ('a', 'b', 'c')",
            "1 row of public.outbox",
        ),
        (
            "insert into txstream_dead_letter (slot, table_name, row_id, commit_lsn, ordinal, topic, key, reason, error)
                 values ('s', 't', '1', '0/1', 0, 't', '', 'r', 'e')",
            "1 parked record",
        ),
    ] {
        txstream(&database, &["migrate", "up"]).await;
        database.exec(sql).await;
        let said = txstream(&database, &["migrate", "down"]).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains(word) && said.stderr.contains("--yes"), "{said:?}");
        assert_eq!(txstream(&database, &["migrate", "down", "--yes"]).await.code, Some(0));
    }
    txstream(&database, &["migrate", "up"]).await;
    assert_eq!(txstream(&database, &["slot", "create"]).await.code, Some(0));
    let said = txstream(&database, &["migrate", "down"]).await;
    assert!(said.code == Some(1) && said.stderr.contains("slot"), "{said:?}");
    assert_eq!(txstream(&database, &["migrate", "down", "--yes"]).await.code, Some(0));
    assert_eq!(objects(&database).await, [""; 0]);
    assert_eq!(database.value::<i64>(SLOTS).await, 0, "the slot went first");

    // A slot of which the checkpoint knows nothing is not ours to drop.
    txstream(&database, &["migrate", "up"]).await;
    database
        .exec(&format!("select pg_create_logical_replication_slot('{}', 'pgoutput')", database.name()))
        .await;
    let said = txstream(&database, &["migrate", "down"]).await;
    assert!(said.code == Some(1) && said.stderr.contains("made by hand"), "{said:?}");
    assert_eq!(txstream(&database, &["migrate", "down", "--yes"]).await.code, Some(0));
    assert_eq!(database.value::<i64>(SLOTS).await, 1);
}

#[tokio::test]
async fn every_slot_that_uses_the_tables_is_named_and_goes_with_them() {
    let (outbox, elsewhere) = (Outbox::with_slot().await, Outbox::with_slot().await);
    let (second, by_hand) = (unique("second"), unique("by_hand"));
    let env = [("REPLICATION_SLOT", second.as_str())];
    let made = outbox.publishing(&["slot", "create", "--lock-timeout", "30s"], &env).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    outbox
        .database
        .exec(&format!("select pg_create_logical_replication_slot('{by_hand}', 'pgoutput')"))
        .await;
    let tables = objects(&outbox.database).await;

    let said = outbox.cli(&["migrate", "down"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    for slot in [outbox.slot(), &second] {
        assert!(said.stderr.contains(&format!("slot {slot}")), "{slot} is not named: {}", said.stderr);
    }
    for slot in [elsewhere.slot(), &by_hand] {
        assert!(!said.stderr.contains(slot), "{slot} is none of ours: {}", said.stderr);
    }

    // One that is held stops it before anything is dropped.
    let mut holder = outbox.relay(&[], &env).await;
    holder.wait_ready().await;
    let said = outbox.cli(&["migrate", "down", "--yes"]).await;
    assert!(said.code == Some(1) && said.stderr.contains(&second), "{said:?}");
    assert_eq!((outbox.database.value::<i64>(SLOTS).await, objects(&outbox.database).await), (3, tables));
    holder.sigterm().await;
    assert_eq!(holder.wait_exit(SOON).await.status.code(), Some(0));

    let said = outbox.done(&["migrate", "down", "--yes"]).await;
    assert!(said.stdout.contains(&format!("dropped slot {second}")), "{}", said.stdout);
    assert_eq!(outbox.database.value::<i64>(SLOTS).await, 1, "the one that txstream never used");
    assert_eq!((elsewhere.slots().await, objects(&outbox.database).await), (1, vec![]));
}

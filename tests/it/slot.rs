use std::time::Duration;

use txstream::migrate;
use txstream::outbox;
use txstream::postgres::replication::{ReplicationConn, StartOptions};
use txstream::postgres::slot::{self, CreateError, NewSlot};
use txstream::postgres::{ConnInfo, Lsn};
use txstream::relay::checkpoint::{self, CheckpointError, Identity, Progress, Recovery, Rejected};
use txstream::relay::slot_life::{self, CreateSlot, Created, Reset, SlotError};

use crate::migrate::outbox;
use crate::support::relay::Output;
use crate::support::{Database, Postgres, run_cli};

const PUBLICATION: &str = "txstream_outbox";

async fn migrated(postgres: &Postgres) -> Database {
    let database = postgres.database().await;
    let settings = migrate::Settings { outbox: &outbox(&["outbox"]), publication: PUBLICATION };
    migrate::up(&mut database.client().await, &settings).await.unwrap();
    database
}

fn request<'a>(slot: &'a str, outbox: &'a outbox::Settings) -> CreateSlot<'a> {
    // Other tests write on the shared server too: their transactions are waited for.
    let lock_timeout = Duration::from_secs(30);
    CreateSlot { slot, publication: PUBLICATION, outbox, failover: false, lock_timeout, first_only: false }
}

/// Creates a slot named like the database.
async fn create(database: &Database) -> Result<Created, SlotError> {
    let outbox = outbox(&["outbox"]);
    slot_life::create(&database.client().await, &request(database.name(), &outbox)).await
}

async fn slots(database: &Database) -> i64 {
    let name = database.name();
    database.value(&format!("select count(*) from pg_replication_slots where slot_name = '{name}'")).await
}

async fn life(version: u32) {
    let postgres = Postgres::start(version, &[]).await;
    let database = migrated(&postgres).await;
    let name = database.name();
    let client = database.client().await;
    let Created::New { at } = create(&database).await.unwrap() else { panic!("there was none") };
    let row = checkpoint::read(&client, name).await.unwrap().unwrap();
    assert_eq!((row.confirmed_lsn, row.clean, row.dropped), (Some(at), true, false));
    assert_eq!(row.database, name);

    let Created::Existed(view) = create(&database).await.unwrap() else { panic!("there was one") };
    assert_eq!(view.confirmed_flush_lsn, Some(at));
    assert_eq!(view.plugin.as_deref(), Some("pgoutput"));
    assert_eq!(view.wal_status.as_deref(), Some("reserved"));
    assert_eq!(view.failover, (version >= 17).then_some(false));
    assert_eq!(view.conflicting, (version >= 16).then_some(false));
    assert_eq!(view.terminal(), None);

    slot_life::drop(&client, name).await.unwrap();
    assert_eq!(slots(&database).await, 0);
    assert!(checkpoint::read(&client, name).await.unwrap().unwrap().dropped);
    let outbox = outbox(&["outbox"]);
    let first = CreateSlot { first_only: true, ..request(name, &outbox) };
    let error = slot_life::create(&client, &first).await.unwrap_err();
    assert!(
        matches!(error, SlotError::DroppedBefore(_)),
        "a relay that starts makes only the first: {error}"
    );
    assert!(matches!(create(&database).await.unwrap(), Created::New { .. }), "a person may make another");
    assert!(matches!(slot_life::drop(&client, "no_such_slot").await, Err(SlotError::Missing(_))));
}

#[tokio::test]
async fn a_slot_is_created_once_shown_and_dropped_on_14() {
    life(14).await;
}

#[tokio::test]
async fn a_slot_is_created_once_shown_and_dropped_on_16() {
    life(16).await;
}

#[tokio::test]
async fn a_slot_is_created_once_shown_and_dropped_on_18() {
    life(18).await;
}

#[tokio::test]
async fn failover_is_for_17_and_later() {
    for (version, supported) in [(16, false), (17, true)] {
        let postgres = Postgres::start(version, &[]).await;
        let database = migrated(&postgres).await;
        let outbox = outbox(&["outbox"]);
        let asked = CreateSlot { failover: true, ..request("f", &outbox) };
        let client = database.client().await;
        let made = slot_life::create(&client, &asked).await;
        if supported {
            made.unwrap();
            assert_eq!(slot::view(&client, "f").await.unwrap().unwrap().failover, Some(true));
        } else {
            assert!(matches!(made, Err(SlotError::Create(CreateError::FailoverUnsupported(_)))), "{made:?}");
        }
    }
}

#[tokio::test]
async fn the_publication_comes_first_and_covers_every_table() {
    let database = Postgres::shared().await.database().await;
    let error = create(&database).await.unwrap_err();
    assert!(matches!(error, SlotError::Checkpoint(CheckpointError::NoTable)), "{error}");
    assert!(error.remedy().contains("txstream migrate up"));

    let database = migrated(Postgres::shared().await).await;
    database.exec("drop publication txstream_outbox; create table second (like outbox including all)").await;
    let error = create(&database).await.unwrap_err();
    assert!(matches!(error, SlotError::NoPublication(_)), "{error}");
    assert!(error.remedy().contains("txstream migrate up"));
    database.exec("create publication txstream_outbox for table outbox").await;
    let both = outbox(&["outbox", "second"]);
    let error =
        slot_life::create(&database.client().await, &request(database.name(), &both)).await.unwrap_err();
    assert!(error.to_string().contains("does not cover public.second"), "{error}");
    assert!(error.remedy().contains(r#"ADD TABLE "public"."second""#), "{}", error.remedy());
    assert_eq!(slots(&database).await, 0);
}

#[tokio::test]
async fn behind_an_open_transaction_it_names_the_pid_and_leaves_no_slot() {
    // A server of its own: an open transaction of any database blocks.
    let postgres = Postgres::start(Postgres::default_version(), &[("max_prepared_transactions", "2")]).await;
    let database = migrated(&postgres).await;
    let elsewhere = postgres.database().await.client().await;
    elsewhere.batch_execute("set application_name = 'reporter'; begin; create table t ()").await.unwrap();
    let pid: i32 = elsewhere.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let (client, outbox) = (database.client().await, outbox(&["outbox"]));
    let impatient =
        CreateSlot { lock_timeout: Duration::from_millis(300), ..request(database.name(), &outbox) };
    let error = slot_life::create(&client, &impatient).await.unwrap_err();
    assert!(error.to_string().contains(&format!("pid {pid} (reporter)")), "{error}");
    assert!(error.remedy().contains(&format!("pg_terminate_backend({pid})")), "{}", error.remedy());
    assert_eq!(slots(&database).await, 0);
    elsewhere.batch_execute("rollback").await.unwrap();

    database.exec("begin; create table t (); prepare transaction 'forgotten'").await;
    let error = slot_life::create(&client, &impatient).await.unwrap_err();
    assert!(error.to_string().contains("prepared transaction 'forgotten'"), "{error}");
    assert_eq!(slots(&database).await, 0);
    database.exec("rollback prepared 'forgotten'").await;
    assert!(matches!(create(&database).await.unwrap(), Created::New { .. }));
}

#[tokio::test]
async fn the_view_names_the_transaction_that_holds_the_slot_back() {
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let database = migrated(&postgres).await;
    create(&database).await.unwrap();
    let long = database.client().await;
    long.batch_execute("set application_name = 'batch'; begin; create table t ()").await.unwrap();
    let pid: i32 = long.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    database.exec("insert into outbox (aggregatetype, aggregateid, type) values ('a', 'b', 'c')").await;
    let view = slot::view(&database.client().await, database.name()).await.unwrap().unwrap();
    let oldest = view.oldest_transaction.unwrap();
    assert_eq!((oldest.pid, oldest.application_name.as_deref()), (Some(pid), Some("batch")));
    assert!(oldest.age_seconds.unwrap() >= 0.0);
    assert!(view.slot_confirmed_lag_bytes.unwrap() > 0);
    assert!(view.slot_retained_wal_bytes.unwrap() >= view.slot_confirmed_lag_bytes.unwrap());
}

#[tokio::test]
async fn a_slot_dropped_outside_is_not_made_again() {
    let database = migrated(Postgres::shared().await).await;
    create(&database).await.unwrap();
    database.exec(&format!("select pg_drop_replication_slot('{}')", database.name())).await;
    let error = create(&database).await.unwrap_err();
    assert!(matches!(error, SlotError::Lost { .. }), "{error}");
    assert!(error.remedy().contains("txstream slot reset --backfill"));
    assert_eq!(slots(&database).await, 0);
}

#[tokio::test]
async fn anothers_slot_is_neither_taken_nor_dropped() {
    let postgres = Postgres::shared().await;
    let (ours, theirs) = (migrated(postgres).await, postgres.database().await);
    let name = ours.name();
    for (database, plugin, word) in
        [(&theirs, "pgoutput", theirs.name()), (&ours, "test_decoding", "test_decoding")]
    {
        database.exec(&format!("select pg_create_logical_replication_slot('{name}', '{plugin}')")).await;
        for error in
            [create(&ours).await.unwrap_err(), slot_life::drop(&ours.client().await, name).await.unwrap_err()]
        {
            assert!(matches!(error, SlotError::NotOurs(_)), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
        assert_eq!(slots(&ours).await, 1);
        database.exec(&format!("select pg_drop_replication_slot('{name}')")).await;
    }
}

#[tokio::test]
async fn a_role_without_the_right_and_a_server_without_a_free_slot_say_so() {
    let postgres = Postgres::start(Postgres::default_version(), &[("max_replication_slots", "1")]).await;
    let database = migrated(&postgres).await;
    database
        .exec(
            "create role nobody; grant select on outbox to nobody;
             grant select, insert, update on txstream_checkpoint to nobody",
        )
        .await;
    let client = database.client().await;
    client.batch_execute("set role nobody").await.unwrap();
    let outbox = outbox(&["outbox"]);
    let error = slot_life::create(&client, &request("s", &outbox)).await.unwrap_err();
    assert!(matches!(error, SlotError::Create(CreateError::NoRight(_))), "{error}");
    assert!(error.remedy().contains(r#"ALTER ROLE "nobody" REPLICATION"#), "{}", error.remedy());

    database.exec("select pg_create_physical_replication_slot('taken')").await;
    let error = create(&database).await.unwrap_err();
    assert!(matches!(error, SlotError::Create(CreateError::NoneFree(_))), "{error}");
    assert!(error.to_string().contains("all 1 replication slots"), "{error}");
}

#[tokio::test]
async fn a_server_without_logical_wal_says_so() {
    let postgres = Postgres::start(Postgres::default_version(), &[("wal_level", "replica")]).await;
    let database = migrated(&postgres).await;
    let error = create(&database).await.unwrap_err();
    assert!(matches!(error, SlotError::Create(CreateError::WalLevel(_))), "{error}");
    assert!(error.remedy().contains("ALTER SYSTEM SET wal_level = logical"));
}

#[tokio::test]
async fn a_lost_slot_says_why_and_what_to_do() {
    let settings = [("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")];
    let postgres = Postgres::start(Postgres::default_version(), &settings).await;
    let database = migrated(&postgres).await;
    create(&database).await.unwrap();
    database.exec("create table t (a text)").await;
    for _ in 0..4 {
        database.exec("insert into t select repeat('x', 1000) from generate_series(1, 20000)").await;
        database.exec("checkpoint").await;
    }
    let view = slot::view(&database.client().await, database.name()).await.unwrap().unwrap();
    assert_eq!(view.wal_status.as_deref(), Some("lost"));
    assert_eq!(view.terminal(), Some(slot::Terminal::WalRemoved));
    let error = create(&database).await.unwrap_err();
    assert!(matches!(error, SlotError::Terminal { .. }), "{error}");
    assert!(error.remedy().contains("txstream slot reset --backfill"), "{}", error.remedy());
    assert!(error.remedy().contains("max_slot_wal_keep_size"), "{}", error.remedy());
}

#[tokio::test]
async fn the_checkpoint_row_keeps_what_is_not_being_written() {
    let database = migrated(Postgres::shared().await).await;
    let client = database.client().await;
    let (system, db) = checkpoint::whereabouts(&client).await.unwrap();
    let identity =
        Identity { system_identifier: &system, database: &db, instance: "i", reported_lsn: Lsn::ZERO };
    let step = |confirmed, clean, recovery| Progress {
        slot: "s",
        identity: &identity,
        confirmed_lsn: Lsn(confirmed),
        clean,
        recovery,
    };
    assert_eq!(checkpoint::read(&client, "s").await.unwrap(), None);
    let pair = Recovery { xid: 1 << 40, lsn: Lsn(u64::MAX) };
    checkpoint::advance(&client, &step(5, false, Some(pair))).await.unwrap();
    let rejected = Rejected {
        table: "public.outbox".into(),
        row_id: "1".into(),
        topic: "t".into(),
        commit_lsn: u64::MAX,
        ordinal: 3,
        reason: "too large".into(),
        letter: false,
    };
    checkpoint::set_rejected(&client, "s", "i", Some(&rejected)).await.unwrap();
    checkpoint::set_backfill_pending(&client, "s", true).await.unwrap();
    checkpoint::advance(&client, &step(6, true, None)).await.unwrap();
    let row = checkpoint::read(&client, "s").await.unwrap().unwrap();
    assert_eq!((row.confirmed_lsn, row.clean, row.backfill_pending), (Some(Lsn(6)), true, true));
    assert_eq!(row.recovery, Some(pair));
    assert_eq!(row.rejected, Some(rejected));
    checkpoint::set_rejected(&client, "s", "i", None).await.unwrap();
    let row = checkpoint::read(&client, "s").await.unwrap().unwrap();
    assert_eq!((row.recovery, &row.rejected), (Some(pair), &None));
    let afresh = checkpoint::Row { recovery: None, ..row.clone() };
    assert!(checkpoint::replace(&client, &afresh, Some(&row.instance)).await.unwrap());
    let row = checkpoint::read(&client, "s").await.unwrap().unwrap();
    assert_eq!(row.recovery, None, "a new slot starts afresh");
}

#[tokio::test]
async fn a_command_leaves_the_row_to_a_relay_that_took_it_since_the_command_looked() {
    let database = migrated(Postgres::shared().await).await;
    let client = database.client().await;
    let (system, db) = checkpoint::whereabouts(&client).await.unwrap();
    let relay =
        Identity { system_identifier: &system, database: &db, instance: "relay", reported_lsn: Lsn::ZERO };
    let by_command = checkpoint::Row {
        slot: "s".into(),
        system_identifier: system.clone(),
        database: db.clone(),
        confirmed_lsn: Some(Lsn(7)),
        instance: "command".into(),
        clean: true,
        recovery: None,
        dropped: false,
        backfill_pending: false,
        rejected: None,
    };
    // A command that saw no row, one that saw its own, and one that comes too late for each.
    assert!(checkpoint::replace(&client, &by_command, None).await.unwrap());
    assert!(checkpoint::replace(&client, &by_command, Some("command")).await.unwrap());
    checkpoint::claim(&client, "s", &relay, Some(Lsn(9))).await.unwrap();
    let taken = checkpoint::read(&client, "s").await.unwrap().unwrap();
    for seen in [None, Some("command")] {
        assert!(!checkpoint::replace(&client, &by_command, seen).await.unwrap());
    }
    assert_eq!(checkpoint::read(&client, "s").await.unwrap().unwrap(), taken);
    assert_eq!((taken.instance.as_str(), taken.confirmed_lsn), ("relay", Some(Lsn(9))));
}

/// Runs a command on this database; its name is the slot's too.
pub(crate) async fn txstream(database: &Database, args: &[&str]) -> Output {
    let url = database.url();
    // Nobody listens at port 9: there is no relay.
    let env = [("DATABASE_URL", url.as_str()), ("REPLICATION_SLOT", database.name()), ("METRICS_PORT", "9")];
    run_cli(args, &env).await
}

#[tokio::test]
async fn the_commands_say_where_the_slot_stands_and_ask_before_it_goes() {
    let database = migrated(Postgres::shared().await).await;
    let said = txstream(&database, &["slot", "status"]).await;
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("txstream slot create"), "{said:?}");
    for part in ["created slot", "exists already"] {
        let said = txstream(&database, &["slot", "create"]).await;
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stdout.contains(part), "{said:?}");
    }
    let status = txstream(&database, &["slot", "status", "--output", "json"]).await;
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    let columns = database
        .query("select column_name::text from information_schema.columns where table_name = 'pg_replication_slots'")
        .await;
    for column in columns {
        let column: &str = column.get(0);
        assert!(status.get(column).is_some(), "{column} is missing: {status}");
    }
    let said = txstream(&database, &["slot", "drop"]).await;
    assert_eq!(said.code, Some(1), "no terminal and no --yes: {said:?}");
    assert!(said.stderr.contains("will be skipped") && said.stderr.contains("--yes"), "{said:?}");
    assert_eq!(slots(&database).await, 1);
    let said = txstream(&database, &["slot", "drop", "--yes"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(slots(&database).await, 0);
}

#[tokio::test]
async fn lag_counts_bytes_and_says_why_it_has_no_seconds() {
    let database = migrated(Postgres::shared().await).await;
    create(&database).await.unwrap();
    database.exec("insert into outbox (aggregatetype, aggregateid, type) values ('a', 'b', 'c')").await;
    let said = txstream(&database, &["lag", "--output", "json"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let lag: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(lag["slot_confirmed_lag_bytes"].as_u64().unwrap() > 0, "{lag}");
    assert!(lag["slot_retained_wal_bytes"].as_u64().unwrap() > 0, "{lag}");
    assert_eq!(lag["wal_status"], "reserved");
    assert!(lag["oldest_unconfirmed_age_seconds"].is_null());
    assert!(
        lag["oldest_unconfirmed_age_reason"].as_str().unwrap().contains("nobody holds the slot"),
        "{lag}"
    );
}

#[tokio::test]
async fn a_slot_in_use_is_not_dropped_and_its_holder_is_named() {
    let database = migrated(Postgres::shared().await).await;
    create(&database).await.unwrap();
    let info = ConnInfo::parse(&database.url()).unwrap();
    let holder = ReplicationConn::connect(&info, "the other relay").await.unwrap();
    let options = StartOptions { publications: vec![PUBLICATION.into()], binary: false, messages: false };
    let _stream = holder.start_replication(database.name(), &options).await.unwrap();
    for args in [["slot", "drop", "--yes"], ["migrate", "down", "--yes"]] {
        let said = txstream(&database, &args).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("in use by pid") && said.stderr.contains("the other relay"), "{said:?}");
    }
    assert_eq!(slots(&database).await, 1);
    let row = checkpoint::read(&database.client().await, database.name()).await.unwrap().unwrap();
    assert!(!row.dropped);
    let lag = txstream(&database, &["lag"]).await;
    assert!(lag.stdout.contains("held by pid") && lag.stdout.contains("the other relay"), "{lag:?}");
}

/// Somebody takes the slot between the look at it and the drop.
#[tokio::test]
async fn a_reset_that_is_too_late_to_drop_the_slot_leaves_the_row_as_it_was() {
    let rejected = r#"rejected =
        '{"table": "public.outbox", "row_id": "7", "topic": "t", "commit_lsn": 1, "ordinal": 0, "reason": "r"}'"#;
    // As a relay leaves it that was killed, after Kafka had refused a record; of a restored copy; of a slot
    // that was given up; of a reset that was broken off behind its drop.
    let broken_off = "backfill_pending = true, instance = 'txstream slot reset'";
    let rejected = format!("clean = false, {rejected}");
    for was in [&*rejected, "system_identifier = '1'", "dropped = true", broken_off] {
        let database = migrated(Postgres::shared().await).await;
        create(&database).await.unwrap();
        database.exec("update txstream_checkpoint set instance = 'the relay before'").await;
        database.exec(&format!("update txstream_checkpoint set {was}")).await;
        let (client, name, outbox) = (database.client().await, database.name(), outbox(&["outbox"]));
        let before = checkpoint::read(&client, name).await.unwrap().unwrap();
        let new = NewSlot { name, failover: false, lock_timeout: Duration::from_secs(30) };
        let reset = Reset { new, publication: PUBLICATION, outbox: &outbox };
        let survey = slot_life::survey(&client, &reset).await.unwrap();
        assert_eq!(survey.goes_on, was == broken_off);
        let connection =
            ReplicationConn::connect(&ConnInfo::parse(&database.url()).unwrap(), "faster").await.unwrap();
        let options = StartOptions { publications: vec![PUBLICATION.into()], binary: false, messages: false };
        let _holder = connection.start_replication(name, &options).await.unwrap();
        let error = slot_life::renew(&client, &reset, &survey, None).await.unwrap_err();
        assert!(error.to_string().contains("is in use by pid"), "{error}");
        assert_eq!(checkpoint::read(&client, name).await.unwrap().unwrap(), before, "{was}");
    }
}

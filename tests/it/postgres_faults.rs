//! What can happen to Postgres beside its going and coming (`faults`): a failover, transactions that stay
//! open, a table that is rewritten, a COPY that is interrupted, a session that has nothing to say.

use std::time::Duration;

use crate::load::{Load, Outbox, RECOVERY, lasts, more, seconds};
use crate::support::wait::SOON;
use crate::support::{Kafka, Postgres, Proxy, Shutdown, eventually};

/// The first version that carries a logical slot over to a standby.
const FAILOVER_SINCE: u32 = 17;

#[tokio::test]
async fn a_failover_loses_no_row_and_no_record_outlives_its_transaction() {
    let kafka = Kafka::shared().await;
    let version = Postgres::default_version().max(FAILOVER_SINCE);
    let primary = Postgres::start(version, &[]).await;
    let standby = primary.standby().await;
    let database = primary.database().await;
    database.exec("alter system set synchronized_standby_slots = 'standby'").await;
    database.exec("select pg_reload_conf()").await;
    let mut outbox = Outbox::without_slot(database, &[]).await;
    outbox.command(&["slot", "create", "--failover"]).await;
    let proxy = Proxy::to(primary.port()).await;
    let url = outbox.database.url_through(proxy.port());
    let mut relay = outbox.relay(kafka.bootstrap(), &[("DATABASE_URL", &url)]).await;
    let load = Load::start_numbered(&outbox, 0..4);
    let mut topic = outbox.topic(kafka);
    more(&mut topic, 300).await;
    standby.sync_slots().await;
    let promoted = outbox.database.on(&standby);
    let synced = format!(
        "select count(*) from pg_replication_slots
             where slot_name = '{}' and synced and not temporary and failover",
        outbox.database.name()
    );
    // The copy is kept once the slot has moved past a snapshot of the running transactions; the server
    // logs one every 15 s by itself.
    eventually(RECOVERY, "the standby has database and slot", async || {
        outbox.database.exec("select pg_log_standby_snapshot()").await;
        let client = promoted.try_client().await.ok()?;
        (client.query_one(&synced, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    more(&mut topic, 300).await;

    primary.stop(Shutdown::Immediate).await;
    standby.promote().await;
    proxy.cut();
    proxy.forward_to(standby.port());
    load.stop().await;
    outbox.database = promoted;
    let load = Load::start_numbered(&outbox, 4..8);
    load.commits(300).await;
    load.stop().await;
    // The new primary's table is the truth: a record of a row that it does not have fails the judge.
    outbox.all_arrive(&mut topic).await;
    assert!(relay.is_running());
}

#[tokio::test]
async fn a_transaction_that_stays_open_delays_nobody_and_comes_whole_after_a_crash() {
    let kafka = Kafka::shared().await;
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::new(&postgres).await;
    let relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let open = outbox.database.client().await;
    let kind = &outbox.aggregate_type;
    let rows = |first: u32| {
        format!(
            "insert into outbox (aggregatetype, aggregateid, type, payload)
                 select '{kind}', 'long', 'T', jsonb_build_object('n', n)
                 from generate_series({first}, {first} + 99) n"
        )
    };
    open.batch_execute(&format!("begin; {}", rows(1))).await.unwrap();
    let load = Load::start(&outbox, 2);
    load.commits(300).await;
    outbox.confirmed().await;
    open.batch_execute(&format!("savepoint s; {}; rollback to s; {}", rows(1_001), rows(101))).await.unwrap();
    relay.kill9().await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    load.commits(100).await;
    let mut topic = outbox.topic(kafka);
    more(&mut topic, 400).await;
    assert!(topic.records().iter().all(|record| record.key_text() != "long"), "it is not committed");
    open.batch_execute("commit").await.unwrap();
    load.stop().await;
    outbox.all_arrive(&mut topic).await;
    let long = topic.records().iter().filter(|record| record.key_text() == "long").count();
    assert_eq!(long, 200);
}

#[tokio::test]
async fn a_table_rewritten_under_load_loses_and_repeats_no_row() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let mut relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let load = Load::start(&outbox, 3);
    let mut topic = outbox.topic(kafka);
    for rewrite in [
        "vacuum full outbox",
        "cluster outbox using outbox_pkey",
        "alter table outbox alter column aggregateid type text",
        "alter table outbox alter column \"timestamp\" type timestamptz using now()",
        "alter table outbox alter column type type char(20)",
    ] {
        more(&mut topic, 100).await;
        outbox.database.exec(rewrite).await;
    }
    load.commits(200).await;
    load.stop().await;
    assert_eq!(outbox.all_arrive(&mut topic).await.duplicates, 0);
    assert!(relay.is_running());
}

#[tokio::test]
async fn a_copy_of_a_thousand_rows_interrupted_anywhere_comes_whole_and_in_order() {
    let kafka = Kafka::shared().await;
    let postgres = Postgres::shared().await;
    for killed_after in [1, 500, 999] {
        let outbox = Outbox::new(postgres).await;
        // About a second for all of it, so that there is a middle.
        let proxy = Proxy::to(postgres.port()).await;
        let url = outbox.database.url_through(proxy.port());
        let relay = outbox.relay(kafka.bootstrap(), &[("DATABASE_URL", &url)]).await;
        let mut topic = kafka.create_topic(&outbox.topic_name(), 1, &[]).await;
        let file = postgres.socket_dir().join(outbox.database.name());
        let (kind, file) = (&outbox.aggregate_type, file.display());
        let rows = format!(
            "select '{kind}', 'k', 'T', jsonb_build_object('n', n, 'ballast', repeat('x', 300))
                 from generate_series(1, 1000) n"
        );
        outbox.database.exec(&format!("copy ({rows}) to '{file}'")).await;
        proxy.limit_rate(400_000);
        let columns = "aggregatetype, aggregateid, type, payload";
        outbox.database.exec(&format!("copy outbox ({columns}) from '{file}'")).await;
        topic.read_count(killed_after).await;
        relay.kill9().await;
        let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
        assert_eq!(outbox.all_arrive(&mut topic).await.rows, 1000, "killed after {killed_after}");
    }
}

/// A relay and a server that have nothing to say to each other for a long time.
async fn quiet(kafka: &Kafka, settings: &[(&str, &str)], silence: Duration) {
    let postgres = Postgres::start(Postgres::default_version(), settings).await;
    let outbox = Outbox::new(&postgres).await;
    let relay = outbox.relay(kafka.bootstrap(), &[]).await;
    outbox.insert("k", 1).await;
    let mut topic = outbox.topic(kafka);
    topic.read_count(1).await;
    let walsender = outbox.walsender().await.expect("the relay streams");
    // A Kafka that has just started may have had it wait.
    let before = relay.log().len();
    lasts(silence, async || {
        assert_eq!(relay.get("/readyz").await.status, 200);
    })
    .await;
    assert_eq!(outbox.walsender().await, Some(walsender));
    assert_eq!(relay.metrics().await.value("txstream_replication_reconnects_total"), 0.0);
    outbox.insert("k", 2).await;
    topic.read_until(SOON, "a row after the silence", |records| records.len() == 2).await;
    let since = relay.log().split_off(before);
    let alarms: Vec<String> =
        since.into_iter().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    assert!(alarms.is_empty(), "{alarms:#?}");
}

#[tokio::test]
#[allow(clippy::print_stderr, reason = "a run of half an hour says what came of it")]
async fn a_session_with_nothing_to_say_is_never_taken_for_dead() {
    let kafka = Kafka::shared().await;
    let silence = seconds("IDLE_SECONDS", 12);
    // As servers come, and with less patience than the relay has.
    let impatient = [("wal_sender_timeout", "5s")];
    tokio::join!(quiet(kafka, &[], silence), quiet(kafka, &impatient, silence));
    eprintln!("idle for {} s: the same walsender, no reconnect, no warning, twice", silence.as_secs());
}

//! A relay that is told to stop finishes what it took in, confirms it and goes: a graceful restart
//! repeats and loses nothing.

use std::time::Duration;

use tokio::time::Instant;

use crate::load::{Load, Outbox};
use crate::support::relay::Exit;
use crate::support::wait::SOON;
use crate::support::{Kafka, Postgres, Proxy, Relay, Shutdown, Topic, eventually, unique};

/// Sends SIGTERM and waits for the end, which must be a success.
async fn stop(relay: Relay) -> Exit {
    relay.sigterm().await;
    let exit = relay.wait_exit(SOON).await;
    assert_eq!(exit.status.code(), Some(0), "{}", exit.stderr);
    exit
}

/// Rows that the slot would send again, or send at last.
async fn waiting(outbox: &Outbox) -> i64 {
    let slot = outbox.database.name();
    let inserts = format!(
        "select count(*) from pg_logical_slot_peek_binary_changes('{slot}', null, null,
             'proto_version', '1', 'publication_names', 'txstream_outbox') where get_byte(data, 0) = ascii('I')"
    );
    outbox.database.value(&inserts).await
}

/// Rows in the table and records in the topic.
async fn counted(outbox: &Outbox, topic: &mut Topic) -> (i64, i64) {
    let rows = outbox.database.value("select count(*) from outbox").await;
    (rows, i64::try_from(topic.read_to_end().await.len()).unwrap())
}

#[tokio::test]
async fn ten_graceful_restarts_under_load_repeat_and_lose_nothing() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let load = Load::start(&outbox, 4);
    let mut topic = outbox.topic(kafka);
    for _ in 0..10 {
        let relay = outbox.relay(kafka.bootstrap(), &[]).await;
        let read = topic.records().len();
        topic.read_until(SOON, "more records", |records| records.len() >= read + 200).await;
        let exit = stop(relay).await;
        assert!(exit.stderr.contains("everything that was read is confirmed"), "{}", exit.stderr);
    }
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    load.stop().await;
    assert_eq!(outbox.all_arrive(&mut topic).await.duplicates, 0);
}

/// Waits until the slot has confirmed all WAL that was written by now.
async fn caught_up(outbox: &Outbox) {
    let end: String = outbox.database.value("select pg_current_wal_insert_lsn()::text").await;
    let slot = outbox.database.name();
    let confirmed = format!(
        "select coalesce(confirmed_flush_lsn >= '{end}', false) from pg_replication_slots where slot_name = '{slot}'"
    );
    eventually(SOON, "the slot has confirmed all WAL", async || {
        outbox.database.value::<bool>(&confirmed).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_graceful_stop_of_a_quiet_relay_leaves_what_tells_confirmed_rows() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let before: String = outbox.database.value("select pg_current_wal_insert_lsn()::text").await;
    outbox
        .database
        .exec("insert into outbox (aggregatetype, aggregateid, type) values ('one', '1', 't')")
        .await;
    eventually(SOON, "the checkpoint row tells of it", async || {
        let noted = format!("select confirmed_lsn > '{before}' from txstream_checkpoint");
        outbox.database.value::<bool>(&noted).await.then_some(())
    })
    .await;
    // Twice: the position is taken behind the row that was seen.
    caught_up(&outbox).await;
    caught_up(&outbox).await;
    stop(relay).await;
    let known: bool = outbox.database.value("select recovery_xid is not null from txstream_checkpoint").await;
    assert!(known, "a slot that is lost now would have every row of the table published again");
}

#[tokio::test]
async fn after_a_graceful_stop_the_slot_stands_at_the_last_acknowledged_row() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let relay = outbox.relay(kafka.bootstrap(), &[]).await;
    let load = Load::start(&outbox, 2);
    let mut topic = outbox.topic(kafka);
    topic.read_count(100).await;
    stop(relay).await;
    load.commits(30).await;
    load.stop().await;
    let (rows, records) = counted(&outbox, &mut topic).await;
    assert_eq!(waiting(&outbox).await, rows - records, "what Kafka has is confirmed, the rest is not");
    assert!(rows > records);
    let slot = outbox.database.name();
    let agree: bool = outbox
        .database
        .value(&format!(
            "select clean and confirmed_lsn = confirmed_flush_lsn
                 from txstream_checkpoint join pg_replication_slots on slot = slot_name where slot = '{slot}'"
        ))
        .await;
    assert!(agree, "the checkpoint row says so");
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_big_transaction_reads_on_to_its_commit_and_no_further() {
    const ROWS: i64 = 10_000;
    let kafka = Kafka::shared().await;
    let postgres = Postgres::shared().await;
    let outbox = Outbox::new(postgres).await;
    let proxy = Proxy::to(postgres.port()).await;
    let url = outbox.database.url_through(proxy.port());
    let relay = outbox.relay(kafka.bootstrap(), &[("DATABASE_URL", &url)]).await;
    let mut topic = outbox.topic(kafka);
    outbox.insert("k", 0).await;
    topic.read_count(1).await;
    // Some seconds for the transaction.
    proxy.limit_rate(1_000_000);
    let kind = &outbox.aggregate_type;
    outbox
        .database
        .exec(&format!(
            "insert into outbox (aggregatetype, aggregateid, type, payload)
                 select '{kind}', 'k', 'T', jsonb_build_object('n', n, 'ballast', repeat('x', 200))
                 from generate_series(1, {ROWS}) n"
        ))
        .await;
    outbox.insert("k", 20_000).await;
    topic.read_count(100).await;
    relay.sigterm().await;
    let before = counted(&outbox, &mut topic).await.1;
    assert!(before < ROWS, "the transaction has not all come yet");
    assert_eq!(relay.wait_exit(SOON).await.status.code(), Some(0));
    let (rows, records) = counted(&outbox, &mut topic).await;
    assert_eq!((rows, records), (ROWS + 2, ROWS + 1), "all of it, and not the next transaction");
    assert_eq!(waiting(&outbox).await, 1);
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    assert_eq!(outbox.all_arrive(&mut topic).await.duplicates, 0);
}

/// A relay with records at a Kafka that is frozen.
async fn stuck(outbox: &Outbox, kafka: &Kafka, env: &[(&str, &str)]) -> Relay {
    let relay = outbox.relay(kafka.bootstrap(), env).await;
    let n: i64 = outbox.database.value("select count(*) from outbox").await;
    let n = u32::try_from(n).unwrap() + 1;
    outbox.insert("k", n).await;
    // All is acknowledged, and what the relay has to know of the topic it knows.
    outbox.confirmed().await;
    kafka.freeze().await;
    for n in n + 1..n + 4 {
        outbox.insert("k", n).await;
    }
    eventually(SOON, "three records are in flight", async || {
        (relay.status().await["in_flight"]["records"] == 3).then_some(())
    })
    .await;
    relay
}

#[tokio::test]
async fn a_stop_that_kafka_does_not_let_finish_ends_at_its_deadline_or_at_a_second_signal() {
    let kafka = Kafka::start(&[]).await;
    let outbox = Outbox::new(Postgres::shared().await).await;

    let relay = stuck(&outbox, &kafka, &[("SHUTDOWN_TIMEOUT", "2s")]).await;
    let begin = Instant::now();
    let exit = stop(relay).await;
    assert!(begin.elapsed() > Duration::from_secs(2), "it waited for Kafka");
    let said = exit.stderr.lines().find(|line| line.contains("may repeat")).expect("it says what may repeat");
    assert!(said.contains("records=3"), "{said}");
    kafka.thaw().await;

    for (first, second, code) in [("TERM", "INT", 130), ("INT", "TERM", 143)] {
        let relay = stuck(&outbox, &kafka, &[]).await;
        relay.signal(first).await;
        relay.wait_for_log("the first signal", SOON, |line| line.contains("stopping: ")).await;
        relay.signal(second).await;
        let exit = relay.wait_exit(Duration::from_secs(10)).await;
        assert_eq!(exit.status.code(), Some(code), "{}", exit.stderr);
        kafka.thaw().await;
    }
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    assert_eq!(outbox.all_arrive(&mut outbox.topic(&kafka)).await.rows, 12);
}

#[tokio::test]
async fn a_stop_does_not_call_everything_confirmed_while_a_row_waits_for_the_limit_of_its_topic() {
    let kafka = Kafka::start(&[]).await;
    let mut outbox = Outbox::new(Postgres::shared().await).await;
    let relay = outbox.relay(kafka.bootstrap(), &[("SHUTDOWN_TIMEOUT", "2s")]).await;
    outbox.insert("k", 1).await;
    outbox.confirmed().await;
    kafka.freeze().await;
    // Nobody has told the relay of this topic yet.
    outbox.aggregate_type = unique("unheard");
    outbox.insert("k", 2).await;
    eventually(SOON, "the row waits and is not in flight", async || {
        let status = relay.status().await;
        let waits = !status["oldest_unconfirmed_age_seconds"].is_null();
        (waits && status["in_flight"]["records"] == 0).then_some(())
    })
    .await;
    let exit = stop(relay).await;
    assert!(!exit.stderr.contains("everything that was read is confirmed"), "{}", exit.stderr);
    let said = exit.stderr.lines().find(|line| line.contains("may repeat")).expect("it says what may repeat");
    assert!(said.contains("records=1"), "{said}");
    kafka.thaw().await;
    let _relay = outbox.relay(kafka.bootstrap(), &[]).await;
    assert_eq!(outbox.all_arrive(&mut outbox.topic(&kafka)).await.rows, 1);
}

#[tokio::test]
async fn a_stop_between_two_sessions_says_what_the_last_one_left_unconfirmed() {
    let kafka = Kafka::start(&[]).await;
    let postgres = Postgres::shared().await;
    let outbox = Outbox::new(postgres).await;
    let proxy = Proxy::to(postgres.port()).await;
    let url = outbox.database.url_through(proxy.port());
    let relay = stuck(&outbox, &kafka, &[("DATABASE_URL", &url)]).await;
    proxy.refuse();
    relay.wait_for_log("the lost session", SOON, |line| line.contains("not streaming")).await;
    let exit = stop(relay).await;
    let said = exit.stderr.lines().find(|line| line.contains("may repeat")).expect("it says what may repeat");
    assert!(said.contains("records=3"), "{said}");
    kafka.thaw().await;
}

#[tokio::test]
#[allow(clippy::print_stderr, reason = "a run with a large backlog says what came of it")]
async fn a_fast_shutdown_of_postgres_does_not_hang_on_a_frozen_kafka() {
    let kafka = Kafka::start(&[]).await;
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::new(&postgres).await;
    let mut relay = stuck(&outbox, &kafka, &[("WORKER_MAX_IN_FLIGHT_BYTES", "64KiB")]).await;
    let kind = &outbox.aggregate_type;
    // Far more than sockets hold: the walsender has to wait for us. About 1 KB a row.
    let rows: u32 = std::env::var("BACKLOG_ROWS")
        .map_or(40_000, |rows| rows.parse().expect("BACKLOG_ROWS is a number of rows"));
    for first in (5..=rows).step_by(40_000) {
        outbox
            .database
            .exec(&format!(
                "insert into outbox (aggregatetype, aggregateid, type, payload)
                     select '{kind}', 'k', 'T', jsonb_build_object('n', n, 'ballast', repeat('x', 1000))
                     from generate_series({first}, least({first} + 39999, {rows})) n"
            ))
            .await;
    }
    let begin = Instant::now();
    postgres.stop(Shutdown::Fast).await;
    let took = begin.elapsed();
    eprintln!("a fast shutdown with {rows} rows to send took {:.1} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(15), "it took {took:?}");
    assert!(relay.is_running(), "the relay waits for the server");
    postgres.start_again().await;
    kafka.thaw().await;
    relay.wait_ready().await;
    let arrived = outbox.all_arrive(&mut outbox.topic(&kafka)).await;
    assert_eq!(arrived.rows, usize::try_from(rows).unwrap());
}

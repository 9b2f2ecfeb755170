//! Somebody holds a lock on a table of ours, or on a row of it: the relay says who, waits, and goes on by
//! itself. Nothing of it stays behind at the server, and what needs no lock goes on meanwhile.

use std::time::Duration;

use tokio_postgres::Client;

use crate::dead_letters::{Small, stop};
use crate::support::wait::SOON;
use crate::support::{Outbox, Postgres, Relay, eventually, published};

/// Somebody who holds locks until dropped.
struct Holder {
    client: Client,
    pid: i32,
}

impl Holder {
    async fn of(outbox: &Outbox, sql: &str) -> Self {
        let client = outbox.database.client().await;
        client.batch_execute(&format!("begin; {sql}")).await.unwrap();
        let pid = client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
        Self { client, pid }
    }

    async fn lets_go(self) {
        self.client.batch_execute("commit").await.unwrap();
    }
}

/// The locks stay for longer than the slots of other tests, on the server that all share, would wait for them.
async fn own_server() -> Postgres {
    Postgres::start(Postgres::default_version(), &[]).await
}

/// Waits for a line that says what waits, for which table, and whose lock it is.
async fn says(relay: &Relay, words: &str, table: &str, holder: &Holder) {
    let pid = format!("pid {}", holder.pid);
    let what = format!("it says {words}, names {table} and {pid}");
    relay
        .wait_for_log(&what, SOON, |line| {
            line.contains(words) && line.contains(table) && line.contains(&pid) && line.contains("terminate")
        })
        .await;
}

/// How many sessions of this database wait for a lock.
async fn waiting(outbox: &Outbox) -> i64 {
    outbox
        .database
        .value(
            "select count(distinct l.pid) from pg_locks l join pg_stat_activity a using (pid)
              where not l.granted and a.datname = current_database()",
        )
        .await
}

#[tokio::test]
async fn a_relay_that_starts_waits_for_a_locked_table_and_says_who_locks_it() {
    let postgres = own_server().await;
    for (lock, table) in [
        ("lock table txstream_checkpoint", "txstream_checkpoint"),
        ("select from txstream_checkpoint for update", "txstream_checkpoint"),
        ("lock table outbox", r#"public\".\"outbox"#),
    ] {
        let outbox = Outbox::with_slot_on(&postgres).await;
        let holder = Holder::of(&outbox, lock).await;
        let relay = outbox.relay(&[], &[]).await;
        says(&relay, "not streaming; trying on", table, &holder).await;
        let ready = relay.get("/readyz").await;
        assert_eq!(ready.status, 503, "{}", ready.body);
        assert!(ready.body.contains(table) && ready.body.contains(&holder.pid.to_string()), "{}", ready.body);
        says_again(&relay, "not streaming; trying on").await;
        assert_eq!(relay.get("/livez").await.status, 200);
        assert!(waiting(&outbox).await <= 1, "attempts pile up at the server");
        holder.lets_go().await;
        outbox.insert("ready", "1", "{}").await;
        published(&relay, 1).await;
        stop(relay).await;
    }
}

/// Waits until it is said once more.
async fn says_again(relay: &Relay, words: &str) {
    let lines = || relay.log().iter().filter(|line| line.contains(words)).count();
    let before = lines();
    eventually(SOON, format!("it says {words} again"), async || (lines() > before).then_some(())).await;
}

#[tokio::test]
async fn a_relay_that_starts_waits_for_the_locked_table_of_dead_letters() {
    let postgres = own_server().await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let holder = Holder::of(&outbox, "lock table txstream_dead_letter").await;
    let relay = outbox.relay(&[], &[]).await;
    says(&relay, "not streaming; trying on", "txstream_dead_letter", &holder).await;
    assert_eq!(relay.get("/livez").await.status, 200);
    holder.lets_go().await;
    outbox.insert("ready", "1", "{}").await;
    published(&relay, 1).await;
    stop(relay).await;
}

#[tokio::test]
async fn a_relay_that_streams_goes_on_while_its_checkpoint_is_locked() {
    let postgres = own_server().await;
    let outbox = Outbox::with_slot_on(&postgres).await;
    let relay = outbox.streaming(&[], &[]).await;
    let holder = Holder::of(&outbox, "select from txstream_checkpoint for update").await;
    outbox.insert("ready", "2", "{}").await;
    says(&relay, "the checkpoint row cannot be written", "txstream_checkpoint", &holder).await;
    outbox.insert("ready", "3", "{}").await;
    published(&relay, 3).await;
    outbox.confirmed().await;
    assert_eq!(relay.get("/readyz").await.status, 200);
    assert!(waiting(&outbox).await <= 1, "attempts pile up at the server");
    let before: String = outbox.database.value("select confirmed_lsn::text from txstream_checkpoint").await;
    holder.lets_go().await;
    let client = outbox.database.client().await;
    let sql = format!("select confirmed_lsn > '{before}' from txstream_checkpoint");
    eventually(SOON, "the row is written", async || {
        client.query_one(&sql, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    stop(relay).await;
}

#[tokio::test]
async fn letters_wait_for_their_locked_table_and_the_stream_goes_on() {
    let postgres = own_server().await;
    let small = Small::on(Outbox::with_slot_on(&postgres).await).await;
    let relay = small.relay().await;
    let holder = Holder::of(&small.outbox, "lock table txstream_dead_letter").await;
    let session = "select pid from pg_stat_replication where application_name like 'txstream%' and pid =
                       (select active_pid from pg_replication_slots where slot_name = current_database())";
    let walsender: i32 = small.outbox.database.value(session).await;
    small.insert_large("k", 1).await;
    says(&relay, "dead letters cannot be stored", "txstream_dead_letter", &holder).await;
    let heard =
        format!("select coalesce(reply_time, now())::text from pg_stat_replication where pid = {walsender}");
    let before: String = small.outbox.database.value(&heard).await;
    small.outbox.insert("ready", "1", "{}").await;
    published(&relay, 1).await;
    let later = format!("select reply_time > '{before}' from pg_stat_replication where pid = {walsender}");
    let client = small.outbox.database.client().await;
    eventually(Duration::from_secs(20), "status messages go on", async || {
        client.query_one(&later, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    says_again(&relay, "dead letters cannot be stored").await;
    assert!(waiting(&small.outbox).await <= 1, "attempts pile up at the server");
    holder.lets_go().await;
    small.letters(1).await;
    small.confirmed().await;
    assert_eq!(small.outbox.database.value::<i32>(session).await, walsender, "it is the same session");
    stop(relay).await;
}

//! `sql/partitioned.sql`: days come and go, and no event is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::stream;
use crate::load::RECOVERY;
use crate::support::{Outbox, Topic, eventually};

/// The file, and what it says comes next.
async fn partitioned() -> Outbox {
    let outbox = Outbox::bare().await;
    outbox.sql_file("partitioned.sql", &[]).await;
    outbox.done(&["migrate", "up"]).await;
    outbox.done(&["slot", "create", "--lock-timeout", "30s"]).await;
    outbox
}

/// A partition of a day so long ago, as the function would have made it then.
async fn day_ago(outbox: &Outbox, days: u32) {
    outbox
        .database
        .exec(&format!(
            "do $$ declare day date := (now() at time zone 'utc')::date - {days}; begin
                 execute format('create table ago_{days} partition of outbox for values from (%L) to (%L)', day, day + 1);
             end $$"
        ))
        .await;
}

fn insert_ago(days: u32, key: &str) -> String {
    format!(
        "insert into outbox (aggregatetype, aggregateid, type, \"timestamp\")
             values ('old', '{key}', 'Old', now() at time zone 'utc' - interval '{days} days')"
    )
}

/// The old partitions that are left.
async fn left(outbox: &Outbox) -> Vec<String> {
    let sql = "select inhrelid::regclass::text from pg_inherits
                   where inhparent = 'outbox'::regclass and inhrelid::regclass::text like 'ago_%' order by 1";
    outbox.database.query(sql).await.iter().map(|row| row.get(0)).collect()
}

/// Calls the procedure: whether it went well, and what it said.
async fn retention(outbox: &Outbox) -> (bool, String) {
    let call = format!("--command=call outbox_drop_partitions('outbox', '7 days', '{}')", outbox.slot());
    outbox.psql(&[&call]).await
}

/// Keys of the events of old days that have come, each as often as it did.
async fn keys(outbox: &Outbox, topic: &mut Topic) -> Vec<String> {
    let records = super::arrived(outbox, topic).await;
    records.iter().map(|record| record.key_text().to_owned()).collect()
}

#[tokio::test]
async fn partitioned_sql_keeps_days_ahead_and_refuses_a_row_without_a_day() {
    let outbox = partitioned().await;
    let database = &outbox.database;
    let days = "select count(*) from pg_inherits where inhparent = 'outbox'::regclass";
    assert_eq!(database.value::<i64>(days).await, 15, "today and two weeks");
    let again = outbox.sql_file("partitioned.sql", &[]).await;
    assert!(again.contains("time_ahead") && again.contains("14 days"), "{again}");
    let more = database.query("select outbox_add_partitions('outbox', 20)").await;
    assert_eq!((more.len(), database.value::<i64>(days).await), (6, 21));

    database.exec("create table business (id int)").await;
    let client = database.client().await;
    let refused =
        client.batch_execute(&format!("insert into business values (1); {}", insert_ago(9, "9"))).await;
    assert!(refused.unwrap_err().as_db_error().unwrap().message().contains("no partition of relation"));
    assert_eq!(database.value::<i64>("select count(*) from business").await, 0, "both or neither");

    // A writer that has the table open does not hold a new day up, may write into it, and loses nothing.
    let (_relay, mut topic) = stream(&outbox).await;
    client.batch_execute("begin; select outbox_publish('old', 'before', 'Old', '{}')").await.unwrap();
    assert_eq!(database.query("select outbox_add_partitions('outbox', 22)").await.len(), 2);
    let ahead = insert_ago(22, "ahead").replace("' - interval", "' + interval");
    client.batch_execute(&ahead).await.unwrap();
    client.batch_execute("select outbox_publish('old', 'after', 'Old', '{}'); commit").await.unwrap();
    assert_eq!(keys(&outbox, &mut topic).await, ["after", "ahead", "before"]);
}

#[tokio::test]
async fn retention_of_partitioned_sql_drops_old_days_that_are_confirmed_and_loses_no_event() {
    let outbox = partitioned().await;
    for days in [3, 9, 10, 11] {
        day_ago(&outbox, days).await;
    }
    let (done, said) = retention(&outbox).await;
    assert!(!done && said.contains("no relay streams from slot"), "{said}");
    assert_eq!(left(&outbox).await, ["ago_10", "ago_11", "ago_3", "ago_9"]);

    let (relay, mut topic) = stream(&outbox).await;
    for days in [3, 9, 11] {
        outbox.database.exec(&insert_ago(days, &days.to_string())).await;
    }
    // Somebody still writes into the day before it goes.
    let writer = outbox.database.client().await;
    writer.batch_execute(&format!("begin; {}", insert_ago(10, "open"))).await.unwrap();
    outbox.confirmed().await;
    let (done, said) = retention(&outbox).await;
    assert!(
        done && said.contains("kept ago_10") && !said.contains("dropped"),
        "DROP locks the table: {said}"
    );
    writer.batch_execute("commit").await.unwrap();
    eventually(RECOVERY, "what is confirmed goes", async || {
        assert!(retention(&outbox).await.0);
        (left(&outbox).await == ["ago_3"]).then_some(())
    })
    .await;
    assert_eq!(keys(&outbox, &mut topic).await, ["11", "3", "9", "open"], "each once");

    // What Kafka has not got stays.
    day_ago(&outbox, 12).await;
    relay.freeze().await;
    outbox.database.exec(&insert_ago(12, "late")).await;
    let (done, said) = retention(&outbox).await;
    assert!(done && said.contains("kept ago_12") && said.contains("has not confirmed"), "{said}");
    assert_eq!(left(&outbox).await, ["ago_12", "ago_3"]);
    relay.thaw().await;
    eventually(RECOVERY, "now it is confirmed", async || {
        assert!(retention(&outbox).await.0);
        (left(&outbox).await == ["ago_3"]).then_some(())
    })
    .await;
    assert_eq!(keys(&outbox, &mut topic).await, ["11", "3", "9", "late", "open"], "each once");
}

#[tokio::test]
async fn days_of_partitioned_sql_come_and_go_while_events_are_written_and_all_of_them_arrive() {
    let outbox = partitioned().await;
    let (_relay, mut topic) = stream(&outbox).await;
    // What the writers are told: write into the day that is about to go, too; and stop.
    let [late, stop] = [false, true].map(|_| Arc::new(AtomicBool::new(false)));
    let written_late = Arc::new(AtomicUsize::new(0));
    let mut writers = Vec::new();
    for writer in 0..3 {
        let client = outbox.database.client().await;
        let (late, stop, written_late) = (Arc::clone(&late), Arc::clone(&stop), Arc::clone(&written_late));
        writers.push(tokio::spawn(async move {
            let mut written = Vec::new();
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let key = format!("{writer}-{n}");
                let is_late = n % 2 == 0 && late.load(Ordering::Relaxed);
                match client.batch_execute(&insert_ago(if is_late { 9 } else { 0 }, &key)).await {
                    Ok(()) => {
                        written_late.fetch_add(usize::from(is_late), Ordering::Relaxed);
                        written.push(key);
                    }
                    // One that was on its way when the day went.
                    Err(refused) => {
                        let why = refused.as_db_error().expect("an answer").message();
                        assert!(is_late && why.contains("no partition of relation"), "{why}");
                    }
                }
            }
            written
        }));
    }
    for round in 1..=4 {
        day_ago(&outbox, 9).await;
        outbox.database.query(&format!("select outbox_add_partitions('outbox', {})", 14 + round)).await;
        late.store(true, Ordering::Relaxed);
        eventually(RECOVERY, "events of the old day are written", async || {
            (written_late.load(Ordering::Relaxed) > 20 * round).then_some(())
        })
        .await;
        late.store(false, Ordering::Relaxed);
        eventually(RECOVERY, "the old day goes under load", async || {
            assert!(retention(&outbox).await.0);
            left(&outbox).await.is_empty().then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut written = Vec::new();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    written.sort();
    assert!(written.len() > 100, "only {} events were written meanwhile", written.len());
    assert_eq!(keys(&outbox, &mut topic).await, written);
}

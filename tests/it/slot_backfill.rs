//! Which rows a backfill takes, which it cannot, and the backfill of a first slot.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::slot_reset::{BACKFILL, arrived, assert_all_arrived, pending, rows, written};
use crate::support::wait::SOON;
use crate::support::{Outbox, Postgres, eventually, published, unique};

#[tokio::test]
async fn where_narrows_a_backfill_and_a_wrong_condition_changes_nothing() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("narrow");
    rows(&outbox, &kind, "wanted", 10).await;
    rows(&outbox, &kind, "unwanted", 10).await;
    for wrong in ["no_such_column = 1", "true; DROP TABLE outbox", "aggregateid"] {
        let said = outbox.publishing(&[BACKFILL, &["--where", wrong]].concat(), &[]).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("check --where"), "{said:?}");
        assert_eq!((outbox.slots().await, pending(&outbox).await), (1, false));
    }
    let narrow = "aggregateid = 'wanted' -- or 'unwanted'";
    outbox.repair(&[BACKFILL, &["--where", narrow]].concat()).await;
    outbox.streams(&[], &[]).await;
    let ids: BTreeSet<String> = arrived(&outbox, &kind).await.into_keys().collect();
    assert_eq!(ids, written(&outbox, &kind, "aggregateid = 'wanted'").await);
}

#[tokio::test]
async fn a_row_that_cannot_be_published_stops_a_backfill_and_can_be_left_out() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("bad");
    outbox.database.exec("ALTER TABLE outbox ALTER aggregateid DROP NOT NULL").await;
    rows(&outbox, &kind, "good", 3).await;
    outbox.database.exec(&format!("INSERT INTO outbox (aggregatetype, type) VALUES ('{kind}', 't')")).await;
    rows(&outbox, &kind, "good", 3).await;
    let said = outbox.publishing(BACKFILL, &[]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("aggregateid is NULL"), "{said:?}");
    assert!(said.stderr.contains("--where") && !said.stderr.contains("slot advance"), "{said:?}");
    assert!(pending(&outbox).await);
    assert_eq!(arrived(&outbox, &kind).await.len(), 3, "what stands before it, and nothing behind");
    outbox.repair(&[BACKFILL, &["--where", "aggregateid is not null"]].concat()).await;
    outbox.streams(&[], &[]).await;
    let ids: BTreeSet<String> = arrived(&outbox, &kind).await.into_keys().collect();
    assert_eq!(ids, written(&outbox, &kind, "aggregateid is not null").await);
}

#[tokio::test]
async fn a_backfill_parks_what_the_stream_would_park_and_goes_on() {
    let outbox = Outbox::with_slot().await;
    let kind = unique("parked");
    outbox.database.exec("ALTER TABLE outbox ALTER aggregateid DROP NOT NULL").await;
    rows(&outbox, &kind, "good", 3).await;
    outbox.database.exec(&format!("INSERT INTO outbox (aggregatetype, type) VALUES ('{kind}', 't')")).await;
    rows(&outbox, &kind, "good", 3).await;
    let parks = [("WORKER_ON_REJECT", "dead-letter")];
    let said = outbox.publishing(BACKFILL, &parks).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let ids: BTreeSet<String> = arrived(&outbox, &kind).await.into_keys().collect();
    assert_eq!(ids, written(&outbox, &kind, "aggregateid is not null").await);
    let letters: i64 = outbox.database.value("SELECT count(*) FROM txstream_dead_letter").await;
    assert_eq!(letters, 1);
    outbox.streams(&[], &parks).await;
}

#[tokio::test]
async fn a_first_slot_with_a_backfill_publishes_what_is_in_the_table_and_each_row_once() {
    // A server of its own: the writer's transactions must not be waited for in vain.
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::migrated_on(&postgres).await;
    let kind = unique("first");
    rows(&outbox, &kind, "before", 300).await;
    outbox.database.exec("UPDATE outbox SET type = 'changed' WHERE payload = '7'").await;
    outbox.database.exec("VACUUM FREEZE outbox").await;
    // Writes until the command is done, so that some rows come before the slot and some behind it.
    let done = AtomicBool::new(false);
    let writer = async {
        while !done.load(Ordering::Relaxed) {
            rows(&outbox, &kind, "meanwhile", 100).await;
        }
        rows(&outbox, &kind, "after", 1).await;
    };
    let creator = async {
        eventually(SOON, "the writer writes", async || {
            (!written(&outbox, &kind, "aggregateid = 'meanwhile'").await.is_empty()).then_some(())
        })
        .await;
        let said = outbox.repair(&["slot", "create", "--backfill", "--lock-timeout", "30s"]).await;
        done.store(true, Ordering::Relaxed);
        said
    };
    let ((), said) = tokio::join!(writer, creator);
    let all = written(&outbox, &kind, "true").await.len();
    assert!(said.stdout.contains("there was no slot before"), "{}", said.stdout);
    let by_backfill = arrived(&outbox, &kind).await.len();
    assert!(
        (301..all).contains(&by_backfill),
        "the slot began while rows were written: {by_backfill} of {all}"
    );
    let again = outbox.repair(&["slot", "create", "--backfill"]).await;
    assert!(again.stdout.contains("exists already"), "{}", again.stdout);
    let relay = outbox.streaming(&[], &[]).await;
    published(&relay, u32::try_from(all + 1 - by_backfill).unwrap()).await;
    let arrived = assert_all_arrived(&outbox, &kind).await;
    assert_eq!((arrived.len(), arrived.values().sum::<usize>()), (all, all), "each once");
}

#[tokio::test]
async fn where_nothing_is_known_every_row_is_offered_and_the_ancestors_table_proposes_a_condition() {
    let outbox = Outbox::migrated().await;
    outbox
        .database
        .exec(
            "CREATE TABLE events (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregate_id text NOT NULL,
                 aggregate_type text NOT NULL, event_type text NOT NULL, event_data jsonb, event_metadata jsonb,
                 status text NOT NULL DEFAULT 'pending', created_at timestamptz DEFAULT now());
             INSERT INTO events (aggregate_id, aggregate_type, event_type, status)
                 SELECT 'a', 'order', 't', CASE WHEN n > 3 THEN 'pending' ELSE 'published' END
                   FROM generate_series(1, 10) n",
        )
        .await;
    let topic = unique("events");
    let env = [("OUTBOX_PRESET", "txstream"), ("OUTBOX_TABLE", "events"), ("KAFKA_TOPIC_EVENTS", &topic)];
    assert_eq!(outbox.publishing(&["migrate", "up"], &env).await.code, Some(0));
    assert_eq!(outbox.publishing(&["slot", "create", "--lock-timeout", "30s"], &env).await.code, Some(0));
    let condition = "status <> 'published'";
    let asked = outbox.publishing(&["slot", "reset", "--backfill"], &env).await;
    assert!(asked.stdout.contains("every row of the table may be unconfirmed: 10 rows"), "{asked:?}");
    assert!(asked.stdout.contains(&format!("--where \"{condition}\"")), "{asked:?}");
    let done = outbox.publishing(&[BACKFILL, &["--where", condition]].concat(), &env).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(outbox.kafka.topic(&topic).read_to_end().await.len(), 7);
}

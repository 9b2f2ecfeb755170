//! The table of dead letters when it is large, or does not take a letter: it never stands in the relay's way,
//! and what it never takes halts the relay.

use std::time::Duration;

use bytes::Bytes;
use txstream::dead_letter::{Content, DeadLetterError, Letter, Reason, ask, store};
use txstream::postgres::Lsn;

use crate::dead_letters::{Small, stop};
use crate::support::wait::SOON;
use crate::support::{Outbox, eventually, halted};

/// Puts `count` letters of 20 keys and of rows without a record into the table, as if they were parked.
async fn fill(outbox: &Outbox, slot: &str, count: u32) {
    let letters = format!(
        "insert into txstream_dead_letter (slot, table_name, row_id, commit_lsn, ordinal, topic, key, payload,
                                           header_names, header_values, columns, reason, error)
         select '{slot}', 'public.outbox', n::text, '0/10'::pg_lsn + n, 0, topic, convert_to(key, 'UTF8'),
                convert_to('{{}}', 'UTF8'), '{{}}', '{{}}', case when topic is null then '{{}}'::jsonb end, 'behind', ''
           from generate_series(1, {count}) n,
                lateral (select 'topic-' || n % 4 as topic, 'key-' || n % 20 as key where n % 21 <> 0
                         union all select null, null where n % 21 = 0) as target"
    );
    outbox.database.exec(&letters).await;
}

/// How many index entries and how many rows by a scan of everything were read of the table so far, by sessions that
/// have ended.
async fn reads(outbox: &Outbox) -> (i64, i64) {
    let sql = "select (select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname = 'txstream_dead_letter'),
                      seq_tup_read from pg_stat_user_tables where relname = 'txstream_dead_letter'";
    let row = &outbox.database.query(sql).await[0];
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn what_a_start_and_a_look_ask_of_a_large_table_of_letters_reads_next_to_nothing_of_it() {
    let outbox = Outbox::migrated().await;
    let slot = outbox.slot();
    // The planner believes that there are next to none: they came since it looked last.
    outbox.database.exec("alter table txstream_dead_letter set (autovacuum_enabled = off)").await;
    fill(&outbox, "another", 1_000).await;
    outbox.database.exec("analyze txstream_dead_letter").await;
    fill(&outbox, slot, 50_000).await;
    let stored = "select n_tup_ins from pg_stat_user_tables where relname = 'txstream_dead_letter'";
    eventually(SOON, "the server has counted what was stored", async || {
        (outbox.database.value::<i64>(stored).await == 51_000).then_some(())
    })
    .await;
    let before = reads(&outbox).await;

    let client = outbox.database.client().await;
    assert!(ask::holds_letters(&client, slot).await.unwrap());
    assert!(!ask::holds_letters(&client, "a third").await.unwrap());
    let mut keys = ask::parked_keys(&client, slot).await.unwrap();
    keys.sort();
    let mut expected: Vec<ask::Key> =
        (0..20).map(|n| (format!("topic-{}", n % 4).into(), Bytes::from(format!("key-{n}")))).collect();
    expected.sort();
    assert_eq!(keys, expected);
    assert_eq!(ask::parked_keys(&client, "a third").await.unwrap(), []);
    assert_eq!(ask::beyond(&client, slot).await.unwrap(), None);
    let gone: ask::Key = ("topic-0".into(), Bytes::from("key-1"));
    keys.push(gone.clone());
    let look = ask::look(&client, slot, &keys).await.unwrap();
    assert_eq!(look, ask::Look { gone: vec![gone], replaying: false });
    // The server counts what was read once the session has ended.
    drop(client);
    let (by_index, by_scan) = eventually(SOON, "the server has counted what was read", async || {
        let after = reads(&outbox).await;
        (after != before).then_some((after.0 - before.0, after.1 - before.1))
    })
    .await;
    assert_eq!(by_scan, 0, "rows read by a scan of the whole table");
    assert!(by_index < 500, "{by_index} entries of indexes read");

    outbox.database.exec("update txstream_dead_letter set commit_lsn = 'FFFF/0' where row_id = '7'").await;
    let client = outbox.database.client().await;
    assert_eq!(ask::beyond(&client, slot).await.unwrap().map(|beyond| beyond.letters), Some(1));
}

#[tokio::test]
async fn letters_are_stored_however_long_those_that_are_there_take_to_be_counted() {
    let small = Small::new().await;
    let relay = small.relay().await;
    small.insert_large("a", 1).await;
    small.letters(1).await;
    small.confirmed().await;
    stop(relay).await;
    // As long as ten million letters take, and longer.
    let name = small.outbox.database.name();
    let slow = format!(
        "create function counted_slowly(n bigint) returns bigint language plpgsql as
             $$begin perform pg_sleep(60); return n + 1; end$$;
         create aggregate public.count(*) (sfunc = counted_slowly, stype = bigint, initcond = '0');
         alter database \"{name}\" set search_path = public, pg_catalog"
    );
    small.outbox.database.exec(&slow).await;
    let relay = small.relay().await;
    let said = "too many to be counted";
    relay.wait_for_log("it says that it cannot count", SOON, |line| line.contains(said)).await;
    small.insert_large("b", 1).await;
    let stored = "select exists (select from txstream_dead_letter where key = 'b')";
    eventually(Duration::from_secs(10), "the letter is stored", async || {
        small.outbox.database.value::<bool>(stored).await.then_some(())
    })
    .await;
    small.confirmed().await;
    let keys = async |count: f64| {
        eventually(Duration::from_secs(10), format!("{count} keys are parked"), async || {
            (relay.metrics().await.get("txstream_parked_keys", &[]) == Some(count)).then_some(())
        })
        .await;
    };
    keys(2.0).await;
    let letters = relay.metrics().await.get("txstream_dead_letters", &[("topic", "other")]);
    assert_eq!(letters, None, "nobody knows, and it is not 0");
    // The next look gives a key back whose letters are gone, and does not count again.
    small.outbox.database.exec("delete from txstream_dead_letter where key = 'a'").await;
    keys(1.0).await;
    assert_eq!(relay.log().iter().filter(|line| line.contains(said)).count(), 1, "it is said once");
    stop(relay).await;
}

#[tokio::test]
async fn a_letter_that_its_table_never_takes_halts_and_names_the_record_but_shows_nothing_of_it() {
    let small = Small::new().await;
    let relay = small.relay().await;
    small.insert_large("fine", 1).await;
    small.letters(1).await;
    let database = &small.outbox.database;
    database
        .exec("alter table txstream_dead_letter add constraint no_bad_key check (key <> 'bad') not valid")
        .await;
    let kind = small.topic.strip_prefix("outbox.event.").unwrap();
    let id = "6a3f2f57-7f0c-4c3c-9be4-3a9a2f1f4d10";
    let secret = "x".repeat(3000);
    let rows = format!(
        "insert into outbox (id, aggregatetype, aggregateid, type, payload)
         values (gen_random_uuid(), '{kind}', 'good', 'Tested', '{{\"filler\": \"{secret}\"}}'),
                ('{id}', '{kind}', 'bad', 'Tested', '{{\"filler\": \"{secret}\"}}')"
    );
    database.exec(&rows).await;
    let end: String = database.value("select pg_current_wal_lsn()::text").await;
    small.outbox.insert(kind, "behind", r#"{"n": 1}"#).await;
    let confirmed = format!(
        "select confirmed_flush_lsn < '{end}' from pg_replication_slots where slot_name = '{}'",
        small.outbox.slot()
    );
    let says =
        [id, r#"key "bad""#, &small.topic, "public.outbox", "txstream_dead_letter", "no_bad_key", "23514"];
    let first = halted(relay).await;
    let behind = published_behind(&small).await;
    let mut all = vec![first];
    for _ in 0..3 {
        all.push(halted(small.outbox.relay(&[], &[("WORKER_ON_REJECT", "dead-letter")]).await).await);
    }
    assert_eq!(published_behind(&small).await, behind, "later starts publish nothing behind it");
    for halted in all {
        halted.names(&says).advises("drop the constraint");
        halted.advises("the confirmed LSN stays before it");
        // As text, as hex digits, or as the server shows a row.
        for shown in ["xxx", "78787878", "filler", "Failing row"] {
            assert!(!halted.stderr.contains(shown), "{shown}: {}", halted.stderr);
        }
        assert!(database.value::<bool>(&confirmed).await, "the row is confirmed");
    }
    let stored = "select exists (select from txstream_dead_letter where key = 'bad')";
    assert!(!database.value::<bool>(stored).await);
    database.exec("alter table txstream_dead_letter drop constraint no_bad_key").await;
    let relay = small.relay().await;
    small.letters(3).await;
    small.confirmed().await;
    small.insert_large("bad", 2).await;
    small.letters(4).await;
    stop(relay).await;
    assert!(published_behind(&small).await > behind, "the one behind it at last");
}

#[tokio::test]
async fn a_letter_that_its_table_never_takes_stops_a_backfill_that_is_run_again_once_it_is_mended() {
    let small = Small::on(Outbox::migrated().await).await;
    let database = &small.outbox.database;
    database.exec("alter table txstream_dead_letter add constraint no_letters check (false) not valid").await;
    small.insert_large("k", 1).await;
    let create = ["slot", "create", "--backfill", "--lock-timeout", "30s"];
    let env = [("WORKER_ON_REJECT", "dead-letter")];
    let halted = small.outbox.publishing(&create, &env).await;
    assert_eq!(halted.code, Some(1), "{halted:?}");
    for part in ["23514", "no_letters", &small.topic, "the backfill stays unfinished"] {
        assert!(halted.stderr.contains(part), "{part} is missing: {}", halted.stderr);
    }
    small.letters(0).await;
    database.exec("alter table txstream_dead_letter drop constraint no_letters").await;
    let again = ["slot", "reset", "--backfill", "--yes", "--lock-timeout", "30s"];
    let done = small.outbox.publishing(&again, &env).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    small.letters(1).await;
}

/// How many records there are of the key `behind`.
async fn published_behind(small: &Small) -> usize {
    let mut topic = small.outbox.kafka.topic(&small.topic);
    topic.read_to_end().await.iter().filter(|record| record.key_text() == "behind").count()
}

#[tokio::test]
async fn of_letters_stored_at_once_none_is_if_their_table_takes_one_of_them_never_and_that_one_is_named() {
    let outbox = Outbox::with_slot().await;
    outbox.database.exec("update txstream_checkpoint set instance = 'this'").await;
    let constraint = "alter table txstream_dead_letter add constraint no_bad_id check (row_id <> 'bad')";
    outbox.database.exec(constraint).await;
    let client = outbox.database.client().await;
    let letters = ["first", "second", "bad", "last"].map(|id| Letter {
        table: "public.outbox".into(),
        row_id: Some(id.to_owned()),
        commit_lsn: Lsn(0x10),
        ordinal: 0,
        content: Content::Row(vec![("payload".to_owned(), Some("secret".to_owned()))]),
        reason: Reason::Unmappable,
        error: String::new(),
    });
    let refused = store::store(&client, outbox.slot(), "this", &letters).await.unwrap_err();
    assert!(matches!(refused, DeadLetterError::Refused { place: 2, .. }), "{refused:?}");
    assert!(!format!("{refused:?} {refused}").contains("secret"), "{refused:?}");
    let count = "select count(*) from txstream_dead_letter";
    assert_eq!(outbox.database.value::<i64>(count).await, 0);
    assert!(!store::store(&client, outbox.slot(), "another", &letters[..2]).await.unwrap());
    assert!(store::store(&client, outbox.slot(), "this", &letters[..2]).await.unwrap());
    assert_eq!(outbox.database.value::<i64>(count).await, 2);
}

#[tokio::test]
async fn letters_that_are_not_listed_or_shown_are_said_to_be_there() {
    let outbox = Outbox::migrated().await;
    fill(&outbox, outbox.slot(), 120).await;
    let lines = async |args: &[&str]| {
        let json = outbox.done(&[&["dead-letter"], args, &["--output", "json"]].concat()).await;
        let letters: Vec<serde_json::Value> = serde_json::from_str(&json.stdout).unwrap();
        let table = outbox.done(&[&["dead-letter"], args].concat()).await;
        assert_eq!(json.stderr, table.stderr);
        assert!(!table.stdout.contains("there are more"), "{}", table.stdout);
        (letters.len(), json.stderr)
    };
    for (args, count, more) in
        [(&["list", "--limit", "7"][..], 7, "--limit COUNT"), (&["show", "--all"], 100, "show --id ID")]
    {
        let (listed, said) = lines(args).await;
        assert_eq!(listed, count);
        assert!(said.contains(&format!("there are more dead letters than the {count}")), "{said}");
        assert!(said.contains(more), "{said}");
    }
    for (args, count) in
        [(&["list"][..], 120), (&["list", "--limit", "120"], 120), (&["show", "--id", "3"], 1)]
    {
        let (listed, said) = lines(args).await;
        assert_eq!((listed, said.as_str()), (count, ""));
    }
}

//! A row that no topic can ever take is stored like every other, however long what it names is.

use crate::dead_letters::stop;
use crate::support::wait::SOON;
use crate::support::{Outbox, eventually, unique};

#[tokio::test]
async fn a_topic_name_longer_than_any_is_stored_and_holds_nobody_up() {
    let outbox = Outbox::with_slot().await;
    outbox.database.exec("alter table outbox alter column aggregatetype type text").await;
    let policy = [("WORKER_ON_REJECT", "dead-letter")];
    let relay = outbox.streaming(&[], &policy).await;
    // Nothing that compresses: an index takes 2,704 bytes.
    let bad = "insert into outbox (aggregatetype, aggregateid, type, payload)
               select string_agg(md5(n::text), ''), 'k', 'T', '{}' from generate_series(1, 400) n";
    let letters = async |count: i64| {
        eventually(SOON, format!("{count} letters"), async || {
            let have: i64 = outbox.database.value("select count(*) from txstream_dead_letter").await;
            (have == count).then_some(())
        })
        .await;
    };
    let kind = unique("good");
    let mut topic = outbox.topic(&kind);
    outbox.database.exec(bad).await;
    outbox.insert(&kind, "1", "{}").await;
    letters(1).await;
    topic.read_count(1).await;
    outbox.database.exec(bad).await;
    letters(2).await;
    stop(relay).await;

    let relay = outbox.streaming(&[], &policy).await;
    outbox.database.exec(bad).await;
    outbox.insert(&kind, "2", "{}").await;
    letters(3).await;
    topic.read_count(2).await;
    let listed = outbox.done(&["dead-letter", "list"]).await;
    assert!(
        listed.stdout.contains("not a legal topic name") || listed.stdout.contains("invalid"),
        "{listed:?}"
    );
    outbox.done(&["dead-letter", "discard", "--all", "--yes"]).await;
    letters(0).await;
    stop(relay).await;
}

//! A cluster of three brokers under load: leaders move, brokers end and freeze.

use std::time::Duration;

use crate::load::{Load, Outbox, RECOVERY, lasts, more};
use crate::support::{Cluster, Postgres, eventually};

#[tokio::test]
async fn leaders_that_move_because_brokers_stop_crash_and_freeze_cost_no_row_and_no_session() {
    let cluster = Cluster::start().await;
    let postgres = Postgres::start(Postgres::default_version(), &[("wal_sender_timeout", "5s")]).await;
    let outbox = Outbox::new(&postgres).await;
    let mut relay = outbox.relay(&cluster.bootstrap(), &[]).await;
    let load = Load::start(&outbox, 4);
    let mut topic = cluster.topic(&outbox.topic_name());
    more(&mut topic, 100).await;
    let walsender = outbox.walsender().await;
    for (number, node) in (1..).zip(cluster.nodes()) {
        eventually(RECOVERY, format!("broker {number} leads"), async || {
            cluster.leaders(topic.name())?.contains(&number).then_some(())
        })
        .await;
        match number {
            1 => node.stop().await,
            2 => node.crash().await,
            _ => node.freeze().await,
        }
        eventually(RECOVERY, format!("others lead in place of broker {number}"), async || {
            let leaders = cluster.leaders(topic.name())?;
            leaders.iter().all(|leader| *leader > 0 && *leader != number).then_some(())
        })
        .await;
        more(&mut topic, 200).await;
        match number {
            3 => node.thaw().await,
            _ => node.start_again().await,
        }
    }
    // With one broker left nothing can be acknowledged.
    let [_, second, third] = cluster.nodes() else { panic!("three nodes") };
    second.freeze().await;
    third.freeze().await;
    lasts(Duration::from_secs(8), async || {
        assert_eq!(outbox.walsender().await, walsender, "longer than a timeout");
    })
    .await;
    second.thaw().await;
    third.thaw().await;
    load.commits(100).await;
    load.stop().await;
    outbox.all_arrive(&mut topic).await;
    assert_eq!(outbox.walsender().await, walsender);
    assert!(relay.is_running());
}

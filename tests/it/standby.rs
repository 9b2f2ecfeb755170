//! A second relay on the same slot stands by, ready, and takes over when the first one ends.

use std::time::Duration;

use tokio::time::Instant;

use crate::load::{Load, Outbox, state_is};
use crate::support::wait::SOON;
use crate::support::{Kafka, Postgres, Relay, eventually};

/// A relay that is ready because it stands by.
async fn standby(outbox: &Outbox, kafka: &Kafka) -> Relay {
    let relay = outbox.relay(kafka.bootstrap(), &[]).await;
    state_is(&relay, "standby").await;
    relay
}

/// Waits until another walsender than `old` serves the slot, and says how long that took.
async fn taken_over(outbox: &Outbox, old: Option<i32>, deadline: Duration) -> Duration {
    let begin = Instant::now();
    eventually(deadline, "the standby takes over", async || {
        outbox.walsender().await.filter(|pid| Some(*pid) != old)
    })
    .await;
    begin.elapsed()
}

#[tokio::test]
async fn the_second_relay_stands_by_ready_and_names_the_holder() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let mut first = outbox.relay(kafka.bootstrap(), &[]).await;
    state_is(&first, "streaming").await;
    let second = standby(&outbox, kafka).await;
    let holder = outbox.walsender().await.unwrap();
    let detail = second.status().await["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(&holder.to_string()) && detail.contains("txstream"), "{detail}");
    let ready = second.get("/readyz").await;
    assert!(ready.status == 200 && ready.body.contains("standby"), "{}", ready.body);
    second.sigterm().await;
    assert_eq!(second.wait_exit(SOON).await.status.code(), Some(0), "a standby stops at once");
    assert_eq!(outbox.walsender().await, Some(holder), "and leaves the holder alone");
    assert!(first.is_running());
}

#[tokio::test]
async fn the_standby_takes_over_within_5_seconds_of_a_crash_and_reorders_nothing() {
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let load = Load::start(&outbox, 4);
    let mut topic = outbox.topic(kafka);
    let mut holder = outbox.relay(kafka.bootstrap(), &[]).await;
    for _ in 0..3 {
        let next = standby(&outbox, kafka).await;
        let read = topic.records().len();
        topic.read_until(SOON, "more records", |records| records.len() >= read + 100).await;
        let old = outbox.walsender().await;
        holder.kill9().await;
        taken_over(&outbox, old, Duration::from_secs(5)).await;
        state_is(&next, "streaming").await;
        holder = next;
    }
    load.stop().await;
    outbox.all_arrive(&mut topic).await;
}

/// Restarts of an ordinary test run. `make rolling-restart` makes a hundred; `ROLLING_RESTARTS=n` says how many.
const RESTARTS: usize = 10;

#[tokio::test]
#[allow(clippy::print_stderr, reason = "a run of minutes says what came of it")]
async fn rolling_restarts_under_load_hand_over_within_a_second_and_repeat_nothing() {
    let restarts = std::env::var("ROLLING_RESTARTS")
        .map_or(RESTARTS, |number| number.parse().expect("ROLLING_RESTARTS is a number"));
    let kafka = Kafka::shared().await;
    let outbox = Outbox::new(Postgres::shared().await).await;
    let load = Load::start(&outbox, 4);
    let mut topic = outbox.topic(kafka);
    let mut holder = outbox.relay(kafka.bootstrap(), &[]).await;
    let mut times = Vec::new();
    for _ in 0..restarts {
        let next = standby(&outbox, kafka).await;
        let read = topic.records().len();
        topic.read_until(SOON, "more records", |records| records.len() >= read + 100).await;
        let old = outbox.walsender().await;
        holder.sigterm().await;
        let exit = holder.wait_exit(SOON).await;
        assert_eq!(exit.status.code(), Some(0), "{}", exit.stderr);
        times.push(taken_over(&outbox, old, SOON).await);
        state_is(&next, "streaming").await;
        holder = next;
    }
    load.stop().await;
    let arrived = outbox.all_arrive(&mut topic).await;
    times.sort();
    let (median, longest) = (times[restarts / 2], times[restarts - 1]);
    eprintln!(
        "{restarts} restarts, {arrived:?}, taken over after {median:?} (median), {longest:?} (longest)"
    );
    assert_eq!(arrived.duplicates, 0);
    // The median, since other tests share the machine.
    assert!(median < Duration::from_secs(1), "taken over after {times:?}");
}

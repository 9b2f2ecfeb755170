//! The crash proof: a relay under load ends abruptly again and again, at moments that a seed chooses,
//! every second time while Kafka does not answer; between whiles its session is terminated. Then the
//! topic is compared with the table.
//!
//! An ordinary test run makes a few kills. `make crash-test` makes a thousand; `CRASH_KILLS=n` or
//! `CRASH_SECONDS=n` say how long, `CRASH_SEED=n` chooses other moments. The seed fixes what is done and
//! when; what the servers make of it is theirs, so a failure need not come again at the same kill.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::load::{Load, Outbox};
use crate::support::wait::SOON;
use crate::support::{Direction, Kafka, Postgres, Proxy, Relay, Topic, unique};

/// Kills of an ordinary test run.
const KILLS: u64 = 10;

/// After so many the load pauses and everything is judged: a failure shows early, and what has to be
/// remembered stays small.
const KILLS_OF_A_CHAPTER: u64 = 25;

/// splitmix64: a seed gives the same moments everywhere.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    /// A moment within the next so many milliseconds. It is no wait for something to happen: whatever
    /// happens meanwhile is what is to be interrupted.
    async fn moment(&mut self, within_ms: u64) {
        sleep(Duration::from_millis(self.below(within_ms))).await;
    }
}

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

/// How far a run goes.
struct Goal {
    kills: u64,
    end: Option<Instant>,
}

impl Goal {
    fn from_environment() -> Self {
        let end =
            from_environment("CRASH_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let kills = from_environment("CRASH_KILLS").unwrap_or(if end.is_some() { u64::MAX } else { KILLS });
        Self { kills, end }
    }

    fn is_reached(&self, kills: u64) -> bool {
        kills >= self.kills || self.end.is_some_and(|end| Instant::now() >= end)
    }
}

/// What was done and what came of it.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    while_stalled: u64,
    while_starting: u64,
    terminated_sessions: u64,
    rows: usize,
    duplicates: usize,
}

/// The servers, and the way to Kafka that can be stalled.
struct Stage {
    kafka: Kafka,
    way: Proxy,
    outbox: Outbox,
}

impl Stage {
    async fn relay(&self) -> Relay {
        self.outbox.start(&self.way.address(), &[]).await
    }

    /// Kafka stops answering, in one of the ways a network or a broker can.
    async fn stall(&self, rng: &mut Rng) {
        match rng.below(4) {
            0 => self.kafka.freeze().await,
            1 => self.way.stall(Direction::ToServer),
            // Kafka has what it was sent, and the relay does not hear of it.
            2 => self.way.stall(Direction::ToClient),
            _ => self.way.stall(Direction::Both),
        }
    }

    async fn resume(&self) {
        self.kafka.thaw().await;
        self.way.resume();
    }

    /// Ends the relay's session from Postgres' side, if it has one.
    async fn terminate_session(&self) -> bool {
        let Some(walsender) = self.outbox.walsender().await else { return false };
        self.outbox.database.value(&format!("select pg_terminate_backend({walsender})")).await
    }
}

/// Starts a relay and kills it; in most cases after it published something, else while it starts.
async fn round(stage: &Stage, topic: &mut Topic, rng: &mut Rng, tally: &mut Tally) {
    let relay = stage.relay().await;
    if rng.below(5) == 0 {
        tally.while_starting += 1;
        rng.moment(600).await;
    } else {
        let read = topic.records().len();
        topic.read_until(SOON * 2, "something is published", |records| records.len() > read).await;
        if rng.below(4) == 0 && stage.terminate_session().await {
            tally.terminated_sessions += 1;
        }
        rng.moment(400).await;
    }
    let stalls = tally.kills % 2 == 1;
    if stalls {
        stage.stall(rng).await;
        rng.moment(300).await;
    }
    relay.kill9().await;
    tally.kills += 1;
    if stalls {
        tally.while_stalled += 1;
        stage.resume().await;
    }
}

/// Kills under one load, to its end: then every committed row is in the topic, in order per key, and
/// what is there twice is the same to the byte.
async fn chapter(stage: &mut Stage, rng: &mut Rng, goal: &Goal, tally: &mut Tally) {
    stage.outbox.aggregate_type = unique("order");
    stage.outbox.database.exec("truncate outbox").await;
    let mut topic = stage.outbox.topic(&stage.kafka);
    let load = Load::start(&stage.outbox, 4);
    let last = tally.kills + KILLS_OF_A_CHAPTER;
    while tally.kills < last && !goal.is_reached(tally.kills) {
        round(stage, &mut topic, rng, tally).await;
    }
    let mut relay = stage.relay().await;
    load.stop().await;
    let arrived = stage.outbox.all_arrive(&mut topic).await;
    tally.rows += arrived.rows;
    tally.duplicates += arrived.duplicates;
    assert!(relay.is_running());
    relay.sigterm().await;
    assert_eq!(relay.wait_exit(SOON).await.status.code(), Some(0));
    stage.kafka.delete_topic(&stage.outbox.topic_name()).await;
}

#[tokio::test]
#[allow(clippy::print_stderr, reason = "a run of an hour says where it is")]
async fn a_relay_killed_at_any_moment_loses_and_reorders_nothing() {
    let (goal, seed) = (Goal::from_environment(), from_environment("CRASH_SEED").unwrap_or(1));
    let (kafka, way) = Kafka::start_behind_proxy(&[]).await;
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let mut stage = Stage { kafka, way, outbox: Outbox::new(&postgres).await };
    let (mut rng, mut tally) = (Rng(seed), Tally::default());
    let begin = Instant::now();
    while !goal.is_reached(tally.kills) {
        chapter(&mut stage, &mut rng, &goal, &mut tally).await;
        eprintln!("seed {seed}, {} s: {tally:?}", begin.elapsed().as_secs());
    }
    assert!(tally.duplicates > 0, "no kill met a record in flight: {tally:?}");
}

//! The core between a model walsender and a model Kafka that acknowledges out of order, stalls,
//! refuses topics and records, fails records and loses its session at any step, beside a model of the
//! table of dead letters and of people who replay; the invariants are checked after every step.
//!
//! `SIM_SEED=n` replays one schedule, `SIM_SCHEDULES=n` runs that many.

mod model;
mod table;

use std::time::Duration;

use model::{Rng, World};

/// Steps of one schedule before everything heals.
const STEPS: usize = 600;

/// Schedules of an ordinary test run.
const SCHEDULES: u64 = 200;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn schedule(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut world = World::new(&mut rng);
    for _ in 0..STEPS {
        match rng.below(112) {
            0..12 => world.commit_transaction(&mut rng),
            12..15 => world.other_traffic(&mut rng),
            15..45 => world.read(),
            45..60 => world.dispatch(),
            60..73 => world.broker_works(&mut rng),
            73..86 => world.report_arrives(&mut rng),
            86..90 => world.time_passes(Duration::from_millis(rng.below(4_000))),
            90..93 => world.status_arrives(),
            93 => world.revoke_or_grant(&mut rng),
            94 => world.stall_or_resume(),
            95 => world.partition_fails(&mut rng),
            96 => world.force_breaker(&mut rng),
            97 => world.keepalive_inside(),
            98 => world.crash(&mut rng),
            99 => world.stop_gracefully(&mut rng),
            100..109 => world.desk_works(&mut rng),
            _ => world.replay_works(&mut rng),
        }
        world.check();
    }
    world.heal_and_drain(&mut rng);
}

#[test]
fn every_schedule_keeps_the_invariants() {
    if let Some(seed) = from_environment("SIM_SEED") {
        schedule(seed);
        return;
    }
    let first = from_environment("SIM_FIRST").unwrap_or(1);
    for seed in first..first + from_environment("SIM_SCHEDULES").unwrap_or(SCHEDULES) {
        let outcome = std::panic::catch_unwind(|| schedule(seed));
        assert!(outcome.is_ok(), "schedule {seed} broke an invariant; replay it with SIM_SEED={seed}");
    }
}

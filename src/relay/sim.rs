//! The core between a model Postgres and a model Kafka that acknowledges out of order, stalls, refuses
//! topics and records, fails records and loses its session at any step, beside a model of the table of
//! dead letters and of people who replay. Relays take the slot over from others that do not know it yet;
//! slots are lost, and reset with a backfill. The invariants are checked after every step.
//!
//! Pure is more than the core, and real here: what slot and checkpoint row mean, where a session begins,
//! when a recovery pair holds. SQL and sockets are modelled.
//!
//! `SIM_SEED=n` replays one schedule, `SIM_SCHEDULES=n` runs that many, from `SIM_FIRST` on.

mod backfill;
mod invariants;
mod kafka;
mod model;
mod postgres;
mod rng;
mod session;
mod table;
mod takeover;

use std::time::Duration;

use model::World;
use rng::Rng;

/// Steps of one schedule before everything heals.
const STEPS: usize = 700;

/// Schedules of an ordinary test run.
const SCHEDULES: u64 = 200;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn schedule(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut world = World::new(&mut rng);
    for _ in 0..STEPS {
        step(&mut world, &mut rng);
        world.backfill_ends(&mut rng);
        world.check();
    }
    world.heal_and_drain(&mut rng);
}

fn step(world: &mut World, rng: &mut Rng) {
    match rng.below(132) {
        0..12 => world.commit_transaction(rng),
        12..15 => world.postgres.other_traffic(rng),
        15..45 => world.read(),
        45..60 => world.dispatch(),
        60..73 => world.broker_works(rng),
        73..86 => world.report_arrives(rng),
        86..90 => world.time_passes(Duration::from_millis(rng.below(4_000))),
        90..93 => world.status_arrives(),
        93 => world.broker.revoke_or_grant(rng),
        94 => world.stall_or_resume(),
        95 => world.partition_fails(rng),
        96 => world.force_breaker(rng),
        97 => world.keepalive_inside(),
        98 => world.crash(rng),
        99 => world.stop_gracefully(rng),
        100..109 => world.desk_works(rng),
        109..112 => world.replay_works(rng),
        112 => world.connection_is_lost(rng),
        113 => world.take_over(rng),
        114..126 => world.old_works(rng),
        126..129 => world.row_is_written(),
        129 if rng.one_in(5) => world.slot_is_lost(rng),
        _ => world.reset(rng),
    }
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

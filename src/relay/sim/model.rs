//! Everything around the real core: a server, brokers, a table of dead letters, the session that holds the
//! slot and perhaps one that held it before.

use std::time::Duration;

use tokio::time::Instant;

use super::kafka::Broker;
use super::postgres::Postgres;
use super::rng::Rng;
use super::session::Session;
use super::table::Table;
use crate::relay::settings::{self, OnReject, Settings};

/// Everything outside the core, and the cores.
pub(super) struct World {
    pub(super) postgres: Postgres,
    pub(super) broker: Broker,
    pub(super) table: Table,
    /// Who streams, or publishes the table; nobody between the loss of a slot and its reset.
    pub(super) holder: Option<Session>,
    /// Who held the slot before and does not know yet that the stream is over.
    pub(super) old: Option<Session>,
    pub(super) now: Instant,
    pub(super) settings: Settings,
    /// Processes so far.
    pub(super) processes: u64,
    /// Transactions before this one are safe in Kafka or in the table.
    pub(super) safe: usize,
    /// Rows that a backfill has read.
    pub(super) backfilled: std::collections::HashSet<usize>,
}

fn settings(rng: &mut Rng) -> Settings {
    Settings {
        slot: "s".to_owned(),
        publication: "p".to_owned(),
        status_interval: Duration::from_secs(1),
        lanes: 1 + rng.pick(4),
        batch_size: 1 + rng.pick(5),
        max_in_flight_bytes: 500 + rng.pick(20_000),
        on_reject: if rng.one_in(2) { OnReject::Halt } else { OnReject::DeadLetter },
        breaker: settings::Breaker {
            enabled: rng.below(4) > 0,
            failure_threshold: 2,
            success_threshold: 2,
            timeout_duration: Duration::from_secs(5),
            reset_timeout: Duration::from_secs(10),
        },
        backoff: settings::Backoff {
            enabled: true,
            base: Duration::from_secs(1),
            max: Duration::from_secs(8),
            multiplier: 2.0,
            constant: Duration::from_secs(1),
        },
        max_retries: None,
        shutdown_timeout: Duration::from_secs(25),
    }
}

impl World {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let mut world = Self {
            settings: settings(rng),
            postgres: Postgres::new(rng),
            broker: Broker::default(),
            table: Table::default(),
            holder: None,
            old: None,
            now: Instant::now(),
            processes: 0,
            safe: 0,
            backfilled: std::collections::HashSet::new(),
        };
        let first = world.process();
        world.begin(first, 0, rng);
        world
    }

    /// Some rows are nothing for Kafka, if that does not end the run.
    pub(super) fn commit_transaction(&mut self, rng: &mut Rng) {
        let rows = self.postgres.commits(rng);
        let count = rows.len();
        if self.settings.on_reject == OnReject::DeadLetter {
            for row in rows {
                match rng.below(30) {
                    0 => row.large = true,
                    1 => _ = self.broker.poison.insert(row.id),
                    _ => {}
                }
            }
        }
        self.postgres.committed(count);
    }

    pub(super) fn read(&mut self) {
        let Some(holder) = &mut self.holder else { return };
        // A table is read faster, or it would seldom come to its end.
        for _ in 0..if holder.streams() { 1 } else { 6 } {
            holder.read(&self.postgres, self.now);
        }
    }

    pub(super) fn keepalive_inside(&mut self) {
        if let Some(holder) = &mut self.holder {
            holder.keepalive_inside(&self.postgres);
        }
    }

    pub(super) fn dispatch(&mut self) {
        if let Some(holder) = &mut self.holder {
            holder.dispatch(self.now);
        }
    }

    pub(super) fn broker_works(&mut self, rng: &mut Rng) {
        if let Some(holder) = &mut self.holder {
            holder.producer.is_served(&mut self.broker, rng, self.now);
        }
    }

    pub(super) fn partition_fails(&mut self, rng: &mut Rng) {
        if let Some(holder) = &mut self.holder {
            holder.producer.partition_fails(rng);
        }
    }

    pub(super) fn report_arrives(&mut self, rng: &mut Rng) {
        if let Some(holder) = &mut self.holder {
            holder.report_arrives(&mut self.broker, rng, self.now);
        }
    }

    pub(super) fn desk_works(&mut self, rng: &mut Rng) {
        if let Some(holder) = &mut self.holder {
            let replaced = self.table.serve(holder, &self.postgres.checkpoint.instance, rng, self.now);
            assert!(!replaced, "the holder of the slot does not hold the row");
        }
    }

    pub(super) fn time_passes(&mut self, by: Duration) {
        self.now += by;
        for session in self.holder.iter_mut().chain(&mut self.old) {
            session.core.tick(self.now);
        }
    }

    /// The server reads the holder's status.
    pub(super) fn status_arrives(&mut self) {
        if let Some(holder) = self.holder.as_ref().filter(|holder| holder.streams()) {
            self.postgres.slot = self.postgres.slot.max(Some(holder.confirmed()));
        }
    }

    pub(super) fn row_is_written(&mut self) {
        if let Some(holder) = &self.holder {
            holder.row_is_written(&mut self.postgres, false);
        }
    }

    pub(super) fn stall_or_resume(&mut self) {
        self.broker.stalled = !self.broker.stalled;
        for session in self.holder.iter_mut().chain(&mut self.old) {
            session.core.transport_trouble(self.broker.stalled, self.now);
        }
    }

    pub(super) fn force_breaker(&mut self, rng: &mut Rng) {
        let open = rng.one_in(3);
        if let Some(holder) = &mut self.holder {
            holder.core.force_breaker(open, self.now);
        }
    }

    /// Every fault of Kafka ends. A breaker that was opened by hand is closed by hand, any other by itself.
    pub(super) fn heal(&mut self) {
        self.broker.refused.clear();
        self.broker.stalled = false;
        if let Some(holder) = &mut self.holder
            && holder.core.breaker().2
        {
            holder.core.force_breaker(false, self.now);
        }
    }

    /// Everything but reading goes on.
    pub(super) fn work(&mut self, rng: &mut Rng) {
        self.time_passes(Duration::from_millis(200));
        self.dispatch();
        self.broker_works(rng);
        self.report_arrives(rng);
        self.desk_works(rng);
        if rng.one_in(4) {
            self.old_works(rng);
        }
        self.backfill_ends(rng);
        self.check();
    }
}

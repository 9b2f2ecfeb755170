//! txstream relays committed outbox rows from Postgres to Kafka and loses none.
//!
//! Read the modules in this order; it is the way of an event, then what surrounds it:
//!
//! 1. [`postgres`]: connections, TLS, the replication stream, slots. Knows nothing of outboxes or Kafka.
//! 2. [`pgoutput`]: the bytes of the logical replication plugin, decoded without copying.
//! 3. [`outbox`]: a row of an outbox table becomes a [`outbox::Record`].
//! 4. [`kafka`]: the producer; a record goes in with a ticket, a delivery with that ticket comes out.
//! 5. [`dead_letter`]: the table of records that Kafka did not take, and their way back.
//! 6. [`relay`]: what may be read, sent and confirmed. The promise of the project lives here.
//! 7. [`migrate`]: tables and the publication. [`retention`]: rows go once they are confirmed.
//! 8. [`doctor`]: whether the surroundings are right. [`verify`]: whether the rows are in Kafka.
//! 9. [`writer`]: the HTTP service that writes orders and events into the outbox table.
//! 10. [`admin`], [`metrics`]: what relay and writer say about themselves.
//! 11. [`config`], [`cli`]: what people type.
//!
//! Arrows go one way: `cli` uses everything, `config` builds the settings each module defines for
//! itself, `relay` uses `outbox`, `pgoutput`, `postgres`, `kafka` and `dead_letter`, and none of those
//! knows `relay`. `writer` uses `outbox` for names and `postgres` for connections. `postgres` and
//! `kafka` do not know each other.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::print_stdout,
        clippy::print_stderr,
        clippy::too_many_lines
    )
)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod dead_letter;
pub mod doctor;
pub mod kafka;
pub mod metrics;
pub mod migrate;
pub mod outbox;
pub mod pgoutput;
pub mod postgres;
pub mod relay;
pub mod retention;
pub mod secret;
pub mod verify;
pub mod writer;

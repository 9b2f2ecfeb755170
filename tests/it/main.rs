//! Integration tests: real servers, the relay as a child process. One file per promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::too_many_lines, reason = "tests")]

mod support;

/// The stack that everything below stands on: Postgres, Kafka, the proxy.
mod stack;

/// Alert rules and their runbook.
mod alerts;
/// Batches no larger than their topics take.
mod batches;
/// `breaker`: by command, through the admin server.
mod breaker;
/// The same while it streams, and when the slot is not what it was.
mod checks;
/// What a shell sees of the binary.
mod cli;
/// How durable our own writes are.
mod commits;
/// The Grafana dashboard.
mod dashboard;
mod dashboard_picture;
/// What Kafka will never take is stored, and comes back in order.
mod dead_letters;
/// Containers, manifests and the unit.
mod deploy;
/// The documents name only what exists, and all of it.
mod docs;
/// `doctor`, and that what it prints mends what it found.
mod doctor;
/// Each misconfiguration that it knows, made and mended.
mod doctor_mends;
/// The same beside a real standby.
mod doctor_standby;
/// What they tell a newcomer to type.
mod documented;
/// `lag`, with a relay and without.
mod lag;
/// The table of dead letters when it is large, or refuses a letter.
mod letters_table;
/// A table of ours that somebody locks.
mod locked;
/// What a relay logs while all is well.
mod logs;
/// `migrate`: what is made, what is adopted, and that nothing else is ever dropped.
mod migrate;
/// What `migrate down` destroys, it names before.
mod migrate_down;
/// Topics that do not exist yet, and how large a record they will take.
mod new_topics;
/// What the relay says of itself.
mod observing;
/// A real Prometheus and what it finds.
mod prometheus;
/// Old rows go once they are confirmed, and only then.
mod prune;
/// Rows that Kafka will never take.
mod rejecting;
/// Connections to Postgres: replication sessions and TLS.
mod replication_session;
/// The runbook, section by section.
mod runbook;
/// The slot's beginning and end.
mod slot;
/// Which rows a backfill takes.
mod slot_backfill;
/// A slot that nobody used for too long.
mod slot_idle;
/// A slot moved, taken over, or older than its publication.
mod slot_moves;
/// A lost slot made anew, and what it had not confirmed.
mod slot_reset;
/// What a relay says at its start when something is not as it must be, and what mends it.
mod starting;
/// The status page in a real browser.
mod status_page;
/// Which module may use which.
mod structure;
/// Records that waited for Kafka until their timestamp was too old for it.
mod timestamps;
mod tls;
/// A row that no topic can take.
mod unpublishable;
/// `verify`: the topics beside the table.
mod verify;
/// Where it must not say that all is well.
mod verify_doubt;

/// What the tests below write and how they judge what arrived.
mod load;

/// A backlog over a Unix socket.
mod backlog;
/// A huge transaction in fixed memory.
mod big;
/// The same at three brokers, between which leaders move.
mod cluster;
/// A relay killed at any moment loses nothing.
mod crash;
/// What a connector of Debezium leaves behind is taken over.
mod debezium;
/// A committed row becomes exactly the promised record.
mod delivery;
/// Whatever breaks, nothing is lost or reordered.
mod faults;
/// An idle outbox pins no WAL.
mod idle;
/// What else can happen to Kafka.
mod kafka_faults;
/// Records that Kafka never takes go on coming.
mod parking;
/// What else can happen to Postgres.
mod postgres_faults;
/// Kafka with TLS, passwords and access lists.
mod secured_kafka;
/// A second relay takes over.
mod standby;
/// A graceful stop repeats and loses nothing.
mod stopping;

/// The programs of `examples/`, each in its own language.
mod examples;
/// The files of `sql/`, through the relay to Kafka.
mod sql_files;
/// The HTTP service.
mod writer;

//! A replication slot as `pg_replication_slots` shows it.

//! Other slots of this database that nobody reads: left behind by an earlier name or an experiment, each keeps
//! WAL for ever.

use postgres_protocol::escape::escape_literal;
use tokio_postgres::types::Type;

use super::server::Server;
use super::{Checked, Finding};

pub(super) const NAME: &str = "other_slots";

const UNREAD: &str = "\
select slot_name::text,
       greatest(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end,
                                restart_lsn), 0)::int8
  from pg_catalog.pg_replication_slots
 where plugin = 'pgoutput' and database = current_database() and slot_name <> $1
   and not active and not temporary and restart_lsn is not null
   -- On a standby the synced ones have their reader at the primary; the column is new in PostgreSQL 17.
   and (to_jsonb(pg_replication_slots) ->> 'synced')::bool is not true
 order by 2 desc";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let rows = server.rows("look for other slots", UNREAD, &[(&server.subject.slot, Type::NAME)]).await?;
    let unread = rows.iter().map(|row| {
        let (name, bytes): (String, i64) = (row.get(0), row.get(1));
        Finding::warn(
            NAME,
            format!(
                "slot {name} of this database has no reader and keeps {} MiB of WAL; drop it if nobody needs it",
                bytes >> 20
            ),
        )
        .mended_by(format!("SELECT pg_drop_replication_slot({});", escape_literal(&name)))
    });
    let mut findings: Vec<Finding> = unread.collect();
    if findings.is_empty() {
        findings.push(Finding::ok(NAME, "no other slot of this database is without a reader"));
    }
    Ok(findings)
}

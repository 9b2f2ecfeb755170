//! Failover slots (PostgreSQL 17): whether the slot is there when a standby is promoted.

use postgres_protocol::escape::escape_identifier;

use super::server::{FAILOVER_SLOTS, Server};
use super::{Checked, Finding};
use crate::postgres::PgError;

pub(super) const NAME: &str = "failover";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    if server.in_recovery && server.version >= FAILOVER_SLOTS {
        return Ok(vec![synced(server)]);
    }
    let name = &server.subject.slot;
    let Some(slot) = &server.slot else {
        return Ok(vec![Finding::unchecked(NAME, "there is no slot")]);
    };
    if slot.failover == Some(true) {
        return Ok(vec![Finding::ok(NAME, format!("slot {name} is a failover slot"))]);
    }
    if !standbys(server).await? {
        return Ok(vec![Finding::ok(NAME, "the server has no standby to fail over to")]);
    }
    if server.version < FAILOVER_SLOTS {
        return Ok(vec![Finding::warn(
            NAME,
            format!(
                "the server has a standby, and slot {name} will not be on it after a failover: before PostgreSQL 17 no \
                 slot is"
            ),
        )]);
    }
    let info = &server.subject.replication;
    Ok(vec![
        Finding::warn(
            NAME,
            format!(
                "the server has a standby, and slot {name} will not be on it after a failover; while no relay holds it, it \
                 can be made a failover slot"
            ),
        )
        .mended_by(format!(
            "psql \"host={} port={} user={} dbname={} replication=database\" -c 'ALTER_REPLICATION_SLOT {} ( FAILOVER true );'",
            info.host,
            info.port,
            info.user,
            info.dbname,
            escape_identifier(name).trim()
        )),
    ])
}

/// On the standby itself.
fn synced(server: &Server<'_>) -> Finding {
    let name = &server.subject.slot;
    match &server.slot {
        None => Finding::fail(
            NAME,
            format!(
                "slot {name} is not on this standby: it is not synced, or not a failover slot on the primary"
            ),
        )
        .mended_by("SELECT pg_sync_replication_slots();"),
        Some(slot) if slot.terminal().is_some() => {
            Finding::fail(NAME, format!("slot {name} on this standby is invalid and will be made anew"))
        }
        Some(slot) if slot.synced != Some(true) => Finding::fail(
            NAME,
            format!("slot {name} on this standby is its own and not synced from the primary"),
        ),
        Some(slot) if slot.temporary => Finding::warn(
            NAME,
            format!(
                "slot {name} is not yet synced: this standby does not have what the slot needs; the relay must go on first"
            ),
        ),
        Some(_) => Finding::ok(NAME, format!("slot {name} is synced from the primary")),
    }
}

/// Whether a physical slot or a physical walsender tells of a standby.
async fn standbys(server: &Server<'_>) -> Result<bool, PgError> {
    let sql = "select exists (select from pg_catalog.pg_replication_slots where slot_type = 'physical' and not temporary)";
    server.value("look for standbys", sql, &[]).await
}

//! Failover slots (PostgreSQL 17): whether the slot is there when a standby is promoted.

use postgres_protocol::escape::{escape_identifier, escape_literal};

use super::finding::set;
use super::server::{FAILOVER_SLOTS, Server};
use super::{Checked, Finding};
use crate::postgres::PgError;

pub(super) const NAME: &str = "failover";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    if server.in_recovery && server.version >= FAILOVER_SLOTS {
        return Ok(vec![synced(server).await?]);
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
async fn synced(server: &Server<'_>) -> Result<Finding, PgError> {
    let name = &server.subject.slot;
    let Some(slot) = &server.slot else {
        return missing(server).await;
    };
    Ok(if slot.synced != Some(true) {
        Finding::fail(
            NAME,
            format!("slot {name} on this standby is its own, and in the way of the one that the primary has"),
        )
        .mended_by(format!("SELECT pg_drop_replication_slot({});", escape_literal(name)))
    } else if slot.terminal().is_some() {
        Finding::fail(NAME, format!("slot {name} on this standby is invalid and will be made anew"))
    } else if slot.temporary {
        Finding::warn(
            NAME,
            format!(
                "slot {name} is not yet synced: this standby does not have what the slot needs; the relay must go on first"
            ),
        )
    } else {
        Finding::ok(NAME, format!("slot {name} is synced from the primary"))
    })
}

/// Whether its slot is a failover slot only the primary knows.
async fn missing(server: &Server<'_>) -> Result<Finding, PgError> {
    const SYNC: &str = "sync_replication_slots";
    let name = &server.subject.slot;
    Ok(if server.setting(SYNC).await?.as_deref() == Some("on") {
        Finding::fail(
            NAME,
            format!(
                "slot {name} is not on this standby, which syncs slots: when it last looked (within half a minute) the \
                 primary had no failover slot of that name, or could not be asked"
            ),
        )
        .mended_by("run txstream doctor against the primary, mend what it says of failover, and look here again")
    } else {
        Finding::fail(NAME, format!("slot {name} is not on this standby, which does not sync slots"))
            .mended_by(set(SYNC, "on"))
    })
}

/// Whether a physical slot or a physical walsender tells of a standby.
async fn standbys(server: &Server<'_>) -> Result<bool, PgError> {
    let sql = "select exists (select from pg_catalog.pg_replication_slots where slot_type = 'physical' and not temporary)";
    server.value("look for standbys", sql, &[]).await
}

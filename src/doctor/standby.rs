//! A standby in recovery: the relay waits for it to be promoted, and the slot must be there by then.

use super::finding::set;
use super::server::{FAILOVER_SLOTS, Server};
use super::{Checked, Finding};

pub(super) const NAME: &str = "standby";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    if !server.in_recovery {
        return Ok(vec![Finding::ok(NAME, "the server is a primary")]);
    }
    let here =
        Finding::warn(NAME, "the server is a standby in recovery: a relay waits until it is the primary")
            .mended_by(
                "set REPLICATION_URL to the primary, unless it is this standby that you want to examine",
            );
    let mut findings = vec![here];
    if server.version < FAILOVER_SLOTS {
        return Ok(findings);
    }
    if server.setting("sync_replication_slots").await?.as_deref() == Some("off") {
        findings.push(
            Finding::fail(NAME, "sync_replication_slots is off: the slot will not be here after a failover")
                .mended_by(set("sync_replication_slots", "on")),
        );
    }
    if server.setting("hot_standby_feedback").await?.as_deref() == Some("off") {
        findings.push(
            Finding::fail(
                NAME,
                "hot_standby_feedback is off: the primary may remove catalog rows that the synced slot needs",
            )
            .mended_by(set("hot_standby_feedback", "on")),
        );
    }
    // Both are named in one place, primary_conninfo, which only some roles may read.
    if server.setting("primary_slot_name").await?.unwrap_or_default().is_empty() {
        findings.push(
            Finding::fail(NAME, "primary_slot_name is empty: slots are only synced through a physical slot")
                .mended_by(
                    "on the primary: SELECT pg_create_physical_replication_slot('standby1'); here: ALTER SYSTEM SET \
                     primary_slot_name = 'standby1'; SELECT pg_reload_conf();",
                ),
        );
    }
    Ok(findings)
}

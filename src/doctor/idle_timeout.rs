//! `idle_replication_slot_timeout` (PostgreSQL 18): a relay that is down for longer loses its slot.

use super::finding::set;
use super::server::Server;
use super::{Checked, Finding};

pub(super) const NAME: &str = "idle_replication_slot_timeout";

/// A relay that fails on Friday evening is looked at on Monday morning.
const A_WEEKEND_SECONDS: f64 = 72.0 * 3600.0;

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let sql = "select extract(epoch from nullif(current_setting('idle_replication_slot_timeout', true), '')::interval)::float8";
    let seconds: Option<f64> = server.value("read idle_replication_slot_timeout", sql, &[]).await?;
    Ok(vec![match seconds {
        None => Finding::ok(NAME, "this version of the server gives up no slot for being idle"),
        Some(0.0) => Finding::ok(NAME, "a slot may be idle for ever"),
        Some(seconds) if seconds < A_WEEKEND_SECONDS => Finding::warn(
            NAME,
            format!(
                "a relay that is down for longer than {:.1} h loses its slot, and with it every event of that time",
                seconds / 3600.0
            ),
        )
        .mended_by(set(NAME, "0")),
        Some(seconds) => Finding::ok(NAME, format!("a slot may be idle for {:.0} h", seconds / 3600.0)),
    }])
}

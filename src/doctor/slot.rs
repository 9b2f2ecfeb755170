//! The slot: there, ours, able to stream, and where its checkpoint says that it stands.

use super::server::Server;
use super::{Checked, Finding};
use crate::postgres::Lsn;
use crate::relay::checkpoint::{self, CheckpointError, Identity, Verdict, judge};
use crate::relay::preflight::{Problem, objection};

pub(super) const NAME: &str = "slot";

/// How to go on when a slot never will.
pub(super) const RESET: &str = "txstream slot reset --backfill";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    // What is missing or behind here is no loss, and nothing of a slot can be mended here.
    if server.in_recovery {
        return Ok(vec![Finding::unchecked(
            NAME,
            "the server is a standby, a slot is judged at its primary",
        )]);
    }
    let name = &server.subject.slot;
    if let Some(slot) = &server.slot {
        if let Err(not_ours) = slot.ensure_ours(&server.database) {
            return Ok(vec![
                Finding::fail(NAME, not_ours.to_string()).mended_by("set REPLICATION_SLOT to another name"),
            ]);
        }
        if let Some(terminal) = slot.terminal() {
            let prevent =
                terminal.prevention().map(|sql| format!("; to keep it from happening again: {sql}"));
            return Ok(vec![
                Finding::fail(
                    NAME,
                    format!("slot {name} is lost: {}{}", terminal.why(), prevent.unwrap_or_default()),
                )
                .mended_by(RESET),
            ]);
        }
    }
    let row = match checkpoint::read(server.client, name).await {
        Ok(row) => row,
        Err(CheckpointError::Pg(error)) => return Err(error),
        // The tables and the grants have checks of their own.
        Err(error) => return Ok(vec![Finding::unchecked(NAME, &error.to_string())]),
    };
    let identity = Identity {
        system_identifier: &server.system_identifier,
        database: &server.database,
        instance: "",
        reported_lsn: Lsn::ZERO,
    };
    Ok(vec![judged(server, &judge(row.as_ref(), server.slot.as_ref(), &identity))])
}

fn judged(server: &Server<'_>, verdict: &Verdict) -> Finding {
    let name = &server.subject.slot;
    let what = match objection(verdict, name) {
        None => {
            let slot = server.slot.as_ref();
            let held = slot.and_then(crate::postgres::slot::SlotView::held_by);
            let held =
                held.map_or_else(|| "nobody holds it".to_owned(), |holder| format!("held by {holder}"));
            let at = slot.and_then(|slot| slot.confirmed_flush_lsn);
            let at = at.map_or_else(|| "an unknown position".to_owned(), |lsn| lsn.to_string());
            return match verdict {
                Verdict::Behind { row_lsn, .. } => Finding::warn(
                    NAME,
                    format!(
                        "slot {name} stands at {at}, behind {row_lsn}, which was confirmed before: records come again"
                    ),
                ),
                _ => Finding::ok(NAME, format!("slot {name} stands at {at}, {held}")),
            };
        }
        Some(Problem::Halt(halt)) => halt.what,
        Some(Problem::Wait(why)) => {
            return Finding::warn(NAME, why).mended_by(RESET);
        }
        Some(Problem::Retry(error)) => return Finding::failed(NAME, &error),
    };
    Finding::fail(NAME, what).mended_by(match verdict {
        Verdict::NeverExisted | Verdict::Dropped => "txstream slot create",
        Verdict::Lost { .. } => RESET,
        // Of a cluster or database that it does not know.
        _ if server.slot.is_none() => RESET,
        _ => "txstream slot adopt",
    })
}

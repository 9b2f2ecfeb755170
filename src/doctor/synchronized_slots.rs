//! `synchronized_standby_slots` (PostgreSQL 17): the walsender of a failover slot waits for every slot named
//! there. A wrong name stops the stream; none lets a record outlive its transaction at a failover.

use super::finding::set;
use super::server::{FAILOVER_SLOTS, Server};
use super::{Checked, Finding};

pub(super) const NAME: &str = "synchronized_standby_slots";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let failover = server.slot.as_ref().is_some_and(|slot| slot.failover == Some(true));
    if server.version < FAILOVER_SLOTS || server.in_recovery || !failover {
        return Ok(vec![Finding::ok(NAME, "it concerns failover slots of a primary only")]);
    }
    let setting = server.setting(NAME).await?.unwrap_or_default();
    let sql = "select slot_name::text, active from pg_catalog.pg_replication_slots
                where slot_type = 'physical' and not temporary order by 1";
    let rows = server.rows("look for physical slots", sql, &[]).await?;
    let physical: Vec<(String, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    Ok(vec![judge(&setting, &physical)])
}

/// `physical`: the slots of standbys, and whether each is in use.
fn judge(setting: &str, physical: &[(String, bool)]) -> Finding {
    let named: Vec<&str> =
        setting.split(',').map(|name| name.trim().trim_matches('"')).filter(|n| !n.is_empty()).collect();
    let active = |name: &str| physical.iter().find(|(slot, _)| slot == name).map(|(_, active)| *active);
    let good: Vec<&str> = named.iter().copied().filter(|name| active(name) == Some(true)).collect();
    let bad: Vec<String> = named
        .iter()
        .filter_map(|name| match active(name) {
            None => Some(format!("{name} (no physical slot of that name)")),
            Some(false) => Some(format!("{name} (no standby uses it)")),
            Some(true) => None,
        })
        .collect();
    if !bad.is_empty() {
        return Finding::fail(
            NAME,
            format!(
                "the stream waits for {}: start that standby, or take its slot out of the setting",
                bad.join(", ")
            ),
        )
        .mended_by(set(NAME, &good.join(", ")));
    }
    let in_use: Vec<&str> =
        physical.iter().filter(|(_, active)| *active).map(|(slot, _)| slot.as_str()).collect();
    if named.is_empty() && !in_use.is_empty() {
        return Finding::warn(
            NAME,
            "it is empty: Kafka may hold an event whose transaction is lost with the primary at a failover",
        )
        .mended_by(set(NAME, &in_use.join(", ")));
    }
    Finding::ok(
        NAME,
        if named.is_empty() {
            "there is no standby to wait for"
        } else {
            "every standby that it names is there"
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn a_slot_that_nobody_moves_stops_the_stream() {
        let physical = [("s1".to_owned(), true), ("s2".to_owned(), false)];
        for (setting, status, mend) in [
            ("s1", Status::Ok, None),
            ("s1, gone", Status::Fail, Some("'s1'")),
            (r#""s1", s2"#, Status::Fail, Some("'s1'")),
            ("gone", Status::Fail, Some("''")),
            ("", Status::Warn, Some("'s1'")),
        ] {
            let finding = judge(setting, &physical);
            assert_eq!(finding.status, status, "{setting}");
            assert_eq!(finding.mend.is_some(), mend.is_some());
            assert!(finding.mend.unwrap_or_default().contains(mend.unwrap_or_default()), "{setting}");
        }
        assert_eq!(judge("", &[]).status, Status::Ok);
    }
}

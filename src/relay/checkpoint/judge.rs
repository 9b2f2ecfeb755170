//! What the checkpoint row and the slot together mean. Pure.

use super::Row;
use crate::postgres::Lsn;
use crate::postgres::slot::SlotView;

/// Who asks, and where it is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Identifies the cluster.
    pub system_identifier: &'a str,
    /// Database of the connection.
    pub database: &'a str,
    /// This process: another value at every start.
    pub instance: &'a str,
    /// The highest position that this process has reported as flushed; [`Lsn::ZERO`] before any.
    /// The row lags behind it by seconds.
    pub reported_lsn: Lsn,
}

/// What row and slot together mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Neither: there never was a slot.
    NeverExisted,
    /// No slot, and `slot drop` dropped it.
    Dropped,
    /// No slot, though the row knows one: it was lost. Only `slot reset` goes on from here.
    Lost {
        /// The last position known to be confirmed.
        confirmed_lsn: Option<Lsn>,
    },
    /// A slot without a row, made by hand or since `slot drop`: accepted.
    Unknown,
    /// They agree.
    Resume,
    /// The slot is behind the row: records in between come again. Go on and warn.
    Behind {
        /// Where the slot stands.
        slot_lsn: Lsn,
        /// What had been confirmed.
        row_lsn: Lsn,
    },
    /// The slot is ahead of what its holder confirmed: someone moved it, and what lies between was
    /// never published. Halt.
    Ahead {
        /// The last position that was confirmed: where the gap begins.
        row_lsn: Lsn,
        /// Where the slot stands: where the gap ends.
        slot_lsn: Lsn,
    },
    /// The row was written in another cluster: `pg_upgrade`, a restored copy, a wrong address. Halt.
    OtherSystem {
        /// What the row says.
        row: String,
        /// What the server says.
        server: String,
    },
    /// The row was written in another database: a copied or renamed one. Halt.
    OtherDatabase {
        /// What the row says.
        row: String,
        /// What the server says.
        server: String,
    },
    /// A backfill was begun and not finished: wait for `slot reset --backfill`.
    BackfillPending,
}

impl Verdict {
    /// Whether a relay may stream from the slot.
    pub fn may_stream(&self) -> bool {
        matches!(self, Self::Unknown | Self::Resume | Self::Behind { .. })
    }

    /// Where a session begins that was judged so behind its START_REPLICATION: where the slot stands, which
    /// is where the server sends from, whatever the holder before had confirmed. Unknown after a failover.
    pub fn begins_at(&self, slot: Option<&SlotView>) -> Option<Lsn> {
        match self {
            Self::Behind { slot_lsn, .. } => Some(*slot_lsn),
            _ => slot.and_then(|slot| slot.confirmed_flush_lsn),
        }
    }
}

/// Compares row and slot. A slot that the server invalidated, or another's, is the caller's to
/// refuse first ([`SlotView::terminal`], [`SlotView::ensure_ours`]).
pub fn judge(row: Option<&Row>, slot: Option<&SlotView>, identity: &Identity<'_>) -> Verdict {
    let (row, slot) = match (row, slot) {
        (None, None) => return Verdict::NeverExisted,
        (None, Some(_)) => return Verdict::Unknown,
        (Some(row), slot) => (row, slot),
    };
    // A dropped slot has left nothing to guard: whatever there is was made since.
    if row.dropped {
        return if slot.is_some() { Verdict::Unknown } else { Verdict::Dropped };
    }
    if row.system_identifier != identity.system_identifier {
        return Verdict::OtherSystem {
            row: row.system_identifier.clone(),
            server: identity.system_identifier.to_owned(),
        };
    }
    if row.database != identity.database {
        return Verdict::OtherDatabase { row: row.database.clone(), server: identity.database.to_owned() };
    }
    // The slot before may be dropped already, and the new one not be there yet.
    if row.backfill_pending {
        return Verdict::BackfillPending;
    }
    let Some(slot) = slot else {
        return Verdict::Lost { confirmed_lsn: row.confirmed_lsn };
    };
    compare(row, slot, identity)
}

fn compare(row: &Row, slot: &SlotView, identity: &Identity<'_>) -> Verdict {
    // A failover leaves the slot's position unknown until it streams; the server never goes ahead of
    // what was confirmed then.
    let (Some(row_lsn), Some(slot_lsn)) = (row.confirmed_lsn, slot.confirmed_flush_lsn) else {
        return Verdict::Resume;
    };
    let own = row.instance == identity.instance;
    let row_lsn = if own { row_lsn.max(identity.reported_lsn) } else { row_lsn };
    if slot_lsn < row_lsn {
        Verdict::Behind { slot_lsn, row_lsn }
    } else if slot_lsn > row_lsn && (row.clean || own) {
        Verdict::Ahead { row_lsn, slot_lsn }
    } else {
        // Equal, or ahead of the unclean row of a process that crashed: its row lagged by seconds.
        Verdict::Resume
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(lsn: u64) -> Row {
        Row {
            slot: "s".into(),
            system_identifier: "1".into(),
            database: "app".into(),
            confirmed_lsn: Some(Lsn(lsn)),
            instance: "me".into(),
            clean: false,
            recovery: None,
            dropped: false,
            backfill_pending: false,
            rejected: None,
        }
    }

    fn slot(lsn: Option<u64>) -> SlotView {
        let lsn = lsn.map_or("null".into(), |lsn| format!("\"{}\"", Lsn(lsn)));
        serde_json::from_str(&format!(
            r#"{{"slot_name":"s","plugin":"pgoutput","slot_type":"logical","database":"app","temporary":false,
                "active":false,"restart_lsn":null,"confirmed_flush_lsn":{lsn},"current_wal_lsn":null}}"#
        ))
        .unwrap()
    }

    /// Name, row, position of the slot (there may be none, or an unknown one), verdict.
    type Case = (&'static str, Option<Row>, Option<Option<u64>>, Verdict);

    #[test]
    fn every_state_of_row_and_slot_has_its_verdict() {
        let clean = |lsn| Row { clean: true, instance: "before".into(), ..row(lsn) };
        let crashed = |lsn| Row { instance: "before".into(), ..row(lsn) };
        let dropped = Row { dropped: true, system_identifier: "2".into(), ..row(10) };
        let behind = Verdict::Behind { slot_lsn: Lsn(9), row_lsn: Lsn(10) };
        let ahead = Verdict::Ahead { row_lsn: Lsn(10), slot_lsn: Lsn(11) };
        let other = Verdict::OtherSystem { row: "2".into(), server: "1".into() };
        let cases: Vec<Case> = vec![
            ("nothing", None, None, Verdict::NeverExisted),
            ("made by hand", None, Some(Some(10)), Verdict::Unknown),
            ("dropped by command", Some(dropped.clone()), None, Verdict::Dropped),
            ("made by hand since", Some(dropped), Some(Some(99)), Verdict::Unknown),
            ("lost", Some(clean(10)), None, Verdict::Lost { confirmed_lsn: Some(Lsn(10)) }),
            ("clean, equal", Some(clean(10)), Some(Some(10)), Verdict::Resume),
            ("clean, behind", Some(clean(10)), Some(Some(9)), behind.clone()),
            ("clean, ahead", Some(clean(10)), Some(Some(11)), ahead.clone()),
            ("crashed, equal", Some(crashed(10)), Some(Some(10)), Verdict::Resume),
            ("crashed, behind", Some(crashed(10)), Some(Some(9)), behind.clone()),
            ("crashed, ahead", Some(crashed(10)), Some(Some(11)), Verdict::Resume),
            ("ours, equal", Some(row(10)), Some(Some(10)), Verdict::Resume),
            ("ours, behind", Some(row(10)), Some(Some(9)), behind),
            ("ours, ahead", Some(row(10)), Some(Some(11)), ahead),
            ("position unknown", Some(clean(10)), Some(None), Verdict::Resume),
            (
                "another cluster",
                Some(Row { system_identifier: "2".into(), ..clean(10) }),
                Some(Some(10)),
                other.clone(),
            ),
            (
                "another cluster, no slot",
                Some(Row { system_identifier: "2".into(), ..clean(10) }),
                None,
                other,
            ),
            (
                "another database",
                Some(Row { database: "old".into(), ..clean(10) }),
                Some(Some(10)),
                Verdict::OtherDatabase { row: "old".into(), server: "app".into() },
            ),
            (
                "backfill broken off",
                Some(Row { backfill_pending: true, ..clean(10) }),
                Some(Some(10)),
                Verdict::BackfillPending,
            ),
            (
                "backfill broken off before there was a slot",
                Some(Row { backfill_pending: true, ..clean(10) }),
                None,
                Verdict::BackfillPending,
            ),
        ];
        let identity =
            Identity { system_identifier: "1", database: "app", instance: "me", reported_lsn: Lsn::ZERO };
        for (name, row, at, verdict) in cases {
            let slot = at.map(slot);
            assert_eq!(judge(row.as_ref(), slot.as_ref(), &identity), verdict, "{name}");
        }
    }

    #[test]
    fn a_process_knows_better_than_its_own_row_what_it_reported() {
        let identity =
            Identity { system_identifier: "1", database: "app", instance: "me", reported_lsn: Lsn(20) };
        for (at, verdict) in [
            (20, Verdict::Resume),
            (15, Verdict::Behind { slot_lsn: Lsn(15), row_lsn: Lsn(20) }),
            (21, Verdict::Ahead { row_lsn: Lsn(20), slot_lsn: Lsn(21) }),
        ] {
            assert_eq!(judge(Some(&row(10)), Some(&slot(Some(at))), &identity), verdict);
        }
    }
}

//! A slot in words.

use crate::postgres::slot::SlotView;

/// Bytes with the unit that suits them, in powers of 1024.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let mut scaled = number as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1023.95 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// Seconds as people say them.
pub(super) fn seconds(number: f64) -> String {
    match number.max(0.0) {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

/// In one line: who holds it and what is not confirmed.
pub(super) fn standing(view: &SlotView) -> String {
    if let Some(terminal) = view.terminal() {
        return format!("lost, {}; run txstream slot reset --backfill", terminal.why());
    }
    let held = view.held_by().map_or_else(|| "nobody holds it".to_owned(), |who| format!("held by {who}"));
    let at = view.confirmed_flush_lsn.map_or_else(|| "an unknown position".to_owned(), |lsn| lsn.to_string());
    let lag = view.slot_confirmed_lag_bytes.map(|lag| format!(", {} behind", bytes(lag))).unwrap_or_default();
    format!("{held}, confirmed up to {at}{lag}")
}

/// Everything that is known, by name; what the server's version lacks is left out.
pub(super) fn rows(view: &SlotView) -> Vec<(&'static str, String)> {
    let lsn = |lsn: Option<crate::postgres::Lsn>| lsn.map(|lsn| lsn.to_string());
    let yes_no = |value: bool| if value { "yes" } else { "no" }.to_owned();
    let rows: [(&'static str, Option<String>); 19] = [
        ("state", Some(standing(view))),
        ("kind", Some(format!("{} {}", view.slot_type, view.plugin.as_deref().unwrap_or_default()))),
        ("database", view.database.clone()),
        ("confirmed up to", lsn(view.confirmed_flush_lsn)),
        ("not confirmed", view.slot_confirmed_lag_bytes.map(|lag| format!("{} of WAL", bytes(lag)))),
        ("needs WAL from", lsn(view.restart_lsn)),
        ("retains", view.slot_retained_wal_bytes.map(|kept| format!("{} of WAL", bytes(kept)))),
        ("WAL", view.wal_status.as_deref().map(wal_status)),
        ("room until it is lost", Some(room(view))),
        ("held back by", Some(held_back(view))),
        ("held by", view.held_by()),
        ("walsender", view.holder.as_ref().and_then(|holder| holder.state.clone())),
        ("inactive since", view.inactive_since.clone()),
        ("lost because", view.invalidation_reason.clone()),
        ("catalog_xmin", view.catalog_xmin.clone()),
        ("two-phase", view.two_phase.map(yes_no)),
        ("failover", view.failover.map(yes_no)),
        ("synced from the primary", view.synced.map(yes_no)),
        ("conflicting", view.conflicting.map(yes_no)),
    ];
    rows.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect()
}

/// `wal_status` in words.
fn wal_status(status: &str) -> String {
    let meaning = match status {
        "reserved" => "within max_wal_size",
        "extended" => "more than max_wal_size, but kept",
        "unreserved" => "may be removed at the next checkpoint: let the relay catch up now",
        "lost" => "removed: the slot will never stream again",
        _ => return status.to_owned(),
    };
    format!("{status} ({meaning})")
}

fn room(view: &SlotView) -> String {
    match view.safe_wal_size {
        Some(size) => match u64::try_from(size) {
            Ok(size) => format!("{} of WAL (max_slot_wal_keep_size)", bytes(size)),
            Err(_) => "none: lost at the next checkpoint (max_slot_wal_keep_size)".to_owned(),
        },
        None if view.terminal().is_some() => "none: it is lost".to_owned(),
        None => "no limit but the disk (max_slot_wal_keep_size = -1)".to_owned(),
    }
}

/// The oldest transaction holds back what can be removed even when everything is confirmed.
pub(super) fn held_back(view: &SlotView) -> String {
    let Some(oldest) = &view.oldest_transaction else {
        return "no open transaction".to_owned();
    };
    let who = match (oldest.pid, oldest.prepared.as_deref()) {
        (Some(pid), _) => format!("pid {pid}"),
        (None, Some(gid)) => format!("prepared transaction '{gid}'"),
        (None, None) => "a transaction".to_owned(),
    };
    let details = [
        oldest.application_name.clone().filter(|name| !name.is_empty()),
        oldest.database.as_ref().map(|database| format!("database {database}")),
        oldest.state.clone(),
    ];
    let details: Vec<String> = details.into_iter().flatten().collect();
    let details = if details.is_empty() { String::new() } else { format!(" ({})", details.join(", ")) };
    let age = oldest.age_seconds.map(|age| format!(", open for {}", seconds(age))).unwrap_or_default();
    format!("{who}{details}{age}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (5_368_709_120, "5.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
        for (number, text) in [
            (-1.0, "0.0 s"),
            (1.25, "1.2 s"),
            (61.0, "61 s"),
            (600.0, "10 min"),
            (9e3, "2 h"),
            (9e5, "10 days"),
        ] {
            assert_eq!(seconds(number), text);
        }
    }

    #[test]
    fn a_slot_says_in_words_what_is_urgent() {
        let view = |json: &str| -> SlotView {
            let base = r#""slot_name":"s","plugin":"pgoutput","slot_type":"logical","database":"d",
                "temporary":false,"active":false,"restart_lsn":"0/1","confirmed_flush_lsn":"0/2",
                "current_wal_lsn":"0/3""#;
            serde_json::from_str(&format!("{{{base}{json}}}")).unwrap()
        };
        let words = |json: &str| {
            rows(&view(json)).into_iter().map(|(n, v)| format!("{n}: {v}\n")).collect::<String>()
        };
        for (json, part) in [
            ("", "state: nobody holds it, confirmed up to 0/2"),
            ("", "room until it is lost: no limit but the disk"),
            (
                r#","active_pid":7,"slot_confirmed_lag_bytes":2048"#,
                "held by pid 7, confirmed up to 0/2, 2.0 KiB behind",
            ),
            (r#","wal_status":"unreserved","safe_wal_size":-5"#, "lost at the next checkpoint"),
            (r#","wal_status":"lost""#, "run txstream slot reset --backfill"),
            (
                r#","oldest_transaction":{"pid":9,"age_seconds":600,"state":"idle in transaction"}"#,
                "held back by: pid 9 (idle in transaction), open for 10 min",
            ),
        ] {
            assert!(words(json).contains(part), "{part}: {}", words(json));
        }
        assert!(!words("").contains("failover"), "before 17 there is no such thing");
    }
}

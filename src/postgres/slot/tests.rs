use super::*;

fn slot(json: &str) -> SlotView {
    let base = r#"{"slot_name":"s","plugin":"pgoutput","slot_type":"logical","database":"app","datoid":5,
        "temporary":false,"active":false,"active_pid":null,"xmin":null,"catalog_xmin":"7",
        "restart_lsn":"0/10","confirmed_flush_lsn":"0/20","wal_status":"reserved","safe_wal_size":null,
        "two_phase":false,"current_wal_lsn":"0/30","slot_confirmed_lag_bytes":16,
        "slot_retained_wal_bytes":32,"holder":null,"oldest_transaction":null}"#;
    let mut value: serde_json::Value = serde_json::from_str(base).unwrap();
    let over: serde_json::Value = serde_json::from_str(json).unwrap();
    value.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    serde_json::from_str(&value.to_string()).unwrap()
}

#[test]
fn columns_that_a_version_lacks_are_none() {
    let old = slot("{}");
    assert_eq!(old.failover, None);
    assert_eq!(old.two_phase_at, None);
    assert_eq!(old.restart_lsn, Some(Lsn(0x10)));
    let new = slot(r#"{"failover":true,"two_phase_at":"1/0","inactive_since":"2026-01-01 00:00:00+00"}"#);
    assert_eq!((new.failover, new.two_phase_at), (Some(true), Some(Lsn(1 << 32))));
}

#[test]
fn what_is_printed_has_the_columns_names() {
    let printed = serde_json::to_value(slot("{}")).unwrap();
    assert_eq!(printed["confirmed_flush_lsn"], "0/20");
    assert_eq!(printed["slot_confirmed_lag_bytes"], 16);
    assert!(printed["invalidation_reason"].is_null());
}

#[test]
fn anothers_slot_is_refused_by_name() {
    assert_eq!(slot("{}").ensure_ours("app"), Ok(()));
    for (json, database, word) in [
        ("{}", "other", "database app"),
        (r#"{"plugin":"test_decoding"}"#, "app", "test_decoding"),
        (r#"{"plugin":null,"database":null,"slot_type":"physical"}"#, "app", "physical"),
        (r#"{"temporary":true}"#, "app", "temporary"),
    ] {
        let error = slot(json).ensure_ours(database).unwrap_err().to_string();
        assert!(error.contains("slot s ") && error.contains(word), "{error}");
    }
}

#[test]
fn a_slot_that_will_never_stream_again_says_why() {
    for (json, terminal) in [
        ("{}", None),
        (r#"{"wal_status":"unreserved"}"#, None),
        (r#"{"wal_status":"lost"}"#, Some(Terminal::WalRemoved)),
        (r#"{"conflicting":true,"wal_status":"lost","restart_lsn":null}"#, Some(Terminal::WalRemoved)),
        (
            r#"{"conflicting":true,"wal_status":"lost"}"#,
            Some(Terminal::Other("a conflict with recovery".into())),
        ),
        (r#"{"invalidation_reason":"idle_timeout","wal_status":"lost"}"#, Some(Terminal::IdleTimeout)),
        (r#"{"invalidation_reason":"rows_removed"}"#, Some(Terminal::RowsRemoved)),
        (r#"{"invalidation_reason":"wal_level_insufficient"}"#, Some(Terminal::WalLevel)),
        (r#"{"invalidation_reason":"new"}"#, Some(Terminal::Other("new".into()))),
    ] {
        assert_eq!(slot(json).terminal(), terminal, "{json}");
    }
}

#[test]
fn the_holder_is_named_by_what_may_be_seen() {
    for (json, named) in [
        ("{}", None),
        (r#"{"active_pid":7}"#, Some("pid 7")),
        (r#"{"active_pid":7,"holder":{"pid":7}}"#, Some("pid 7")),
        (
            r#"{"active_pid":7,"holder":{"pid":7,"application_name":"txstream","client_addr":"10.0.0.7"}}"#,
            Some("pid 7 (txstream, 10.0.0.7)"),
        ),
    ] {
        assert_eq!(slot(json).held_by().as_deref(), named);
    }
}

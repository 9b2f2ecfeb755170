use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::labels::{OTHER, attempt_index, event_type_text};
use super::*;

/// Series by name with labels, as a scraper reads them; also checks that every line is well-formed
/// and every family has its help and type before its first sample.
fn scrape(metrics: &Metrics) -> BTreeMap<String, f64> {
    let text = String::from_utf8(metrics.registry().render().unwrap()).unwrap();
    let mut series = BTreeMap::new();
    let (mut helped, mut typed) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(!help.is_empty());
            helped = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            typed = rest.split_once(' ').expect("a type").0.to_owned();
            assert_eq!(helped, typed);
        } else {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert!(name.starts_with(&typed), "{line} is not of {typed}");
            assert!(series.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} twice");
        }
    }
    series
}

fn value(metrics: &Metrics, series: &str) -> f64 {
    *scrape(metrics).get(series).unwrap_or_else(|| panic!("no series {series}"))
}

#[test]
fn every_series_with_closed_labels_exists_from_the_start_at_0() {
    let mut expected: Vec<String> = [
        "txstream_worker_pool_size",
        "txstream_events_in_queue{status=\"lane\"}",
        "txstream_events_in_queue{status=\"in_flight\"}",
        "txstream_circuit_breaker_state",
        "txstream_active_workers",
        "txstream_commit_to_ack_duration_seconds_count",
        "txstream_commit_to_ack_duration_seconds_sum",
        "txstream_in_flight_bytes",
        "txstream_oldest_unconfirmed_age_seconds",
        "txstream_replication_connected",
        "txstream_replication_reconnects_total",
        "txstream_received_lsn",
        "txstream_confirmed_lsn",
        "txstream_slot_confirmed_lag_bytes",
        "txstream_slot_retained_wal_bytes",
        "txstream_slot_safe_wal_bytes",
        "txstream_parked_keys",
        "txstream_late_rejections_total",
        "txstream_dead_letters{topic=\"other\"}",
        "txstream_events_published_total{event_type=\"other\",topic=\"other\"}",
        "txstream_event_publishing_duration_seconds_count{event_type=\"other\",topic=\"other\"}",
        "txstream_event_processing_duration_seconds_count{event_type=\"other\"}",
    ]
    .map(str::to_owned)
    .to_vec();
    for status in ["published", "parked", "rejected"] {
        expected.push(format!("txstream_events_processed_total{{event_type=\"other\",status=\"{status}\"}}"));
    }
    for error in
        ["too_large", "invalid", "unmappable", "authorization", "unknown_topic", "transport", "fatal"]
    {
        expected.push(format!("txstream_events_failed_total{{error_type=\"{error}\",event_type=\"other\"}}"));
    }
    for attempt in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10+"] {
        expected
            .push(format!("txstream_events_retried_total{{event_type=\"other\",retry_count=\"{attempt}\"}}"));
        expected.push(format!("txstream_retry_delay_duration_seconds_count{{retry_attempt=\"{attempt}\"}}"));
    }
    for (from, to) in [
        ("CLOSED", "OPEN"),
        ("OPEN", "HALF_OPEN"),
        ("OPEN", "CLOSED"),
        ("HALF_OPEN", "CLOSED"),
        ("HALF_OPEN", "OPEN"),
    ] {
        expected
            .push(format!("txstream_circuit_breaker_trips_total{{from_state=\"{from}\",to_state=\"{to}\"}}"));
    }
    for status in ["reserved", "extended", "unreserved", "lost"] {
        expected.push(format!("txstream_slot_wal_status{{wal_status=\"{status}\"}}"));
    }
    for what in ["foreign_row", "update", "delete", "truncate", "stream_abort", "trace_context"] {
        expected.push(format!("txstream_ignored_total{{what=\"{what}\"}}"));
    }
    let found = scrape(&Metrics::new());
    for series in &expected {
        assert_eq!(found.get(series), Some(&0.0), "{series}");
    }
    // And nothing else of ours, but the buckets, the sums and the build.
    let ours = |name: &&String| {
        name.starts_with("txstream_") && !name.contains("_bucket{") && !name.contains("_seconds_sum{")
    };
    let extra: Vec<_> = found.keys().filter(ours).filter(|name| !expected.contains(name)).collect();
    assert_eq!(extra, [&format!("txstream_build_info{{revision=\"{REVISION}\",version=\"{VERSION}\"}}")]);
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_measured() {
    let metrics = Metrics::new();
    assert!(value(&metrics, "process_resident_memory_bytes") > 0.0);
    assert!(value(&metrics, "process_open_fds") > 0.0);
    assert!(scrape(&metrics).contains_key("process_cpu_seconds_total"));
}

#[test]
fn an_acknowledged_record_is_shown_at_the_flush_and_negative_durations_are_0() {
    let metrics = Metrics::new();
    let route = metrics.route("outbox.event.order", b"OrderCreated");
    let published =
        "txstream_events_published_total{event_type=\"OrderCreated\",topic=\"outbox.event.order\"}";
    assert_eq!(value(&metrics, published), 0.0);
    route.acknowledged(0.002, 0.003, -5.0);
    route.acknowledged(0.002, f64::NAN, 1.0);
    assert_eq!(value(&metrics, published), 0.0);
    route.flush();
    let found = scrape(&metrics);
    assert_eq!(found[published], 2.0);
    assert_eq!(
        found["txstream_events_processed_total{event_type=\"OrderCreated\",status=\"published\"}"],
        2.0
    );
    let labels = "{event_type=\"OrderCreated\",topic=\"outbox.event.order\"}";
    assert_eq!(found[&format!("txstream_event_publishing_duration_seconds_sum{labels}")], 0.004);
    assert_eq!(found["txstream_event_processing_duration_seconds_sum{event_type=\"OrderCreated\"}"], 0.003);
    assert_eq!(found["txstream_commit_to_ack_duration_seconds_sum"], 1.0);
    assert_eq!(found["txstream_commit_to_ack_duration_seconds_count"], 2.0);
    route.acknowledged(0.0, 0.0, 0.0);
    drop(route);
    assert_eq!(value(&metrics, published), 3.0);
}

#[test]
fn failures_resends_and_parking_show_at_once() {
    let metrics = Metrics::new();
    let route = metrics.route("t", b"E");
    for error in ErrorType::ALL {
        route.failed(error);
    }
    for attempt in [1, 2, 9, 10, 11, u32::MAX] {
        route.retried(attempt);
        metrics.retry_delay(attempt, Duration::from_millis(1500));
    }
    route.parked();
    route.rejected();
    metrics.unmapped(None).failed(ErrorType::Unmappable);
    metrics.unmapped(Some(&"x".repeat(41))).failed(ErrorType::Unmappable);
    metrics.unmapped(Some("Torn")).failed(ErrorType::Unmappable);
    let found = scrape(&metrics);
    for error in ErrorType::ALL {
        let label = error.label();
        assert_eq!(
            found[&format!("txstream_events_failed_total{{error_type=\"{label}\",event_type=\"E\"}}")],
            1.0
        );
    }
    for (attempt, count) in [("1", 1.0), ("2", 1.0), ("3", 0.0), ("9", 1.0), ("10+", 3.0)] {
        let retried = format!("txstream_events_retried_total{{event_type=\"E\",retry_count=\"{attempt}\"}}");
        assert_eq!(found[&retried], count, "{attempt}");
        let delay = format!("txstream_retry_delay_duration_seconds_sum{{retry_attempt=\"{attempt}\"}}");
        assert_eq!(found[&delay], 1.5 * count, "{attempt}");
    }
    assert_eq!(found["txstream_events_processed_total{event_type=\"E\",status=\"parked\"}"], 1.0);
    assert_eq!(found["txstream_events_processed_total{event_type=\"E\",status=\"rejected\"}"], 1.0);
    for (event_type, count) in [("other", 2.0), ("Torn", 1.0)] {
        let failed =
            format!("txstream_events_failed_total{{error_type=\"unmappable\",event_type=\"{event_type}\"}}");
        assert_eq!(found[&failed], count, "{event_type}");
    }
    assert_eq!(attempt_index(0), 0);
}

#[test]
fn gauges_show_what_was_set() {
    let metrics = Metrics::new();
    metrics.confirmed_lsn.set(0x16_B374_D848_u64);
    metrics.received_lsn.set(u64::MAX);
    metrics.events_in_queue(7, 9);
    metrics.breaker_trip(BreakerState::Closed, BreakerState::Open);
    metrics.breaker_trip(BreakerState::Open, BreakerState::HalfOpen);
    metrics.oldest_unconfirmed_age(Some(Duration::from_millis(2500)));
    metrics.wal_status(Some("extended"));
    metrics.wal_status(Some("unreserved"));
    metrics.safe_wal_bytes(None);
    metrics.ignored(Ignored::StreamAbort, 3);
    metrics.reconnected();
    metrics.late_rejection();
    let found = scrape(&metrics);
    assert_eq!(found["txstream_confirmed_lsn"], 97_500_059_720.0);
    assert_eq!(found["txstream_received_lsn"], i64::MAX as f64);
    assert_eq!(found["txstream_events_in_queue{status=\"lane\"}"], 7.0);
    assert_eq!(found["txstream_events_in_queue{status=\"in_flight\"}"], 9.0);
    assert_eq!(found["txstream_circuit_breaker_state"], 1.0);
    assert_eq!(found["txstream_circuit_breaker_trips_total{from_state=\"CLOSED\",to_state=\"OPEN\"}"], 1.0);
    assert_eq!(found["txstream_oldest_unconfirmed_age_seconds"], 2.5);
    let one_hot = ["reserved", "extended", "unreserved", "lost"]
        .map(|status| found[&format!("txstream_slot_wal_status{{wal_status=\"{status}\"}}")]);
    assert_eq!(one_hot, [0.0, 0.0, 1.0, 0.0]);
    assert_eq!(found["txstream_slot_safe_wal_bytes"], f64::INFINITY);
    assert_eq!(found["txstream_ignored_total{what=\"stream_abort\"}"], 3.0);
    assert_eq!(found["txstream_replication_reconnects_total"], 1.0);
    assert_eq!(found["txstream_late_rejections_total"], 1.0);
    metrics.safe_wal_bytes(Some(1024));
    metrics.oldest_unconfirmed_age(None);
    metrics.wal_status(None);
    assert_eq!(value(&metrics, "txstream_slot_safe_wal_bytes"), 1024.0);
    assert_eq!(value(&metrics, "txstream_oldest_unconfirmed_age_seconds"), 0.0);
    assert_eq!(value(&metrics, "txstream_slot_wal_status{wal_status=\"unreserved\"}"), 0.0);
}

#[test]
fn dead_letters_of_a_topic_that_has_none_any_more_go_to_0() {
    let metrics = Metrics::new();
    metrics.dead_letters([("a", 2), ("b", 3)]);
    assert_eq!(value(&metrics, "txstream_dead_letters{topic=\"a\"}"), 2.0);
    metrics.dead_letters([("b", 1)]);
    assert_eq!(value(&metrics, "txstream_dead_letters{topic=\"a\"}"), 0.0);
    assert_eq!(value(&metrics, "txstream_dead_letters{topic=\"b\"}"), 1.0);
}

#[test]
fn dead_letters_that_cannot_be_counted_are_as_many_as_before_and_never_0() {
    let metrics = Metrics::new();
    let letters = || -> Vec<(String, f64)> {
        scrape(&metrics).into_iter().filter(|(name, _)| name.starts_with("txstream_dead_letters")).collect()
    };
    assert_eq!(letters(), [("txstream_dead_letters{topic=\"other\"}".to_owned(), 0.0)]);
    metrics.dead_letters_uncounted();
    assert_eq!(letters(), []);
    metrics.dead_letters([("a", 2)]);
    metrics.dead_letters_uncounted();
    assert_eq!(letters(), [("txstream_dead_letters{topic=\"a\"}".to_owned(), 2.0)]);
    metrics.dead_letters([]);
    assert_eq!(value(&metrics, "txstream_dead_letters{topic=\"a\"}"), 0.0);
    assert_eq!(value(&metrics, "txstream_dead_letters{topic=\"other\"}"), 0.0);
}

#[test]
fn the_101st_event_type_and_the_201st_topic_are_other() {
    let metrics = Metrics::new();
    for n in 0..100 {
        metrics.route(&format!("topic-{n}"), format!("Type{n}").as_bytes());
    }
    let late = metrics.route("topic-0", b"Type100");
    late.acknowledged(0.0, 0.0, 0.0);
    late.flush();
    let found = scrape(&metrics);
    assert_eq!(found["txstream_events_published_total{event_type=\"other\",topic=\"topic-0\"}"], 1.0);
    assert!(found.keys().any(|name| name.contains("\"Type99\"")));
    assert!(!found.keys().any(|name| name.contains("Type100")));
    for n in 100..200 {
        metrics.route(&format!("topic-{n}"), b"Type0");
    }
    metrics.dead_letters([("topic-199", 1), ("topic-200", 2), ("topic-201", 3)]);
    metrics.route("topic-200", b"Type0").acknowledged(0.0, 0.0, 0.0);
    let found = scrape(&metrics);
    assert_eq!(found["txstream_dead_letters{topic=\"topic-199\"}"], 1.0);
    assert_eq!(found["txstream_dead_letters{topic=\"other\"}"], 5.0);
    assert_eq!(found["txstream_events_published_total{event_type=\"Type0\",topic=\"other\"}"], 1.0);
    assert!(!found.keys().any(|name| name.contains("topic-200")));
}

#[test]
fn an_event_type_is_a_label_if_it_is_text_of_at_most_40_characters() {
    let forty = "ä".repeat(40);
    assert_eq!(event_type_text(forty.as_bytes()), forty);
    assert_eq!(event_type_text("ä".repeat(41).as_bytes()), OTHER);
    assert_eq!(event_type_text(b"\xff"), OTHER);
    assert_eq!(event_type_text(b""), "");
    // Quotes, backslashes and line ends stay one well-formed line.
    let metrics = Metrics::new();
    metrics.route("t", b"a\"b\\c\nd");
    assert!(
        scrape(&metrics).contains_key(
            "txstream_events_processed_total{event_type=\"a\\\"b\\\\c\\nd\",status=\"parked\"}"
        )
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn labels_are_the_name_or_other_and_never_more_than_the_bound(
        names in prop::collection::vec("[a-f]{0,2}|other", 0..120),
        most in 0usize..20,
    ) {
        let mut seen = FirstSeen::new(most);
        let mut first: BTreeMap<String, String> = BTreeMap::new();
        for name in &names {
            let (label, _) = seen.label(name);
            prop_assert!(label == name || label == OTHER);
            // A name keeps the label it was given first: a counter never moves to another series.
            let kept = first.entry(name.clone()).or_insert_with(|| label.to_owned());
            prop_assert_eq!(kept.as_str(), label);
        }
        let own: BTreeSet<&String> = first.values().filter(|label| *label != OTHER).collect();
        prop_assert!(own.len() <= most);
    }
}

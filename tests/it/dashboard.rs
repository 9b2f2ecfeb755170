//! The Grafana dashboard asks for nothing that the program does not export, and is provisioned.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::docs::metrics;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn dashboard() -> Value {
    let text = fs::read_to_string(root().join("docker/grafana/dashboards/txstream.json")).unwrap();
    serde_json::from_str(&text).expect("the dashboard is JSON")
}

pub(crate) fn panels(dashboard: &Value) -> &[Value] {
    dashboard["panels"].as_array().expect("panels")
}

/// A target's query, as Grafana sends it with all of `$job` chosen and a rate interval of a minute.
pub(crate) fn asked(target: &Value) -> String {
    let query = target["expr"].as_str().expect("an expression");
    query.replace("$__rate_interval", "1m").replace("$job", "txstream-relay")
}

/// Every query.
pub(crate) fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let targets = panels(&dashboard).iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(asked).collect()
}

/// The names of ours in a query.
fn names(query: &str) -> BTreeSet<&str> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    query.split(word).filter(|word| word.starts_with("txstream_")).collect()
}

#[test]
fn every_query_of_the_dashboard_names_exported_metrics_only() {
    let exported = metrics();
    for query in queries() {
        // A string in a query is a label's value.
        let bare: String = query.split('"').step_by(2).collect();
        for name in names(&bare) {
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let known =
                exported.contains_key(name) || of_histogram.is_some_and(|name| exported.contains_key(name));
            assert!(known, "{name} is not exported: {query}");
        }
        assert!(query.contains("{job=~\"txstream-relay\""), "it asks for the chosen job only: {query}");
        assert!(!query.contains('$'), "a variable that the dashboard does not have: {query}");
    }
}

#[test]
fn the_dashboard_shows_what_the_person_on_call_asks_for() {
    let queries = queries();
    for name in [
        "txstream_events_processed_total",
        "txstream_events_published_total",
        "txstream_events_failed_total",
        "txstream_events_retried_total",
        "txstream_circuit_breaker_state",
        "txstream_commit_to_ack_duration_seconds_bucket",
        "txstream_event_publishing_duration_seconds_bucket",
        "txstream_event_processing_duration_seconds_bucket",
        "txstream_worker_pool_size",
        "txstream_active_workers",
        "txstream_events_in_queue",
        "txstream_in_flight_bytes",
        "txstream_slot_confirmed_lag_bytes",
        "txstream_oldest_unconfirmed_age_seconds",
        "txstream_slot_retained_wal_bytes",
        "txstream_slot_safe_wal_bytes",
        "txstream_slot_wal_status",
        "txstream_dead_letters",
        "txstream_parked_keys",
        "txstream_replication_connected",
        "txstream_replication_reconnects_total",
    ] {
        assert!(queries.iter().any(|query| names(query).contains(name)), "no panel shows {name}");
    }
}

#[test]
fn panels_have_titles_units_and_places_of_their_own() {
    let dashboard = dashboard();
    assert_eq!(dashboard["title"], "TxStream Metrics Dashboard");
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id is not its own");
        let place = |name: &str| panel["gridPos"][name].as_u64().expect("a place");
        assert!(place("x") + place("w") <= 24, "{title} is beyond the right edge");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} covers another panel");
            }
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "txstream-prometheus", "{title}");
            assert!(
                !panel["description"].as_str().unwrap_or_default().is_empty(),
                "{title} explains nothing"
            );
        }
    }
}

#[test]
fn grafana_is_provisioned_with_the_data_source_that_the_panels_name_and_the_folder_of_the_dashboard() {
    let read = |name: &str| fs::read_to_string(root().join("docker/grafana").join(name)).unwrap();
    let source = read("provisioning/datasources/prometheus.yml");
    assert!(source.contains("uid: txstream-prometheus") && source.contains("url: http://prometheus:9090"));
    let provider = read("provisioning/dashboards/txstream.yml");
    let compose = fs::read_to_string(root().join("docker-compose.yml")).unwrap();
    let path = provider.lines().find_map(|line| line.trim().strip_prefix("path: ")).expect("a path");
    assert!(compose.contains(&format!("./docker/grafana/dashboards:{path}:ro")), "{path} is not mounted");
}

//! A real Prometheus scrapes a running relay and finds data for every query that we give to people:
//! those of the dashboard, of the alerts and of the README.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::dashboard;
use crate::support::prometheus::Prometheus;
use crate::support::wait::SOON;
use crate::support::{Outbox, eventually, published};

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The queries in the README's `promql` blocks; lines that begin with `#` explain them.
fn readme_queries() -> Vec<String> {
    let readme = read("README.md");
    let blocks = readme.split("```promql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// What the alerts ask for, without their conditions: `name{labels}`. A label that names a state must exist
/// before that state is there, or its alert could never fire.
fn selectors_of_the_alerts() -> BTreeSet<String> {
    let rules = read("docker/prometheus/alerts.yml");
    let ends_of_name = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let mut selectors = BTreeSet::new();
    for (at, _) in rules.match_indices("{job=~") {
        let name = rules[..at].rsplit(ends_of_name).next().unwrap();
        let labels = rules[at..].split_inclusive('}').next().unwrap();
        selectors.insert(format!("{name}{labels}"));
    }
    selectors
}

#[tokio::test]
async fn prometheus_finds_data_for_every_query_of_dashboard_alerts_and_readme() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    let prometheus = Prometheus::scraping(relay.admin()).await;
    // Rates need two scrapes of the same series, and events between them.
    let scraped = "count_over_time(txstream_events_published_total{event_type=\"Tested\"}[1m]) > 1";
    eventually(SOON, "two scrapes", async || (!prometheus.query(scraped).await.is_empty()).then_some(()))
        .await;
    // To the topic of the event that made it ready: a series that is new has no rate yet.
    let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type)
                      SELECT 'ready', n, 'Tested' FROM generate_series(1, 50) n";
    outbox.database.exec(insert).await;
    published(&relay, 51).await;

    let readme = readme_queries();
    let dashboard = dashboard::queries();
    let alerts: Vec<String> = selectors_of_the_alerts().into_iter().collect();
    assert!(readme.len() >= 5 && dashboard.len() >= 20 && alerts.len() >= 10);
    for query in readme.iter().chain(&dashboard).chain(&alerts) {
        // A quantile of nothing is no number, so a series that is one is asked for.
        eventually(SOON, format!("data for {query}"), async || {
            prometheus.query(query).await.iter().any(|(_, value)| !value.is_nan()).then_some(())
        })
        .await;
    }
    // The queries before may have been answered by a scrape that came between two acknowledgements.
    let counted = "sum(txstream_events_published_total{job=\"txstream-relay\"})";
    eventually(SOON, "all 51 are counted", async || {
        prometheus.query(counted).await.first().is_some_and(|(_, count)| *count == 51.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_healthy_relay_fires_no_alert_and_one_that_is_gone_does() {
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[]).await;
    let prometheus = Prometheus::scraping(relay.admin()).await;
    eventually(SOON, "it is scraped", async || {
        (!prometheus.query("up{job=\"txstream-relay\"} == 1").await.is_empty()).then_some(())
    })
    .await;
    assert_eq!(prometheus.firing().await, Vec::<String>::new());
    let pending = "ALERTS{alertname=\"TxstreamRelayDown\", alertstate=\"pending\"}";
    eventually(SOON, "it answers, so nothing is pending", async || {
        prometheus.query(pending).await.is_empty().then_some(())
    })
    .await;
    relay.kill9().await;
    eventually(Duration::from_secs(30), "the alert is on its way", async || {
        (!prometheus.query(pending).await.is_empty()).then_some(())
    })
    .await;
}

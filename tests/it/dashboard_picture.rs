//! The dashboard of a relay that works, drawn from the dashboard's own queries in a real browser: every
//! panel has something to show. Grafana itself is not needed.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::dashboard;
use crate::support::browser::{Browser, chromium};
use crate::support::http::request;
use crate::support::prometheus::Prometheus;
use crate::support::wait::SOON;
use crate::support::{Outbox, eventually};

/// Rounds of inserting and being scraped, about one a second: few for the test, more for a picture that
/// is worth looking at.
fn rounds() -> u32 {
    if std::env::var_os("TXSTREAM_PICTURES").is_some() { 120 } else { 6 }
}

#[tokio::test]
async fn every_panel_of_the_dashboard_shows_something_of_a_relay_that_works() {
    let Some(program) = chromium() else {
        #[allow(clippy::print_stderr, reason = "a test that checks nothing must say so")]
        {
            eprintln!("SKIPPED every_panel_of_the_dashboard_shows_something: no chromium is installed");
        }
        return;
    };
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[("METRICS_ADMIN_TOKEN", "t0ken")]).await;
    let prometheus = Prometheus::scraping(relay.admin()).await;
    let bearer = [("Authorization", "Bearer t0ken")];
    let order = async |path| request(relay.admin(), "POST", path, &bearer, "").await.unwrap().status;
    let begin = now();
    let mut total = 0;
    for round in 0..rounds() {
        // Something to see: load that comes and goes, and a breaker that opens once.
        let trip = round == rounds() / 2;
        if trip {
            assert_eq!(order("/breaker/open").await, 200);
        }
        let rows = 20 + 80 * (20 - (round % 40).abs_diff(20));
        let insert = format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
             SELECT (array['order', 'customer'])[1 + n % 2], n % 100, 'Changed', '{{}}' FROM generate_series(1, {rows}) n"
        );
        outbox.database.exec(&insert).await;
        if trip {
            assert_eq!(order("/breaker/close").await, 200);
        }
        total += rows;
        eventually(SOON, format!("{total} records are scraped"), async || {
            let counted = prometheus
                .query("sum(txstream_events_published_total{job=\"txstream-relay\", event_type=\"Changed\"})")
                .await;
            counted.first().is_some_and(|(_, count)| *count >= f64::from(total)).then_some(())
        })
        .await;
    }
    let panels = eventually(SOON, "data for every panel", async || {
        let panels = panels(&prometheus, begin).await;
        let empty = |panel: &Value| panel["type"] != "row" && panel["series"] == json!([]);
        (!panels.iter().any(empty)).then_some(panels)
    })
    .await;

    let dir = TempDir::new().unwrap();
    let page = dir.path().join("dashboard.html");
    let html = include_str!("support/dashboard.html");
    std::fs::write(&page, html.replace("/*PANELS*/[]", &Value::from(panels.clone()).to_string())).unwrap();
    let mut browser = Browser::start(&program).await;
    browser.screen(1400, 1720, false).await;
    browser.open(&format!("file://{}", page.display())).await;
    let shown = panels.iter().filter(|panel| panel["type"] != "row").count();
    eventually(SOON, "every panel is drawn", async || {
        let drawn =
            browser.eval("document.querySelectorAll('[data-drawn]:not([data-drawn=\"0\"])').length").await;
        (drawn == shown).then_some(())
    })
    .await;
    browser.picture("dashboard").await;
    assert!(browser.exceptions.is_empty(), "{:?}", browser.exceptions);
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// What the page needs of each panel, with its series since `begin`.
async fn panels(prometheus: &Prometheus, begin: f64) -> Vec<Value> {
    let mut panels = Vec::new();
    for panel in dashboard::panels(&dashboard::dashboard()) {
        let mut series = Vec::new();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = dashboard::asked(target);
            for (labels, values) in prometheus.range(&query, begin, now()).await {
                let name = legend(target["legendFormat"].as_str().unwrap_or_default(), &labels);
                series.push(json!({"name": name, "values": values}));
            }
        }
        let defaults = &panel["fieldConfig"]["defaults"];
        panels.push(json!({
            "title": panel["title"], "type": panel["type"], "place": panel["gridPos"], "series": series,
            "unit": defaults["unit"], "mappings": defaults["mappings"].as_array().cloned().unwrap_or_default(),
        }));
    }
    panels
}

/// `{{label}}` is the label's value.
fn legend(format: &str, labels: &Value) -> String {
    let mut name = format.to_owned();
    for (label, value) in labels.as_object().into_iter().flatten() {
        name = name.replace(&format!("{{{{{label}}}}}"), value.as_str().unwrap_or_default());
    }
    name
}

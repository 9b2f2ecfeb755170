//! The alert rules: they are valid, fire when they must and only then, and say what to do.

use std::fs;
use std::process::Stdio;

use tokio::process::Command;

use crate::support::prometheus::{binaries, configuration};

async fn promtool(arguments: &[&str]) -> String {
    let output = Command::new(binaries().await.join("promtool"))
        .args(arguments)
        .current_dir(configuration())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {}: {said}", arguments.join(" "));
    said.into_owned()
}

fn file(name: &str) -> String {
    fs::read_to_string(configuration().join(name)).unwrap()
}

/// What follows `key:` in a file, quotes stripped, in order.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let value = |line: &'a str| {
        let line = line.trim_start().trim_start_matches("- ");
        Some(line.strip_prefix(key)?.strip_prefix(':')?.trim().trim_matches('"'))
    };
    text.lines().filter_map(value).collect()
}

#[tokio::test]
async fn prometheus_accepts_the_configuration_and_the_rules() {
    let said = promtool(&["check", "config", "prometheus.yml"]).await;
    assert!(said.contains("rules found"), "{said}");
}

#[tokio::test]
async fn every_alert_fires_when_it_must_and_not_when_it_must_not() {
    promtool(&["test", "rules", "alerts.test.yml"]).await;
    let (rules, tests) = (file("alerts.yml"), file("alerts.test.yml"));
    for alert in values(&rules, "alert") {
        let mut outcomes: Vec<bool> = Vec::new();
        for test in tests.split("  - name: ").filter(|test| values(test, "alertname").contains(&alert)) {
            outcomes.push(test.contains("exp_alerts: []"));
        }
        assert!(outcomes.contains(&false), "no test sees {alert} fire");
        assert!(outcomes.contains(&true), "no test sees {alert} keep silent");
    }
}

#[test]
fn every_alert_has_a_runbook_section_that_names_a_command() {
    let rules = file("alerts.yml");
    let runbook =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/runbook.md")).expect("the runbook");
    let (alerts, links) = (values(&rules, "alert"), values(&rules, "runbook"));
    assert_eq!(alerts.len(), links.len(), "every alert names its section");
    assert!(alerts.len() >= 10, "{alerts:?}");
    for (alert, link) in alerts.iter().zip(links) {
        let anchor = link.strip_prefix("docs/runbook.md#").expect("a section of the runbook");
        let sections = runbook.split("\n## ").skip(1);
        let section = sections
            .filter_map(|section| section.split_once('\n'))
            .find(|(heading, _)| heading.to_lowercase().replace(' ', "-") == anchor);
        let (heading, text) = section.unwrap_or_else(|| panic!("the runbook has no section {anchor}"));
        assert_eq!(heading, *alert, "the section is called like its alert");
        assert!(text.contains("```sh\n"), "the section of {alert} has no command");
    }
    // And no section is about an alert that is gone.
    for section in runbook.split("\n## Txstream").skip(1) {
        let name = format!("Txstream{}", section.lines().next().unwrap_or_default());
        assert!(alerts.contains(&name.as_str()), "there is no alert {name}");
    }
}

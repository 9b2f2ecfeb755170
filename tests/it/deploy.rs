//! What deploys txstream asks for nothing that the binary does not know. Schemas are checked by
//! `make check-deploy`.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use txstream::config::variables::VARIABLES;

use crate::support::run_cli;

fn read(file: &str) -> String {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

/// The arguments that containers and the unit start the binary with.
fn arguments(text: &str) -> Vec<Vec<String>> {
    let list = |line: &str| {
        let words = line.trim().strip_prefix("command: [").or_else(|| line.trim().strip_prefix("args: ["))?;
        Some(
            words
                .trim_end_matches(']')
                .split(',')
                .map(|word| word.trim().trim_matches('"').to_owned())
                .collect(),
        )
    };
    let unit = |line: &str| {
        let words = line.strip_prefix("ExecStart=/usr/local/bin/txstream ")?;
        Some(words.split_whitespace().map(str::to_owned).collect())
    };
    text.lines().filter_map(|line| list(line).or_else(|| unit(line))).collect()
}

/// The settings of a mapping of the YAML, two spaces below `heading`.
fn settings(text: &str, heading: &str) -> BTreeMap<String, String> {
    let lines = text.lines().skip_while(|line| line.trim() != heading);
    let indent = lines.clone().next().unwrap_or_else(|| panic!("no {heading}")).find(heading).unwrap();
    lines
        .skip(1)
        .take_while(|line| line.len() - line.trim_start().len() > indent)
        .filter_map(|line| line.trim().split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

#[test]
fn every_container_and_the_unit_start_a_command_that_exists() {
    for (file, count) in [
        ("docker-compose.yml", 4),
        ("deploy/kubernetes/migrate.yaml", 2),
        ("deploy/kubernetes/relay.yaml", 1),
        ("deploy/systemd/txstream-relay.service", 1),
    ] {
        let found = arguments(&read(file));
        assert_eq!(found.len(), count, "{file}: {found:?}");
        for words in found {
            let words: Vec<String> = [vec!["txstream".to_owned()], words].concat();
            if let Err(failure) = txstream::cli::parse(words.clone()) {
                panic!("{file} runs {words:?}: {failure}");
            }
        }
    }
}

#[tokio::test]
async fn every_setting_of_the_manifests_is_known_and_accepted() {
    let compose = read("docker-compose.yml");
    let kubernetes = read("deploy/kubernetes/config.yaml");
    let mut config = settings(&kubernetes, "data:");
    config.extend(settings(&kubernetes, "stringData:"));
    for (place, settings) in
        [("docker-compose.yml", settings(&compose, "environment:")), ("config.yaml", config)]
    {
        assert!(settings.len() > 2, "{place}: {settings:?}");
        for name in settings.keys() {
            assert!(VARIABLES.iter().any(|variable| variable.name == name), "{place}: {name}");
        }
        let env: Vec<(&str, &str)> = settings.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let said = run_cli(&["config"], &env).await;
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{place}");
    }
}

#[test]
fn a_container_has_longer_to_stop_than_the_relay_takes() {
    for (file, line) in [
        ("docker-compose.yml", "stop_grace_period: 40s"),
        ("deploy/kubernetes/relay.yaml", "terminationGracePeriodSeconds: 40"),
        ("deploy/systemd/txstream-relay.service", "TimeoutStopSec=40s"),
    ] {
        assert!(read(file).lines().any(|there| there.trim() == line), "{file} lacks {line}");
    }
    let relay = read("deploy/kubernetes/relay.yaml");
    for part in ["replicas: 2", "path: /livez", "path: /readyz", "readOnlyRootFilesystem: true"] {
        assert!(relay.contains(part), "relay.yaml lacks {part}");
    }
}

#[test]
fn an_image_is_told_the_revision_it_is_built_from() {
    let dockerfile = read("docker/Dockerfile");
    let build = dockerfile.split("\nFROM ").nth(1).expect("a stage");
    let at = |part: &str| build.find(part).unwrap_or_else(|| panic!("the build stage lacks {part}"));
    assert!(at("\nARG TXSTREAM_REVISION") < at("\nENV TXSTREAM_REVISION=$TXSTREAM_REVISION\n"));
    assert!(at("\nENV TXSTREAM_REVISION=") < at("cargo build"), "the compiler must see it");
    let compose = read("docker-compose.yml");
    assert_eq!(settings(&compose, "args:")["TXSTREAM_REVISION"], "${TXSTREAM_REVISION:-}");

    let first_line = |command: &mut Command| {
        let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().next().unwrap_or_default().to_owned()
    };
    let here = first_line(Command::new("git").args(["describe", "--always", "--dirty"]));
    for (target, command) in [("docker-build", "docker build "), ("docker-run", "docker compose up")] {
        let make = || {
            let mut make = Command::new("make");
            // Not as a part of the make that may run this test.
            make.args(["--dry-run", "--no-print-directory", target]);
            make.env_remove("TXSTREAM_REVISION").env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
            make
        };
        for (said, revision) in [
            (first_line(&mut make()), here.as_str()),
            (first_line(make().env("TXSTREAM_REVISION", "v7")), "v7"),
        ] {
            let told = format!("TXSTREAM_REVISION={revision} ");
            assert!(said.contains(command) && said.contains(&told), "{told}is not in: {said}");
        }
    }
}

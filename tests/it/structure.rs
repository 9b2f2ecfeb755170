//! Which module may use which: arrows go one way, so that each can be read, and some can leave, alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A module and what it may use; `pgoutput` of `postgres` only the type of positions. `cli` and
/// `main.rs` may use everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("secret", &[]),
    ("metrics", &[]),
    ("postgres", &["secret"]),
    ("pgoutput", &["postgres::Lsn"]),
    ("outbox", &["pgoutput"]),
    ("kafka", &["outbox", "secret"]),
    ("admin", &["metrics", "secret"]),
    ("migrate", &["outbox", "postgres"]),
    ("dead_letter", &["outbox", "postgres", "kafka"]),
    ("relay", &["outbox", "pgoutput", "postgres", "kafka", "dead_letter", "metrics", "admin"]),
    ("retention", &["outbox", "postgres", "relay"]),
    // Whether a relay would stream is judged by what the relay itself asks.
    ("doctor", &["outbox", "postgres", "kafka", "relay::checkpoint", "relay::preflight", "relay::slot_life"]),
    (
        "verify",
        &[
            "outbox",
            "pgoutput",
            "postgres",
            "kafka",
            "relay::checkpoint",
            "relay::slot_life",
            "retention::widened",
        ],
    ),
    ("writer", &["outbox", "postgres", "metrics", "admin", "secret"]),
    ("config", &["outbox", "postgres", "kafka", "admin", "relay", "migrate", "secret", "writer"]),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every path behind `crate::` outside of comments, a group as its members.
fn crate_paths(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let behind = code.split("crate::").skip(1);
    behind
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(group) => {
                group.split('}').next().unwrap().split(',').map(|path| path.trim().to_owned()).collect()
            }
            None => vec![rest.to_owned()],
        })
        .filter(|path| !path.is_empty())
        .collect()
}

fn starts_with(path: &str, allowed: &str) -> bool {
    let boundary = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    path.strip_prefix(allowed).is_some_and(boundary)
}

#[test]
fn arrows_between_modules_go_one_way() {
    let mut wrong = BTreeSet::new();
    for (module, allowed) in ARROWS {
        let mut files = Vec::new();
        let folder = source().join(module);
        if folder.is_dir() {
            rust_files(&folder, &mut files);
        } else {
            files.push(source().join(format!("{module}.rs")));
        }
        for file in files {
            for path in crate_paths(&std::fs::read_to_string(&file).unwrap()) {
                let itself = starts_with(&path, module);
                if !itself && !allowed.iter().any(|allowed| starts_with(&path, allowed)) {
                    let path: String = path.chars().take_while(|c| !matches!(c, ';' | '{' | '(')).collect();
                    wrong.insert(format!("{}: crate::{path}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "these arrows are not allowed: {wrong:#?}");
}

#[test]
fn every_module_has_its_arrows_written_down() {
    let mut modules: BTreeSet<String> = BTreeSet::new();
    for entry in std::fs::read_dir(source()).unwrap() {
        modules.insert(entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
    }
    for known in ARROWS.iter().map(|(module, _)| *module).chain(["cli", "lib", "main"]) {
        assert!(modules.remove(known), "src has no {known}");
    }
    assert!(modules.is_empty(), "not written down: {modules:?}");
}

#[test]
fn paths_are_found_in_groups_and_on_several_lines_but_not_in_comments() {
    let text = "use crate::{a, b::C};\n//! [`crate::d`]\nfn f() -> crate::e::F {}\nuse crate::{\n    g,\n    h,\n};\n";
    let found: Vec<String> = crate_paths(text).iter().map(|path| path.chars().take(1).collect()).collect();
    assert_eq!(found, ["a", "b", "e", "g", "h"]);
}

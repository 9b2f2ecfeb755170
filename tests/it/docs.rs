//! The documents say what the program has, no more and no less. No server is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use txstream::metrics::{Metrics, Registry, WriterMetrics};

/// Documents that are checked for names of files and tests.
const DOCUMENTS: [&str; 11] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/guarantees.md",
    "docs/runbook.md",
    "docs/postgres.md",
    "docs/benchmark.md",
    "docs/concepts.md",
    "docs/comparison.md",
    "examples/README.md",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("read {document}: {error}"))
}

/// The lines below a heading, up to the next one of the same or a higher level.
fn section<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let level = heading.bytes().take_while(|byte| *byte == b'#').count();
    let ends = |line: &&str| {
        let marks = line.bytes().take_while(|byte| *byte == b'#').count();
        (1..=level).contains(&marks) && line.as_bytes().get(marks) == Some(&b' ')
    };
    let lines: Vec<_> = text.lines().skip_while(|line| *line != heading).skip(1).collect();
    assert!(!lines.is_empty(), "no heading {heading}");
    lines.into_iter().take_while(|line| !ends(line)).collect()
}

/// What stands between backticks.
fn code(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The cells of the first table's rows, without its header.
fn rows<'a>(lines: &[&'a str]) -> Vec<Vec<&'a str>> {
    let cells = |line: &&'a str| line.trim_matches('|').split(" | ").map(str::trim).collect();
    let is_table = |line: &&&str| line.starts_with('|');
    lines.iter().skip_while(|line| !is_table(line)).take_while(is_table).skip(2).map(cells).collect()
}

/// Every metric of ours with its labels, as scrapes of a relay and a writer show them.
pub(crate) fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let writer = WriterMetrics::new([("GET /health", &[200][..])]);
    let render = |registry: Registry| String::from_utf8(registry.render().expect("metrics")).expect("UTF-8");
    let text = render(Metrics::new().registry()) + &render(writer.registry());
    let histograms: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram")).collect();
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("txstream_")) {
        let series = line.rsplit_once(' ').expect("a value").0;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let of_histogram = |end: &str| name.strip_suffix(end).filter(|name| histograms.contains(name));
        let name = ["_bucket", "_sum", "_count"].into_iter().find_map(of_histogram).unwrap_or(name);
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        let labels = labels.map(|(label, _)| label.to_owned()).filter(|label| label != "le");
        found.entry(name.to_owned()).or_insert_with(BTreeSet::new).extend(labels);
    }
    found
}

#[test]
fn the_readme_lists_exactly_the_metrics_with_their_labels() {
    let readme = read("README.md");
    let mut listed = BTreeMap::new();
    for cells in rows(&section(&readme, "## Metrics")) {
        for metric in code(cells[0]).into_iter().filter(|name| name.starts_with("txstream_")) {
            let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
            let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
            let labels: BTreeSet<String> = labels.map(str::to_owned).collect();
            assert!(listed.insert(name.to_owned(), labels).is_none(), "{name} is listed twice");
        }
    }
    assert_eq!(listed, metrics());
}

fn help(arguments: &[String]) -> String {
    let directory = tempfile::tempdir().expect("temporary directory");
    let output = Command::new(env!("CARGO_BIN_EXE_txstream"))
        .args(arguments)
        .arg("--help")
        .env_clear()
        .current_dir(directory.path())
        .output()
        .expect("run txstream");
    assert!(output.status.success(), "{arguments:?} --help: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Every command that has none below it: `relay`, `migrate up`.
fn commands(above: &[String]) -> BTreeSet<String> {
    let help = help(above);
    let below: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .collect();
    if below.is_empty() {
        return BTreeSet::from([above.join(" ")]);
    }
    below.iter().flat_map(|name| commands(&[above, &[(*name).to_owned()]].concat())).collect()
}

#[test]
fn the_readme_lists_exactly_the_commands() {
    let readme = read("README.md");
    let command = |cell: &str| {
        let words = code(cell)[0].split(' ').skip(1);
        // Up to the first option or placeholder.
        let is_name = |word: &str| {
            !word.starts_with('-') && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        };
        let names: Vec<&str> = words.take_while(|word| is_name(word)).collect();
        names.join(" ")
    };
    let listed: BTreeSet<String> =
        rows(&section(&readme, "## Commands")).iter().map(|cells| command(cells[0])).collect();
    assert_eq!(listed, commands(&[]));
}

#[test]
fn what_the_readme_says_is_missing_is_no_command() {
    let readme = read("README.md");
    let existing = commands(&[]);
    let missing: Vec<&str> = section(&readme, "## What is not there yet")
        .iter()
        .flat_map(|line| code(line))
        .filter_map(|name| name.strip_prefix("txstream "))
        .collect();
    for name in missing {
        assert!(!existing.contains(name), "txstream {name} exists, and the README says that it does not");
    }
}

#[test]
fn the_settings_of_the_readme_are_those_of_the_reference() {
    let (readme, reference) = (read("README.md"), read("docs/configuration.md"));
    for cells in rows(&section(&readme, "## Configuration")) {
        for name in code(cells[0]) {
            let known = reference.contains(&format!("| `{name}`"));
            assert!(known || name.starts_with("-X"), "{name} is not in docs/configuration.md");
        }
    }
}

/// All Rust files below a directory.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names of all test functions.
fn tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    sources(&root().join("tests"), &mut files);
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source");
        let mut marked = false;
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                marked = true;
            } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| marked) {
                let name = rest.split('(').next().unwrap_or_default();
                names.insert(name.to_owned());
                marked = false;
            }
        }
    }
    names
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let guarantees = read("docs/guarantees.md");
    let existing = tests();
    let lines: Vec<&str> = guarantees.lines().collect();
    let mut named = 0;
    for table in lines.split(|line| !line.starts_with('|')) {
        for cells in rows(table) {
            for name in code(cells[2]) {
                assert!(existing.contains(name), "there is no test {name}");
                named += 1;
            }
        }
    }
    assert!(named > 50, "only {named} tests are named; has the table another form now?");
}

#[test]
fn every_file_that_a_document_names_exists() {
    const OURS: [&str; 10] = [
        "src/",
        "tests/",
        "benches/",
        "examples/",
        "docs/",
        "docker/",
        "scripts/",
        "sql/",
        "migrations/",
        ".ci/",
    ];
    let root = root();
    for document in DOCUMENTS {
        let text = read(document);
        let folder = root.join(document).parent().expect("a folder").to_owned();
        let linked = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for target in linked.filter(|target| !target.is_empty() && !target.contains("://")) {
            assert!(folder.join(target).exists(), "{document} links to {target}");
        }
        let named = code(&text).into_iter().filter(|name| OURS.iter().any(|ours| name.starts_with(ours)));
        for name in named.filter(|name| !name.contains([' ', '*', '<', '{', '\n'])) {
            assert!(root.join(name).exists(), "{document} names {name}");
        }
    }
}

/// The command lines in the fenced shell blocks of a document, without comments.
fn shell_lines(text: &str) -> Vec<&str> {
    let mut within = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            within = !within && matches!(language, "sh" | "bash" | "shell");
        } else if within {
            lines.push(line.split(" #").next().unwrap_or_default().trim());
        }
    }
    lines
}

/// The documents that tell people to type something.
fn instructions() -> Vec<(String, String)> {
    let mut named: Vec<String> = DOCUMENTS.iter().map(|&name| name.to_owned()).collect();
    for entry in fs::read_dir(root().join("docs")).expect("docs") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        if name.ends_with(".md") {
            named.push(format!("docs/{name}"));
        }
    }
    named.sort();
    named.dedup();
    named.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

#[test]
fn every_command_of_ours_in_a_document_is_one_that_the_binary_understands() {
    let mut checked = 0;
    for (document, text) in instructions() {
        let commands = shell_lines(&text).into_iter().flat_map(|line| line.split(['|', ';', '&']));
        for command in commands.map(str::trim).filter(|command| command.starts_with("txstream ")) {
            let words = command.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
            match txstream::cli::parse(words) {
                Ok(_) => checked += 1,
                Err(failure) => panic!("{document} has {command:?}: {failure}"),
            }
        }
    }
    assert!(checked > 20, "only {checked} commands were found; have the blocks another form now?");
}

/// The sections of a document that tell people to run us, by their headings.
fn sections_with_commands(text: &str) -> BTreeSet<&str> {
    let (mut heading, mut within, mut found) = ("", false, BTreeSet::new());
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            within = !within && language == "sh";
        } else if !within && line.starts_with('#') {
            heading = line;
        } else if within && line.split(['|', ';', '&']).any(|part| part.trim().starts_with("txstream ")) {
            found.insert(heading);
        }
    }
    found
}

#[test]
fn every_command_of_ours_in_a_document_is_typed_by_a_test_or_its_document_says_that_none_does() {
    let typists = ["tests/it/documented.rs", "tests/it/runbook.rs"].map(read);
    for (document, text) in instructions() {
        let typed = |heading: &str| {
            let names = |test: &String| {
                test.contains(&format!("\"{document}\"")) && test.contains(&format!("\"{heading}\""))
            };
            typists.iter().any(names)
        };
        for heading in sections_with_commands(&text) {
            let marked = text.contains("checked by a test, but not run by one");
            assert!(typed(heading) || marked, "no test types what stands in {document} below {heading}");
        }
    }
}

#[test]
fn every_target_of_make_in_a_document_exists() {
    let makefile = read("Makefile");
    let mut checked = 0;
    for (document, text) in instructions() {
        let words = shell_lines(&text).into_iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
        for words in words.filter(|words| words.first() == Some(&"make")) {
            for target in words[1..].iter().filter(|word| !word.contains('=')) {
                let exists = makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
                assert!(exists, "{document} says make {target}");
                checked += 1;
            }
        }
    }
    assert!(checked > 4, "only {checked} targets were found");
}

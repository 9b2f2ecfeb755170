//! A server process that cannot outlive this one.
//!
//! `scripts/<name> run DIR` starts a server, prints its facts and waits for its standard input to
//! end. We hold the other end of that pipe, so however this process ends (done, panic, SIGKILL),
//! the script sees it, kills the server and deletes its directory.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running (or stopped, or frozen) server of `scripts/`, thrown away when dropped.
pub(crate) struct Server {
    script: PathBuf,
    dir: PathBuf,
    facts: HashMap<String, String>,
    supervisor: Child,
}

impl Server {
    /// Runs `scripts/<name>` with `options` in a new directory and returns when the server answers.
    ///
    /// # Panics
    /// If it does not start; the script's words are on stderr.
    pub(crate) async fn run(name: &'static str, options: Vec<String>) -> Self {
        tokio::task::spawn_blocking(move || Self::run_blocking(name, &options)).await.unwrap()
    }

    fn run_blocking(name: &str, options: &[String]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name);
        let dir = std::env::temp_dir().join(super::unique(&format!("txstream_{name}")));
        let mut supervisor = Command::new(&script)
            .arg("run")
            .arg(&dir)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C at the terminal ends us, and our end of the pipe tells the script.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|err| panic!("running {}: {err}", script.display()));
        let stdout = BufReader::new(supervisor.stdout.take().expect("stdout is piped"));
        let facts = read_facts(stdout);
        assert!(!facts.is_empty(), "{} run did not start a server; its words are above", script.display());
        Self { script, dir, facts, supervisor }
    }

    /// A connection fact the script printed: see `scripts/postgres` and `scripts/kafka`.
    pub(crate) fn fact(&self, name: &str) -> &str {
        self.facts.get(name).unwrap_or_else(|| panic!("{} knows no fact {name}", self.script.display()))
    }

    /// Where the server's files are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.fact("log")).unwrap_or_default()
    }

    /// Runs `scripts/<name> <verb> DIR <options>` to its end.
    ///
    /// # Panics
    /// If the script fails.
    pub(crate) async fn order(&self, verb: &str, options: &[&str]) {
        let output = tokio::process::Command::new(&self.script)
            .arg(verb)
            .arg(&self.dir)
            .args(options)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        assert!(
            output.status.success(),
            "{} {verb}: {}",
            self.script.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Reads `key=value` lines up to the last one, which says `end`.
fn read_facts(stdout: impl BufRead) -> HashMap<String, String> {
    stdout
        .lines()
        .map_while(Result::ok)
        .take_while(|line| line != "end")
        .filter_map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        // Nothing to do about a failure here; the script has its own deadlines.
        let _ = self.supervisor.wait();
    }
}

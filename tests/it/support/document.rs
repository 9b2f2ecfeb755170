//! The commands that a document tells people to type, typed as they stand there.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::kafka::Kafka;
use super::relay::binary;
use super::wait::{SOON, eventually};

/// What the shell says when it has done all of it.
const THROUGH: &str = "--- typed";

/// The words by which a document says that a line is only read.
const NOT_RUN: [&str; 2] = ["no test runs", "nenhum teste executa"];

/// The fenced shell lines of one section of a document.
pub(crate) struct Commands {
    place: String,
    text: String,
    lines: String,
    env: Vec<(String, String)>,
}

/// A shell in which they were typed; what they left running in the background ends with it.
pub(crate) struct Shell {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    _dir: TempDir,
}

impl Commands {
    /// Those below a heading, up to the next one.
    pub(crate) fn of(document: &str, heading: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{document}: {error}"));
        let (mut below, mut within, mut lines) = (false, false, String::new());
        for line in text.lines() {
            if let Some(language) = line.strip_prefix("```") {
                within = below && !within && language == "sh";
            } else if within {
                lines.push_str(line);
                lines.push('\n');
            } else if line.starts_with('#') {
                below = line == heading;
            }
        }
        let place = format!("{document} {heading}");
        assert!(!lines.is_empty(), "{place} has no commands");
        Self { place, text, lines, env: Vec::new() }
    }

    /// What a reader puts in the place of `written`.
    pub(crate) fn with(mut self, written: &str, meant: &str) -> Self {
        self.lines = self.lines.replace(written, meant);
        self
    }

    /// Leaves out the lines that begin with a program which a test has not. The document must say so.
    pub(crate) fn without(mut self, program: &str) -> Self {
        let said = self.text.split("\n\n").any(|paragraph| {
            NOT_RUN.iter().any(|mark| paragraph.contains(mark)) && paragraph.contains(&format!("`{program}`"))
        });
        assert!(said, "{} does not say that no test runs {program}", self.place);
        let (left, out): (Vec<&str>, Vec<&str>) =
            self.lines.lines().partition(|line| !line.starts_with(program));
        assert!(!out.is_empty(), "{} has no line with {program}", self.place);
        self.lines = left.join("\n") + "\n";
        self
    }

    /// A variable of the shell's environment, which has nothing else but `PATH`.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Types them, one after the other, until one fails: none may.
    ///
    /// `txstream` is the built binary, and `kafka-*.sh` are the tools of that broker's distribution.
    pub(crate) async fn typed(self, kafka: &Kafka) -> Shell {
        let dir = TempDir::new().unwrap();
        programs(dir.path(), kafka);
        // What they name of the repository, but no `.env` of a developer.
        symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("sql"), dir.path().join("sql")).unwrap();
        let script = format!(
            "exec 2>&1\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n{}\nprintf '\\n%s\\n' '{THROUGH}'\ncat >/dev/null\n",
            self.lines
        );
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "bash", "-e", "-o", "pipefail", "-c", &script])
            .env_clear()
            .env("PATH", format!("{}:{path}", dir.path().join("bin").display()))
            .envs(self.env)
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = Arc::<Mutex<Vec<String>>>::default();
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let kept = Arc::clone(&said);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().unwrap().push(line);
            }
        });
        let mut shell = Shell { child, said, _dir: dir };
        shell.wait(&self.place).await;
        shell
    }
}

impl Shell {
    /// Waits until the shell is through.
    async fn wait(&mut self, place: &str) {
        let through = eventually(SOON * 2, "all is typed", async || {
            let ended = self.child.try_wait().unwrap().map(|status| format!("it ended with {status}"));
            let through = self.said.lock().unwrap().iter().any(|line| line == THROUGH);
            ended.map(Err).or(through.then_some(Ok(())))
        });
        if let Err(why) = timeout(SOON, through).await.unwrap_or_else(|_| Err("it goes on and on".to_owned()))
        {
            panic!("{place}: {why}\n{}", self.said());
        }
    }

    /// All that is on the screen.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// Ends it, and waits until all in the background has ended in its own time.
    pub(crate) async fn end(mut self) {
        drop(self.child.stdin.take());
        timeout(SOON, self.child.wait()).await.expect("what it left running ends").unwrap();
    }
}

/// Puts the programs that the documents name into a directory of `PATH`.
fn programs(dir: &Path, kafka: &Kafka) {
    let bin = dir.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let write = |name: &str, script: String| {
        let path: PathBuf = bin.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    };
    // It dies with the shell, whatever ends that.
    let txstream = format!("#!/bin/sh\nexec setpriv --pdeathsig KILL -- '{}' \"$@\"\n", binary().display());
    write("txstream", txstream);
    for (name, class) in [
        ("kafka-topics.sh", "org.apache.kafka.tools.TopicCommand"),
        ("kafka-broker-api-versions.sh", "org.apache.kafka.tools.BrokerApiVersionsCommand"),
        ("kafka-configs.sh", "kafka.admin.ConfigCommand"),
        ("kafka-acls.sh", "org.apache.kafka.tools.AclCommand"),
    ] {
        // The script names the broker itself.
        let broker = kafka.bootstrap();
        write(
            name,
            format!(
                "#!/bin/sh\n[ \"$1 $2\" = '--bootstrap-server {broker}' ] || exit 64\nshift 2\nexec '{}/scripts/kafka' tool '{}' {class} \"$@\"\n",
                env!("CARGO_MANIFEST_DIR"),
                kafka.dir().display()
            ),
        );
    }
}

//! The built `txstream` binary as a child process.
//!
//! A child knows nothing of the environment of the tests: it gets `PATH` and what it is given, and
//! its working directory is empty, so that no `.env` reaches it. It dies with its parent, however
//! that ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::database::Database;
use super::http::{self, Response};
use super::metrics::Metrics;
use super::port::free_port;
use super::wait::{SOON, eventually};

/// A running `txstream relay` (or `writer`), killed when dropped.
pub(crate) struct Relay {
    child: Child,
    admin: SocketAddr,
    log: Log,
    reader: JoinHandle<()>,
    /// Deleted after the child is gone.
    _dir: TempDir,
}

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) status: ExitStatus,
    /// Everything it wrote to stderr.
    pub(crate) stderr: String,
}

/// What a one-shot command said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

type Log = Arc<Mutex<Vec<String>>>;

impl Relay {
    /// Starts `txstream relay <args>` on a database (its name is the slot's too) and a broker.
    /// Settings in `env` win over those.
    pub(crate) async fn start(
        database: &Database,
        brokers: &str,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let url = database.url();
        let mut all = vec![
            ("DATABASE_URL", url.as_str()),
            ("REPLICATION_SLOT", database.name()),
            ("KAFKA_BROKERS", brokers),
        ];
        all.extend_from_slice(env);
        Self::spawn(&[&["relay"], args].concat(), &all).await
    }

    /// Starts the binary with exactly these arguments and settings. The admin server gets a free
    /// port of 127.0.0.1, unless `env` says otherwise.
    pub(crate) async fn spawn(args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        let given = env.iter().rev().find(|(name, _)| *name == "METRICS_PORT");
        let port = match given {
            Some((_, port)) => port.parse().unwrap(),
            None => free_port().await,
        };
        let mut child = command(args, &dir)
            .env("METRICS_HOST", "127.0.0.1")
            .env("METRICS_PORT", port.to_string())
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let log = Log::default();
        let stderr = child.stderr.take().expect("stderr is piped");
        let reader = tokio::spawn(keep_lines(stderr, Arc::clone(&log)));
        Self { child, admin: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), log, reader, _dir: dir }
    }

    /// The admin server's address.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Panics
    /// If it does not, or the process ends.
    pub(crate) async fn wait_ready(&mut self) {
        let admin = self.admin;
        eventually(SOON, "the relay is ready", async || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the relay ended before it was ready: {status}");
            }
            http::get(admin, "/readyz").await.ok().filter(|response| response.status == 200)
        })
        .await;
    }

    /// GET from the admin server.
    ///
    /// # Panics
    /// If it cannot be reached.
    pub(crate) async fn get(&self, path: &str) -> Response {
        http::get(self.admin, path).await.unwrap_or_else(|err| panic!("GET {path}: {err}"))
    }

    /// A scrape of `/metrics`.
    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").await.body)
    }

    /// The JSON of `/status`.
    pub(crate) async fn status(&self) -> serde_json::Value {
        self.get("/status").await.json()
    }

    /// The lines written to stderr so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a line on stderr and returns the first that `wanted` accepts, old lines included.
    ///
    /// # Panics
    /// After `deadline`, with `what`.
    pub(crate) async fn wait_for_log(
        &self,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        eventually(deadline, format!("a log line: {what}"), async || {
            self.log.lock().unwrap().iter().find(|line| wanted(line)).cloned()
        })
        .await
    }

    /// The process id, of a child that has not been waited for.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("the child was not waited for")
    }

    /// Whether the process still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Asks the process to stop gracefully.
    pub(crate) async fn sigterm(&self) {
        self.signal("TERM").await;
    }

    /// Stops the process where it is; its connections stay open and say nothing.
    pub(crate) async fn freeze(&self) {
        self.signal("STOP").await;
    }

    /// Undoes [`Relay::freeze`].
    pub(crate) async fn thaw(&self) {
        self.signal("CONT").await;
    }

    /// Sends a signal by its name, as in `INT`.
    pub(crate) async fn signal(&self, name: &str) {
        // The shell's own `kill`: there is no safe one in the standard library.
        let kill = format!("kill -{name} {}", self.pid());
        assert!(Command::new("sh").args(["-c", &kill]).status().await.unwrap().success(), "{kill}");
    }

    /// Kills the process and waits until it is gone.
    pub(crate) async fn kill9(mut self) -> Exit {
        self.child.start_kill().unwrap();
        self.wait_exit(SOON).await
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    /// If it still runs after `deadline`.
    pub(crate) async fn wait_exit(mut self, deadline: Duration) -> Exit {
        let status = timeout(deadline, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("the relay still runs after {deadline:?}"))
            .unwrap();
        // The pipe ends with the process: then every line was read.
        (&mut self.reader).await.unwrap();
        Exit { status, stderr: self.log().join("\n") }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let last = &log[log.len().saturating_sub(60)..];
            #[allow(clippy::print_stderr, reason = "why a test failed is mostly in here")]
            {
                eprintln!("--- last words of the relay\n{}\n---", last.join("\n"));
                eprintln!("{}\n---", http::get_at_once(self.admin, "/status").unwrap_or_default());
            }
        }
    }
}

/// Runs `txstream <args>` to its end, at most a minute.
pub(crate) async fn run_cli(args: &[&str], env: &[(&str, &str)]) -> Output {
    let dir = TempDir::new().unwrap();
    let output = command(args, &dir).envs(env.iter().copied()).stdout(Stdio::piped()).output();
    let output = timeout(Duration::from_secs(60), output)
        .await
        .unwrap_or_else(|_| panic!("txstream {} still runs after a minute", args.join(" ")))
        .unwrap();
    Output {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The binary that `TXSTREAM_BINARY` names by its absolute path, as where a figure is to be one of a release
/// build; else the one that Cargo built for this test or bench, for an example the one beside it.
pub(crate) fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("TXSTREAM_BINARY") {
        return named.into();
    }
    option_env!("CARGO_BIN_EXE_txstream").map(PathBuf::from).unwrap_or_else(|| {
        let example = std::env::current_exe().unwrap();
        let binary = example.parent().and_then(std::path::Path::parent).unwrap().join("txstream");
        assert!(binary.exists(), "{} is missing: build it first with cargo build", binary.display());
        binary
    })
}

/// `setpriv` becomes the binary, and the kernel kills that when the thread that started it ends:
/// the test's own thread, or the runtime's worker.
fn command(args: &[&str], dir: &TempDir) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(binary())
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("RUST_BACKTRACE", "1")
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn keep_lines(stderr: ChildStderr, log: Log) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.lock().unwrap().push(line);
    }
}

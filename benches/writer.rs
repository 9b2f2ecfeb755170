//! Orders a second through `txstream writer`, beside the same two INSERTs by `pgbench`, in one run.
//!
//! Both have 50 clients on the same server, one after the other in alternating pairs. The writer is
//! asked over HTTP, so it does more: it parses, checks and answers.
//!
//! The result is a table, printed and written to `docs/benchmark.md`. `WRITER_BENCH_SECONDS` is the time of a
//! turn; set, the table is only printed, unless `WRITER_BENCH_REPORT` names a file with the marker lines.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench"
)]

#[path = "markdown/mod.rs"]
mod markdown;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use markdown::{median, write_between_markers};
use support::port::free_port;
use support::{Database, Postgres, Relay, run_cli};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::Instant;

const CLIENTS: usize = 50;
const PAIRS: usize = 3;

/// What the writer stores for the order below, as two statements.
const SCRIPT: &str = r#"\set n random(1, 9000000000000000)
begin;
insert into orders (customer_id, order_number, currency, items, shipping_address, billing_address, total_amount) values ('customer-1', 'p' || :n, 'USD', '[{"product_id":"p-1","product_name":"Pen","quantity":3,"unit_price":33.30}]', '{"street":"Main","number":"1","city":"Bonn","state":"NW","zip_code":"53111","country":"DE"}', '{"street":"Main","number":"1","city":"Bonn","state":"NW","zip_code":"53111","country":"DE"}', 99.90);
insert into outbox (aggregatetype, aggregateid, type, payload) values ('order', 'p' || :n, 'OrderCreated', '{"order_id":"6ba7b810-9dad-11d1-80b4-00c04fd430c8","customer_id":"customer-1","order_number":"p1","status":"pending","total_amount":99.90,"currency":"USD","items_count":1,"created_at":"2026-01-01T00:00:00.000000Z"}');
commit;
"#;

fn order(number: &str) -> String {
    let address =
        r#"{"street":"Main","number":"1","city":"Bonn","state":"NW","zip_code":"53111","country":"DE"}"#;
    format!(
        r#"{{"customer_id":"customer-1","order_number":"{number}","items":[{{"product_id":"p-1","product_name":"Pen","quantity":3,"unit_price":33.30}}],"shipping_address":{address},"billing_address":{address}}}"#
    )
}

/// One turn of each.
struct Pair {
    /// Transactions a second of `pgbench`.
    theirs: f64,
    /// Orders a second of the writer.
    ours: f64,
    p50: Duration,
    p99: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let shorter = std::env::var("WRITER_BENCH_SECONDS").ok();
    let seconds = shorter.as_ref().map_or(10, |text| text.parse().expect("a number of seconds"));
    let time = Duration::from_secs(seconds);
    let settings = [("fsync", "on"), ("synchronous_commit", "on"), ("full_page_writes", "on")];
    let postgres = Postgres::start(Postgres::default_version(), &settings).await;
    let database = postgres.database().await;
    let url = database.url();
    let output = run_cli(&["migrate", "up"], &[("DATABASE_URL", &url)]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let port = free_port().await;
    let text = port.to_string();
    let env = [("DATABASE_URL", url.as_str()), ("SERVER_HOST", "127.0.0.1"), ("SERVER_PORT", &text)];
    let mut writer = Relay::spawn(&["writer"], &env).await;
    writer.wait_ready().await;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut pairs = Vec::new();
    for number in 1..=PAIRS {
        let theirs = pgbench(&database, seconds).await;
        let mut latencies = orders(address, number, time).await;
        latencies.sort_unstable();
        #[allow(clippy::cast_precision_loss, reason = "a count of a few seconds")]
        let ours = latencies.len() as f64 / time.as_secs_f64();
        let at = |share: usize| latencies[latencies.len() * share / 100];
        eprintln!("pair {number}: pgbench {theirs:.0}, writer {ours:.0} a second, p99 {:.1?}", at(99));
        pairs.push(Pair { theirs, ours, p50: at(50), p99: at(99) });
    }
    let text = report(&conditions(&database, seconds).await, &pairs);
    println!("{text}");
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmark.md");
    let file = std::env::var_os("WRITER_BENCH_REPORT").map(PathBuf::from);
    match file.or_else(|| shorter.is_none().then_some(ours)) {
        Some(path) => write_between_markers(&path, "writer-bench", &text),
        None => eprintln!("a run of less than full size: no file written"),
    }
}

/// Where and how it was measured: figures mean nothing without it.
async fn conditions(database: &Database, seconds: u64) -> String {
    let server: String = database.value("select current_setting('server_version')").await;
    let pgbench = Command::new("pgbench").arg("--version").output().await.expect("pgbench");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{CLIENTS} clients each, in turns of {seconds} s, on {cores} cores that server, writer and clients share; \
         PostgreSQL {server} (`fsync=on`, `synchronous_commit=on`), `{}`, `txstream {}`.",
        String::from_utf8_lossy(&pgbench.stdout).trim(),
        env!("CARGO_PKG_VERSION")
    )
}

/// The table in Markdown.
fn report(conditions: &str, pairs: &[Pair]) -> String {
    let mut text = format!(
        "{conditions}\n\n| pair | pgbench, transactions/s | writer, orders/s | ratio | writer p50 / p99 |\n|---|---|---|---|---|\n"
    );
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    let mut line = |name: &str, [theirs, ours, ratio, p50, p99]: [f64; 5]| {
        let line = format!("| {name} | {theirs:.0} | {ours:.0} | {ratio:.2} | {p50:.1} / {p99:.1} ms |");
        writeln!(text, "{line}").unwrap();
    };
    let figures = |pair: &Pair| {
        let Pair { theirs, ours, p50, p99 } = pair;
        [*theirs, *ours, ours / theirs, milliseconds(*p50), milliseconds(*p99)]
    };
    for (number, pair) in (1..).zip(pairs) {
        line(&format!("{number}"), figures(pair));
    }
    line("median", std::array::from_fn(|column| median(pairs.iter().map(|pair| figures(pair)[column]))));
    text
}

/// Transactions a second.
async fn pgbench(database: &Database, seconds: u64) -> f64 {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("orders.sql");
    std::fs::write(&script, SCRIPT).unwrap();
    let output = Command::new("pgbench")
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
        .args([format!("--client={CLIENTS}"), format!("--time={seconds}")])
        .arg("--file")
        .arg(&script)
        .arg(database.url())
        .output()
        .await
        .expect("pgbench, of your system's postgresql package");
    let said = String::from_utf8_lossy(&output.stdout);
    let tps = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    tps.unwrap_or_else(|| panic!("pgbench: {said}{}", String::from_utf8_lossy(&output.stderr)))
}

/// How long each order took.
async fn orders(address: SocketAddr, pair: usize, time: Duration) -> Vec<Duration> {
    let end = Instant::now() + time;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (mut latencies, mut answer) = (Vec::new(), vec![0; 16 * 1024]);
                for n in 0.. {
                    let begin = Instant::now();
                    if begin >= end {
                        break;
                    }
                    let body = order(&format!("w-{pair}-{client}-{n}"));
                    let request = format!(
                        "POST /api/v1/orders HTTP/1.1\r\nHost: w\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(request.as_bytes()).await.unwrap();
                    let mut length = 0;
                    // An order's document ends the answer.
                    while length == 0 || !answer[..length].ends_with(b"}") {
                        let read = stream.read(&mut answer[length..]).await.unwrap();
                        assert!(read > 0, "the writer closed the connection");
                        length += read;
                    }
                    assert!(answer.starts_with(b"HTTP/1.1 201"), "{}", String::from_utf8_lossy(&answer[..length]));
                    latencies.push(begin.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.unwrap());
    }
    all
}

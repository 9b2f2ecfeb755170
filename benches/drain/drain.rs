//! One drain of a backlog, by `pg_recvlogical` or by the relay.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::PgLsn;

use crate::backlog::{Backlog, PUBLICATION, drop_slot};
use crate::process::{Usage, usage};
use crate::support::{Database, Kafka, Relay};
use crate::{PARTITIONS, TOPIC};

/// How often a running drain is looked at when it may be done: the error of its time.
const LOOK: Duration = Duration::from_millis(5);
/// How often the relay's slot is looked at before that. A look is a query, on the machine that they all share, and
/// `pg_recvlogical` is watched without one: at every [`LOOK`] they were a twentieth of a drain.
const EARLY_LOOK: Duration = Duration::from_millis(50);
/// A slot that has more than a seventh of the backlog before it will not be at its end at the next look.
const EARLY: u64 = 7;
/// A drain that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(300);

/// How the client reaches Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    UnixSocket,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::UnixSocket => "Unix socket",
        })
    }
}

impl Transport {
    fn url(self, database: &Database) -> String {
        match self {
            Self::Tcp => database.url(),
            Self::UnixSocket => database.socket_url(),
        }
    }
}

/// What a drain took, from the start of the process to the last row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) time: Duration,
    pub(crate) rows: u64,
    pub(crate) usage: Usage,
    /// From the start of the process to the first record at a consumer, where one waited for it.
    pub(crate) first_record: Option<Duration>,
}

impl Run {
    /// CPU time for each row.
    pub(crate) fn cpu_per_row(&self) -> Duration {
        self.usage.cpu.div_f64(rows_as_float(self.rows))
    }

    /// Rows a second.
    pub(crate) fn rate(&self) -> f64 {
        rows_as_float(self.rows) / self.time.as_secs_f64()
    }
}

#[allow(clippy::cast_precision_loss, reason = "millions")]
fn rows_as_float(rows: u64) -> f64 {
    rows as f64
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} s, {:.1} µs CPU a row, {} kB",
            self.time.as_secs_f64(),
            self.cpu_per_row().as_secs_f64() * 1e6,
            self.usage.peak_memory_kb
        )
    }
}

/// `pg_recvlogical` on the path, or of the newest Postgres that Debian's packages installed.
///
/// # Panics
/// If there is none, with what installs it.
pub(crate) fn find_pg_recvlogical() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    versions.sort();
    places.extend(versions.into_iter().rev());
    places.iter().map(|place| place.join("pg_recvlogical")).find(|program| program.exists()).unwrap_or_else(
        || {
            eprintln!("missing: pg_recvlogical. Install with: apt-get install postgresql-client");
            std::process::exit(1)
        },
    )
}

/// Runs drains.
pub(crate) struct Drain<'a> {
    pub(crate) database: &'a Database,
    pub(crate) kafka: &'a Kafka,
    pub(crate) pg_recvlogical: &'a Path,
}

impl Drain<'_> {
    /// Lets `pg_recvlogical` receive the backlog, and throw it away.
    pub(crate) async fn receive(&self, backlog: &Backlog, transport: Transport) -> Run {
        let slot = backlog.copy(self.database).await;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(self.pg_recvlogical)
            .args(["--start", "--no-loop", "--no-password", "--file=/dev/null", "--status-interval=0"])
            .arg(format!("--dbname={}", transport.url(self.database)))
            .arg(format!("--slot={slot}"))
            .arg(format!("--endpos={}", backlog.end))
            .args(["--option=proto_version=1", "--option=binary=true"])
            .arg(format!("--option=publication_names={PUBLICATION}"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let start = Instant::now();
        let mut child = command.spawn().unwrap();
        let pid = child.id().unwrap();
        let mut peak_memory_kb = 0;
        // It is not waited for before the kernel was asked what it used.
        let mut last = loop {
            let usage = usage(pid).expect("a child that was not waited for");
            peak_memory_kb = peak_memory_kb.max(usage.peak_memory_kb);
            if usage.ended {
                break usage;
            }
            assert!(start.elapsed() < DEADLINE, "pg_recvlogical still runs");
            sleep(LOOK).await;
        };
        let time = start.elapsed();
        last.peak_memory_kb = peak_memory_kb;
        let status = child.wait().await.unwrap();
        assert!(status.success(), "pg_recvlogical: {status}");
        drop_slot(self.database, &slot).await;
        Run { time, rows: backlog.rows, usage: last, first_record: None }
    }

    /// Lets the relay publish the backlog: done when the slot says that it confirmed the last commit,
    /// so when Kafka had acknowledged every record.
    pub(crate) async fn relay(&self, backlog: &Backlog, transport: Transport) -> Run {
        self.publish(backlog, transport, None).await
    }

    /// The same while a consumer waits for the first record. It fetches some megabytes before it ends, which takes
    /// from a drain what `pg_recvlogical` has all to itself.
    pub(crate) async fn relay_to_a_consumer(&self, backlog: &Backlog, transport: Transport) -> Run {
        let first_record = self.first_record();
        self.publish(backlog, transport, Some(first_record)).await
    }

    async fn publish(
        &self,
        backlog: &Backlog,
        transport: Transport,
        first_record: Option<JoinHandle<Instant>>,
    ) -> Run {
        let slot = backlog.copy(self.database).await;
        let url = transport.url(self.database);
        let records_before = self.records();
        let client = self.database.client().await;
        let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1";
        let confirmed = client.prepare(confirmed).await.unwrap();

        let start = Instant::now();
        let mut relay = self.start_relay(&slot, &url).await;
        let mut whole = None;
        loop {
            let row = client.query_one(&confirmed, &[&slot]).await.unwrap();
            let confirmed: PgLsn = row.get(0);
            if confirmed >= backlog.end {
                break;
            }
            let left = u64::from(backlog.end) - u64::from(confirmed);
            let early = left > *whole.get_or_insert(left) / EARLY;
            assert!(relay.is_running(), "the relay ended:\n{}", relay.log().join("\n"));
            assert!(start.elapsed() < DEADLINE, "the relay does not finish:\n{}", relay.log().join("\n"));
            sleep(if early { EARLY_LOOK } else { LOOK }).await;
        }
        let time = start.elapsed();
        let usage = usage(relay.pid()).expect("the relay runs");
        relay.sigterm().await;
        let exit = relay.wait_exit(DEADLINE).await;
        assert!(exit.status.success(), "the relay ended with {}:\n{}", exit.status, exit.stderr);
        let records = self.records() - records_before;
        assert_eq!(records, backlog.rows, "records in Kafka for {} rows", backlog.rows);
        let first_record = match first_record {
            Some(first) => {
                let first = timeout(DEADLINE, first).await.unwrap().unwrap();
                Some(first.saturating_duration_since(start))
            }
            None => None,
        };
        drop_slot(self.database, &slot).await;
        Run { time, rows: backlog.rows, usage, first_record }
    }

    async fn start_relay(&self, slot: &str, url: &str) -> Relay {
        let env = [("DATABASE_URL", url), ("REPLICATION_SLOT", slot)];
        Relay::start(self.database, self.kafka.bootstrap(), &[], &env).await
    }

    /// The number of records in the topic.
    fn records(&self) -> u64 {
        let consumer = consumer(self.kafka);
        (0..PARTITIONS)
            .map(|partition| {
                let (low, high) =
                    consumer.fetch_watermarks(TOPIC, partition, Duration::from_secs(10)).unwrap();
                u64::try_from(high - low).unwrap()
            })
            .sum()
    }

    /// Waits on a thread of its own for the next record of the topic.
    fn first_record(&self) -> JoinHandle<Instant> {
        let consumer = consumer(self.kafka);
        let mut ends = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            let (_, end) = consumer.fetch_watermarks(TOPIC, partition, Duration::from_secs(10)).unwrap();
            ends.add_partition_offset(TOPIC, partition, Offset::Offset(end)).unwrap();
        }
        consumer.assign(&ends).unwrap();
        tokio::task::spawn_blocking(move || {
            loop {
                if let Some(Ok(_)) = consumer.poll(Duration::from_millis(100)) {
                    return Instant::now();
                }
            }
        })
    }
}

/// A consumer by assignment that has each record as soon as the broker has it.
pub(crate) fn consumer(kafka: &Kafka) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", "txstream-bench")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "10")
        .create()
        .unwrap()
}

//! From the return of COMMIT to a consumer, with rows that come one by one at an even pace.
//!
//! Writers on threads of their own take turns, so that a slow commit delays no other row. A row's id
//! is its number: the consumer knows by it which COMMIT a record belongs to.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::drain::consumer;
use crate::process::usage;
use crate::support::{Database, Kafka, Relay, unique};
use crate::{PARTITIONS, TOPIC};

/// The pace, all writers together.
pub(crate) const ROWS_PER_SECOND: u64 = 1_000;

const WRITERS: u64 = 4;
/// Rows of the first seconds do not count: connections, metadata and caches are new.
const WARM_UP: Duration = Duration::from_secs(4);
/// For the last records, and for the relay's end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The distribution of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) rows: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
    /// How late the probe's own INSERTs began, 99 of 100.
    pub(crate) probe_late_p99: Duration,
    /// CPU of the relay, as a part of one core.
    pub(crate) relay_cpu: f64,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        write!(
            f,
            "p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms ({} rows; 99 % of the probe's INSERTs began at most \
             {:.2} ms late; relay at {:.0} % of a core)",
            ms(self.p50),
            ms(self.p99),
            ms(self.max),
            self.rows,
            ms(self.probe_late_p99),
            self.relay_cpu * 100.0
        )
    }
}

/// Times of every row, in nanoseconds since `start`; 0 is not yet.
struct Times {
    start: Instant,
    late: Vec<AtomicU64>,
    committed: Vec<AtomicU64>,
    arrived: Vec<AtomicU64>,
    stop: AtomicBool,
}

impl Times {
    fn new(rows: u64) -> Self {
        let empty = || (0..rows).map(|_| AtomicU64::new(0)).collect();
        // Threads and connections are made before the first row is due.
        let start = Instant::now() + Duration::from_secs(1);
        Self { start, late: empty(), committed: empty(), arrived: empty(), stop: AtomicBool::new(false) }
    }

    fn due(&self, row: u64) -> Instant {
        self.start
            + Duration::from_secs(1) * u32::try_from(row).unwrap() / u32::try_from(ROWS_PER_SECOND).unwrap()
    }

    /// Nanoseconds from `start` to now, never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap().max(1)
    }
}

/// Runs the relay with the settings of the drain, writes, and reads the topic.
pub(crate) async fn measure(database: &Database, kafka: &Kafka, time: Duration) -> Latency {
    let slot = unique("latency");
    database.query(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    let consumer = at_the_end(kafka);
    let mut relay = Relay::start(database, kafka.bootstrap(), &[], &[("REPLICATION_SLOT", &slot)]).await;
    relay.wait_ready().await;

    let warm_up = WARM_UP.as_secs() * ROWS_PER_SECOND;
    let rows = warm_up + time.as_secs() * ROWS_PER_SECOND;
    let times = Arc::new(Times::new(rows));
    let reader = read(consumer, Arc::clone(&times));
    let writers: Vec<JoinHandle<()>> =
        (0..WRITERS).map(|number| write(database.socket_url(), number, Arc::clone(&times))).collect();

    tokio::time::sleep_until(times.due(warm_up)).await;
    let cpu_before = usage(relay.pid()).expect("the relay runs").cpu;
    tokio::time::sleep_until(times.due(rows)).await;
    let cpu = usage(relay.pid()).expect("the relay runs").cpu.saturating_sub(cpu_before);
    for writer in writers {
        writer.join().expect("a writer of the probe could not write");
    }
    let end = Instant::now() + PATIENCE;
    while times.arrived.iter().any(|arrived| arrived.load(Ordering::Acquire) == 0) {
        assert!(
            relay.is_running() && Instant::now() < end,
            "records do not come:\n{}",
            relay.log().join("\n")
        );
        sleep(Duration::from_millis(20)).await;
    }
    times.stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    relay.sigterm().await;
    let exit = relay.wait_exit(PATIENCE).await;
    assert!(exit.status.success(), "the relay ended with {}:\n{}", exit.status, exit.stderr);
    summary(&times, usize::try_from(warm_up).unwrap(), cpu.as_secs_f64() / time.as_secs_f64())
}

fn summary(times: &Times, warm_up: usize, relay_cpu: f64) -> Latency {
    let value = |time: &AtomicU64| time.load(Ordering::Acquire);
    let mut latencies: Vec<u64> = times.committed[warm_up..]
        .iter()
        .zip(&times.arrived[warm_up..])
        // A record may come before the answer to its COMMIT.
        .map(|(committed, arrived)| value(arrived).saturating_sub(value(committed)))
        .collect();
    latencies.sort_unstable();
    let mut late: Vec<u64> = times.late[warm_up..].iter().map(value).collect();
    late.sort_unstable();
    let at =
        |sorted: &[u64], percent: usize| Duration::from_nanos(sorted[(sorted.len() - 1) * percent / 100]);
    Latency {
        rows: latencies.len(),
        p50: at(&latencies, 50),
        p99: at(&latencies, 99),
        max: at(&latencies, 100),
        probe_late_p99: at(&late, 99),
        relay_cpu,
    }
}

/// A consumer that stands at the end of every partition.
fn at_the_end(kafka: &Kafka) -> BaseConsumer {
    let consumer = consumer(kafka);
    let mut ends = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        let (_, end) = consumer.fetch_watermarks(TOPIC, partition, Duration::from_secs(10)).unwrap();
        ends.add_partition_offset(TOPIC, partition, Offset::Offset(end)).unwrap();
    }
    consumer.assign(&ends).unwrap();
    consumer
}

fn read(consumer: BaseConsumer, times: Arc<Times>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        while !times.stop.load(Ordering::Relaxed) {
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
            let now = times.now();
            let headers = message.headers().expect("every record has headers");
            let id =
                headers.iter().find(|header| header.key == "id").and_then(|header| header.value).unwrap();
            let id: Uuid = std::str::from_utf8(id).unwrap().parse().unwrap();
            times.arrived[usize::try_from(id.as_u128()).unwrap()].store(now, Ordering::Release);
        }
    })
}

/// A writer of every [`WRITERS`]th row: one row, one commit, each at its time.
fn write(url: String, number: u64, times: Arc<Times>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            tokio::spawn(connection);
            insert_in_time(&client, number, &times).await;
        });
    })
}

async fn insert_in_time(client: &Client, number: u64, times: &Times) {
    let aggregate_type = TOPIC.rsplit('.').next().unwrap();
    let insert = format!(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) \
         VALUES ($1, '{aggregate_type}', $2::text, 'OrderCreated', \
                 jsonb_build_object('order', $3::bigint, 'note', repeat(md5($2::text), 6), 'total', 7))"
    );
    let insert = client.prepare(&insert).await.unwrap();
    let rows = u64::try_from(times.committed.len()).unwrap();
    for row in (number..rows).step_by(usize::try_from(WRITERS).unwrap()) {
        let due = times.due(row);
        // The thread sleeps, not the runtime: its timer has a grain of a millisecond.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let late = u64::try_from(due.elapsed().as_nanos()).unwrap();
        let id = Uuid::from_u128(u128::from(row));
        let key = (row % 10_000).to_string();
        client.execute(&insert, &[&id, &key, &i64::try_from(row).unwrap()]).await.unwrap();
        let index = usize::try_from(row).unwrap();
        times.late[index].store(late, Ordering::Relaxed);
        times.committed[index].store(times.now(), Ordering::Release);
    }
}

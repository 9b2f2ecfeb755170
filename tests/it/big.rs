//! A huge transaction streams in fixed memory, and is confirmed at its commit only.

use std::collections::HashMap;
use std::time::Duration;

use crate::load::{Outbox, RECOVERY};
use crate::support::{Kafka, Postgres, Record, Relay, eventually};

/// Rows of the transaction in an ordinary run; `BIG_ROWS` says in that of `make big-transaction`.
const ROWS: u32 = 300_000;
const AGGREGATES: u32 = 50;
const BALLAST: usize = 200;

/// More than one of the records.
const RECORD_BYTES: f64 = 1_024.0;

/// All that the process may ever need: what is in flight, once with us and once in librdkafka, and the
/// program itself.
pub(crate) const PEAK_KIB: u64 = 64 * 1024;

/// Rows of the transaction, and MiB that may be in flight: few in an ordinary run, so that the bound is met;
/// the default of `WORKER_MAX_IN_FLIGHT_BYTES` where what a relay needs is to be known.
fn size() -> (u32, u32) {
    let given = std::env::var("BIG_ROWS").ok();
    given.map_or((ROWS, 1), |rows| (rows.parse().expect("BIG_ROWS is a number"), 16))
}

/// The most memory the process ever had, in KiB.
pub(crate) fn peak_memory_kib(relay: &Relay) -> u64 {
    peak_so_far_kib(relay.pid()).expect("Linux says so")
}

/// The same of any process; one that has just ended has none.
fn peak_so_far_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// What a reader has seen of the transaction. A row is known by its number `n`, from which all else follows.
#[derive(Default)]
struct Seen {
    rows: u32,
    /// The last row of each aggregate.
    last: HashMap<String, u32>,
}

impl Seen {
    /// Each aggregate's rows come in their order, none is left out and none comes twice.
    fn see(&mut self, record: &Record) {
        let key = record.key_text();
        let n = match self.last.get(key) {
            Some(before) => before + AGGREGATES,
            None if key == "0" => AGGREGATES,
            None => key.parse().unwrap(),
        };
        let value = format!(r#"{{"n": {n}, "ballast": "{}"}}"#, "x".repeat(BALLAST));
        assert_eq!(record.value_text(), value, "what follows in aggregate {key}");
        assert_eq!(record.header("id").unwrap().replace('-', ""), format!("{n:032x}"));
        self.last.insert(key.to_owned(), n);
        self.rows += 1;
    }
}

#[tokio::test]
#[allow(clippy::print_stderr, reason = "a run of minutes says what came of it")]
async fn a_huge_transaction_streams_in_fixed_memory_and_is_confirmed_at_its_commit() {
    let (rows, in_flight_mib) = size();
    let most_in_flight = f64::from(in_flight_mib) * 1_048_576.0 + RECORD_BYTES;
    // Decoding, publishing and reading each take some seconds for a million rows, many in a debug build.
    let deadline = RECOVERY + Duration::from_millis(200) * (rows / 1_000);
    let kafka = Kafka::shared().await;
    let postgres = Postgres::start(Postgres::default_version(), &[]).await;
    let outbox = Outbox::new(&postgres).await;
    let limit = format!("{in_flight_mib}MiB");
    let relay = outbox.relay(kafka.bootstrap(), &[("WORKER_MAX_IN_FLIGHT_BYTES", &limit)]).await;
    let client = outbox.database.client().await;
    let kind = &outbox.aggregate_type;
    client
        .batch_execute(&format!(
            "begin;
             insert into outbox (id, aggregatetype, aggregateid, type, payload)
                 select lpad(to_hex(n), 32, '0')::uuid, '{kind}', n % {AGGREGATES}, 'T',
                        jsonb_build_object('n', n, 'ballast', repeat('x', {BALLAST}))
                 from generate_series(1, {rows}) n"
        ))
        .await
        .unwrap();
    // Where the commit is about to be written.
    let row = client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.unwrap();
    let before_commit: String = row.get(0);
    client.batch_execute("commit").await.unwrap();
    let begin = tokio::time::Instant::now();

    let slot = outbox.database.name();
    let position = format!(
        "select confirmed_flush_lsn::text, confirmed_flush_lsn > '{before_commit}'
             from pg_replication_slots where slot_name = '{slot}'"
    );
    let mut stood = Vec::new();
    eventually(deadline, "the transaction is confirmed", async || {
        let begun = relay.metrics().await.get("txstream_events_published_total", &[]) > Some(0.0);
        let row = client.query_one(&position, &[]).await.unwrap();
        let confirmed: bool = row.get(1);
        let metrics = relay.metrics().await;
        let published = metrics.get("txstream_events_published_total", &[]).unwrap_or(0.0);
        assert!(metrics.value("txstream_in_flight_bytes") < most_in_flight);
        assert!(!confirmed || published >= f64::from(rows), "confirmed with {published} published");
        if begun && !confirmed {
            stood.push(row.get::<_, String>(0));
        }
        confirmed.then_some(())
    })
    .await;
    let took = begin.elapsed();
    // The first looks may still see the last step before the transaction.
    let stood = &stood[10..];
    assert!(stood.len() > 10, "it was looked at in the middle");
    assert!(stood.iter().all(|lsn| *lsn == stood[0]), "confirmed moved within the transaction: {stood:?}");

    let mut seen = Seen::default();
    outbox.topic(kafka).for_each(deadline, |record| seen.see(record)).await;
    assert_eq!((seen.rows, seen.last.len()), (rows, AGGREGATES as usize));
    let peak = peak_memory_kib(&relay);
    eprintln!(
        "{rows} rows in one transaction: confirmed {:.1} s after the commit, the relay needed {peak} KiB at most",
        took.as_secs_f64()
    );
    assert!(peak < PEAK_KIB, "{peak} KiB");
}

/// Rows of a backfill and letters of a replay, and what each of them holds: 100 MB, more than either may need.
const MANY: u32 = 50_000;
const LARGE: usize = 2_000;
const BYTES_A_SECOND: usize = 8_000_000;

/// The most memory that a command ever needed, in KiB; it must succeed.
async fn peak_of(args: &[&str], env: &[(&str, &str)]) -> u64 {
    let deadline = RECOVERY * 2;
    let mut command = Relay::spawn(args, env).await;
    let pid = command.pid();
    let mut peak = 0;
    eventually(deadline, format!("txstream {} is done", args.join(" ")), async || {
        peak = peak.max(peak_so_far_kib(pid).unwrap_or(0));
        (!command.is_running()).then_some(())
    })
    .await;
    let exit = command.wait_exit(deadline).await;
    assert_eq!(exit.status.code(), Some(0), "{}", exit.stderr);
    peak
}

/// Every number once, however they are spread over keys.
async fn assert_each_once(outbox: &Outbox, kafka: &Kafka) {
    let mut seen = vec![false; MANY as usize + 1];
    outbox
        .topic(kafka)
        .for_each(RECOVERY, |record| {
            let value: serde_json::Value = serde_json::from_str(record.value_text()).unwrap();
            let n = usize::try_from(value["n"].as_u64().unwrap()).unwrap();
            assert!(!std::mem::replace(&mut seen[n], true), "{n} came twice");
        })
        .await;
    assert_eq!(seen.iter().filter(|seen| **seen).count(), MANY as usize);
}

#[tokio::test]
#[allow(clippy::print_stderr, reason = "how much it needed is worth knowing")]
async fn a_backfill_and_a_replay_of_many_rows_stay_within_the_same_memory() {
    // Slower than either reads, or nothing would pile up.
    let (kafka, way) = Kafka::start_behind_proxy(&[]).await;
    way.limit_rate(BYTES_A_SECOND);
    let (kafka, brokers) = (&kafka, way.address());
    let outbox = Outbox::without_slot(Postgres::shared().await.database().await, &[]).await;
    let (kind, url) = (outbox.aggregate_type.clone(), outbox.database.url());
    let slot = outbox.database.name();
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("REPLICATION_SLOT", slot),
        ("KAFKA_BROKERS", brokers.as_str()),
        ("WORKER_MAX_IN_FLIGHT_BYTES", "1MiB"),
    ];
    let payload = format!("jsonb_build_object('n', n, 'ballast', repeat('x', {LARGE}))");
    outbox
        .database
        .exec(&format!(
            "insert into outbox (aggregatetype, aggregateid, type, payload)
                 select '{kind}', n % {AGGREGATES}, 'T', {payload} from generate_series(1, {MANY}) n"
        ))
        .await;
    // Other tests' transactions on the shared server are waited for.
    let backfill = peak_of(&["slot", "create", "--backfill", "--lock-timeout", "30s"], &env).await;
    assert_each_once(&outbox, kafka).await;

    kafka.delete_topic(&outbox.topic_name()).await;
    kafka.create_topic(&outbox.topic_name(), 3, &[]).await;
    outbox
        .database
        .exec(&format!(
            "insert into txstream_dead_letter (slot, table_name, row_id, commit_lsn, ordinal, topic, key, payload,
                                               header_names, header_values, event_type, reason, error)
                 select '{slot}', 'public.outbox', n::text, '0/1', n, '{}', convert_to((n % {AGGREGATES})::text, 'utf8'),
                        convert_to({payload}::text, 'utf8'), array['id'], array[convert_to(n::text, 'utf8')], 'T',
                        case when n <= {AGGREGATES} then 'too_large' else 'behind' end, 'e'
                   from generate_series(1, {MANY}) n",
            outbox.topic_name()
        ))
        .await;
    let replay = peak_of(&["dead-letter", "replay", "--all", "--yes"], &env).await;
    assert_each_once(&outbox, kafka).await;
    eprintln!("{MANY} rows: the backfill needed {backfill} KiB at most, the replay {replay} KiB");
    assert!(backfill < PEAK_KIB && replay < PEAK_KIB, "{backfill} and {replay} KiB");
}

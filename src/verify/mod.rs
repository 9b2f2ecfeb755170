//! What is in the topics, compared with the outbox tables by the `id` header.
//!
//! The tables are read through one snapshot. A row that the slot has confirmed must be in its topic, parked,
//! or older than what the topic still has; otherwise it is missing. Whatever was written after the snapshot
//! is nobody's. Topics are read by assignment up to where they end after the slot was looked at; no group is
//! joined and no offset committed. Topic, key and id of a row come from the relay's own mapping.
//!
//! Only looks. Memory is bounded: a table too large for it is compared in several passes.
//!
//! Invariant: nothing is called missing that may still be on its way, and no order wrong that commit
//! timestamps do not prove wrong.

mod book;
mod confirmed;
mod error;
mod gone;
mod parked;
mod partition;
mod passes;
mod report;
mod snapshot;
mod table;
mod topic;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

pub use error::VerifyError;
pub use report::{Counts, Named, OfTable, OfTopic, Report};

use self::book::{Book, NotFound};
use self::confirmed::confirmed;
use self::parked::parked;
use self::passes::{Divided, Pass, WHOLE, divide};
use self::report::{EXAMPLES, Example};
use self::snapshot::{Snapshot, moment};
use self::table::{Look, Table};
use self::topic::{Passed, Topic};
use crate::kafka::config::Group;
use crate::kafka::{self, Describer, Reader};
use crate::outbox;

/// Long enough for a broker far away, short enough for a person who waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct Verify<'a> {
    /// Slot name.
    pub slot: &'a str,
    /// The publication.
    pub publication: &'a str,
    /// The outbox tables and their records.
    pub outbox: &'a outbox::Settings,
    /// Where the records are.
    pub kafka: &'a kafka::Settings,
    /// Who reads them.
    pub group: &'a Group,
    /// Only rows since then.
    pub since: Option<&'a Since>,
    /// Until when the slot may confirm the rows.
    pub deadline: Instant,
    /// Rows in memory at once.
    pub rows_per_pass: u64,
}

/// From when on rows are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// So long ago.
    Ago(Duration),
    /// A moment as Postgres reads it; without a zone it is UTC.
    At(String),
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The pass, from 1.
    pub pass: usize,
    /// So many there are.
    pub passes: usize,
    /// The topic that is read.
    pub topic: &'a str,
    /// Records read of it since the last time.
    pub records: u64,
    /// Records it has; told first, with no records read.
    pub of: u64,
}

/// Who is told of progress.
pub type Tell = Arc<dyn Fn(Progress<'_>) + Send + Sync>;

/// Compares. `database` is where applications write, `replication` the server of the slot.
///
/// # Errors
/// [`VerifyError`].
pub async fn verify(
    database: &Client,
    replication: &Client,
    verify: &Verify<'_>,
    tell: &Tell,
) -> Result<Report, VerifyError> {
    let since = match verify.since {
        Some(since) => Some(moment(database, since).await?),
        None => None,
    };
    let snapshot = Snapshot::take(database).await?;
    let mut tables = Vec::new();
    for name in &verify.outbox.tables {
        let look = Look {
            client: database,
            outbox: verify.outbox,
            publication: verify.publication,
            since: since.as_ref(),
            commit_times: snapshot.commit_times,
        };
        tables.push(Table::look(&look, name).await?);
    }
    let stand = confirmed(replication, verify.slot, &snapshot, verify.deadline).await?;
    let passes = passes(&snapshot, &tables, verify.rows_per_pass).await?;
    // Brokers that are not there yet are waited for like the slot.
    let patience = PATIENCE.max(verify.deadline.saturating_duration_since(Instant::now()));
    let reader = Arc::new(Reader::new(verify.kafka, &reading(verify.group), patience)?);
    let mut comparison = Comparison {
        verify,
        describer: Describer::new(verify.kafka)?,
        reader,
        replication,
        names: tables.iter().map(|table| table.name.clone()).collect(),
        since: since.as_ref().map(|since| since.millis),
        counts: vec![Counts::default(); tables.len()],
        topics: BTreeMap::new(),
        missing: Vec::new(),
        disordered: Vec::new(),
    };
    for (at, pass) in passes.iter().enumerate() {
        let book = snapshot.rows(verify.outbox, &tables, pass, stand.confirmed).await?;
        comparison.pass(&snapshot, book, (at + 1, passes.len()), pass, tell).await?;
    }
    let mut reasons: Vec<String> = tables.iter().filter_map(|table| table.not_ordered.clone()).collect();
    if passes.iter().any(|pass| pass.divided == Divided::ById) {
        reasons.push(format!(
            "a key may have more than {} rows, which do not fit into one pass",
            verify.rows_per_pass
        ));
    }
    reasons.dedup();
    let mut report = comparison.report(reasons, passes.len());
    report.slot_name = verify.slot.to_owned();
    report.confirmed_flush_lsn = stand.confirmed_flush_lsn.map(|lsn| lsn.to_string());
    report.snapshot_lsn = snapshot.lsn.to_string();
    report.slot_ended = stand.ended;
    report.all_confirmed = stand.confirmed == confirmed::Confirmed::All;
    report.since = since.map(|since| since.text);
    Ok(report)
}

/// Offsets are given one by one; one that retention removes meanwhile means the oldest that is left,
/// whatever consumers without an offset do.
fn reading(group: &Group) -> Group {
    Group { auto_offset_reset: "earliest".to_owned(), ..group.clone() }
}

/// One pass if all rows fit, else several, divided by key if that is possible.
async fn passes(snapshot: &Snapshot<'_>, tables: &[Table], most: u64) -> Result<Vec<Pass>, VerifyError> {
    let by_key = snapshot.buckets(tables, Divided::ByKey).await?;
    if by_key.iter().sum::<u64>() <= most {
        return Ok(vec![WHOLE]);
    }
    if let Some(passes) = divide(Divided::ByKey, &by_key, most) {
        return Ok(passes);
    }
    let by_id = snapshot.buckets(tables, Divided::ById).await?;
    Ok(divide(Divided::ById, &by_id, most).unwrap_or_default())
}

/// A comparison on its way.
struct Comparison<'a> {
    verify: &'a Verify<'a>,
    describer: Describer,
    reader: Arc<Reader>,
    replication: &'a Client,
    /// The tables' names.
    names: Vec<String>,
    since: Option<i64>,
    counts: Vec<Counts>,
    topics: BTreeMap<Arc<str>, (Topic, Passed)>,
    missing: Vec<Example>,
    disordered: Vec<Example>,
}

impl Comparison<'_> {
    /// Reads the topics of a book, and counts.
    async fn pass(
        &mut self,
        snapshot: &Snapshot<'_>,
        mut book: Book,
        (pass, passes): (usize, usize),
        divided: &Pass,
        tell: &Tell,
    ) -> Result<(), VerifyError> {
        let judge = divided.divided == Divided::ByKey;
        for (at, name) in book.topics().into_iter().enumerate() {
            let mut topic = self.topic(&name).await?;
            let (reader, tell, of) = (Arc::clone(&self.reader), Arc::clone(tell), topic.offsets());
            let read = move || {
                let mut progress = |records| tell(Progress { pass, passes, topic: &name, records, of });
                progress(0);
                let passed = topic.read(&reader, &mut book, at, judge, &mut progress);
                passed.map(|passed| (topic, book, passed))
            };
            let (topic, read_on, passed) = blocking(read).await?;
            book = read_on;
            self.note(topic, passed);
        }
        let (counts, disordered, lost) = book.close(judge);
        self.counts.iter_mut().zip(counts).for_each(|(sum, more)| *sum += more);
        extend(&mut self.disordered, disordered);
        self.judge(snapshot, lost).await
    }

    /// The topic as it was when it was first looked at.
    async fn topic(&mut self, name: &Arc<str>) -> Result<Topic, VerifyError> {
        if let Some((topic, _)) = self.topics.get(name) {
            return Ok(topic.clone());
        }
        let (reader, asked, since) = (Arc::clone(&self.reader), Arc::clone(name), self.since);
        let mut topic = blocking(move || Topic::look(&reader, &asked, since)).await?;
        let policy = self.describer.topic(name).await.cleanup_policy;
        topic.compacted = policy.is_some_and(|policy| policy.contains("compact"));
        Ok(topic)
    }

    /// Adds what a pass saw of a topic. Each pass sees the same records, and other rows claim them.
    fn note(&mut self, topic: Topic, passed: Passed) {
        let name = Arc::clone(&topic.name);
        let known = self.topics.entry(name).or_insert_with(|| (topic.clone(), Passed::default()));
        known.0 = topic;
        known.1.records = known.1.records.max(passed.records);
        known.1.claimed += passed.claimed;
    }

    /// Says of each row that was not found what became of it.
    async fn judge(&mut self, snapshot: &Snapshot<'_>, lost: Vec<NotFound>) -> Result<(), VerifyError> {
        let slot = self.verify.slot;
        // Parked at the time of the snapshot, or since: it may have been replayed in between.
        let then = parked(snapshot.client, slot, &self.names, &lost).await?;
        let now = parked(self.replication, slot, &self.names, &lost).await?;
        let (in_letters, hidden): (HashSet<usize>, _) = match (then, now) {
            (Ok(then), Ok(now)) => (then.into_iter().chain(now).collect(), None),
            // Parked since, or replayed since the topic was read, a row would be seen nowhere.
            (Ok(seen), Err(hidden)) | (Err(hidden), Ok(seen)) => (seen, Some(hidden)),
            (Err(hidden), Err(_)) => (HashSet::new(), Some(hidden)),
        };
        // Without a look at them none is known to be missing.
        let lost_for_good =
            |(at, row): (usize, &NotFound)| row.confirmed && !row.expired && !in_letters.contains(&at);
        if let Some(hidden) = hidden
            && lost.iter().enumerate().any(lost_for_good)
        {
            return Err(hidden);
        }
        for (at, row) in lost.into_iter().enumerate() {
            let Some(counts) = self.counts.get_mut(row.table) else { continue };
            if in_letters.contains(&at) {
                counts.parked += 1;
            } else if !row.confirmed {
                counts.not_confirmed += 1;
            } else if row.expired {
                counts.expired += 1;
            } else {
                counts.missing += 1;
                let example = Example { table: row.table, id: row.id, topic: row.topic };
                extend(&mut self.missing, [example]);
            }
        }
        Ok(())
    }

    fn report(self, order_not_judged_reasons: Vec<String>, passes: usize) -> Report {
        let mut sum = Counts::default();
        self.counts.iter().for_each(|counts| sum += *counts);
        let named = |examples: Vec<Example>| {
            examples.into_iter().map(|example| example.named(&self.names)).collect::<Vec<_>>()
        };
        let topics = self.topics.values().map(|(topic, passed)| OfTopic {
            topic: topic.name.to_string(),
            exists: topic.exists,
            records: passed.records,
            records_without_row: passed.records.saturating_sub(passed.claimed),
        });
        let tables = self.names.iter().zip(&self.counts);
        Report {
            slot_name: String::new(),
            confirmed_flush_lsn: None,
            slot_ended: None,
            snapshot_lsn: String::new(),
            all_confirmed: false,
            since: None,
            passes,
            counts: sum,
            order_not_judged_reasons,
            tables: tables.map(|(table, counts)| OfTable { table: table.clone(), counts: *counts }).collect(),
            topics: topics.collect(),
            missing_rows: named(self.missing),
            out_of_order_rows: named(self.disordered),
        }
    }
}

/// Names no more than so many.
fn extend(examples: &mut Vec<Example>, more: impl IntoIterator<Item = Example>) {
    let room = EXAMPLES.saturating_sub(examples.len());
    examples.extend(more.into_iter().take(room));
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VerifyError> + Send + 'static,
) -> Result<T, VerifyError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(VerifyError::Broken(error.to_string())))
}

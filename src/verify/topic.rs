//! A topic passed by once, for the rows of a book. Blocks.

use std::sync::Arc;

use super::VerifyError;
use super::book::{self, Book};
use super::gone::Start;
use crate::kafka::Reader;
use crate::kafka::reader::TopicAnswer;
use crate::kafka::reading::Span;

/// Records may be this much older than their rows say, by the clocks of Postgres and of the relay.
const CLOCKS_MILLIS: i64 = 600_000;

/// How often progress is told.
const PROGRESS_RECORDS: u64 = 1_000;

/// What a topic holds, as far as it is read.
#[derive(Debug, Clone)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    pub(super) exists: bool,
    /// Records may be removed when a later one of their key comes.
    pub(super) compacted: bool,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    /// The first offset that there is.
    low: i64,
    span: Span,
}

/// How many records were passed by.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passed {
    pub(super) records: u64,
    /// Those that a row of the book claims.
    pub(super) claimed: u64,
}

impl Topic {
    /// Where each partition begins and ends now. With a moment, reading starts a little before it.
    pub(super) fn look(reader: &Reader, name: &Arc<str>, since: Option<i64>) -> Result<Self, VerifyError> {
        let mut topic = Self { name: Arc::clone(name), exists: false, compacted: false, parts: Vec::new() };
        let partitions = match reader.topic(name)? {
            TopicAnswer::Found(partitions) => partitions,
            TopicAnswer::Missing => return Ok(topic),
            TopicAnswer::NotAllowed => {
                return Err(reader.refused(name, &"these credentials may not see it").into());
            }
        };
        topic.exists = true;
        let mut ids: Vec<i32> = partitions.iter().map(|partition| partition.id).collect();
        ids.sort_unstable();
        for partition in ids {
            let (low, to) = reader.offsets(name, partition)?;
            let from = match since {
                Some(since) => reader.offset_at(name, partition, since - CLOCKS_MILLIS)?.unwrap_or(to),
                None => low,
            };
            topic.parts.push(Part { low, span: Span { partition, from: from.clamp(low, to.max(low)), to } });
        }
        Ok(topic)
    }

    /// Offsets to read.
    pub(super) fn offsets(&self) -> u64 {
        self.parts.iter().map(|part| (part.span.to - part.span.from).max(0).cast_unsigned()).sum()
    }

    /// Passes its records by. If rows are not among those since the moment, the older ones too: a row's
    /// time is what its writer says, and nothing is called missing before everything was read.
    pub(super) fn read(
        &mut self,
        reader: &Reader,
        book: &mut Book,
        at: usize,
        judge: bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Passed, VerifyError> {
        if self.compacted {
            book.compacted(at);
        }
        let firsts = vec![None; self.parts.len()];
        let mut passing = Passing { reader, book, at, firsts, passed: Passed::default(), progress };
        let spans: Vec<Span> = self.parts.iter().map(|part| part.span).collect();
        passing.pass(&self.name, &spans, judge)?;
        if self.parts.iter().any(Part::is_cut) && passing.book.lacks(at) {
            let older = |part: &Part| Span { from: part.low, to: part.span.from, ..part.span };
            let spans: Vec<Span> = self.parts.iter().map(older).collect();
            passing.pass(&self.name, &spans, false)?;
            self.parts.iter_mut().for_each(|part| part.span.from = part.low);
        }
        let Passing { firsts, passed, book, .. } = passing;
        let starts = self.parts.iter().zip(&firsts).map(|(part, first)| part.start(*first, self.compacted));
        book.begins(at, starts.collect());
        Ok(passed)
    }
}

/// Records on their way past a book.
struct Passing<'a> {
    reader: &'a Reader,
    book: &'a mut Book,
    at: usize,
    /// Offset and time of the first record of each partition.
    firsts: Vec<Option<First>>,
    passed: Passed,
    progress: &'a mut dyn FnMut(u64),
}

type First = (i64, Option<i64>);

impl Passing<'_> {
    fn pass(&mut self, topic: &str, spans: &[Span], judge: bool) -> Result<(), VerifyError> {
        let Self { reader, book, at, firsts, passed, progress } = self;
        reader.read(topic, spans, |record| {
            let place = spans.iter().position(|span| span.partition == record.partition);
            if let Some(first) = place.and_then(|place| firsts.get_mut(place)) {
                let this = (record.offset, record.timestamp_millis);
                *first = Some(first.map_or(this, |first: First| if this.0 < first.0 { this } else { first }));
            }
            passed.records += 1;
            let passing = book::Passing {
                id: record.id,
                key: record.key.unwrap_or_default(),
                published: record.timestamp_millis,
            };
            passed.claimed += u64::from(book.see(*at, passing, judge));
            if passed.records % PROGRESS_RECORDS == 0 {
                progress(PROGRESS_RECORDS);
            }
        })?;
        Ok(())
    }
}

impl Part {
    /// Older records are left out.
    fn is_cut(&self) -> bool {
        self.low < self.span.from
    }

    /// `first`: the first record that was read, its offset and time. Compaction leaves holes, but where the
    /// partition begins is still the beginning.
    fn start(&self, first: Option<First>, compacted: bool) -> Start {
        match first {
            _ if self.is_cut() || compacted && self.low == 0 => Start::Whole,
            Some((0, _)) => Start::Whole,
            Some((_, time)) => Start::From(time),
            None if self.span.to > 0 => Start::Empty,
            None => Start::Whole,
        }
    }
}

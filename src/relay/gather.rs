//! When records that were read are handed to the producer: at once when it is quiet, in bursts when
//! it is busy.
//!
//! librdkafka sends whatever is queued when its broker thread wakes. Handing over record by record
//! under load makes thousands of tiny requests; a fixed linger makes a lone event late. So the recent
//! rate decides. An empty socket is no sign of quiet: the relay is faster than the walsender and runs
//! dry all the time in a drain.

use std::time::Duration;

use tokio::time::Instant;

/// The window in which records are counted, and the time that a burst gathers. With 10 ms the broker
/// sees at most some hundred requests a second; a lone event never waits for it.
const WINDOW: Duration = Duration::from_millis(10);

/// More records than this in a window is busy: above it requests of one record each cost the broker
/// more than the wait costs the reader (10,000 a second).
const BUSY_RECORDS: usize = 100;

/// Up to this many records in a window one window is gathered, above it longer in proportion, up to
/// [`MOST_WINDOWS`]. Each partition's part of a burst is a request of its own: twice the burst is half the
/// requests, and whoever sends 100,000 a second has a backlog to drain, where no single record is in a
/// hurry. At four windows the broker needed half the CPU of one window for a drain.
const RECORDS_PER_WINDOW: usize = 500;

/// The longest time a burst gathers, in windows.
const MOST_WINDOWS: u32 = 4;

/// A burst this large is worth a request by itself. Twice and four times as many made drains no faster and cost
/// memory: 36 instead of 30 MB.
pub(super) const BURST_RECORDS: usize = 4_096;

/// A pause that long is the end of a flood; shorter ones are hiccups of one that goes on.
const FLOOD_LASTS: Duration = Duration::from_millis(100);

/// The recent rate and the burst that gathers.
#[derive(Debug)]
pub(super) struct Gather {
    window_ends: Option<Instant>,
    in_window: usize,
    busy: bool,
    windows: u32,
    burst: Option<Burst>,
}

/// The burst that gathers: when its first record was read, and its last one.
#[derive(Debug, Clone, Copy)]
struct Burst {
    first: Instant,
    last: Instant,
}

impl Gather {
    /// Quiet.
    pub(super) fn new() -> Self {
        Self { window_ends: None, in_window: 0, busy: false, windows: 1, burst: None }
    }

    /// `records` were read.
    pub(super) fn took(&mut self, records: usize, now: Instant) {
        match self.window_ends {
            Some(ends) if now < ends => self.in_window += records,
            ended => {
                // A window without a successor in time says nothing of now: quiet.
                let recent = ended.is_some_and(|ends| now < ends + WINDOW);
                self.busy = recent && self.in_window > BUSY_RECORDS;
                let windows = if recent { self.in_window / RECORDS_PER_WINDOW } else { 1 };
                self.windows = u32::try_from(windows).unwrap_or(MOST_WINDOWS).clamp(1, MOST_WINDOWS);
                self.in_window = records;
                self.window_ends = Some(now + WINDOW);
            }
        }
        self.busy |= self.in_window > BUSY_RECORDS;
        self.burst.get_or_insert(Burst { first: now, last: now }).last = now;
    }

    /// Whether the stream is busy: waiting costs nobody anything that shows.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Whether the stream is busy, or was so until a tenth of a second ago.
    pub(super) fn is_flooded(&self, now: Instant) -> bool {
        self.busy && self.window_ends.is_some_and(|ends| now < ends + FLOOD_LASTS)
    }

    /// Whether `queued` records are to be handed over now; `full` says that nothing more can be read
    /// until some are.
    pub(super) fn is_due(&self, queued: usize, full: bool, now: Instant) -> bool {
        queued > 0 && (full || queued >= BURST_RECORDS || self.due_at().is_none_or(|due| now >= due))
    }

    /// When the burst that gathers is due at the latest: after its windows, or after one in which nothing came.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let Burst { first, last } = self.burst?;
        Some(if self.busy { (first + WINDOW * self.windows).min(last + WINDOW) } else { first })
    }

    /// What was queued has been handed over.
    pub(super) fn handed_over(&mut self) {
        self.burst = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_record_goes_at_once() {
        let mut gather = Gather::new();
        let now = Instant::now();
        gather.took(1, now);
        assert!(gather.is_due(1, false, now));
        assert!(!gather.is_due(0, false, now), "nothing queued, nothing due");
    }

    #[test]
    fn a_busy_stream_gathers_for_one_window() {
        let mut gather = Gather::new();
        let now = Instant::now();
        gather.took(BUSY_RECORDS + 1, now);
        assert!(!gather.is_due(BUSY_RECORDS + 1, false, now));
        assert_eq!(gather.due_at(), Some(now + WINDOW));
        assert!(gather.is_due(BUSY_RECORDS + 1, false, now + WINDOW));
    }

    #[test]
    fn a_backlog_gathers_longer_and_not_without_end() {
        for (records, windows) in [(500, 1), (1_000, 2), (1_600, 3), (8_000, 4)] {
            let mut gather = Gather::new();
            let begin = Instant::now();
            gather.took(records, begin);
            gather.handed_over();
            let now = begin + WINDOW;
            // It goes on at that rate.
            for millisecond in 0..windows * 10 {
                let later = now + Duration::from_millis(millisecond.into());
                gather.took(records / 10, later);
                assert!(!gather.is_due(1, false, later), "{records} a window, {millisecond} ms");
            }
            assert_eq!(gather.due_at(), Some(now + WINDOW * windows), "{records} a window");
            assert!(gather.is_due(1, false, now + WINDOW * windows));
        }
    }

    #[test]
    fn a_backlog_that_ends_does_not_gather_on() {
        let mut gather = Gather::new();
        let begin = Instant::now();
        gather.took(8_000, begin);
        gather.handed_over();
        let last = begin + WINDOW;
        gather.took(8, last);
        assert!(!gather.is_due(8, false, last + WINDOW - Duration::from_millis(1)));
        assert_eq!(gather.due_at(), Some(last + WINDOW), "a window in which nothing came");
        assert!(gather.is_due(8, false, last + WINDOW));
    }

    #[test]
    fn a_large_burst_or_a_full_budget_does_not_wait() {
        let mut gather = Gather::new();
        let now = Instant::now();
        gather.took(BURST_RECORDS, now);
        assert!(gather.is_due(BURST_RECORDS, false, now));
        assert!(gather.is_due(200, true, now));
    }

    #[test]
    fn a_pause_makes_it_quiet_again() {
        let mut gather = Gather::new();
        let now = Instant::now();
        gather.took(5_000, now);
        gather.handed_over();
        let later = now + WINDOW * 3;
        gather.took(1, later);
        assert!(gather.is_due(1, false, later));
    }

    #[test]
    fn a_flood_outlasts_a_hiccup_and_a_lone_record_is_none() {
        let mut gather = Gather::new();
        let now = Instant::now();
        gather.took(1, now);
        assert!(!gather.is_flooded(now));
        gather.took(5_000, now);
        gather.handed_over();
        assert!(gather.is_flooded(now + FLOOD_LASTS));
        assert!(!gather.is_flooded(now + WINDOW + FLOOD_LASTS));
    }

    #[test]
    fn a_steady_stream_stays_busy_from_window_to_window() {
        let mut gather = Gather::new();
        let now = Instant::now();
        gather.took(5_000, now);
        gather.handed_over();
        let next = now + WINDOW + Duration::from_millis(1);
        gather.took(1, next);
        assert!(!gather.is_due(1, false, next), "the last window was busy");
    }
}

//! When the server is told how far WAL is confirmed.
//!
//! A status that only reports progress costs both sides a little and hurries nobody: it waits for the throttle. What
//! the server asks for is due at once, and the end of what there was to do almost so. Whatever happens, a status goes out
//! often enough that neither side takes the other for dead.

use std::time::Duration;

use tokio::time::Instant;

/// Statuses that only report progress are at least this far apart.
const THROTTLE: Duration = Duration::from_millis(100);

/// How long one waits that says that all is confirmed and nothing more came: whoever drains a backlog, or watches its
/// end, need not wait for the throttle.
const IDLE: Duration = Duration::from_millis(10);

/// The clock of one stream.
#[derive(Debug)]
pub(super) struct StatusClock {
    /// When the server was told last.
    told: Instant,
    /// It is told at least this often.
    every: Duration,
    /// It has asked.
    asked: bool,
    /// Since when every record is resolved.
    idle_since: Option<Instant>,
}

impl StatusClock {
    /// The clock of a stream that begins.
    pub(super) fn new(every: Duration, now: Instant) -> Self {
        Self { told: now, every, asked: false, idle_since: None }
    }

    /// The server asks for one.
    pub(super) fn asked(&mut self) {
        self.asked = true;
    }

    /// Whether every record is resolved now.
    pub(super) fn idle(&mut self, idle: bool, now: Instant) {
        self.idle_since = idle.then(|| self.idle_since.unwrap_or(now));
    }

    /// When the next status is due, with or without progress to report.
    pub(super) fn due(&self, progress: bool) -> Instant {
        if self.asked {
            self.told
        } else if progress {
            let throttled = self.told + THROTTLE.min(self.every);
            // Since the last status: what keepalives confirm in an idle stream is in no hurry.
            let since = self.idle_since.filter(|since| *since > self.told);
            since.map_or(throttled, |since| throttled.min(since + IDLE))
        } else {
            self.told + self.every
        }
    }

    /// The server has been told.
    pub(super) fn told(&mut self, now: Instant) {
        self.told = now;
        self.asked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn without_progress_the_server_is_told_every_now_and_then() {
        let start = Instant::now();
        let mut clock = StatusClock::new(EVERY, start);
        assert_eq!(clock.due(false), start + EVERY);
        clock.told(start + ms(3));
        assert_eq!(clock.due(false), start + ms(3) + EVERY);
    }

    #[test]
    fn progress_waits_for_the_throttle_but_never_longer_than_silence_may_last() {
        let start = Instant::now();
        assert_eq!(StatusClock::new(EVERY, start).due(true), start + THROTTLE);
        assert_eq!(StatusClock::new(ms(7), start).due(true), start + ms(7));
    }

    #[test]
    fn an_answer_is_due_at_once_and_only_once() {
        let start = Instant::now();
        let mut clock = StatusClock::new(EVERY, start);
        clock.asked();
        assert_eq!(clock.due(false), start);
        clock.told(start + ms(1));
        assert_eq!(clock.due(false), start + ms(1) + EVERY);
    }

    #[test]
    fn the_end_of_what_there_was_to_do_does_not_wait_for_the_throttle() {
        let start = Instant::now();
        let mut clock = StatusClock::new(EVERY, start);
        clock.idle(true, start + ms(20));
        clock.idle(true, start + ms(25));
        assert_eq!(clock.due(true), start + ms(20) + IDLE, "from the moment on that nothing was left");
        assert_eq!(clock.due(false), start + EVERY, "there is nothing to say");
        clock.idle(false, start + ms(26));
        assert_eq!(clock.due(true), start + THROTTLE, "more came");
        clock.idle(true, start + ms(95));
        assert_eq!(clock.due(true), start + THROTTLE, "the throttle is over before");
    }

    #[test]
    fn what_a_stream_without_records_confirms_is_in_no_hurry() {
        let start = Instant::now();
        let mut clock = StatusClock::new(EVERY, start);
        clock.idle(true, start + ms(1));
        let told = start + ms(11);
        clock.told(told);
        clock.idle(true, told + ms(1));
        assert_eq!(clock.due(true), told + THROTTLE);
    }
}

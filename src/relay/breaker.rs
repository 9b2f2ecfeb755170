//! The circuit breaker around dispatch: while Kafka does not answer, nothing more is handed to the
//! producer. It pauses; it fails nothing, uses up no attempt and rejects no record.

use tokio::time::Instant;

use super::settings;

/// The breaker's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Records flow.
    Closed,
    /// Nothing is handed to the producer.
    Open,
    /// A few records show whether Kafka is back.
    HalfOpen,
}

impl State {
    /// The name people know.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::Open => "OPEN",
            Self::HalfOpen => "HALF_OPEN",
        }
    }
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transition {
    /// From.
    pub(super) from: State,
    /// To.
    pub(super) to: State,
}

/// Counts failures in a row and decides what may be handed to the producer.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: settings::Breaker,
    state: State,
    forced: bool,
    failures: u32,
    /// Acknowledgements since it half-opened.
    successes: u32,
    /// Records handed over since then, less those that were reported.
    probes: u32,
    opened_at: Option<Instant>,
    /// The clock of old records restarts here.
    clock_from: Option<Instant>,
    /// The oldest record that was judged, and the next age that counts as a failure.
    judged: Option<(Instant, Instant)>,
    transitions: Vec<Transition>,
}

impl Breaker {
    /// Closed.
    pub(super) fn new(settings: settings::Breaker) -> Self {
        Self {
            settings,
            state: State::Closed,
            forced: false,
            failures: 0,
            successes: 0,
            probes: 0,
            opened_at: None,
            clock_from: None,
            judged: None,
            transitions: Vec::new(),
        }
    }

    /// The state.
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Opened by hand.
    pub(super) fn is_forced(&self) -> bool {
        self.forced
    }

    /// Failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// How many records may be handed over, with `outstanding` at the producer already.
    ///
    /// What was outstanding when it half-opened is a probe too, but not the only one: a record of a partition
    /// that is away for long would keep it from ever seeing that Kafka takes those of others.
    pub(super) fn allowance(&self, outstanding: usize) -> usize {
        match self.state {
            State::Closed => usize::MAX,
            State::Open => 0,
            State::HalfOpen => {
                // Those of a session that has ended will never be reported.
                let unreported = outstanding.min(self.probes as usize);
                (self.settings.success_threshold as usize).saturating_sub(unreported)
            }
        }
    }

    /// A record was handed over.
    pub(super) fn handed_over(&mut self) {
        if self.state == State::HalfOpen {
            self.probes = self.probes.saturating_add(1);
        }
    }

    /// A record was reported, whatever became of it.
    pub(super) fn reported(&mut self) {
        self.probes = self.probes.saturating_sub(1);
    }

    /// A transport error, or all brokers down while something was unacknowledged.
    pub(super) fn failure(&mut self, now: Instant) {
        if !self.settings.enabled || self.forced {
            return;
        }
        match self.state {
            State::Closed => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= self.settings.failure_threshold {
                    self.open(now);
                }
            }
            State::HalfOpen => self.open(now),
            State::Open => {}
        }
    }

    /// An acknowledgement.
    pub(super) fn success(&mut self, now: Instant) {
        self.failures = 0;
        if self.forced {
            return;
        }
        if self.state == State::Open {
            self.half_open(now);
        }
        if self.state == State::HalfOpen {
            self.successes += 1;
            if self.successes >= self.settings.success_threshold {
                self.close();
            }
        }
    }

    /// Kafka answered something else than a record: worth a probe, but no acknowledgement.
    pub(super) fn answered(&mut self, now: Instant) {
        if self.state == State::Open && !self.forced {
            self.half_open(now);
        }
    }

    /// Time passed; `oldest_sent` is when the oldest record at the producer was handed over.
    pub(super) fn tick(&mut self, oldest_sent: Option<Instant>, now: Instant) {
        if self.state == State::Open && !self.forced && self.reset_at().is_some_and(|at| now >= at) {
            self.half_open(now);
        }
        let Some(oldest) = oldest_sent else {
            self.judged = None;
            return;
        };
        let (_, mut due) = self.judged.filter(|(judged, _)| *judged == oldest).unwrap_or_else(|| {
            let from = self.clock_from.map_or(oldest, |restarted| restarted.max(oldest));
            (oldest, from + self.settings.timeout_duration)
        });
        if now >= due {
            // Again after each further one; a late tick counts once, it saw one.
            due = now + self.settings.timeout_duration;
            self.judged = Some((oldest, due));
            self.failure(now);
        } else {
            self.judged = Some((oldest, due));
        }
    }

    /// The next moment at which [`Breaker::tick`] would do something.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        let reset = self.reset_at().filter(|_| self.state == State::Open && !self.forced);
        let due = self.judged.map(|(_, due)| due).filter(|_| self.settings.enabled);
        [reset, due].into_iter().flatten().min()
    }

    fn reset_at(&self) -> Option<Instant> {
        self.opened_at.map(|at| at + self.settings.reset_timeout)
    }

    /// Opens by hand; stays open until [`Breaker::force_close`].
    pub(super) fn force_open(&mut self, now: Instant) {
        self.forced = true;
        if self.state != State::Open {
            self.open(now);
        }
    }

    /// Closes by hand.
    pub(super) fn force_close(&mut self) {
        self.forced = false;
        if self.state != State::Closed {
            self.close();
        }
    }

    /// Changes of state since the last call.
    pub(super) fn take_transitions(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.transitions)
    }

    fn open(&mut self, now: Instant) {
        self.opened_at = Some(now);
        self.change(State::Open);
    }

    fn half_open(&mut self, now: Instant) {
        (self.successes, self.probes) = (0, 0);
        self.clock_from = Some(now);
        self.judged = None;
        self.change(State::HalfOpen);
    }

    fn close(&mut self) {
        self.failures = 0;
        self.opened_at = None;
        self.change(State::Closed);
    }

    fn change(&mut self, to: State) {
        self.transitions.push(Transition { from: self.state, to });
        self.state = to;
    }
}

#[cfg(test)]
mod tests;

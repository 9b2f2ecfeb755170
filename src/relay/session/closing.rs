//! How a session comes to its end: why no more is read, and when the drain is over at the latest.

use std::time::Duration;

use tokio::time::Instant;

use super::{DRAIN_WITH_BREAKER_OPEN, End, Session};
use crate::relay::breaker::State;
use crate::relay::halt::Halt;
use crate::relay::silence::silent;

/// Why no more is read, and when the drain is over at the latest.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) why: Why,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
}

/// Why a session comes to its end.
#[derive(Debug)]
pub(super) enum Why {
    Stop,
    Halt(Halt),
    NeedsText(String),
    ServerStopping,
    Exhausted,
}

impl Closing {
    /// Whether another reason counts more: a table that was read to its end waits for Kafka, however long.
    pub(super) fn may_be_cut_short(&self) -> bool {
        matches!(self.why, Why::Exhausted)
    }
}

impl Session<'_> {
    /// Stops reading, but for what `why` reads on to; the drain has `grace`. The first reason counts.
    pub(super) fn close(&mut self, why: Why, grace: Duration) {
        if self.closing.as_ref().is_none_or(Closing::may_be_cut_short) {
            let since = Instant::now();
            if !matches!(why, Why::Exhausted) {
                self.relay.board.state("stopping", None);
            }
            self.closing = Some(Closing { why, since, deadline: since + grace });
        }
    }

    /// The end, if it has come.
    pub(super) fn look_for_an_end(&mut self, now: Instant) -> Result<(), End> {
        if let Some(message) = self.core.fatal() {
            return Err(End::Producer(message.to_owned()));
        }
        if self.silent_at().is_some_and(|at| now >= at) {
            return Err(End::Lost(silent()));
        }
        if let Some(halt) = self.intake.halt().or(self.core.refused()).cloned() {
            self.close(Why::Halt(halt), self.relay.settings.shutdown_timeout);
        } else if let Some(why) = self.intake.needs_text().map(str::to_owned) {
            self.close(Why::NeedsText(why), self.relay.settings.shutdown_timeout);
        }
        let Some(closing) = &self.closing else { return Ok(()) };
        let ledger = self.core.ledger();
        let unresolved = ledger.unresolved();
        // A row that stops intake inside the transaction that a stop reads on to ends the stop too.
        let stuck = self.intake.halt().is_some() || self.intake.needs_text().is_some();
        let read = stuck || !matches!(closing.why, Why::Stop) || !ledger.in_transaction();
        let refused = self.core.refused().is_some() && self.core.outstanding() == 0;
        let open = self.core.breaker().0 == State::Open;
        let late = now >= closing.deadline
            || (open && now >= closing.since + DRAIN_WITH_BREAKER_OPEN && !closing.may_be_cut_short());
        if !(late || refused || (read && unresolved == 0)) {
            return Ok(());
        }
        Err(match self.closing.take().map(|closing| closing.why) {
            Some(Why::Halt(halt)) => End::Halted(halt),
            Some(Why::NeedsText(why)) => End::NeedsText(why),
            Some(Why::ServerStopping) => End::ServerStopping,
            Some(Why::Exhausted) => End::Exhausted,
            Some(Why::Stop) | None => match self.intake.halt() {
                Some(halt) => End::Halted(halt.clone()),
                None => End::Stopped,
            },
        })
    }
}

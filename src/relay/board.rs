//! What the relay says of itself: written by its loop, read by the admin server's thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::admin::status::rfc3339;
use crate::admin::{BreakerOrder, StatusReport, Subject};

/// Without a turn of the loop for this long the process is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// Topics that a probe's answer names; `/status` has them all.
const MOST_NAMED: usize = 20;

/// The board.
pub struct Board {
    started: Instant,
    last_turn_millis: AtomicU64,
    page: Mutex<Page>,
    orders: mpsc::Sender<BreakerOrder>,
}

struct Page {
    report: StatusReport,
    /// Why the relay is not ready although it streams.
    reasons: Vec<String>,
}

impl Board {
    /// A board, and the orders that come in through it.
    pub fn new(slot: &str, publication: &str) -> (Arc<Self>, mpsc::Receiver<BreakerOrder>) {
        let (orders, receiver) = mpsc::channel(8);
        let report = StatusReport {
            state: "starting".to_owned(),
            since: rfc3339(SystemTime::now()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            slot: slot.to_owned(),
            publication: publication.to_owned(),
            ..StatusReport::default()
        };
        let board = Self {
            started: Instant::now(),
            last_turn_millis: AtomicU64::new(0),
            page: Mutex::new(Page { report, reasons: Vec::new() }),
            orders,
        };
        (Arc::new(board), receiver)
    }

    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The loop made a turn.
    pub(super) fn turn(&self) {
        self.last_turn_millis.store(self.millis(), Ordering::Relaxed);
    }

    /// The relay is in another state; one line in the log says so.
    pub(super) fn state(&self, state: &str, detail: Option<String>) {
        self.turn();
        let mut page = self.page();
        if page.report.state != state {
            page.report.since = rfc3339(SystemTime::now());
            tracing::info!(from = %page.report.state, to = state, detail = detail.as_deref(), "state changed");
        }
        state.clone_into(&mut page.report.state);
        page.report.detail = detail;
        page.reasons.clear();
    }

    /// Rewrites the report; `reasons` say why the relay is not ready although it streams.
    pub(super) fn update(&self, change: impl FnOnce(&mut StatusReport), reasons: Vec<String>) {
        let mut page = self.page();
        change(&mut page.report);
        page.reasons = reasons;
    }

    /// Changes the report only.
    pub(super) fn note(&self, change: impl FnOnce(&mut StatusReport)) {
        change(&mut self.page().report);
    }
}

impl Subject for Board {
    fn live(&self) -> Result<(), String> {
        let silent = self.millis().saturating_sub(self.last_turn_millis.load(Ordering::Relaxed));
        if Duration::from_millis(silent) > STUCK_AFTER {
            return Err(format!("the relay's loop made no turn for {} s", silent / 1_000));
        }
        Ok(())
    }

    fn ready(&self) -> Result<String, Vec<String>> {
        let page = self.page();
        let state = &page.report.state;
        match state.as_str() {
            "streaming" if page.reasons.is_empty() => {
                let waiting = &page.report.waiting_topics;
                let named = waiting.iter().take(MOST_NAMED);
                let named = named.map(|topic| format!("; topic {} waits", topic.topic));
                let others = waiting.len().saturating_sub(MOST_NAMED);
                let others = (others > 0).then(|| format!("; {others} more topics wait"));
                let refused = page.report.kafka_refusal.iter().map(|refusal| format!("; {}", refusal.reason));
                Ok(named.chain(others).chain(refused).fold(state.clone(), |text, what| text + &what))
            }
            "streaming" => {
                let refused = page.report.kafka_refusal.iter().map(|refusal| refusal.reason.clone());
                Err(page.reasons.iter().cloned().chain(refused).collect())
            }
            "standby" => Ok(state.clone()),
            _ => {
                let detail =
                    page.report.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
                Err(vec![format!("{state}{detail}")])
            }
        }
    }

    fn status(&self) -> serde_json::Value {
        let mut report = self.page().report.clone();
        report.uptime_seconds = self.started.elapsed().as_secs();
        serde_json::to_value(report).unwrap_or_default()
    }

    fn refresh(&self) {
        // The loop keeps the gauges up to date with every report.
    }

    fn breaker(&self, order: BreakerOrder) -> Result<(), String> {
        // Only a session carries orders out. The page stays locked, so that none is queued after its end.
        let page = self.page();
        let state = &page.report.state;
        if state != "streaming" {
            return Err(format!(
                "the relay is {state}, and nothing was done; try again when it is streaming"
            ));
        }
        self.orders.try_send(order).map_err(|_| "the relay is busy; try again".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::WaitingTopic;

    #[tokio::test(start_paused = true)]
    async fn a_loop_without_a_turn_is_not_live() {
        let (board, _orders) = Board::new("s", "p");
        board.turn();
        assert_eq!(board.live(), Ok(()));
        tokio::time::advance(STUCK_AFTER + Duration::from_secs(1)).await;
        assert!(board.live().unwrap_err().contains("31 s"));
    }

    #[tokio::test]
    async fn ready_names_topics_that_wait_but_not_thousands_of_them() {
        let (board, _orders) = Board::new("s", "p");
        board.state("streaming", None);
        let waiting = |n: usize| WaitingTopic { topic: format!("t{n}"), ..WaitingTopic::default() };
        board.note(|report| report.waiting_topics = (0..2).map(waiting).collect());
        assert_eq!(board.ready(), Ok("streaming; topic t0 waits; topic t1 waits".to_owned()));
        board.note(|report| report.waiting_topics = (0..10_000).map(waiting).collect());
        let text = board.ready().unwrap();
        assert!(text.contains("; topic t19 waits; 9980 more topics wait") && text.len() < 1_000, "{text}");
    }

    #[tokio::test]
    async fn only_a_relay_that_streams_takes_an_order() {
        let (board, mut orders) = Board::new("s", "p");
        for state in ["starting", "connecting", "waiting", "standby", "stopping"] {
            board.state(state, None);
            let refused = board.breaker(BreakerOrder::Open).unwrap_err();
            assert!(
                refused.contains(state) && refused.contains("try again when it is streaming"),
                "{refused}"
            );
            assert!(orders.try_recv().is_err(), "an order was queued while {state}");
        }
        board.state("streaming", None);
        assert_eq!(board.breaker(BreakerOrder::Open), Ok(()));
        assert_eq!(orders.try_recv(), Ok(BreakerOrder::Open));
    }

    #[tokio::test]
    async fn ready_means_streaming_without_a_reason_or_standing_by() {
        let (board, _orders) = Board::new("s", "p");
        assert!(board.ready().is_err());
        board.state("streaming", None);
        assert_eq!(board.ready(), Ok("streaming".to_owned()));
        board.update(|_| {}, vec!["the breaker is open".to_owned()]);
        assert_eq!(board.ready(), Err(vec!["the breaker is open".to_owned()]));
        board.state("standby", Some("held by pid 7".to_owned()));
        assert_eq!(board.ready(), Ok("standby".to_owned()));
        board.state("connecting", Some("refused".to_owned()));
        assert_eq!(board.ready(), Err(vec!["connecting: refused".to_owned()]));
    }
}

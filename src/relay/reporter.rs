//! Brings gauges, status report and readiness up to date while streaming, and says in the log what
//! changed.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Relay;
use super::breaker::State;
use super::core::Core;
use super::credentials::Refusal;
use super::refusal::KAFKA_REFUSES_US;
use super::summary::Summary;
use crate::admin::status::{BreakerStatus, InFlight, KafkaRefusal, LaneStatus, Rates, WaitingTopic, rfc3339};
use crate::kafka::error::AUTHENTICATION_REMEDY;
use crate::metrics::{BreakerState, Metrics};
use crate::postgres::clock;

/// How old the report may be.
const EVERY: Duration = Duration::from_millis(200);

/// A record that Kafka does not acknowledge for this long makes the relay not ready.
const OUTSTANDING_LIMIT: Duration = Duration::from_secs(60);

/// The time of the next report, and what the last summary said.
pub(super) struct Reporter {
    due_at: Instant,
    counted: (Instant, u64),
    rate: f64,
    summary: Summary,
    /// The breaker's state, and since when it is in it.
    breaker: Option<(State, SystemTime)>,
}

impl Reporter {
    /// Due now.
    pub(super) fn new(metrics: &Metrics) -> Self {
        let now = Instant::now();
        let summary = Summary::new(now, metrics.commit_to_ack());
        Self { due_at: now, counted: (now, 0), rate: 0.0, summary, breaker: None }
    }

    /// When the next report is due.
    pub(super) fn due_at(&self) -> Instant {
        self.due_at
    }

    /// Reports, when it is due or the breaker changed.
    pub(super) fn report(
        &mut self,
        relay: &Relay,
        core: &mut Core,
        acknowledged: u64,
        refusal: Option<&Refusal>,
        now: Instant,
    ) {
        let transitions = core.breaker_transitions();
        for transition in &transitions {
            relay.metrics.breaker_trip(label(transition.from), label(transition.to));
            tracing::warn!(
                from = transition.from.name(),
                to = transition.to.name(),
                "circuit breaker changed"
            );
        }
        if now < self.due_at && transitions.is_empty() {
            return;
        }
        self.due_at = now + EVERY;
        self.measure(acknowledged, now);
        gauges(relay, core, now);
        self.board(relay, core, refusal, now);
        let outstanding = core.oldest_taken().map(|taken| now.duration_since(taken));
        if let Some(minute) =
            self.summary.minute(now, acknowledged, outstanding, || relay.metrics.commit_to_ack())
        {
            minute.log(core.ledger(), &relay.metrics);
        }
    }

    /// The session is over: nothing is on its way any more, and what was unconfirmed is streamed again.
    pub(super) fn over(relay: &Relay) {
        relay.metrics.in_flight_bytes.set(0);
        relay.metrics.active_workers.set(0);
        relay.metrics.events_in_queue(0, 0);
        relay.metrics.oldest_unconfirmed_age(None);
        relay.board.note(|report| {
            report.in_flight = InFlight { limit_bytes: report.in_flight.limit_bytes, ..InFlight::default() };
            report.oldest_unconfirmed_age_seconds = None;
            report.lanes.iter_mut().for_each(|lane| lane.queued = 0);
            report.waiting_topics.clear();
            report.kafka_refusal = None;
            report.rates = Rates::default();
        });
    }

    fn measure(&mut self, acknowledged: u64, now: Instant) {
        let (since, count) = self.counted;
        let elapsed = now.duration_since(since).as_secs_f64();
        if elapsed >= 1.0 {
            self.rate = (acknowledged - count) as f64 / elapsed;
            self.counted = (now, acknowledged);
        }
    }

    fn board(&mut self, relay: &Relay, core: &Core, refusal: Option<&Refusal>, now: Instant) {
        let (state, failures, forced) = core.breaker();
        let same = self.breaker.filter(|(known, _)| *known == state);
        let (_, since) = *self.breaker.insert(same.unwrap_or_else(|| (state, SystemTime::now())));
        let rate = self.rate;
        let waiting: Vec<WaitingTopic> = core
            .waiting()
            .into_iter()
            .map(|waiting| WaitingTopic {
                topic: waiting.topic.to_string(),
                reason: match waiting.trouble.remedy {
                    Some(remedy) => format!("{}; {remedy}", waiting.trouble.message),
                    None => waiting.trouble.message,
                },
                since: rfc3339(SystemTime::now() - now.duration_since(waiting.trouble.since)),
            })
            .collect();
        let mut reasons = Vec::new();
        if state == State::Open {
            let how = if forced {
                "by hand; POST /breaker/close on the admin server closes it"
            } else {
                "Kafka does not answer"
            };
            reasons.push(format!("the circuit breaker is open: {how}"));
        }
        let age = core.oldest_taken().map(|taken| now.duration_since(taken));
        if let Some(age) = age.filter(|age| *age > OUTSTANDING_LIMIT) {
            let waits_for =
                if core.waits_for_the_table() { "not stored as a dead letter" } else { "unacknowledged" };
            let topics: Vec<&str> = waiting.iter().map(|topic| topic.topic.as_str()).collect();
            let which =
                if topics.is_empty() { String::new() } else { format!(" (waiting: {})", topics.join(", ")) };
            reasons.push(format!("a record is {waits_for} for {} s{which}", age.as_secs()));
        }
        let ledger = core.ledger();
        relay.board.update(
            |report| {
                report.received_lsn = Some(ledger.received_lsn().to_string());
                report.confirmed_lsn = Some(ledger.confirmed_lsn().to_string());
                report.in_flight = InFlight {
                    records: ledger.unresolved() as u64,
                    bytes: ledger.in_flight_bytes() as u64,
                    limit_bytes: relay.settings.max_in_flight_bytes as u64,
                };
                report.oldest_unconfirmed_age_seconds = oldest_age(core).map(|age| age.as_secs_f64());
                report.breaker = BreakerStatus {
                    state: state.name().to_owned(),
                    since: Some(rfc3339(since)),
                    failures,
                    forced,
                };
                report.lanes =
                    core.lane_depths().map(|queued| LaneStatus { queued: queued as u64 }).collect();
                report.waiting_topics = waiting;
                report.kafka_refusal = refusal.map(|refusal| refused(refusal, now));
                report.rates = Rates { published_per_second: Some(rate) };
            },
            reasons,
        );
    }
}

fn gauges(relay: &Relay, core: &Core, _now: Instant) {
    let metrics = &relay.metrics;
    let ledger = core.ledger();
    metrics.in_flight_bytes.set(ledger.in_flight_bytes());
    metrics.received_lsn.set(ledger.received_lsn().0);
    metrics.confirmed_lsn.set(ledger.confirmed_lsn().0);
    metrics.parked_keys.set(core.parked_keys());
    metrics.active_workers.set(core.lane_depths().filter(|depth| *depth > 0).count());
    metrics.events_in_queue(ledger.unresolved() - core.outstanding(), core.outstanding());
    metrics.oldest_unconfirmed_age(oldest_age(core));
}

fn refused(refusal: &Refusal, now: Instant) -> KafkaRefusal {
    let Refusal { message, since } = refusal;
    KafkaRefusal {
        reason: format!("{KAFKA_REFUSES_US}: {message}; {AUTHENTICATION_REMEDY}"),
        since: rfc3339(SystemTime::now() - now.duration_since(*since)),
    }
}

/// Age of the oldest unconfirmed event since its commit, by the server's clock.
fn oldest_age(core: &Core) -> Option<Duration> {
    let committed = core.oldest_commit_time()?;
    let micros = clock::now().saturating_sub(committed);
    Some(Duration::from_micros(micros.max(0).unsigned_abs()))
}

fn label(state: State) -> BreakerState {
    match state {
        State::Closed => BreakerState::Closed,
        State::HalfOpen => BreakerState::HalfOpen,
        State::Open => BreakerState::Open,
    }
}

//! What the producer reports: acknowledgements, failures, troubles of the client.

use std::sync::Arc;

use tokio::time::Instant;

use super::Session;
use crate::kafka::{self, Event, Failure, FailureClass, Rejection, TopicTrouble, Trouble};
use crate::metrics::ErrorType;
use crate::postgres::clock;
use crate::relay::credentials::gist;
use crate::relay::refusal::KAFKA_REFUSES_US;

impl Session<'_> {
    /// Takes in what was reported.
    pub(super) fn deliveries(&mut self) {
        let now = Instant::now();
        let wall = clock::now();
        let mut events = std::mem::take(&mut self.events);
        self.inbox.take(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Acknowledged(ticket) => {
                    let record = self.core.acknowledged(ticket, now);
                    self.acknowledged += 1;
                    self.credentials.acknowledged();
                    let commit_to_ack = (wall - record.commit_time) as f64 / 1e6;
                    self.routes.touch(record.route).acknowledged(
                        record.publishing.as_secs_f64(),
                        record.processing.as_secs_f64(),
                        commit_to_ack,
                    );
                }
                Event::Failed(failure) => self.failed(*failure, now),
                Event::Trouble(trouble) => self.trouble(trouble, now),
            }
        }
        self.events = events;
        self.routes.flush();
    }

    fn failed(&mut self, failure: Failure, now: Instant) {
        let settings = &self.relay.kafka;
        // The log is the operators' own; /status, which asks for no password, lists no brokers and names no user.
        let (_, remedy) = explain(&failure, &settings.brokers, settings.principal());
        let (error_type, shown) = explain(&failure, kafka::error::BROKERS, None);
        let topic = Arc::clone(&failure.record.topic);
        let (message, class) = (failure.message.clone(), failure.class);
        let stopping = self.core.refused().is_some();
        let failed = self.core.failed(failure, shown, now);
        let route = self.routes.get(failed.route);
        let halts = !stopping && self.core.refused().is_some();
        if halts {
            route.rejected();
        }
        if let Some(error_type) = error_type {
            route.failed(error_type);
            if !failed.parked && !halts {
                route.retried(failed.attempts.max(1));
            }
        }
        let too_old = class == FailureClass::Stale && (failed.parked || halts);
        if too_old || matches!(class, FailureClass::Rejected(_)) {
            self.relay.metrics.late_rejection();
        }
        if failed.first && class == FailureClass::Stale {
            tracing::warn!(%topic, error = %message, remedy, "records of the topic go again one by one");
        } else if failed.first {
            tracing::error!(%topic, error = %message, remedy, "records of the topic fail; the topic waits, others flow");
        }
    }

    fn trouble(&mut self, trouble: Trouble, now: Instant) {
        match trouble {
            Trouble::AllBrokersDown => {
                // librdkafka tells it at every attempt, several times a second.
                if self.unreachable.is_due(now) {
                    tracing::warn!("no Kafka broker is reachable; trying on");
                }
                self.core.transport_trouble(true, now);
            }
            Trouble::Transport(message) => {
                tracing::debug!(error = %message, "a connection to Kafka failed");
                self.core.transport_trouble(false, now);
            }
            Trouble::Authentication(message) => {
                if self.credentials.refused(&message, now) {
                    tracing::error!(error = %message, remedy = kafka::error::AUTHENTICATION_REMEDY, "{KAFKA_REFUSES_US}; trying on");
                }
                let without_broker = gist(&message).to_owned();
                self.relay.board.note(|report| report.last_error = Some(without_broker));
            }
            Trouble::Fatal(message) => self.core.producer_is_finished(message),
        }
    }
}

/// What a failure counts as, and what to do about it, with these brokers and this principal in the command.
fn explain(failure: &Failure, brokers: &str, principal: Option<&str>) -> (Option<ErrorType>, Option<String>) {
    let topic = &failure.record.topic;
    match failure.class {
        FailureClass::Transport => (Some(ErrorType::Transport), None),
        FailureClass::Topic(trouble) => {
            let error_type = match trouble {
                TopicTrouble::Authorization => ErrorType::Authorization,
                TopicTrouble::Unknown => ErrorType::UnknownTopic,
            };
            (Some(error_type), Some(kafka::error::remedy(trouble, topic, brokers, principal)))
        }
        FailureClass::Rejected(rejection) => {
            let error_type = match rejection {
                Rejection::TooLarge => ErrorType::TooLarge,
                Rejection::Invalid => ErrorType::Invalid,
            };
            (Some(error_type), Some(kafka::error::rejection_remedy(rejection, topic, brokers)))
        }
        FailureClass::Stale => (Some(ErrorType::Invalid), Some(kafka::error::TIMESTAMP_REMEDY.to_owned())),
        FailureClass::Fatal => (Some(ErrorType::Fatal), None),
        FailureClass::Neighbour | FailureClass::Purged => (None, None),
    }
}

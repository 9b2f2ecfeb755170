//! The producer: librdkafka's idempotent one, and what it tells an [`Inbox`].
//!
//! librdkafka copies a record, batches, retries in order; whoever polls it ([`polling`]) turns each delivery
//! report into one [`Event`]. A ticket travels as a bare number, so a record that is acknowledged
//! costs no allocation of ours on its way back.

mod polling;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header as NativeHeader, Headers as _, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig,
};
use rdkafka::types::RDKafkaErrorCode;

use self::polling::Polling;
use super::error::{classify, trouble};
use super::limits::topic_name_fault;
use super::{
    Event, Failure, FailureClass, Inbox, Rejection, SendError, Settings, Ticket, TopicTrouble, config,
};
use crate::outbox::{Header, Headers, Record};

/// librdkafka could not be set up with these settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("creating the Kafka client: {0}")]
pub struct CreateError(String);

impl CreateError {
    /// Keeps librdkafka's text, but never a property's value: it may be a secret.
    pub(super) fn new(error: &KafkaError) -> Self {
        Self(match error {
            KafkaError::ClientConfig(_, _, name, _) => format!("property {name} is not accepted"),
            KafkaError::ClientCreation(text) => text.clone(),
            other => other.to_string(),
        })
    }
}

/// The longest poll of the thread, and what its end may be waited for.
const LONGEST_POLL: Duration = Duration::from_millis(100);

/// An idempotent producer.
///
/// Dropping it throws away what is queued and in flight and blocks for a few hundred milliseconds;
/// see [`Producer::close`].
pub struct Producer {
    /// Before `native`, which must not be dropped on the thread.
    polling: Polling,
    native: Arc<BaseProducer<Context>>,
    batch_bytes: u32,
}

impl Producer {
    /// Starts a producer whose events go to `inbox`. Connects in the background.
    ///
    /// `max_batch_bytes` is the smallest known limit of the topics it will serve: no batch of
    /// several records becomes larger, because a broker refuses such a batch as a whole and
    /// librdkafka does not split it. It holds for the producer's life; a topic with a smaller limit
    /// met later means to drain, close, and start another producer.
    ///
    /// # Errors
    /// [`CreateError`] with librdkafka's reason, which names no value.
    pub fn new(settings: &Settings, max_batch_bytes: Option<u32>, inbox: Inbox) -> Result<Self, CreateError> {
        let config = config::producer(settings, max_batch_bytes);
        let context = Context {
            inbox,
            closed: AtomicBool::new(false),
            told: Mutex::new(None),
            others: AtomicUsize::new(0),
        };
        let native = BaseProducer::from_config_and_context(&config, context)
            .map_err(|error| CreateError::new(&error))?;
        let native = Arc::new(native);
        let for_thread = Arc::clone(&native);
        let polling = Polling::start(move || for_thread.poll(LONGEST_POLL))
            .map_err(|error| CreateError(format!("no thread for it: {error}")))?;
        Ok(Self { polling, native, batch_bytes: config::batch_bytes(&config) })
    }

    /// Bytes that a batch of several records may come to.
    pub fn batch_bytes(&self) -> u32 {
        self.batch_bytes
    }

    /// Takes the reports that are there to the inbox, where that is for the caller to do: within 100 ms after he began to
    /// want it `here`, until he does not any more. Otherwise a thread does it, as soon as one is there. Never blocks.
    ///
    /// Whoever wants it has to come again soon, until he does not: it becomes his to do between two calls.
    ///
    /// Returns whether it was his to do.
    pub fn poll(&mut self, here: bool) -> bool {
        if !self.polling.is_ours(here) {
            return false;
        }
        let context = self.context();
        loop {
            // One poll serves one event: the report of a request with all its records, an error, a line for the log.
            let before = (context.inbox.len(), context.others.load(Ordering::Relaxed));
            self.native.poll(Duration::ZERO);
            if before == (context.inbox.len(), context.others.load(Ordering::Relaxed)) {
                return true;
            }
        }
    }

    /// Hands a record to librdkafka, which copies it. Never blocks.
    ///
    /// When librdkafka refuses it for a reason that a resend can mend (its topic is known to be
    /// missing, or closed to us), the record counts as taken and comes back as [`Event::Failed`],
    /// like one that fails later: [`SendError::CameBack`] only says that it has done so already.
    ///
    /// # Errors
    /// [`SendError`]; but for `CameBack` the record was not taken and its ticket will not come back.
    pub fn send(&self, record: &Record, ticket: Ticket) -> Result<(), SendError> {
        // The slice of an empty key is not null, so an empty key stays one; likewise an empty value.
        let mut out = BaseRecord::with_opaque_to(&record.topic, ticket).key(&record.key[..]);
        if let Some(payload) = &record.payload {
            out = out.payload(&payload[..]);
        }
        if !record.headers.is_empty() {
            out = out.headers(native_headers(&record.headers));
        }
        match self.native.send(out) {
            Ok(()) => Ok(()),
            Err((error, _)) => self.refused(&error, record, ticket),
        }
    }

    #[cold]
    fn refused(&self, error: &KafkaError, record: &Record, ticket: Ticket) -> Result<(), SendError> {
        let Some(code) = error.rdkafka_error_code() else {
            // The only error without a code: the topic's name has a NUL character.
            return Err(SendError::Rejected(Rejection::Invalid, "topic name contains NUL".to_owned()));
        };
        if code == RDKafkaErrorCode::QueueFull {
            return Err(SendError::QueueFull);
        }
        match class_of(code, &record.topic) {
            FailureClass::Rejected(rejection) => Err(SendError::Rejected(rejection, code.to_string())),
            FailureClass::Fatal | FailureClass::Purged => Err(SendError::Fatal(self.fatal_text(code))),
            class @ (FailureClass::Transport
            | FailureClass::Topic(_)
            | FailureClass::Stale
            | FailureClass::Neighbour) => {
                let message = code.to_string();
                let record = Record { event_type: Bytes::new(), ..record.detached() };
                self.context().inbox.push(Event::Failed(Box::new(Failure {
                    ticket,
                    class,
                    message,
                    record,
                })));
                Err(SendError::CameBack)
            }
        }
    }

    /// The error that finished the producer, where librdkafka names it.
    fn fatal_text(&self, code: RDKafkaErrorCode) -> String {
        self.native.client().fatal_error().map_or_else(|| code.to_string(), |(_, text)| text)
    }

    /// Throws away what is queued and in flight, and ends the producer's threads and connections.
    ///
    /// Afterwards nothing comes to the inbox any more, and nothing of this producer reaches Kafka;
    /// what was in flight may have. Blocks for a few hundred milliseconds, longer while a name is
    /// being resolved: call it from `spawn_blocking`.
    pub fn close(self) {}

    fn context(&self) -> &Context {
        self.native.client().context()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // From here on reports are thrown away: they are of our own purge, or too late to matter.
        self.context().closed.store(true, Ordering::Relaxed);
        // Purging now, while the polling thread may still run, lets it serve the reports until it is
        // stopped; the drop of the fields joins that thread, serves the rest and destroys the client.
        self.native.purge(PurgeConfig::default().queue().inflight());
    }
}

fn native_headers(headers: &[Header]) -> OwnedHeaders {
    headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |native, header| {
        native.insert(NativeHeader { key: &header.name, value: header.value.as_deref() })
    })
}

/// What librdkafka's polls call.
struct Context {
    inbox: Inbox,
    /// The producer is being dropped: nothing is told any more.
    closed: AtomicBool,
    /// The error that was told last, while its second telling is awaited.
    told: Mutex<Option<(RDKafkaErrorCode, String)>>,
    /// How many events were no reports of records.
    others: AtomicUsize,
}

impl Context {
    /// Whether this call repeats the one before. rdkafka 0.39 reports each error event of a
    /// producer twice in a row, and one outage must not count as two.
    fn is_repeated(&self, code: RDKafkaErrorCode, reason: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.as_ref().is_some_and(|(c, r)| *c == code && r == reason) {
            *told = None;
            return true;
        }
        *told = Some((code, reason.to_owned()));
        false
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Ticket;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Ticket) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        self.inbox.push(match result {
            Ok(_) => Event::Acknowledged(ticket),
            Err((error, message)) => Event::Failed(Box::new(failure(error, message, ticket))),
        });
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        self.others.fetch_add(1, Ordering::Relaxed);
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        if !self.is_repeated(code, reason) && !self.closed.load(Ordering::Relaxed) {
            self.inbox.push(Event::Trouble(trouble(code, reason)));
        }
    }

    /// librdkafka's lines about connections. Its errors become warnings: whether a person must act
    /// is for the loop to say, which gets the same as [`Event::Trouble`].
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.others.fetch_add(1, Ordering::Relaxed);
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{line}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, "{line}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{line}"),
        }
    }
}

/// Copies a failed record out of its report.
#[cold]
fn failure(error: &KafkaError, message: &BorrowedMessage<'_>, ticket: Ticket) -> Failure {
    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
    let headers = message.headers().map_or_else(Headers::new, |headers| {
        let own = |header: NativeHeader<'_, &[u8]>| Header {
            name: Arc::from(header.key),
            value: header.value.map(Bytes::copy_from_slice),
        };
        headers.iter().map(own).collect()
    });
    let record = Record {
        topic: Arc::from(message.topic()),
        key: message.key().map_or_else(Bytes::new, Bytes::copy_from_slice),
        payload: message.payload().map(Bytes::copy_from_slice),
        headers,
        event_type: Bytes::new(),
    };
    Failure { ticket, class: class_of(code, &record.topic), message: code.to_string(), record }
}

/// The class of an error on `topic`. Of a name that Kafka does not allow librdkafka says so once,
/// to whatever is queued then, and afterwards that there is no such topic: waiting would not end.
fn class_of(code: RDKafkaErrorCode, topic: &str) -> FailureClass {
    match classify(code) {
        FailureClass::Topic(TopicTrouble::Unknown) if topic_name_fault(topic).is_some() => {
            FailureClass::Rejected(Rejection::Invalid)
        }
        class => class,
    }
}

#[cfg(test)]
mod tests;

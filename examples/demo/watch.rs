//! A consumer of both topics on a thread of its own, which notes when each record came.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{Outcome, TOPICS};

/// A record and the moment a consumer had it.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) value: String,
    pub(crate) at: Instant,
}

impl Arrival {
    /// The row's id, from the header.
    pub(crate) fn id(&self) -> Option<Uuid> {
        self.headers.iter().find(|(name, _)| name == "id").and_then(|(_, id)| id.parse().ok())
    }
}

/// The running consumer.
pub(crate) struct Watch {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Reads every partition from its beginning, by assignment: no group, no offset committed.
    pub(crate) fn start(bootstrap: &str) -> Outcome<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "txstream-demo")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "20")
            .create()?;
        let mut partitions = TopicPartitionList::new();
        for topic in TOPICS {
            let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
            for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
                partitions.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
            }
        }
        consumer.assign(&partitions)?;
        let arrivals = Arc::<Mutex<Vec<Arrival>>>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (Arc::clone(&arrivals), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Errors of the transport pass; what never comes is missed by whoever waits for it.
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                    let arrival = arrival(&message, Instant::now());
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
                }
            }
        });
        Ok(Self { arrivals, stop, thread })
    }

    /// All records so far, in the order they came.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many different events have come.
    ///
    /// # Errors
    /// After `patience`, with how many are missing.
    pub(crate) async fn wait_for(&self, events: usize, patience: Duration) -> Outcome<()> {
        let end = Instant::now() + patience;
        let (mut ids, mut seen) = (HashSet::new(), 0);
        loop {
            let before = seen;
            {
                let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
                ids.extend(arrivals[before..].iter().filter_map(Arrival::id));
                seen = arrivals.len();
            }
            if ids.len() >= events {
                return Ok(());
            }
            if Instant::now() > end {
                let missing = events - ids.len();
                return Err(
                    format!("{missing} of {events} events are not in Kafka after {patience:?}").into()
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the consumer.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            eprintln!("the consumer's thread panicked");
        }
    }
}

fn arrival(message: &BorrowedMessage<'_>, at: Instant) -> Arrival {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.map_or_else(String::new, text)))
            .collect()
    });
    Arrival {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map_or_else(String::new, text),
        headers,
        value: message.payload().map_or_else(String::new, text),
        at,
    }
}

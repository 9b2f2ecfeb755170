//! The border between whoever polls librdkafka and the loop that acts on deliveries.
//!
//! Any thread pushes, one task waits and takes all at once. A push costs an uncontended lock and a
//! write into a vector whose capacity is reused; the waiting task is woken once per batch, not per
//! event. What it holds is bounded by the records in flight: each ticket comes once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Event;

/// Events on their way to the loop; clones share them.
///
/// Give every producer an inbox of its own, then whatever a closed one left behind is dropped with it.
#[derive(Debug, Clone, Default)]
pub struct Inbox(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    events: Mutex<Vec<Event>>,
    /// Told when `events` stops being empty.
    filled: Notify,
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event. Callable from any thread; never waits longer than another push or take.
    pub fn push(&self, event: Event) {
        let first = {
            let mut events = self.events();
            events.push(event);
            events.len() == 1
        };
        if first {
            self.0.filled.notify_one();
        }
    }

    /// Waits until there is something to take. Meant for one waiting task.
    ///
    /// # Cancel safety
    /// Nothing is taken, so nothing is lost when the future is dropped.
    pub async fn arrived(&self) {
        // A wake-up may be left from a batch that was taken without waiting: look, do not trust it.
        while self.is_empty() {
            self.0.filled.notified().await;
        }
    }

    /// Moves all events behind those in `into`, oldest first.
    ///
    /// With an empty `into` the vectors change places, so a caller that passes the same one each
    /// time allocates nothing once both have grown.
    pub fn take(&self, into: &mut Vec<Event>) {
        let mut events = self.events();
        if into.is_empty() {
            std::mem::swap(&mut *events, into);
        } else {
            into.append(&mut events);
        }
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.events().is_empty()
    }

    /// How much there is to take.
    pub(super) fn len(&self) -> usize {
        self.events().len()
    }

    /// A vector of events is valid at every moment, so a panicking pusher does not spoil it.
    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn tickets(events: &[Event]) -> Vec<usize> {
        events
            .iter()
            .map(|event| match event {
                Event::Acknowledged(ticket) => *ticket,
                other => panic!("unexpected {other:?}"),
            })
            .collect()
    }

    fn poll(future: impl Future<Output = ()>) -> Poll<()> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn take_gives_all_in_order_and_swaps_or_appends() {
        let inbox = Inbox::new();
        inbox.push(Event::Acknowledged(1));
        inbox.push(Event::Acknowledged(2));
        let mut taken = Vec::new();
        inbox.take(&mut taken);
        assert_eq!(tickets(&taken), [1, 2]);
        inbox.push(Event::Acknowledged(3));
        inbox.take(&mut taken);
        assert_eq!(tickets(&taken), [1, 2, 3]);
        assert!(inbox.is_empty());
    }

    #[test]
    fn a_stale_wake_up_is_not_taken_for_an_event() {
        let inbox = Inbox::new();
        inbox.push(Event::Acknowledged(1));
        assert_eq!(poll(inbox.arrived()), Poll::Ready(()));
        inbox.take(&mut Vec::new());
        assert_eq!(poll(inbox.arrived()), Poll::Pending);
    }

    #[test]
    fn a_dropped_wait_loses_nothing() {
        let inbox = Inbox::new();
        assert_eq!(poll(inbox.arrived()), Poll::Pending);
        inbox.push(Event::Acknowledged(1));
        assert_eq!(poll(inbox.arrived()), Poll::Ready(()));
        assert_eq!(poll(inbox.arrived()), Poll::Ready(()), "until taken it has arrived");
    }

    #[tokio::test]
    async fn every_event_of_many_threads_arrives_once() {
        let inbox = Inbox::new();
        let pushers: Vec<_> = (0..4)
            .map(|thread| {
                let inbox = inbox.clone();
                std::thread::spawn(move || {
                    (0..10_000).for_each(|n| inbox.push(Event::Acknowledged(thread * 10_000 + n)));
                })
            })
            .collect();
        let (mut all, mut batch) = (Vec::new(), Vec::new());
        while all.len() < 40_000 {
            inbox.arrived().await;
            inbox.take(&mut batch);
            all.extend(tickets(&batch));
            batch.clear();
        }
        pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
        all.sort_unstable();
        assert_eq!(all, (0..40_000).collect::<Vec<_>>());
    }
}

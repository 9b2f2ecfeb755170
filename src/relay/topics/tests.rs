use bytes::Bytes;

use super::*;
use crate::outbox::Headers;
use crate::relay::settings;

const WAIT: Duration = Duration::from_secs(1);

fn backoff() -> Backoff {
    let settings =
        settings::Backoff { enabled: false, base: WAIT, max: WAIT, multiplier: 1.0, constant: WAIT };
    Backoff::seeded(settings, 7)
}

fn record(key: &'static str) -> Record {
    Record {
        topic: Arc::from("t"),
        key: Bytes::from_static(key.as_bytes()),
        payload: None,
        headers: Headers::new(),
        event_type: Bytes::new(),
    }
}

fn trouble(now: Instant) -> Trouble {
    Trouble { message: "no".to_owned(), remedy: None, since: now }
}

/// A topic with tickets 0..n in flight.
fn sent(n: usize) -> (Topics, TopicId) {
    let mut topics = Topics::default();
    let id = topics.intern(&Arc::from("t"));
    (0..n).for_each(|_| topics.get_mut(id).sent());
    (topics, id)
}

#[test]
fn a_failed_record_holds_its_topic_until_all_in_flight_reported_and_goes_first() {
    let (now, mut backoff) = (Instant::now(), backoff());
    let (mut topics, id) = sent(3);
    topics.get_mut(id).failed(0, record("a"), trouble(now), true, false);
    topics.settle(id);
    assert!(topics.get(id).must_hold());
    topics.get_mut(id).hold(Queued { ticket: 3, topic: id, record: record("d") });
    assert_eq!(topics.schedule(&mut backoff, now), [], "two are still in flight");
    topics.get_mut(id).failed(2, record("c"), trouble(now), true, false);
    topics.get_mut(id).failed(1, record("b"), trouble(now), true, false);
    let scheduled = topics.schedule(&mut backoff, now);
    assert_eq!((scheduled.len(), scheduled[0].1), (1, 1), "one attempt was used up, not three");
    let due = topics.next_retry().unwrap();
    assert!(topics.get_mut(id).next(due - Duration::from_millis(1)).is_none());

    // The oldest goes alone; the others follow its acknowledgement, then what was held.
    let topic = topics.get_mut(id);
    assert_eq!(topic.next(due).unwrap().0, 0);
    topic.sent();
    assert!(topic.next(due).is_none());
    assert!(topic.acknowledged(), "the trouble is over");
    for ticket in [1, 2, 3] {
        assert_eq!(topic.next(due).unwrap().0, ticket);
        topic.sent();
    }
    assert!(topic.next(due).is_none());
    topics.settle(id);
    assert_eq!(topics.holding().count(), 0);
}

#[test]
fn a_probe_that_fails_uses_up_another_attempt() {
    let (now, mut backoff) = (Instant::now(), backoff());
    let (mut topics, id) = sent(1);
    topics.get_mut(id).failed(0, record("a"), trouble(now), true, false);
    topics.settle(id);
    topics.schedule(&mut backoff, now);
    let due = topics.next_retry().unwrap();
    let topic = topics.get_mut(id);
    let (ticket, again) = topic.next(due).unwrap();
    topic.sent();
    topic.failed(ticket, again, trouble(due), true, false);
    assert_eq!(topic.attempts(), 2);
    assert_eq!(topic.trouble().unwrap().since, now, "the trouble began at the first failure");
}

#[test]
fn a_batch_that_was_too_large_is_sent_again_one_by_one_and_at_once() {
    let (now, mut backoff) = (Instant::now(), backoff());
    let (mut topics, id) = sent(3);
    for (ticket, key) in [(0, "a"), (1, "b"), (2, "c")] {
        topics.get_mut(id).failed(ticket, record(key), trouble(now), false, true);
    }
    topics.settle(id);
    assert_eq!(topics.schedule(&mut backoff, now)[0].2, Duration::ZERO);
    let topic = topics.get_mut(id);
    for ticket in [0, 1, 2] {
        assert_eq!(topic.next(now).unwrap().0, ticket);
        topic.sent();
        assert!(topic.is_single());
        assert!(topic.next(now).is_none(), "one at a time");
        assert_eq!(topic.acknowledged(), ticket == 2);
    }
    assert!(!topic.must_hold());
}

#[test]
fn a_record_the_producer_could_not_take_stays_the_next_one() {
    let (now, mut backoff) = (Instant::now(), backoff());
    let (mut topics, id) = sent(1);
    topics.get_mut(id).failed(0, record("a"), trouble(now), true, false);
    topics.settle(id);
    topics.schedule(&mut backoff, now);
    let due = topics.next_retry().unwrap();
    let topic = topics.get_mut(id);
    let (ticket, again) = topic.next(due).unwrap();
    topic.give_back(ticket, again, due);
    assert_eq!(topic.next(due).unwrap().0, 0);
}

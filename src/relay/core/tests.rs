mod stale;

use bytes::Bytes;

use super::*;
use crate::kafka::{Failure, FailureClass, TopicTrouble};
use crate::outbox::Headers;
use crate::relay::breaker::State;
use crate::relay::settings::{self, OnReject};

pub(in crate::relay) fn settings() -> Settings {
    let second = Duration::from_secs(1);
    Settings {
        slot: "s".to_owned(),
        publication: "p".to_owned(),
        status_interval: second,
        lanes: 1,
        batch_size: 10_000,
        max_in_flight_bytes: usize::MAX,
        on_reject: OnReject::Halt,
        breaker: settings::Breaker {
            enabled: false,
            failure_threshold: 1,
            success_threshold: 1,
            timeout_duration: second,
            reset_timeout: second,
        },
        backoff: settings::Backoff {
            enabled: false,
            base: second,
            max: second,
            multiplier: 1.0,
            constant: second,
        },
        max_retries: None,
        shutdown_timeout: second,
    }
}

/// Takes everything.
#[derive(Default)]
struct Taker(Vec<Ticket>);

impl Sink for Taker {
    fn send(&mut self, _: &Record, ticket: Ticket) -> Result<(), SendError> {
        self.0.push(ticket);
        Ok(())
    }
}

/// A core with one topic and a route to it, and a record for that.
fn core_and_record(settings: &Settings) -> (Core, u32, Record) {
    let topic: Arc<str> = Arc::from("t");
    let mut core = Core::new(
        settings.clone(),
        Lsn(1),
        Breaker::new(settings.breaker),
        Backoff::seeded(settings.backoff, 1),
    );
    let route = core.add_route(&topic, &Arc::from("public.outbox"), Bytes::new());
    core.set_limit(&topic, TopicLimit::Own(1_000));
    let record =
        Record { topic, key: Bytes::new(), payload: None, headers: Headers::new(), event_type: Bytes::new() };
    (core, route, record)
}

#[test]
fn a_burst_is_handed_over_as_a_whole_and_what_was_held_up_in_pieces() {
    let settings = Settings { lanes: 4, batch_size: 100, ..settings() };
    let (mut core, route, record) = core_and_record(&settings);
    core.begin(Lsn(1), 0);
    let now = Instant::now();
    let mut taker = Taker::default();
    let take = |core: &mut Core, records: u32| {
        for n in 0..records {
            let record = Record { key: Bytes::copy_from_slice(&n.to_be_bytes()), ..record.clone() };
            assert_eq!(core.take(record, route, 10, now), Taken::Yes);
        }
    };
    take(&mut core, 3_000);
    core.dispatch(&mut taker, now);
    assert_eq!(taker.0.len(), 0, "a burst gathers");
    let due = now + Duration::from_millis(100);
    core.dispatch(&mut taker, due);
    assert_eq!(taker.0.len(), 3_000, "in pieces it would make small requests");
    taker.0.clear();
    take(&mut core, 50_000);
    let mut pieces = 0;
    while core.lane_depths().sum::<usize>() > 0 {
        let before = taker.0.len();
        core.dispatch(&mut taker, due);
        let piece = taker.0.len() - before;
        assert!((1..10_000).contains(&piece), "a piece of {piece} records holds everything else up");
        pieces += 1;
        assert!(pieces < 50);
    }
    assert_eq!(taker.0.len(), 50_000);
}

#[test]
fn behind_a_stuck_record_a_million_are_acknowledged_and_then_reading_stops() {
    let now = Instant::now();
    let (mut core, route, record) = core_and_record(&settings());
    core.begin(Lsn(1), 0);
    let (mut taker, mut stuck, mut behind) = (Taker::default(), None, 0);
    while core.may_read() {
        for _ in 0..10_000 {
            assert_eq!(core.take(record.clone(), route, 10, now), Taken::Yes);
        }
        core.dispatch(&mut taker, now);
        for ticket in taker.0.drain(..) {
            if *stuck.get_or_insert(ticket) != ticket {
                core.acknowledged(ticket, now);
                behind += 1;
            }
        }
        assert!(behind < 1_020_000, "nothing stops it");
    }
    assert!(behind >= 1_000_000, "{behind}");
    core.acknowledged(stuck.unwrap(), now);
    assert!(core.may_read());
}

/// A half-open breaker lets one record through here. One that comes back for want of its topic must not be the
/// last that was let through.
#[test]
fn a_topic_that_is_missing_does_not_keep_a_half_open_breaker_from_sending_to_others() {
    let second = Duration::from_secs(1);
    let breaker = settings::Breaker { enabled: true, ..settings().breaker };
    let (mut core, missing, record) = core_and_record(&Settings { breaker, ..settings() });
    let there: Arc<str> = Arc::from("there");
    let route = core.add_route(&there, &Arc::from("public.outbox"), Bytes::new());
    core.set_limit(&there, TopicLimit::Own(1_000));
    core.begin(Lsn(1), 0);
    let (mut taker, mut now) = (Taker::default(), Instant::now());
    let send = |core: &mut Core, taker: &mut Taker, route: u32, topic: &Arc<str>, now: Instant| {
        let record = Record { topic: Arc::clone(topic), ..record.clone() };
        assert_eq!(core.take(record.clone(), route, 10, now), Taken::Yes);
        core.dispatch(taker, now);
        (taker.0.pop().expect("it is handed over"), record)
    };
    // One that is not answered opens it; it stays outstanding.
    send(&mut core, &mut taker, route, &there, now);
    for _ in 0..2 {
        core.tick(now);
        now += second;
    }
    core.tick(now);
    assert_eq!(core.breaker().0, State::HalfOpen);

    let (ticket, record) = send(&mut core, &mut taker, missing, &Arc::from("t"), now);
    let message = "Broker: Unknown topic or partition".to_owned();
    let class = FailureClass::Topic(TopicTrouble::Unknown);
    core.failed(Failure { ticket, class, message, record }, None, now);
    let (ticket, _) = send(&mut core, &mut taker, route, &there, now);
    core.acknowledged(ticket, now);
    assert_eq!(core.breaker().0, State::Closed);
}

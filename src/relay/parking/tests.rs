use std::sync::Arc;

use tokio::time::Instant;

use super::*;
use crate::kafka::limits::TopicLimit;
use crate::outbox::{Headers, Record};
use crate::postgres::Lsn;
use crate::relay::backoff::Backoff;
use crate::relay::breaker::Breaker;
use crate::relay::core::{Core, Taken};
use crate::relay::settings::{self, OnReject, Settings};

fn core() -> Core {
    let second = std::time::Duration::from_secs(1);
    let settings = Settings {
        slot: "s".into(),
        publication: "p".into(),
        status_interval: second,
        lanes: 1,
        batch_size: 10,
        max_in_flight_bytes: 1 << 30,
        on_reject: OnReject::DeadLetter,
        breaker: settings::Breaker {
            enabled: true,
            failure_threshold: 5,
            success_threshold: 3,
            timeout_duration: second,
            reset_timeout: second,
        },
        backoff: settings::Backoff {
            enabled: true,
            base: second,
            max: second,
            multiplier: 2.0,
            constant: second,
        },
        max_retries: None,
        shutdown_timeout: second,
    };
    let breaker = Breaker::new(settings.breaker);
    let backoff = Backoff::seeded(settings.backoff, 1);
    let mut core = Core::new(settings, Lsn(1), breaker, backoff);
    let topic: Arc<str> = Arc::from("t");
    core.add_route(&topic, &Arc::from("public.outbox"), Bytes::from_static(b"e"));
    core.set_limit(&topic, TopicLimit::Own(100));
    core
}

fn record(key: &str) -> Record {
    Record {
        topic: Arc::from("t"),
        key: Bytes::copy_from_slice(key.as_bytes()),
        payload: None,
        headers: Headers::new(),
        event_type: Bytes::new(),
    }
}

#[test]
fn one_key_more_than_may_be_parked_halts_and_another_record_of_a_parked_one_does_not() {
    let mut core = core();
    let topic: Arc<str> = Arc::from("t");
    for n in 0..MAX_PARKED_KEYS {
        core.load_parked(&topic, Bytes::from(n.to_string()));
    }
    core.begin(Lsn(10), 0);
    let now = Instant::now();
    assert_eq!(core.take(record("7"), 0, 101, now), Taken::TooLarge(None), "its key is parked already");
    assert_eq!(core.take(record("8"), 0, 10, now), Taken::Yes, "what follows is parked");
    let Taken::TooLarge(Some(halt)) = core.take(record("new"), 0, 101, now) else { panic!("it was parked") };
    assert!(halt.what.contains("10000 keys") && halt.remedy.contains("dead-letter list"), "{halt:?}");
    assert_eq!(core.parked_keys(), MAX_PARKED_KEYS);
    assert_eq!(core.take(record("other"), 0, 10, now), Taken::Yes, "other keys flow");
}

#[test]
fn letters_come_in_order_and_are_given_out_once() {
    let mut core = core();
    core.begin(Lsn(10), 0);
    let now = Instant::now();
    assert_eq!(core.take(record("k"), 0, 101, now), Taken::TooLarge(None));
    assert_eq!(core.take(record("k"), 0, 10, now), Taken::Yes);
    assert!(core.letters().is_empty(), "not before it is sure that nothing earlier is on its way");
    core.tick(now);
    let letters = core.letters();
    let found: Vec<_> = letters.iter().map(|p| (p.letter.ordinal, p.letter.reason)).collect();
    assert_eq!(found, [(0, Reason::TooLarge), (1, Reason::Behind)]);
    assert!(core.letters().is_empty());
    core.commit(Lsn(20));
    assert_eq!(core.ledger().confirmed_lsn(), Lsn(1));
    core.stored(&letters);
    assert_eq!(core.ledger().confirmed_lsn(), Lsn(20), "stored is as good as acknowledged");
}

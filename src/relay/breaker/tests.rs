use std::time::Duration;

use proptest::prelude::*;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);
const RESET: Duration = Duration::from_secs(30);

fn breaker() -> Breaker {
    Breaker::new(settings::Breaker {
        enabled: true,
        failure_threshold: 5,
        success_threshold: 3,
        timeout_duration: TIMEOUT,
        reset_timeout: RESET,
    })
}

fn opened(now: Instant) -> Breaker {
    let mut breaker = breaker();
    (0..5).for_each(|_| breaker.failure(now));
    assert_eq!(breaker.state(), State::Open);
    breaker
}

#[test]
fn closed_lets_everything_through() {
    assert_eq!(breaker().allowance(), usize::MAX);
}

#[test]
fn the_threshold_opens_it_and_an_acknowledgement_sets_the_count_to_zero() {
    let (mut breaker, now) = (breaker(), Instant::now());
    (0..4).for_each(|_| breaker.failure(now));
    breaker.success(now);
    (0..4).for_each(|_| breaker.failure(now));
    assert_eq!(breaker.state(), State::Closed);
    breaker.failure(now);
    assert_eq!((breaker.state(), breaker.allowance()), (State::Open, 0));
    assert_eq!(breaker.take_transitions(), [Transition { from: State::Closed, to: State::Open }]);
}

#[test]
fn open_becomes_half_open_after_the_reset_timeout() {
    let now = Instant::now();
    let mut breaker = opened(now);
    breaker.tick(None, now + RESET - Duration::from_millis(1));
    assert_eq!(breaker.state(), State::Open);
    breaker.tick(None, now + RESET);
    assert_eq!((breaker.state(), breaker.allowance()), (State::HalfOpen, 3));
}

#[test]
fn open_becomes_half_open_at_the_first_acknowledgement_which_counts() {
    let now = Instant::now();
    let mut breaker = opened(now);
    breaker.success(now);
    assert_eq!((breaker.state(), breaker.successes), (State::HalfOpen, 1));
}

#[test]
fn half_open_lets_a_few_through_however_many_are_outstanding() {
    let now = Instant::now();
    let mut breaker = opened(now);
    breaker.tick(Some(now), now + RESET);
    assert_eq!(breaker.state(), State::HalfOpen);
    (0..3).for_each(|_| breaker.handed_over());
    assert_eq!(breaker.allowance(), 0, "no more than those before one is answered");
    breaker.success(now + RESET);
    assert_eq!(breaker.allowance(), 1, "for one that was answered there goes another");
    breaker.handed_over();
    breaker.success(now + RESET);
    breaker.success(now + RESET);
    assert_eq!(breaker.state(), State::Closed, "although two are unanswered");

    let mut breaker = opened(now);
    breaker.tick(Some(now), now + RESET);
    (0..3).for_each(|_| breaker.handed_over());
    breaker.tick(Some(now), now + RESET);
    breaker.tick(Some(now), now + RESET + TIMEOUT);
    assert_eq!(breaker.state(), State::Open, "none was answered");
    breaker.tick(Some(now), now + 2 * RESET + TIMEOUT);
    assert_eq!((breaker.state(), breaker.allowance()), (State::HalfOpen, 3), "others get their turn");
}

#[test]
fn half_open_closes_after_enough_acknowledgements_and_opens_at_a_failure() {
    let now = Instant::now();
    let mut closing = opened(now);
    (0..3).for_each(|_| closing.success(now));
    assert_eq!(closing.state(), State::Closed);
    let mut opening = opened(now);
    opening.success(now);
    opening.failure(now);
    assert_eq!(opening.state(), State::Open);
}

#[test]
fn a_record_counts_when_it_reaches_the_timeout_and_again_after_each_further_one() {
    let (mut breaker, sent) = (breaker(), Instant::now());
    for n in 1..=5_u32 {
        breaker.tick(Some(sent), sent + TIMEOUT * n - Duration::from_millis(1));
        assert_eq!(breaker.failures(), n - 1);
        breaker.tick(Some(sent), sent + TIMEOUT * n);
    }
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn the_clock_of_old_records_restarts_when_it_half_opens() {
    let now = Instant::now();
    let mut breaker = opened(now);
    breaker.tick(Some(now), now + RESET);
    assert_eq!(breaker.state(), State::HalfOpen, "an old record does not open it again at once");
    breaker.tick(Some(now), now + RESET + TIMEOUT);
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn forced_open_stays_open_until_closed_by_hand() {
    let (mut breaker, now) = (breaker(), Instant::now());
    breaker.force_open(now);
    breaker.success(now);
    breaker.tick(None, now + RESET * 10);
    assert_eq!((breaker.state(), breaker.is_forced()), (State::Open, true));
    breaker.force_close();
    assert_eq!((breaker.state(), breaker.is_forced()), (State::Closed, false));
}

#[test]
fn disabled_never_opens_by_itself() {
    let (mut breaker, now) = (breaker(), Instant::now());
    breaker.settings.enabled = false;
    (0..100).for_each(|_| breaker.failure(now));
    assert_eq!(breaker.state(), State::Closed);
}

proptest! {
    /// Whatever happens: only legal transitions, and nothing is let through while open.
    #[test]
    fn only_legal_transitions(steps in prop::collection::vec((0_u8..6, 0_u64..20_000), 1..200)) {
        let (mut breaker, mut now) = (breaker(), Instant::now());
        let sent = now;
        for (step, millis) in steps {
            now += Duration::from_millis(millis);
            match step {
                0 => breaker.failure(now),
                1 => breaker.success(now),
                2 => breaker.tick(Some(sent), now),
                3 => breaker.tick(None, now),
                4 => breaker.force_open(now),
                _ => breaker.force_close(),
            }
            for Transition { from, to } in breaker.take_transitions() {
                prop_assert_ne!(from, to);
                prop_assert!((from, to) != (State::Closed, State::HalfOpen));
            }
            prop_assert_eq!(breaker.state() == State::Open, breaker.allowance() == 0);
        }
    }
}

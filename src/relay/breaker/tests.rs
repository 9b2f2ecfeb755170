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
    assert_eq!(breaker().allowance(1_000_000), usize::MAX);
}

#[test]
fn the_threshold_opens_it_and_an_acknowledgement_sets_the_count_to_zero() {
    let (mut breaker, now) = (breaker(), Instant::now());
    (0..4).for_each(|_| breaker.failure(now));
    breaker.success(now);
    (0..4).for_each(|_| breaker.failure(now));
    assert_eq!(breaker.state(), State::Closed);
    breaker.failure(now);
    assert_eq!((breaker.state(), breaker.allowance(0)), (State::Open, 0));
    assert_eq!(breaker.take_transitions(), [Transition { from: State::Closed, to: State::Open }]);
}

#[test]
fn open_becomes_half_open_after_the_reset_timeout() {
    let now = Instant::now();
    let mut breaker = opened(now);
    breaker.tick(None, now + RESET - Duration::from_millis(1));
    assert_eq!(breaker.state(), State::Open);
    breaker.tick(None, now + RESET);
    assert_eq!((breaker.state(), breaker.allowance(0)), (State::HalfOpen, 3));
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
    let half_open = |now| {
        let mut breaker = opened(now);
        breaker.tick(Some(now), now + RESET);
        assert_eq!((breaker.state(), breaker.allowance(70)), (State::HalfOpen, 3));
        (0..3).for_each(|_| breaker.handed_over());
        assert_eq!(breaker.allowance(73), 0, "no more than those before one is reported");
        breaker
    };
    let mut answered = half_open(now);
    answered.reported();
    answered.success(now + RESET);
    assert_eq!(answered.allowance(72), 1, "for one that is acknowledged there goes another");
    answered.handed_over();
    for _ in 0..2 {
        answered.reported();
        answered.success(now + RESET);
    }
    assert_eq!(answered.state(), State::Closed, "although one of them waits still");

    let mut silent = half_open(now);
    silent.tick(Some(now), now + RESET);
    silent.tick(Some(now), now + RESET + TIMEOUT);
    assert_eq!(silent.state(), State::Open, "nothing was acknowledged");
    silent.tick(Some(now), now + 2 * RESET + TIMEOUT);
    assert_eq!((silent.state(), silent.allowance(73)), (State::HalfOpen, 3), "others get their turn");

    let mut refused = half_open(now);
    (0..3).for_each(|_| refused.reported());
    assert_eq!(refused.allowance(70), 3, "what comes back says nothing of Kafka, and others have to");
    // A session ends, and nothing of it is ever reported.
    assert_eq!(half_open(now).allowance(0), 3);
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
    /// Whatever happens: only legal transitions, nothing is let through while open, and something whenever
    /// nothing is outstanding otherwise.
    #[test]
    fn only_legal_transitions(steps in prop::collection::vec((0_u8..9, 0_u64..20_000), 1..200)) {
        let (mut breaker, mut now) = (breaker(), Instant::now());
        let (sent, mut outstanding) = (now, 0_usize);
        for (step, millis) in steps {
            now += Duration::from_millis(millis);
            match step {
                0 => breaker.failure(now),
                1 if outstanding > 0 => {
                    outstanding -= 1;
                    breaker.reported();
                    breaker.success(now);
                }
                6 if outstanding > 0 => {
                    outstanding -= 1;
                    breaker.reported();
                }
                7 => outstanding = 0,
                8 => {
                    let handed_over = breaker.allowance(outstanding).min(10);
                    (0..handed_over).for_each(|_| breaker.handed_over());
                    outstanding += handed_over;
                }
                2 => breaker.tick(Some(sent), now),
                3 => breaker.tick(None, now),
                4 => breaker.force_open(now),
                5 => breaker.force_close(),
                _ => {}
            }
            for Transition { from, to } in breaker.take_transitions() {
                prop_assert_ne!(from, to);
                prop_assert!((from, to) != (State::Closed, State::HalfOpen));
            }
            prop_assert_eq!(breaker.state() == State::Open, breaker.allowance(0) == 0);
        }
    }
}

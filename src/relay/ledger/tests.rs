use proptest::prelude::*;
use tokio::time::Instant;

use super::*;

fn ledger() -> Ledger {
    Ledger::new(Lsn(100))
}

#[test]
fn a_transaction_is_confirmed_at_its_commit_end_once_every_record_is_resolved() {
    let mut ledger = ledger();
    let now = Instant::now();
    ledger.begin(Lsn(1), 0, 7);
    let (a, b) = (ledger.take(10, 3, now), ledger.take(10, 4, now));
    assert_eq!(ledger.resolve(b), Resolved { route: 4, round: None, taken_at: now, commit_time: 7 });
    assert!(ledger.commit(Lsn(200)));
    assert_eq!(ledger.confirmed_lsn(), Lsn(100));
    ledger.resolve(a);
    assert_eq!(ledger.confirmed_lsn(), Lsn(200));
    assert_eq!((ledger.unresolved(), ledger.in_flight_bytes()), (0, 0));
}

#[test]
fn nothing_is_confirmed_before_the_commit_came() {
    let mut ledger = ledger();
    ledger.begin(Lsn(1), 0, 0);
    let ticket = ledger.take(1, 0, Instant::now());
    ledger.resolve(ticket);
    ledger.keepalive(Lsn(500));
    assert_eq!(ledger.confirmed_lsn(), Lsn(100));
    ledger.commit(Lsn(150));
    assert_eq!(ledger.confirmed_lsn(), Lsn(150), "a keepalive inside a transaction confirms nothing later");
}

#[test]
fn a_later_transaction_waits_for_an_earlier_one() {
    let mut ledger = ledger();
    let now = Instant::now();
    ledger.begin(Lsn(1), 0, 0);
    let first = ledger.take(1, 0, now);
    ledger.commit(Lsn(200));
    ledger.begin(Lsn(1), 0, 0);
    let second = ledger.take(1, 0, now);
    ledger.commit(Lsn(300));
    ledger.resolve(second);
    assert_eq!(ledger.confirmed_lsn(), Lsn(100));
    assert_eq!(ledger.oldest().unwrap().resolved_behind, 1);
    assert_eq!((ledger.unresolved(), ledger.unconfirmed()), (1, 2), "the second comes again too");
    ledger.resolve(first);
    assert_eq!(ledger.confirmed_lsn(), Lsn(300));
    assert_eq!(ledger.unconfirmed(), 0);
}

#[test]
fn an_idle_keepalive_moves_the_confirmed_lsn_and_a_busy_one_does_not() {
    let mut ledger = ledger();
    ledger.keepalive(Lsn(400));
    assert_eq!(ledger.confirmed_lsn(), Lsn(400));
    ledger.begin(Lsn(1), 0, 0);
    let ticket = ledger.take(1, 0, Instant::now());
    ledger.commit(Lsn(500));
    ledger.keepalive(Lsn(600));
    assert_eq!(ledger.confirmed_lsn(), Lsn(400));
    ledger.resolve(ticket);
    assert_eq!(ledger.confirmed_lsn(), Lsn(500), "only a keepalive that comes while idle counts");
    ledger.keepalive(Lsn(600));
    assert_eq!(ledger.confirmed_lsn(), Lsn(600));
    ledger.keepalive(Lsn(300));
    assert_eq!(ledger.confirmed_lsn(), Lsn(600), "it never falls");
}

#[test]
fn an_empty_transaction_is_confirmed_in_its_turn() {
    let mut ledger = ledger();
    ledger.begin(Lsn(1), 0, 0);
    assert!(!ledger.commit(Lsn(110)));
    assert_eq!(ledger.confirmed_lsn(), Lsn(110));
    ledger.begin(Lsn(1), 0, 0);
    let ticket = ledger.take(1, 0, Instant::now());
    ledger.commit(Lsn(120));
    ledger.begin(Lsn(1), 0, 0);
    ledger.commit(Lsn(130));
    assert_eq!(ledger.confirmed_lsn(), Lsn(110));
    ledger.resolve(ticket);
    assert_eq!(ledger.confirmed_lsn(), Lsn(130));
}

#[test]
fn empty_transactions_do_not_pile_up_behind_a_stuck_record() {
    let mut ledger = ledger();
    ledger.begin(Lsn(1), 0, 0);
    let stuck = ledger.take(1, 0, Instant::now());
    ledger.commit(Lsn(110));
    for n in 0..1_000 {
        ledger.begin(Lsn(1), 0, 0);
        ledger.commit(Lsn(200 + n));
    }
    assert_eq!((ledger.transactions.len(), ledger.confirmed_lsn()), (1, Lsn(100)));
    ledger.resolve(stuck);
    assert_eq!(ledger.confirmed_lsn(), Lsn(1_199));
}

#[test]
#[should_panic(expected = "resolved twice")]
fn a_ticket_resolves_once() {
    let mut ledger = ledger();
    ledger.begin(Lsn(1), 0, 0);
    let _first = ledger.take(1, 0, Instant::now());
    let second = ledger.take(1, 0, Instant::now());
    ledger.resolve(second);
    ledger.resolve(second);
}

proptest! {
    /// Any sizes of transactions, any order of acknowledgements, keepalives anywhere: the confirmed
    /// LSN is always the end of the longest resolved prefix.
    #[test]
    fn confirmed_is_the_end_of_the_longest_resolved_prefix(
        sizes in prop::collection::vec(0_usize..6, 1..40),
        order in prop::collection::vec(any::<prop::sample::Index>(), 240),
    ) {
        let now = Instant::now();
        let mut ledger = Ledger::new(Lsn(0));
        let mut tickets: Vec<(usize, Ticket)> = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            ledger.begin(Lsn(1), 0, 0);
            for _ in 0..*size {
                tickets.push((index, ledger.take(1, 0, now)));
            }
            ledger.commit(Lsn(10 * (index as u64 + 1)));
        }
        let mut left = sizes.clone();
        let check = |ledger: &Ledger, left: &[usize]| {
            let prefix = left.iter().take_while(|n| **n == 0).count() as u64;
            prop_assert_eq!(ledger.confirmed_lsn(), Lsn(10 * prefix));
            Ok(())
        };
        check(&ledger, &left)?;
        for pick in order {
            if tickets.is_empty() {
                break;
            }
            let (transaction, ticket) = tickets.swap_remove(pick.index(tickets.len()));
            ledger.resolve(ticket);
            left[transaction] -= 1;
            check(&ledger, &left)?;
        }
    }
}

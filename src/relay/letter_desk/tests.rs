use super::*;

#[tokio::test]
async fn a_desk_that_nobody_serves_says_so_instead_of_waiting_or_being_asked_again_and_again() {
    let ((orders, _), (_, answers)) = (mpsc::channel(1), mpsc::channel(1));
    let now = Instant::now();
    let hold = Hold::No;
    let mut desk = LetterDesk {
        orders,
        answers,
        under_way: None,
        look_at: now,
        count_at: now,
        holds_letters: true,
        uncounted: false,
        hold,
    };
    desk.order(Order::Look { keys: Vec::new(), count: false }, Vec::new());
    assert!(desk.under_way.is_some(), "the next turn orders nothing");
    let answer = timeout(Duration::from_secs(5), desk.answered()).await;
    assert!(matches!(answer, Ok(Answer::Gone)), "{answer:?}");
}

#[test]
fn letters_are_held_back_in_a_replay_but_not_while_they_pile_up() {
    let start = Instant::now();
    let hold = Hold::No.next(true, true, start);
    assert_eq!(hold.until(), Some(start + HOLD_IN_REPLAY));
    let soon = start + HOLD_IN_REPLAY / 2;
    assert_eq!(hold.next(true, true, soon), hold, "not longer for another look");
    let later = start + HOLD_IN_REPLAY;
    let over = hold.next(true, true, later);
    assert_eq!(over.next(true, true, later).until(), None, "all that gathered is stored");
    assert_eq!(over.next(true, false, later).until(), Some(later + HOLD_IN_REPLAY), "and held back again");
    assert_eq!(hold.next(false, true, soon), Hold::No, "nobody replays any more");
}

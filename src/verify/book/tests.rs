use super::*;

fn row(id: &str, committed: Option<i64>) -> Expected {
    Expected {
        table: 0,
        topic: 0,
        id: id.as_bytes().into(),
        partition_hash: 0,
        key: 1,
        written: committed,
        committed,
        begun: None,
        no_value: false,
        confirmed: true,
    }
}

fn record(id: &str) -> Passing<'_> {
    Passing { id: Some(id.as_bytes()), key: b"k", published: None }
}

fn book(rows: impl IntoIterator<Item = Expected>) -> Book {
    let mut book = Book::new(1);
    book.topic(&"t".into());
    rows.into_iter().for_each(|row| book.expect(row));
    book
}

fn seen(mut book: Book, ids: &[&str]) -> (Counts, Vec<Example>, Vec<NotFound>) {
    for id in ids {
        book.see(0, record(id), true);
    }
    let (counts, disordered, lost) = book.close(true);
    (counts.into_iter().next().unwrap(), disordered, lost)
}

#[test]
fn a_row_is_found_duplicated_or_not_found_and_a_strange_record_is_nobodys() {
    let mut book = book([row("a", None), row("b", None), row("c", None)]);
    assert!(!book.see(0, record("x"), true));
    let (counts, _, lost) = seen(book, &["a", "b", "a", "a"]);
    assert_eq!((counts.rows, counts.found, counts.duplicates), (3, 2, 2));
    assert_eq!(lost.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["c"]);
    assert!(!lost[0].expired);
}

#[test]
fn the_same_id_in_two_tables_needs_two_records() {
    let twice = || book([row("1", Some(0)), row("1", Some(0))]);
    let (counts, _, lost) = seen(twice(), &["1"]);
    assert_eq!((counts.found, counts.duplicates, lost.len()), (1, 0, 1));
    let (counts, _, lost) = seen(twice(), &["1", "1", "1"]);
    assert_eq!((counts.found, counts.duplicates, lost.len()), (2, 1, 0));
}

#[test]
fn disorder_is_claimed_only_of_first_records_and_of_commits_that_are_clearly_apart() {
    let rows = || [row("a", Some(0)), row("b", Some(99)), row("c", Some(250)), row("d", None)];
    for (ids, out_of_order, not_judged) in [
        (&["a", "b", "c", "d"][..], 0, 1),
        // Comes again in its old order.
        (&["a", "b", "c", "a", "b", "c"], 0, 0),
        // 99 ms prove nothing.
        (&["b", "a", "c"], 0, 1),
        (&["c", "a", "b"], 2, 0),
        (&["a", "c", "b", "c"], 1, 0),
    ] {
        let (counts, examples, _) = seen(book(rows()), ids);
        assert_eq!((counts.out_of_order, counts.order_not_judged), (out_of_order, not_judged), "{ids:?}");
        assert_eq!(examples.len() as u64, out_of_order);
    }
}

#[test]
fn another_key_has_an_order_of_its_own() {
    let other = Expected { key: 2, ..row("b", Some(0)) };
    let (counts, ..) = seen(book([row("a", Some(1000)), other]), &["a", "b"]);
    assert_eq!(counts.out_of_order, 0);
}

/// A row of a compacted topic that was not found: is it called expired?
fn expired_of(rows: Vec<Expected>, records: &[(&str, &[u8])], whole_keys: bool) -> bool {
    let mut book = Book::new(1);
    book.topic(&"t".into());
    // The row that is looked for, and others.
    rows.iter().for_each(|row| book.expect(Expected { key: book.key(b"k"), ..row.clone() }));
    book.compacted(0);
    for (id, key) in records {
        book.see(0, Passing { id: Some(id.as_bytes()), key, published: None }, true);
    }
    book.begins(0, vec![Start::Whole]);
    let (_, _, lost) = book.close(whole_keys);
    lost.iter().find(|row| row.id == "a").expect("a is not found").expired
}

#[test]
fn compaction_excuses_only_what_a_later_record_of_the_key_may_have_removed() {
    let a = row("a", Some(1_000));
    // No record of its key is there: nothing can have removed it.
    assert!(!expired_of(vec![a.clone()], &[("x", b"other")], true));
    // Unless it has no value itself, or a later one of its key had none.
    assert!(expired_of(vec![Expected { no_value: true, ..a.clone() }], &[], true));
    assert!(expired_of(vec![a.clone(), Expected { no_value: true, ..row("b", Some(2_000)) }], &[], true));
    // One of its key is there, of which nothing is known, or which is later.
    assert!(expired_of(vec![a.clone()], &[("x", b"k")], true));
    assert!(expired_of(vec![a.clone(), row("b", Some(2_000))], &[("b", b"k")], true));
    assert!(expired_of(vec![row("a", None), row("b", None)], &[("b", b"k")], true));
    // The last of its key by commit time, and only an earlier one is there.
    assert!(!expired_of(vec![a.clone(), row("b", Some(900))], &[("b", b"k")], true));
    assert!(expired_of(vec![a.clone(), row("b", Some(950))], &[("b", b"k")], true), "50 ms prove nothing");
    // The rest of its key is in another pass.
    assert!(expired_of(vec![a], &[], false));
}

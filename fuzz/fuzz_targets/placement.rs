//! Any text as `OUTBOX_PLACEMENT`: what is accepted can be followed, and says the same when written down.
#![no_main]

use libfuzzer_sys::fuzz_target;
use txstream::outbox::Placement;

fuzz_target!(|text: &str| {
    let Ok(list) = Placement::parse_list(text) else { return };
    assert!(list.iter().all(|one| !one.column.is_empty() && !one.header.is_empty() && one.header != "id"));
    let written: Vec<_> = list.iter().map(|one| format!("{}:header:{}", one.column, one.header)).collect();
    assert_eq!(Placement::parse_list(&written.join(",")), Ok(list));
});

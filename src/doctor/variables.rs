//! Settings that were accepted but are probably not what was meant: a misspelt name, a value that has no
//! effect.

use super::{Finding, Subject};

pub(super) const NAME: &str = "settings";

pub(super) fn check(subject: &Subject) -> Vec<Finding> {
    if subject.oddities.is_empty() {
        return vec![Finding::ok(NAME, "every setting was understood (txstream config shows them)")];
    }
    let odd = |oddity: &String| {
        Finding::warn(NAME, oddity.clone())
            .mended_by("correct its name or value where it is set, or remove it")
    };
    subject.oddities.iter().map(odd).collect()
}

//! Writing a figure where people read it: each bench has its own part of a Markdown file.

use std::path::Path;

/// Replaces what stands between `<!-- name:begin -->` and `<!-- name:end -->`; the rest of the file stays.
///
/// # Panics
/// If the file is there and has no such lines.
pub(crate) fn write_between_markers(path: &Path, name: &str, text: &str) {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let old = std::fs::read_to_string(path).unwrap_or_else(|_| format!("{begin}\n{end}\n"));
    let parts = old.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
    let (head, tail) = parts.unwrap_or_else(|| panic!("{} has no lines {begin} and {end}", path.display()));
    std::fs::write(path, format!("{head}{begin}\n{}\n{end}{tail}", text.trim_end())).unwrap();
}

/// The middle one; of an even number the lower of the two.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

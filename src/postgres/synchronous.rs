//! `synchronous_standby_names`: whom a commit waits for.

use std::fmt::Write as _;

/// The setting, read as the server reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyNames {
    /// `FIRST 2`, `ANY 1`; none is the bare list, which means the first one.
    method: Option<(&'static str, usize)>,
    /// Names, unquoted; `*` is everyone.
    names: Vec<String>,
}

impl StandbyNames {
    /// Reads the setting; `None` when it is empty or not as the server takes it.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (method, list) = match text.split_once('(') {
            None => (None, text),
            Some((head, list)) => {
                let words: Vec<&str> = head.split_whitespace().collect();
                let (name, count) = match words[..] {
                    [count] => ("FIRST", count),
                    [word, count] if word.eq_ignore_ascii_case("first") => ("FIRST", count),
                    [word, count] if word.eq_ignore_ascii_case("any") => ("ANY", count),
                    _ => return None,
                };
                (Some((name, count.parse().ok()?)), list.trim_end().strip_suffix(')')?)
            }
        };
        let names: Vec<String> = list.split(',').map(unquoted).filter(|name| !name.is_empty()).collect();
        (!names.is_empty()).then_some(Self { method, names })
    }

    /// Whether a session of this `application_name` would be waited for: by its name, in any case, or by `*`.
    pub fn names(&self, application_name: &str) -> bool {
        self.names.iter().any(|name| name == "*" || name.eq_ignore_ascii_case(application_name))
    }

    /// The setting without this name; `*` becomes the `others`. Empty when nobody is left.
    pub fn without(&self, application_name: &str, others: &[String]) -> String {
        let mut left: Vec<String> = Vec::new();
        for name in &self.names {
            let named = if name == "*" { others } else { std::slice::from_ref(name) };
            for name in named {
                if !name.eq_ignore_ascii_case(application_name) && !left.contains(name) {
                    left.push(name.clone());
                }
            }
        }
        let list: Vec<String> =
            left.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
        let list = list.join(", ");
        match self.method {
            _ if left.is_empty() => String::new(),
            None => list,
            Some((method, count)) => {
                let mut text = format!("{method} {} (", count.min(left.len()));
                let _ = write!(text, "{list})");
                text
            }
        }
    }
}

fn unquoted(name: &str) -> String {
    let name = name.trim();
    let inner = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
    inner.map_or_else(|| name.to_owned(), |inner| inner.replace("\"\"", "\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_is_found_in_every_form_and_taken_out_of_it() {
        for (setting, named, without) in [
            ("s1, s2", false, r#""s1", "s2""#),
            ("txstream", true, ""),
            ("TxStream", true, ""),
            (r#"s1, "txstream""#, true, r#""s1""#),
            ("*", true, r#""s1""#),
            ("FIRST 2 (s1, txstream)", true, r#"FIRST 1 ("s1")"#),
            ("any 1 (s1, s2, txstream)", true, r#"ANY 1 ("s1", "s2")"#),
            ("2 (s1, s2)", false, r#"FIRST 2 ("s1", "s2")"#),
            ("ANY 1 (*)", true, r#"ANY 1 ("s1")"#),
        ] {
            let names = StandbyNames::parse(setting).unwrap();
            assert_eq!(names.names("txstream"), named, "{setting}");
            assert_eq!(names.without("txstream", &["s1".to_owned()]), without, "{setting}");
        }
        for setting in ["", "  ", "SOME 1 (a)", "ANY x (a)", "ANY 1 (a", "ANY 1 ()"] {
            assert_eq!(StandbyNames::parse(setting), None, "{setting}");
        }
    }
}

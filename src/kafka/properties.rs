//! Properties as people write them: a properties file (`KAFKA_CONFIG_FILE`) or `-X name=value`.
//!
//! The file is read as Java reads one: `#` and `!` begin a comment, name and value are parted by
//! `=`, `:` or blanks, a backslash at the end continues the line, `\t \n \r \f \uXXXX` and escaped
//! signs stand for themselves. Two things are stricter, because both hide mistakes: a name without
//! value needs its `=`, and an unknown escape of a letter or digit is an error, not that letter.
//! Blanks at the end of a value are dropped unless escaped. No message shows a value.

use std::iter::Peekable;
use std::str::Chars;

use super::Property;

/// A line of a properties file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct LineError {
    /// The line's number, from 1; of a continued line the first.
    pub line: usize,
    /// What is wrong, without any value.
    pub reason: &'static str,
}

/// Reads a properties file. A name given twice comes twice, in order: the later one wins.
///
/// # Errors
/// All lines that cannot be read, not the first only.
pub fn parse_file(text: &str) -> Result<Vec<Property>, Vec<LineError>> {
    let (mut properties, mut errors) = (Vec::new(), Vec::new());
    for (line, logical) in logical_lines(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        match parse_line(&logical) {
            Ok(property) => properties.push(property),
            Err(reason) => errors.push(LineError { line, reason }),
        }
    }
    if errors.is_empty() { Ok(properties) } else { Err(errors) }
}

/// Reads the argument of `-X`: the text before the first `=` and all behind it, nothing escaped.
///
/// # Errors
/// A text without `=` or without a name. The error does not show the text: it may be a secret.
pub fn parse_argument(text: &str) -> Result<Property, &'static str> {
    let (name, value) = text.split_once('=').ok_or("needs the form name=value")?;
    let name = name.trim();
    if name.is_empty() {
        return Err("needs a name before the `=`");
    }
    Ok(Property { name: name.to_owned(), value: value.to_owned() })
}

/// Lines without comments and blank ones, continued lines joined, each with its first number.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, natural) in text.lines().enumerate() {
        let natural = natural.trim_start_matches(is_blank);
        let comment = natural.is_empty() || natural.starts_with(['#', '!']);
        // A continued line is no comment, whatever it begins with.
        if open.is_none() && comment {
            continue;
        }
        let (number, mut logical) = open.take().unwrap_or((index + 1, String::new()));
        let continued = trailing_backslashes(natural) % 2 == 1;
        logical.push_str(if continued { &natural[..natural.len() - 1] } else { natural });
        if continued {
            open = Some((number, logical));
        } else {
            lines.push((number, logical));
        }
    }
    lines.extend(open);
    lines
}

fn trailing_backslashes(line: &str) -> usize {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count()
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

fn parse_line(line: &str) -> Result<Property, &'static str> {
    let mut rest = line.chars().peekable();
    let mut name = String::new();
    while let Some(c) = rest.next_if(|c| !is_blank(*c) && !matches!(c, '=' | ':')) {
        name.push(if c == '\\' { unescape(&mut rest)? } else { c });
    }
    if name.is_empty() {
        return Err("needs a name before the `=`");
    }
    let blanks = skip_blanks(&mut rest);
    let separated = rest.next_if(|c| matches!(c, '=' | ':')).is_some();
    skip_blanks(&mut rest);
    if !separated && (blanks == 0 || rest.peek().is_none()) {
        return Err("needs the form name=value");
    }
    let (mut value, mut kept) = (String::new(), 0);
    while let Some(c) = rest.next() {
        value.push(if c == '\\' { unescape(&mut rest)? } else { c });
        if !is_blank(c) {
            kept = value.len();
        }
    }
    value.truncate(kept);
    Ok(Property { name, value })
}

fn skip_blanks(rest: &mut Peekable<Chars<'_>>) -> usize {
    std::iter::from_fn(|| rest.next_if(|c| is_blank(*c))).count()
}

/// The sign that an escape stands for; the backslash is already read.
fn unescape(rest: &mut Peekable<Chars<'_>>) -> Result<char, &'static str> {
    match rest.next() {
        Some('t') => Ok('\t'),
        Some('n') => Ok('\n'),
        Some('r') => Ok('\r'),
        Some('f') => Ok('\u{c}'),
        Some('u') => match utf16_unit(rest)? {
            high @ 0xd800..0xdc00 => {
                let low = match (rest.next(), rest.next()) {
                    (Some('\\'), Some('u')) => utf16_unit(rest)?,
                    _ => return Err("has half of a surrogate pair"),
                };
                char::decode_utf16([high, low])
                    .next()
                    .and_then(Result::ok)
                    .ok_or("has half of a surrogate pair")
            }
            unit => char::from_u32(unit.into()).ok_or("has half of a surrogate pair"),
        },
        Some(c) if c.is_alphanumeric() => Err("has an unknown escape; write a backslash as \\\\"),
        Some(c) => Ok(c),
        None => Err("ends within an escape"),
    }
}

fn utf16_unit(rest: &mut Peekable<Chars<'_>>) -> Result<u16, &'static str> {
    let mut unit = 0;
    for _ in 0..4 {
        let digit = rest.next().and_then(|c| c.to_digit(16)).ok_or("needs four hex digits after \\u")?;
        unit = unit << 4 | digit;
    }
    u16::try_from(unit).map_err(|_| "needs four hex digits after \\u")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse_file(text).unwrap().into_iter().map(|p| (p.name, p.value)).collect()
    }

    fn one(text: &str) -> (String, String) {
        let mut pairs = pairs(text);
        assert_eq!(pairs.len(), 1, "{text:?}");
        pairs.remove(0)
    }

    #[test]
    fn lines_are_read_as_java_reads_them() {
        for (text, name, value) in [
            ("a=b", "a", "b"),
            ("a = b", "a", "b"),
            ("  a\t:\tb", "a", "b"),
            ("a b c", "a", "b c"),
            ("a==b", "a", "=b"),
            ("a=b=c:d", "a", "b=c:d"),
            ("a=", "a", ""),
            ("a=b  ", "a", "b"),
            (r"a=b\ ", "a", "b "),
            ("a=b\r\n", "a", "b"),
            ("a=b\\\n   c", "a", "bc"),
            ("a=b\\\n# c", "a", "b# c"),
            (r"a=b\\", "a", r"b\"),
            (r"a\=b\ c=d", "a=b c", "d"),
            (r"a=\t\n\u00e9\ud83d\ude00\:", "a", "\t\n\u{e9}\u{1f600}:"),
            ("\u{feff}a=b", "a", "b"),
            ("a=b\\", "a", "b"),
        ] {
            assert_eq!(one(text), (name.to_owned(), value.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn comments_and_blank_lines_are_skipped_and_order_is_kept() {
        let text = "# c\n! c\n\n   \nb=1\na=2\n  # c\nb=3\n";
        let owned = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(pairs(text), [owned("b", "1"), owned("a", "2"), owned("b", "3")]);
    }

    #[test]
    fn all_bad_lines_are_named_and_no_value_is_shown() {
        let text = "ok=1\nname\n\n=hunter2\nx=hunter2\\\n\\q\ny=\\u12\nz=\\ud800hunter2";
        let errors = parse_file(text).unwrap_err();
        assert_eq!(errors.iter().map(|e| e.line).collect::<Vec<_>>(), [2, 4, 5, 7, 8]);
        assert!(!errors.iter().any(|e| e.to_string().contains("hunter2")));
    }

    #[test]
    fn an_argument_is_split_at_its_first_equals_sign() {
        let property = parse_argument("sasl.password=a=b\\n ").unwrap();
        assert_eq!((&*property.name, &*property.value), ("sasl.password", "a=b\\n "));
        assert!(parse_argument("hunter2").is_err());
        assert!(parse_argument("=hunter2").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "(?s)[a =:\\\\\n\r#u0d8ü]{0,40}") {
            let _ = parse_file(&text);
        }
    }
}

//! A table's name, read by SQL's rules.

use std::fmt;

/// A table's name, resolved by SQL's rules: unquoted folds to lower case, unqualified means `public`.
///
/// Displays as `schema.name`, quoted only where reading it again needs that.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// Schema, unquoted.
    pub schema: String,
    /// Table, unquoted.
    pub name: String,
}

/// A list of tables that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a list of tables: {reason}")]
pub struct TableNameError {
    text: String,
    reason: String,
}

/// Postgres cuts longer names (NAMEDATALEN - 1), so that a longer one can name no table.
const NAME_BYTES_MAX: usize = 63;

impl TableName {
    /// Reads a comma-separated list such as `public.outbox, "My Schema"."Out.box"`.
    ///
    /// # Errors
    /// [`TableNameError`] saying what is wrong, for an empty list and a table named twice too.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, TableNameError> {
        let wrong = |reason| TableNameError { text: text.to_owned(), reason };
        let mut rest = skip_blanks(text);
        if rest.is_empty() {
            return Err(wrong("it names no table".to_owned()));
        }
        let mut tables: Vec<Self> = Vec::new();
        loop {
            let table;
            (table, rest) = parse_table(rest).map_err(wrong)?;
            if tables.contains(&table) {
                return Err(wrong(format!("{table} is named twice")));
            }
            tables.push(table);
            match rest.chars().next() {
                None => return Ok(tables),
                Some(',') => rest = skip_blanks(rest.get(1..).unwrap_or_default()),
                Some(other) => return Err(wrong(format!("{other:?} came where a comma was expected"))),
            }
        }
    }

    /// `"schema"."name"`, for SQL.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |name: &str| if is_plain(name) { name.to_owned() } else { quote(name) };
        write!(f, "{}.{}", part(&self.schema), part(&self.name))
    }
}

/// One table at the start of `text`; also what follows it and its blanks.
fn parse_table(text: &str) -> Result<(TableName, &str), String> {
    let (first, rest) = parse_identifier(text)?;
    let Some(rest) = rest.strip_prefix('.') else {
        return Ok((TableName { schema: "public".to_owned(), name: first }, rest));
    };
    let (second, rest) = parse_identifier(skip_blanks(rest))?;
    if rest.starts_with('.') {
        return Err("a table is schema.name at most; the database is the connection's".to_owned());
    }
    Ok((TableName { schema: first, name: second }, rest))
}

/// One identifier at the start of `text`; also what follows it and its blanks.
fn parse_identifier(text: &str) -> Result<(String, &str), String> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(inner) => parse_quoted(inner)?,
        None => {
            let end = text.find(|c| !is_identifier_part(c)).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            if let Some(first) = name.chars().next().filter(|c| c.is_ascii_digit() || *c == '$') {
                return Err(format!("a name cannot start with {first:?} unless it is quoted"));
            }
            // Postgres folds ASCII letters only where the encoding has more than one byte.
            (name.to_ascii_lowercase(), rest)
        }
    };
    match name.len() {
        0 => Err(match rest.chars().next() {
            Some(other) if other != ',' => format!("{other:?} came where a name was expected"),
            _ => "a name is missing".to_owned(),
        }),
        length if length > NAME_BYTES_MAX => {
            Err(format!("a name has {length} bytes, Postgres allows {NAME_BYTES_MAX}"))
        }
        _ if name.contains('\0') => Err("a name contains a NUL".to_owned()),
        _ => Ok((name, skip_blanks(rest))),
    }
}

/// The identifier whose opening quote was read.
fn parse_quoted(mut rest: &str) -> Result<(String, &str), String> {
    let mut name = String::new();
    loop {
        let (part, after) = rest.split_once('"').ok_or("a quote is not closed")?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None if name.is_empty() => return Err("a quoted name is empty".to_owned()),
            None => return Ok((name, after)),
        }
    }
}

/// What follows SQL's blanks. Those beyond ASCII are none: Postgres takes them for parts of a name.
fn skip_blanks(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c'])
}

fn is_identifier_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// Whether the name means itself without quotes.
fn is_plain(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit() || c == '$')
        && name.chars().all(|c| is_identifier_part(c) && !c.is_ascii_uppercase())
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::TableName;

    fn table(schema: &str, name: &str) -> TableName {
        TableName { schema: schema.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn reads_names_as_sql_does() {
        for (text, expected) in [
            ("outbox", vec![table("public", "outbox")]),
            (" Public . OutBox ", vec![table("public", "outbox")]),
            (
                "public.outbox, \"My Schema\".\"Out.box\"",
                vec![table("public", "outbox"), table("My Schema", "Out.box")],
            ),
            ("\"a\"\"b\",_x$1", vec![table("public", "a\"b"), table("public", "_x$1")]),
            ("ÄÖ", vec![table("public", "ÄÖ")]),
            ("\"OutboxEvent\"", vec![table("public", "OutboxEvent")]),
        ] {
            assert_eq!(TableName::parse_list(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, reason) in [
            ("", "it names no table"),
            ("  ", "it names no table"),
            ("a,", "a name is missing"),
            (",a", "a name is missing"),
            ("a..b", "'.' came where a name was expected"),
            ("a.", "a name is missing"),
            ("db.s.t", "a table is schema.name at most; the database is the connection's"),
            ("a b", "'b' came where a comma was expected"),
            ("my-table", "'-' came where a comma was expected"),
            ("1a", "a name cannot start with '1' unless it is quoted"),
            ("\"a", "a quote is not closed"),
            ("\"\"", "a quoted name is empty"),
            ("a, PUBLIC.A", "public.a is named twice"),
            ("\"a\0\"", "a name contains a NUL"),
        ] {
            assert_eq!(TableName::parse_list(text).unwrap_err().reason, reason, "{text}");
        }
        let error = TableName::parse_list(&"x".repeat(64)).unwrap_err();
        assert_eq!(error.reason, "a name has 64 bytes, Postgres allows 63");
    }

    #[test]
    fn is_quoted_only_where_needed() {
        for (name, shown, quoted) in [
            (table("public", "outbox"), "public.outbox", "\"public\".\"outbox\""),
            (table("My Schema", "Out.box"), "\"My Schema\".\"Out.box\"", "\"My Schema\".\"Out.box\""),
            (table("s", "a\"b"), "s.\"a\"\"b\"", "\"s\".\"a\"\"b\""),
            (table("s", "1"), "s.\"1\"", "\"s\".\"1\""),
            // No blanks for Postgres, but parts of a name.
            (table("\u{85}s", "\u{3000}"), "\u{85}s.\u{3000}", "\"\u{85}s\".\"\u{3000}\""),
        ] {
            assert_eq!(name.to_string(), shown);
            assert_eq!(name.quoted(), quoted);
            assert_eq!(TableName::parse_list(shown).unwrap(), [name]);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(schema in "[^\0]{1,15}", name in "[^\0]{1,15}") {
            let name = table(&schema, &name);
            prop_assert_eq!(&TableName::parse_list(&name.to_string()).unwrap()[..], std::slice::from_ref(&name));
            prop_assert_eq!(&TableName::parse_list(&name.quoted()).unwrap()[..], &[name]);
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            let _ = TableName::parse_list(&text);
        }
    }
}

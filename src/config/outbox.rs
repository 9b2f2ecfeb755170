//! `OUTBOX_TABLE` and `OUTBOX_PLACEMENT`: names as SQL and Debezium write them.

use std::iter::Peekable;
use std::str::Chars;

use crate::outbox::{Placement, TableName};

/// Postgres cuts longer identifiers silently (NAMEDATALEN).
const LONGEST_NAME: usize = 63;

/// Comma-separated table names by SQL's rules: unquoted folds to lower case, unqualified means `public`.
pub(super) fn tables(text: &str) -> Result<Vec<TableName>, String> {
    let mut rest = text.chars().peekable();
    let mut tables = Vec::new();
    loop {
        let first = identifier(&mut rest)?;
        let table = if rest.next_if_eq(&'.').is_some() {
            TableName { schema: first, name: identifier(&mut rest)? }
        } else {
            TableName { schema: "public".to_owned(), name: first }
        };
        if tables.contains(&table) {
            return Err(format!("{}.{} is named twice", table.schema, table.name));
        }
        tables.push(table);
        match rest.next() {
            None => return Ok(tables),
            Some(',') => {}
            Some(other) => return Err(format!("{other:?} after {:?}; {HOW}", tables[tables.len() - 1].name)),
        }
    }
}

const HOW: &str =
    "write schema.table, comma-separated, with double quotes around a name that is not lower-case";

fn identifier(rest: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    blanks(rest);
    let name = if rest.next_if_eq(&'"').is_some() { quoted(rest)? } else { unquoted(rest) };
    blanks(rest);
    match name.len() {
        0 => Err(format!("a name is missing; {HOW}")),
        1..=LONGEST_NAME => Ok(name),
        _ => Err(format!("{name:?} is longer than the {LONGEST_NAME} bytes that Postgres keeps of a name")),
    }
}

fn quoted(rest: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let mut name = String::new();
    loop {
        match rest.next() {
            Some('"') if rest.next_if_eq(&'"').is_none() => return Ok(name),
            Some(c) => name.push(c),
            None => return Err(format!("the quotes around {name:?} are not closed")),
        }
    }
}

/// Letters, digits, `_` and `$`, not beginning with a digit or `$`; only ASCII folds, as in a UTF-8 database.
fn unquoted(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut name = String::new();
    let letter = |c: &char| c.is_ascii_alphabetic() || *c == '_' || !c.is_ascii();
    while let Some(c) = rest.next_if(|c| letter(c) || (!name.is_empty() && (c.is_ascii_digit() || *c == '$')))
    {
        name.push(c.to_ascii_lowercase());
    }
    name
}

fn blanks(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| c.is_whitespace()).is_some() {}
}

/// Comma-separated `column:header[:name]`, Debezium's `table.fields.additional.placement`.
pub(super) fn placement(text: &str) -> Result<Vec<Placement>, String> {
    let mut placements: Vec<Placement> = Vec::new();
    for entry in text.split(',').map(str::trim) {
        let parts: Vec<&str> = entry.split(':').map(str::trim).collect();
        let (column, header) = match parts[..] {
            [column, "header"] => (column, column),
            [column, "header", header] => (column, header),
            [_, place @ ("envelope" | "partition"), ..] => {
                return Err(format!("{entry:?}: placement {place} is not in this version; only header is"));
            }
            _ => {
                return Err(format!(
                    "{entry:?} is not a placement; write column:header or column:header:name"
                ));
            }
        };
        if column.is_empty() || header.is_empty() {
            return Err(format!("{entry:?} lacks a name; write column:header or column:header:name"));
        }
        if header == "id" || placements.iter().any(|other| other.header == header) {
            return Err(format!(
                "{entry:?}: the record has a header {header:?} already; give it another name"
            ));
        }
        placements.push(Placement { column: column.to_owned(), header: header.to_owned() });
    }
    Ok(placements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_follow_sql() {
        for (text, expected) in [
            ("outbox", &[("public", "outbox")][..]),
            ("Public.Outbox", &[("public", "outbox")]),
            (" a.b , c ", &[("a", "b"), ("public", "c")]),
            (r#""My Schema"."Out""box""#, &[("My Schema", "Out\"box")]),
            (r#""a,b.c""#, &[("public", "a,b.c")]),
            ("_x$1", &[("public", "_x$1")]),
            ("ÄPFEL", &[("public", "Äpfel")]),
        ] {
            let tables = tables(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let found: Vec<_> = tables.iter().map(|t| (t.schema.as_str(), t.name.as_str())).collect();
            assert_eq!(found, expected, "{text}");
        }
        let long = "x".repeat(64);
        for text in
            ["", ",", "a,", "a..b", "a.b.c", "1a", "a b", "\"a", "\"\"", "a-b", "a,public.A", long.as_str()]
        {
            assert!(tables(text).is_err(), "{text}");
        }
        assert!(tables(&long[1..]).is_ok());
    }

    #[test]
    fn placements_follow_debezium_as_far_as_headers_go() {
        let found = placement("type:header:eventType, tenant:header").unwrap();
        let found: Vec<_> = found.iter().map(|p| (p.column.as_str(), p.header.as_str())).collect();
        assert_eq!(found, [("type", "eventType"), ("tenant", "tenant")]);
        for text in [
            "",
            "type",
            "type:body",
            ":header",
            "a:header:",
            "a:header:b:c",
            "a:header,",
            "a:header:id",
            "a:header,b:header:a",
        ] {
            assert!(placement(text).is_err(), "{text}");
        }
        assert!(placement("n:partition").unwrap_err().contains("not in this version"));
    }

    proptest::proptest! {
        #[test]
        fn any_quoted_name_comes_back_and_no_text_panics(schema in ".{1,15}", name in ".{1,15}") {
            let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
            let found = tables(&format!("{}.{}", quote(&schema), quote(&name)));
            let _ = (tables(&name), placement(&name));
            proptest::prop_assert_eq!(found, Ok(vec![TableName { schema, name }]));
        }
    }
}

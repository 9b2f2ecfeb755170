//! The two spellings of a connection string, taken apart into keys and values as libpq does it.
//!
//! Messages never quote values: a password with a stray `@`, `/` or blank lands in any of them.

use super::ConnInfoError;

type Pairs = Vec<(String, String)>;
type Problems = Vec<ConnInfoError>;

/// Keys and values in the order of the text (a later one beats an earlier one), and what is wrong
/// with the rest of it.
pub(super) fn pairs(text: &str) -> (Pairs, Problems) {
    let text = text.trim();
    let (mut pairs, mut problems) = (Pairs::new(), Problems::new());
    let uri_text = ["postgresql://", "postgres://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let foreign_scheme = text.split_once("://").is_some_and(|(scheme, _)| !scheme.contains(['=', ' ', '\'']));
    if text.contains('\0') {
        problems.push(problem("a connection string cannot contain a zero byte"));
    } else if let Some(rest) = uri_text {
        uri(rest, &mut pairs, &mut problems);
    } else if foreign_scheme {
        problems.push(problem("a connection URI starts with postgresql:// or postgres://"));
    } else {
        problems.extend(keywords(text, &mut pairs).err());
    }
    (pairs, problems)
}

fn problem(text: &str) -> ConnInfoError {
    ConnInfoError(text.to_owned())
}

// ---- keyword strings

fn keywords(text: &str, pairs: &mut Pairs) -> Result<(), ConnInfoError> {
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let nth = pairs.len() + 1;
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let Some(after) = after.trim_start().strip_prefix('=') else {
            return Err(ConnInfoError(format!(
                "setting {nth} of the connection string has no `=`; a value with blanks is written 'in quotes'"
            )));
        };
        let (value, after) = keyword_value(after.trim_start()).ok_or_else(|| {
            ConnInfoError(format!("setting {nth} of the connection string has no closing quote"))
        })?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(())
}

/// A value and what follows it; `None` without its closing quote. A backslash makes the next
/// character ordinary, inside quotes and outside.
fn keyword_value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, next)| next)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

// ---- URIs

/// `[user[:password]@][host[:port],…][/dbname][?key=value&…]`, each part percent-decoded.
fn uri(text: &str, pairs: &mut Pairs, problems: &mut Problems) {
    let mut parts: Vec<(String, String)> = Vec::new();
    let mut rest = text;
    if let Some(at) = rest.find(['@', '/']).filter(|&at| rest[at..].starts_with('@')) {
        let (user, password) = match rest[..at].split_once(':') {
            Some((user, password)) => (user, password),
            None => (&rest[..at], ""),
        };
        parts.push(("user".into(), user.into()));
        parts.push(("password".into(), password.into()));
        rest = &rest[at + 1..];
    }
    let (hosts, ports, after) = match host_list(rest) {
        Ok(list) => list,
        Err(problem) => return problems.push(problem),
    };
    for (key, list) in [("host", hosts), ("port", ports)] {
        if list.iter().any(|item| !item.is_empty()) {
            parts.push((key.into(), list.join(",")));
        }
    }
    let (path, query) = after.split_once('?').unwrap_or((after, ""));
    parts.push(("dbname".into(), path.strip_prefix('/').unwrap_or_default().into()));
    // Everything behind the first of them would be shown, as a host or a database.
    for (key, _) in
        parts.iter().filter(|(key, text)| ["host", "dbname"].contains(&&**key) && text.contains('@'))
    {
        problems.push(ConnInfoError(format!(
            "the {key} in the connection URI contains an `@`; write `/`, `@` and `:` in a password as %2F, %40, %3A \
             (and an `@` that belongs there as %40)"
        )));
    }
    for (i, parameter) in query.split('&').enumerate().filter(|_| !query.is_empty()) {
        match parameter.split_once('=').map(|(key, value)| (percent_decode(key), value)) {
            Some((Some(key), value)) if !value.contains('=') => parts.push((key, value.into())),
            _ => problems.push(ConnInfoError(format!(
                "parameter {} of the connection URI is not key=value; write `=` in a value as %3D",
                i + 1
            ))),
        }
    }
    for (key, text) in parts.into_iter().filter(|(_, text)| !text.is_empty()) {
        match percent_decode(&text) {
            Some(value) => pairs.push(jdbc_ssl((key, value))),
            None => problems.push(ConnInfoError(format!(
                "the {} in the connection URI is not well percent-encoded; write a `%` as %25",
                super::keys::printable(&key)
            ))),
        }
    }
}

/// libpq takes `ssl=true`, as JDBC writes it, for `sslmode=require`.
fn jdbc_ssl((key, value): (String, String)) -> (String, String) {
    if key == "ssl" && value == "true" { ("sslmode".into(), "require".into()) } else { (key, value) }
}

type HostList<'a> = (Vec<&'a str>, Vec<&'a str>, &'a str);

/// Hosts, ports (empty where not given) and what follows them.
fn host_list(mut rest: &str) -> Result<HostList<'_>, ConnInfoError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    loop {
        let host = if let Some(inner) = rest.strip_prefix('[') {
            let end = inner
                .find(']')
                .ok_or_else(|| problem("an IPv6 address in the connection URI has no closing `]`"))?;
            rest = &inner[end + 1..];
            if !rest.is_empty() && !rest.starts_with([':', '/', '?', ',']) {
                return Err(problem(
                    "after the `]` of an address in the connection URI a `:` or `/` must come",
                ));
            }
            &inner[..end]
        } else {
            let end = rest.find([':', '/', '?', ',']).unwrap_or(rest.len());
            let host = &rest[..end];
            rest = &rest[end..];
            host
        };
        let port = match rest.strip_prefix(':') {
            Some(after) => {
                let end = after.find(['/', '?', ',']).unwrap_or(after.len());
                rest = &after[end..];
                &after[..end]
            }
            None => "",
        };
        hosts.push(host);
        ports.push(port);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Ok((hosts, ports, rest)),
        }
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let value = u8::try_from(digit()? * 16 + digit()?).ok()?;
            if value == 0 {
                return None;
            }
            bytes.push(value);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Encodes everything but unreserved characters.
pub(super) fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

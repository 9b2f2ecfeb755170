//! The password file (`~/.pgpass`): `host:port:database:user:password` lines, the first match counts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Endpoint;
use crate::secret::Secret;

/// libpq's default socket directories: their connections are called `localhost` in the file.
const DEFAULT_SOCKET_DIRS: [&str; 3] = ["/tmp", "/var/run/postgresql", "/run/postgresql"];

/// The password for this connection. A missing file is no error, and one that others may read is
/// left alone with a warning, both as in libpq.
pub(super) fn lookup(path: &Path, endpoint: &Endpoint, dbname: &str, user: &str) -> Option<Secret> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() {
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "password file ignored: others may read it; chmod 0600 mends that");
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let host = match endpoint.host.as_str() {
        "" => "localhost",
        dir if endpoint.is_unix() && DEFAULT_SOCKET_DIRS.contains(&dir) => "localhost",
        host => host,
    };
    let port = endpoint.port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let wanted = [host, &port, dbname, user];
        let matches = fields.len() == 5
            && wanted.iter().zip(&fields).all(|(wanted, (text, star))| *star || text == wanted);
        matches.then(|| Secret::new(fields[4].0.clone()))
    })
}

/// The five fields, unescaped, each with whether it is a bare `*`. The password is the rest of the line.
fn fields(line: &str) -> Vec<(String, bool)> {
    let mut fields = Vec::with_capacity(5);
    let mut field = String::new();
    let mut raw_len = 0;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                field.extend(chars.next());
                raw_len += 2;
            }
            ':' if fields.len() < 4 => {
                let star = field == "*" && raw_len == 1;
                fields.push((std::mem::take(&mut field), star));
                raw_len = 0;
            }
            c => {
                field.push(c);
                raw_len += 1;
            }
        }
    }
    fields.push((field, false));
    fields
}

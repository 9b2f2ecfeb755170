//! Passwords and events in clear text on a network.

use std::net::IpAddr;

use super::server::Server;
use super::{Checked, Finding};

pub(super) const NAME: &str = "encryption";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    const SQL: &str = "select coalesce(bool_or(ssl), false), host(inet_client_addr())
                         from pg_catalog.pg_stat_ssl where pid = pg_backend_pid()";
    let rows = server.rows("look whether the connection is encrypted", SQL, &[]).await?;
    let (encrypted, from): (bool, Option<String>) =
        rows.first().map_or((false, None), |row| (row.get(0), row.get(1)));
    Ok(vec![judge(encrypted, from.and_then(|address| address.parse().ok()))])
}

/// `from` is our address as the server sees it; none on a Unix socket.
fn judge(encrypted: bool, from: Option<IpAddr>) -> Finding {
    match from {
        _ if encrypted => Finding::ok(NAME, "the connection to Postgres is encrypted"),
        None => Finding::ok(NAME, "the connection to Postgres is a Unix socket"),
        Some(address) if address.is_loopback() => {
            Finding::ok(NAME, "the connection to Postgres does not leave this host")
        }
        Some(address) => Finding::warn(
            NAME,
            format!(
                "the connection to Postgres is not encrypted, and it comes from another host ({address})"
            ),
        )
        .mended_by("set DB_SSL_MODE=verify-full and DB_SSL_ROOT_CERT, or DB_SSL_MODE=require"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn clear_text_counts_only_on_a_network() {
        for (encrypted, from, status) in [
            (true, Some("10.0.0.7"), Status::Ok),
            (false, None, Status::Ok),
            (false, Some("127.0.0.1"), Status::Ok),
            (false, Some("::1"), Status::Ok),
            (false, Some("10.0.0.7"), Status::Warn),
            (false, Some("2001:db8::7"), Status::Warn),
        ] {
            let finding = judge(encrypted, from.map(|address| address.parse().unwrap()));
            assert_eq!(finding.status, status, "{encrypted} {from:?}");
            assert_eq!(finding.mend.is_some(), status == Status::Warn);
        }
    }
}

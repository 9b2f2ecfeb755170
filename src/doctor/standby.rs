//! A standby in recovery: the relay waits for it to be promoted, and the slot must be there by then.

use postgres_protocol::escape::escape_literal;

use super::finding::set;
use super::server::{FAILOVER_SLOTS, Server};
use super::{Checked, Finding};
use crate::postgres::PgError;

pub(super) const NAME: &str = "standby";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    if !server.in_recovery {
        return Ok(vec![Finding::ok(NAME, "the server is a primary")]);
    }
    let here =
        Finding::warn(NAME, "the server is a standby in recovery: a relay waits until it is the primary")
            .mended_by(
                "set REPLICATION_URL to the primary, unless it is this standby that you want to examine",
            );
    let mut findings = vec![here];
    if server.version < FAILOVER_SLOTS {
        return Ok(findings);
    }
    if server.setting("sync_replication_slots").await?.as_deref() == Some("off") {
        findings.push(
            Finding::fail(NAME, "sync_replication_slots is off: the slot will not be here after a failover")
                .mended_by(set("sync_replication_slots", "on")),
        );
    }
    if server.setting("hot_standby_feedback").await?.as_deref() == Some("off") {
        findings.push(
            Finding::fail(
                NAME,
                "hot_standby_feedback is off: the primary may remove catalog rows that the synced slot needs",
            )
            .mended_by(set("hot_standby_feedback", "on")),
        );
    }
    if server.setting("primary_slot_name").await?.unwrap_or_default().is_empty() {
        findings.push(
            Finding::fail(NAME, "primary_slot_name is empty: slots are only synced through a physical slot")
                .mended_by(
                    "on the primary: SELECT pg_create_physical_replication_slot('standby1'); here: ALTER SYSTEM SET \
                     primary_slot_name = 'standby1'; SELECT pg_reload_conf();",
                ),
        );
    }
    if let Some(nameless) = conninfo(server).await?.filter(|conninfo| !names_a_database(conninfo)) {
        let why = "primary_conninfo names no database: slots are only synced through a connection to one";
        findings.push(Finding::fail(NAME, why).mended_by(with_database(&nameless, &server.database)));
    }
    Ok(findings)
}

/// `primary_conninfo`; none where the role may not read it, since it may hold a password.
async fn conninfo(server: &Server<'_>) -> Result<Option<String>, PgError> {
    let sql = "select max(setting) from pg_catalog.pg_settings where name = 'primary_conninfo'";
    server.value("read primary_conninfo", sql, &[]).await
}

/// What follows the scheme of an address in one piece.
fn uri(conninfo: &str) -> Option<&str> {
    ["postgresql://", "postgres://"].iter().find_map(|scheme| conninfo.strip_prefix(scheme))
}

fn names_a_database(conninfo: &str) -> bool {
    const KEY: &str = "dbname";
    let is_key = |at: usize| conninfo[at + KEY.len()..].trim_start().starts_with('=');
    let has_path = |rest: &str| {
        let address = rest.split('?').next().unwrap_or_default();
        address.split_once('/').is_some_and(|(_, path)| !path.is_empty())
    };
    conninfo.match_indices(KEY).any(|(at, _)| is_key(at)) || uri(conninfo).is_some_and(has_path)
}

/// For psql, with the setting put together at the server: it may hold a password, and is not shown.
fn with_database(conninfo: &str, database: &str) -> String {
    if uri(conninfo).is_some() {
        return "write the name of a database into primary_conninfo, behind the address: /postgres"
            .to_owned();
    }
    let database = database.replace('\\', r"\\").replace('\'', r"\'");
    let addition = escape_literal(&format!(" dbname='{database}'"));
    format!(
        r"SELECT format('ALTER SYSTEM SET primary_conninfo = %L', current_setting('primary_conninfo') || {}) \gexec \\ SELECT pg_reload_conf();",
        addition.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_found_in_every_form_of_an_address() {
        for (conninfo, named) in [
            ("host=h port=5432 user=u dbname=postgres", true),
            ("host=h dbname = 'my app'", true),
            ("host=h user=u application_name=dbname", false),
            ("host=h user=u", false),
            ("", false),
            ("postgresql://u@h:5432/postgres?sslmode=require", true),
            ("postgres://u@h?dbname=postgres", true),
            ("postgresql://u@h:5432", false),
            ("postgresql://u@h/?sslmode=require", false),
        ] {
            assert_eq!(names_a_database(conninfo), named, "{conninfo}");
        }
    }

    #[test]
    fn what_adds_a_database_shows_no_password() {
        for conninfo in ["host=h password=secret", "postgresql://u:secret@h"] {
            let mend = with_database(conninfo, "app");
            assert!(mend.contains("primary_conninfo") && !mend.contains("secret"), "{mend}");
        }
        assert!(with_database("host=h", "app").contains("|| ' dbname=''app''')"));
    }
}

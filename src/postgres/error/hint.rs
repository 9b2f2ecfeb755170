//! What a person should do about an error. The texts of the server only choose the hint; what an
//! error means is decided by its SQLSTATE.

use std::io;

use super::{LockHolder, PgError, ServerError, report};

const POOLER: &str = "replication needs a direct connection: if this address is a connection pooler \
                      (PgBouncer, Pgpool, RDS Proxy, Supavisor), set REPLICATION_URL to the server itself";

pub(super) fn of(error: &PgError) -> Option<String> {
    match error {
        PgError::Server { replication_command, error, .. } => of_server(error, *replication_command),
        PgError::Sql(sql) => of_server(&sql.as_db_error()?.into(), false),
        PgError::Io { source, .. } => of_io(source).map(str::to_owned),
        PgError::Tls { .. } => Some(of_tls(&report(error)).to_owned()),
        PgError::Locked { holders, .. } => Some(holders.iter().find_map(LockHolder::end).map_or_else(
            || "it goes on by itself".to_owned(),
            |sql| format!("it goes on by itself when that ends; to end it: {sql}"),
        )),
        PgError::Timeout { .. } => {
            Some("check host and port, firewalls and security groups; connect_timeout sets the limit".into())
        }
        PgError::Closed { doing } | PgError::Protocol { doing, .. } if doing.contains("replication") => {
            Some(POOLER.into())
        }
        _ => None,
    }
}

fn of_io(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            Some("check host and port, and that Postgres is running and listens there")
        }
        io::ErrorKind::NotFound => {
            Some("there is no such socket: check the directory and the port, and that Postgres is running")
        }
        io::ErrorKind::PermissionDenied => Some("the user of this process may not use that socket"),
        _ => None,
    }
}

fn of_tls(text: &str) -> &'static str {
    if text.contains("does not offer TLS") {
        "switch TLS on at the server (ssl = on), or choose sslmode=prefer or disable"
    } else if text.contains("hostname mismatch") || text.contains("IP address mismatch") {
        "the certificate is for another name: connect by a name it holds, or choose sslmode=verify-ca"
    } else if text.contains("certificate") {
        "name the authority that signed the server's certificate in sslrootcert (`system` for a public one)"
    } else {
        "check sslmode, the certificates and the TLS versions both sides allow"
    }
}

fn of_server(error: &ServerError, replication_command: bool) -> Option<String> {
    let says = |text: &str| error.message.contains(text);
    let hint = match error.code.as_str() {
        "08P01" | "42601" if replication_command => POOLER,
        "28P01" => "check user and password",
        "28000" if says("pg_hba.conf") => {
            "add a line for this database, user and address to pg_hba.conf (a logical replication \
             connection matches by database name, like any other) and reload"
        }
        "28000" if says("does not exist") => "create the role, or check the user name",
        "28000" => "check that the role exists, may LOGIN, and how pg_hba.conf lets it in",
        "3D000" => "check the database name, or create it with: createdb NAME",
        "42501" if replication_command || says("replication") || says("WAL sender") => {
            "let the role replicate: ALTER ROLE name REPLICATION (on Amazon RDS: GRANT rds_replication TO name)"
        }
        "42501" => "grant the role what is missing",
        "42704" if says("publication") => {
            "create it with: txstream migrate up; if it exists, the slot is older than it and cannot decode what \
             came before: txstream slot reset --backfill"
        }
        "42704" if says("replication slot") => "create it with: txstream slot create",
        "55000" if says("wal_level") => {
            "ALTER SYSTEM SET wal_level = logical, then restart Postgres \
             (on Amazon RDS: rds.logical_replication = 1 in the parameter group, then reboot)"
        }
        "55000" if says("replication slot") || says("skipped loading publication") => SLOT_LOST,
        "58P01" => SLOT_LOST,
        "55006" => "another process holds the slot; see: txstream slot status",
        "53300" if says("max_wal_senders") => "raise max_wal_senders and restart Postgres",
        "53300" => "raise max_connections, or close connections that nobody needs",
        "53400" if says("replication slots") => {
            "drop a slot that nobody needs, or raise max_replication_slots and restart Postgres"
        }
        _ => return error.hint.clone(),
    };
    Some(hint.to_owned())
}

const SLOT_LOST: &str =
    "the slot cannot go on; see: txstream slot status; then: txstream slot reset --backfill";

//! Whether a replication connection can be had: no pooler in between, the right to replicate.

use postgres_protocol::escape::escape_identifier;

use super::server::Server;
use super::{Checked, Finding};
use crate::postgres::PgError;
use crate::postgres::replication::ReplicationConn;

pub(super) const NAME: &str = "replication";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let info = &server.subject.replication;
    let connected = async {
        let mut connection = ReplicationConn::connect(info, "txstream doctor").await?;
        let identity = connection.identify_system().await?;
        Ok::<_, PgError>(identity)
    };
    Ok(vec![match connected.await {
        Ok(identity) if identity.system_id != server.system_identifier => Finding::fail(
            NAME,
            "replication and ordinary connections to the same address lead to different servers",
        )
        .mended_by("set REPLICATION_URL to one server, the primary"),
        Ok(_) => Finding::ok(NAME, "the server takes a replication connection"),
        Err(error) if error.sqlstate() == Some("42501") => {
            let role = escape_identifier(&server.role);
            Finding::fail(NAME, error.report()).mended_by(format!(
                "ALTER ROLE {role} REPLICATION; -- on Amazon RDS: GRANT rds_replication TO {role};"
            ))
        }
        Err(error) => {
            let mend = error.hint().unwrap_or_else(|| "set REPLICATION_URL to the server itself".to_owned());
            Finding::fail(NAME, error.report()).mended_by(mend)
        }
    }])
}

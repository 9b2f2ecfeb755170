//! What the role may do: replicate, keep the checkpoint, see who holds the slot, read the outbox for `verify`.

use postgres_protocol::escape::escape_identifier;
use tokio_postgres::types::Type;

use super::server::Server;
use super::{Checked, Finding};

pub(super) const NAME: &str = "grants";

/// Tables of txstream that the relay writes.
const WRITTEN: [&str; 2] = ["public.txstream_checkpoint", "public.txstream_dead_letter"];

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let role = escape_identifier(&server.role);
    let mut findings = Vec::new();
    if !may_replicate(server).await? {
        findings.push(Finding::fail(NAME, format!("role {} may not replicate", server.role)).mended_by(
            format!("ALTER ROLE {role} REPLICATION; -- on Amazon RDS: GRANT rds_replication TO {role};"),
        ));
    }
    for table in WRITTEN {
        let lacks = lacking(server, table, &["SELECT", "INSERT", "UPDATE", "DELETE"]).await?;
        if !lacks.is_empty() {
            let lacks = lacks.join(", ");
            findings.push(
                Finding::fail(NAME, format!("role {} lacks {lacks} on {table}", server.role))
                    .mended_by(format!("GRANT {lacks} ON {table} TO {role};")),
            );
        }
    }
    for (name, table) in server.existing() {
        if !lacking(server, &table.quoted(), &["SELECT"]).await?.is_empty() {
            let why = format!("role {} may not read {name}: verify and a backfill need it", server.role);
            let mend = format!("GRANT SELECT ON {} TO {role};", table.quoted());
            findings.push(Finding::warn(NAME, why).mended_by(mend));
        }
    }
    let sees = "select pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')";
    if !server.value::<bool>("read the role's memberships", sees, &[]).await? {
        let why = format!(
            "role {} may not see other sessions: who holds the slot, and what holds it back, stays a bare pid",
            server.role
        );
        findings.push(Finding::warn(NAME, why).mended_by(format!("GRANT pg_read_all_stats TO {role};")));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(NAME, format!("role {} may do what a relay does", server.role)));
    }
    Ok(findings)
}

/// On Amazon RDS nobody has the attribute; membership counts there.
async fn may_replicate(server: &Server<'_>) -> Result<bool, crate::postgres::PgError> {
    let sql = "select rolsuper or rolreplication or exists (
                   select from pg_catalog.pg_roles rds where rds.rolname = 'rds_replication'
                      and pg_catalog.pg_has_role(current_user, rds.oid, 'USAGE'))
                 from pg_catalog.pg_roles where rolname = current_user";
    server.value("read the role's attributes", sql, &[]).await
}

/// Those of the `privileges` that the role has not got on a table; none where there is no such table.
async fn lacking<'a>(
    server: &Server<'_>,
    table: &str,
    privileges: &[&'a str],
) -> Result<Vec<&'a str>, crate::postgres::PgError> {
    let sql = "select coalesce(has_table_privilege(to_regclass($1), $2), true)";
    let mut lacking = Vec::new();
    for privilege in privileges {
        let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&table, Type::TEXT), (privilege, Type::TEXT)];
        if !server.value::<bool>("read the role's rights", sql, &params).await? {
            lacking.push(*privilege);
        }
    }
    Ok(lacking)
}

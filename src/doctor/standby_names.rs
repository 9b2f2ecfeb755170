//! `synchronous_standby_names` that names the relay: every commit would wait for Kafka.

use tokio_postgres::types::Type;

use super::finding::set;
use super::server::Server;
use super::{Checked, Finding};
use crate::postgres::synchronous::StandbyNames;

pub(super) const NAME: &str = "synchronous_standby_names";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let setting = server.setting(NAME).await?.unwrap_or_default();
    let info = &server.subject.replication;
    let relay = info.application_name.as_deref().unwrap_or(&server.subject.application_name);
    Ok(vec![match StandbyNames::parse(&setting) {
        Some(names) if names.names(relay) => Finding::fail(
            NAME,
            format!(
                "it names the relay ({relay}), by name or by *: as a synchronous standby it makes every commit wait \
                 for Kafka"
            ),
        )
        .mended_by(set(NAME, &names.without(relay, &standbys(server, relay).await?))),
        _ => Finding::ok(NAME, "no commit waits for the relay"),
    }])
}

/// The names of the standbys that are connected.
async fn standbys(server: &Server<'_>, relay: &str) -> Result<Vec<String>, crate::postgres::PgError> {
    let sql = "select distinct application_name from pg_catalog.pg_stat_replication r
                where application_name <> $1 and application_name <> 'txstream doctor'
                  and not exists (select from pg_catalog.pg_replication_slots s
                                   where s.active_pid = r.pid and s.slot_type = 'logical')
                order by 1";
    let rows = server.rows("look for standbys", sql, &[(&relay, Type::TEXT)]).await?;
    Ok(rows.iter().filter_map(|row| row.try_get(0).ok()).collect())
}

//! A place for our slot among `max_replication_slots`.

use super::finding::set_and_restart;
use super::server::Server;
use super::{Checked, Finding};

pub(super) const NAME: &str = "max_replication_slots";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let most = server.number(NAME).await?.unwrap_or_default();
    let sql = "select count(*) from pg_catalog.pg_replication_slots";
    let used: i64 = server.value("count the slots", sql, &[]).await?;
    Ok(vec![match &server.slot {
        Some(_) => Finding::ok(NAME, format!("{used} of {most} slots are in use, ours among them")),
        None if used < most => Finding::ok(NAME, format!("{used} of {most} slots are in use")),
        None => Finding::fail(
            NAME,
            format!("all {most} replication slots of the server are in use; ours is not there"),
        )
        .mended_by(set_and_restart(NAME, &(most + 5).to_string())),
    }])
}

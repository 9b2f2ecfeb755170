//! A place for our walsender among `max_wal_senders`.

use super::finding::set_and_restart;
use super::server::Server;
use super::{Checked, Finding};

pub(super) const NAME: &str = "max_wal_senders";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let most = server.number(NAME).await?.unwrap_or_default();
    // The one of the check before this may not have ended yet.
    let sql =
        "select count(*) from pg_catalog.pg_stat_replication where application_name <> 'txstream doctor'";
    let used: i64 = server.value("count the walsenders", sql, &[]).await?;
    Ok(vec![if server.slot.as_ref().is_some_and(|slot| slot.active) {
        Finding::ok(NAME, format!("{used} of {most} walsenders are in use, ours among them"))
    } else if used < most {
        Finding::ok(NAME, format!("{used} of {most} walsenders are in use"))
    } else {
        Finding::fail(NAME, format!("all {most} walsenders of the server are in use: a relay cannot connect"))
            .mended_by(set_and_restart(NAME, &(most + 5).to_string()))
    }])
}

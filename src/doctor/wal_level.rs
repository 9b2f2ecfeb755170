//! Logical decoding needs `wal_level = logical`.

use super::finding::set_and_restart;
use super::server::Server;
use super::{Checked, Finding};

pub(super) const NAME: &str = "wal_level";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let level = server.setting(NAME).await?.unwrap_or_default();
    Ok(vec![if level == "logical" {
        Finding::ok(NAME, "wal_level is logical")
    } else {
        Finding::fail(NAME, format!("wal_level is {level}, and logical replication needs logical"))
            .mended_by(set_and_restart(NAME, "logical"))
    }])
}

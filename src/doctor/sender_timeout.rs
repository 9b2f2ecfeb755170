//! `wal_sender_timeout` as it will hold for the relay, which asks for 30 s unless the server has less or the
//! connection string names it.

use std::time::Duration;

use super::finding::set;
use super::server::Server;
use super::{Checked, Finding};
use crate::postgres::replication::WalSenderTimeout;

pub(super) const NAME: &str = "wal_sender_timeout";

/// A pause of a host or a network may last this long.
const SHORT: Duration = Duration::from_secs(5);

/// The server's default.
const DEFAULT: &str = "60s";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let info = &server.subject.replication;
    let named = info.options_name(NAME);
    let mend = |finding: Finding| {
        finding.mended_by(if named {
            "take wal_sender_timeout out of the options in REPLICATION_URL or DATABASE_URL".to_owned()
        } else {
            set(NAME, DEFAULT)
        })
    };
    Ok(vec![match WalSenderTimeout::choose(server.client, info).await?.effective {
        None => mend(Finding::warn(
            NAME,
            "it is off: when the relay's host vanishes, the slot stays held and no standby can take over",
        )),
        Some(limit) if limit < SHORT => mend(Finding::warn(
            NAME,
            format!("a pause of {limit:?} ends the session: records not confirmed by then come again"),
        )),
        Some(limit) => {
            Finding::ok(NAME, format!("the slot of a relay that vanished is free after {limit:?}"))
        }
    }])
}

//! `max_slot_wal_keep_size`: without a limit a relay that stays away fills the disk; with a small one the
//! slot is lost in a short outage.

use super::finding::set;
use super::server::Server;
use super::{Checked, Finding};

pub(super) const NAME: &str = "max_slot_wal_keep_size";

/// Less is gone within minutes on a busy server.
const SMALL_MIB: i64 = 4096;

/// Hours of WAL on most servers, and less than most disks have free.
const ADVISED_MIB: i64 = 20 * 1024;

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let keep = server.number(NAME).await?.unwrap_or(-1);
    let max_wal = server.number("max_wal_size").await?.unwrap_or_default();
    Ok(vec![judge(keep, max_wal)])
}

/// Both in MiB; a negative `keep` is no limit.
fn judge(keep: i64, max_wal: i64) -> Finding {
    let advised = set(NAME, &format!("{}GB", ADVISED_MIB.max(2 * max_wal) / 1024));
    if keep < 0 {
        Finding::warn(
            NAME,
            "there is no limit to the WAL that a slot keeps: a relay that stays away fills the disk of the database; \
             set it to what the disk can spare",
        )
        .mended_by(advised)
    } else if keep < SMALL_MIB.max(max_wal) {
        Finding::warn(
            NAME,
            format!(
                "{keep} MiB of WAL are soon written, and then the slot is lost: an outage of Kafka or of the relay may \
                 last no longer; set it to what the disk can spare"
            ),
        )
        .mended_by(advised)
    } else {
        Finding::ok(NAME, format!("a slot may keep {} GiB of WAL, then it is given up", keep / 1024))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn no_limit_and_a_small_one_are_warned_about_and_the_advice_is_neither() {
        for (keep, max_wal, status) in [
            (-1, 1024, Status::Warn),
            (0, 1024, Status::Warn),
            (64, 1024, Status::Warn),
            (4096, 1024, Status::Ok),
            (10_000, 16_384, Status::Warn),
            (ADVISED_MIB, 1024, Status::Ok),
            (2 * 16_384, 16_384, Status::Ok),
        ] {
            assert_eq!(judge(keep, max_wal).status, status, "{keep} {max_wal}");
        }
        let mend = judge(-1, 1024).mend.unwrap();
        assert_eq!(mend, "ALTER SYSTEM SET max_slot_wal_keep_size = '20GB'; SELECT pg_reload_conf();");
    }
}

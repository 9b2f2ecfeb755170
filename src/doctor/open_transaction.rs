//! An old transaction: decoding needs WAL from where the oldest open one began, whatever is confirmed.

use postgres_protocol::escape::escape_literal;

use super::server::Server;
use super::{Checked, Finding};
use crate::postgres::slot::OldestTransaction;

pub(super) const NAME: &str = "open_transaction";

/// Work may take minutes.
const OLD_SECONDS: f64 = 300.0;

/// A session that wrote and then says nothing has been forgotten.
const FORGOTTEN_SECONDS: f64 = 10.0;

pub(super) fn check(server: &Server<'_>) -> Checked {
    let Some(slot) = &server.slot else {
        return Ok(vec![Finding::ok(NAME, "there is no slot that a transaction could hold back")]);
    };
    let Some(oldest) = &slot.oldest_transaction else {
        return Ok(vec![Finding::ok(NAME, "no transaction holds the slot back")]);
    };
    Ok(vec![judge(oldest, slot.slot_retained_wal_bytes)])
}

fn judge(oldest: &OldestTransaction, retained: Option<u64>) -> Finding {
    let age = oldest.age_seconds.unwrap_or_default();
    let idle = oldest.state.as_deref().is_some_and(|state| state.starts_with("idle in transaction"));
    if age < if idle { FORGOTTEN_SECONDS } else { OLD_SECONDS } {
        return Finding::ok(NAME, "no old transaction holds the slot back");
    }
    let (who, mend) = match (oldest.pid, &oldest.prepared) {
        (Some(pid), _) => (format!("pid {pid}"), format!("SELECT pg_terminate_backend({pid});")),
        (None, Some(gid)) => {
            (format!("prepared transaction {gid}"), format!("ROLLBACK PREPARED {};", escape_literal(gid)))
        }
        (None, None) => ("a transaction".to_owned(), "end it".to_owned()),
    };
    let names = [&oldest.application_name, &oldest.database, &oldest.state];
    let names: Vec<&str> =
        names.into_iter().flatten().map(String::as_str).filter(|n| !n.is_empty()).collect();
    let retained = retained.map(|bytes| format!(" ({} MiB now)", bytes >> 20)).unwrap_or_default();
    Finding::warn(
        NAME,
        format!(
            "{who} ({}) has been in a transaction for {age:.0} s: while it lasts the server keeps all WAL since its \
             beginning{retained}, and no slot can be created",
            names.join(", ")
        ),
    )
    .mended_by(mend)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn idle_in_transaction_is_old_soon_and_a_prepared_one_has_its_own_end() {
        let transaction = |age, pid, prepared: Option<&str>, state: Option<&str>| OldestTransaction {
            pid,
            prepared: prepared.map(str::to_owned),
            age_seconds: Some(age),
            application_name: Some("app".into()),
            database: Some("d".into()),
            state: state.map(str::to_owned),
        };
        for (seen, status, mend) in [
            (transaction(9.0, Some(7), None, Some("idle in transaction")), Status::Ok, None),
            (
                transaction(11.0, Some(7), None, Some("idle in transaction")),
                Status::Warn,
                Some("SELECT pg_terminate_backend(7);"),
            ),
            (transaction(200.0, Some(7), None, Some("active")), Status::Ok, None),
            (
                transaction(301.0, Some(7), None, Some("active")),
                Status::Warn,
                Some("SELECT pg_terminate_backend(7);"),
            ),
            (transaction(301.0, None, Some("it's"), None), Status::Warn, Some("ROLLBACK PREPARED 'it''s';")),
        ] {
            let finding = judge(&seen, Some(5 << 20));
            assert_eq!((finding.status, finding.mend.as_deref()), (status, mend), "{seen:?}");
        }
    }
}

//! A publication younger than its slot: the slot cannot decode what was written before the publication was
//! there, and is stuck for ever.
//!
//! A transaction id tells cheaply that the publication is older. Where it does not, the slot is asked to decode
//! its next change, which moves nothing. PostgreSQL 18 decodes it without the publication, and warns.

use tokio_postgres::types::Type;

use super::server::Server;
use super::slot::RESET;
use super::{Checked, Finding};
use crate::postgres::PgError;
use crate::postgres::replication::ReplicationConn;
use crate::postgres::slot::publication_is_missing;

pub(super) const NAME: &str = "publication_age";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let (Some(slot), Some(_)) = (&server.slot, &server.publication) else {
        return Ok(vec![Finding::unchecked(NAME, "there is no slot, or no publication")]);
    };
    if slot.ensure_ours(&server.database).is_err() || slot.terminal().is_some() {
        return Ok(vec![Finding::unchecked(NAME, "the slot cannot be used")]);
    }
    let (slot, publication) = (&server.subject.slot, &server.subject.publication);
    if older(server).await? {
        return Ok(vec![Finding::ok(
            NAME,
            format!("publication {publication} was there before slot {slot} needed it"),
        )]);
    }
    if server.in_recovery {
        return Ok(vec![Finding::unchecked(NAME, "the server is a standby")]);
    }
    if server.slot.as_ref().is_some_and(|slot| slot.active) {
        return Ok(vec![Finding::unchecked(NAME, &format!("slot {slot} is in use"))]);
    }
    Ok(vec![match missing(server).await {
        Ok(Some(false)) => Finding::ok(NAME, format!("slot {slot} decodes with publication {publication}")),
        Ok(Some(true)) => Finding::fail(
            NAME,
            format!(
                "publication {publication} is younger than slot {slot}: it was created after changes that the slot has \
                 still to decode; the slot can never decode them, and is stuck or skips them"
            ),
        )
        .mended_by(RESET),
        Ok(None) => {
            Finding::unchecked(NAME, &format!("slot {slot} has much to decode before its first change"))
        }
        Err(error) => Finding::failed(NAME, &error),
    }])
}

/// Whether the publication was made by a transaction that had ended before everything that the slot still has
/// to decode. A later ALTER gives it a new transaction, so its tables are looked at too. An `age` below 0 is
/// one of a row that was frozen long ago.
async fn older(server: &Server<'_>) -> Result<bool, PgError> {
    const SQL: &str = "\
with made as (
    select age(xmin) as age from pg_catalog.pg_publication where pubname = $1
    union all
    select age(r.xmin) from pg_catalog.pg_publication_rel r
      join pg_catalog.pg_publication p on p.oid = r.prpubid where p.pubname = $1)
select coalesce((select bool_or(made.age < 0 or made.age > age(s.catalog_xmin)) from made), false)
  from pg_catalog.pg_replication_slots s where s.slot_name = $2";
    let subject = server.subject;
    let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&subject.publication, Type::TEXT), (&subject.slot, Type::NAME)];
    server.value("compare the age of publication and slot", SQL, &params).await
}

/// Decodes the slot's next change, without moving the slot.
async fn missing(server: &Server<'_>) -> Result<Option<bool>, PgError> {
    let subject = server.subject;
    let mut connection = ReplicationConn::connect(&subject.replication, "txstream doctor").await?;
    publication_is_missing(&mut connection, &subject.slot, &subject.publication).await
}

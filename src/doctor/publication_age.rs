//! A publication younger than its slot: the slot cannot decode what was written before the publication was
//! there, and is stuck for ever.
//!
//! A transaction id tells cheaply that the publication is older. Where it does not, the slot is asked to decode
//! its next change, which moves nothing. That tells nothing on PostgreSQL 18, where it is said to be unchecked.

use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::types::Type;

use super::server::Server;
use super::slot::RESET;
use super::{Checked, Finding};
use crate::postgres::PgError;
use crate::postgres::replication::ReplicationConn;

pub(super) const NAME: &str = "publication_age";

/// Longest time that the slot is kept from a relay that starts meanwhile.
const PATIENCE: &str = "3s";

/// From PostgreSQL 18 on, decoding without the publication was seen to succeed.
const PEEK_TELLS_NOTHING: i32 = 180_000;

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
    if server.version >= PEEK_TELLS_NOTHING {
        return Ok(vec![Finding::unchecked(
            NAME,
            &format!(
                "on this version of PostgreSQL a publication younger than its slot is not detected; {publication} \
                 may be younger than {slot}"
            ),
        )]);
    }
    if server.in_recovery {
        return Ok(vec![Finding::unchecked(NAME, "the server is a standby")]);
    }
    if server.slot.as_ref().is_some_and(|slot| slot.active) {
        return Ok(vec![Finding::unchecked(NAME, &format!("slot {slot} is in use"))]);
    }
    Ok(vec![match peek(server).await {
        Ok(()) => Finding::ok(NAME, format!("slot {slot} decodes with publication {publication}")),
        Err(error) if error.sqlstate() == Some("42704") => Finding::fail(
            NAME,
            format!(
                "publication {publication} is younger than slot {slot}: it was created after changes that the slot has \
                 still to decode; the slot can never decode them and is stuck"
            ),
        )
        .mended_by(RESET),
        Err(error) if error.sqlstate() == Some("57014") => Finding::unchecked(
            NAME,
            &format!("slot {slot} has so much to decode that {PATIENCE} were not enough"),
        ),
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
async fn peek(server: &Server<'_>) -> Result<(), PgError> {
    let subject = server.subject;
    let mut connection = ReplicationConn::connect(&subject.replication, "txstream doctor").await?;
    connection.simple_query(&format!("SET statement_timeout = '{PATIENCE}'")).await?;
    let sql = format!(
        "SELECT count(*) FROM pg_catalog.pg_logical_slot_peek_binary_changes({}, NULL, 1, 'proto_version', '1', \
         'publication_names', {})",
        escape_literal(&subject.slot),
        escape_literal(&escape_identifier(&subject.publication)),
    );
    connection.simple_query(&sql).await.map(drop)
}

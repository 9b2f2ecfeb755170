//! A publication that is younger than the slot: the slot decodes with the catalog of its own past, in
//! which the publication does not exist.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::SlotError;
use crate::postgres::replication::ReplicationConn;
use crate::postgres::slot::{self, SlotView};
use crate::postgres::{ConnInfo, PgError};

/// Refuses a slot that cannot decode its next change for want of the publication.
///
/// A publication last changed before the oldest transaction whose catalog the slot still needs is old
/// enough: that costs a look. Else the slot's next change is decoded, unless someone holds the slot: then
/// its holder finds out.
///
/// # Errors
/// [`SlotError::Younger`].
pub async fn ensure_older(
    client: &Client,
    info: &ConnInfo,
    application_name: &str,
    slot: &SlotView,
    publication: &str,
) -> Result<(), SlotError> {
    if slot.active_pid.is_some() || slot.terminal().is_some() || is_older(client, slot, publication).await? {
        return Ok(());
    }
    let mut replication = ReplicationConn::connect(info, application_name).await?;
    if slot::publication_is_missing(&mut replication, &slot.slot_name, publication).await? == Some(true) {
        let (slot, publication) = (slot.slot_name.clone(), publication.to_owned());
        return Err(SlotError::Younger { slot, publication });
    }
    Ok(())
}

/// Whether the publication's row was written before the slot's `catalog_xmin`. Frozen rows keep their
/// xid, and may seem young when it is used again: then decoding decides.
async fn is_older(client: &Client, slot: &SlotView, publication: &str) -> Result<bool, PgError> {
    let row = client
        .query_typed_opt(
            "select age(p.xmin) > age(s.catalog_xmin)
               from pg_catalog.pg_publication p, pg_catalog.pg_replication_slots s
              where p.pubname = $1 and s.slot_name = $2 and s.catalog_xmin is not null",
            &[(&publication, Type::TEXT), (&slot.slot_name, Type::TEXT)],
        )
        .await;
    let failed = |source| PgError::statement("compare the ages of slot and publication", source);
    row.map_err(failed)?.map_or(Ok(false), |row| row.try_get(0).map_err(failed))
}

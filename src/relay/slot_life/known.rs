//! The slots of a database that a checkpoint table knows.

use tokio_postgres::Client;

use super::SlotError;
use crate::postgres::PgError;

/// The names of all `pgoutput` slots of this database with a checkpoint row: relays stream from them, or have
/// done so, and without the table none could any more. None where there is no table.
///
/// # Errors
/// [`SlotError::Pg`].
pub async fn known(client: &Client) -> Result<Vec<String>, SlotError> {
    const TABLE: &str = "select to_regclass('public.txstream_checkpoint') is not null";
    const SLOTS: &str = "select s.slot_name::text
           from pg_catalog.pg_replication_slots s join public.txstream_checkpoint c on c.slot = s.slot_name
          where s.slot_type = 'logical' and s.plugin = 'pgoutput' and not s.temporary
            and s.database = pg_catalog.current_database()
          order by 1";
    let failed = |source| PgError::statement("look for slots with a checkpoint row", source);
    let table = client.query_typed_one(TABLE, &[]).await.map_err(failed)?;
    if !table.try_get::<_, bool>(0).map_err(failed)? {
        return Ok(Vec::new());
    }
    let rows = client.query_typed(SLOTS, &[]).await.map_err(failed)?;
    let names: Result<_, _> = rows.iter().map(|row| row.try_get(0)).collect();
    Ok(names.map_err(failed)?)
}

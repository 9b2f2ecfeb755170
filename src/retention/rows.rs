//! Deleting rows, a few pages at a time.
//!
//! A table is walked once from its first page to its last, so that the cost is that of reading it once, with
//! or without an index on the age. Rows written meanwhile are young.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::target::{Age, Leaf};
use super::{Confirmed, Counts, LOCK_TIMEOUT, Progress, PruneError};
use crate::postgres::PgError;

/// Pages of the first batch: with outbox rows of some hundred bytes about 1,000 rows.
const FIRST_PAGES: u64 = 64;

/// A batch never has more pages than this, 8 MiB.
const MOST_PAGES: u64 = 1024;

/// Batches grow below the first and shrink above the second: long enough to be worth a round trip, short
/// enough that nobody waits for it.
const QUICK: Duration = Duration::from_millis(50);
const SLOW: Duration = Duration::from_millis(200);

/// Deletes the old and confirmed rows of one table; with `dry_run` it counts them.
///
/// # Errors
/// [`PruneError::Locked`], or what the server says.
///
/// # Cancel safety
/// May be dropped at any await: each batch is a transaction of its own.
pub(super) async fn delete(
    client: &Client,
    leaf: &Leaf,
    age: &Age,
    confirmed: &Confirmed,
    dry_run: bool,
    progress: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Counts, PruneError> {
    let pages = pages(client, leaf).await?;
    let mut counts = Counts::default();
    let (mut from, mut step) = (0, FIRST_PAGES);
    while from < pages {
        progress(Progress { table: &leaf.name, pages_done: from, pages, rows: counts.rows_deleted });
        let sql = batch(leaf, age, confirmed, dry_run, from, from + step);
        let since = Instant::now();
        let row = client.query_typed_one(&sql, &[]).await.map_err(|error| failed(leaf, error))?;
        let count = |column| -> Result<u64, PruneError> {
            let count: i64 = row.try_get(column).map_err(|error| failed(leaf, error))?;
            Ok(count.cast_unsigned())
        };
        counts.rows_deleted += count(0)?;
        counts.rows_not_confirmed += count(1)?;
        counts.rows_of_unknown_age += count(2)?;
        from += step;
        match since.elapsed() {
            quick if quick < QUICK => step = (step * 2).min(MOST_PAGES),
            slow if slow > SLOW => step = (step / 2).max(1),
            _ => {}
        }
    }
    progress(Progress { table: &leaf.name, pages_done: pages, pages, rows: counts.rows_deleted });
    Ok(counts)
}

/// One statement sees one snapshot: what it deletes and what it counts as left are parts of the same rows.
fn batch(leaf: &Leaf, age: &Age, confirmed: &Confirmed, dry_run: bool, from: u64, to: u64) -> String {
    let (table, is_old, is_confirmed) = (&leaf.quoted, &age.is_old, confirmed.sql());
    let pages = format!("ctid >= '({from},0)' and ctid < '({to},0)'");
    let gone = if dry_run {
        format!("select 1 from only {table} where {pages} and {is_old} and {is_confirmed}")
    } else {
        format!("delete from only {table} where {pages} and {is_old} and {is_confirmed} returning 1")
    };
    format!(
        "with gone as ({gone})
         select (select count(*) from gone), count(*) filter (where {is_old} and not {is_confirmed}),
                count(*) filter (where ({is_old}) is null)
           from only {table} where {pages}"
    )
}

async fn pages(client: &Client, leaf: &Leaf) -> Result<u64, PruneError> {
    let row = client
        .query_typed_one(
            "select pg_catalog.pg_relation_size($1) / pg_catalog.current_setting('block_size')::int8",
            &[(&leaf.oid, Type::OID)],
        )
        .await
        .map_err(|error| failed(leaf, error))?;
    // It has no size once it is gone.
    let pages: Option<i64> = row.try_get(0).map_err(|error| failed(leaf, error))?;
    Ok(pages.unwrap_or(0).cast_unsigned())
}

fn failed(leaf: &Leaf, error: tokio_postgres::Error) -> PruneError {
    if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
        return PruneError::Locked { table: leaf.name.clone(), waited: LOCK_TIMEOUT };
    }
    PgError::statement(format!("delete rows of {}", leaf.name), error).into()
}

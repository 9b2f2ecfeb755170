//! `up`: what is missing is made, what is there is adopted, the publication comes last.

use tokio_postgres::{Client, Transaction};

use super::record::{self, Record};
use super::steps::{Kind, ORDERS, Target, targets};
use super::{MigrateError, Problem, Settings, begin, objects, role};
use crate::postgres::publication::{self, Gap, Publication};

/// What `up` did about one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// Made it.
    Created(Kind, String),
    /// Found it, and will never alter or drop it.
    Adopted(Kind, String),
    /// Changed our own publication; the SQL.
    Altered(String),
    /// Left it out; why.
    Skipped(String),
}

/// Brings the database to what the settings ask for. Everything that keeps it from doing so is found
/// before anything is changed. Doing it again does nothing.
///
/// # Errors
/// [`MigrateError`]; steps before a failed one stay done, and are not done again.
pub async fn up(client: &mut Client, settings: &Settings<'_>) -> Result<Vec<Done>, MigrateError> {
    let role = role(client).await?;
    let targets = targets(settings);
    let check = begin(client).await?;
    let problems = problems(&check, &role, settings, &targets).await?;
    if !problems.is_empty() {
        return Err(MigrateError::Problems(problems));
    }
    record::ensure(&check, &role).await?;
    commit(check, &role).await?;
    let mut done = Vec::new();
    for target in &targets {
        let step = begin(client).await?;
        let records = record::read(&step, &role).await?;
        done.extend(apply(&step, &role, settings, target, &records).await?);
        commit(step, &role).await?;
    }
    Ok(done)
}

async fn commit(step: Transaction<'_>, role: &str) -> Result<(), MigrateError> {
    step.commit().await.map_err(|error| MigrateError::sql(role, "commit the migration", error))
}

/// Everything that a person has to put right first.
async fn problems(
    client: &Transaction<'_>,
    role: &str,
    settings: &Settings<'_>,
    targets: &[Target<'_>],
) -> Result<Vec<Problem>, MigrateError> {
    let records = record::read(client, role).await?;
    let mut problems = Vec::new();
    for target in targets {
        match target.step.kind {
            // Another's table of that name is left alone.
            Kind::Table if target.step.name == ORDERS => {}
            Kind::Table => problems.extend(objects::table_problems(client, settings, target).await?),
            Kind::Publication => {
                let found = publication::publication(client, settings.publication).await?;
                if let Some(found) = found.filter(|found| !ours(&records, target, found)) {
                    problems.extend(objects::coverage_problems(client, settings, &found).await?);
                }
            }
            Kind::Function => {}
        }
    }
    Ok(problems)
}

fn ours(records: &[Record], target: &Target<'_>, found: &Publication) -> bool {
    objects::recorded(records, target, found.oid).is_some_and(|record| record.created)
}

/// One step for one object.
async fn apply(
    step: &Transaction<'_>,
    role: &str,
    settings: &Settings<'_>,
    target: &Target<'_>,
    records: &[Record],
) -> Result<Vec<Done>, MigrateError> {
    let kind = target.step.kind;
    if let Some(oid) = objects::oid(step, kind, &target.object).await? {
        let known = objects::recorded(records, target, oid);
        if kind == Kind::Publication && known.is_some_and(|record| record.created) {
            return widen(step, role, settings).await;
        }
        if known.is_some() {
            return Ok(Vec::new());
        }
        if target.step.name == ORDERS && !objects::table_problems(step, settings, target).await?.is_empty() {
            return Ok(vec![Done::Skipped(
                "table public.orders: there is one that is not txstream's, so the order routes of txstream writer \
                 stay off"
                    .to_owned(),
            )]);
        }
        record::write(step, role, target, oid, false).await?;
        return Ok(vec![Done::Adopted(kind, target.object.clone())]);
    }
    if kind == Kind::Function
        && let Some(why) = unfit(step, settings, target).await?
    {
        return Ok(vec![Done::Skipped(why)]);
    }
    let doing = format!("create {} {}", kind.as_str(), target.object);
    step.batch_execute(&target.up).await.map_err(|error| MigrateError::sql(role, &doing, error))?;
    if let Some(oid) = objects::oid(step, kind, &target.object).await? {
        record::write(step, role, target, oid, true).await?;
    }
    Ok(vec![Done::Created(kind, target.object.clone())])
}

/// Why there can be no `outbox_publish` for an adopted table, if so.
async fn unfit(
    step: &Transaction<'_>,
    settings: &Settings<'_>,
    target: &Target<'_>,
) -> Result<Option<String>, MigrateError> {
    let Some(name) = target.outbox else { return Ok(None) };
    let table = publication::table(step, &name.schema, &name.name, settings.publication).await?;
    let fits = table.is_some_and(|table| objects::publishable(&table));
    Ok((!fits).then(|| {
        format!("function outbox_publish: table {name} has no headers column or other types than ours")
    }))
}

/// Brings our own publication to cover every outbox table; tables that it covers besides stay.
async fn widen(
    step: &Transaction<'_>,
    role: &str,
    settings: &Settings<'_>,
) -> Result<Vec<Done>, MigrateError> {
    let mut done = Vec::new();
    let Some(found) = publication::publication(step, settings.publication).await? else { return Ok(done) };
    if !found.inserts || found.other_operations || !found.via_root {
        let name = postgres_protocol::escape::escape_identifier(&found.name);
        let sql =
            format!("ALTER PUBLICATION {name} SET (publish = 'insert', publish_via_partition_root = true);");
        done.push(alter(step, role, sql).await?);
    }
    let found = Publication { inserts: true, other_operations: false, via_root: true, ..found };
    for name in &settings.outbox.tables {
        let table = publication::table(step, &name.schema, &name.name, &found.name).await?;
        let Some(table) = table else { continue };
        for gap in table.gaps(&found, |column| settings.outbox.reads_column(column)) {
            if let Gap::UnderRoot(root) = &gap {
                return Err(MigrateError::Problems(vec![Problem {
                    what: format!("{gap}: {name}"),
                    remedy: format!("set OUTBOX_TABLE to {root}"),
                }]));
            }
            // Dropping and adding the table closes a filter and a column list at once.
            let sql = gap.sql(&found.name, &table).replace("BEGIN; ", "").replace(" COMMIT;", "");
            if !done.contains(&Done::Altered(sql.clone())) {
                done.push(alter(step, role, sql).await?);
            }
        }
    }
    Ok(done)
}

async fn alter(step: &Transaction<'_>, role: &str, sql: String) -> Result<Done, MigrateError> {
    step.batch_execute(&sql)
        .await
        .map_err(|error| MigrateError::sql(role, "alter the publication", error))?;
    Ok(Done::Altered(sql))
}

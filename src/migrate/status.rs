//! `status`: what there is of what there should be.

use serde::Serialize;
use tokio_postgres::Client;

use super::record::{self, Record};
use super::steps::{Kind, ORDERS, Target, step, targets};
use super::{MigrateError, Settings, objects, role};
use crate::postgres::publication;

/// How an object came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// `up` made it.
    Created,
    /// It was there before; never altered, never dropped.
    Adopted,
    /// `up` has something to do, or a person has.
    Pending,
    /// Recorded, but not asked for by the settings (any more).
    Unused,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Number of the migration.
    pub version: i32,
    /// Its name.
    pub name: &'static str,
    /// What the object is.
    pub kind: Kind,
    /// Its name for SQL.
    pub object: String,
    /// How it came to be.
    pub state: State,
    /// When it was made or adopted, in UTC.
    pub applied_at: Option<String>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// What there is of what there should be, in order of the migrations.
///
/// # Errors
/// [`MigrateError`]; nothing is changed.
pub async fn status(client: &Client, settings: &Settings<'_>) -> Result<Vec<Item>, MigrateError> {
    let role = role(client).await?;
    let records = record::read(client, &role).await?;
    let targets = targets(settings);
    let mut items = Vec::new();
    for target in &targets {
        items.extend(item(client, settings, target, &records).await?);
    }
    for record in &records {
        if !targets.iter().any(|t| t.step.version == record.version && t.object == record.object) {
            items.extend(unused(client, record).await?);
        }
    }
    items.sort_by_key(|item| item.version);
    Ok(items)
}

async fn item(
    client: &Client,
    settings: &Settings<'_>,
    target: &Target<'_>,
    records: &[Record],
) -> Result<Option<Item>, MigrateError> {
    let kind = target.step.kind;
    let live = objects::oid(client, kind, &target.object).await?;
    let record = live.and_then(|oid| objects::recorded(records, target, oid));
    let mut problems = Vec::new();
    match kind {
        // Another's table of that name was left alone: nothing to do, nothing wrong.
        Kind::Table if target.step.name == ORDERS && live.is_some() && record.is_none() => {
            if !objects::table_problems(client, settings, target).await?.is_empty() {
                return Ok(None);
            }
        }
        Kind::Table => {
            let found = objects::table_problems(client, settings, target).await?;
            problems.extend(found.into_iter().map(|problem| problem.what));
        }
        Kind::Publication => {
            if let Some(found) = publication::publication(client, settings.publication).await? {
                let found = objects::coverage_problems(client, settings, &found).await?;
                problems.extend(found.into_iter().map(|problem| problem.what));
            }
        }
        Kind::Function if live.is_none() => {
            // Left out for a table that it does not fit; to be made where the table is still to be.
            let name = target.outbox;
            let table = match name {
                Some(name) => {
                    publication::table(client, &name.schema, &name.name, settings.publication).await?
                }
                None => None,
            };
            if table.is_some_and(|table| !objects::publishable(&table)) {
                return Ok(None);
            }
        }
        Kind::Function => {}
    }
    let state = match record {
        Some(_) if kind == Kind::Publication && !problems.is_empty() => State::Pending,
        Some(record) if record.created => State::Created,
        Some(_) => State::Adopted,
        None => State::Pending,
    };
    Ok(Some(Item {
        version: target.step.version,
        name: target.step.name,
        kind,
        object: target.object.clone(),
        state,
        applied_at: record.map(|record| record.applied_at.clone()),
        problems,
    }))
}

async fn unused(client: &Client, record: &Record) -> Result<Option<Item>, MigrateError> {
    let live = objects::oid(client, record.kind, &record.object).await?;
    Ok(step(record.version).filter(|_| live == Some(record.oid)).map(|step| Item {
        version: record.version,
        name: step.name,
        kind: record.kind,
        object: record.object.clone(),
        state: State::Unused,
        applied_at: Some(record.applied_at.clone()),
        problems: Vec::new(),
    }))
}

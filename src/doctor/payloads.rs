//! Which topics the outbox writes to, and how large its records are. Reads the whole table only while that is
//! small; of a big one a sample, and says so.

use postgres_protocol::escape::escape_identifier;

use super::Finding;
use super::server::Server;
use crate::outbox::{Preset, check_topic_name};
use crate::postgres::PgError;
use crate::postgres::publication::{Table, TableKind};

pub(super) const NAME: &str = "payloads";

/// A table of this size is read in about a second.
const WHOLE_BYTES: i64 = 64 << 20;

/// Rows of a sample.
const SAMPLE_ROWS: i64 = 20_000;

/// More topics than this are not asked for one by one.
const MOST_TOPICS: i64 = 100;

/// Headers, names and the batch around a record, which the row does not show.
const AROUND_A_RECORD: i64 = 300;

/// `bytea`, which goes out raw.
const BYTEA: u32 = 17;

/// A topic that rows of the outbox go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicLoad {
    pub(super) topic: String,
    /// Bytes of the largest record seen, a little more than less; none without rows.
    pub(super) largest_bytes: Option<i64>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Payloads {
    pub(super) topics: Vec<TopicLoad>,
    /// Not every row was looked at.
    pub(super) sampled: bool,
    /// Aggregate types that make no topic.
    pub(super) findings: Vec<Finding>,
}

pub(super) async fn look(server: &Server<'_>) -> Result<Payloads, PgError> {
    let outbox = &server.subject.outbox;
    let mut seen = Payloads::default();
    for (_, table) in server.existing() {
        let readable = table.kind != TableKind::NotReplicated;
        if readable && outbox.missing_columns(&table.column_names()).is_empty() {
            look_at(server, table, &mut seen).await?;
        }
    }
    if let Some(topic) = outbox.fixed_topic.clone().filter(|_| seen.topics.is_empty()) {
        seen.topics.push(TopicLoad { topic, largest_bytes: None });
    }
    Ok(seen)
}

async fn look_at(server: &Server<'_>, table: &Table, seen: &mut Payloads) -> Result<(), PgError> {
    const SIZE: &str = "select greatest(pg_table_size($1),
                          (select sum(pg_table_size(relid)) from pg_catalog.pg_partition_tree($1)))::int8";
    let oid = [(&table.oid as &(dyn tokio_postgres::types::ToSql + Sync), tokio_postgres::types::Type::OID)];
    let bytes: i64 = server.value("read the size of the outbox table", SIZE, &oid).await?;
    let whole = bytes <= WHOLE_BYTES;
    seen.sampled |= !whole;
    let sql = sizes(server, table, (!whole).then_some(bytes));
    // A row filter or a slow disk must not make this a long read.
    let limited = format!("begin read only; set local statement_timeout = '10s'; {sql}; commit");
    let messages = match server.client.simple_query(&limited).await {
        Ok(messages) => messages,
        Err(source) => {
            // The transaction has failed; what is left of it must not hinder other checks.
            let _ = server.client.simple_query("rollback").await;
            return Err(PgError::statement("read the sizes of payloads", source));
        }
    };
    for message in messages {
        let tokio_postgres::SimpleQueryMessage::Row(row) = message else { continue };
        let (kind, largest) = (row.get(0), row.get(1).and_then(|text| text.parse().ok()));
        add(server, seen, kind.unwrap_or_default(), largest);
    }
    Ok(())
}

/// One row per aggregate type: the largest record of it.
fn sizes(server: &Server<'_>, table: &Table, sample_of_bytes: Option<i64>) -> String {
    let outbox = &server.subject.outbox;
    let columns = outbox.preset.columns();
    let quoted = |name: &str| format!("o.{}", escape_identifier(name));
    let payload = quoted(columns.payload);
    let raw = table.columns.iter().any(|column| column.name == columns.payload && column.type_id == BYTEA);
    let payload = if raw { payload } else { format!("{payload}::text") };
    let mut size = match outbox.preset {
        Preset::Debezium => format!(
            "coalesce(octet_length({payload}), 0) + octet_length({}::text)",
            quoted(columns.aggregate_id)
        ),
        // Its value is an object of all columns.
        Preset::Txstream => "octet_length(to_jsonb(o)::text)".to_owned(),
    };
    if table.columns.iter().any(|column| column.name == "headers") {
        size.push_str(" + coalesce(octet_length(o.headers::text), 0)");
    }
    let sample = sample_of_bytes.map_or_else(String::new, |bytes| {
        #[allow(clippy::cast_precision_loss)] // a percentage
        let percent = (100.0 * WHOLE_BYTES as f64 / bytes as f64).max(0.000_1);
        format!(" tablesample system ({percent:.4})")
    });
    let limit = if sample_of_bytes.is_some() { format!(" limit {SAMPLE_ROWS}") } else { String::new() };
    let kind = quoted(columns.aggregate_type);
    format!(
        "with seen as (select {kind}::text as kind, {size} + {AROUND_A_RECORD} as size from {} o{sample}{limit})
         select kind, max(size) from seen where kind is not null group by 1 order by 2 desc nulls last limit {MOST_TOPICS}",
        table.quoted()
    )
}

fn add(server: &Server<'_>, seen: &mut Payloads, kind: &str, largest_bytes: Option<i64>) {
    let fixed = server.subject.outbox.fixed_topic.as_deref();
    let topic = fixed.map_or_else(|| format!("outbox.event.{kind}"), str::to_owned);
    if let Err(reason) = check_topic_name(&topic) {
        let why = format!("a row's aggregate type makes no topic: {reason}; the relay halts at it");
        let mend = format!("delete the rows, or set KAFKA_TOPIC_EVENTS; the type is {kind:?}");
        seen.findings.push(Finding::fail(NAME, why).mended_by(mend));
        return;
    }
    match seen.topics.iter_mut().find(|load| load.topic == topic) {
        Some(load) => load.largest_bytes = load.largest_bytes.max(largest_bytes),
        None => seen.topics.push(TopicLoad { topic, largest_bytes }),
    }
}

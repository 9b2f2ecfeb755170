//! `txstream dead-letter`: what Kafka did not take, and its way back.

use std::io;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::connect;
use super::output::{self, Format};
use super::{ConfirmArgs, Failure, OutputArgs, WaitArgs};
use crate::config::Config;
use crate::dead_letter::DeadLetterError;
use crate::dead_letter::replay::{self, Replay, ReplayError, Replayed};
use crate::dead_letter::select::{self, Contents, Entry, Extent, Selection, readable};
use crate::postgres::error::report;

/// List, show, replay or discard the records that are stored as dead letters
#[derive(Debug, clap::Args)]
pub(super) struct DeadLetterArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List dead letters, oldest first
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// Most letters to list
        #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show what dead letters hold: headers, value, or the columns of a row that cannot be mapped
    Show {
        #[command(flatten)]
        which: WhichArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Publish dead letters in order and delete them; their keys flow again once none is left
    Replay {
        #[command(flatten)]
        which: WhichArgs,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Delete dead letters unpublished; their keys flow again once none is left
    Discard {
        #[command(flatten)]
        which: WhichArgs,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

/// Some dead letters, or all.
#[derive(Debug, clap::Args)]
struct FilterArgs {
    /// Those of the row with this id
    #[arg(long, value_name = "ID", conflicts_with = "key")]
    id: Option<String>,
    /// Those of this Kafka key; \x and hex digits where it is no text
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Those of the key in this topic only
    #[arg(long, value_name = "TOPIC", requires = "key", conflicts_with = "id")]
    topic: Option<String>,
}

impl FilterArgs {
    fn selection(&self) -> Selection {
        selection(self.id.as_ref(), self.key.as_ref(), self.topic.as_ref())
    }
}

/// Which dead letters are meant.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct WhichArgs {
    /// The one of the row with this id
    #[arg(long, value_name = "ID", conflicts_with_all = ["key", "all"])]
    id: Option<String>,
    /// Those of this Kafka key; \x and hex digits where it is no text
    #[arg(long, value_name = "KEY", conflicts_with = "all")]
    key: Option<String>,
    /// Those of the key in this topic only
    // What `key` is in conflict with would excuse its absence.
    #[arg(long, value_name = "TOPIC", requires = "key", conflicts_with_all = ["id", "all"])]
    topic: Option<String>,
    /// All of them
    #[arg(long)]
    all: bool,
}

impl WhichArgs {
    fn selection(&self) -> Selection {
        selection(self.id.as_ref(), self.key.as_ref(), self.topic.as_ref())
    }
}

fn selection(id: Option<&String>, key: Option<&String>, topic: Option<&String>) -> Selection {
    match (id, key) {
        (Some(id), _) => Selection::Id(id.clone()),
        (None, Some(key)) => Selection::Key { topic: topic.cloned(), key: key.clone() },
        (None, None) => Selection::All,
    }
}

pub(super) async fn run(args: &DeadLetterArgs, config: &Config) -> Result<(), Failure> {
    // The slot's own server, past any pooler: a pooler would lose the lock.
    let client = connect::postgres(&config.replication, "dead-letter", args.wait.wait).await?;
    let slot = &config.relay.slot;
    match &args.action {
        Action::List { filter, limit, output } => {
            list(&client, slot, &filter.selection(), *limit, output.output).await
        }
        Action::Show { which, output } => show(&client, slot, &which.selection(), output.output).await,
        Action::Replay { which, confirm } => {
            replay(args, config, &client, &which.selection(), *confirm).await
        }
        Action::Discard { which, confirm } => discard(&client, slot, &which.selection(), *confirm).await,
    }
}

fn failure(error: DeadLetterError) -> Failure {
    Failure::halted(report(&error), error.remedy())
}

fn replay_failure(error: ReplayError) -> Failure {
    Failure::halted(report(&error), error.remedy())
}

async fn list(
    client: &Client,
    slot: &str,
    selection: &Selection,
    limit: i64,
    format: Format,
) -> Result<(), Failure> {
    let (entries, more) = oldest(client, slot, selection, limit).await?;
    if more {
        output::note(&format!(
            "there are more dead letters than the {} listed; --limit COUNT lists more, --id or --key with --topic some",
            entries.len()
        ));
    }
    if format == Format::Json {
        return output::print_json(&entries.iter().map(as_json).collect::<Vec<_>>());
    }
    if entries.is_empty() {
        return output::print(&format!("no dead letters of slot {slot}"));
    }
    let mut table = output::table(["ID", "TOPIC", "KEY", "REASON", "STORED", "BYTES", "ERROR"]);
    for entry in &entries {
        let (topic, key) = match &entry.target {
            Some((topic, key)) => (topic.clone(), readable(key)),
            None => (format!("(row of {})", entry.table), String::new()),
        };
        table.add_row([
            entry.row_id.clone().unwrap_or_default(),
            topic,
            key,
            entry.reason.clone(),
            entry.parked_at.clone(),
            entry.payload_bytes.to_string(),
            entry.error.clone(),
        ]);
    }
    output::print(&table)?;
    let extent = select::extent(client, slot, selection).await.map_err(failure)?;
    let shown = entries.len() as u64;
    let more = if extent.letters > shown { format!(", the oldest {shown} shown") } else { String::new() };
    output::print(&format!("{}{more}", describe(extent)))
}

/// The oldest letters, and whether there are more.
async fn oldest(
    client: &Client,
    slot: &str,
    selection: &Selection,
    most: i64,
) -> Result<(Vec<Entry>, bool), Failure> {
    let mut entries = select::list(client, slot, selection, most.saturating_add(1)).await.map_err(failure)?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let more = entries.len() > most;
    entries.truncate(most);
    Ok((entries, more))
}

/// An entry for programs.
fn as_json(entry: &Entry) -> Value {
    let target = entry.target.as_ref();
    json!({
        "id": entry.row_id,
        "topic": target.map(|(topic, _)| topic),
        "key": target.map(|(_, key)| readable(key)),
        "table": entry.table,
        "event_type": entry.event_type,
        "reason": entry.reason,
        "error": entry.error,
        "parked_at": entry.parked_at,
        "commit_lsn": entry.commit_lsn,
        "ordinal": entry.ordinal,
        "payload_bytes": entry.payload_bytes,
    })
}

fn counted(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

fn describe(extent: Extent) -> String {
    let rows = match extent.rows {
        0 => String::new(),
        rows => format!(", {} without a record", counted(rows, "row")),
    };
    format!("{} of {}{rows}", counted(extent.letters, "dead letter"), counted(extent.keys, "key"))
}

/// Letters shown at most: each may be a megabyte.
const MOST_SHOWN: i64 = 100;

async fn show(client: &Client, slot: &str, selection: &Selection, format: Format) -> Result<(), Failure> {
    let (entries, more) = oldest(client, slot, selection, MOST_SHOWN).await?;
    if entries.is_empty() {
        return Err(none(slot));
    }
    if more {
        output::note(&format!(
            "there are more dead letters than the {MOST_SHOWN} shown; txstream dead-letter list has all their ids, and \
             show --id ID shows any of them"
        ));
    }
    let mut shown = Vec::new();
    for entry in &entries {
        let contents = select::contents(client, entry.seq).await.map_err(failure)?;
        let mut value = as_json(entry);
        match contents {
            Some(Contents::Record(record)) => {
                let header = |header: &crate::outbox::Header| json!({ "name": &*header.name, "value": header.value.as_deref().map(readable) });
                value["headers"] = record.headers.iter().map(header).collect();
                value["payload"] = record.payload.as_deref().map(readable).into();
            }
            Some(Contents::Row(columns)) => value["columns"] = columns,
            // Replayed or discarded meanwhile.
            None => continue,
        }
        shown.push(value);
    }
    if format == Format::Json {
        return output::print_json(&shown);
    }
    for value in shown {
        let mut table = output::table(["FIELD", "VALUE"]);
        for (name, value) in value.as_object().into_iter().flatten() {
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            table.add_row([name.clone(), text]);
        }
        // A large value would make every other line as wide.
        output::print(&table.trim_fmt())?;
    }
    Ok(())
}

fn none(slot: &str) -> Failure {
    Failure::halted(format!("slot {slot} has no such dead letter"), "see txstream dead-letter list")
}

async fn discard(
    client: &Client,
    slot: &str,
    selection: &Selection,
    confirm: ConfirmArgs,
) -> Result<(), Failure> {
    let extent = select::extent(client, slot, selection).await.map_err(failure)?;
    if extent.letters == 0 {
        return Err(none(slot));
    }
    output::confirm(
        &format!("discard {}? They will never reach Kafka; later records of the keys will", describe(extent)),
        confirm,
    )?;
    replay::lock(client, slot).await.map_err(replay_failure)?;
    let gone = select::discard(client, slot, selection, extent).await.map_err(failure)?;
    output::print(&format!("discarded {}", counted(gone, "dead letter")))
}

async fn replay(
    args: &DeadLetterArgs,
    config: &Config,
    client: &Client,
    selection: &Selection,
    confirm: ConfirmArgs,
) -> Result<(), Failure> {
    let slot = &config.relay.slot;
    let extent = select::extent(client, slot, selection).await.map_err(failure)?;
    if extent.letters == 0 {
        return Err(none(slot));
    }
    if extent.letters == extent.rows {
        return Err(Failure::halted(
            format!("{}: a row that cannot be mapped cannot be published", describe(extent)),
            "see its columns with txstream dead-letter show, insert a correct row, then run \
             txstream dead-letter discard",
        ));
    }
    output::confirm(&format!("publish {} and delete them?", describe(extent)), confirm)?;
    replay::lock(client, slot).await.map_err(replay_failure)?;
    let patience = config.kafka.request_timeout + args.wait.wait;
    let bar = bar(extent.letters - extent.rows);
    let replay = Replay::new(client, slot, &config.kafka, patience).map_err(replay_failure)?;
    let done = replay.run(selection, &mut |count| bar.inc(count)).await;
    bar.finish_and_clear();
    let done = done.map_err(replay_failure)?;
    output::print(&format!("published {}", counted(done.published, "record")))?;
    if extent.rows > 0 && *selection == Selection::All {
        output::print(&format!(
            "kept {}: see txstream dead-letter list",
            counted(extent.rows, "row without a record")
        ))?;
    }
    left(&done)
}

/// What Kafka did not take.
fn left(done: &Replayed) -> Result<(), Failure> {
    let Some(first) = done.left.first() else { return Ok(()) };
    let others = match done.left.len() {
        1 => String::new(),
        keys => format!(" (and {} kept their letters too)", counted(keys as u64 - 1, "other key")),
    };
    Err(Failure::halted(
        format!(
            "Kafka does not take record {} of key {:?}, topic {}: {}{others}",
            first.id,
            readable(&first.key),
            first.topic,
            first.why
        ),
        "mend what the text names (a topic's limit: max.message.bytes) and replay again, or discard the record",
    ))
}

/// On stderr, and only if that is a terminal.
fn bar(letters: u64) -> ProgressBar {
    let template = if output::colours(&io::stderr()) {
        "{bar:30.green} {pos} of {len} records published"
    } else {
        "{bar:30} {pos} of {len} records published"
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(letters).with_style(style)
}

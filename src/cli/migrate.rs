//! `txstream migrate up|down|status`: tables, then the publication.

use comfy_table::Color;

use super::connect;
use super::output::{self, Format};
use super::{ConfirmArgs, Failure, OutputArgs, WaitArgs};
use crate::config::Config;
use crate::migrate::{self, Done, Fate, Kind, MigrateError, Remains, Settings, State};
use crate::postgres::error::report;
use crate::postgres::slot::{self, SlotView};
use crate::relay::checkpoint::{self, CheckpointError};
use crate::relay::slot_life::{self, RESET};

/// Create, remove or list the tables and the publication
#[derive(Debug, clap::Args)]
pub(super) struct MigrateArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create what is missing: tables, then the publication
    Up,
    /// Remove everything that `up` created, and the slots that use it
    Down {
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Show what is applied
    Status {
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(super) async fn run(args: &MigrateArgs, config: &Config) -> Result<(), Failure> {
    let settings = Settings { outbox: &config.outbox, publication: &config.relay.publication };
    let mut client = connect::postgres(&config.database, "migrate", args.wait.wait).await?;
    match &args.action {
        Action::Up => {
            let done = migrate::up(&mut client, &settings).await.map_err(failure)?;
            // Only a warning hangs on it, so a role that may not look is no failure.
            let slot = slot::view(&client, &config.relay.slot).await.ok().flatten();
            print_up(&done, slot.as_ref())
        }
        Action::Status { output } => {
            let items = migrate::status(&client, &settings).await.map_err(failure)?;
            match output.output {
                Format::Json => output::print_json(&items),
                Format::Table => print_status(&items),
            }
        }
        Action::Down { confirm } => down(config, client, *confirm, args.wait).await,
    }
}

fn failure(error: MigrateError) -> Failure {
    Failure::halted(report(&error), error.remedy())
}

fn print_up(done: &[Done], slot: Option<&SlotView>) -> Result<(), Failure> {
    for done in done {
        match done {
            Done::Created(kind, object) => {
                output::print(&format!("created {} {}", kind.as_str(), plain(object)))?
            }
            Done::Adopted(kind, object) => output::print(&format!(
                "adopted {} {}: it was there before, and will never be altered or dropped",
                kind.as_str(),
                plain(object)
            ))?,
            Done::Altered(sql) => output::print(&format!("ran {sql}"))?,
            Done::Skipped(why) => output::print(&format!("left out {why}"))?,
        }
    }
    if !done.iter().any(|done| !matches!(done, Done::Skipped(_))) {
        output::print(&"nothing to do")?;
    }
    let made_publication = done.iter().any(|done| matches!(done, Done::Created(Kind::Publication, _)));
    match slot {
        // Logical decoding looks at the catalog as it was: the publication is not in the slot's past.
        Some(slot) if made_publication => output::print(&format!(
            "warning: slot {} is older than the publication and cannot decode what came before it; \
             {RESET}",
            slot.slot_name
        )),
        None if made_publication => output::print(&"next: txstream slot create"),
        _ => Ok(()),
    }
}

/// A quoted name without the quotes that it does not need to be read.
fn plain(object: &str) -> String {
    object.replace('"', "")
}

fn print_status(items: &[migrate::Item]) -> Result<(), Failure> {
    let mut table = output::table(["MIGRATION", "KIND", "OBJECT", "STATE", "SINCE", "PROBLEMS"]);
    for item in items {
        let (state, colour) = match item.state {
            State::Created => ("created", Color::Green),
            State::Adopted => ("adopted", Color::Green),
            State::Pending => ("pending", Color::Yellow),
            State::Unused => ("not in OUTBOX_TABLE", Color::Yellow),
        };
        table.add_row([
            format!("{:04}_{}", item.version, item.name).into(),
            item.kind.as_str().into(),
            plain(&item.object).into(),
            output::coloured(state, colour),
            item.applied_at.as_deref().unwrap_or("-").into(),
            output::coloured(item.problems.join("\n"), Color::Red),
        ]);
    }
    output::print(&table)
}

/// The slots first, then the publication, then the tables: the reverse of how they came.
async fn down(
    config: &Config,
    mut client: tokio_postgres::Client,
    confirm: ConfirmArgs,
    wait: WaitArgs,
) -> Result<(), Failure> {
    let remains = migrate::remains(&client).await.map_err(failure)?;
    let replication = connect::postgres(&config.replication, "migrate", wait.wait).await?;
    let slots = our_slots(&replication, &config.relay.slot).await?;
    let losses = losses(&remains, &slots);
    if !losses.is_empty() {
        output::confirm(&format!("this destroys for good: {}; go on?", losses.join("; ")), confirm)?;
    }
    for (slot, _) in slots.iter().filter(|(_, known)| *known) {
        let name = &slot.slot_name;
        slot_life::drop(&replication, name).await.map_err(super::slot::failure)?;
        output::print(&format!("dropped slot {name}"))?;
    }
    let fates = migrate::down(&mut client).await.map_err(failure)?;
    for fate in &fates {
        match fate {
            Fate::Dropped(kind, object) => {
                output::print(&format!("dropped {} {}", kind.as_str(), plain(object)))?
            }
            Fate::Kept(kind, object) => output::print(&format!(
                "kept {} {}: txstream did not create it",
                kind.as_str(),
                plain(object)
            ))?,
            Fate::Gone(..) => {}
        }
    }
    if fates.is_empty() { output::print(&"nothing to undo") } else { Ok(()) }
}

/// The slot that the settings name, and every other one that the checkpoint knows: no relay could stream from
/// those any more, and they would keep WAL for ever. Each is one that can be dropped, or known to nobody.
async fn our_slots(client: &tokio_postgres::Client, named: &str) -> Result<Vec<(SlotView, bool)>, Failure> {
    let others = slot_life::known(client).await.map_err(super::slot::failure)?;
    let others = others.iter().map(String::as_str).filter(|name| *name != named);
    let mut slots = Vec::new();
    for name in std::iter::once(named).chain(others) {
        slots.extend(our_slot(client, name).await?);
    }
    Ok(slots)
}

/// The slot, if it is one of this database's, and whether the checkpoint knows it. One that was made
/// by hand and never streamed from is not ours to drop.
async fn our_slot(client: &tokio_postgres::Client, name: &str) -> Result<Option<(SlotView, bool)>, Failure> {
    let failed = |error: crate::postgres::PgError| Failure::halted(report(&error), "see the server's log");
    let Some(slot) = slot::view(client, name).await.map_err(failed)? else { return Ok(None) };
    let (_, database) = checkpoint::whereabouts(client).await.map_err(failed)?;
    if slot.ensure_ours(&database).is_err() {
        return Ok(None);
    }
    let row = match checkpoint::read(client, name).await {
        Ok(row) => row,
        Err(CheckpointError::NoTable) => None,
        Err(error) => return Err(super::slot::failure(error.into())),
    };
    let known = row.is_some_and(|row| !row.dropped);
    if known {
        slot_life::droppable(client, name).await.map_err(super::slot::failure)?;
    }
    Ok(Some((slot, known)))
}

fn losses(remains: &Remains, slots: &[(SlotView, bool)]) -> Vec<String> {
    let mut losses: Vec<String> = remains
        .rows
        .iter()
        .map(|(table, rows)| format!("{} of {}", counted(*rows, "row", "rows"), plain(table)))
        .collect();
    if remains.parked > 0 {
        losses.push(counted(remains.parked, "parked record", "parked records"));
    }
    losses.extend(slots.iter().map(|(SlotView { slot_name, .. }, known)| {
        if *known {
            format!("slot {slot_name}")
        } else {
            // Nothing of it is lost, but it keeps WAL, and cannot decode without its publication.
            format!("the use of slot {slot_name}, which was made by hand and stays: txstream slot drop")
        }
    }));
    losses
}

fn counted(number: u64, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        100_000.. => format!("100,000 {many} or more"),
        _ => format!("{number} {many}"),
    }
}

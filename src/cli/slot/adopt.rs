//! `txstream slot adopt`.

use tokio_postgres::Client;

use super::failure;
use crate::cli::output;
use crate::cli::{ConfirmArgs, Failure};
use crate::config::Config;
use crate::relay::slot_life;

pub(super) async fn run(confirm: ConfirmArgs, client: &Client, config: &Config) -> Result<(), Failure> {
    let name = &config.relay.slot;
    let changes = slot_life::changes(client, name).await.map_err(failure)?;
    if changes.is_empty() {
        return output::print(&format!("slot {name} and its checkpoint agree: nothing to adopt"));
    }
    let mut table = output::table(["", "CHECKPOINT SAYS", "IS NOW"]);
    for change in changes {
        table.add_row([change.what.to_owned(), change.old, change.new]);
    }
    output::print(&table)?;
    output::confirm(
        &format!(
            "take over slot {name} as it stands? Nothing is moved; what was passed by someone else stays unpublished"
        ),
        confirm,
    )?;
    slot_life::adopt(client, name).await.map_err(failure)?;
    output::print(&format!("adopted slot {name}; next: txstream relay"))
}

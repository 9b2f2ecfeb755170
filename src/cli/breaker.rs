//! `txstream breaker status|open|close`: the circuit breaker of a running relay, through its admin server.

use serde::Serialize;

use super::admin_client::{self, Refused};
use super::output::{self, Format};
use super::{Failure, OutputArgs, WaitArgs};
use crate::config::Config;

/// Show, open or close the circuit breaker of a running relay
#[derive(Debug, clap::Args)]
pub(super) struct BreakerArgs {
    #[command(subcommand)]
    action: Action,
    /// The relay's admin server; by default on METRICS_HOST, at METRICS_PORT
    #[arg(long, global = true, value_name = "URL", value_parser = admin_client::base_url)]
    admin_url: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show its state, since when, and the failures in a row
    Status {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Open it by hand: nothing is handed to Kafka until `close`
    Open,
    /// Close it: records flow again
    Close,
}

/// What is known of it; the keys are those of `/status`.
#[derive(Debug, Serialize)]
struct Standing {
    state: String,
    since: Option<String>,
    failures: u64,
    forced: bool,
}

pub(super) async fn run(args: &BreakerArgs, config: &Config) -> Result<(), Failure> {
    let url =
        args.admin_url.clone().or_else(|| admin_client::default_url(&config.admin)).ok_or_else(|| {
            Failure::halted(
                "METRICS_ENABLED is false, so there is no admin server to ask",
                "name the relay's with --admin-url http://HOST:PORT, or enable it",
            )
        })?;
    let wait = args.wait.wait;
    let order = async |path: &str| {
        let token = config.admin.admin_token.as_ref();
        let post = async || admin_client::post(&url, path, token).await;
        admin_client::waiting(wait, post).await.map_err(failure)
    };
    match &args.action {
        Action::Status { output } => {
            let ask = async || admin_client::get_json(&url, "/status").await;
            let status = admin_client::waiting(wait, ask).await.map_err(failure)?;
            let standing = standing(&status).ok_or_else(|| {
                Failure::halted(
                    format!("{url}/status has no breaker"),
                    "point --admin-url to the admin server of a relay",
                )
            })?;
            match output.output {
                Format::Json => output::print_json(&standing),
                Format::Table => output::print(&table(&standing)),
            }
        }
        Action::Open => {
            order("/breaker/open").await?;
            output::print(&"the breaker is open: nothing is handed to Kafka until txstream breaker close")
        }
        Action::Close => {
            order("/breaker/close").await?;
            output::print(&"the breaker is closed: records flow")
        }
    }
}

fn failure(refused: Refused) -> Failure {
    let remedy = match &refused {
        Refused::Absent(_) => "check that the relay runs, and --admin-url or METRICS_HOST and METRICS_PORT",
        Refused::Answered { status: 401, .. } => {
            "give this command the token of the relay: METRICS_ADMIN_TOKEN or METRICS_ADMIN_TOKEN_FILE"
        }
        Refused::Answered { status: 403, .. } => {
            "start the relay with METRICS_ADMIN_TOKEN (or METRICS_ADMIN_TOKEN_FILE), and give this command the same"
        }
        Refused::Answered { status: 409, .. } => {
            "look at txstream breaker status; the relay must be streaming"
        }
        Refused::Answered { .. } | Refused::Other(_) => "point --admin-url to the admin server of a relay",
    };
    Failure::halted(refused.what(), remedy)
}

fn standing(status: &serde_json::Value) -> Option<Standing> {
    let breaker = status.get("breaker")?;
    Some(Standing {
        state: breaker.get("state")?.as_str()?.to_owned(),
        since: breaker.get("since").and_then(|since| since.as_str()).map(str::to_owned),
        failures: breaker.get("failures")?.as_u64()?,
        forced: breaker.get("forced")?.as_bool()?,
    })
}

fn table(standing: &Standing) -> comfy_table::Table {
    let mut table = output::table(["BREAKER", standing.state.as_str()]);
    let how = if standing.forced { "by hand; txstream breaker close closes it" } else { "by itself" };
    table.add_row(["since", standing.since.as_deref().unwrap_or("unknown")]);
    table.add_row(["failures in a row", &standing.failures.to_string()]);
    table.add_row(["worked", how]);
    table
}

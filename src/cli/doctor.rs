//! `txstream doctor`: what keeps a relay from working, or will one day, and what mends it.

use std::io::IsTerminal;
use std::time::Duration;

use serde::Serialize;

use super::output::{self, Format};
use super::{Failure, OutputArgs, WaitArgs};
use crate::config::{Config, Warning};
use crate::doctor::{self, Finding, Status, Subject};

/// Check Postgres, slot, publication, table, grants, Kafka and settings, and say what mends what is wrong
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

/// The result for programs.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The worst of all.
    status: Status,
    ok: usize,
    warn: usize,
    fail: usize,
    checks: &'a [Finding],
}

pub(super) async fn run(args: &DoctorArgs, config: &Config, oddities: &[Warning]) -> Result<(), Failure> {
    let findings = doctor::examine(&subject(config, oddities, args.wait.wait)).await;
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let (ok, warn, fail) = (count(Status::Ok), count(Status::Warn), count(Status::Fail));
    match args.output.output {
        Format::Json => {
            let status = [(fail, Status::Fail), (warn, Status::Warn)];
            let status =
                status.into_iter().find(|(count, _)| *count > 0).map_or(Status::Ok, |(_, status)| status);
            output::print_json(&Report { status, ok, warn, fail, checks: &findings })?;
        }
        Format::Table => {
            output::print(&lines(&findings))?;
        }
    }
    match fail {
        0 => Ok(()),
        _ => Err(Failure::halted(
            format!("{fail} of {} checks failed", findings.len()),
            "do what stands behind `mend:`, then run txstream doctor again",
        )),
    }
}

fn subject(config: &Config, oddities: &[Warning], wait: Duration) -> Subject {
    Subject {
        database: config.database.clone(),
        replication: config.replication.clone(),
        application_name: config.app.name.clone(),
        slot: config.relay.slot.clone(),
        publication: config.relay.publication.clone(),
        outbox: config.outbox.clone(),
        kafka: config.kafka.clone(),
        group: config.consumer.clone(),
        oddities: oddities.iter().map(|oddity| oddity.message.clone()).collect(),
        wait,
    }
}

/// One line each. They are not wrapped into columns: what mends has to be copied. On a terminal it stands on
/// a line of its own; a program that reads lines finds it on the same.
fn lines(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let mend_from = if std::io::stdout().is_terminal() { "\n      mend: " } else { "  mend: " };
    let line = |finding: &Finding| {
        let colour = match finding.status {
            Status::Ok => Some(32),
            Status::Warn => Some(33),
            Status::Fail => Some(31),
        };
        let status = format!("{:<4}", finding.status.to_string());
        let status = match colour.filter(|_| output::colours(&std::io::stdout())) {
            Some(code) => format!("\u{1b}[{code}m{status}\u{1b}[0m"),
            None => status,
        };
        let mend = finding.mend.as_ref().map(|mend| format!("{mend_from}{mend}")).unwrap_or_default();
        format!("{status}  {:width$}  {}{mend}", finding.check, finding.why)
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

//! `txstream config`: the effective configuration, nothing secret in it.

use super::{Failure, OutputArgs, output};
use crate::config::Config;

/// Show the effective configuration and where each value came from
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &ConfigArgs, config: &Config) -> Result<(), Failure> {
    match args.output.output {
        output::Format::Json => output::print_json(&config.report),
        output::Format::Table => {
            let mut table = output::table(["NAME", "VALUE", "FROM"]);
            for entry in &config.report {
                table.add_row([&entry.name, entry.value.as_deref().unwrap_or("-"), &entry.source]);
            }
            output::print(&table)
        }
    }
}

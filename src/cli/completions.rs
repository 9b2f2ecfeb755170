//! `txstream completions SHELL`.

use clap_complete::Shell;

use super::{Failure, output};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell to complete in
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, mut command: clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "txstream", &mut script);
    output::print(&String::from_utf8_lossy(&script).trim_end())
}

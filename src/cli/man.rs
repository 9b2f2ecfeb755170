//! `txstream man`: one page for all commands.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::{Failure, output};

/// Prints the page. `plain` has only the commands' own options, `full` the variables' flags too.
pub(super) fn run(plain: Command, full: Command) -> Result<(), Failure> {
    let page = page(plain, full)
        .map_err(|error| Failure::halted(format!("write the man page: {error}"), "report this as a bug"))?;
    output::print(&page)
}

pub(super) fn page(plain: Command, full: Command) -> io::Result<String> {
    let mut page = Vec::new();
    write(plain, full, &mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn write(mut plain: Command, full: Command, page: &mut Vec<u8>) -> io::Result<()> {
    // The flags that only the long help has belong on the page too.
    let man = Man::new(full.mut_args(|argument| argument.hide_short_help(false)));
    man.render_title(page)?;
    man.render_name_section(page)?;
    Man::new(plain.clone()).render_synopsis_section(page)?;
    man.render_description_section(page)?;
    plain.build();
    Roff::new().control("SH", ["COMMANDS"]).to_writer(page)?;
    for command in plain.get_subcommands_mut() {
        of_command(command, page)?;
    }
    man.render_options_section(page)?;
    Roff::new()
        .control("SH", ["EXIT STATUS"])
        .text([roman(
            "0: done, or stopped gracefully. 1: halted, a person must act; stderr says what to do. \
             64: bad usage or configuration. 128 + n: ended by a second signal n.",
        )])
        .to_writer(page)
}

/// One command with its own help, and those below it.
fn of_command(command: &mut Command, page: &mut Vec<u8>) -> io::Result<()> {
    if command.get_name() == "help" {
        return Ok(());
    }
    if command.has_subcommands() {
        for inner in command.get_subcommands_mut() {
            of_command(inner, page)?;
        }
        return Ok(());
    }
    let help = command.render_long_help().to_string();
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut section = Roff::new();
    section.control("SS", [name.as_str()]).control("nf", []);
    section.text(help.trim_end().lines().flat_map(|line| [roman(line), roman("\n")]).collect::<Vec<_>>());
    section.control("fi", []).to_writer(page)
}

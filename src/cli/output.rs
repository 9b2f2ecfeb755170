//! Results on stdout: tables for people, JSON for programs; and the question before a change.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};

use super::{ConfirmArgs, Failure};

/// Shape of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs; keys are stable.
    Json,
}

/// A table with these column names, fitted to the terminal where there is one.
pub(crate) fn table<I: IntoIterator<Item: Into<String>>>(header: I) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // One that does not know its width says 0: `script`, a terminal that a container engine makes.
    if table.width() != Some(0) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(header.into_iter().map(|name| {
        let cell = Cell::new(name.into());
        if colours(&io::stdout()) { cell.add_attribute(Attribute::Bold) } else { cell }
    }));
    table
}

/// A cell in a colour, where colours may be used.
pub(crate) fn coloured(text: impl Into<String>, colour: Color) -> Cell {
    let cell = Cell::new(text.into());
    if colours(&io::stdout()) { cell.fg(colour) } else { cell }
}

/// Whether a stream may be coloured: it is a terminal and `NO_COLOR` is empty or not set
/// (<https://no-color.org>).
pub(crate) fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints a result and a line end to stdout. A reader that went away (`txstream config | head`) is
/// no failure.
///
/// # Errors
/// [`Failure::Halted`] when stdout cannot be written.
pub(crate) fn print(result: &impl std::fmt::Display) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{result}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::halted(
            format!("write to stdout: {error}"),
            "see where stdout leads; is the disk full?",
        )),
        _ => Ok(()),
    }
}

/// Says something beside the result, which stays what programs read.
pub(crate) fn note(text: &str) {
    // Whoever closed stderr does not want to know.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a value as JSON, indented.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::halted(format!("write JSON: {error}"), "report this as a bug"))?;
    print(&text)
}

/// Asks on the terminal before something is changed for good. `--yes` answers.
///
/// # Errors
/// [`Failure::Halted`] when the answer is no, or when there is nobody to ask.
pub(crate) fn confirm(question: &str, args: ConfirmArgs) -> Result<(), Failure> {
    let people = io::stdin().is_terminal() && io::stderr().is_terminal();
    confirm_with(question, args, people, &mut io::stdin().lock(), &mut io::stderr().lock())
}

fn confirm_with(
    question: &str,
    args: ConfirmArgs,
    people: bool,
    input: &mut impl io::BufRead,
    terminal: &mut impl Write,
) -> Result<(), Failure> {
    if args.yes {
        return Ok(());
    }
    if !people {
        return Err(Failure::halted(
            format!("nothing was changed: no terminal to ask on ({question})"),
            "run it again with --yes if this is what you want",
        ));
    }
    let mut answer = String::new();
    let asked = write!(terminal, "{question} [y/N] ")
        .and_then(|()| terminal.flush())
        .and_then(|()| input.read_line(&mut answer));
    match (asked, answer.trim().to_ascii_lowercase().as_str()) {
        (Ok(_), "y" | "yes") => Ok(()),
        _ => Err(Failure::halted("nothing was changed", "answer y, or run it again with --yes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_asks_changes_nothing_without_a_clear_yes() {
        for (yes, people, answer, goes_on) in [
            (true, false, "", true),
            (true, true, "n\n", true),
            (false, false, "y\n", false),
            (false, true, "y\n", true),
            (false, true, " YES \n", true),
            (false, true, "\n", false),
            (false, true, "", false),
            (false, true, "yep\n", false),
        ] {
            let mut terminal = Vec::new();
            let outcome = confirm_with(
                "drop slot s?",
                ConfirmArgs { yes },
                people,
                &mut answer.as_bytes(),
                &mut terminal,
            );
            assert_eq!(outcome.is_ok(), goes_on, "yes={yes} people={people} answer={answer:?}");
            let asked = String::from_utf8(terminal).unwrap();
            assert_eq!(asked.contains("drop slot s? [y/N]"), people && !yes);
            if let Err(failure) = outcome {
                assert!(matches!(&failure, Failure::Halted { remedy, .. } if remedy.contains("--yes")));
            }
        }
    }
}

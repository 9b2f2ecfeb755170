//! A flag for every variable, made from the one table; usable before and after the subcommand.

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::variables::{Default, Kind, VARIABLES, Variable};

const PROPERTY: &str = "-X";

/// What was given by flags: variables by name, and `-X` arguments in order.
#[derive(Debug, Clone, PartialEq, Eq, std::default::Default)]
pub(super) struct Given {
    pub(super) variables: Vec<(String, String)>,
    pub(super) properties: Vec<String>,
}

/// Adds the flags to a command and all its subcommands.
///
/// clap's own global arguments keep only the innermost values of a repeated flag, which would drop a
/// `-X` before the subcommand silently.
pub(super) fn add(command: Command) -> Command {
    // A missing subcommand is an error that says so, not a page of help.
    command.args(arguments()).arg_required_else_help(false).mut_subcommands(add)
}

/// Collects the flags from a command down to its innermost subcommand; the innermost wins.
pub(super) fn collect(matches: &ArgMatches) -> Given {
    let mut given = matches.subcommand().map_or_else(Given::default, |(_, inner)| collect(inner));
    let names = VARIABLES.iter().flat_map(|variable| {
        let value = variable.flag().map(|_| variable.name.to_owned());
        value.into_iter().chain(variable.file_name())
    });
    for name in names {
        let outer = matches.try_get_one::<String>(&name).ok().flatten();
        if let Some(value) = outer.filter(|_| !given.variables.iter().any(|(known, _)| *known == name)) {
            given.variables.push((name, value.clone()));
        }
    }
    let outer = matches.try_get_many::<String>(PROPERTY).ok().flatten().unwrap_or_default();
    given.properties.splice(0..0, outer.cloned());
    given
}

fn arguments() -> impl Iterator<Item = Arg> {
    let property = Arg::new(PROPERTY)
        .short('X')
        .value_name("KEY=VALUE")
        .action(ArgAction::Append)
        .help("Any other librdkafka property, repeated; beats KAFKA_* and KAFKA_CONFIG_FILE")
        .help_heading("Kafka");
    VARIABLES.iter().flat_map(of_variable).chain([property])
}

fn of_variable(variable: &'static Variable) -> impl Iterator<Item = Arg> {
    let common = |id: String, flag: String, value_name: &'static str, help: String| {
        Arg::new(id)
            .long(flag)
            .value_name(value_name)
            .help(help)
            .help_heading(variable.group)
            .hide_short_help(true)
            .allow_negative_numbers(true)
    };
    let value = variable
        .flag()
        .map(|flag| common(variable.name.to_owned(), flag, variable.value_name, help(variable)));
    let file = variable.file_name().zip(variable.file_flag()).map(|(name, flag)| {
        let help = if variable.kind == Kind::Secret {
            format!("File with: {} [env: {} or {name}]", variable.help, variable.name)
        } else {
            format!("File with the value of {} [env: {name}]", variable.name)
        };
        common(name, flag, "FILE", help)
    });
    value.into_iter().chain(file)
}

fn help(variable: &Variable) -> String {
    let default = match variable.default {
        Default::None => String::new(),
        Default::Is(text) | Default::Derived(text) => format!(" [default: {text}]"),
    };
    format!("{} [env: {}]{default}", variable.help, variable.name)
}

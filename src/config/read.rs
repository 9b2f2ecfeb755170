//! Texts become checked values. Each problem is noted and reading goes on, so that all are told at once.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::layers::{Given, Layers, label};
use super::report::Entry;
use super::variables::{self, VARIABLES};
use super::{Source, Warning, units};
use crate::secret::Secret;

/// Reads variables from layers and keeps what was found, odd and wrong.
pub(super) struct Reader<'a> {
    pub(super) layers: &'a Layers,
    report: Vec<Entry>,
    warnings: Vec<Warning>,
    errors: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(layers: &'a Layers, warnings: Vec<Warning>, errors: Vec<String>) -> Self {
        Self { layers, report: Vec::new(), warnings, errors }
    }

    /// The report in the order of the table, then properties; warnings; errors.
    pub(super) fn finish(mut self) -> (Vec<Entry>, Vec<Warning>, Vec<String>) {
        let place =
            |entry: &Entry| VARIABLES.iter().position(|v| v.name == entry.name).unwrap_or(VARIABLES.len());
        self.report.sort_by_key(place);
        (self.report, self.warnings, self.errors)
    }

    pub(super) fn warn(&mut self, variable: &str, message: impl Into<String>) {
        self.warnings.push(Warning::new(variable, message));
    }

    /// Notes an error, once: what holds for two connections is told for one.
    pub(super) fn wrong(&mut self, message: impl Into<String>) {
        let message = message.into();
        if !self.errors.contains(&message) {
            self.errors.push(message);
        }
    }

    pub(super) fn show(&mut self, name: impl Into<String>, value: Option<String>, source: Source) {
        self.report.push(Entry::new(name, value, source));
    }

    /// The given text or the table's default, trimmed.
    pub(super) fn raw(&self, name: &str) -> (Option<&'a str>, Source) {
        match self.layers.get(name) {
            Some(Given { text, source }) => (Some(text.trim()), source),
            None => match variables::find(name).map(|variable| variable.default) {
                Some(variables::Default::Is(text)) => (Some(text), Source::Default),
                _ => (None, Source::Default),
            },
        }
    }

    /// A text with a default.
    pub(super) fn text(&mut self, name: &str) -> String {
        self.optional(name).unwrap_or_default()
    }

    /// A text that may be absent.
    pub(super) fn optional(&mut self, name: &str) -> Option<String> {
        let (text, source) = self.raw(name);
        self.show(name, text.map(str::to_owned), source);
        text.map(str::to_owned)
    }

    /// A text whose default is found at start.
    pub(super) fn derived(&mut self, name: &str, default: &str) -> String {
        let (text, source) = self.raw(name);
        let text = text.unwrap_or(default).to_owned();
        self.show(name, Some(text.clone()), source);
        text
    }

    /// A value with a rule; what breaks it is noted under the variable's name. `T::default()` then
    /// stands in, and is never used because [`super::load`] fails.
    pub(super) fn parse<T: Default>(&mut self, name: &str, rule: impl Fn(&str) -> Result<T, String>) -> T {
        let (text, source) = self.raw(name);
        self.show(name, text.map(str::to_owned), source);
        self.checked(name, source, text.map_or_else(|| Ok(T::default()), rule))
    }

    /// Notes an error under the name that the person used.
    pub(super) fn checked<T: Default>(&mut self, name: &str, source: Source, value: Result<T, String>) -> T {
        value.unwrap_or_else(|error| {
            self.wrong(format!("{}: {error}", label(name, source)));
            T::default()
        })
    }

    pub(super) fn duration(&mut self, name: &str, range: RangeInclusive<Duration>) -> Duration {
        self.parse(name, |text| within(units::duration(text)?, &range, text, |limit| units::shown(*limit)))
    }

    pub(super) fn number<T>(&mut self, name: &str, range: RangeInclusive<T>) -> T
    where
        T: Default + FromStr + PartialOrd + Display + Copy,
    {
        self.parse(name, |text| number(text, &range))
    }

    pub(super) fn bool(&mut self, name: &str) -> bool {
        self.parse(name, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "1" | "yes" | "on" => Ok(true),
            "false" | "f" | "0" | "no" | "off" => Ok(false),
            _ => Err(format!("{text:?} is neither true nor false")),
        })
    }

    pub(super) fn secret(&mut self, name: &str) -> Option<Secret> {
        match self.layers.get_or_file(name) {
            Ok(found) => {
                let source = found.as_ref().map_or(Source::Default, |(_, source)| *source);
                self.show(name, found.is_some().then(|| "***".to_owned()), source);
                found.map(|(text, _)| Secret::new(text))
            }
            Err(error) => {
                self.wrong(error);
                None
            }
        }
    }

    /// A value that a name of the polling ancestor gives where the name itself is not set.
    pub(super) fn standing_for<T: Default>(
        &mut self,
        name: &'static str,
        ancestor: &'static str,
        rule: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        let (old, old_source) = self.raw(ancestor);
        self.show(ancestor, old.map(str::to_owned), old_source);
        let (text, source) = self.raw(name);
        let (Some(old), Source::Default) = (old, source) else {
            if old.is_some() {
                self.warn(
                    ancestor,
                    format!("{ancestor} ({old_source}) has no effect: {name} is set, and used instead"),
                );
            }
            self.show(name, text.map(str::to_owned), source);
            return self.checked(name, source, text.map_or_else(|| Ok(T::default()), rule));
        };
        self.warn(ancestor, format!("{ancestor} ({old_source}) stands for {name}; set {name} instead"));
        self.show(name, Some(old.to_owned()), old_source);
        self.checked(ancestor, old_source, rule(old))
    }

    pub(super) fn no_effect(&mut self, name: &'static str) {
        let (text, source) = self.raw(name);
        self.show(name, text.map(str::to_owned), source);
        if text.is_some() {
            self.warn(
                name,
                format!("{name} ({source}) has no effect: nothing is polled, rows arrive as they commit"),
            );
        }
    }
}

pub(super) fn number<T: FromStr + PartialOrd + Display + Copy>(
    text: &str,
    range: &RangeInclusive<T>,
) -> Result<T, String> {
    let value = text
        .parse()
        .map_err(|_| format!("{text:?} is not a whole number from {} to {}", range.start(), range.end()))?;
    within(value, range, text, |limit| limit.to_string())
}

pub(super) fn within<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    text: &str,
    show: impl Fn(&T) -> String,
) -> Result<T, String> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(format!("{text:?} must be from {} to {}", show(range.start()), show(range.end())))
    }
}

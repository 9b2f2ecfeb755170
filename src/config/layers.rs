//! Where values come from: flags over environment over `.env`. Texts only, nothing is validated
//! here but what a name can be.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::{fs, io};

use super::variables::{self, ALIASES, PREFIXES, VARIABLES};
use super::{Source, Warning};

/// What a person gave, before anything is understood.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Flags, by the name of the variable they stand for (`KAFKA_BROKERS`, `DB_PASSWORD_FILE`).
    pub flags: Vec<(String, String)>,
    /// `-X key=value`, in order.
    pub properties: Vec<String>,
    /// The environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The text of `.env` in the working directory, if there is one.
    pub dotenv: Option<String>,
}

impl Inputs {
    /// Adds this process's environment and the `.env` of the working directory.
    ///
    /// # Errors
    /// When there is a `.env` that cannot be read.
    pub fn of_process(flags: Vec<(String, String)>, properties: Vec<String>) -> Result<Self, Vec<String>> {
        let dotenv = match fs::read_to_string(".env") {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(vec![format!("read .env: {error}")]),
        };
        Ok(Self { flags, properties, environment: std::env::vars_os().collect(), dotenv })
    }
}

/// The values of one source, by canonical name; empty ones are left out.
#[derive(Default)]
struct Layer(BTreeMap<String, String>);

/// All layers, highest first.
pub(super) struct Layers([(Source, Layer); 3]);

/// A value and the layer that gave it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Given<'a> {
    pub(super) text: &'a str,
    pub(super) source: Source,
}

impl Layers {
    /// Sorts the inputs into layers, collecting what to warn about and what is wrong.
    pub(super) fn new(inputs: &Inputs, warnings: &mut Vec<Warning>, errors: &mut Vec<String>) -> Self {
        let flags = Layer::new(Source::Flag, inputs.flags.iter().cloned(), warnings);
        let environment = inputs.environment.iter().filter_map(|(name, value)| {
            let name = name.to_str()?;
            if !ours(name) {
                return None;
            }
            let Some(value) = value.to_str() else {
                errors.push(format!("{name} in the environment is not UTF-8"));
                return None;
            };
            Some((name.to_owned(), value.to_owned()))
        });
        let environment = Layer::new(Source::Environment, environment.collect::<Vec<_>>(), warnings);
        let dotenv = inputs.dotenv.as_deref().map_or_else(Vec::new, |text| parse_dotenv(text, errors));
        let dotenv = Layer::new(Source::DotEnv, dotenv, warnings);
        Self([(Source::Flag, flags), (Source::Environment, environment), (Source::DotEnv, dotenv)])
    }

    /// The value of the highest layer that has one.
    pub(super) fn get(&self, name: &str) -> Option<Given<'_>> {
        self.0
            .iter()
            .find_map(|(source, layer)| layer.0.get(name).map(|text| Given { text, source: *source }))
    }

    /// The value within one layer.
    pub(super) fn get_in(&self, source: Source, name: &str) -> Option<Given<'_>> {
        let (_, layer) = self.0.iter().find(|(of, _)| *of == source)?;
        layer.0.get(name).map(|text| Given { text, source })
    }

    /// The highest layer that has a value for one of these names.
    pub(super) fn highest_with(&self, names: &[&str]) -> Option<Source> {
        self.0
            .iter()
            .find(|(_, layer)| names.iter().any(|name| layer.0.contains_key(*name)))
            .map(|(of, _)| *of)
    }

    /// Which of these names the layers below `source` give, with their layer.
    pub(super) fn below<'n>(&self, source: Source, names: &[&'n str]) -> Vec<(&'n str, Source)> {
        let lower = self.0.iter().skip_while(|(of, _)| *of != source).skip(1);
        lower
            .flat_map(|(of, layer)| {
                names.iter().filter(|name| layer.0.contains_key(**name)).map(|name| (*name, *of))
            })
            .collect()
    }

    /// A value that may stand in a file named by `NAME_FILE`, from the highest layer that has either.
    ///
    /// # Errors
    /// When the layer has both, or the file cannot be read.
    pub(super) fn get_or_file(&self, name: &str) -> Result<Option<(String, Source)>, String> {
        let file = format!("{name}_FILE");
        match self.highest_with(&[name, &file]) {
            Some(source) => self.get_or_file_in(source, name),
            None => Ok(None),
        }
    }

    /// As [`Layers::get_or_file`], within one layer.
    pub(super) fn get_or_file_in(
        &self,
        source: Source,
        name: &str,
    ) -> Result<Option<(String, Source)>, String> {
        let file_name = format!("{name}_FILE");
        match (self.get_in(source, name), self.get_in(source, &file_name)) {
            (None, None) => Ok(None),
            (Some(value), None) => Ok(Some((value.text.to_owned(), source))),
            (None, Some(file)) => read_secret(Path::new(file.text))
                .map(|text| Some((text, source)))
                .map_err(|error| format!("{}: {error}", label(&file_name, source))),
            (Some(_), Some(_)) => {
                Err(format!("{name} and {file_name} are both set ({source}); set one of them"))
            }
        }
    }
}

/// How messages name a variable: as the person wrote it.
pub(super) fn label(name: &str, source: Source) -> String {
    match source {
        Source::Flag => format!("--{}", name.to_ascii_lowercase().replace('_', "-")),
        Source::Environment | Source::Default => name.to_owned(),
        other => format!("{name} ({other})"),
    }
}

impl Layer {
    fn new(
        source: Source,
        values: impl IntoIterator<Item = (String, String)>,
        warnings: &mut Vec<Warning>,
    ) -> Self {
        let mut own = BTreeMap::new();
        let mut aliased = BTreeMap::new();
        for (name, value) in values {
            if let Some(warning) = suspicious(&name, &value, source) {
                warnings.push(warning);
                continue;
            }
            // Compose files and charts pass a setting that nobody gave as an empty one.
            if value.trim().is_empty() {
                continue;
            }
            match canonical(&name) {
                Some(canonical) if canonical == name => own.insert(name, value),
                Some(canonical) => aliased.insert(canonical, value),
                None => continue,
            };
        }
        // The name itself beats its alias.
        for (name, value) in aliased {
            own.entry(name).or_insert(value);
        }
        Self(own)
    }
}

/// The name that a known name or alias stands for, `_FILE` names included.
fn canonical(name: &str) -> Option<String> {
    let (stem, suffix) = match name.strip_suffix("_FILE") {
        Some(stem) if known_stem(stem).is_some_and(|v| v.file_name().is_some()) => (stem, "_FILE"),
        _ => (name, ""),
    };
    known_stem(stem).map(|variable| format!("{}{suffix}", variable.name))
}

fn known_stem(stem: &str) -> Option<&'static variables::Variable> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == stem).map_or(stem, |(_, name)| name);
    variables::find(name)
}

fn ours(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A warning about a value that is not taken, or a name that is probably misspelt. Never shows the
/// value: it may be a secret under the wrong name.
fn suspicious(name: &str, value: &str, source: Source) -> Option<Warning> {
    if canonical(name).is_some() {
        let link = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
        return (link && name.ends_with("_PORT") && source != Source::Flag).then(|| {
            let service = name.trim_end_matches("_PORT").to_ascii_lowercase().replace('_', "-");
            Warning::new(
                name,
                format!(
                    "{name} ({source}) is ignored: it is a Kubernetes service link, which a Service named \
                     {service:?} in this namespace puts into every pod; set enableServiceLinks: false"
                ),
            )
        });
    }
    if !ours(name) || source == Source::Flag {
        return None;
    }
    let near = nearest(name)?;
    Some(Warning::new(
        name,
        format!("{name} ({source}) is not a variable of txstream and is ignored; did you mean {near}?"),
    ))
}

/// The known name closest to `name`, at most two edits away.
fn nearest(name: &str) -> Option<String> {
    let files = VARIABLES.iter().filter_map(variables::Variable::file_name);
    VARIABLES
        .iter()
        .map(|variable| variable.name.to_owned())
        .chain(files)
        .chain(ALIASES.iter().map(|(alias, _)| (*alias).to_owned()))
        .map(|known| (distance(name, &known), known))
        .filter(|(distance, _)| *distance <= 2)
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein's distance: insertions, deletions and substitutions from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn parse_dotenv(text: &str, errors: &mut Vec<String>) -> Vec<(String, String)> {
    const HOW: &str = "write NAME=value, with single quotes around a value that has blanks, # or $";
    let mut values = Vec::new();
    let text = text.trim_start_matches('\u{feff}');
    for entry in dotenvy::from_read_iter(text.as_bytes()) {
        match entry {
            Ok((name, value)) => values.push((name, value)),
            // The error holds the line, and the line may hold a secret: say where, not what.
            Err(dotenvy::Error::LineParse(rest, _)) => errors.push(match line_number(text, &rest) {
                Some(number) => format!(".env line {number} cannot be read; {HOW}"),
                None => format!("a line of .env cannot be read; {HOW}"),
            }),
            Err(_) => errors.push(format!(".env cannot be read; {HOW}")),
        }
    }
    values
}

/// Which line ends with what the parser stumbled over: it hands back the line or its value.
fn line_number(text: &str, rest: &str) -> Option<usize> {
    text.lines().position(|line| line.trim_end().ends_with(rest.trim_end())).map(|index| index + 1)
}

/// The content of a secret's file without the line end that editors and `echo` leave there.
fn read_secret(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    Ok(text.to_owned())
}

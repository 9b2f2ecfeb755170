//! A scrape of `/metrics`, to be asked for values.

/// All samples of one scrape of the Prometheus text format.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads the text format; comments and what is not a sample are skipped.
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self { samples: lines.filter_map(parse_sample).collect() }
    }

    /// The sum of the samples of that name which carry all the given labels, `None` if there are none.
    /// A histogram is asked by its parts: `_count`, `_sum`, `_bucket`.
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let carries = |sample: &Sample, (name, value): &(&str, &str)| {
            sample.labels.iter().any(|(label, have)| label == name && have == value)
        };
        self.samples
            .iter()
            .filter(|sample| sample.name == name && labels.iter().all(|label| carries(sample, label)))
            .map(|sample| sample.value)
            .reduce(|sum, value| sum + value)
    }

    /// Like [`Metrics::get`] without labels.
    ///
    /// # Panics
    /// If there is no such series.
    pub(crate) fn value(&self, name: &str) -> f64 {
        self.get(name, &[]).unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// Every metric name, each once, in the order of the scrape.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.samples.iter().map(|sample| sample.name.as_str()).collect();
        names.dedup();
        names
    }
}

/// `name{label="value",…} 1.5`, the label part optional.
fn parse_sample(line: &str) -> Option<Sample> {
    let (series, rest) = match line.find('{') {
        Some(open) => {
            let close = line.rfind('}')?;
            ((&line[..open], &line[open + 1..close]), &line[close + 1..])
        }
        None => {
            let space = line.find(' ')?;
            ((&line[..space], ""), &line[space..])
        }
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: series.0.to_owned(), labels: parse_labels(series.1), value })
}

fn parse_labels(text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut chars = after.char_indices();
        let mut end = after.len();
        while let Some((at, char)) = chars.next() {
            match char {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped)) => value.push(escaped),
                    None => {}
                },
                _ => value.push(char),
            }
        }
        labels.push((name.trim_start_matches(',').trim().to_owned(), value));
        rest = &after[end..];
    }
    labels
}

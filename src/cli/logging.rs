//! Logs go to stderr, as JSON for machines or as text for people.

use std::io;
use std::sync::Arc;

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

use super::{Failure, output};
use crate::config::{self, LogFormat, Logging, Warning};

/// Changes the log level of the running process; the error says what is wrong with the level.
pub type SetLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Starts logging for the whole process, once, with what the configuration warned about first.
///
/// # Errors
/// [`Failure::Halted`] when something else logs already.
pub fn start(settings: &Logging, warnings: &[Warning]) -> Result<SetLevel, Failure> {
    let colours = output::colours(&io::stderr());
    let (subscriber, set_level) = build(settings, io::stderr, colours);
    subscriber
        .try_init()
        .map_err(|error| Failure::halted(format!("start logging: {error}"), "report this as a bug"))?;
    for Warning { variable, message } in warnings {
        tracing::warn!(variable, "{message}");
    }
    Ok(set_level)
}

fn build<W>(settings: &Logging, writer: W, colours: bool) -> (impl Subscriber + Send + Sync, SetLevel)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(targets(&settings.level).unwrap_or_default());
    let lines = fmt::layer().with_writer(writer).with_ansi(colours);
    let lines = match settings.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    let set_level: SetLevel = Arc::new(move |level| {
        let targets = targets(level)?;
        handle.reload(targets).map_err(|error| format!("change the log level: {error}"))
    });
    let filter = filter.and(filter_fn(shows_no_value).with_max_level_hint(LevelFilter::TRACE));
    (tracing_subscriber::registry().with(lines.with_filter(filter)), set_level)
}

/// At `debug` the SQL client writes the parameters of every statement, payloads among them, and at `info` whatever
/// a trigger raises as a notice: no level is worth that.
fn shows_no_value(line: &Metadata<'_>) -> bool {
    !line.target().starts_with("tokio_postgres") || *line.level() <= Level::WARN
}

fn targets(level: &str) -> Result<Targets, String> {
    config::check_level(level)?;
    level.parse().map_err(|error| format!("{level:?} is not a level: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(level: &str, format: LogFormat, write: impl FnOnce(&SetLevel)) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let settings = Logging { level: level.to_owned(), format };
        let (subscriber, set_level) = build(&settings, move || writer.clone(), false);
        tracing::subscriber::with_default(subscriber, || write(&set_level));
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_lines_have_message_and_fields_at_the_top() {
        let line = log("info", LogFormat::Json, |_| tracing::info!(slot = "s", "streaming"));
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "streaming");
        assert_eq!(line["slot"], "s");
    }

    #[test]
    fn text_lines_are_not_coloured_beyond_a_terminal() {
        let line = log("info", LogFormat::Text, |_| tracing::warn!(slot = "s", "waiting"));
        assert!(line.contains("WARN") && line.contains("waiting slot=\"s\""), "{line}");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }

    #[test]
    fn what_the_sql_client_says_of_values_is_not_written_at_any_level() {
        for level in ["trace", "info,tokio_postgres=trace", "off,tokio_postgres::query=debug"] {
            let lines = log(level, LogFormat::Text, |_| {
                tracing::debug!(target: "tokio_postgres::query", "executing with parameters: one");
                tracing::info!(target: "tokio_postgres::connection", "NOTICE: two");
                tracing::warn!(target: "tokio_postgres::connection", "three");
            });
            let said = ["one", "two", "three"].map(|word| lines.contains(word));
            assert_eq!(&said[..2], [false, false], "{level}: {lines}");
            assert_eq!(said[2], !level.starts_with("off"), "{level}: {lines}");
        }
    }

    #[test]
    fn the_level_changes_while_running_and_a_bad_one_changes_nothing() {
        let lines = log("warn", LogFormat::Text, |set_level| {
            tracing::info!("one");
            set_level("debug").unwrap();
            tracing::debug!("two");
            let error = set_level("loud").unwrap_err();
            assert!(error.contains("\"loud\""), "{error}");
            tracing::debug!("three");
            set_level("off,txstream=error").unwrap();
            tracing::warn!("four");
            tracing::error!("five");
        });
        let said = ["one", "two", "three", "four", "five"].map(|word| lines.contains(word));
        assert_eq!(said, [false, true, true, false, true], "{lines}");
    }
}

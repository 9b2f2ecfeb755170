//! What the demo says, and how.

use std::collections::HashSet;
use std::error::Error;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::load::Books;
use crate::watch::{Arrival, Watch};

/// Opens the next step.
pub(crate) fn step(title: &str) {
    static NUMBER: AtomicUsize = AtomicUsize::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    println!("\n{}", styled("1", &format!("{number}. {title}")));
}

/// Why the step is there, in small print.
pub(crate) fn note(text: &str) {
    println!("   {}", styled("2", text));
}

/// Anything else, indented below the step.
pub(crate) fn say(text: &str) {
    for line in text.split('\n') {
        println!("{}", format!("   {line}").trim_end());
    }
}

/// The text with an ANSI style, on a terminal and without `NO_COLOR`.
fn styled(style: &str, text: &str) -> String {
    let plain = !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some();
    if plain { text.to_owned() } else { format!("\x1b[{style}m{text}\x1b[0m") }
}

/// 12345 as `12,345`.
pub(crate) fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An error with its causes.
pub(crate) fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// A table of records: where they are, what they carry, and how long after their COMMIT they came.
pub(crate) fn records(arrivals: &[Arrival], books: &Books) {
    say(&format!(
        "{:<22} {:>4} {:>6}  {:<11} {:>9}  {:<30} {}",
        "TOPIC", "PART", "OFFSET", "KEY", "LATENCY", "VALUE", "HEADERS"
    ));
    for arrival in arrivals {
        let headers: Vec<String> = arrival.headers.iter().map(header).collect();
        say(&format!(
            "{:<22} {:>4} {:>6}  {:<11} {:>9}  {:<30} {}",
            arrival.topic,
            arrival.partition,
            arrival.offset,
            shortened(&arrival.key, 11),
            latency(arrival, books).map_or_else(|| "?".to_owned(), milliseconds),
            shortened(&arrival.value, 30),
            headers.join(" ")
        ));
    }
    say("\nLATENCY is the time from the return of COMMIT to the consumer's having the record.");
}

/// Long ids are cut: the line should fit a terminal.
fn header((name, value): &(String, String)) -> String {
    format!("{name}={}", shortened(value, 9))
}

fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width - 1).collect();
    short.push('…');
    short
}

/// From the return of COMMIT to the consumer; a record may be faster than the answer to COMMIT.
fn latency(arrival: &Arrival, books: &Books) -> Option<Duration> {
    let committed = books.commit_time(arrival.id()?)?;
    Some(arrival.at.saturating_duration_since(committed))
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// Reports once a second for so long what the writers wrote and what came out at the other end.
pub(crate) async fn follow(time: Duration, books: &Books, watch: &Watch) {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.tick().await;
    let end = Instant::now() + time;
    let mut seen = watch.arrivals().len();
    while Instant::now() < end {
        seconds.tick().await;
        let committed = books.committed();
        let arrivals = watch.arrivals();
        let events: HashSet<_> = arrivals.iter().filter_map(Arrival::id).collect();
        let news = &arrivals[seen..];
        seen = arrivals.len();
        let mut line = format!(
            "committed {:>7}   rolled back {:>6}   in Kafka {:>7}",
            count(committed),
            count(books.rolled_back()),
            count(events.len())
        );
        let mut latencies: Vec<Duration> =
            news.iter().filter_map(|arrival| latency(arrival, books)).collect();
        latencies.sort_unstable();
        if let Some(&slowest) = latencies.last() {
            let middle = latencies[latencies.len() / 2];
            line.push_str(&format!(
                "   latency: half within {}, all within {}",
                milliseconds(middle),
                milliseconds(slowest)
            ));
        } else {
            line.push_str("   nothing new in Kafka, Postgres keeps it");
        }
        say(&line);
    }
}

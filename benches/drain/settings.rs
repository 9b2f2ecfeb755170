//! What a run measures, from the environment.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// The size of a run. Unset means the full size, which is the one that `docs/benchmark.md` shows.
pub(crate) struct Settings {
    /// `BENCH_ROWS`: rows of the backlog.
    pub(crate) rows: u64,
    /// `BENCH_ROWS_PER_COMMIT`
    pub(crate) rows_per_commit: u64,
    /// `BENCH_PAIRS`: turns of `pg_recvlogical` and the relay, over each transport.
    pub(crate) pairs: u32,
    /// `BENCH_WARM_UPS`: drains by the relay before those that count.
    pub(crate) warm_ups: u32,
    /// `BENCH_BIG_ROWS`: rows of the one big transaction, 0 skips it.
    pub(crate) big_rows: u64,
    /// `BENCH_LATENCY_SECONDS`: how long latency is measured, 0 skips it.
    pub(crate) latency_time: Duration,
    /// `BENCH_REPORT`: the Markdown file to write; unset, a run of full size writes `docs/benchmark.md`
    /// and a smaller one prints only.
    pub(crate) report: Option<PathBuf>,
}

impl Settings {
    /// Reads them.
    ///
    /// # Panics
    /// If one is not a number.
    pub(crate) fn from_environment() -> Self {
        let full = Self {
            rows: 500_000,
            rows_per_commit: 100,
            pairs: 5,
            warm_ups: 12,
            big_rows: 1_000_000,
            latency_time: Duration::from_secs(20),
            report: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmark.md")),
        };
        let names = ["ROWS", "ROWS_PER_COMMIT", "PAIRS", "WARM_UPS", "BIG_ROWS", "LATENCY_SECONDS"];
        let smaller = names.iter().any(|name| std::env::var_os(format!("BENCH_{name}")).is_some());
        let report = std::env::var_os("BENCH_REPORT").map(PathBuf::from);
        Self {
            rows: number("ROWS", full.rows),
            rows_per_commit: number("ROWS_PER_COMMIT", full.rows_per_commit),
            pairs: number("PAIRS", full.pairs),
            warm_ups: number("WARM_UPS", full.warm_ups),
            big_rows: number("BIG_ROWS", full.big_rows),
            latency_time: Duration::from_secs(number("LATENCY_SECONDS", full.latency_time.as_secs())),
            report: report.or_else(|| full.report.filter(|_| !smaller)),
        }
    }
}

fn number<N: FromStr>(name: &str, default: N) -> N {
    let name = format!("BENCH_{name}");
    let Ok(text) = std::env::var(&name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} wants a number, got {text:?}"))
}

//! The `txstream` binary: arguments, configuration, logging, runtime, run, exit code.

use std::process::ExitCode;
use std::time::Duration;

use txstream::cli::{self, Failure, Parsed, logging};
use txstream::config;

/// Also C's `malloc`, so that it serves librdkafka.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// For threads that are at the end of their work when it is done.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    cli::exit(run())
}

fn run() -> Result<(), Failure> {
    let Parsed::Work(arguments) = cli::parse(std::env::args_os())? else { return Ok(()) };
    let (config, warnings) = config::load(&arguments.inputs()?).map_err(Failure::Usage)?;
    let set_level = logging::start(&config.logging, &warnings)?;
    // One thread: the data plane needs no more, and nothing of it is shared.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::halted(format!("start the runtime: {error}"), "raise the limit of open files")
    })?;
    let done = runtime.block_on(arguments.run(&config, set_level));
    // All that counts is done: whoever still asks Kafka something is not waited for.
    runtime.shutdown_timeout(LEFT_BEHIND);
    done
}

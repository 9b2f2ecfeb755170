//! The `txstream` binary: arguments, configuration, logging, runtime, run, exit code.

use std::process::ExitCode;

use txstream::cli::{self, Failure, Parsed, logging};
use txstream::config;

/// Also C's `malloc`, so that it serves librdkafka.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
    runtime.block_on(arguments.run(&config, set_level))
}

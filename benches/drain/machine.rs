//! Where a run was made: figures mean nothing without it.

use std::path::Path;
use std::process::Command;

use crate::support::Database;

/// What figures depend on.
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    postgres: String,
    pg_recvlogical: String,
    kafka: String,
    txstream: String,
}

impl Machine {
    /// Asks the kernel and the servers.
    pub(crate) async fn look(database: &Database, pg_recvlogical: &Path) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory_kb: u64 = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|kb| kb.trim_end_matches(" kB").parse().ok())
            .unwrap_or_default();
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: (memory_kb + (1 << 19)) >> 20,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            postgres: database.value("SELECT current_setting('server_version')").await,
            pg_recvlogical: said(Command::new(pg_recvlogical).arg("--version")),
            kafka: kafka_version(),
            txstream: said(Command::new(crate::support::relay::binary()).arg("--version")),
        }
    }

    /// One sentence of Markdown.
    pub(crate) fn describe(&self) -> String {
        let Self { cpu, cores, memory_gib, kernel, postgres, pg_recvlogical, kafka, txstream } = self;
        format!(
            "{cpu}, {cores} cores, {memory_gib} GiB, Linux {kernel}; PostgreSQL {postgres} (`fsync=on`), \
             Apache Kafka {kafka} (one broker with the JVM options of its start script, `acks=all`), `{pg_recvlogical}`, `{txstream}`. \
             Servers, relay and probe share this machine, over loopback."
        )
    }
}

/// The first line that a program prints.
fn said(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
}

/// The version in the name of the directory that the broker's jars are fetched to.
fn kafka_version() -> String {
    let directory = said(&mut Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/fetch-kafka")));
    directory.rsplit_once("kafka-").map_or_else(|| "?".to_owned(), |(_, version)| version.to_owned())
}

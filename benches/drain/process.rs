//! What the kernel knows of a child.

use std::time::Duration;

/// Clock ticks a second in `/proc/PID/stat`: `USER_HZ`, which is 100 on every Linux that runs this.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time and memory of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time of all its threads.
    pub(crate) cpu: Duration,
    /// The largest resident set so far, in kB (`VmHWM`).
    pub(crate) peak_memory_kb: u64,
    /// It ended and was not waited for yet; its memory is not known any more.
    pub(crate) ended: bool,
}

/// Looks at a process; `None` if there is none of that id.
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold blanks: count the fields behind it.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    #[allow(clippy::cast_precision_loss, reason = "ticks of a few minutes")]
    let cpu = Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let peak_memory_kb = peak.and_then(|peak| peak.parse().ok()).unwrap_or_default();
    Some(Usage { cpu, peak_memory_kb, ended: fields.first() == Some(&"Z") })
}

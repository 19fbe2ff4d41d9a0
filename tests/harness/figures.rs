//! What the kernel knows about a process.

use std::time::Duration;

/// Memory it holds, KiB.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn resident_kib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

/// The most memory it has held so far, KiB.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn peak_resident_kib(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process's status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Processor time used so far, user and system.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn processor_time(pid: u32) -> Duration {
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process's stat");
    let (_, fields) = stat.rsplit_once(") ").expect("fields after the name");
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum::<u64>();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

//! What the demo found, for machines; and numbers as the demo's lines show them.

use std::time::Duration;

use serde::Serialize;

use super::load::Moment;

/// What the demo found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Transactions acknowledged by the primary.
    pub(super) transactions: u64,
    /// How long the initial copy took.
    pub(super) initial_copy_ms: f64,
    /// Cuts until the primary was killed.
    pub(super) cuts: u64,
    /// Median freeze.
    pub(super) freeze_p50_us: f64,
    /// Longest freeze.
    pub(super) freeze_max_us: f64,
    /// The marker served after the failover.
    pub(super) marker: u64,
    /// How long the failover took by its own account.
    pub(super) failover_ms: f64,
    /// From the kill until the copy answered a read.
    pub(super) rto_ms: f64,
    /// From the marker's cut until the kill: what was lost, as time.
    pub(super) rpo_ms: f64,
    /// What was lost, in transactions.
    pub(super) lost_transactions: u64,
    /// Log records in the copy, each with its file.
    pub(super) records: u64,
    /// Writes the copy holds.
    pub(super) writes: u64,
    /// Bytes compared with what the host had written.
    pub(super) compared_bytes: u64,
    /// Transactions written after the failover, and read back.
    pub(super) transactions_after: u64,
    /// Whether the old primary came back fenced.
    pub(super) fenced: bool,
    /// From the first service's start to the last proof.
    pub(super) took_seconds: f64,
}

/// How long a host waited for answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    /// Half of them waited less.
    pub(super) median: Duration,
    /// The longest.
    pub(super) longest: Duration,
}

impl Waits {
    /// Of the writes that are durable when answered, or of the others.
    pub(super) fn of(moments: &[Moment], fua: bool) -> Self {
        let mut waits: Vec<Duration> =
            moments.iter().filter(|moment| moment.fua == fua).filter_map(Moment::waited).collect();
        waits.sort_unstable();
        let median = waits.get(waits.len() / 2).copied().unwrap_or_default();
        Self { median, longest: waits.last().copied().unwrap_or_default() }
    }
}

/// A duration in milliseconds.
pub(super) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Milliseconds between two wall clock times.
pub(super) fn between(begin_ns: i64, end_ns: i64) -> Duration {
    Duration::from_nanos(end_ns.saturating_sub(begin_ns).max(0).unsigned_abs())
}

/// A count, with its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
    }
}

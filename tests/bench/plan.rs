//! How long and how large: the small form ends in five minutes, the full one in thirty.

use std::time::Duration;

/// Sizes and times of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// `small` or `full`.
    pub(crate) name: &'static str,
    /// Rounds of a job of the host path at most.
    pub(crate) rounds: usize,
    /// And at least.
    pub(crate) rounds_min: usize,
    /// Seconds after which a job begins no further round beyond the least: on a slow day everybody's dirty pages take long to be written.
    pub(crate) job_seconds: u64,
    /// Seconds of one host job.
    pub(crate) seconds: u64,
    /// Bytes of the volume that hosts write.
    pub(crate) volume_bytes: u64,
    /// Seconds of the sequential write that outlasts every buffer; `None`: it is a job like the others.
    pub(crate) long_seconds: Option<u64>,
    /// Rounds of copies.
    pub(crate) copy_rounds: usize,
    /// Bytes of a copy.
    pub(crate) copy_bytes: u64,
    /// Rounds of histories, whose slower half is the slowest measure there is.
    pub(crate) history_rounds: usize,
    /// Rounds of backups.
    pub(crate) backup_rounds: usize,
    /// Rounds of the half-rate measures.
    pub(crate) half_rounds: usize,
    /// Seconds of the half-rate measures.
    pub(crate) half_seconds: u64,
    /// How long a line is used, once the beginning is over; virtual time.
    pub(crate) line_lasts: Duration,
    /// Bytes that wait to be applied when the secondary takes over.
    pub(crate) backlogs: &'static [u64],
    /// Volumes of the appliance with many, and its groups.
    pub(crate) many: (usize, usize),
    /// Bytes in the journal when it starts again.
    pub(crate) recover_bytes: u64,
}

impl Plan {
    /// Five minutes at most.
    pub(crate) const SMALL: Self = Self {
        name: "small",
        rounds: 2,
        rounds_min: 1,
        job_seconds: 10,
        seconds: 1,
        volume_bytes: 256 << 20,
        long_seconds: None,
        copy_rounds: 2,
        copy_bytes: 256 << 20,
        history_rounds: 1,
        backup_rounds: 1,
        half_rounds: 2,
        half_seconds: 3,
        line_lasts: Duration::from_secs(4),
        backlogs: &[0, 256 << 20],
        many: (60, 6),
        recover_bytes: 128 << 20,
    };
    /// Thirty minutes at most.
    pub(crate) const FULL: Self = Self {
        name: "full",
        rounds: 4,
        rounds_min: 2,
        job_seconds: 70,
        seconds: 4,
        volume_bytes: 1 << 30,
        long_seconds: Some(60),
        copy_rounds: 3,
        copy_bytes: 2 << 30,
        history_rounds: 2,
        backup_rounds: 2,
        half_rounds: 3,
        half_seconds: 15,
        line_lasts: Duration::from_secs(30),
        backlogs: &[0, 1 << 30, 20 << 30],
        many: (1000, 100),
        recover_bytes: 20 << 30,
    };
}

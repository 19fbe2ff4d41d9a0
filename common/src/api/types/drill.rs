//! Drills: what is asked, how one went, and what they have proven.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What drills have proven of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupDrills {
    /// The group.
    pub group: String,
    /// The newest marker of which a drill has proven that it can be recovered.
    pub proven_marker: Option<u64>,
    /// When that marker was cut.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub proven_time: Option<Timestamp>,
    /// Seconds since then.
    pub proven_age_seconds: Option<f64>,
    /// Number of the last drill that ended.
    pub last: Option<u64>,
    /// Whether it passed.
    pub last_passed: Option<bool>,
    /// Its time to recovery, seconds.
    pub last_rto_seconds: Option<f64>,
    /// A drill is under way.
    pub running: bool,
    /// Seconds between two scheduled drills.
    pub every_seconds: Option<f64>,
}

/// `drill run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillRun {
    /// The marker; without it, the newest.
    pub marker: Option<u64>,
    /// A command for the shell; without it, the exports are only opened and read.
    pub check: Option<String>,
    /// Milliseconds the first reads and the check may take together.
    pub timeout_ms: u64,
    /// Mount the volumes' file systems for the check.
    #[serde(default)]
    pub mount: bool,
}

/// `drill schedule`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillSchedule {
    /// Milliseconds between two begins.
    pub every_ms: u64,
    /// As for `drill run`.
    pub check: Option<String>,
    /// As for `drill run`.
    pub timeout_ms: u64,
    /// As for `drill run`.
    #[serde(default)]
    pub mount: bool,
}

/// How a drill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DrillResult {
    /// It is under way.
    Running,
    /// The image could be used.
    Passed,
    /// It could not; the reason says why.
    Failed,
}

/// A rehearsed failover.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrillReport {
    /// Its number, for `drill show` and `drill report`.
    pub id: u64,
    /// The name of its clone.
    pub name: String,
    /// The group.
    pub group: String,
    /// The marker rehearsed.
    pub marker: u64,
    /// When that was cut.
    #[schema(value_type = String, format = DateTime)]
    pub marker_time: Timestamp,
    /// When the drill began.
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
    /// Seconds until it ended; of one under way, so far.
    pub took_seconds: f64,
    /// How it ended.
    pub result: DrillResult,
    /// Why it failed.
    pub reason: Option<String>,
    /// Seconds from the order to the first answered read of every export.
    pub rto_seconds: Option<f64>,
    /// What a disaster at its begin would have lost, seconds.
    pub rpo_seconds: Option<f64>,
    /// The check.
    pub check: Option<String>,
    /// What the check ended with.
    pub check_exit_code: Option<i32>,
    /// What the check said: the begin and the end of it when it said much.
    pub output: String,
    /// The exports rehearsed on; they are gone when it has ended.
    pub exports: Vec<String>,
    /// Whether it was scheduled.
    pub scheduled: bool,
    /// How old the copy was before it began: pairs of seconds before and seconds old. Empty in a list of drills.
    pub lag: Vec<(f64, f64)>,
}

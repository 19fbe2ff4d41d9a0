//! Groups: their part of `status --json`, their markers, and what is asked of them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::pair::PairStatus;
use crate::history::History;
use crate::watchdog::Standing;

/// What an appliance is for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Hosts write here.
    Primary,
    /// The copy is here.
    Secondary,
    /// Was primary, met a higher generation: serves nothing.
    Fenced,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Its id, hexadecimal.
    pub id: String,
    /// What this appliance is for it.
    pub role: Role,
    /// Counts role changes.
    pub generation: u64,
    /// Names of its volumes.
    pub volumes: Vec<String>,
    /// The newest marker (on a secondary: the newest received).
    pub marker: MarkerStatus,
    /// The journal.
    pub journal: JournalStatus,
    /// The write buffer.
    pub buffer: BufferStatus,
    /// Freezes since the service started.
    pub freeze: FreezeStatus,
    /// Positions of the write path.
    pub positions: Positions,
    /// Milliseconds between cuts.
    pub interval_ms: u64,
    /// What it does when its journal is full; on a copy, what it will do once it has taken over.
    #[serde(default)]
    pub on_full: OnFull,
    /// What its copies keep behind their newest marker, when that was asked for.
    #[serde(default)]
    pub history: Option<HistoryStatus>,
    /// Set when something needs a person: what happened and what to do.
    pub problem: Option<String>,
    /// For how long each of its positions has stood though there was something to do.
    #[serde(default)]
    pub standing: Vec<Standing>,
    /// Its pairs; on a secondary one, which names the primary.
    pub pairs: Vec<PairStatus>,
}

/// Positions of the write path, sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Positions {
    /// Newest write given a number.
    pub captured_seq: u64,
    /// Durable in the journal here.
    pub journaled_seq: u64,
    /// Written back to the volumes here.
    pub applied_seq: u64,
}

impl Positions {
    /// Of a write path that goes on meanwhile: each is read before the one it is never ahead of, so that none is told to be.
    pub fn read(
        applied: impl FnOnce() -> u64,
        journaled: impl FnOnce() -> u64,
        captured: impl FnOnce() -> u64,
    ) -> Self {
        let applied_seq = applied();
        let journaled_seq = journaled();
        Self { captured_seq: captured(), journaled_seq, applied_seq }
    }
}

/// The newest marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MarkerStatus {
    /// Its number, 0 before the first.
    pub last: u64,
    /// When it was cut.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub time: Option<Timestamp>,
}

/// A journal's fill.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct JournalStatus {
    /// Bytes taken: it can still take the rest of what it may hold.
    pub bytes: u64,
    /// Bytes it may hold.
    pub capacity_bytes: u64,
    /// Seconds until it is full, if it goes on as in the last minute; 0 when it stands full, none when it does not fill.
    pub full_in_seconds: Option<f64>,
    /// On a primary: what every write of a host is held back because the journal fills, milliseconds.
    pub throttle_ms: f64,
}

/// A write buffer's fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct BufferStatus {
    /// Bytes held.
    pub bytes: u64,
    /// Bytes it may hold.
    pub capacity_bytes: u64,
}

/// The freeze histogram in short.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct FreezeStatus {
    /// Freezes.
    pub count: u64,
    /// Median, microseconds.
    pub p50_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
    /// Longest, microseconds.
    pub max_us: f64,
    /// Markers given up because the freeze limit was reached.
    pub abandoned: u64,
}

/// One marker held (`tidemark markers`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MarkerInfo {
    /// Its number.
    pub number: u64,
    /// The newest sequence number inside it.
    pub boundary_seq: u64,
    /// When it was cut.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// The operator's text.
    pub tag: Option<String>,
}

/// `on-full` of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// Keep hosts at full speed: fold, then the differential bitmap.
    #[default]
    Fold,
    /// Slow hosts gently.
    Throttle,
}

/// `group create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupCreate {
    /// Its name.
    pub name: String,
    /// Names of its volumes.
    pub volumes: Vec<String>,
    /// Milliseconds between cuts.
    pub interval_ms: u64,
    /// What to do when the journal is full.
    #[serde(default)]
    pub on_full: OnFull,
    /// What its copies are to keep behind their newest marker.
    #[serde(default)]
    pub history: History,
}

/// `group set`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupSet {
    /// What its copies are to keep behind their newest marker; without it, what they do.
    pub history: Option<History>,
    /// What to do when the journal is full; without it, what it does.
    #[serde(default)]
    pub on_full: Option<OnFull>,
}

/// What a copy keeps behind its newest marker.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct HistoryStatus {
    /// What was asked for.
    pub asked: History,
    /// The oldest marker that can be cloned or failed over to; none on a primary, and while there is no usable copy.
    pub oldest_marker: Option<u64>,
    /// When that was cut.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest_time: Option<Timestamp>,
    /// Seconds from then until the newest marker.
    pub seconds: f64,
    /// Bytes of the journal that are kept for it.
    pub bytes: u64,
    /// It is shorter than asked for, because the journal has no room for more.
    pub shortened: bool,
}

/// `group add`, `group remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupVolume {
    /// The volume's name.
    pub volume: String,
}

/// `cut`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Cut {
    /// Text kept with the marker, at most 200 bytes without control characters.
    pub tag: Option<String>,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WaitFor {
    /// The secondary has it durably, and all that it needs to take over at it.
    Received,
    /// The copy volumes hold it.
    #[default]
    Applied,
}

/// `wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Wait {
    /// The peer's name; without it, all pairs (on a secondary: this side itself).
    pub to: Option<String>,
    /// The marker; without it, the newest now.
    pub marker: Option<u64>,
    /// What for.
    #[serde(default, rename = "for")]
    pub wait_for: WaitFor,
    /// Milliseconds to wait at most.
    pub timeout_ms: u64,
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn no_position_is_told_ahead_of_the_one_before_it() {
        let moving = Cell::new(0);
        let look = || {
            moving.set(moving.get() + 1);
            moving.get()
        };
        let Positions { captured_seq, journaled_seq, applied_seq } = Positions::read(look, look, look);
        assert!(applied_seq <= journaled_seq && journaled_seq <= captured_seq);
    }
}

//! What an old primary had alone.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::CopyProgress;

/// Writes of an old primary that never reached the other side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostTail {
    /// Its name, for `lost export` and `lost discard`.
    pub name: String,
    /// The generation in which they were written.
    pub generation: u64,
    /// The last marker both sides had.
    pub after_marker: u64,
    /// How many writes.
    pub writes: u64,
    /// Where they are kept.
    pub folder: String,
    /// What they wrote.
    pub volumes: Vec<LostVolume>,
    /// Why it cannot be read, when it cannot: what it holds is not known then, and nothing of it is exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What a lost tail wrote on one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostVolume {
    /// Its name, when the group still has it.
    pub name: Option<String>,
    /// Its index in the group's journal.
    pub index: u32,
    /// Bytes of all ranges.
    pub bytes: u64,
    /// The ranges, in order.
    pub ranges: Vec<LostRange>,
}

/// A range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostRange {
    /// Its first byte.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

/// `lost export`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostExport {
    /// The volume.
    pub volume: String,
    /// Absolute path of a file that is not there yet.
    pub to: String,
}

/// A `lost export` under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LostExportStatus {
    /// The group.
    pub group: String,
    /// What is exported of it, as `lost list` names it.
    pub name: String,
    /// The volume, as it was asked for.
    pub volume: String,
    /// The file; it has this name when all of it is there.
    pub to: String,
    /// How much of what is kept of the journal is in it; that is read twice before, and nothing of it is until then.
    pub progress: CopyProgress,
}

//! What is said of data sets and backups.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::types::{CopyProgress, GroupMoment};

/// `set create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SetCreate {
    /// Its name.
    pub name: String,
    /// Its extents: `VOLUME`, `VOLUME:OFFSET+LENGTH`, `VOLUME:pN`, `VOLUME:/DIRECTORY`, `VOLUME:pN:/DIRECTORY`.
    pub extents: Vec<String>,
}

/// A data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SetInfo {
    /// Its name.
    pub name: String,
    /// Its extents.
    pub extents: Vec<String>,
    /// Its volumes that are not here now.
    pub missing_volumes: Vec<String>,
}

/// The order in which an archive holds its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackupOrder {
    /// As sets and extents were given.
    #[default]
    Given,
    /// By volume and address.
    Address,
    /// The fewest bytes first.
    SmallestFirst,
}

impl BackupOrder {
    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Address => "address",
            Self::SmallestFirst => "smallest-first",
        }
    }
}

/// What a backup of a target does about what is still to be copied to it since its split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhileDifferential {
    /// It is copied to the target when the backup comes there, then read from the target.
    Copy,
    /// The backup begins to copy when nothing differs.
    Wait,
    /// It is read from the source, and the rest from the target: nothing is waited for.
    #[default]
    Merge,
}

impl WhileDifferential {
    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Wait => "wait",
            Self::Merge => "merge",
        }
    }
}

/// `backup create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupCreate {
    /// Its name.
    pub name: String,
    /// Names of data sets, in order.
    pub sets: Vec<String>,
    /// The order of its members.
    #[serde(default)]
    pub order: BackupOrder,
    /// An absolute path (a file that is not there yet, a folder, a pipe, a tape), or `-` for `GET …/stream`.
    pub to: String,
    /// When to begin; without it, now.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// Bytes per second at most.
    pub rate: Option<u64>,
    /// Copy only while hosts are quiet.
    #[serde(default)]
    pub when_idle: bool,
    /// Of targets of local pairs: what is done about what they still lack.
    #[serde(default)]
    pub while_differential: WhileDifferential,
}

/// Where a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackupState {
    /// It begins at a time.
    Scheduled,
    /// For memory, or for somebody to read its stream.
    Waiting,
    /// It copies.
    Copying,
    /// It is complete.
    Done,
    /// It ended early; the reason says why. Nothing half-valid is left.
    Failed,
    /// It was ended by the operator.
    Cancelled,
}

impl BackupState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Scheduled, Self::Waiting, Self::Copying, Self::Done, Self::Failed, Self::Cancelled];

    /// As people and scripts know it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Waiting => "waiting",
            Self::Copying => "copying",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens to it.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// How far a backup is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct BackupProgress {
    /// Bytes written.
    pub done_bytes: u64,
    /// Bytes in all, without holes.
    pub total_bytes: u64,
    /// Bytes per second since it began to copy.
    pub bytes_per_second: f64,
    /// Time left at that speed, seconds.
    pub seconds_left: Option<f64>,
    /// What is being written.
    pub member: String,
    /// The target has taken nothing for so long, seconds.
    pub stalled_seconds: Option<f64>,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackupInfo {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub state: BackupState,
    /// Why it is there, when that is not obvious.
    pub reason: Option<String>,
    /// Its sets, with their extents when it was asked for.
    pub sets: Vec<SetCreate>,
    /// The order of its members.
    pub order: String,
    /// Where it goes: what was named.
    pub to: String,
    /// The folder of its own in which it lies, when a folder was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// When it begins.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// Bytes per second at most.
    pub rate: Option<u64>,
    /// Only while hosts are quiet.
    pub when_idle: bool,
    /// What is done about what targets of local pairs still lack.
    pub while_differential: WhileDifferential,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub asked: Timestamp,
    /// When it began.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub began: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended: Option<Timestamp>,
    /// As of when, one moment per group.
    pub moments: Vec<GroupMoment>,
    /// How far it is.
    pub progress: BackupProgress,
}

impl BackupInfo {
    /// Where it is found when it is done.
    #[must_use]
    pub fn place(&self) -> &str {
        self.place.as_deref().unwrap_or(&self.to)
    }
}

/// `backup restore` onto volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreRequest {
    /// Absolute path of an archive or of a folder of raw files.
    pub from: String,
    /// One set of it.
    pub set: Option<String>,
    /// Another volume than the one it was read from.
    pub onto: Option<String>,
}

/// Where a restore onto volumes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreState {
    /// It reads the backup and compares every digest; nothing is changed yet.
    Verifying,
    /// It writes: until it is done, what its volumes hold is neither what was there nor the backup.
    Writing,
    /// All of it is written, durably.
    Done,
}

/// A restore onto volumes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RestoreStatus {
    /// As it was asked for: the archive or the folder.
    pub from: String,
    /// As it was asked for: one set of it.
    pub set: Option<String>,
    /// As it was asked for: another volume.
    pub onto: Option<String>,
    /// Where it is.
    pub state: RestoreState,
    /// The volumes it overwrites, by name; none while they are not known.
    pub volumes: Vec<String>,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub began: Timestamp,
    /// How far it is: with verifying (no bytes in all: that is not known before), then, from the begin, with writing.
    pub progress: CopyProgress,
    /// What it may come to for copies of what is overwritten, and what to do; told before the first byte is changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl RestoreStatus {
    /// What was asked for.
    #[must_use]
    pub fn request(&self) -> RestoreRequest {
        RestoreRequest { from: self.from.clone(), set: self.set.clone(), onto: self.onto.clone() }
    }
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreReport {
    /// Members.
    pub members: usize,
    /// Bytes of data.
    pub data_bytes: u64,
    /// The volumes that were written, by name; none when it went into a folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// As it was told before the first byte was changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

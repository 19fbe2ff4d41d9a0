//! The records of images, drills and local pairs. A field added or changed raises `CATALOG_FORMAT`.
#![allow(missing_docs, reason = "rkyv's derive makes undocumented mirrors of enum fields")]

use rkyv::{Archive, Deserialize, Serialize};

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum ImageKindRecord {
    /// Read-only.
    T0,
    /// Writable.
    Clone {
        /// Bytes that hosts may write over the image.
        space_bytes: u64,
    },
    /// The clone of a drill.
    Drill {
        /// Bytes that its check may write over the image.
        space_bytes: u64,
    },
}

/// One volume of an image.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ImageVolumeRecord {
    /// Its index in the group's journal.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Bytes at the marker.
    pub size: u64,
}

/// What an image shows of one group: its volumes at a marker.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Its name, one for all kinds.
    pub name: String,
    /// What it is for.
    pub kind: ImageKindRecord,
    /// Name of the group.
    pub group: String,
    /// Identity of the group.
    pub group_id: [u8; 16],
    /// The era it reads.
    pub era: u64,
    /// Where in the journal the era begins, (segment, offset); `None` when such places have lost their meaning.
    pub begin: Option<(u64, u64)>,
    /// The marker.
    pub marker: u64,
    /// The newest sequence number inside it.
    pub boundary_seq: u64,
    /// Wall clock at the cut, nanoseconds since 1970.
    pub time_ns: i64,
    /// The marker's text.
    pub tag: Option<String>,
    /// When the image was made, nanoseconds since 1970.
    pub created_ns: i64,
    /// Its volumes.
    pub volumes: Vec<ImageVolumeRecord>,
    /// Why it can no longer be read.
    pub broken: Option<String>,
}

/// What an image of several groups shows of one of them but its first: alike in name, kind, when it was made, and why it is broken.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ImagePartRecord(pub ImageRecord);

/// An image: what it shows of its first group, and of the others. They are put and deleted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecords {
    /// The first stands for the image.
    pub first: ImageRecord,
    /// None, as a rule.
    pub others: Vec<ImageRecord>,
}

impl ImageRecords {
    /// What it shows, group by group.
    pub fn parts(&self) -> impl Iterator<Item = &ImageRecord> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The same, to be changed.
    pub fn parts_mut(&mut self) -> impl Iterator<Item = &mut ImageRecord> {
        std::iter::once(&mut self.first).chain(&mut self.others)
    }

    /// Whether it can no longer be read.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.first.broken.is_some()
    }

    /// It can no longer be read, none of it.
    pub fn set_broken(&mut self, reason: &str) {
        self.parts_mut().for_each(|part| part.broken = Some(reason.to_owned()));
    }
}

/// How a drill ended.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum DrillResultRecord {
    /// It is under way; found at a start: the service was killed in the middle.
    Running,
    /// The image could be used.
    Passed,
    /// It could not.
    Failed {
        /// Why.
        reason: String,
    },
}

/// One rehearsal.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct DrillRecord {
    /// Its number.
    pub number: u64,
    /// Name of the group.
    pub group: String,
    /// Identity of the group.
    pub group_id: [u8; 16],
    /// The marker rehearsed.
    pub marker: u64,
    /// When that was cut, nanoseconds since 1970.
    pub marker_ns: i64,
    /// When it began, nanoseconds since 1970.
    pub started_ns: i64,
    /// Milliseconds until it ended.
    pub took_ms: u64,
    /// Milliseconds from the order to the first answered read of every export.
    pub rto_ms: Option<u64>,
    /// Milliseconds of writes that a disaster at its begin would have lost.
    pub rpo_ms: Option<u64>,
    /// The check.
    pub check: Option<String>,
    /// What the check ended with.
    pub exit_code: Option<i32>,
    /// How it ended.
    pub result: DrillResultRecord,
    /// What the check said: the begin and the end of it when it said much.
    pub output: String,
    /// The exports rehearsed on.
    pub exports: Vec<String>,
    /// Whether it was scheduled.
    pub scheduled: bool,
    /// How far behind the copy was before it began: (seconds before, milliseconds behind).
    pub lag: Vec<(u32, u32)>,
}

/// Rehearsals of a group, again and again.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ScheduleRecord {
    /// Name of the group.
    pub group: String,
    /// Milliseconds between two begins.
    pub every_ms: u64,
    /// The check.
    pub check: Option<String>,
    /// Milliseconds a check may take.
    pub timeout_ms: u64,
    /// Whether file systems are mounted for the check.
    pub mount: bool,
    /// When the last one began, nanoseconds since 1970.
    pub last_ns: i64,
}

/// Where a local pair is, as in [`crate::api::local_pair::types::LocalPairState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum LocalPairStateRecord {
    /// The first copy is under way.
    Copy,
    /// The target follows.
    Pair,
    /// The target stands at a marker.
    Split,
    /// What differs is copied to the target.
    Resync,
    /// What differs is written back to the source.
    Reverse,
    /// Needs a person.
    Error,
}

/// A source and a target on this appliance.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LocalPairRecord {
    /// Name of the target volume.
    pub target: String,
    /// Its identity: the name of the folder of what is saved for backups of the target.
    pub id: [u8; 16],
    /// Name of the source volume.
    pub source: String,
    /// The source's index in its group's journal.
    pub source_index: u32,
    /// Name of the source's group.
    pub group: String,
    /// Identity of the source's group.
    pub group_id: [u8; 16],
    /// Bytes of the source.
    pub size: u64,
    /// Where it is.
    pub state: LocalPairStateRecord,
    /// Why it is there.
    pub reason: Option<String>,
    /// Since when, nanoseconds since 1970.
    pub since_ns: i64,
    /// Bytes per second copied at most.
    pub rate: u64,
    /// The era that has what the target lacks.
    pub era: Option<u64>,
    /// Where in the journal the split is, (segment, offset); `None` when such places have lost their meaning.
    pub begin: Option<(u64, u64)>,
    /// The marker of the last split; 0 before the first.
    pub marker: u64,
    /// Wall clock at its cut, nanoseconds since 1970.
    pub marker_ns: i64,
}

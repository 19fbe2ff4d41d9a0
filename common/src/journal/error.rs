//! What can go wrong with a journal, and where.

use std::io;
use std::path::{Path, PathBuf};

use super::{Position, segment};
use crate::record::FrameError;
use crate::storage::is_no_space;

/// Where a journal ends that was just made.
const NEW: Position = Position { segment: 1, offset: segment::FIRST_RECORD };

/// Why the journal did not do it.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk failed.
    #[error("{action} {} at {offset}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// At which byte.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that were durable are no longer what they were.
    #[error(
        "{} is damaged at {offset}: {source}. Nothing behind this place was read. Restore the file, or copy from the other side",
        path.display()
    )]
    Damaged {
        /// The segment's file.
        path: PathBuf,
        /// The byte where the bad record begins.
        offset: u64,
        /// What is wrong with it.
        source: FrameError,
    },
    /// The history is not continuous here.
    #[error(
        "{} at {offset}: the frame there does not follow the one before ({what}). Restore the file, or copy from the other side",
        path.display()
    )]
    Gap {
        /// The segment's file.
        path: PathBuf,
        /// The byte where the frame begins.
        offset: u64,
        /// What does not follow.
        what: &'static str,
    },
    /// No more segments fit.
    #[error("the journal is full: all of its {} MiB are still needed", capacity_bytes >> 20)]
    Full {
        /// Bytes it may hold.
        capacity_bytes: u64,
    },
    /// An earlier failure left it in a state nobody can know; only a restart reads it again.
    #[error("the journal failed and takes nothing more until the service is restarted: {reason}")]
    Poisoned {
        /// The failure.
        reason: String,
    },
    /// The frame does not fit into a segment.
    #[error("a frame of {bytes} bytes does not fit into a segment: raise segment_bytes")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
    },
    /// It does not go on from where the volumes are.
    #[error(
        "the journal in {} begins at segment {oldest}, and the volumes are at segment {applied}: what is between is lost. Restore that \
         folder (is its file system mounted?), or copy from the other side",
        folder.display()
    )]
    BeginsLate {
        /// The journal's folder.
        folder: PathBuf,
        /// The oldest segment held.
        oldest: u64,
        /// Where the volumes are.
        applied: u64,
    },
    /// The volumes hold what it no longer has: they may be at no moment that ever was.
    #[error(
        "the journal in {} ends in segment {} at {}, and the volumes were at {} of segment {}: its end is lost, though it was \
         durable. Restore that folder (is its file system mounted?), or copy from the other side",
        folder.display(), end.segment, end.offset, applied.offset, applied.segment
    )]
    EndsEarly {
        /// The journal's folder.
        folder: PathBuf,
        /// Its end.
        end: Position,
        /// Where the volumes were.
        applied: Position,
    },
    /// A reader asked for what is gone.
    #[error("segment {} has been trimmed", .position.segment)]
    Trimmed {
        /// Where it wanted to read.
        position: Position,
    },
}

impl JournalError {
    pub(super) fn io(action: &'static str, path: &Path, offset: u64, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), offset, source }
    }

    /// Whether bytes that were durable are no longer what they were (invariant 9).
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::BeginsLate { .. } | Self::EndsEarly { .. })
    }

    /// Whether records that are there are not what was written, or do not follow each other: reading again does not help.
    #[must_use]
    pub const fn is_of_the_records(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Gap { .. })
    }

    /// Whether the disk does not give out what lies there.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Io { action: "read", .. })
    }

    /// Whether it is there, as far as it goes, and ends before what was recorded of it.
    #[must_use]
    pub fn is_short(&self) -> bool {
        matches!(self, Self::EndsEarly { end, .. } if *end > NEW)
    }

    /// Whether a new segment may have its name, or not.
    pub(super) fn is_of_a_name(&self) -> bool {
        matches!(self, Self::Io { action: "rename", .. })
    }

    /// What it says; of a full disk, also where to make room.
    #[must_use]
    pub fn advised(&self) -> String {
        match self {
            Self::Io { path, .. } if self.is_no_space() => {
                format!("{self}. Make room on the file system of {}", path.parent().unwrap_or(path).display())
            }
            _ => self.to_string(),
        }
    }

    /// The same of what is tried again by itself.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            Self::Io { .. } if self.is_no_space() => format!("{}; it goes on by itself", self.advised()),
            _ => self.to_string(),
        }
    }

    /// Whether it holds all it may hold.
    #[must_use]
    pub const fn is_journal_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether space is all that is missing: trying again later may work.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => is_no_space(source),
            _ => false,
        }
    }
}

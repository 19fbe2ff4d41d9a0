//! A frame: the unit of the journal and of the wire. `docs/JOURNAL_FORMAT.md` has the bytes.
//!
//! ```text
//! header (fixed, 128 bytes) | tables: extents, chunks | chunks, stored one after the other
//! header (fixed, 128 bytes) | one archived ControlRecord
//! ```
//!
//! The header's checksum covers the header, the header holds the checksum of the tables, the tables hold that of each
//! chunk: whoever has verified a header needs to read no more than the chunks it wants (invariant 9).

pub mod build;
pub mod control;
pub mod copy;
pub mod fold;
pub mod header;
pub mod tip;
pub mod view;

pub use build::{FrameBuilder, Place};
pub use control::{ControlRecord, MarkerRecord};
pub use copy::{CopyCheck, RegionsDigest};
pub use fold::FoldCheck;
pub use header::{Chain, FrameHeader, FrameKind, HEADER_BYTES};
pub use tip::Tip;
pub use view::FrameView;

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// Fewer bytes than the header promises.
    #[error("the frame is cut short: {have} bytes of {need}")]
    Short {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// No frame begins here.
    #[error("this is no frame: the magic number is wrong")]
    Magic,
    /// A frame of a format this build does not read.
    #[error("the frame has format {version}; this build reads {}: use a newer build", header::FORMAT_VERSION)]
    Version {
        /// What the header says.
        version: u16,
    },
    /// A checksum does not match.
    #[error("the checksum of the frame's {part} does not match")]
    Checksum {
        /// Which part.
        part: &'static str,
    },
    /// The checksums match and the content makes no sense: written by a broken build.
    #[error("the frame makes no sense: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
}

/// CRC-32C, the checksum of all frames.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    // The crate answers in 64 bits whatever the width of the algorithm.
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(u32::MAX)
}

//! Where the newest bytes of a group's volumes are: the write buffer, the journal, or nowhere because they are zero.

use bytes::Bytes;

use super::{Locate, Overlay};
use crate::extent::Extent;
use crate::ids::Seq;
use crate::journal::{Journal, JournalError, Position, ReadFrame};
use crate::limits::CHUNK_BYTES;
use crate::record::view::{Chunk, ExtentKind};
use crate::record::{FrameError, FrameKind, FrameView};

/// Data in a chunk of a frame in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalPlace {
    /// Where the frame's first byte lies.
    pub frame: Position,
    /// The chunk.
    pub chunk: Chunk,
    /// Where in the chunk's raw bytes.
    pub within: u32,
}

/// Where a range's newest bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// In the write buffer, not yet durable in the journal.
    Buffer {
        /// The write.
        seq: Seq,
        /// Where its payload lies in the buffer.
        position: u64,
    },
    /// Zeroes, not yet durable in the journal.
    BufferZero {
        /// The write.
        seq: Seq,
    },
    /// In the journal.
    Journal(JournalPlace),
    /// Zeroes, by a frame in the journal.
    JournalZero {
        /// Where the frame's first byte lies.
        frame: Position,
    },
}

impl Locate for Location {
    fn advance(self, bytes: u64) -> Self {
        match self {
            Self::Buffer { seq, position } => Self::Buffer { seq, position: position + bytes },
            Self::Journal(place) => {
                let within = place.within.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
                Self::Journal(JournalPlace { within, ..place })
            }
            Self::BufferZero { .. } | Self::JournalZero { .. } => self,
        }
    }
}

impl Location {
    /// The write that put it there, while it is not yet in the journal.
    #[must_use]
    pub const fn buffered_seq(&self) -> Option<Seq> {
        match self {
            Self::Buffer { seq, .. } | Self::BufferZero { seq } => Some(*seq),
            Self::Journal(_) | Self::JournalZero { .. } => None,
        }
    }

    /// The frame that holds it, once it is in the journal.
    #[must_use]
    pub const fn frame(&self) -> Option<Position> {
        match self {
            Self::Journal(place) => Some(place.frame),
            Self::JournalZero { frame } => Some(*frame),
            Self::Buffer { .. } | Self::BufferZero { .. } => None,
        }
    }

    /// Whether it reads as zeroes.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        matches!(self, Self::BufferZero { .. } | Self::JournalZero { .. })
    }
}

/// The extents of a frame with where each of them lies, split at chunk borders.
pub fn locations(view: &FrameView<'_>, frame: Position) -> impl Iterator<Item = (Extent, Location)> {
    let chunks: Vec<Chunk> = view.chunks().collect();
    view.extents().flat_map(move |entry| {
        let mut split = Vec::with_capacity(1);
        match entry.kind {
            ExtentKind::Zero { .. } => split.push((entry.extent, Location::JournalZero { frame })),
            ExtentKind::Data => split_data(entry.extent, entry.raw_offset, frame, &chunks, &mut split),
        }
        split
    })
}

fn split_data(extent: Extent, raw_offset: u32, frame: Position, chunks: &[Chunk], split: &mut Vec<(Extent, Location)>) {
    let mut done = 0;
    while done < extent.length {
        let raw = u64::from(raw_offset) + done;
        let index = usize::try_from(raw / CHUNK_BYTES as u64).unwrap_or(usize::MAX);
        let Some(chunk) = chunks.get(index) else { return };
        let within = raw % CHUNK_BYTES as u64;
        let length = (u64::from(chunk.raw_bytes) - within).min(extent.length - done);
        let place = JournalPlace { frame, chunk: *chunk, within: u32::try_from(within).unwrap_or(0) };
        let piece = Extent { offset: extent.offset + done, length, ..extent };
        split.push((piece, Location::Journal(place)));
        done += length;
    }
}

/// Tells an index of what is not yet in the volumes what a frame of the journal writes, and where that lies.
///
/// # Errors
/// [`FrameError`] when the frame is not sound.
pub(crate) fn index_frame(frame: &ReadFrame, mut insert: impl FnMut(Extent, Location)) -> Result<(), FrameError> {
    if frame.header.kind != FrameKind::Control {
        let view = FrameView::new(&frame.bytes)?;
        locations(&view, frame.position).for_each(|(extent, location)| insert(extent, location));
    }
    Ok(())
}

/// Takes out of the index what lies in frames up to this place: it is in the volume now.
pub fn forget_applied(overlay: &mut Overlay<Location>, extent: Extent, up_to: Position) {
    overlay.remove_if(extent, |location| location.frame().is_some_and(|frame| frame <= up_to));
}

/// A chunk as it is stored, from memory or from the disk; `None` when it is trimmed.
fn stored_bytes(journal: &Journal, place: &JournalPlace, at: Position) -> Result<Option<Bytes>, JournalError> {
    let (begin, length) = (place.chunk.frame_offset as usize, place.chunk.stored_bytes as usize);
    if let Some(frame) = journal.recent(place.frame)
        && let Some(end) = begin.checked_add(length).filter(|end| *end <= frame.len())
    {
        return Ok(Some(frame.slice(begin..end)));
    }
    let mut stored = vec![0; length];
    Ok(journal.read_stored(at, &mut stored)?.then(|| Bytes::from(stored)))
}

/// Reads bytes that lie in the journal. `Ok(false)`: they are no longer there, because they have been written back since
/// the index was asked; ask again.
///
/// # Errors
/// [`JournalError`] when the disk fails or what it holds is not what was written.
pub fn read_journal(journal: &Journal, place: &JournalPlace, buffer: &mut [u8]) -> Result<bool, JournalError> {
    let at = Position { offset: place.frame.offset + u64::from(place.chunk.frame_offset), ..place.frame };
    let Some(stored) = stored_bytes(journal, place, at)? else { return Ok(false) };
    let mut raw = Vec::new();
    if let Err(source) = place.chunk.unpack(&stored, &mut raw) {
        // A segment that was trimmed in between is used again under another number, one that was folded under its own.
        return if journal.oldest() > place.frame || journal.is_folded(place.frame) {
            Ok(false)
        } else {
            Err(journal.damaged(at, source))
        };
    }
    let from = place.within as usize;
    let Some(bytes) = raw.get(from..from + buffer.len()) else {
        return Err(journal.damaged(at, FrameError::Malformed { what: "a chunk is shorter than its index says" }));
    };
    buffer.copy_from_slice(bytes);
    Ok(true)
}

//! Comparing what hosts read here with what the copy holds at one marker, while hosts go on writing.
//!
//! The copy stands at a marker for as long as it is looked at. A region read here is that of the marker unless a frame after
//! the marker writes it. So after a batch was read, everything captured by then is waited for in the journal, and what its
//! frames write is not judged by this marker. There is no false alarm that way. The journal is kept for the comparison from
//! before the marker on; when it runs full, or tells that a volume has grown, the comparison has to go on at another marker.

use std::io;
use std::time::Duration;

use tidemark_common::differential::Bitmap;
use tidemark_common::extent::Extent;
use tidemark_common::ids::VolumeIndex;
use tidemark_common::journal::{JournalError, Position, Reader};
use tidemark_common::limits::REGION_BYTES;
use tidemark_common::record::{ControlRecord, FrameKind, FrameView};
use tidemark_common::verify::{RegionDigest, digests};

use crate::group::Primary;
use crate::image::ImageError;
use crate::watch::Watch;

/// How long the journal may take to have what was captured.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a comparison cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The journal cannot be read, or no longer holds what was written since the marker.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A volume cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A volume cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The marker is not in the journal.
    #[error("the journal no longer holds marker {marker}: try again")]
    Marker {
        /// The marker.
        marker: u64,
    },
    /// The journal ran full, so that it was not kept for the comparison.
    #[error("the journal ran full meanwhile: try again")]
    Lapsed,
    /// Volumes came, went or grew behind the marker: the copy that stands there has them as they were.
    #[error("a volume of the group came, went or grew behind the marker: try again")]
    Resized,
    /// The journal does not take writes.
    #[error("what hosts wrote did not reach the journal within {DURABLE_TIMEOUT:?}")]
    Stalled,
}

impl VerifyError {
    /// Whether another marker can be compared at, and this one not: the journal was not kept, or the volumes are others.
    #[must_use]
    pub const fn wants_another_marker(&self) -> bool {
        matches!(self, Self::Marker { .. } | Self::Lapsed | Self::Resized | Self::Journal(JournalError::Trimmed { .. }))
    }
}

/// What was written since a marker.
#[derive(Debug)]
pub struct Since {
    reader: Reader,
    written: Bitmap,
    watch: Watch,
    /// The journal tells of other volumes.
    resized: bool,
}

impl Since {
    /// Whether a region was written since.
    #[must_use]
    pub fn has(&self, volume: VolumeIndex, offset: u64) -> bool {
        self.written.is_marked(volume, offset)
    }

    fn take(&mut self) -> Result<(), VerifyError> {
        while let Some(frame) = self.reader.next_tables()? {
            let Ok(view) = FrameView::new(&frame.bytes) else { continue };
            if frame.header.kind.holds_writes() {
                view.extents().for_each(|entry| self.written.mark(entry.extent));
            } else if frame.header.kind == FrameKind::Control {
                self.resized |= matches!(ControlRecord::of(&view), Ok(ControlRecord::Volumes { .. }));
            }
        }
        if self.resized {
            return Err(VerifyError::Resized);
        }
        // What was read counts only if nothing of it could be folded or trimmed meanwhile.
        if self.watch.moves_to(self.reader.position()) { Ok(()) } else { Err(VerifyError::Lapsed) }
    }
}

impl Primary {
    /// Keeps the journal from now on, so that a marker made from now on can be compared at.
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.watches().from(self.image().journal.durable_end().position)
    }

    /// Begins to look what is written after a marker.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn since_marker(&self, marker: u64, watch: Watch) -> Result<Since, VerifyError> {
        let place = self.marker_place(marker).ok_or(VerifyError::Marker { marker })?;
        let mut reader = self.image().journal.reader(Position { offset: 1, ..place });
        while let Some(frame) = reader.next_tables()? {
            let is_it = frame.header.kind == FrameKind::Control
                && FrameView::new(&frame.bytes)
                    .and_then(|view| ControlRecord::of(&view))
                    .is_ok_and(|record| matches!(record, ControlRecord::Marker(found) if found.number == marker));
            if is_it {
                let since = Since { reader, written: Bitmap::default(), watch, resized: false };
                let kept = since.watch.moves_to(since.reader.position());
                return if kept { Ok(since) } else { Err(VerifyError::Lapsed) };
            }
        }
        Err(VerifyError::Marker { marker })
    }

    /// The digests of a volume's regions as they read now.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn digests(&self, volume: VolumeIndex, offset: u64, count: usize) -> Result<Vec<RegionDigest>, VerifyError> {
        let image = self.image();
        let size = image.volumes.get(volume).ok_or(ImageError::Unknown { index: volume })?.size();
        let hole = |offset, length| Ok(image.hole(Extent { volume, offset, length })?);
        let read =
            |offset, target: &mut [u8]| Ok(image.read(Extent { volume, offset, length: target.len() as u64 }, target)?);
        digests::<VerifyError>(size, offset, count, hole, read)
    }

    /// What hosts had written when this was called is known to `since` when it returns. Waits for the disk.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn catch_up(&self, since: &mut Since) -> Result<(), VerifyError> {
        let image = self.image();
        let captured = image.buffer.captured();
        let deadline = self.clock().monotonic() + DURABLE_TIMEOUT;
        while image.journal.durable_end().seq < captured {
            if self.clock().monotonic() >= deadline {
                return Err(VerifyError::Stalled);
            }
            self.want_durable(captured);
            image.journal.wait_durable(image.journal.durable_end().position, Duration::from_millis(100));
        }
        since.take()
    }
}

/// Regions in a range of bytes.
#[must_use]
pub const fn regions(bytes: u64) -> u64 {
    bytes.div_ceil(REGION_BYTES)
}

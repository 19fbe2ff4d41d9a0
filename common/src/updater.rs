//! Journal to volume, on both sides: frames in, written volumes out. Owns the applied position.
//!
//! Frames are taken a window at a time, folded to the last writer of each byte, and written by volume and address. A
//! crash in between is repaired by doing it again, so the position is moved only when a whole window is written
//! (invariants 4, 9). On a primary everything durable is applied, on a secondary what is before the permitted limit.

mod run;
mod window;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use run::Run;
use window::Window;

use crate::catalog::AppliedRecord;
use crate::extent::Extent;
use crate::ids::{MarkerNumber, Seq};
use crate::journal::{Journal, JournalError, Position, ReadFrame, Reader};
use crate::overlay::frames::Source;
use crate::record::FrameError;
use crate::storage::aligned::AlignedBuffer;
use crate::storage::is_no_space;
use crate::t0::Eras;
use crate::volumes::{VolumeFile, Volumes};

/// Raw bytes of one window.
const WINDOW_BYTES: usize = 8 << 20;
/// Frames of one window: small ones are many.
const WINDOW_FRAMES: usize = 1024;
/// So much is zeroed before it is looked whether it is time to stop: hosts discard whole volumes with one request, and some disks have to be written
/// for that.
const STEP_BYTES: u64 = 64 << 20;
/// A window that waits for images is tried again after this: each try reads and decompresses all of it.
const IMAGES_LOOK: Duration = Duration::from_millis(50);

/// Why a window was not applied. Nothing is lost: it is tried again from the same position.
#[derive(Debug, thiserror::Error)]
pub enum UpdaterError {
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A frame's content is not sound.
    #[error("the frame at {position:?} of the journal cannot be applied: {source}")]
    Frame {
        /// Where it lies.
        position: Position,
        /// What is wrong.
        source: FrameError,
    },
    /// Images can neither be kept nor be ended.
    #[error("what images need can neither be saved nor be given up: {0}")]
    Images(#[source] io::Error),
    /// A volume cannot be written.
    #[error("{action} volume '{volume}' at {offset}: {source}")]
    Volume {
        /// What was tried.
        action: &'static str,
        /// The volume.
        volume: String,
        /// Where in it.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
}

impl UpdaterError {
    /// Whether a record of the journal is not what was written (invariant 9).
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        match self {
            Self::Journal(error) => error.is_damage(),
            Self::Frame { source, .. } => matches!(source, FrameError::Checksum { .. }),
            Self::Images(_) | Self::Volume { .. } => false,
        }
    }

    /// Whether the disk does not give out a record of the journal.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Journal(error) if error.is_unreadable())
    }

    /// What it says; of a full disk, also where to make room.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            Self::Journal(error) => error.told(),
            Self::Volume { volume, .. } if self.is_no_space() => {
                format!("{self}. Make room on the disk behind volume '{volume}'; it goes on by itself")
            }
            _ => self.to_string(),
        }
    }

    /// Whether space on a volume's file system is all that is missing.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Volume { source, .. } if is_no_space(source))
    }
}

/// What one window did.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// Frames in it.
    pub frames: usize,
    /// Bytes of data written.
    pub data_bytes: u64,
    /// Bytes zeroed.
    pub zero_bytes: u64,
    /// The place of the last frame.
    pub last_frame: Position,
    /// What was written.
    pub extents: Vec<Extent>,
}

/// How far the volumes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AppliedPosition {
    /// Where the next frame to apply begins.
    pub position: Position,
    /// The last sequence number applied.
    pub seq: Seq,
    /// The newest marker reached.
    pub marker: MarkerNumber,
}

impl AppliedPosition {
    /// What is recorded; the begin of the journal without a record.
    #[must_use]
    pub fn of(record: Option<AppliedRecord>) -> Self {
        record.map_or_else(Self::default, |record| Self {
            position: record.place(),
            seq: Seq(record.seq),
            marker: MarkerNumber(record.marker),
        })
    }

    /// As it is recorded.
    #[must_use]
    pub const fn record(&self) -> AppliedRecord {
        let Position { segment, offset } = self.position;
        AppliedRecord { segment, offset, seq: self.seq.0, marker: self.marker.0 }
    }
}

/// The updater of one group.
#[derive(Debug)]
pub struct Updater {
    journal: Arc<Journal>,
    volumes: Arc<Volumes>,
    reader: Reader,
    applied: AppliedPosition,
    strict: bool,
    past_cache: bool,
    /// Everything is to be written now.
    hurries: bool,
    /// The last window stands before something that images need, or was left because it is time to stop.
    waits: bool,
    /// It is time to stop: what is not written stays in the journal.
    stop: Arc<AtomicBool>,
    /// What must be saved before it is overwritten.
    eras: Option<Arc<Eras>>,
    scratch: Scratch,
}

/// Memory that one window leaves to the next.
#[derive(Debug, Default)]
struct Scratch {
    /// Where frames are decompressed.
    unpacked: AlignedBuffer,
    /// Parts on their way to one write, where they must lie in one piece.
    gathered: AlignedBuffer,
}

impl Updater {
    /// Goes on from a position.
    #[must_use]
    pub fn new(journal: Arc<Journal>, volumes: Arc<Volumes>, applied: AppliedPosition) -> Self {
        let reader = journal.reader(applied.position);
        let scratch = Scratch::default();
        let (strict, past_cache, hurries, waits) = (false, false, false, false);
        let stop = Arc::default();
        Self { journal, volumes, reader, applied, strict, past_cache, hurries, waits, stop, eras: None, scratch }
    }

    /// Nothing has happened for a while: memory is given back.
    pub fn rest(&mut self) {
        self.scratch = Scratch::default();
    }

    /// From here on it waits for no image: everything is to be written.
    pub const fn hurry(&mut self) {
        self.hurries = true;
    }

    /// Whether the last window was not written because what images need of it cannot be saved now, or because it is time to stop: it is tried again.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.waits
    }

    /// Lets time go by before a window that waits is tried again.
    pub fn wait_for_images() {
        std::thread::sleep(IMAGES_LOOK);
    }

    /// A frame for a volume that is not there is an error: on a copy, where every volume is there until its last frame is
    /// applied, passing over it would make an image that never was.
    #[must_use]
    pub fn of_all_volumes(self) -> Self {
        Self { strict: true, ..self }
    }

    /// Long runs go past the page cache: for volumes that nobody reads for now.
    #[must_use]
    pub fn past_the_page_cache(self) -> Self {
        Self { past_cache: true, ..self }
    }

    /// What images at older moments need is saved before it is overwritten, and no window crosses the begin of one.
    #[must_use]
    pub fn saving(self, eras: Option<Arc<Eras>>) -> Self {
        Self { eras, ..self }
    }

    /// Leaves what takes long when this is set: for volumes whose journal is read instead.
    #[must_use]
    pub fn until(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// For whoever records how far the volumes are, before that: what follows them makes durable what it was told.
    ///
    /// # Errors
    /// What happened; the position must stay then.
    pub fn keep_followers(&self) -> Result<(), String> {
        self.eras.as_ref().map_or(Ok(()), |eras| eras.keep_followers())
    }

    /// How far the volumes are.
    #[must_use]
    pub const fn applied(&self) -> AppliedPosition {
        self.applied
    }

    /// Applies the next window of what lies before the limit; `None` when there is nothing, or when [`Self::is_waiting`].
    ///
    /// # Errors
    /// [`UpdaterError`]; the position stays and the window can be tried again.
    pub fn apply_window(&mut self, limit: Position) -> Result<Option<Applied>, UpdaterError> {
        let eras = self.eras.clone();
        let _window = eras.as_ref().map(|eras| eras.window());
        let limit = eras.as_ref().map_or(limit, |eras| eras.limit(self.applied.position, limit));
        let result = self.try_window(limit);
        if result.is_err() || self.waits {
            self.reader = self.journal.reader(self.applied.position);
        } else if let Some(eras) = &eras {
            eras.applied(self.applied.position);
        }
        result
    }

    fn try_window(&mut self, limit: Position) -> Result<Option<Applied>, UpdaterError> {
        self.waits = false;
        let frames = self.read_window(limit)?;
        let Some(last) = frames.last() else { return Ok(None) };
        let mut scratch = std::mem::take(&mut self.scratch);
        let window = Window::of(&frames, &mut scratch.unpacked)?;
        let mut applied = Applied { frames: frames.len(), last_frame: last.position, ..Applied::default() };
        if !self.save(&window)? || !self.write(&window, &mut scratch.gathered, &mut applied)? {
            self.waits = true;
            self.scratch = scratch;
            return Ok(None);
        }
        if let Some(eras) = &self.eras {
            eras.written(self.reader.position(), &applied.extents);
        }
        self.scratch = scratch;
        self.journal.forget_raw(self.reader.position());
        self.applied =
            AppliedPosition { position: self.reader.position(), seq: last.header.last_seq, marker: last.header.marker };
        Ok(Some(applied))
    }

    fn read_window(&mut self, limit: Position) -> Result<Vec<ReadFrame>, UpdaterError> {
        let mut frames = Vec::new();
        let mut raw = 0;
        while self.reader.position() < limit && raw < WINDOW_BYTES && frames.len() < WINDOW_FRAMES {
            let Some(frame) = self.reader.next_frame()? else { break };
            // At the end of a segment the reader moves on by itself: what it then finds may lie beyond the limit.
            if frame.position >= limit {
                self.reader = self.journal.reader(limit);
                break;
            }
            raw += frame.header.raw_bytes as usize;
            frames.push(frame);
        }
        Ok(frames)
    }

    /// `false`: not all of it is saved.
    fn save(&self, window: &Window<'_>) -> Result<bool, UpdaterError> {
        let Some(eras) = &self.eras else { return Ok(true) };
        let extents: Vec<Extent> = window.fold.all().map(|(extent, _)| extent).collect();
        let saved = eras.save_until(self.applied.position, &extents, &self.volumes, !self.hurries, &self.stop);
        saved.map_err(UpdaterError::Images)
    }

    /// `false`: it is time to stop, and not all of it is written.
    fn write(
        &self,
        window: &Window<'_>,
        gathered: &mut AlignedBuffer,
        applied: &mut Applied,
    ) -> Result<bool, UpdaterError> {
        let mut run = Run::new(&window.data, gathered, self.past_cache);
        for (extent, source) in window.fold.all() {
            applied.extents.push(extent);
            // A volume taken out of the group may still have frames in the journal.
            let Some(volume) = self.volumes.get(extent.volume) else {
                if self.strict {
                    let source = FrameError::Malformed { what: "it is for a volume that is not here" };
                    return Err(UpdaterError::Frame { position: applied.last_frame, source });
                }
                continue;
            };
            check_range(&volume, extent, applied.last_frame)?;
            match source {
                Source::Data { frame, at } => {
                    run.push(&volume, extent, frame, at)?;
                    applied.data_bytes += extent.length;
                }
                Source::Zero { hole } => {
                    run.flush()?;
                    for step in steps(extent) {
                        if applied.zero_bytes >= STEP_BYTES && self.is_stopping() {
                            return Ok(false);
                        }
                        zero(&volume, step, hole)?;
                        applied.zero_bytes += step.length;
                    }
                }
            }
        }
        run.flush()?;
        Ok(true)
    }
}

/// A range in steps.
fn steps(extent: Extent) -> impl Iterator<Item = Extent> {
    let mut left = extent;
    std::iter::from_fn(move || {
        let step = Extent { length: left.length.min(STEP_BYTES), ..left };
        left = Extent { offset: step.end(), length: left.length - step.length, ..left };
        (step.length > 0).then_some(step)
    })
}

fn check_range(volume: &VolumeFile, extent: Extent, position: Position) -> Result<(), UpdaterError> {
    if extent.end() <= volume.size() {
        return Ok(());
    }
    let source = FrameError::Malformed { what: "an extent lies beyond the end of its volume" };
    Err(UpdaterError::Frame { position, source })
}

fn zero(volume: &VolumeFile, extent: Extent, hole: bool) -> Result<(), UpdaterError> {
    let zeroed = volume.change(|volume| volume.file.zero(extent.offset, extent.length, hole));
    zeroed.map_err(|source| UpdaterError::Volume {
        action: "zero",
        volume: volume.name.clone(),
        offset: extent.offset,
        source,
    })
}

#[cfg(test)]
mod tests;

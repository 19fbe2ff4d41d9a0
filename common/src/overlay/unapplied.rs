//! The index of what the journal or the write buffer has and the volumes do not, in bounded memory: the newest ranges in an overlay, those
//! that grew too many in sorted runs on the disk. A range in memory hides the same range in a run, a newer run hides an older one, and what
//! lies in frames up to `written` counts nowhere, because it is in the volumes.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::location::{Location, forget_applied, index_frame};
use super::run::{Run, RunError, RunWriter};
use super::{Locate, Overlay, Piece};
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::journal::{Journal, JournalError, Position};
use crate::record::FrameError;
use crate::storage::Disk;

/// Ranges looked at with one lock on the index: hosts write meanwhile.
const AT_ONCE: usize = 128;

/// The index.
#[derive(Debug, Default)]
pub struct Unapplied {
    memory: Overlay<Location>,
    /// Oldest first.
    runs: Vec<Arc<Run>>,
    /// All frames up to this one are in the volumes.
    written: Position,
}

impl Unapplied {
    /// Ranges held in memory.
    #[must_use]
    pub const fn in_memory(&self) -> usize {
        self.memory.ranges()
    }

    /// Ranges held on the disk.
    #[must_use]
    pub fn on_disk(&self) -> usize {
        self.runs.iter().map(|run| run.ranges()).sum()
    }

    /// See [`Overlay::insert`].
    pub fn insert(&mut self, extent: Extent, location: Location) {
        self.memory.insert(extent, location);
    }

    /// See [`Overlay::insert_unless`]. What may be newer is in memory.
    pub fn insert_unless(&mut self, extent: Extent, location: Location, newer: impl Fn(&Location) -> bool) {
        self.memory.insert_unless(extent, location, newer);
    }

    /// Writes up to a number are at places in the journal now.
    pub fn move_buffered(&mut self, extent: Extent, location: Location, which: impl Fn(&Location) -> bool) {
        self.memory.replace_if(extent, which, |begin| Some(location.advance(begin - extent.offset)));
    }

    /// A range is in the volume as of all frames up to this one, as all other ranges are.
    pub fn forget(&mut self, extent: Extent, up_to: Position) {
        forget_applied(&mut self.memory, extent, up_to);
        if up_to > self.written {
            self.written = up_to;
            self.runs.retain(|run| run.newest() > up_to);
        }
    }

    /// A range as it is known now; what lies on the disk is looked up by [`Look::pieces`], without the lock on this.
    #[must_use]
    pub fn look(&self, extent: Extent) -> Look {
        Look { pieces: self.memory.pieces(extent).collect(), runs: self.runs.clone(), written: self.written }
    }
}

/// What the index knew of a range.
#[derive(Debug)]
pub struct Look {
    pieces: Vec<Piece<Location>>,
    runs: Vec<Arc<Run>>,
    written: Position,
}

impl Look {
    /// Leaves out the pieces that `done` does by what is known from memory alone.
    pub fn do_now(&mut self, mut done: impl FnMut(&Piece<Location>) -> bool) {
        self.pieces.retain(|piece| piece.location.is_none() || !done(piece));
    }

    /// What is known from memory alone, when that is all there is to know.
    #[must_use]
    pub fn known_now(&self) -> Option<&[Piece<Location>]> {
        self.runs.is_empty().then_some(&*self.pieces)
    }

    /// What was not left out, in order: where it lies, nothing for the volume.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn pieces(self) -> Result<Vec<Piece<Location>>, RunError> {
        let mut pieces = self.pieces;
        for run in self.runs.iter().rev() {
            let mut finer = Vec::with_capacity(pieces.len());
            for piece in pieces {
                match piece.location {
                    Some(_) => finer.push(piece),
                    None => run.fill(piece.extent, self.written, &mut finer)?,
                }
            }
            pieces = finer;
        }
        Ok(pieces)
    }
}

/// Keeps the memory of an index within bounds; one thread does, or another in its place.
pub struct Spill {
    disk: Arc<dyn Disk>,
    /// Where runs are made; they lose this name at once.
    path: PathBuf,
    ranges_max: usize,
    /// Held by the one that does it now.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Spill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spill").field("path", &self.path).field("ranges_max", &self.ranges_max).finish_non_exhaustive()
    }
}

impl Spill {
    /// With the name of a file that is made and removed at once.
    #[must_use]
    pub const fn new(disk: Arc<dyn Disk>, path: PathBuf, ranges_max: usize) -> Self {
        Self { disk, path, ranges_max, turn: Mutex::new(()) }
    }

    /// Moves what the journal has to the disk when there is too much of it in memory.
    ///
    /// # Errors
    /// [`RunError`]: the index is as it was.
    pub fn bound(&self, index: &Mutex<Unapplied>) -> Result<(), RunError> {
        let _alone = self.turn.lock();
        if index.lock().in_memory() <= self.ranges_max {
            return Ok(());
        }
        let run = self.sweep(index)?;
        self.publish(index, run)
    }

    /// As [`Self::bound`], for a thread in whose way that must not be, in place of the one that does it and is held by a disk: at twice the
    /// bound, without making few runs of many. `above` is what the last try has left, doubled: it is not tried again before.
    ///
    /// # Errors
    /// [`RunError`]: the index says what it said.
    pub fn bound_instead(&self, index: &Mutex<Unapplied>, above: &mut usize) -> Result<(), RunError> {
        let held = index.lock().in_memory();
        if held <= self.ranges_max {
            *above = 0;
        }
        if held <= 2 * self.ranges_max || held <= *above {
            return Ok(());
        }
        let Some(_alone) = self.turn.try_lock() else { return Ok(()) };
        *above = 2 * held;
        let run = Arc::new(self.sweep(index)?);
        // What is in no journal yet stays.
        if run.ranges() > 0 {
            index.lock().runs.push(Arc::clone(&run));
            Self::take_out(index, &run)?;
        }
        *above = 2 * index.lock().in_memory();
        Ok(())
    }

    /// Puts a run below what is in memory, which is given back where it says the same.
    fn publish(&self, index: &Mutex<Unapplied>, run: Run) -> Result<(), RunError> {
        let run = Arc::new(run);
        index.lock().runs.push(Arc::clone(&run));
        Self::take_out(index, &run)?;
        self.merge(index)
    }

    /// A run of what is in memory. Hosts go on: what they write meanwhile stays in memory and hides what is in the run.
    fn sweep(&self, index: &Mutex<Unapplied>) -> Result<Run, RunError> {
        let mut run = RunWriter::create(&*self.disk, &self.path)?;
        let mut from = (VolumeIndex(0), 0);
        loop {
            let some: Vec<_> = index.lock().memory.all_from(from).take(AT_ONCE).collect();
            let Some((last, _)) = some.last() else { return run.finish() };
            from = (last.volume, last.end());
            for (extent, location) in &some {
                run.push(*extent, location)?;
            }
        }
    }

    /// Takes out of memory what is there as it is in the run.
    fn take_out(index: &Mutex<Unapplied>, run: &Run) -> Result<(), RunError> {
        for block in run.blocks() {
            let block = block?;
            let mut index = index.lock();
            for (extent, location) in block {
                index.memory.remove_equal(extent, &location);
            }
        }
        Ok(())
    }

    /// Makes one run of two neighbours that are about as large, as long as there are such: their number grows with the logarithm of what they hold.
    fn merge(&self, index: &Mutex<Unapplied>) -> Result<(), RunError> {
        loop {
            let (older, newer, written) = {
                let index = index.lock();
                let alike = |pair: &&[Arc<Run>]| matches!(pair, [older, newer] if older.ranges() <= 2 * newer.ranges());
                let Some([older, newer]) = index.runs.windows(2).rev().find(alike) else { return Ok(()) };
                (Arc::clone(older), Arc::clone(newer), index.written)
            };
            let merged = self.merged(&older, &newer, written)?;
            let mut index = index.lock();
            // One of them may be in the volumes by now.
            let newest = index.written;
            let is_merged = |run: &Arc<Run>| Arc::ptr_eq(run, &older) || Arc::ptr_eq(run, &newer);
            let at = index.runs.iter().position(is_merged);
            index.runs.retain(|run| !is_merged(run));
            if let Some(at) = at.filter(|_| merged.newest() > newest) {
                index.runs.insert(at, Arc::new(merged));
            }
        }
    }

    fn merged(&self, older: &Run, newer: &Run, written: Position) -> Result<Run, RunError> {
        let mut run = RunWriter::create(&*self.disk, &self.path)?;
        let (mut older, mut newer) = (Entries::of(older, written), Entries::of(newer, written));
        let (mut old, mut new) = (older.next()?, newer.next()?);
        loop {
            (old, new) = match (old, new) {
                (None, None) => return run.finish(),
                (Some((extent, location)), None) => {
                    run.push(extent, &location)?;
                    (older.next()?, None)
                }
                (Some((extent, location)), Some(hiding)) if is_before(extent, hiding.0) => {
                    run.push(extent, &location)?;
                    (older.next()?, Some(hiding))
                }
                (Some((extent, location)), Some(hiding)) if begins_before(extent, hiding.0) => {
                    let length = hiding.0.offset - extent.offset;
                    run.push(Extent { length, ..extent }, &location)?;
                    (Some(behind((extent, location), hiding.0.offset)), Some(hiding))
                }
                (old, Some(hiding)) => {
                    run.push(hiding.0, &hiding.1)?;
                    let mut rest = old;
                    while let Some(entry) = rest.filter(|(extent, _)| begins_before(*extent, end_of(hiding.0))) {
                        let hidden = entry.0.end() <= hiding.0.end();
                        rest = if hidden { older.next()? } else { Some(behind(entry, hiding.0.end())) };
                    }
                    (rest, newer.next()?)
                }
            };
        }
    }
}

/// Why a journal could not be indexed.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A frame.
    #[error("a frame of the journal is not sound: {0}")]
    Frame(#[from] FrameError),
}

impl IndexError {
    /// Whether a record of the journal is not what was written (invariant 9).
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        match self {
            Self::Journal(error) => error.is_damage(),
            Self::Frame(error) => matches!(error, FrameError::Checksum { .. }),
        }
    }

    /// Whether the disk does not give out a record of the journal.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Journal(error) if error.is_unreadable())
    }
}

/// An index that its owner makes grow and others go on from.
pub type SharedIndex = Arc<Mutex<Indexed>>;

/// The index of a stretch of a journal, as far as it has been read.
#[derive(Debug, Default)]
pub struct Indexed {
    index: Mutex<Unapplied>,
    up_to: Position,
    /// Up to where it was wanted when the disk took nothing and memory was full.
    refused: Position,
}

impl Indexed {
    /// Nothing, at the place that volumes are at.
    #[must_use]
    pub fn from(applied: Position) -> Self {
        Self { up_to: applied, ..Self::default() }
    }

    /// Up to where frames have been read.
    #[must_use]
    pub const fn up_to(&self) -> Position {
        self.up_to
    }

    /// What was indexed, if no frame behind a place is among it: newer ranges hide what was there at that place.
    #[must_use]
    pub fn unless_beyond(self, end: Position) -> Self {
        if self.up_to <= end { self } else { Self::default() }
    }

    /// Reads frames up to a place; only their tables. Where the disk takes nothing, what is read stays in memory.
    ///
    /// # Errors
    /// [`IndexError`]; what was read until then stays.
    pub fn go_on(&mut self, journal: &Arc<Journal>, to: Position, spill: &Spill) -> Result<(), IndexError> {
        self.read(journal, to, spill, |_| true).map(drop)
    }

    /// The same for who may never need it: where the disk takes nothing, it goes no further than memory is within bounds. Returns whether it is
    /// there.
    ///
    /// # Errors
    /// [`IndexError`]; what was read until then stays.
    pub fn go_on_within(&mut self, journal: &Arc<Journal>, to: Position, spill: &Spill) -> Result<bool, IndexError> {
        if !self.is_bounded(spill) {
            // Who wants more at the same place again finds what he found.
            if self.refused == to {
                return Ok(false);
            }
            if let Err(error) = spill.bound(&self.index) {
                tracing::debug!(%error, "what is not applied is not indexed any further");
                self.refused = to;
                return Ok(false);
            }
        }
        self.read(journal, to, spill, |indexed| indexed.is_bounded(spill))
    }

    fn read(
        &mut self,
        journal: &Arc<Journal>,
        to: Position,
        spill: &Spill,
        goes_on: impl Fn(&Self) -> bool,
    ) -> Result<bool, IndexError> {
        let mut spills = true;
        let mut reader = journal.reader(self.up_to);
        while let Some(frame) = reader.next_tables_before(to)? {
            if !goes_on(&*self) {
                return Ok(false);
            }
            let index = self.index.get_mut();
            index_frame(&frame, |extent, location| index.insert(extent, location))?;
            self.up_to = frame.next;
            if let Some(Err(error)) = spills.then(|| spill.bound(&self.index)) {
                tracing::warn!(%error, "the index grows in memory");
                spills = false;
            }
        }
        Ok(true)
    }

    /// Takes over another one that begins where this one ends. Its runs are not looked at: what is alike in size is merged when memory is
    /// moved to the disk the next time.
    ///
    /// # Errors
    /// [`RunError`]; this one is as it was, the other is gone.
    pub fn adopt(&mut self, newer: Self, spill: &Spill) -> Result<(), RunError> {
        let (up_to, newer) = (newer.up_to, newer.into_index());
        let index = self.index.get_mut();
        if newer.runs.is_empty() && index.in_memory() > 0 {
            newer.memory.all().for_each(|(extent, location)| index.insert(extent, location));
        } else {
            if index.in_memory() > 0 {
                // It goes below all that is newer.
                let run = spill.sweep(&self.index)?;
                spill.publish(&self.index, run)?;
            }
            let index = self.index.get_mut();
            index.memory = newer.memory;
            index.runs.extend(newer.runs);
        }
        self.up_to = up_to;
        Ok(())
    }

    /// The same for somebody else, who goes on from where it is now. What is in runs is theirs together; what is in memory goes into one
    /// first when it is more than the bound.
    ///
    /// # Errors
    /// [`RunError`]; this one says what it said.
    pub fn share(&self, spill: &Spill) -> Result<Self, RunError> {
        spill.bound(&self.index)?;
        let index = self.index.lock();
        let Unapplied { memory, runs, written } = &*index;
        let index = Mutex::new(Unapplied { memory: memory.clone(), runs: runs.clone(), written: *written });
        Ok(Self { index, up_to: self.up_to, refused: Position::default() })
    }

    /// As [`Self::share`], for somebody who keeps it: all of it is in runs, so that many take little memory.
    ///
    /// # Errors
    /// [`RunError`]; this one says what it said.
    pub fn keep(&self, spill: &Spill) -> Result<Self, RunError> {
        if self.ranges().0 > 0 {
            let run = spill.sweep(&self.index)?;
            spill.publish(&self.index, run)?;
        }
        self.share(spill)
    }

    /// Whether its memory is within bounds: it is not where the disk takes nothing.
    #[must_use]
    pub fn is_bounded(&self, spill: &Spill) -> bool {
        self.index.lock().in_memory() <= 2 * spill.ranges_max
    }

    /// These ranges, and all else in frames up to this one, are in the volumes.
    pub fn forget(&mut self, extents: &[Extent], up_to: Position) {
        let index = self.index.get_mut();
        extents.iter().for_each(|extent| index.forget(*extent, up_to));
    }

    /// A range as it is known now.
    #[must_use]
    pub fn look(&self, extent: Extent) -> Look {
        self.index.lock().look(extent)
    }

    /// Ranges held in memory, and on the disk.
    #[must_use]
    pub fn ranges(&self) -> (usize, usize) {
        let index = self.index.lock();
        (index.in_memory(), index.on_disk())
    }

    /// Tells every range of a volume that was indexed, some of them more than once.
    ///
    /// # Errors
    /// [`RunError`].
    pub(crate) fn each_range(&self, volume: VolumeIndex, mut tell: impl FnMut(Extent)) -> Result<(), RunError> {
        let index = self.index.lock();
        index.memory.all().filter(|(extent, _)| extent.volume == volume).for_each(|(extent, _)| tell(extent));
        let runs = index.runs.clone();
        drop(index);
        for run in &runs {
            for block in run.blocks() {
                block?.into_iter().filter(|(extent, _)| extent.volume == volume).for_each(|(extent, _)| tell(extent));
            }
        }
        Ok(())
    }

    /// The index.
    #[must_use]
    pub fn into_index(self) -> Unapplied {
        self.index.into_inner()
    }
}

type Entry = (Extent, Location);

const fn is_before(extent: Extent, other: Extent) -> bool {
    extent.volume.0 < other.volume.0 || (extent.volume.0 == other.volume.0 && extent.end() <= other.offset)
}

const fn begins_before(extent: Extent, other: Extent) -> bool {
    extent.volume.0 < other.volume.0 || (extent.volume.0 == other.volume.0 && extent.offset < other.offset)
}

const fn end_of(extent: Extent) -> Extent {
    Extent { offset: extent.end(), length: 0, ..extent }
}

/// The part of an entry from an offset on.
fn behind((extent, location): Entry, offset: u64) -> Entry {
    (Extent { offset, length: extent.end() - offset, ..extent }, location.advance(offset - extent.offset))
}

/// The entries of a run that are not in the volumes.
struct Entries<'a> {
    blocks: Box<dyn Iterator<Item = Result<Vec<Entry>, RunError>> + 'a>,
    block: std::vec::IntoIter<Entry>,
    written: Position,
}

impl<'a> Entries<'a> {
    fn of(run: &'a Run, written: Position) -> Self {
        Self { blocks: Box::new(run.blocks()), block: Vec::new().into_iter(), written }
    }

    fn next(&mut self) -> Result<Option<Entry>, RunError> {
        loop {
            let written = self.written;
            if let Some(entry) = self.block.find(|(_, location)| location.frame() > Some(written)) {
                return Ok(Some(entry));
            }
            let Some(block) = self.blocks.next() else { return Ok(None) };
            self.block = block?.into_iter();
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]
mod tests;

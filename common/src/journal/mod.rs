//! The journal: an append-only, checked sequence of frames in segment files; the truth.
//!
//! One [`Writer`] appends and syncs, any number of [`Reader`]s follow up to the durable end, [`Journal::trim`] takes
//! away whole segments that every reader has passed. `docs/JOURNAL_FORMAT.md` has the bytes.
//!
//! Keeps: 1 (what is durable comes back), 6 (only [`Journal::trim`] removes), 9 (every record is checked), 10.

mod error;
mod fold;
mod line;
mod reader;
mod recent;
mod recovery;
mod segment;
mod sound;
mod staging;
mod tail;
mod writer;

pub use error::JournalError;
pub use fold::{FoldRange, Folded};
pub use line::segment_number;
pub use reader::{ReadFrame, Reader};
pub use recovery::{Recovered, TornTail, Visit, cut_behind, open};
pub use segment::Segment;
pub use sound::{Sound, remove, sound};
pub use writer::Writer;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::ids::{GroupId, MarkerNumber, Seq};
use crate::record::{Chain, FrameHeader};
use crate::storage::{Disk, pool};

/// A place in the journal: ordered, and valid until trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Segment number.
    pub segment: u64,
    /// Offset in its file.
    pub offset: u64,
}

/// Where the first record of an ordinary segment begins, in a journal that has none yet.
const BEGIN: Position = Position { segment: 0, offset: segment::FIRST_RECORD };

/// How a journal is kept.
#[derive(Debug, Clone, Copy)]
pub struct JournalOptions {
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// Bytes of all segments together.
    pub capacity_bytes: u64,
}

/// The durable end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DurableEnd {
    /// Everything before this position is durable.
    pub position: Position,
    /// The last sequence number before it.
    pub seq: Seq,
    /// The chain there.
    pub chain: Chain,
}

/// Where the journal goes on behind a frame whose record begins at a place, as recovery shows it.
#[must_use]
pub fn end_of(record: Position, header: &FrameHeader) -> Position {
    Position { offset: record.offset + segment::record_bytes(header.frame_bytes()), ..record }
}

/// A group's journal, shared by its writer and readers.
pub struct Journal {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    group: GroupId,
    options: JournalOptions,
    state: Mutex<State>,
    advanced: Condvar,
    /// Told less often than that: [`Journal::wait_for_company`].
    company: Condvar,
    recent: Mutex<recent::Recent>,
    durable: watch::Sender<DurableEnd>,
}

struct State {
    segments: BTreeMap<u64, Arc<Segment>>,
    /// The highest number of any segment's file, in the line or not: the number above it is new.
    highest: u64,
    spares: Vec<PathBuf>,
    durable: DurableEnd,
    /// The durable end when it last had something behind it that nobody should wait with.
    worth_reading: Position,
    poisoned: Option<String>,
    /// Nobody knows whether a fold was put in its place: what the folder holds is looked at by the next start.
    fold_failed: bool,
    /// The segments that a fold has replaced, until their files are gone and its own have their names.
    replaced: Option<Vec<u64>>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("folder", &self.folder)
            .field("durable", &self.durable_end())
            .finish_non_exhaustive()
    }
}

impl Journal {
    fn new(disk: Arc<dyn Disk>, folder: &Path, group: GroupId, options: JournalOptions) -> Self {
        let state = State {
            segments: BTreeMap::new(),
            highest: 0,
            spares: Vec::new(),
            durable: DurableEnd::default(),
            worth_reading: Position::default(),
            poisoned: None,
            fold_failed: false,
            replaced: None,
        };
        Self {
            disk,
            folder: folder.to_owned(),
            group,
            options,
            state: Mutex::new(state),
            advanced: Condvar::new(),
            company: Condvar::new(),
            recent: Mutex::default(),
            durable: watch::Sender::new(DurableEnd::default()),
        }
    }

    /// The durable end now.
    #[must_use]
    pub fn durable_end(&self) -> DurableEnd {
        self.state.lock().durable
    }

    /// Follows the durable end, for tasks.
    #[must_use]
    pub fn watch_durable(&self) -> watch::Receiver<DurableEnd> {
        self.durable.subscribe()
    }

    /// Waits until the durable end is past the position, the time is over, or [`Self::wake`]; for threads. A journal that is
    /// [`Self::poisoned`] is waited for as well: its durable end stays, and followers only wait to be stopped.
    pub fn wait_durable(&self, past: Position, timeout: Duration) {
        let mut state = self.state.lock();
        if state.durable.position <= past {
            self.advanced.wait_for(&mut state, timeout);
        }
    }

    /// As [`Self::wait_durable`], for a reader whose every step costs more than a small frame: when something has become
    /// durable, waits `delay` longer for more of it. A marker ends that, and so do [`COMPANY_BYTES`].
    pub fn wait_for_company(&self, past: Position, timeout: Duration, delay: Duration) {
        let mut state = self.state.lock();
        if state.durable.position <= past {
            self.advanced.wait_for(&mut state, timeout);
        }
        if state.durable.position > past && state.worth_reading <= past {
            self.company.wait_for(&mut state, delay);
        }
    }

    /// Wakes all who wait, so that they look whether they should stop.
    pub fn wake(&self) {
        let _state = self.state.lock();
        self.advanced.notify_all();
        self.company.notify_all();
    }

    /// Wakes all who wait, tasks too, so that they look what became of the journal.
    pub fn nudge(&self) {
        self.wake();
        self.durable.send_modify(|_| {});
    }

    /// Bytes it holds between two places, those not used at the ends of segments included. What was trimmed, or replaced by a fold, counts no
    /// more.
    #[must_use]
    pub fn bytes_between(&self, from: Position, to: Position) -> u64 {
        let state = self.state.lock();
        let held =
            |at: Position| state.segments.range(at.segment..).next().map_or(at, |(_, first)| at.max(first.begin()));
        let (from, to) = (held(from), held(to));
        if from >= to {
            return 0;
        }
        let before =
            |at: Position| state.segments.get(&at.segment).map_or(at.offset, |seg| seg.bytes_before(at.offset));
        let used = |segment: &Arc<Segment>| segment.bytes_before(segment.used_bytes());
        let whole: u64 = state.segments.range(from.segment..to.segment).map(|(_, segment)| used(segment)).sum();
        (whole + before(to)).saturating_sub(before(from))
    }

    /// Bytes of its capacity that are taken: all that is not free, also where a segment ends with too little for the next frame.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.options.capacity_bytes.saturating_sub(self.free_bytes())
    }

    /// Segment files it holds.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.state.lock().segments.len()
    }

    /// Bytes of one segment file.
    #[must_use]
    pub const fn segment_bytes(&self) -> u64 {
        self.options.segment_bytes
    }

    /// Bytes it may hold.
    #[must_use]
    pub const fn capacity_bytes(&self) -> u64 {
        self.options.capacity_bytes
    }

    /// Bytes it can take before it is full: what is left of the newest segment, and the whole segments that fit.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let state = self.state.lock();
        let active = state.segments.values().last().map_or(0, |last| last.capacity().saturating_sub(last.used_bytes()));
        self.free_segments(&state, 0) * self.options.segment_bytes + active
    }

    /// Whole segments that fit, when it may hold so many beyond its capacity.
    fn free_segments(&self, state: &State, beyond: u64) -> u64 {
        let held: u64 = state.segments.values().map(|segment| segment.held_bytes()).sum();
        let may_hold = self.options.capacity_bytes + beyond * self.options.segment_bytes;
        may_hold.saturating_sub(held).checked_div(self.options.segment_bytes).unwrap_or(0)
    }

    fn has_room_for_segment(&self, beyond: u64) -> bool {
        self.free_segments(&self.state.lock(), beyond) > 0
    }

    /// Whether no segment fits behind the newest one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.has_room_for_segment(0)
    }

    /// The oldest place still held.
    #[must_use]
    pub fn oldest(&self) -> Position {
        let state = self.state.lock();
        state.segments.values().next().map_or(BEGIN, |segment| segment.begin())
    }

    /// Whether volumes that are at a place can go on from there.
    ///
    /// # Errors
    /// [`JournalError::BeginsLate`], [`JournalError::EndsEarly`].
    pub fn check_goes_on_from(&self, applied: Position, seq: Seq) -> Result<(), JournalError> {
        let (oldest, end) = (self.oldest(), self.durable_end());
        if applied.segment != 0 && applied.segment < oldest.segment {
            let folder = self.folder.clone();
            return Err(JournalError::BeginsLate { folder, oldest: oldest.segment, applied: applied.segment });
        }
        // Where an end was cut, the journal goes on in a new segment: then only the numbers tell.
        if applied > end.position || seq > end.seq {
            return Err(JournalError::EndsEarly { folder: self.folder.clone(), end: end.position, applied });
        }
        Ok(())
    }

    /// Where the middle of what is held begins, for giving up the older half.
    #[must_use]
    pub fn middle(&self) -> Position {
        let state = self.state.lock();
        state.segments.values().nth(state.segments.len() / 2).map_or(BEGIN, |segment| segment.begin())
    }

    /// A reader that begins at a position; at the oldest frame held when that is [`Position::default`]. One that begins
    /// where the journal has been trimmed reads nothing but [`JournalError::Trimmed`]: frames are never left out in silence.
    #[must_use]
    pub fn reader(self: &Arc<Self>, from: Position) -> Reader {
        let from = if from == Position::default() { self.oldest() } else { from };
        let first = self.segment(from.segment).map_or(segment::FIRST_RECORD, |segment| segment.first_record());
        Reader::new(Arc::clone(self), Position { offset: from.offset.max(first), ..from })
    }

    /// Where the first marker newer than this one lies, from a position on; `None`: none is durable yet.
    ///
    /// # Errors
    /// [`JournalError`] when the journal cannot be read.
    pub fn next_marker(
        self: &Arc<Self>,
        from: Position,
        newer: MarkerNumber,
    ) -> Result<Option<Position>, JournalError> {
        let mut reader = self.reader(from);
        while let Some((at, header)) = reader.next_header()? {
            if header.marker > newer {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// A reader that begins at the frame whose predecessors have this chain; `None` when no frame held does. `seq` is
    /// the sequence number that belongs to the chain.
    ///
    /// # Errors
    /// [`JournalError`] when the journal cannot be read.
    pub fn reader_at_chain(self: &Arc<Self>, seq: Seq, chain: Chain) -> Result<Option<Reader>, JournalError> {
        let end = self.durable_end();
        if end.chain == chain && end.seq == seq {
            return Ok(Some(self.reader(end.position)));
        }
        let mut begun = None;
        for segment in self.segments_around(seq, end.seq) {
            match self.find_chain(segment, seq, chain)? {
                // What is folded may have begun in the segment before.
                Some((position, true)) => begun = Some(position),
                Some((position, false)) => return Ok(Some(self.reader(position))),
                None => {}
            }
        }
        Ok(begun.filter(|begin| self.is_begin_of_fold(*begin)).map(|begin| self.reader(begin)))
    }

    /// Whether folded frames that begin at a place are all of them: what was before them may be trimmed.
    fn is_begin_of_fold(&self, at: Position) -> bool {
        let Some(segment) = self.segment(at.segment).filter(|segment| segment.begin() == at) else { return true };
        if segment.fold.is_some() {
            !segment.is_inside_of_fold()
        } else {
            self.segment(segment.previous.segment).is_some()
        }
    }

    /// Segments in which the history may stand at a sequence number, newest first. A copy's begin may set the sequence
    /// number back, so that a segment may end before the number it began with.
    fn segments_around(&self, seq: Seq, end: Seq) -> Vec<u64> {
        let mut next = end;
        let mut found = Vec::new();
        for segment in self.state.lock().segments.values().rev() {
            if (segment.start_seq <= seq && seq <= next) || next < segment.start_seq {
                found.push(segment.number);
            }
            next = segment.start_seq;
        }
        found
    }

    /// Where in a segment the record of the frame begins whose predecessors have this chain, and whether it is the first of
    /// folded ones there.
    fn find_chain(
        self: &Arc<Self>,
        segment: u64,
        seq: Seq,
        chain: Chain,
    ) -> Result<Option<(Position, bool)>, JournalError> {
        let mut reader = self.reader(Position { segment, offset: segment::FIRST_RECORD });
        // A fold of nothing but markers has no frames to find.
        let folded = self.segment(segment).filter(|segment| segment.fold.is_some());
        if let Some(folded) = folded.filter(|folded| (folded.start_seq, folded.start.chain) == (seq, chain)) {
            return Ok(Some((folded.begin(), true)));
        }
        while let Some((position, header)) = reader.next_header()? {
            if position.segment != segment {
                break;
            }
            if header.continues_history() && header.chain == chain && header.seq_before() == seq {
                return Ok(Some((position, !header.history)));
            }
        }
        Ok(None)
    }

    /// Takes away all segments that lie wholly before the position. The newest segment always stays.
    ///
    /// # Errors
    /// [`JournalError`] when a file cannot be renamed or removed.
    pub fn trim(&self, before: Position) -> Result<u64, JournalError> {
        // What a fold has replaced would lie before a line that no longer reaches there: the next start would take that for a loss.
        self.tidy()?;
        let mut freed = 0;
        while let Some(segment) = self.pop_before(before) {
            if let Err(error) = self.retire(&segment) {
                self.state.lock().segments.insert(segment.number, segment);
                return Err(error);
            }
            self.recent.lock().trim(segment.number + 1);
            freed += segment.held_bytes();
        }
        Ok(freed)
    }

    fn pop_before(&self, before: Position) -> Option<Arc<Segment>> {
        let mut state = self.state.lock();
        let (number, _) = state.segments.first_key_value()?;
        if *number >= before.segment || state.segments.len() < 2 {
            return None;
        }
        state.segments.pop_first().map(|(_, segment)| segment)
    }

    /// Keeps a trimmed segment's file as a spare, or removes it; durably, so that segments go in their order and one that
    /// is missing between others is known to be lost.
    fn retire(&self, segment: &Segment) -> Result<(), JournalError> {
        let path = self.folder.join(segment::file_name(segment.number));
        let keep =
            segment.held_bytes() == self.options.segment_bytes && self.state.lock().spares.len() < self.spares_max();
        if !keep {
            return self.remove_segments(&[segment.number]);
        }
        let spare = self.folder.join(segment::spare_name(segment.number));
        let renamed = self.disk.rename(&path, &spare).or_else(|error| match error.kind() {
            // By an earlier try, which could not make that durable.
            io::ErrorKind::NotFound => self.disk.sync_folder(&self.folder),
            _ => Err(error),
        });
        renamed.map_err(|source| JournalError::io("rename", &path, 0, source))?;
        self.state.lock().spares.push(spare);
        Ok(())
    }

    /// A small part of the journal: a load that comes in bursts finds segments as it left them.
    fn spares_max(&self) -> usize {
        let segments = self.options.capacity_bytes.checked_div(self.options.segment_bytes).unwrap_or(0);
        usize::try_from(segments / 64).unwrap_or(SPARES_MIN).clamp(SPARES_MIN, SPARES_MAX)
    }

    fn segment(&self, number: u64) -> Option<Arc<Segment>> {
        self.state.lock().segments.get(&number).cloned()
    }

    /// Whether what lay at a place before may be gone because it was folded.
    pub(crate) fn is_folded(&self, at: Position) -> bool {
        self.segment(at.segment).is_some_and(|segment| segment.fold.is_some())
    }

    /// Where the records of the next segment begin, behind a place that cannot be read.
    #[must_use]
    pub fn begin_of_next_segment(&self, at: Position) -> Option<Position> {
        self.segment_after(at.segment).map(|segment| segment.begin())
    }

    /// The first segment with a number above this one.
    fn segment_after(&self, number: u64) -> Option<Arc<Segment>> {
        let state = self.state.lock();
        state.segments.range(number.saturating_add(1)..).next().map(|(_, segment)| Arc::clone(segment))
    }

    /// The segment behind one that was read to its end. Where that is not held any more, it was trimmed, or folded together with what followed:
    /// nothing of this is passed over in silence (invariant 6).
    fn behind(&self, read: &Arc<Segment>, at: Position) -> Result<Option<Arc<Segment>>, JournalError> {
        let state = self.state.lock();
        let mut held = state.segments.range(read.number..).map(|(_, segment)| segment);
        if !held.next().is_some_and(|segment| Arc::ptr_eq(segment, read)) {
            return Err(JournalError::Trimmed { position: at });
        }
        Ok(held.next().cloned())
    }

    /// The error for bytes at a place that are not what was written.
    #[must_use]
    pub fn damaged(&self, at: Position, source: crate::record::FrameError) -> JournalError {
        JournalError::Damaged { path: self.folder.join(segment::file_name(at.segment)), offset: at.offset, source }
    }

    /// A frame that is still in memory, by the place of its first byte; verified.
    #[must_use]
    pub fn recent(&self, frame: Position) -> Option<bytes::Bytes> {
        self.kept(frame).map(|kept| kept.frame)
    }

    fn kept(&self, frame: Position) -> Option<recent::Kept> {
        let begin = frame.offset.checked_sub(segment::ENVELOPE_BYTES as u64)?;
        self.recent.lock().get(Position { offset: begin, ..frame })
    }

    /// The volumes have everything before this place: nobody wants to decompress it any more.
    pub fn forget_raw(&self, before: Position) {
        self.recent.lock().forget_raw(before);
    }

    /// Nothing has happened for a while: the memory of the newest frames is given back, and all that waits to be used again.
    pub fn rest(&self) {
        let mut recent = self.recent.lock();
        if recent.is_empty() {
            return;
        }
        recent.clear();
        drop(recent);
        pool::give_back();
    }

    /// Reads stored bytes of a frame, for whoever keeps an index of chunks.
    ///
    /// # Errors
    /// `Ok(false)` when the segment is trimmed; [`JournalError::Io`] when the disk fails.
    pub(crate) fn read_stored(&self, at: Position, buffer: &mut [u8]) -> Result<bool, JournalError> {
        let Some(segment) = self.segment(at.segment) else { return Ok(false) };
        segment.read(buffer, at.offset)?;
        Ok(true)
    }
}

/// So much is worth a reader's step at once.
pub const COMPANY_BYTES: u64 = 256 << 10;

/// Trimmed segments kept for reuse: a segment that has been written before syncs twice as fast as a new one, and need not be
/// filled with zeroes first.
const SPARES_MIN: usize = 2;
const SPARES_MAX: usize = 8;

#[cfg(test)]
mod tests;

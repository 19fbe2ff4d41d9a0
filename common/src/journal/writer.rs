//! Appending: frames in, durable positions out. Owns the end of the journal and the [`Tip`] of its history.
//!
//! Frames are written one behind the other and become durable together at [`Writer::sync`] (group commit). Each is kept in
//! memory for the readers that want it next. What failed to sync is in an unknown state, so a failure poisons the journal
//! for good: only a restart reads it again. A segment that could not be made is none, and is tried again ([`Writer::may_try_again`]).

use std::sync::Arc;

use bytes::Bytes;

use super::segment::{ENVELOPE_BYTES, Envelope, FIRST_RECORD, Segment, SegmentHeader, Start, record_bytes};
use super::staging::Staging;
use super::{COMPANY_BYTES, DurableEnd, Journal, JournalError, Position};
use crate::ids::GroupId;
use crate::record::{FrameError, FrameHeader, Tip};

/// The one writer of a journal.
#[derive(Debug)]
pub struct Writer {
    journal: Arc<Journal>,
    active: Arc<Segment>,
    at: u64,
    tip: Tip,
    staging: Staging,
    /// Something is appended to the active segment and not synced; older segments always are.
    dirty: bool,
    /// Where the history stood when all of it was durable, and the place behind that in the active segment.
    durable: (Tip, u64),
    poisoned: bool,
}

impl Writer {
    pub(super) fn new(journal: Arc<Journal>, active: Arc<Segment>, at: u64, tip: Tip) -> Self {
        let (staging, durable) = (Staging::default(), (tip, at));
        Self { journal, active, at, tip, staging, dirty: false, durable, poisoned: false }
    }

    /// Where the history stands, synced or not.
    #[must_use]
    pub const fn tip(&self) -> &Tip {
        &self.tip
    }

    /// The journal it writes.
    #[must_use]
    pub const fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Where the next record goes, synced or not.
    #[must_use]
    pub fn end(&self) -> Position {
        Position { segment: self.active.number, offset: self.at }
    }

    /// Bytes that still fit the active segment.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        self.active.capacity().saturating_sub(self.at)
    }

    /// Appends one frame that is borrowed, see [`Self::append_frame`].
    ///
    /// # Errors
    /// As there.
    pub fn append(&mut self, frame: &[u8]) -> Result<Position, JournalError> {
        self.append_frame(Bytes::copy_from_slice(frame))
    }

    /// Appends one frame; durable only after [`Self::sync`], readable at once for whoever keeps an index. Returns where its
    /// first byte lies.
    ///
    /// # Errors
    /// [`JournalError`]; one after which it [`Self::may_try_again`] left everything as it was.
    pub fn append_frame(&mut self, frame: Bytes) -> Result<Position, JournalError> {
        self.take(frame, None, true, 0)
    }

    /// Appends one frame with all the data it was built of, which is kept beside it for the updater.
    ///
    /// # Errors
    /// As [`Self::append_frame`].
    pub fn append_with_raw(&mut self, frame: Bytes, raw: Bytes) -> Result<Position, JournalError> {
        self.take(frame, Some(raw), true, 0)
    }

    /// Appends one frame that nobody reads before it is durable: it may wait for others to be written with it.
    ///
    /// # Errors
    /// As [`Self::append_frame`].
    pub fn append_later(&mut self, frame: Bytes) -> Result<Position, JournalError> {
        self.take(frame, None, false, 0)
    }

    /// Appends one frame by which others need not be held any more, or without which nobody comes to that: for it the journal may grow one
    /// segment beyond its capacity.
    ///
    /// # Errors
    /// As [`Self::append_frame`].
    pub fn append_to_free(&mut self, frame: Bytes) -> Result<Position, JournalError> {
        self.take(frame, None, false, 1)
    }

    fn take(
        &mut self,
        frame: Bytes,
        raw: Option<Bytes>,
        at_once: bool,
        segments_beyond: u64,
    ) -> Result<Position, JournalError> {
        self.check()?;
        let tip = self.follow(&frame)?;
        let need = record_bytes(frame.len());
        if need > self.journal.options.segment_bytes.saturating_sub(FIRST_RECORD) {
            return Err(JournalError::TooLarge { bytes: frame.len() });
        }
        if self.at + need > self.active.capacity() {
            self.next_segment(segments_beyond)?;
        }
        let at = Position { segment: self.active.number, offset: self.at };
        // The part that was written lies behind the end: the next try writes over it, and recovery cuts it.
        self.write(&frame, at, at_once).map_err(|error| self.poison_unless_no_space(error))?;
        self.at += need;
        self.active.set_end(self.at);
        self.tip = tip;
        self.dirty = true;
        self.journal.recent.lock().add(at, frame, raw);
        Ok(Position { offset: at.offset + ENVELOPE_BYTES as u64, ..at })
    }

    /// The tip behind the frame, which must be whole, this group's, and the next.
    fn follow(&self, frame: &[u8]) -> Result<Tip, JournalError> {
        let damaged = |source| self.active.damaged(self.at, source);
        let header = FrameHeader::decode(frame).map_err(damaged)?;
        if header.frame_bytes() != frame.len() {
            return Err(damaged(FrameError::Short { have: frame.len(), need: header.frame_bytes() }));
        }
        follow(&self.tip, &header, self.journal.group).map_err(|what| self.active.gap(self.at, what))
    }

    fn write(&mut self, frame: &[u8], at: Position, at_once: bool) -> Result<(), JournalError> {
        self.staging.at(&self.active, at.offset)?;
        if self.staging.is_full() {
            self.staging.write(&self.active)?;
        }
        let before = self.staging.len();
        let envelope = Envelope::of(frame, self.journal.durable_end().position).encode(self.journal.group, at);
        self.staging.push(&envelope);
        self.staging.push(frame);
        self.staging.pad_to(at.offset + record_bytes(frame.len()));
        if !at_once {
            return Ok(());
        }
        self.staging.write(&self.active).inspect_err(|_| self.staging.cut(before))
    }

    /// Makes everything appended durable and tells all who wait. Does nothing when nothing was appended.
    ///
    /// # Errors
    /// [`JournalError`], after which the journal takes nothing more.
    pub fn sync(&mut self) -> Result<DurableEnd, JournalError> {
        self.check()?;
        if !self.dirty {
            return Ok(self.journal.durable_end());
        }
        // Without space, what waits to be written still waits.
        self.staging.write(&self.active).map_err(|error| self.poison_unless_no_space(error))?;
        self.active.sync().map_err(|error| self.poison(error))?;
        self.dirty = false;
        let end = DurableEnd { position: self.end(), seq: self.tip.seq, chain: self.tip.chain };
        let (before, _) = std::mem::replace(&mut self.durable, (self.tip, self.at));
        self.journal.set_durable(end, before.marker != self.tip.marker);
        Ok(end)
    }

    /// Seals the active segment and goes on in a new one.
    fn next_segment(&mut self, segments_beyond: u64) -> Result<(), JournalError> {
        if !self.journal.has_room_for_segment(segments_beyond) {
            return Err(JournalError::Full { capacity_bytes: self.journal.options.capacity_bytes });
        }
        // First durable, then followed by another: recovery may call everything damage that is bad before the newest segment.
        self.sync()?;
        let next = self.journal.add_segment(self.end(), &Start::of(&self.tip));
        // Without its name it is no segment: what is durable ends where it did, and the next try makes a new file.
        let next = next.map_err(|error| if error.is_of_a_name() { self.poison(error) } else { error })?;
        self.active.seal(self.at);
        self.active = next;
        self.at = FIRST_RECORD;
        self.durable = (self.tip, self.at);
        Ok(())
    }

    /// Takes back what is appended and not durable, because there was no room to make it so: who sent it sends it again, or has
    /// given it up by then. So what of it is in the file must not come back with a restart.
    pub fn take_back(&mut self) {
        if !self.dirty || self.poisoned {
            return;
        }
        self.staging = Staging::default();
        (self.tip, self.at) = self.durable;
        self.active.set_end(self.at);
        self.dirty = false;
        self.journal.recent.lock().clear();
        match self.erase_behind_end() {
            // Then its begin is not in the file either.
            Err(error) if error.is_no_space() => {}
            Err(error) => drop(self.poison(error)),
            Ok(()) => {}
        }
    }

    /// Where the next record begins there is none.
    fn erase_behind_end(&self) -> Result<(), JournalError> {
        if self.room_bytes() < ENVELOPE_BYTES as u64 {
            return Ok(());
        }
        self.active.write(&[0; ENVELOPE_BYTES], self.at)?;
        self.active.sync()
    }

    /// Whether it still takes anything.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`]: what it holds is known only after a restart.
    pub fn check(&self) -> Result<(), JournalError> {
        if !self.poisoned {
            return Ok(());
        }
        let reason = self.journal.state.lock().poisoned.clone();
        Err(JournalError::Poisoned { reason: reason.unwrap_or_default() })
    }

    /// Whether what ended with an error of this journal may go well when it is tried again: there is no room, or no new segment, and what was
    /// appended before is as it was. An error of a write or a sync is never one of these.
    #[must_use]
    pub const fn may_try_again(&self, error: &JournalError) -> bool {
        !self.poisoned && matches!(error, JournalError::Full { .. } | JournalError::Io { .. })
    }

    fn poison_unless_no_space(&mut self, error: JournalError) -> JournalError {
        if error.is_no_space() { error } else { self.poison(error) }
    }

    /// After this, nobody knows what the disk holds: an error that asks to be tried again would be wrong.
    fn poison(&mut self, error: JournalError) -> JournalError {
        self.poisoned = true;
        let reason = error.to_string();
        self.journal.poison(reason.clone());
        if error.is_no_space() { JournalError::Poisoned { reason } } else { error }
    }
}

/// The tip behind a frame of this group.
pub(super) fn follow(tip: &Tip, header: &FrameHeader, group: GroupId) -> Result<Tip, &'static str> {
    if header.group == group { tip.follow(header) } else { Err("it belongs to another group") }
}

impl Journal {
    /// A new segment behind the newest one, or behind a place where the history was cut.
    pub(super) fn add_segment(&self, previous: Position, start: &Start) -> Result<Arc<Segment>, JournalError> {
        // The folder is not asked: that may fail when all else goes well, and the journal would take nothing more.
        let number = self.state.lock().highest.saturating_add(1);
        let header = SegmentHeader::new(number, self.group, previous, start);
        let segment = Arc::new(Segment::create(self, header)?);
        let mut state = self.state.lock();
        state.highest = number;
        state.segments.insert(number, Arc::clone(&segment));
        Ok(segment)
    }

    pub(super) fn set_durable(&self, end: DurableEnd, marked: bool) {
        let worth_reading = self.mark_durable(end, marked);
        self.durable.send_replace(end);
        self.advanced.notify_all();
        if worth_reading {
            self.company.notify_all();
        }
    }

    fn mark_durable(&self, end: DurableEnd, marked: bool) -> bool {
        let mut state = self.state.lock();
        state.durable = end;
        let since = state.worth_reading;
        let enough = end.position.segment != since.segment || end.position.offset - since.offset >= COMPANY_BYTES;
        if marked || enough {
            state.worth_reading = end.position;
        }
        marked || enough
    }

    fn poison(&self, reason: String) {
        self.state.lock().poisoned = Some(reason);
        self.nudge();
    }

    /// Why it takes nothing more, if so.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.state.lock().poisoned.clone()
    }
}

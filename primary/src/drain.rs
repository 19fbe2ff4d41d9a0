//! The drain: acknowledged writes out of the buffer in order, frames into the journal. Owns `journaled_seq` and makes the
//! cuts.
//!
//! One batch: gather committed entries up to the next cut's boundary, fold them to the last writer of each byte, compress,
//! append; tell the index; append the marker if its boundary is reached; sync once for everybody who waits (group
//! commit); only then give the ring's space back. The index learns of the journal before the durable end moves, so that the
//! updater, which follows the durable end, finds there what it has to take out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::clock::{Clock, unix_ns};
use tidemark_common::extent::Extent;
use tidemark_common::ids::{GroupId, Seq};
use tidemark_common::journal::{JournalError, Position, Writer};
use tidemark_common::markers::Markers;
use tidemark_common::metrics::{Drained, GroupMetrics, Part};
use tidemark_common::nbd::IoError;
use tidemark_common::overlay::location::{Location, locations};
use tidemark_common::overlay::{Locate, Overlay};
use tidemark_common::record::{
    ControlRecord, FrameBuilder, FrameError, FrameKind, FrameView, MarkerRecord, Place, crc32c,
};
use tokio::sync::oneshot;

use crate::buffer::{Buffer, PIECE_BYTES_MAX};
use crate::cut::{CutDone, CutError, CutRequest, Freezes, PendingCut};
use crate::ring::{Entry, EntryKind, RingError};
use crate::throttle::Throttle;

/// Raw bytes of a batch at most; one frame.
const BATCH_BYTES: usize = tidemark_common::limits::FRAME_RAW_BYTES_MAX;
/// Entries of a batch at most: folding can split each into two ranges more.
const BATCH_ENTRIES: usize = 1300;
/// Bytes appended before a sync at most: what the journal keeps in memory for its readers, who come behind the sync, is more.
const UNSYNCED_BYTES_MAX: usize = 8 << 20;
/// A sleeping drain looks again after this long at the latest.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// A journal at its capacity makes room by itself. Who wants a marker and has waited so long for that is told.
const FULL_MAX: Duration = Duration::from_secs(5);
/// Held at most by a buffer that is drained on a host's own task.
const QUICK_BYTES: u64 = 256 << 10;

const _: () = assert!(BATCH_ENTRIES * 3 < tidemark_common::limits::FRAME_EXTENTS_MAX, "a folded batch fits a frame");

/// How the drain behaves.
#[derive(Debug, Clone, Copy)]
pub struct DrainSettings {
    /// A write waits in the buffer this long at most, for company.
    pub delay: Duration,
    /// Hosts are held this long at most.
    pub freeze_limit: Duration,
}

/// A control record somebody wants in the journal.
#[derive(Debug)]
pub struct RecordRequest {
    /// The record.
    pub record: ControlRecord,
    /// Told when it is durable.
    pub reply: oneshot::Sender<Result<(), String>>,
}

/// Bytes of an interval that are never too many.
const INTERVAL_BYTES_MIN: u64 = 4 << 20;

const _: () = assert!(PIECE_BYTES_MAX <= INTERVAL_BYTES_MIN / 4, "the smallest batch holds an entry");

/// What others ask of the drain, and what it shows them.
#[derive(Debug, Default)]
pub struct DrainDesk {
    flush_wanted: AtomicU64,
    cuts: Mutex<Vec<CutRequest>>,
    records: Mutex<Vec<RecordRequest>>,
    interval_ms: AtomicU64,
    interval_bytes: AtomicU64,
    /// The group's volumes were recorded anew at the start.
    pub(crate) volumes_changed: AtomicBool,
    stop: AtomicBool,
    stopped: AtomicBool,
    /// Set while the drain cannot go on: what happened and what to do.
    problem: Mutex<Option<String>>,
    /// The disk under the journal has no space: hosts are told.
    disk_full: AtomicBool,
    /// The journal is at its capacity: somebody has to make room.
    journal_full: AtomicBool,
    /// Slows hosts while the journal fills, where the group is to do that.
    pub throttle: Throttle,
    /// Freezes.
    pub freezes: Freezes,
    /// Markers in the journal.
    pub markers: Markers,
}

impl DrainDesk {
    /// A desk for a group that cuts at this interval.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        let desk = Self { interval_bytes: u64::MAX.into(), ..Self::default() };
        desk.set_interval(interval);
        desk
    }

    /// Changes the interval between cuts.
    pub fn set_interval(&self, interval: Duration) {
        self.interval_ms.store(u64::try_from(interval.as_millis()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// The interval between cuts.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.load(Ordering::Acquire))
    }

    /// A journal that must hold whole intervals, and may hold so many bytes: an interval ends early when an eighth of them is
    /// appended. What the buffer holds then belongs to the next one, and a round may be under way: with both bounded by the same,
    /// an interval stays below the half of a journal. The smallest counts.
    pub fn fit_interval(&self, capacity_bytes: u64, buffer: &Buffer) {
        let bytes = (capacity_bytes / 8).max(INTERVAL_BYTES_MIN);
        self.interval_bytes.fetch_min(bytes, Ordering::AcqRel);
        buffer.hold_at_most(bytes);
    }

    /// Bytes of an interval at most.
    #[must_use]
    pub fn interval_bytes(&self) -> u64 {
        self.interval_bytes.load(Ordering::Acquire)
    }

    /// Somebody waits until this is durable.
    pub fn want(&self, seq: Seq, buffer: &Buffer) {
        self.note_wanted(seq);
        buffer.bell().ring_if_asleep();
    }

    /// The same, for whoever makes it durable.
    pub(crate) fn note_wanted(&self, seq: Seq) {
        self.flush_wanted.fetch_max(seq.0, Ordering::SeqCst);
    }

    /// Somebody wants a marker.
    pub fn ask_cut(&self, request: CutRequest, buffer: &Buffer) {
        let mut cuts = self.cuts.lock();
        if !self.is_stopped() {
            cuts.push(request);
            buffer.bell().ring();
        }
    }

    /// Somebody wants a record in the journal.
    pub fn ask_record(&self, request: RecordRequest, buffer: &Buffer) {
        let mut records = self.records.lock();
        if !self.is_stopped() {
            records.push(request);
            buffer.bell().ring();
        }
    }

    fn next_record(&self) -> Option<RecordRequest> {
        let mut records = self.records.lock();
        if records.is_empty() { None } else { Some(records.remove(0)) }
    }

    /// Everything in the buffer is drained, then the thread ends.
    pub fn stop(&self, buffer: &Buffer) {
        self.stop.store(true, Ordering::Release);
        buffer.bell().ring();
    }

    /// Why the drain stands, if it does.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    /// Whether the disk under the journal has no space.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Acquire)
    }

    /// Whether the journal is at its capacity.
    #[must_use]
    pub fn is_journal_full(&self) -> bool {
        self.journal_full.load(Ordering::Acquire)
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Nothing is drained any more: who waits for it is told, by this and a nudge of the journal.
    pub(crate) fn end(&self, buffer: &Buffer) {
        self.stopped.store(true, Ordering::Release);
        // Nobody will answer these: dropping them tells who waits.
        self.cuts.lock().clear();
        buffer.end_cuts();
        self.records.lock().clear();
    }

    /// The drain is gone for a defect of ours: hosts are told, and what they were answered stays in the buffer.
    pub(crate) fn lose(&self, buffer: &Buffer) {
        let problem = "the drain ended by a defect of Tidemark, and the log has its message. Hosts get I/O errors. Restart the service: what was \
                       acknowledged is in the write buffer and the journal";
        *self.problem.lock() = Some(problem.into());
        buffer.refuse(Some(IoError::Io));
        self.end(buffer);
    }
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draining {
    /// Something was made durable.
    Did,
    /// There is nothing to do before something is asked for or due.
    Idle,
    /// Nothing can be appended before there is space.
    NoSpace,
    /// Everything is drained and it is time to stop, or the journal failed for good.
    Ended,
}

/// How long the drain may sleep, and what it has seen before.
#[derive(Debug)]
pub(crate) struct Pause {
    time: Duration,
    /// No longer than a write may wait for company.
    short: bool,
    tip: Seq,
    /// Everything there was, when all of it was drained.
    captured: Option<Seq>,
}

impl Pause {
    /// Sleeps, unless something has come since.
    pub(crate) fn sleep(self, desk: &DrainDesk, buffer: &Buffer) {
        buffer.bell().sleep(self.time, self.short, || {
            let wanted = desk.flush_wanted.load(Ordering::SeqCst) > self.tip.0;
            !wanted && self.captured.is_none_or(|captured| buffer.captured() == captured)
        });
    }
}

/// Why a batch was not drained.
#[derive(Debug, thiserror::Error)]
enum DrainError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("a frame could not be made: {0}")]
    Frame(#[from] FrameError),
    #[error("the write buffer's memory changed: the checksum of write {seq} does not match")]
    Payload { seq: Seq },
}

impl DrainError {
    /// For people: what is full, where, what that means for hosts, and what to do.
    fn told(&self) -> String {
        match self {
            Self::Journal(error @ JournalError::Io { path, .. }) if error.is_no_space() => format!(
                "the disk under the journal has no space left: {error}. Hosts get ENOSPC for what they write; what was acknowledged is kept. \
                 Make room on the file system of {}; it goes on by itself",
                path.parent().unwrap_or(path).display()
            ),
            Self::Journal(error @ JournalError::Full { .. }) => format!(
                "{error}. Hosts wait. `tidemark status` shows who is behind: a pair, or the volumes' disks; it goes on by itself when they have \
                 caught up"
            ),
            _ => self.to_string(),
        }
    }
}

/// The drain of one group.
pub struct Drain {
    buffer: Arc<Buffer>,
    writer: Writer,
    desk: Arc<DrainDesk>,
    clock: Arc<dyn Clock>,
    settings: DrainSettings,
    metrics: GroupMetrics,
    group: GroupId,
    builder: FrameBuilder,
    /// The next entry to gather.
    position: u64,
    pending: VecDeque<PendingCut>,
    /// Markers appended and not yet synced.
    unsynced_markers: Vec<(Position, CutDone, Option<CutRequest>)>,
    unsynced_records: Vec<RecordRequest>,
    unsynced_bytes: usize,
    last_boundary: Seq,
    next_cut: Duration,
    /// Bytes of frames appended since the last cut.
    since_cut_bytes: u64,
    /// The group's volumes have changed since the last cut.
    volumes_changed: bool,
    waiting_since: Option<Duration>,
    /// Since when there is no space.
    full_since: Option<Duration>,
}

impl std::fmt::Debug for Drain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drain").field("tip", self.writer.tip()).finish_non_exhaustive()
    }
}

/// Where in a batch a byte comes from.
#[derive(Debug, Clone, Copy)]
struct FromEntry {
    index: usize,
    offset: u64,
}

fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl Locate for FromEntry {
    fn advance(self, bytes: u64) -> Self {
        Self { offset: self.offset + bytes, ..self }
    }
}

impl Drain {
    /// A drain that goes on behind the journal's tip.
    #[must_use]
    pub fn new(
        group: GroupId,
        buffer: Arc<Buffer>,
        writer: Writer,
        desk: Arc<DrainDesk>,
        clock: Arc<dyn Clock>,
        settings: DrainSettings,
        metrics: GroupMetrics,
    ) -> Self {
        let next_cut = clock.monotonic() + desk.interval();
        desk.fit_interval(writer.journal().capacity_bytes(), &buffer);
        let volumes_changed = desk.volumes_changed.load(Ordering::Acquire);
        let last_boundary = Seq(desk.markers.newest().map_or(0, |marker| marker.boundary_seq));
        Self {
            position: buffer.tail(),
            buffer,
            writer,
            desk,
            clock,
            settings,
            metrics,
            group,
            builder: FrameBuilder::new(),
            pending: VecDeque::new(),
            unsynced_markers: Vec::new(),
            unsynced_records: Vec::new(),
            unsynced_bytes: 0,
            last_boundary,
            next_cut,
            since_cut_bytes: 0,
            volumes_changed,
            waiting_since: None,
            full_since: None,
        }
    }

    /// Does what can be done now.
    pub fn step(&mut self) -> Draining {
        match self.round() {
            Ok(true) => {
                self.recovered();
                Draining::Did
            }
            Ok(false) if self.desk.is_stopping() && self.is_drained() => Draining::Ended,
            Ok(false) => Draining::Idle,
            Err(error) => self.judge(&error),
        }
    }

    /// One round: cuts, one or more batches, one sync. `false`: there was nothing to do.
    fn round(&mut self) -> Result<bool, DrainError> {
        self.take_cuts();
        self.append_records()?;
        if self.is_due() {
            let bytes_max = UNSYNCED_BYTES_MAX.min(bytes(self.desk.interval_bytes()));
            while self.unsynced_bytes < bytes_max && (self.append_batch()? || self.append_marker()?) {}
        }
        let did = self.unsynced_bytes > 0;
        if did {
            self.sync()?;
        }
        Ok(did)
    }

    fn is_drained(&self) -> bool {
        self.pending.is_empty() && self.writer.tip().seq >= self.buffer.captured()
    }

    /// Whether the buffer should be drained now rather than wait for company.
    fn is_due(&mut self) -> bool {
        let captured = self.buffer.captured();
        if !self.pending.is_empty() || self.desk.is_stopping() {
            return true;
        }
        if captured <= self.writer.tip().seq {
            self.waiting_since = None;
            return false;
        }
        if self.desk.flush_wanted.load(Ordering::Acquire) > self.writer.tip().seq.0 {
            return true;
        }
        if self.buffer.bytes() > self.buffer.capacity() / 4 {
            return true;
        }
        let now = self.clock.monotonic();
        now >= *self.waiting_since.get_or_insert(now) + self.settings.delay
    }

    /// How long there is nothing to do, as things stand after a step.
    pub(crate) fn pause(&self) -> Pause {
        let now = self.clock.monotonic();
        let (tip, captured) = (self.writer.tip().seq, self.buffer.captured());
        let idle = tip >= captured;
        let until = match self.waiting_since {
            _ if idle && self.last_boundary >= captured && !self.volumes_changed => now + SLEEP_MAX,
            Some(since) => (since + self.settings.delay).min(self.next_cut),
            None => self.next_cut,
        };
        // A moment at least: an entry that is being copied holds everything up, but not for long.
        let time = until.saturating_sub(now).clamp(Duration::from_micros(50), SLEEP_MAX);
        Pause { time, short: time <= self.settings.delay, tip, captured: idle.then_some(captured) }
    }

    /// Whether what a host waits for is one small append: little is held, and it surely fits the segment. A new segment may have to
    /// be filled with zeroes first.
    pub(crate) fn is_quick(&self) -> bool {
        let held = self.buffer.bytes();
        self.pending.is_empty() && held <= QUICK_BYTES && self.writer.room_bytes() >= 2 * held + QUICK_BYTES / 4
    }

    /// Performs the cuts asked for and the one that is due.
    fn take_cuts(&mut self) {
        self.take_noted();
        let asked = std::mem::take(&mut *self.desk.cuts.lock());
        for request in asked {
            self.cut(Some(request));
        }
        let now = self.clock.monotonic();
        let has_enough = self.since_cut_bytes >= self.desk.interval_bytes();
        if now >= self.next_cut || has_enough {
            self.next_cut = now + self.desk.interval();
            let cut_up_to = self.pending.back().map_or(self.last_boundary, |cut| cut.boundary.seq);
            // An idle group needs no new marker: the newest one still says it all.
            if self.buffer.captured() > cut_up_to || self.volumes_changed {
                self.cut(None);
            }
        }
    }

    /// Takes over the cuts made together with other groups'. One may be older than what was cut here since.
    fn take_noted(&mut self) {
        for cut in self.buffer.take_noted() {
            let boundary = cut.boundary;
            assert!(
                boundary.seq >= self.writer.tip().seq,
                "invariant 3: the drain has passed a cut it did not know of"
            );
            self.desk.freezes.add(boundary.frozen);
            self.metrics.marker_cut(boundary.frozen);
            let before =
                |other: &PendingCut| (other.boundary.seq, other.boundary.time) <= (boundary.seq, boundary.time);
            let at = self.pending.partition_point(before);
            self.pending.insert(at, cut);
        }
    }

    fn cut(&mut self, request: Option<CutRequest>) {
        let boundary = self.buffer.freeze();
        self.desk.freezes.add(boundary.frozen);
        if boundary.frozen > self.settings.freeze_limit {
            self.desk.freezes.abandon();
            self.metrics.marker_abandoned(boundary.frozen);
            tracing::warn!(group = %self.group, took = ?boundary.frozen, "marker abandoned: the freeze limit was reached");
            let (took, limit) = (boundary.frozen, self.settings.freeze_limit);
            if let Some(request) = request {
                let _ = request.reply.send(Err(CutError::Abandoned { took, limit }));
            }
            return;
        }
        self.since_cut_bytes = 0;
        self.volumes_changed = false;
        self.metrics.marker_cut(boundary.frozen);
        self.pending.push_back(PendingCut { boundary, request });
    }

    /// Appends what was asked for. A record that finds no room, or is too large, is its asker's to know: hosts' writes are
    /// tried for themselves.
    fn append_records(&mut self) -> Result<(), DrainError> {
        while let Some(request) = self.desk.next_record() {
            match self.append_record(&request.record) {
                Ok(()) => self.unsynced_records.push(request),
                Err(error) => {
                    let _ = request.reply.send(Err(error.to_string()));
                    if self.writer.journal().poisoned().is_some() {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn append_record(&mut self, record: &ControlRecord) -> Result<(), DrainError> {
        let frame = record.frame(&self.place(self.writer.tip().seq))?;
        self.writer.append(&frame)?;
        self.unsynced_bytes += frame.len();
        self.volumes_changed |= matches!(record, ControlRecord::Volumes { .. });
        Ok(())
    }

    fn place(&self, last_seq: Seq) -> Place {
        let tip = self.writer.tip();
        Place {
            group: self.group,
            member: 0,
            generation: tip.generation,
            first_seq: tip.seq.next(),
            last_seq,
            marker: tip.marker,
            chain: tip.chain,
        }
    }

    /// Gathers, folds and appends one frame; `false` when nothing is there to gather before the next cut.
    fn append_batch(&mut self) -> Result<bool, DrainError> {
        let (entries, next) = self.gather()?;
        let Some((_, last)) = entries.last() else { return Ok(false) };
        let last_seq = last.seq;
        let kept_bytes = self.build(&entries)?;
        let (frame, raw) = self.builder.finish_with_raw(FrameKind::Writes, &self.place(last_seq));
        let at = self.writer.append_with_raw(frame.clone(), raw)?;
        let placed: Vec<(Extent, Location)> = locations(&FrameView::new(&frame)?, at).collect();
        self.buffer.moved_to_journal(&placed, last_seq);
        self.position = next;
        self.unsynced_bytes += frame.len();
        self.since_cut_bytes += frame.len() as u64;
        self.count(&entries, kept_bytes, frame.len());
        Ok(true)
    }

    fn count(&self, entries: &[(u64, Entry)], kept_bytes: usize, stored_bytes: usize) {
        let raw_bytes: usize = entries.iter().map(|(_, entry)| entry.payload_bytes as usize).sum();
        let folded_bytes = raw_bytes.saturating_sub(kept_bytes);
        self.metrics.drained(Drained { raw_bytes, stored_bytes, folded_bytes });
    }

    /// Committed entries from the drain's position on, not beyond the next cut, and where the one after them begins.
    fn gather(&self) -> Result<(Vec<(u64, Entry)>, u64), DrainError> {
        let limit = self.pending.front().map_or(Seq(u64::MAX), |cut| cut.boundary.seq);
        let mut entries: Vec<(u64, Entry)> = Vec::new();
        let (mut next, mut raw) = (self.position, 0);
        // Frames leave some of a segment unused: small journals have small ones.
        let bytes_max = BATCH_BYTES.min(bytes(self.desk.interval_bytes() / 4));
        while let Some((position, entry)) = self.buffer.entry_at(next)? {
            raw += entry.payload_bytes as usize;
            if entry.seq > limit || entries.len() == BATCH_ENTRIES || raw > bytes_max {
                break;
            }
            next = position + entry.ring_bytes();
            entries.push((position, entry));
        }
        Ok((entries, next))
    }

    /// Folds entries into the builder. Returns the bytes that were not superseded.
    fn build(&mut self, entries: &[(u64, Entry)]) -> Result<usize, DrainError> {
        let mut kept_bytes = 0;
        let mut fold = Overlay::default();
        self.builder.reserve(entries.iter().map(|(_, entry)| entry.payload_bytes as usize).sum());
        let mut is_checked = vec![false; entries.len()];
        for (index, (_, entry)) in entries.iter().enumerate() {
            fold.insert(entry.extent, FromEntry { index, offset: 0 });
        }
        for (extent, from) in fold.all() {
            let Some((position, entry)) = entries.get(from.index) else { continue };
            match entry.kind {
                EntryKind::Data => {
                    let begin = usize::try_from(from.offset).unwrap_or(usize::MAX);
                    let end = begin.saturating_add(usize::try_from(extent.length).unwrap_or(usize::MAX));
                    let payload = self.buffer.payload(*position, entry);
                    // Just before it is copied, so that it comes from memory once.
                    let was_checked =
                        is_checked.get_mut(from.index).is_some_and(|checked| std::mem::replace(checked, true));
                    if !was_checked && crc32c(payload) != entry.payload_check {
                        self.builder.clear();
                        return Err(DrainError::Payload { seq: entry.seq });
                    }
                    let payload = payload.get(begin..end).unwrap_or_default();
                    self.builder.push_data(extent, payload);
                    kept_bytes += payload.len();
                }
                EntryKind::Zero { hole } => self.builder.push_zero(extent, hole),
                EntryKind::Pad => {}
            }
        }
        Ok(kept_bytes)
    }

    /// Appends the next cut's marker when everything before it is in the journal.
    fn append_marker(&mut self) -> Result<bool, DrainError> {
        let tip = *self.writer.tip();
        let Some(cut) = self.pending.front().filter(|cut| cut.boundary.seq == tip.seq) else { return Ok(false) };
        let marker = MarkerRecord {
            number: tip.marker.next().0,
            boundary_seq: tip.seq.0,
            time_ns: unix_ns(cut.boundary.time),
            freeze_ns: u64::try_from(cut.boundary.frozen.as_nanos()).unwrap_or(u64::MAX),
            tag: cut.request.as_ref().and_then(|request| request.tag.clone()),
        };
        let frame = ControlRecord::Marker(marker.clone()).frame(&self.place(tip.seq))?;
        let at = self.writer.append(&frame)?;
        self.unsynced_bytes += frame.len();
        self.last_boundary = tip.seq;
        let request = self.pending.pop_front().and_then(|cut| cut.request);
        let done = CutDone { marker, next: self.writer.end(), chain: self.writer.tip().chain };
        self.unsynced_markers.push((at, done, request));
        Ok(true)
    }

    /// Makes everything appended durable, tells those who wait, and gives the ring's space back.
    fn sync(&mut self) -> Result<(), DrainError> {
        let begin = self.clock.monotonic();
        // The markers are known before anybody can see the durable end behind them.
        for (at, done, _) in &self.unsynced_markers {
            self.desk.markers.add(*at, done.marker.clone());
        }
        self.writer.sync()?;
        self.metrics.journal_appended(self.clock.monotonic().saturating_sub(begin));
        self.unsynced_bytes = 0;
        self.waiting_since = None;
        let journal = self.writer.journal();
        self.metrics.throttled(self.desk.throttle.pace(|| (journal.free_bytes(), journal.capacity_bytes())));
        self.buffer.release(self.position);
        for (_, done, request) in self.unsynced_markers.drain(..) {
            if let Some(request) = request {
                let _ = request.reply.send(Ok(done));
            }
        }
        for request in self.unsynced_records.drain(..) {
            let _ = request.reply.send(Ok(()));
        }
        Ok(())
    }

    fn recovered(&mut self) {
        self.full_since = None;
        if self.desk.problem.lock().take().is_some() && !self.desk.is_stopping() {
            self.desk.journal_full.store(false, Ordering::Release);
            self.desk.disk_full.store(false, Ordering::Release);
            self.buffer.refuse(None);
            tracing::info!(group = %self.group, "the journal takes writes again");
        }
    }

    /// What an error means: space may come back, anything else ends the drain.
    fn judge(&mut self, error: &DrainError) -> Draining {
        let (full, no_space) = match error {
            DrainError::Journal(error) => (matches!(error, JournalError::Full { .. }), error.is_no_space()),
            _ => (false, false),
        };
        // Before the problem: who sees that looks here for what it means.
        self.desk.journal_full.store(full, Ordering::Release);
        self.desk.disk_full.store(no_space && !full, Ordering::Release);
        if self.desk.problem.lock().replace(error.told()).is_none() {
            tracing::error!(group = %self.group, %error, "the drain cannot go on");
            self.metrics.error(Part::Drain);
        }
        if no_space && !self.desk.is_stopping() {
            return self.await_space(full);
        }
        self.give_up(error);
        Draining::Ended
    }

    /// A full disk is the host's to know; a full journal is ours to solve, hosts only wait.
    fn await_space(&mut self, journal_full: bool) -> Draining {
        if !journal_full {
            self.buffer.refuse(Some(IoError::NoSpace));
        }
        self.writer.journal().nudge();
        // What was appended before the error can be made durable; when that fails, space helps no more.
        if self.unsynced_bytes > 0
            && let Err(error) = self.sync()
        {
            return self.judge(&error);
        }
        let now = self.clock.monotonic();
        let since = *self.full_since.get_or_insert(now);
        if !journal_full || now.saturating_sub(since) >= FULL_MAX {
            self.refuse_cuts();
        }
        Draining::NoSpace
    }

    /// Who waits for a marker is told why there is none. What was cut for them stays a cut nobody waits for, once at each place.
    fn refuse_cuts(&mut self) {
        let problem = self.desk.problem().unwrap_or_default();
        for request in self.pending.iter_mut().filter_map(|cut| cut.request.take()) {
            let _ = request.reply.send(Err(CutError::NoRoom { problem: problem.clone() }));
        }
        let mut last = None;
        self.pending.retain(|cut| last.replace(cut.boundary.seq) != Some(cut.boundary.seq));
    }

    /// Tells hosts and who waits for a marker that nothing more becomes durable.
    fn give_up(&mut self, error: &DrainError) {
        self.buffer.refuse(Some(IoError::Io));
        self.writer.journal().nudge();
        for (_, _, request) in self.unsynced_markers.drain(..) {
            if let Some(request) = request {
                let _ = request.reply.send(Err(CutError::Failed { reason: error.to_string() }));
            }
        }
    }
}

//! What others ask of the drain, and what it shows them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::ids::Seq;
use tidemark_common::markers::Markers;
use tidemark_common::nbd::IoError;
use tidemark_common::record::ControlRecord;
use tokio::sync::oneshot;

use crate::buffer::{Buffer, PIECE_BYTES_MAX};
use crate::cut::{CutRequest, Freezes};
use crate::throttle::Throttle;

/// A control record somebody wants in the journal.
#[derive(Debug)]
pub struct RecordRequest {
    /// The record.
    pub record: ControlRecord,
    /// Set by whoever is first: the drain, which takes it, or who asked, and does not want it any more.
    pub taken: Arc<AtomicBool>,
    /// Told when it is durable.
    pub reply: oneshot::Sender<Result<(), String>>,
}

/// Bytes of an interval that are never too many.
const INTERVAL_BYTES_MIN: u64 = 4 << 20;

const _: () = assert!(PIECE_BYTES_MAX <= INTERVAL_BYTES_MIN / 4, "the smallest batch holds an entry");

/// What others ask of the drain, and what it shows them.
#[derive(Debug, Default)]
pub struct DrainDesk {
    pub(super) flush_wanted: AtomicU64,
    pub(super) cuts: Mutex<Vec<CutRequest>>,
    records: Mutex<Vec<RecordRequest>>,
    interval_ms: AtomicU64,
    interval_bytes: AtomicU64,
    /// The group's volumes were recorded anew at the start.
    pub(crate) volumes_changed: AtomicBool,
    stop: AtomicBool,
    stopped: AtomicBool,
    /// Set while the drain cannot go on: what happened and what to do.
    pub(super) problem: Mutex<Option<String>>,
    /// What hosts are told while the disk under the journal has no space, or makes no new segment.
    pub(super) refused: Mutex<Option<IoError>>,
    /// The journal is at its capacity: somebody has to make room.
    pub(super) journal_full: AtomicBool,
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
    pub(crate) fn set_interval(&self, interval: Duration) {
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
    pub(crate) fn fit_interval(&self, capacity_bytes: u64, buffer: &Buffer) {
        let bytes = (capacity_bytes / 8).max(INTERVAL_BYTES_MIN);
        self.interval_bytes.fetch_min(bytes, Ordering::AcqRel);
        buffer.hold_at_most(bytes);
    }

    /// Bytes of an interval at most.
    #[must_use]
    pub(crate) fn interval_bytes(&self) -> u64 {
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
    pub(crate) fn ask_cut(&self, request: CutRequest, buffer: &Buffer) {
        let mut cuts = self.cuts.lock();
        if !self.is_stopped() {
            cuts.push(request);
            buffer.bell().ring();
        }
    }

    /// Somebody wants a record in the journal.
    pub(crate) fn ask_record(&self, request: RecordRequest, buffer: &Buffer) {
        let mut records = self.records.lock();
        if !self.is_stopped() {
            records.push(request);
            buffer.bell().ring();
        }
    }

    pub(super) fn next_record(&self) -> Option<RecordRequest> {
        let mut records = self.records.lock();
        while !records.is_empty() {
            let request = records.remove(0);
            if !request.taken.swap(true, Ordering::AcqRel) {
                return Some(request);
            }
        }
        None
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

    /// What hosts are told instead of that something is durable, while the disk under the journal takes nothing.
    #[must_use]
    pub fn refused(&self) -> Option<IoError> {
        *self.refused.lock()
    }

    /// Whether the journal is at its capacity.
    #[must_use]
    pub fn is_journal_full(&self) -> bool {
        self.journal_full.load(Ordering::Acquire)
    }

    /// Whether the thread has ended.
    #[must_use]
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(super) fn is_stopping(&self) -> bool {
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

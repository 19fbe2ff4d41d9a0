//! The drain: acknowledged writes out of the buffer in order, frames into the journal. Owns `journaled_seq` and makes the
//! cuts.
//!
//! One batch: gather committed entries up to the next cut's boundary, fold them to the last writer of each byte, compress,
//! append; tell the index; append the marker if its boundary is reached; sync once for everybody who waits (group
//! commit); only then give the ring's space back. The index learns of the journal before the durable end moves, so that the
//! updater, which follows the durable end, finds there what it has to take out.

mod batch;
mod desk;
mod trouble;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemark_common::clock::{Clock, unix_ns};
use tidemark_common::ids::{GroupId, Seq};
use tidemark_common::journal::{Position, Writer};
use tidemark_common::metrics::GroupMetrics;
use tidemark_common::record::{ControlRecord, FrameBuilder, MarkerRecord, Place};
use tidemark_common::repeats::Recurring;

pub use self::desk::{DrainDesk, RecordRequest};
use self::trouble::DrainError;
use crate::buffer::Buffer;
use crate::cut::{CutDone, CutError, CutRequest, PendingCut};

/// Bytes appended before a sync at most: what the journal keeps in memory for its readers, who come behind the sync, is more.
const UNSYNCED_BYTES_MAX: usize = 8 << 20;
/// A sleeping drain looks again after this long at the latest.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Held at most by a buffer that is drained on a host's own task.
const QUICK_BYTES: u64 = 256 << 10;

/// How the drain behaves.
#[derive(Debug, Clone, Copy)]
pub struct DrainSettings {
    /// A write waits in the buffer this long at most, for company.
    pub delay: Duration,
    /// Hosts are held this long at most.
    pub freeze_limit: Duration,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draining {
    /// Something was made durable.
    Did,
    /// There is nothing to do before something is asked for or due.
    Idle,
    /// Nothing can be appended before there is space, or the disk makes a new segment.
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
    /// What was logged of that.
    logged: Recurring,
}

impl std::fmt::Debug for Drain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drain").field("tip", self.writer.tip()).finish_non_exhaustive()
    }
}

fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
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
            logged: Recurring::default(),
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
            // What it waits for is being copied. Nobody rings when that is done.
            _ if !self.pending.is_empty() => now,
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
        let frame = record.frame(&Place::at(self.group, self.writer.tip()))?;
        self.writer.append(&frame)?;
        self.unsynced_bytes += frame.len();
        self.volumes_changed |= matches!(record, ControlRecord::Volumes { .. });
        Ok(())
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
        let frame = ControlRecord::Marker(marker.clone()).frame(&Place::at(self.group, &tip))?;
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
}

#[cfg(test)]
mod tests {
    use tidemark_common::clock::HandClock;
    use tidemark_common::journal::JournalError;
    use tidemark_common::limits::REGION_BYTES;
    use tidemark_common::nbd::IoError;

    use super::*;
    use crate::buffer::Boundary;
    use crate::plan::tests::Rig;

    /// A marker was late by an interval then, a second at most, and its copy as much older.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_cut_that_waits_for_a_write_which_is_being_copied_is_looked_at_again_at_once() {
        let mut rig = Rig::new(None, REGION_BYTES);
        let drain = &mut rig.stages.drain;
        let seq = drain.writer.tip().seq.next();
        let boundary = Boundary { seq, time: jiff::Timestamp::UNIX_EPOCH, frozen: Duration::ZERO };
        drain.pending.push_back(PendingCut { boundary, request: None });
        assert_eq!(drain.step(), Draining::Idle);
        let time = drain.pause().time;
        assert!(time < Duration::from_millis(1), "{time:?}");
    }

    /// Hosts that had waited for room in the journal got errors for what was over a moment later.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_segment_that_cannot_be_made_once_there_is_room_is_no_hosts_to_know_at_once() {
        let mut rig = Rig::new(None, REGION_BYTES);
        let drain = &mut rig.stages.drain;
        let clock = Arc::new(HandClock::default());
        drain.clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let full = || JournalError::Full { capacity_bytes: 1 };
        let failed = || JournalError::Io {
            action: "make",
            path: "/journal/1.segment".into(),
            offset: 0,
            source: std::io::Error::other("no descriptor"),
        };
        let mut refused = |seconds, error: JournalError| {
            clock.set(Duration::from_secs(seconds));
            assert_eq!(drain.judge(&DrainError::Journal(error)), Draining::NoSpace);
            drain.desk.refused()
        };
        assert_eq!([refused(0, full()), refused(10, full())], [None, None]);
        assert_eq!([refused(11, failed()), refused(15, failed())], [None, None]);
        assert_eq!(refused(16, failed()), Some(IoError::Io));
    }
}

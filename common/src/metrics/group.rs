//! The write path of one group: cuts, buffer, drain, journal, apply.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Histogram, IntCounter};

use super::define::{Set, count};
use super::host::HostMetrics;
use super::labels::{ByLabel, Part};
use super::pair::{self, PairMetrics};
use crate::updater;

/// A freeze is a lock held for some tens of nanoseconds; its limit is in the tens of milliseconds.
const FREEZE_SECONDS: &[f64] =
    &[1e-6, 2.5e-6, 5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3];
/// From a sync into memory to a disk that hangs.
const DISK_SECONDS: &[f64] = &[50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 100e-3, 500e-3, 2.5];

/// What one frame took from the write buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Bytes hosts wrote, also those folded away.
    pub raw_bytes: usize,
    /// Bytes of the frame in the journal, header included.
    pub stored_bytes: usize,
    /// Bytes that a later write of the same frame superseded.
    pub folded_bytes: usize,
}

/// What one pass of the updater wrote back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Bytes of data written to volumes.
    pub bytes: u64,
    /// Ranges written or zeroed.
    pub extents: u64,
}

impl From<&updater::Applied> for Applied {
    fn from(pass: &updater::Applied) -> Self {
        Self { bytes: pass.data_bytes, extents: count(pass.extents.len()) }
    }
}

/// Handle for the write path of one group. Cheap to clone, no lock in any method but [`GroupMetrics::pair`].
#[derive(Debug, Clone)]
pub struct GroupMetrics(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    name: String,
    set: Set,
    errors: Arc<ByLabel<Part, IntCounter>>,
    host: HostMetrics,
    freeze: Histogram,
    markers: IntCounter,
    markers_abandoned: IntCounter,
    markers_permitted: IntCounter,
    stalls: IntCounter,
    stall_seconds: Counter,
    drain_frames: IntCounter,
    drain_raw: IntCounter,
    drain_stored: IntCounter,
    drain_folded: IntCounter,
    journal_append: Histogram,
    journal_segments: Gauge,
    journal_damaged: IntCounter,
    journal_full_in: Gauge,
    journal_folded_markers: IntCounter,
    journal_folded_bytes: IntCounter,
    throttle: Gauge,
    apply: Histogram,
    apply_bytes: IntCounter,
    apply_extents: IntCounter,
    pairs: Mutex<BTreeMap<String, Weak<pair::Inner>>>,
}

impl Inner {
    pub(super) fn new(name: &str, errors: Arc<ByLabel<Part, IntCounter>>) -> Self {
        let set = Set::new(&[("group", name)]);
        Self {
            name: name.to_owned(),
            errors,
            host: HostMetrics::new(name),
            freeze: set.histogram(
                "tidemark_freeze_duration_seconds",
                "How long each cut kept hosts' writes waiting at the gate.",
                FREEZE_SECONDS,
            ),
            markers: set.counter("tidemark_markers_total", "Markers cut here."),
            markers_abandoned: set
                .counter("tidemark_markers_abandoned_total", "Markers given up because the freeze limit was reached."),
            markers_permitted: set
                .counter("tidemark_markers_permitted_total", "Markers this secondary was permitted to apply."),
            stalls: set.counter("tidemark_buffer_stalls_total", "Writes of hosts that waited for a full write buffer."),
            stall_seconds: set.seconds_counter(
                "tidemark_buffer_stall_seconds_total",
                "Time writes of hosts have waited for a full write buffer, added up.",
            ),
            drain_frames: set.counter("tidemark_drain_frames_total", "Frames made out of the write buffer."),
            drain_raw: set.counter("tidemark_drain_raw_bytes_total", "Bytes taken out of the write buffer."),
            drain_stored: set
                .counter("tidemark_drain_stored_bytes_total", "Bytes of frames after folding and compression."),
            drain_folded: set
                .counter("tidemark_drain_folded_bytes_total", "Bytes superseded while still in the write buffer."),
            journal_append: set.histogram(
                "tidemark_journal_append_duration_seconds",
                "Time of one sync, which makes what was appended to the journal durable.",
                DISK_SECONDS,
            ),
            journal_segments: set.gauge("tidemark_journal_segments", "Segment files of the journal."),
            journal_damaged: set.counter(
                "tidemark_journal_damaged_records_total",
                "Journal records whose checksum did not match when they were read.",
            ),
            journal_full_in: set.gauge(
                "tidemark_journal_full_in_seconds",
                "When the journal will be full if it goes on as in the last minute; +Inf when it does not fill.",
            ),
            journal_folded_markers: set.counter(
                "tidemark_journal_folded_markers_total",
                "Markers given up because their intervals were folded in the journal while a pair was behind.",
            ),
            journal_folded_bytes: set
                .counter("tidemark_journal_folded_bytes_total", "Bytes of the journal that came back by folding."),
            throttle: set.gauge(
                "tidemark_throttle_delay_seconds",
                "What every write of a host is held back now because the journal fills (on-full throttle).",
            ),
            apply: set.histogram(
                "tidemark_apply_duration_seconds",
                "Time of one pass of the updater: read, fold, write back.",
                DISK_SECONDS,
            ),
            apply_bytes: set.counter("tidemark_apply_bytes_total", "Bytes written back to volumes."),
            apply_extents: set
                .counter("tidemark_apply_extents_total", "Ranges of volumes the updater has written or zeroed."),
            pairs: Mutex::default(),
            set,
        }
    }
}

impl GroupMetrics {
    /// Requests of hosts.
    #[must_use]
    pub fn host(&self) -> &HostMetrics {
        &self.0.host
    }

    /// The handle of a pair: the same series for everybody who asks while one of the handles lives.
    #[must_use]
    pub fn pair(&self, peer: &str) -> PairMetrics {
        let mut pairs = self.0.pairs.lock();
        pairs.retain(|_, pair| pair.strong_count() > 0);
        if let Some(inner) = pairs.get(peer).and_then(Weak::upgrade) {
            return PairMetrics(inner);
        }
        let inner = Arc::new(pair::Inner::new(&self.0.name, peer));
        pairs.insert(peer.to_owned(), Arc::downgrade(&inner));
        PairMetrics(inner)
    }

    /// A cut made a marker and kept the gate closed for this long.
    pub fn marker_cut(&self, frozen: Duration) {
        self.0.freeze.observe(frozen.as_secs_f64());
        self.0.markers.inc();
    }

    /// A cut reached the freeze limit: hosts waited this long and there is no marker.
    pub fn marker_abandoned(&self, frozen: Duration) {
        self.0.freeze.observe(frozen.as_secs_f64());
        self.0.markers_abandoned.inc();
    }

    /// So many markers more may be applied.
    pub fn markers_permitted(&self, markers: u64) {
        self.0.markers_permitted.inc_by(markers);
    }

    /// A host's write waited this long for room in the write buffer.
    pub fn buffer_stalled(&self, waited: Duration) {
        self.0.stalls.inc();
        self.0.stall_seconds.inc_by(waited.as_secs_f64());
    }

    /// A frame was made out of the write buffer.
    pub fn drained(&self, frame: Drained) {
        self.0.drain_frames.inc();
        self.0.drain_raw.inc_by(count(frame.raw_bytes));
        self.0.drain_stored.inc_by(count(frame.stored_bytes));
        self.0.drain_folded.inc_by(count(frame.folded_bytes));
    }

    /// One sync of the journal, however many frames it made durable.
    pub fn journal_appended(&self, took: Duration) {
        self.0.journal_append.observe(took.as_secs_f64());
    }

    /// The journal has this many segment files now.
    pub fn journal_segments(&self, segments: usize) {
        self.0.journal_segments.set(count(segments) as f64);
    }

    /// The journal will be full then; `None`: it does not fill.
    pub fn journal_full_in(&self, seconds: Option<f64>) {
        self.0.journal_full_in.set(seconds.unwrap_or(f64::INFINITY));
    }

    /// Intervals were folded in the journal.
    pub fn journal_folded(&self, markers: u64, freed_bytes: u64) {
        self.0.journal_folded_markers.inc_by(markers);
        self.0.journal_folded_bytes.inc_by(freed_bytes);
    }

    /// Every write of a host is held back so long.
    pub fn throttled(&self, delay: Duration) {
        self.0.throttle.set(delay.as_secs_f64());
    }

    /// A record of the journal was damaged (invariant 9).
    pub fn journal_damaged(&self) {
        self.0.journal_damaged.inc();
    }

    /// One pass of the updater is in the volumes.
    pub fn applied(&self, applied: Applied, took: Duration) {
        self.0.apply.observe(took.as_secs_f64());
        self.0.apply_bytes.inc_by(applied.bytes);
        self.0.apply_extents.inc_by(applied.extents);
    }

    /// An error of this group was met and logged: it counts for the appliance.
    pub fn error(&self, part: Part) {
        self.0.errors.at(part, IntCounter::inc);
    }

    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        let mut families = self.0.set.gather();
        families.extend(self.0.host.gather());
        let pairs: Vec<PairMetrics> = self.0.pairs.lock().values().filter_map(Weak::upgrade).map(PairMetrics).collect();
        families.extend(pairs.iter().flat_map(PairMetrics::gather));
        families
    }
}

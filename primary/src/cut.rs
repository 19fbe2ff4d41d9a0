//! Cuts: who asked for one, what it found, and how long hosts were frozen.

use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tidemark_common::api::types::FreezeStatus;
use tidemark_common::journal::Position;
use tidemark_common::record::{Chain, MarkerRecord};
use tokio::sync::oneshot;

/// Why there is no marker.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CutError {
    /// The freeze limit was reached.
    #[error(
        "the freeze took {took:?}, longer than the freeze limit of {limit:?}: the marker was abandoned. Try again, or raise freeze_limit"
    )]
    Abandoned {
        /// How long hosts were held.
        took: Duration,
        /// How long they may be held.
        limit: Duration,
    },
    /// Hosts would have been held too long.
    #[error(
        "the gates of {groups} groups could not be closed together without holding hosts, in {took:?}: the marker was abandoned. Try again when \
         the machine is less busy"
    )]
    NotTogether {
        /// How many were to be cut at one moment.
        groups: usize,
        /// How long it was tried.
        took: Duration,
    },
    /// The journal does not take it.
    #[error("the marker could not be written: {reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
    /// The journal takes nothing until somebody makes room.
    #[error("there is no marker, for the journal takes none: {problem}. Ask for the marker again then")]
    NoRoom {
        /// What is full, where, and what to do.
        problem: String,
    },
}

/// A cut somebody waits for.
#[derive(Debug)]
pub struct CutRequest {
    /// Text kept with the marker.
    pub tag: Option<String>,
    /// Told when the marker is durable.
    pub reply: oneshot::Sender<Result<CutDone, CutError>>,
}

/// A marker that is durable in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutDone {
    /// Its record.
    pub marker: MarkerRecord,
    /// Where the journal goes on behind it.
    pub next: Position,
    /// The chain there.
    pub chain: Chain,
}

/// A cut whose marker is not yet in the journal, because the writes before it are not.
#[derive(Debug)]
pub(crate) struct PendingCut {
    pub boundary: crate::buffer::Boundary,
    pub request: Option<CutRequest>,
}

/// The freezes since the service started.
#[derive(Debug)]
pub struct Freezes {
    nanoseconds: Mutex<Option<Histogram<u64>>>,
    abandoned: std::sync::atomic::AtomicU64,
}

impl Default for Freezes {
    fn default() -> Self {
        // One nanosecond to one minute, two digits; the bounds are constants, so this does not fail.
        Self { nanoseconds: Mutex::new(Histogram::new_with_bounds(1, 60_000_000_000, 2).ok()), abandoned: 0.into() }
    }
}

impl Freezes {
    /// One more.
    pub fn add(&self, took: Duration) {
        if let Some(histogram) = self.nanoseconds.lock().as_mut() {
            histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1));
        }
    }

    /// One that took too long.
    pub fn abandon(&self) {
        self.abandoned.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// In short.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "microseconds for people")]
    pub fn status(&self) -> FreezeStatus {
        let abandoned = self.abandoned.load(std::sync::atomic::Ordering::Relaxed);
        let guard = self.nanoseconds.lock();
        let Some(histogram) = guard.as_ref() else { return FreezeStatus { abandoned, ..FreezeStatus::default() } };
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
        FreezeStatus {
            count: histogram.len(),
            p50_us: microseconds(histogram.value_at_quantile(0.5)),
            p99_us: microseconds(histogram.value_at_quantile(0.99)),
            max_us: microseconds(histogram.max()),
            abandoned,
        }
    }
}

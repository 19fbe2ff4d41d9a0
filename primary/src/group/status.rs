//! How a group stands, for people and for whoever watches it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemark_common::api::types::{
    BufferStatus, GroupStatus, HistoryStatus, JournalStatus, MarkerStatus, Positions, Role,
};
use tidemark_common::watchdog::{Movement, Moving};

use super::Primary;

impl Primary {
    /// Where its positions are.
    #[must_use]
    pub fn movements(&self) -> Vec<Movement> {
        let captured = self.image.buffer.captured().0;
        let journaled = self.image.journal.durable_end().seq.0;
        let applied = self.writeback.applied_seq.load(Ordering::Acquire);
        // Volumes that wait for a backup stand rightly: it is told by the backup, and ends by itself.
        let waits = self.parts.eras.as_ref().is_some_and(|eras| eras.is_squeezed());
        let of = |moving, at, target| Movement {
            moving,
            peer: None,
            at: [at, 0, 0],
            due: at < target,
            rests: Duration::ZERO,
        };
        let written = if waits { applied } else { journaled };
        let mut all = vec![
            of(Moving::Journal, journaled, captured),
            self.cutting(journaled),
            of(Moving::WriteBack, applied, written),
        ];
        all.extend(self.pairs().iter().flat_map(|pair| [pair.movement(), pair.converging(), pair.comparing()]));
        all
    }

    /// Whether markers are cut: what lies in the journal behind the newest one is counted by another an interval later at most.
    fn cutting(&self, journaled: u64) -> Movement {
        let (number, counted) =
            self.desk.markers.newest().map_or((0, 0), |marker| (marker.number, marker.boundary_seq));
        let rests = self.desk.interval();
        Movement { moving: Moving::Cut, peer: None, at: [number, 0, 0], due: counted < journaled, rests }
    }

    /// For status.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let record = self.keeper.get();
        let journal = &self.image.journal;
        // Before the newest marker: none is told to have come over there that is not there here.
        let pairs = self.pairs().iter().map(|pair| pair.status()).collect();
        let marker = self.marker(None);
        GroupStatus {
            name: record.name,
            id: self.keeper.id().to_string(),
            role: Role::Primary,
            generation: record.generation,
            volumes: record.volumes.into_iter().map(|volume| volume.name).collect(),
            marker: MarkerStatus {
                last: marker.as_ref().map_or(0, |marker| marker.number),
                time: marker.map(|marker| marker.time),
            },
            journal: JournalStatus {
                bytes: journal.bytes(),
                capacity_bytes: journal.capacity_bytes(),
                full_in_seconds: self.writeback.forecast.sample(self.parts.clock.monotonic(), journal),
                throttle_ms: self.desk.throttle.delay().as_secs_f64() * 1000.0,
            },
            buffer: BufferStatus { bytes: self.image.buffer.bytes(), capacity_bytes: self.image.buffer.capacity() },
            freeze: self.desk.freezes.status(),
            positions: Positions::read(
                || self.writeback.applied_seq.load(Ordering::Acquire),
                || journal.durable_end().seq.0,
                || self.image.buffer.captured().0,
            ),
            interval_ms: record.interval_ms,
            on_full: record.on_full.into(),
            history: (!record.history.is_off())
                .then(|| HistoryStatus { asked: record.history, ..HistoryStatus::default() }),
            problem: self.problem(),
            standing: Vec::new(),
            pairs,
        }
    }
}

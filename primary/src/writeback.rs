//! The primary's updater thread: what is durable in the journal goes to the volumes, and what every reader has passed
//! leaves the journal (invariant 6).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::catalog::Batch;
use tidemark_common::clock::Clock;
use tidemark_common::forecast::Forecast;
use tidemark_common::journal::Position;
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::markers::kept;
use tidemark_common::metrics::{GroupMetrics, Part};
use tidemark_common::overlay::unapplied::Spill;
use tidemark_common::repeats::Recurring;
use tidemark_common::stage::OnPanic;
use tidemark_common::updater::{AppliedPosition, Updater, UpdaterError};

use crate::drain::DrainDesk;
use crate::image::Image;

/// How long a failing volume is left alone before the next try.
const RETRY: Duration = Duration::from_secs(1);
/// A thread with nothing to do looks again after this long.
const IDLE: Duration = Duration::from_secs(1);
/// A frame waits this long at most for others to be applied with it.
const COMPANY: Duration = Duration::from_millis(10);

/// Readers of a journal other than the updater: what they still need of it.
pub trait Readers: Send + Sync {
    /// The oldest place any of them needs; `None` when none needs anything.
    fn oldest_needed(&self) -> Option<Position>;
    /// The journal is nearly full, or half full where hosts are slowed: fold what readers that are behind wait for, or let them fall back to
    /// their bitmaps. `record` records how far the volumes are, and says it.
    fn make_room(&self, record: &mut dyn FnMut() -> Option<Position>);
}

/// What the updater shows.
#[derive(Debug, Default)]
pub struct WritebackDesk {
    stop: AtomicBool,
    /// Set while volumes cannot be written: what happened and what to do.
    pub problem: Mutex<Option<String>>,
    /// The problem is that the journal cannot be read.
    pub damaged: AtomicBool,
    /// The last sequence number applied.
    pub applied_seq: AtomicU64,
    /// The newest marker applied.
    pub applied_marker: AtomicU64,
    /// When the journal will be full.
    pub forecast: Forecast,
}

impl WritebackDesk {
    /// Everything durable is applied, then the thread ends.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn show(&self, applied: &AppliedPosition) {
        self.applied_seq.store(applied.seq.0, Ordering::Release);
        self.applied_marker.store(applied.marker.0, Ordering::Release);
    }
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WritingBack {
    /// Volumes were written.
    Did,
    /// There is nothing to do before more is durable.
    Idle,
    /// What images need must be read first: it is tried again soon.
    Waits,
    /// A volume or the journal failed: it is tried again later.
    Failed,
    /// It is time to stop.
    Ended,
}

/// The updater thread of a primary.
pub struct Writeback {
    /// The updater.
    pub updater: Updater,
    /// What it reads, and what it writes.
    pub image: Image,
    /// What keeps the image's index within its bounds; the drain's thread has it, too.
    pub spill: Arc<Spill>,
    /// Where it records how far it is.
    pub keeper: Arc<GroupKeeper>,
    /// The other readers of the journal.
    pub readers: Arc<dyn Readers>,
    /// What it shows.
    pub desk: Arc<WritebackDesk>,
    /// What the drain shows.
    pub drain: Arc<DrainDesk>,
    /// What passes are timed by.
    pub clock: Arc<dyn Clock>,
    /// Where figures go.
    pub metrics: GroupMetrics,
    /// The position recorded last.
    pub recorded: Position,
    /// The newest marker recorded.
    pub recorded_marker: u64,
    /// The position could not be recorded when that was tried last.
    pub unrecorded: bool,
    /// The index could not be moved to the disk when that was tried last.
    pub unbounded: bool,
    /// What was logged of volumes that cannot be written.
    pub logged: Recurring,
}

impl std::fmt::Debug for Writeback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writeback").field("updater", &self.updater).finish_non_exhaustive()
    }
}

impl Writeback {
    /// Runs until the desk says stop and everything durable is applied.
    pub fn run(mut self) {
        let desk = Arc::clone(&self.desk);
        let _told = OnPanic(move || {
            let problem = "the updater ended by a defect of Tidemark, and the log has its message: nothing of the journal is written back to the \
                           volumes. Restart the service: it goes on from the journal, which holds all of it";
            *desk.problem.lock() = Some(problem.into());
        });
        loop {
            let limit = self.image.journal.durable_end().position;
            match self.step(limit) {
                WritingBack::Did => {}
                WritingBack::Idle => {
                    self.image.journal.wait_for_company(limit, IDLE, COMPANY);
                    if self.image.journal.durable_end().position == limit {
                        self.updater.rest();
                        self.image.journal.rest();
                    }
                }
                WritingBack::Waits => Updater::wait_for_images(),
                WritingBack::Failed => self.image.journal.wait_durable(limit, RETRY),
                WritingBack::Ended => return,
            }
        }
    }

    /// Does what can be done now, up to a place of the journal that is durable.
    pub fn step(&mut self, limit: Position) -> WritingBack {
        self.bound_index();
        let begin = self.clock.monotonic();
        if self.desk.is_stopping() {
            self.updater.hurry();
        }
        match self.updater.apply_window(limit) {
            Ok(Some(applied)) => {
                self.image.buffer.forget_applied(&applied.extents, applied.last_frame);
                self.desk.show(&self.updater.applied());
                let took = self.clock.monotonic().saturating_sub(begin);
                self.metrics.applied((&applied).into(), took);
                self.desk.damaged.store(false, Ordering::Release);
                if !self.unrecorded {
                    self.desk.problem.lock().take();
                }
                if self.logged.ends() {
                    tracing::info!(group = %self.keeper.name(), "the volumes are written again");
                }
                self.trim();
                WritingBack::Did
            }
            // One that stops waits no longer: the rest stays in the journal, and the next start goes on with it.
            Ok(None) if self.updater.is_waiting() && !self.desk.is_stopping() => {
                self.trim();
                WritingBack::Waits
            }
            Ok(None) if self.desk.is_stopping() => {
                self.record();
                WritingBack::Ended
            }
            Ok(None) => {
                self.trim();
                WritingBack::Idle
            }
            Err(error) => {
                self.report(&error);
                // The journal fills all the same.
                self.watch_fill();
                if self.desk.is_stopping() { WritingBack::Ended } else { WritingBack::Failed }
            }
        }
    }

    /// What does not get to the disk stays in memory, and is tried again with the next step.
    fn bound_index(&mut self) {
        let bound = self.image.buffer.bound_index(&self.spill);
        if let Err(error) = &bound
            && !self.unbounded
        {
            tracing::warn!(group = %self.keeper.name(), %error, "the index grows in memory; it is tried again");
            self.metrics.error(Part::Updater);
        }
        self.unbounded = bound.is_err();
    }

    fn report(&self, error: &UpdaterError) {
        self.desk.damaged.store(error.is_damage(), Ordering::Release);
        let problem = if error.is_damage() { self.what_damage_means(error) } else { error.told() };
        if let Some(left_out) = self.logged.stands(&problem, self.clock.monotonic()) {
            tracing::error!(group = %self.keeper.name(), %problem, left_out, "volumes cannot be written; it is tried again");
        }
        if self.desk.problem.lock().replace(problem).is_none() {
            self.metrics.error(Part::Updater);
            if error.is_damage() {
                self.metrics.journal_damaged();
            }
        }
    }

    fn what_damage_means(&self, error: &UpdaterError) -> String {
        let name = self.keeper.name();
        format!(
            "{error}. The volumes stand before it; hosts go on, and get an error for what lies in the damaged record. When a copy has received \
             everything (`tidemark status`), `tidemark failover {name} --force` there loses nothing. When the file is restored, it goes on \
             by itself here"
        )
    }

    /// Shows how full the journal is and when it will be full, and slows hosts by it where that was asked for.
    fn watch_fill(&self) {
        let journal = &self.image.journal;
        self.metrics.journal_segments(journal.segments());
        self.metrics.throttled(self.drain.throttle.pace(|| (journal.free_bytes(), journal.capacity_bytes())));
        self.metrics.journal_full_in(self.desk.forecast.sample(self.clock.monotonic(), journal));
    }

    /// Takes away the segments that nobody needs. First the volumes are synced, then the position is recorded, then the
    /// segments go: after a crash between any two of them, applying again from the recorded position repairs all.
    fn trim(&mut self) {
        self.watch_fill();
        let journal = Arc::clone(&self.image.journal);
        if self.drain.is_journal_full() || journal.free_bytes() < self.scarce_bytes() {
            let readers = Arc::clone(&self.readers);
            readers.make_room(&mut || self.record().then_some(self.recorded));
        }
        let applied = self.updater.applied().position;
        let needed = self.readers.oldest_needed().map_or(applied, |needed| needed.min(applied));
        if needed.segment <= self.image.journal.oldest().segment {
            return;
        }
        if self.recorded.segment < needed.segment && !self.record() {
            return;
        }
        if let Err(error) = self.image.journal.trim(needed) {
            tracing::warn!(group = %self.keeper.name(), %error, "the journal could not be trimmed");
        }
        self.drain.markers.trim(self.image.journal.oldest());
    }

    /// With less of the journal free, room is made: where hosts are slowed, before they are.
    fn scarce_bytes(&self) -> u64 {
        let capacity = self.image.journal.capacity_bytes();
        if self.drain.throttle.is_enabled() { capacity / 8 * 5 } else { capacity / 4 }
    }

    /// Syncs the volumes and records how far they are.
    fn record(&mut self) -> bool {
        let done = self.try_record();
        if let Err((problem, part)) = &done {
            self.desk.problem.lock().replace(problem.clone());
            if !self.unrecorded {
                tracing::error!(group = %self.keeper.name(), %problem, "the journal cannot be trimmed; it is tried again");
                self.metrics.error(*part);
            }
        } else if self.unrecorded {
            self.desk.problem.lock().take();
        }
        self.unrecorded = done.is_err();
        done.is_ok()
    }

    fn try_record(&mut self) -> Result<(), (String, Part)> {
        let applied = self.updater.applied();
        let synced = self.image.volumes.sync();
        synced.map_err(|(volume, error)| (format!("sync volume '{volume}': {error}"), Part::Updater))?;
        self.updater.keep_followers().map_err(|error| (error, Part::Catalog))?;
        let mut batch = Batch::new();
        let id = self.keeper.id();
        let mut markers = self.drain.markers.after(self.recorded_marker);
        // Newer ones are in the journal only, and may not be durable there yet: the drain says them before its sync.
        markers.retain(|marker| marker.number <= applied.marker.0);
        let kept: Vec<_> = markers.iter().map(kept).collect();
        let prepared = batch.put_applied(id, &applied.record()).and_then(|()| batch.put_markers(id, &kept));
        let recorded = prepared.and_then(|()| self.keeper.catalog().commit(batch));
        recorded.map_err(|error| (error.to_string(), Part::Catalog))?;
        self.recorded = applied.position;
        self.recorded_marker = markers.last().map_or(self.recorded_marker, |marker| marker.number);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidemark_common::limits::REGION_BYTES;
    use tidemark_common::record::MarkerRecord;

    use super::*;
    use crate::plan::tests::Rig;

    /// A start that finds no marker in the journal goes by those: one that power took would keep the next ones from being cut.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_marker_is_kept_only_when_it_is_durable_in_the_journal() {
        let mut rig = Rig::new(None, REGION_BYTES);
        rig.write(0).await;
        rig.cut();
        let writeback = &mut rig.stages.writeback;
        let limit = writeback.image.journal.durable_end().position;
        let ahead = MarkerRecord { number: 2, boundary_seq: 1000, time_ns: 0, freeze_ns: 0, tag: None };
        writeback.drain.markers.add(limit, ahead);
        writeback.desk.stop();
        while writeback.step(limit) != WritingBack::Ended {}
        let kept = writeback.keeper.catalog().markers(writeback.keeper.id(), 10).unwrap();
        assert_eq!(kept.iter().map(|marker| marker.number).collect::<Vec<_>>(), [1]);
    }
}

//! The task of a pair: a step of copying after the other, no faster than its rate; in `reverse`, the restore of its source.
//!
//! When the side store is full, the volumes of the source's group wait for what the target still lacks: it is copied as fast as it goes.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::catalog::LocalPairStateRecord as State;
use tidemark_common::local_pair::{Copied, LocalPair};
use tidemark_common::rate::lasts;
use tidemark_common::stage;
use tokio::task::JoinError;

use super::{Held, LocalPairs};
use crate::roles::appliance::Appliance;

/// A target that follows waits so long for more to come: writes near to each other are copied, and synced, together.
const GATHER: Duration = Duration::from_millis(100);
/// How soon it is noticed that the copying has to hurry.
const LOOK: Duration = Duration::from_millis(50);
/// What is said while it does.
const HURRIES: &str = "the side store is full (side_store_bytes): what the target lacks is copied as fast as it can be, whatever its rate, \
     and the volumes are written later, while the journal is less than half full";
/// A step that takes longer waits for a disk that hangs.
const STEP_PATIENCE: Duration = Duration::from_secs(10);
/// How long the task waits for what cannot go on now.
pub(super) const RETRY: Duration = Duration::from_secs(1);

impl Appliance {
    /// Sets a pair to work.
    pub(super) fn start_local_pair(&self, held: &Arc<Held>) {
        let (Some(this), held) = (self.this.upgrade(), Arc::clone(held)) else { return };
        if held.missing.is_some() || held.no_source.is_some() {
            return;
        }
        let working = Arc::clone(&held);
        let task = self.runtime.spawn(async move {
            tokio::select! {
                () = this.local_pairs.stop.cancelled() => {}
                () = working.ended.cancelled() => {}
                () = this.work_local_pair(&working) => {}
            }
        });
        *held.task.lock() = Some(task);
    }

    async fn work_local_pair(&self, held: &Arc<Held>) {
        loop {
            let state = held.pair.state();
            if state == State::Reverse {
                self.restore_source(held).await;
                continue;
            }
            let copied = self.step_local_pair(held).await;
            if held.pair.state() != state {
                self.settle_door(&held.pair.target().name).await;
            }
            match copied {
                Copied::Bytes(bytes) => self.keep_to_rate(held, bytes).await,
                Copied::Nothing if held.pair.waits() => tokio::time::sleep(RETRY).await,
                Copied::Nothing => {
                    tell_hurry(held, false);
                    held.pair.work.notified().await;
                    tokio::time::sleep(GATHER).await;
                }
            }
        }
    }

    /// Waits as long as so many bytes last at the pair's rate, or until it has to hurry or is done.
    async fn keep_to_rate(&self, held: &Held, bytes: u64) {
        let next = self.clock.monotonic().saturating_add(lasts(bytes, held.pair.record().rate));
        loop {
            let is_split = held.pair.state() == State::Split;
            let hurries = is_split && held.pair.eras().must_hurry();
            tell_hurry(held, hurries);
            let left = next.saturating_sub(self.clock.monotonic());
            // Somebody else may have had the rest copied: the image that is not needed any more goes now.
            let is_done = is_split && held.pair.figures().differential_bytes == 0;
            if hurries || is_done || left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    /// One step, on a thread that may wait for disks. It has what hosts at the target wait for, and the updater of the source's group: it does
    /// not stand back for the processor, or they would wait for a thread that has none.
    ///
    /// # Cancel safety
    /// A step that was begun goes to its end.
    async fn step_local_pair(&self, held: &Held) -> Copied {
        let pair = Arc::clone(&held.pair);
        let step = move || stage::named(c"copier", || pair.step());
        match self.local_pairs.take_turn(STEP_PATIENCE, step).await {
            Some(Ok(copied)) => copied,
            Some(Err(ended)) => {
                if ended.is_panic() {
                    broke_off(Arc::clone(&held.pair)).await;
                }
                Copied::Nothing
            }
            None => Copied::Nothing,
        }
    }
}

/// A defect of ours ended a step. What that had in hand is marked as copied and not yet synced, and is not there: it must be no step's after it to
/// sync.
async fn broke_off(pair: Arc<LocalPair>) {
    let failed = tokio::task::spawn_blocking(move || {
        let target = &pair.target().name;
        let what = "what copies to it ended by a defect of Tidemark, and the log has its message";
        pair.fail(&format!("{what}: `tidemark local-pair resync {target}` goes on"));
    });
    let _ = failed.await;
}

impl LocalPairs {
    /// A few steps at once. One whose disk has not answered within the patience has its thread and no turn any more: the pairs of all other
    /// disks go on.
    async fn take_turn<T: Send + 'static>(
        &self,
        patience: Duration,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Result<T, JoinError>> {
        let turn = self.steps.acquire().await.ok()?;
        let mut stepping = tokio::task::spawn_blocking(step);
        if let Ok(done) = tokio::time::timeout(patience, &mut stepping).await {
            return Some(done);
        }
        drop(turn);
        Some(stepping.await)
    }
}

/// Says in the pair's state that it hurries, for as long as it does.
fn tell_hurry(held: &Held, hurries: bool) {
    let record = held.pair.record();
    let told = record.reason.as_deref() == Some(HURRIES);
    if hurries && !told {
        tracing::warn!(source = %record.source, target = %record.target, "{HURRIES}");
        held.pair.stands_because(record.state, Some(HURRIES.into()));
    } else if told && !hurries {
        tracing::info!(source = %record.source, target = %record.target, "the side store has room again: the pair keeps to its rate");
        held.pair.stands_because(record.state, None);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
    use std::sync::mpsc;

    use tidemark_common::catalog::{LocalPairRecord, VolumeRecord};
    use tidemark_common::ids::{GroupId, VolumeIndex};
    use tidemark_common::local_pair::LocalPairParts;
    use tidemark_common::local_pair::bits::Bits;
    use tidemark_common::storage::filter::{self, Filter};
    use tidemark_common::storage::memory::MemoryDisk;
    use tidemark_common::storage::{Disk, DiskFile, Open};
    use tidemark_common::t0::{Eras, ErasParts, SideSpace};
    use tidemark_common::volumes::VolumeFile;

    use super::*;
    use crate::roles::appliance::Unopened;
    use crate::roles::local_pairs::STEPS_MAX;
    use crate::service::tests::{Faults, add_volume, appliance};

    const SIZE: u64 = 1 << 20;

    /// Notes how far whoever reads it stands behind others for the processor.
    #[derive(Default)]
    struct Noted {
        nice: AtomicI32,
        /// It is not read to its end.
        breaks: bool,
    }

    impl Filter for Noted {
        fn before_read(&self, _bytes: usize) -> io::Result<()> {
            assert!(!self.breaks, "as it was to");
            self.nice.store(rustix::process::nice(0)?, Ordering::Release);
            Ok(())
        }
    }

    /// A file that is full of data.
    fn filled() -> Arc<dyn DiskFile> {
        let file = MemoryDisk::new().open("f".as_ref(), Open::New).unwrap();
        file.write_all_at(&vec![7; usize::try_from(SIZE).unwrap()], 0).unwrap();
        file
    }

    fn eras(folder: &str) -> Arc<Eras> {
        let parts = ErasParts {
            disk: Arc::new(MemoryDisk::new()),
            folder: folder.into(),
            group: GroupId([9; 16]),
            space: Arc::new(SideSpace::new(1 << 20)),
            index_ranges_max: 4,
            outlive: false,
        };
        Eras::open(parts, &[]).unwrap().0
    }

    fn record() -> LocalPairRecord {
        LocalPairRecord {
            target: "t".into(),
            id: [7; 16],
            source: "s".into(),
            source_index: 1,
            group: "g".into(),
            group_id: [9; 16],
            size: SIZE,
            state: State::Copy,
            reason: None,
            since_ns: 0,
            rate: 1,
            era: None,
            begin: None,
            marker: 0,
            marker_ns: 0,
        }
    }

    /// Its file system is mounted later than the service starts: whatever failed to be copied would end the image of a split.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_pair_whose_source_is_not_there_stands_as_it_is() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_volume(&appliance, "t").await;
        let volume =
            VolumeRecord { name: "s".into(), size: SIZE, backing: "/not/there".into(), owned: false, group: None };
        let source = Unopened { record: volume, why: "it is not mounted".into() };
        appliance.unopened.write().insert("s".into(), source);
        appliance.catalog.put_local_pair(&record(), &Bits::everything(SIZE).encode()).unwrap();
        appliance.open_local_pairs().unwrap();
        appliance.start_local_pairs().await;
        let held = appliance.local_pairs.of_target("t").unwrap();
        assert!(held.task.lock().is_none(), "nothing is copied");
        assert!(appliance.usable("t").is_err());
        let reason = appliance.local_pair_status(&held).reason;
        assert!(reason.is_some_and(|reason| reason.contains("it is not mounted")));
        assert_eq!(held.pair.state(), State::Copy);
    }

    #[tokio::test]
    async fn disks_that_hang_leave_turns_to_the_pairs_of_others() {
        let (pairs, begun) = (Arc::new(LocalPairs::default()), Arc::new(AtomicUsize::new(0)));
        let (mut disks, mut hung) = (Vec::new(), Vec::new());
        for _ in 0..STEPS_MAX {
            let (disk, answer) = mpsc::sync_channel::<()>(1);
            disks.push(disk);
            let (pairs, begun) = (Arc::clone(&pairs), Arc::clone(&begun));
            let step = move || {
                begun.fetch_add(1, Ordering::AcqRel);
                answer.recv().is_err()
            };
            hung.push(tokio::spawn(async move { pairs.take_turn(Duration::ZERO, step).await }));
        }
        while begun.load(Ordering::Acquire) < STEPS_MAX {
            tokio::task::yield_now().await;
        }
        let other = tokio::time::timeout(Duration::from_secs(20), pairs.take_turn(Duration::MAX, || 7)).await;
        assert_eq!(other.unwrap().unwrap().unwrap(), 7);
        drop(disks);
        for step in hung {
            assert!(step.await.unwrap().unwrap().unwrap(), "what was begun goes to its end");
        }
    }

    /// Hosts at the target wait for what it has in hand.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copier_does_not_stand_back_for_the_processor() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let noted = Arc::new(Noted { nice: AtomicI32::new(i32::MAX), breaks: false });
        let held = pair_over(&appliance, &noted);
        assert_eq!(appliance.step_local_pair(&held).await, Copied::Bytes(SIZE));
        assert_eq!(noted.nice.load(Ordering::Acquire), rustix::process::nice(0).unwrap());
    }

    fn pair_over(appliance: &Appliance, noted: &Arc<Noted>) -> Held {
        let parts = LocalPairParts {
            catalog: appliance.catalog.clone(),
            clock: Arc::clone(&appliance.clock),
            source: filter::file(filled(), noted),
            target: Arc::new(VolumeFile::new(VolumeIndex(0), "t".into(), filled(), SIZE)),
            eras: eras("/eras"),
            saves: eras("/saves"),
            patience: Duration::ZERO,
        };
        Held::new(LocalPair::create(parts, record()).unwrap())
    }

    /// The next step synced the target, and called synced what had never been written.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_copier_had_in_hand_when_it_broke_off_is_not_called_copied() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let held = pair_over(&appliance, &Arc::new(Noted { breaks: true, ..Noted::default() }));
        assert_eq!(appliance.step_local_pair(&held).await, Copied::Nothing);
        let record = held.pair.record();
        assert_eq!(record.state, State::Error);
        assert!(record.reason.is_some_and(|reason| reason.contains("local-pair resync t")));
        assert_eq!(held.pair.figures().differential_bytes, SIZE);
    }
}

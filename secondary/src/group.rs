//! A consistency group on its secondary: recovery, the connection in use, status, and what a failover needs.

mod connection;
mod recovery;
mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::api::types::{MarkerInfo, PairState};
use tidemark_common::catalog::{AppliedRecord, Batch, CatalogError, CopyRecord, GroupVolume, OnFullRecord};
use tidemark_common::clock::Clock;
use tidemark_common::history::History;
use tidemark_common::journal::{Journal, JournalOptions, Position, Writer};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::metrics::{GroupMetrics, PairMetrics};
use tidemark_common::overlay::unapplied::{Indexed, SharedIndex};
use tidemark_common::rate::Rate;
use tidemark_common::record::MarkerRecord;
use tidemark_common::repeats::Repeats;
use tidemark_common::storage::Disk;
use tidemark_common::t0::Eras;
use tidemark_common::volumes::Volumes;

pub use self::connection::CALLS_WITHIN;
use self::connection::Current;
pub use self::recovery::StartError;
use crate::intake::CopyVolumes;
use crate::permission::{OpenCopy, Permitted};
use crate::returned::record_given_up;
use crate::state::CopyState;

/// Between two looks whether the updater has ended: at first, and at last.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// Everything a copy is started with.
pub struct SecondaryParts {
    /// The disk seam.
    pub disk: Arc<dyn Disk>,
    /// The clock seam.
    pub clock: Arc<dyn Clock>,
    /// The group's record.
    pub keeper: Arc<GroupKeeper>,
    /// Its copy volumes.
    pub volumes: Arc<Volumes>,
    /// Who makes copy volumes.
    pub provider: Arc<dyn CopyVolumes>,
    /// Folder of the journal's segments.
    pub journal_folder: PathBuf,
    /// Size of the journal.
    pub journal: JournalOptions,
    /// Ranges of the index of what is not yet in the volumes that are held in memory, about 100 bytes each.
    pub index_ranges_max: usize,
    /// This appliance's name.
    pub appliance: String,
    /// Where the group's figures go.
    pub metrics: GroupMetrics,
    /// Where the pair's figures go.
    pub pair_metrics: PairMetrics,
    /// What images of older moments need.
    pub eras: Arc<Eras>,
}

/// A running copy.
pub struct Secondary {
    parts: SecondaryParts,
    journal: Arc<Journal>,
    state: Arc<CopyState>,
    /// Held by the connection in use.
    writer: tokio::sync::Mutex<Option<Writer>>,
    current: Mutex<Current>,
    updater: Mutex<Option<JoinHandle<()>>>,
    /// What the updater has indexed.
    indexed: SharedIndex,
    since: Mutex<(PairState, jiff::Timestamp)>,
    /// Since when it runs, monotonic.
    began: Duration,
    /// How fast a copy under way goes.
    rate: Mutex<Rate>,
    /// What was logged of connections that end again and again.
    repeats: Repeats,
}

impl std::fmt::Debug for Secondary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secondary").field("group", &self.parts.keeper.name()).finish_non_exhaustive()
    }
}

impl Secondary {
    pub(crate) const fn eras(&self) -> &Arc<Eras> {
        &self.parts.eras
    }

    /// The primary says what is to be kept behind the newest marker.
    pub(crate) fn ask_history(&self, asked: History) -> Result<(), CatalogError> {
        self.parts.keeper.update(|record| record.history = asked)?;
        self.state.ask_history(asked);
        Ok(())
    }

    /// The primary says what the group does when its journal is full: this side does the same once it has taken over.
    pub(crate) fn hear_on_full(&self, throttles: bool) -> Result<(), CatalogError> {
        let on_full = if throttles { OnFullRecord::Throttle } else { OnFullRecord::Fold };
        self.parts.keeper.update(|record| record.on_full = on_full)
    }

    pub(crate) const fn clock(&self) -> &Arc<dyn Clock> {
        &self.parts.clock
    }

    /// Since when it runs, monotonic: nobody can have been heard before.
    #[must_use]
    pub const fn began(&self) -> Duration {
        self.began
    }

    /// The group's record keeper.
    #[must_use]
    pub const fn keeper(&self) -> &Arc<GroupKeeper> {
        &self.parts.keeper
    }

    /// Its copy volumes' files.
    #[must_use]
    pub const fn files(&self) -> &Arc<Volumes> {
        &self.parts.volumes
    }

    /// What is known of the copy.
    #[must_use]
    pub const fn state(&self) -> &Arc<CopyState> {
        &self.state
    }

    /// [`Self::stop`] for whoever goes on from the journal: the updater is not waited for in the middle of what takes long.
    pub async fn stop_at_once(&self) {
        self.state.stop_at_once();
        self.stop().await;
    }

    /// The same for whoever keeps others waiting. `false`: a disk has not answered in time what was begun before. It may answer that still, so nobody
    /// may go on from the journal yet; nothing else is taken in or applied any more, and this can be asked again.
    pub async fn stop_within(&self, at_most: Duration) -> bool {
        tokio::time::timeout(at_most, self.stop_at_once()).await.is_ok()
    }

    /// Stops the connection, the intake and the updater, and waits for them. What is permitted and not yet applied stays in
    /// the journal. Who is broken off in the middle of it leaves the rest to the next one.
    pub async fn stop(&self) {
        self.state.stop();
        self.hang_up("stopping");
        drop(self.writer.lock().await.take());
        let mut pause = LOOK.0;
        while self.updater.lock().as_ref().is_some_and(|updater| !updater.is_finished()) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
        let updater = self.updater.lock().take();
        if updater.is_some_and(|updater| updater.join().is_err()) {
            // It broke off in the middle of something.
            *self.indexed.lock() = Indexed::default();
        }
    }

    /// Takes nothing in any more, and tells the primary why; [`Self::stop_at_once`] waits for what was begun.
    pub fn part(&self, why: &str) {
        self.state.stop_at_once();
        self.hang_up(why);
    }

    fn hang_up(&self, why: &str) {
        let mut current = self.current.lock();
        // In this order: whoever serves it ends it with words of its own.
        if let Some(connection) = current.connection.take() {
            connection.close(why);
        }
        current.stop.cancel();
    }

    /// The journal of a copy that is stopped; nobody writes it any more.
    #[must_use]
    pub const fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// The index of what is permitted and not applied, as far as there is one, when the copy is stopped to serve a marker. It says nothing of
    /// what was applied, which a volume whose sync failed may have dropped: then there is none, and all from the recorded place on is read in
    /// the journal.
    #[must_use]
    pub fn take_index(&self, permitted: &Permitted) -> Indexed {
        let indexed = std::mem::take(&mut *self.indexed.lock());
        if self.parts.volumes.are_in_doubt() { Indexed::default() } else { indexed.unless_beyond(permitted.end) }
    }

    /// The markers of an image, with the places where they end, oldest first.
    #[must_use]
    pub fn markers_of(&self, permitted: &Permitted) -> Vec<(Position, MarkerRecord)> {
        let mut markers = self.state.markers.places();
        markers.retain(|(_, marker)| marker.number <= permitted.marker.number);
        markers
    }

    /// The newest permitted marker, and where the journal is to be cut to serve it.
    #[must_use]
    pub fn permitted(&self) -> Option<Permitted> {
        self.state.permission().permitted().cloned()
    }

    /// The volumes of the image that would be served.
    #[must_use]
    pub fn volumes(&self) -> Vec<GroupVolume> {
        let permission = self.state.permission();
        permission.volumes().map_or_else(|| self.parts.keeper.get().volumes, |volumes| GroupVolume::members(volumes))
    }

    /// Bytes of the journal beyond a place.
    #[must_use]
    pub fn bytes_beyond(&self, place: Position) -> u64 {
        self.journal.bytes_between(place, self.journal.durable_end().position)
    }

    /// The markers held, newest first; only those that may be applied.
    #[must_use]
    pub fn markers(&self) -> Vec<MarkerInfo> {
        let permitted = self.state.permission().permitted().map_or(0, |permitted| permitted.marker.number);
        self.state.markers.all().into_iter().filter(|marker| marker.number <= permitted).collect()
    }

    /// What this side was before it returned is not wanted any more. Recorded before any of the copy is applied.
    ///
    /// # Errors
    /// [`CatalogError`]; it is kept then.
    pub fn give_up_before(&self) -> Result<(), CatalogError> {
        record_given_up(&self.parts.keeper)?;
        self.state.give_up_before();
        Ok(())
    }
}

pub(crate) fn open_copy(keeper: &GroupKeeper) -> Option<OpenCopy> {
    let copy = keeper.get().pairs.into_iter().next()?.copy?;
    Some(OpenCopy {
        number: copy.number,
        direct: copy.direct,
        cursor: (copy.cursor_volume, copy.cursor_offset),
        done_bytes: copy.done_bytes,
        total_bytes: copy.total_bytes,
        begun: Position::default(),
    })
}

/// The volumes are recorded as no further than a place behind which the journal goes. Where they are recorded as further back they stay there:
/// what lies between may be in them only until power is lost, and is applied again. `stand` is that place; or the begin of a new segment behind
/// whatever was recorded, when the journal that was cut goes on there.
pub(crate) fn stand_no_further(
    keeper: &GroupKeeper,
    batch: &mut Batch,
    place: Position,
    stand: &AppliedRecord,
) -> Result<(), CatalogError> {
    let recorded = keeper.catalog().applied(keeper.id())?;
    if recorded.is_some_and(|recorded| recorded.place() >= place) {
        batch.put_applied(keeper.id(), stand)?;
    }
    Ok(())
}

/// Keeps a copy under way and the set of volumes in the catalogue, for when the journal no longer has their records.
pub(crate) fn record_copy(
    keeper: &GroupKeeper,
    batch: Batch,
    copy: Option<&OpenCopy>,
    members: &[GroupVolume],
) -> Result<(), CatalogError> {
    let record = copy.map(|copy| CopyRecord {
        number: copy.number,
        direct: copy.direct,
        cursor_volume: copy.cursor.0,
        cursor_offset: copy.cursor.1,
        done_bytes: copy.done_bytes,
        ..CopyRecord::first(copy.total_bytes)
    });
    keeper.update_with(batch, |group| {
        if let Some(pair) = group.pairs.first_mut() {
            // One without a number stands for a damaged journal: it knows up to where.
            if record.as_ref().is_none_or(|record| record.number != 0) {
                pair.copy = record;
            }
            if pair.copy.as_ref().is_none_or(|copy| copy.direct) {
                pair.before = None;
            }
        }
        if group.volumes != members {
            group.volumes = members.to_vec();
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tidemark_common::ids::VolumeIndex;
    use tidemark_common::storage::Open;
    use tidemark_common::storage::memory::MemoryDisk;
    use tidemark_common::volumes::VolumeFile;

    use super::*;
    use crate::apply::tests::copy;

    /// The kernel gives up pages that it could not write: hosts read what lay there before, until all of it was applied again.
    #[test]
    fn what_a_volume_may_have_dropped_is_read_in_the_journal_after_a_failover() {
        let (secondary, _apply, _records) = copy();
        let disk = MemoryDisk::new();
        let file = disk.open("v".as_ref(), Open::New).unwrap();
        let volume = secondary.files().insert(VolumeFile::new(VolumeIndex(1), "v".into(), file, 4096));
        let (at, end) = (Position { segment: 2, offset: 4096 }, Position { segment: 3, offset: 4096 });
        let marker = MarkerRecord { number: 1, boundary_seq: 0, time_ns: 1, freeze_ns: 1, tag: None };
        let permitted = Permitted { marker, end };
        let taken = || {
            *secondary.indexed.lock() = Indexed::from(at);
            secondary.take_index(&permitted).up_to()
        };
        assert_eq!(taken(), at);
        disk.fail_next_sync(ErrorKind::Other);
        volume.sync().unwrap_err();
        assert_eq!(taken(), Position::default());
    }

    /// A failover waited for a disk without end, and with it all that operators change: failovers of other groups, too.
    #[tokio::test]
    async fn a_copy_whose_disk_does_not_answer_keeps_nobody_waiting_without_end() {
        let (secondary, _apply, _records) = copy();
        let (hangs, answers) = std::sync::mpsc::sync_channel::<()>(0);
        *secondary.updater.lock() = Some(std::thread::spawn(move || {
            let _ = answers.recv();
        }));
        for _ in 0..2 {
            assert!(!secondary.stop_within(Duration::from_millis(1)).await, "it may write still");
        }
        drop(hangs);
        assert!(secondary.stop_within(Duration::from_secs(20)).await);
        assert!(secondary.updater.lock().is_none());
    }

    /// Whoever had taken over a group that was made to slow its hosts did not slow them.
    #[test]
    fn what_the_primary_does_when_its_journal_is_full_is_kept_for_a_failover() {
        let (secondary, _apply, _records) = copy();
        let keeper = &secondary.parts.keeper;
        let recorded = || keeper.catalog().groups().unwrap().remove(0).on_full;
        assert_eq!(recorded(), OnFullRecord::Fold);
        for (throttles, on_full) in [(true, OnFullRecord::Throttle), (false, OnFullRecord::Fold)] {
            secondary.hear_on_full(throttles).unwrap();
            assert_eq!((keeper.get().on_full, recorded()), (on_full, on_full));
        }
    }
}

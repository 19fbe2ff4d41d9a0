//! The owner of one pair: its record and bits, in memory and in the catalogue. Marks come in from the updater, pieces are taken
//! out by the copier, states change by operators.
//!
//! Locks, in this order: `writing` (whoever writes the target shares it; alone, whoever takes its image away), `copying` (one piece,
//! or one change of state, at a time), `kept` (one commit at a time, so that an older state of the bits never follows a younger one
//! into the catalogue), `now` (memory, and what must not change while a commit is under way), `told` (for moments only: what others
//! are told). An era is left, and an updater's window waited for, with none but `copying`: the updater may be about
//! to say that the era ended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockWriteGuard};
use tokio::sync::Notify;

use super::bits::{Bits, VOLUME, pieces, range};
use super::error::LocalPairError;
use super::states::{Event, follows, next, stands};
use crate::catalog::{Catalog, LocalPairRecord, LocalPairStateRecord as State};
use crate::clock::{Clock, unix_ns};
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::journal::Position;
use crate::storage::DiskFile;
use crate::t0::{EraUser, Eras, Follower, Image, ImageVolume};
use crate::volumes::VolumeFile;

/// Longer than marks take, and far shorter than a disk may.
const MOMENT: Duration = Duration::from_millis(10);

/// What a pair works with.
#[derive(Clone)]
pub struct LocalPairParts {
    /// Where its record and bits are.
    pub catalog: Catalog,
    /// For times people read.
    pub clock: Arc<dyn Clock>,
    /// The source's file or device.
    pub source: Arc<dyn DiskFile>,
    /// The target.
    pub target: Arc<VolumeFile>,
    /// The eras of the source's group.
    pub eras: Arc<Eras>,
    /// The target's own, for those who read it while hosts write it.
    pub saves: Arc<Eras>,
    /// What is under way at the target ends within this time, or whoever wants to change the pair's state is refused: he keeps others from
    /// changing anything, and in a split the updater of the source's group from going on.
    pub patience: Duration,
}

/// What status and hosts that come in ask for. They do not wait for a disk, as whoever changes the pair does.
#[derive(Debug)]
struct Told {
    record: LocalPairRecord,
    figures: LocalPairFigures,
}

pub(super) struct Now {
    pub(super) record: LocalPairRecord,
    pub(super) bits: Bits,
    /// What a target that is split lacks.
    pub(super) image: Option<Image>,
    /// The era of which it was said that it is needed for a short while only.
    brief: Option<u64>,
    /// Where the copier goes on.
    pub(super) cursor: u64,
    /// Bytes copied and synced since the last commit.
    pub(super) uncommitted: u64,
    told: Arc<Mutex<Told>>,
}

impl Now {
    /// In memory from now on, as the catalogue has it already.
    pub(super) fn take_in(&mut self, parts: &LocalPairParts, record: LocalPairRecord, bits: Bits) {
        (self.record, self.bits, self.uncommitted) = (record, bits, 0);
        self.tell();
        self.tell_brief(parts);
    }

    /// Whoever asks is told this from now on: behind each change of the record.
    pub(super) fn tell(&self) {
        *self.told.lock() = Told { record: self.record.clone(), figures: self.figures() };
    }

    fn figures(&self) -> LocalPairFigures {
        LocalPairFigures {
            differential_bytes: self.bits.differences.bytes() + self.bits.unsynced.bytes(),
            source_changed_bytes: self.bits.source.bytes(),
            target_changed_bytes: self.bits.target.bytes(),
            to_restore_bytes: match self.record.state {
                State::Reverse => self.bits.changed().bytes_up_to(VOLUME, self.record.size),
                _ => 0,
            },
        }
    }

    /// While the target still lacks something of its split, it is copied, and then the era goes: until then the volumes are written later
    /// rather than that the image ends.
    pub(super) fn tell_brief(&mut self, parts: &LocalPairParts) {
        let lacks = stands(self.record.state) && !self.bits.differences.is_empty();
        let brief = self.record.era.filter(|_| lacks);
        if brief == self.brief {
            return;
        }
        if let Some(era) = std::mem::replace(&mut self.brief, brief) {
            parts.eras.set_brief(era, false);
        }
        if let Some(era) = brief {
            parts.eras.set_brief(era, true);
        }
    }

    /// What does not differ is the target's: it need not be saved for the image of the split.
    pub(super) fn spare(&self) {
        let Some(image) = &self.image else { return };
        for (equal, _) in
            pieces(&self.bits.differences, range(0, self.record.size)).into_iter().filter(|piece| !piece.1)
        {
            image.copied(Extent { volume: VolumeIndex(self.record.source_index), ..equal });
        }
    }
}

/// A pair.
pub struct LocalPair {
    pub(super) parts: LocalPairParts,
    pub(super) copying: Mutex<()>,
    pub(super) kept: Mutex<()>,
    pub(super) now: Mutex<Now>,
    told: Arc<Mutex<Told>>,
    /// Held by whoever writes the target; alone, by who begins an era of it or takes its image away.
    pub(super) writing: RwLock<()>,
    /// Rung when something differs, or the state has changed.
    pub work: Notify,
}

impl std::fmt::Debug for LocalPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalPair").field("target", &self.parts.target).finish_non_exhaustive()
    }
}

/// Figures of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalPairFigures {
    /// Bytes still to be copied to the target.
    pub differential_bytes: u64,
    /// Bytes of the source written since the split.
    pub source_changed_bytes: u64,
    /// Bytes of the target written since the split.
    pub target_changed_bytes: u64,
    /// Bytes that the source lacks of the target while it is restored, as long as none of them has been written.
    pub to_restore_bytes: u64,
}

/// Who needs an era for a pair, as its record says.
#[must_use]
pub fn era_user(record: &LocalPairRecord) -> Option<EraUser> {
    let begin = place(record).unwrap_or_default();
    Some(EraUser { era: record.era?, begin, volumes: BTreeSet::from([VolumeIndex(record.source_index)]) })
}

/// Where in the journal its split lies; `None` also when the volumes had reached that before places lost their meaning.
pub(super) fn place(record: &LocalPairRecord) -> Option<Position> {
    record.begin.map(|(segment, offset)| Position { segment, offset })
}

impl LocalPair {
    /// Makes a pair whose volumes differ everywhere, durably.
    ///
    /// # Errors
    /// [`LocalPairError::Catalog`].
    pub fn create(parts: LocalPairParts, record: LocalPairRecord) -> Result<Arc<Self>, LocalPairError> {
        let bits = Bits::everything(record.size);
        parts.catalog.put_local_pair(&record, &bits.encode())?;
        Ok(Self::with(parts, record, bits))
    }

    /// A pair of the catalogue, before the updater goes on: what that writes again is marked again. Without its bitmaps it is one that has lost them.
    ///
    /// # Errors
    /// [`LocalPairError::Catalog`].
    pub fn open(parts: LocalPairParts, record: LocalPairRecord) -> Result<Arc<Self>, LocalPairError> {
        let found = parts.catalog.local_bits(&record.target)?.ok_or(LocalPairError::NoBits);
        match found.and_then(|found| Ok(Bits::decode(&found)?)) {
            Ok(bits) => Ok(Self::with(parts, record, bits)),
            Err(lost) => Self::open_without_bits(parts, record, &lost),
        }
    }

    /// Nothing is known, so everything differs; the group of the source starts all the same.
    fn open_without_bits(
        parts: LocalPairParts,
        record: LocalPairRecord,
        lost: &LocalPairError,
    ) -> Result<Arc<Self>, LocalPairError> {
        let mut bits = Bits::everything(record.size);
        let era = record.era;
        let mut next = LocalPairRecord { era: None, ..record };
        if next.state == State::Reverse {
            // The target has everything, and a source that is half restored is restored from its begin.
            bits.source = std::mem::take(&mut bits.differences);
        } else {
            next.state = State::Error;
            next.reason = Some(format!(
                "{lost}, so nobody knows what differs: `tidemark local-pair resync {}` copies everything",
                next.target
            ));
        }
        tracing::error!(target = %next.target, %lost, "the bitmaps of a local pair are lost");
        parts.catalog.put_local_pair(&next, &bits.encode())?;
        let pair = Self::with(parts, next, bits);
        pair.leave(era);
        Ok(pair)
    }

    fn with(parts: LocalPairParts, record: LocalPairRecord, bits: Bits) -> Arc<Self> {
        let image = Self::image_of(&parts, &record);
        let told = Arc::new(Mutex::new(Told { record: record.clone(), figures: LocalPairFigures::default() }));
        let mut now = Now { record, bits, image, brief: None, cursor: 0, uncommitted: 0, told: Arc::clone(&told) };
        now.tell();
        now.spare();
        now.tell_brief(&parts);
        let now = Mutex::new(now);
        let pair = Arc::new(Self {
            parts,
            copying: Mutex::default(),
            kept: Mutex::default(),
            now,
            told,
            writing: RwLock::default(),
            work: Notify::new(),
        });
        let follower: Arc<dyn Follower> = Arc::clone(&pair) as Arc<dyn Follower>;
        pair.parts.eras.followed_by(Arc::downgrade(&follower));
        pair
    }

    pub(super) fn image_of(parts: &LocalPairParts, record: &LocalPairRecord) -> Option<Image> {
        let volume = ImageVolume {
            index: VolumeIndex(record.source_index),
            name: record.source.clone(),
            size: record.size,
            file: Arc::clone(&parts.source),
        };
        record.era.map(|era| Image::new(Arc::clone(&parts.eras), era, vec![volume]))
    }

    /// Its record as it is now; while it is being changed, as it was before.
    #[must_use]
    pub fn record(&self) -> LocalPairRecord {
        self.told.lock().record.clone()
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> State {
        self.told.lock().record.state
    }

    /// The target.
    #[must_use]
    pub fn target(&self) -> &Arc<VolumeFile> {
        &self.parts.target
    }

    /// The eras of the source's group.
    #[must_use]
    pub const fn eras(&self) -> &Arc<Eras> {
        &self.parts.eras
    }

    /// The target's own eras.
    #[must_use]
    pub fn saves(&self) -> &Arc<Eras> {
        &self.parts.saves
    }

    /// Keeps hosts from writing the target for as long as the answer lives: a moment.
    ///
    /// # Errors
    /// [`LocalPairError::Stuck`].
    pub(super) fn hold_writes(&self) -> Result<RwLockWriteGuard<'_, ()>, LocalPairError> {
        self.writing.try_write_for(self.parts.patience).ok_or_else(|| self.stuck())
    }

    /// Keeps the target from being copied to for as long as the answer lives: a change of its state.
    ///
    /// # Errors
    /// [`LocalPairError::Stuck`].
    pub(super) fn hold_copying(&self) -> Result<MutexGuard<'_, ()>, LocalPairError> {
        self.copying.try_lock_for(self.parts.patience).ok_or_else(|| self.stuck())
    }

    fn stuck(&self) -> LocalPairError {
        LocalPairError::Stuck { target: self.parts.target.name.clone() }
    }

    /// How much differs; while something of it is being changed, how much did.
    #[must_use]
    pub fn figures(&self) -> LocalPairFigures {
        if let Some(now) = self.now.try_lock_for(MOMENT) {
            now.tell();
        }
        self.told.lock().figures
    }

    /// Whether the image of its split cannot be read for now: its source's group does not run.
    #[must_use]
    pub fn waits(&self) -> bool {
        let era = self.told.lock().record.era;
        era.is_some_and(|era| self.parts.eras.is_unknown(era))
    }

    /// Bytes kept aside because of it.
    #[must_use]
    pub fn saved_bytes(&self) -> u64 {
        let era = self.told.lock().record.era;
        era.map_or(0, |era| self.parts.eras.bytes_of(era))
    }

    pub(super) fn now_ns(&self) -> i64 {
        unix_ns(self.parts.clock.wall())
    }

    /// The record after an event.
    ///
    /// # Errors
    /// [`LocalPairError::State`] when that is not allowed.
    pub(super) fn after(&self, record: &LocalPairRecord, event: Event) -> Result<LocalPairRecord, LocalPairError> {
        let state = next(record.state, event).ok_or_else(|| LocalPairError::not_from(record.state))?;
        Ok(LocalPairRecord { state, reason: None, since_ns: self.now_ns(), ..record.clone() })
    }

    /// Changes record and bits, in the catalogue first. Nothing is marked in between.
    pub(super) fn change(
        &self,
        change: impl FnOnce(&LocalPairRecord, &mut Bits) -> Result<LocalPairRecord, LocalPairError>,
    ) -> Result<(), LocalPairError> {
        let _one_commit = self.kept.lock();
        let mut now = self.now.lock();
        if now.record.size == 0 {
            return Err(LocalPairError::Deleted);
        }
        let mut bits = now.bits.clone();
        let record = change(&now.record, &mut bits)?;
        self.parts.catalog.put_local_pair(&record, &bits.encode())?;
        if record.era != now.record.era {
            now.image = Self::image_of(&self.parts, &record);
        }
        if record.state != now.record.state {
            now.cursor = 0;
        }
        now.take_in(&self.parts, record, bits);
        drop(now);
        self.work.notify_one();
        Ok(())
    }

    pub(super) fn leave(&self, era: Option<u64>) {
        if let Some(era) = era {
            self.parts.eras.leave(era);
        }
    }

    /// Puts its bits into the catalogue as they are now.
    ///
    /// # Errors
    /// [`LocalPairError::Catalog`].
    pub fn keep(&self) -> Result<(), LocalPairError> {
        let _one_commit = self.kept.lock();
        let (record, bits) = {
            let now = self.now.lock();
            (now.record.clone(), now.bits.encode())
        };
        if record.size > 0 {
            self.parts.catalog.put_local_pair(&record, &bits)?;
        }
        Ok(())
    }
}

impl Follower for LocalPair {
    fn written(&self, end: Position, extents: &[Extent]) {
        let mut now = self.now.lock();
        let (index, size) = (VolumeIndex(now.record.source_index), now.record.size);
        let following = follows(now.record.state);
        // What lies before the split is in its differences already.
        if !following && place(&now.record).is_some_and(|split| end <= split) {
            return;
        }
        let mut marked = false;
        // A copy's volume grows with its primary's: what lies behind the size that the pair has is not copied.
        for extent in extents.iter().filter(|extent| extent.volume == index && extent.offset < size) {
            let bits = if following { &mut now.bits.differences } else { &mut now.bits.source };
            bits.mark(range(extent.offset, extent.length.min(size - extent.offset)));
            marked = true;
        }
        if marked && following {
            self.work.notify_one();
        }
    }

    fn keep(&self) -> Result<(), String> {
        Self::keep(self).map_err(|error| format!("local pair '{}': {error}", self.parts.target.name))
    }
}

//! The eras of one group: where each begins, what it saved, who uses it. The updater asks before every window how far it may
//! go, and has saved what the window overwrites; whoever wants an image begins an era or joins one.
//!
//! Two locks, in this order: `window`, held by the updater for a whole window, and `state`, for moments only.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::concordance::{Concordance, Copied, Saved};
use super::follow::Follower;
use super::held::held_by;
use super::side_file::{SideError, SideFile};
use super::space::{Full, Held, SideSpace};
use crate::extent::Extent;
use crate::ids::{GroupId, VolumeIndex};
use crate::journal::{Journal, JournalError, Position};
use crate::overlay::Piece;
use crate::overlay::location::Location;
use crate::overlay::run::RunError;
use crate::overlay::unapplied::{IndexError, Indexed, Look, SharedIndex, Spill};
use crate::record::{FrameError, MarkerRecord};
use crate::storage::Disk;
use crate::wire::message::VolumeSpec;

/// Numbers of eras leave room between them, because one may have to begin before another that is not yet reached, and the next before that:
/// each time half of the room is left. It lasts for forty in a row, and for sixteen million one behind the other.
const STEP: u64 = 1 << 40;
/// Indexes kept of places before the newest: an image of an older moment reads twice a part like this of what lies before it, at most. What they
/// hold of the same stretch is on the disk once for each doubling of their distance.
pub const INDEXES_MAX: usize = 32;

/// Why an image cannot be begun, or is no more.
#[derive(Debug, thiserror::Error)]
pub enum T0Error {
    /// The side store.
    #[error(transparent)]
    Side(#[from] SideError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A frame of the journal.
    #[error("a frame of the journal is not sound: {0}")]
    Frame(#[from] FrameError),
    /// The volumes have passed the place already.
    #[error("the volumes have already passed that marker")]
    Passed,
    /// Images have taken all that there is for them.
    #[error("{0}: delete images that are not needed, let backups and splits come to their end, or raise it")]
    Full(#[from] Full),
    /// Nothing has this number.
    #[error("it is gone")]
    Gone,
    /// What lies between the volumes and the begin of an image.
    #[error(transparent)]
    Index(#[from] RunError),
    /// A folder or a file.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What eras are kept with.
#[derive(Clone)]
pub struct ErasParts {
    /// The disk seam.
    pub disk: Arc<dyn Disk>,
    /// The folder of the group's side files; made when it is needed.
    pub folder: PathBuf,
    /// The group.
    pub group: GroupId,
    /// What saved content may take.
    pub space: Arc<SideSpace>,
    /// Ranges that an index of what the volumes miss holds in memory; more are in a file without a name.
    pub index_ranges_max: usize,
    /// Whether a restart finds them again: only then what is saved has to survive a loss of power before the original is overwritten.
    pub outlive: bool,
}

/// Who is told of what happens to eras.
pub trait ErasWatch: Send + Sync + 'static {
    /// An era ended because what its images need could not be saved: they answer with errors from now on. The era's own file
    /// is gone already, which is how a restart knows it.
    fn on_era_ended(&self, group: GroupId, era: u64, reason: &str);
    /// What lies behind a place is about to be cut from the journal, whose places there are used again: durably, before this returns.
    ///
    /// # Errors
    /// What happened.
    fn on_cut(&self, group: GroupId, place: Position) -> Result<(), String>;
    /// Places in the journal are about to lose their meaning, and all eras lie behind: durably, before this returns.
    ///
    /// # Errors
    /// What happened.
    fn on_all_reached(&self, group: GroupId) -> Result<(), String>;
}

/// One user of an era, as its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EraUser {
    /// The era.
    pub era: u64,
    /// Where in the journal it begins; [`Position::default`] when the volumes had reached it before places lost their meaning.
    pub begin: Position,
    /// The volumes whose content is needed.
    pub volumes: BTreeSet<VolumeIndex>,
}

/// Keeps the updater from passing a place for as long as it lives.
#[derive(Debug)]
pub struct Barrier {
    eras: Arc<Eras>,
    at: Position,
}

impl Barrier {
    /// Whose it is.
    #[must_use]
    pub const fn eras(&self) -> &Arc<Eras> {
        &self.eras
    }

    /// Where it is.
    #[must_use]
    pub const fn place(&self) -> Position {
        self.at
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        let mut state = self.eras.state.write();
        if let Some(found) = state.barriers.iter().position(|at| *at == self.at) {
            state.barriers.swap_remove(found);
        }
        let journal = state.journal.clone();
        drop(state);
        if let Some(journal) = journal {
            journal.wake();
        }
    }
}

/// A moment at which an image may begin. The updater waits there for as long as this lives: a short while.
#[derive(Debug)]
pub struct ImagePoint {
    /// The marker.
    pub marker: MarkerRecord,
    /// Where the journal goes on behind it.
    pub barrier: Barrier,
    /// The volumes at that moment.
    pub volumes: Vec<VolumeSpec>,
}

/// An era that was joined or begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// Its number.
    pub era: u64,
    /// Where it begins.
    pub begin: Position,
}

pub(super) struct Era {
    pub(super) number: u64,
    pub(super) begin: Position,
    pub(super) users: usize,
    /// Users among them that are done with it soon.
    pub(super) brief: usize,
    pub(super) volumes: BTreeSet<VolumeIndex>,
    /// Its own file first, then those of eras that became part of it.
    pub(super) files: Vec<Arc<SideFile>>,
    pub(super) concordance: Concordance,
    /// What its only user has copied.
    pub(super) copied: Copied,
    /// What lies between the volumes and its begin, while they are not there.
    pub(super) pending: Option<Arc<Indexed>>,
}

#[derive(Default)]
pub(super) struct State {
    /// In the order in which the volumes reach them.
    pub(super) eras: Vec<Era>,
    applied: Position,
    journal: Option<Arc<Journal>>,
    /// What the updater has indexed of it.
    indexed: Option<SharedIndex>,
    /// What that was at places before its end, in their order.
    points: Vec<Indexed>,
    barriers: Vec<Position>,
    /// Numbers given out since the start: whoever still holds an image that is gone must not find another under its number.
    spent: BTreeSet<u64>,
}

/// The eras of a group.
pub struct Eras {
    pub(super) parts: ErasParts,
    window: Mutex<()>,
    /// One index at a time: they are made under one name.
    indexing: Mutex<()>,
    pub(super) state: RwLock<State>,
    pub(super) watch: OnceLock<Weak<dyn ErasWatch>>,
    pub(super) followers: RwLock<Vec<Weak<dyn Follower>>>,
    /// The volumes wait for a brief user, because nothing more can be saved.
    pub(super) squeezed: AtomicBool,
    /// None of them ends any more.
    pub(super) kept: AtomicBool,
    /// What was last told to the side store of what is held beside files.
    pub(super) counted: Mutex<Held>,
}

impl std::fmt::Debug for Eras {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Eras").field("folder", &self.parts.folder).finish_non_exhaustive()
    }
}

/// Where a range of an image lies when it is not in the volume.
pub(super) enum Place {
    Saved(Saved, Option<Arc<SideFile>>),
    Pending(Location, Arc<Journal>),
}

/// What was found of a range with the lock on the eras; an index may have to be read from the disk, without it.
enum Found {
    Here(Piece<Place>),
    Pending(Look, Arc<Journal>),
}

impl Era {
    pub(super) fn new(user: &EraUser, file: Arc<SideFile>) -> Self {
        Self {
            number: user.era,
            begin: user.begin,
            users: 1,
            brief: 0,
            volumes: user.volumes.clone(),
            files: vec![file],
            concordance: Concordance::default(),
            copied: Copied::default(),
            pending: None,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes()).sum()
    }
}

impl Eras {
    pub(super) fn new(parts: ErasParts) -> Self {
        Self {
            parts,
            window: Mutex::default(),
            indexing: Mutex::default(),
            state: RwLock::default(),
            watch: OnceLock::new(),
            followers: RwLock::default(),
            squeezed: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            counted: Mutex::default(),
        }
    }

    /// Who is told; once.
    pub fn watched_by(&self, watch: Weak<dyn ErasWatch>) {
        let _ = self.watch.set(watch);
    }

    /// For the updater: no era goes, and no engine is changed, while a window is under way.
    pub fn window(&self) -> MutexGuard<'_, ()> {
        self.window.lock()
    }

    /// How far the updater may go from where it is: never across the begin of an era, or a barrier.
    #[must_use]
    pub fn limit(&self, applied: Position, wanted: Position) -> Position {
        let state = self.state.read();
        let begins = state.eras.iter().map(|era| era.begin).filter(|begin| *begin > applied);
        begins.chain(state.barriers.iter().copied()).min().map_or(wanted, |first| first.min(wanted).max(applied))
    }

    /// For an updater that a barrier keeps from going on: waits until it is lifted, or a moment.
    pub fn wait_lifted(&self, at_most: Duration) {
        let journal = self.state.read().journal.clone();
        if let Some(journal) = journal {
            journal.wait_durable(Position { segment: u64::MAX, offset: u64::MAX }, at_most);
        }
    }

    /// The volumes are this far.
    pub fn applied(&self, applied: Position) {
        let mut state = self.state.write();
        state.applied = applied;
        state.points.retain(|point| point.up_to() > applied);
        let mut reached = false;
        for era in state.eras.iter_mut().filter(|era| era.begin <= applied) {
            reached |= era.pending.take().is_some();
        }
        if reached {
            self.recount(&state);
        }
    }

    /// Where the volumes are; steady only under [`Self::window`].
    #[must_use]
    pub fn applied_position(&self) -> Position {
        self.state.read().applied
    }

    /// An engine starts with volumes that are this far: what eras miss is indexed, so that their images read right at once.
    ///
    /// # Errors
    /// [`T0Error`].
    pub fn attach(&self, journal: &Arc<Journal>, applied: Position) -> Result<(), T0Error> {
        let _window = self.window.lock();
        let begins: Vec<(u64, Position)> =
            self.state.read().eras.iter().map(|era| (era.number, era.begin)).filter(|era| era.1 > applied).collect();
        let mut indexes = Vec::new();
        for (number, begin) in begins {
            indexes.push((number, Arc::new(self.index(journal, applied, begin)?)));
        }
        let mut state = self.state.write();
        state.journal = Some(Arc::clone(journal));
        state.indexed = None;
        state.points.clear();
        state.applied = applied;
        for era in &mut state.eras {
            era.pending = indexes.iter().find(|(number, _)| *number == era.number).map(|(_, index)| Arc::clone(index));
        }
        self.recount(&state);
        Ok(())
    }

    /// Places in the journal lose their meaning, and the volumes are behind all of them: durably, before this returns.
    ///
    /// # Errors
    /// What happened.
    pub fn all_reached(&self) -> Result<(), String> {
        let _window = self.window.lock();
        self.keep_followers()?;
        if let Some(watch) = self.watch.get().and_then(Weak::upgrade) {
            watch.on_all_reached(self.parts.group)?;
        }
        let mut state = self.state.write();
        for era in &mut state.eras {
            era.begin = Position::default();
            era.pending = None;
        }
        self.recount(&state);
        Ok(())
    }

    /// Keeps the updater from passing a place it has not passed.
    #[must_use]
    pub fn hold(self: &Arc<Self>, at: Position) -> Barrier {
        self.state.write().barriers.push(at);
        Barrier { eras: Arc::clone(self), at }
    }

    /// Begins an era at a place that the updater has not passed and is held at, or joins the one that is there. The file is
    /// durable when this returns; a user that is recorded nowhere is forgotten by the next restart.
    ///
    /// # Errors
    /// [`T0Error`].
    pub fn begin(&self, barrier: &Barrier, volumes: &BTreeSet<VolumeIndex>) -> Result<Joined, T0Error> {
        let begin = barrier.at;
        if let Some(joined) = self.join(begin, volumes) {
            return Ok(joined);
        }
        self.has_room(Held::default())?;
        let folder = &self.parts.folder;
        let made = self.parts.disk.create_folder(folder);
        made.map_err(|source| T0Error::Io { action: "make the folder", path: folder.clone(), source })?;
        let pending = self.index_until(begin)?;
        self.has_room(pending.as_ref().map_or_else(Held::default, |index| held_by(index)))?;
        let number = self.number_for(begin)?;
        let path = folder.join(file_name(number));
        let file = Arc::new(SideFile::create(&*self.parts.disk, &path, self.parts.group, number)?);
        self.parts.space.found(file.bytes());
        let user = EraUser { era: number, begin, volumes: volumes.clone() };
        let era = Era { pending, ..Era::new(&user, file) };
        let mut state = self.state.write();
        let at = state.eras.partition_point(|other| other.number < number);
        state.eras.insert(at, era);
        self.recount(&state);
        Ok(Joined { era: number, begin })
    }

    /// Joins the era that begins at a place, when nothing was overwritten there that a new user needs.
    fn join(&self, begin: Position, volumes: &BTreeSet<VolumeIndex>) -> Option<Joined> {
        let mut state = self.state.write();
        // Of what was copied, something may have been overwritten unsaved.
        let fits = |era: &&mut Era| era.begin == begin && volumes.is_subset(&era.volumes) && era.copied.is_empty();
        let era = state.eras.iter_mut().find(fits)?;
        era.users += 1;
        Some(Joined { era: era.number, begin })
    }

    /// One more user of an era that is there.
    ///
    /// # Errors
    /// [`T0Error::Gone`].
    pub fn share(&self, number: u64) -> Result<Joined, T0Error> {
        let mut state = self.state.write();
        let whole = |era: &&mut Era| era.number == number && era.copied.is_empty();
        let era = state.eras.iter_mut().find(whole).ok_or(T0Error::Gone)?;
        era.users += 1;
        Ok(Joined { era: number, begin: era.begin })
    }

    /// A user of an era is done with it soon, or is no longer there: while there is one, and room in the journal, the volumes are
    /// written later rather than that its image ends.
    pub fn set_brief(&self, number: u64, brief: bool) {
        if let Some(era) = self.state.write().eras.iter_mut().find(|era| era.number == number) {
            era.brief = if brief { era.brief + 1 } else { era.brief.saturating_sub(1) };
        }
    }

    /// Whether the volumes wait because nothing more can be saved: who is to be done soon should hurry.
    #[must_use]
    pub fn is_squeezed(&self) -> bool {
        self.squeezed.load(Ordering::Acquire)
    }

    /// Whether the volumes can wait: the journal, which takes what hosts write meanwhile, is not half full.
    pub(super) fn can_wait(&self) -> bool {
        let state = self.state.read();
        let has_room = |journal: &Arc<Journal>| journal.free_bytes() > journal.capacity_bytes() / 2;
        state.eras.iter().any(|era| era.brief > 0) && state.journal.as_ref().is_some_and(has_room)
    }

    /// A user has copied a range and will not read it again: when it is the only one, what is overwritten there is not saved for
    /// it any more.
    pub fn copied(&self, number: u64, extent: Extent) {
        let mut state = self.state.write();
        if let Some(era) = state.eras.iter_mut().find(|era| era.number == number && era.users == 1) {
            era.copied.add(extent);
            self.recount(&state);
        }
    }

    /// The updater of the engine that was attached last keeps an index of its own: images that begin behind its end go on from there, so that
    /// beginning one takes no longer when more lies between the volumes and its moment.
    pub fn indexed_by(&self, index: SharedIndex) {
        self.state.write().indexed = Some(index);
    }

    /// The updater's index as it is now, for images of moments before its end: the newest that does not go beyond an image is gone on from.
    /// Of too many, the one goes without which the largest stretch between two remains smallest.
    pub fn keep_index(&self, point: Indexed) {
        let mut state = self.state.write();
        let State { points, journal, applied, .. } = &mut *state;
        points.push(point);
        let Some(journal) = journal.as_ref().filter(|_| points.len() > INDEXES_MAX) else { return };
        let places: Vec<Position> = std::iter::once(*applied).chain(points.iter().map(Indexed::up_to)).collect();
        let apart = |around: &[Position]| match around {
            [before, _, behind] => journal.bytes_between(*before, *behind),
            _ => u64::MAX,
        };
        let least = places.windows(3).enumerate().min_by_key(|(_, around)| apart(around));
        if let Some((at, _)) = least {
            points.remove(at);
        }
    }

    /// Where these indexes end.
    #[must_use]
    pub fn indexes(&self) -> Vec<Position> {
        self.state.read().points.iter().map(Indexed::up_to).collect()
    }

    /// What others have indexed from one place and not beyond another.
    fn known(&self, from: Position, to: Position, spill: &Spill) -> Option<Indexed> {
        let fits = |index: &Indexed| (from..=to).contains(&index.up_to());
        // Whoever keeps an index holds the updater's and asks for the eras: never the other way.
        let updaters = self.state.read().indexed.clone();
        let shared = updaters.and_then(|updaters| {
            let updaters = updaters.lock();
            fits(&updaters).then(|| updaters.share(spill))
        });
        let kept = || self.state.read().points.iter().rev().find(|point| fits(point)).map(|point| point.share(spill));
        shared
            .or_else(kept)?
            .inspect_err(|error| tracing::warn!(%error, "the journal is indexed anew for an image"))
            .ok()
    }

    /// What the frames between two places write; the folder is there.
    fn index(&self, journal: &Arc<Journal>, from: Position, to: Position) -> Result<Indexed, T0Error> {
        let _alone = self.indexing.lock();
        let path = self.parts.folder.join("pending.index");
        let spill = Spill::new(Arc::clone(&self.parts.disk), path, self.parts.index_ranges_max);
        let mut index = self.known(from, to, &spill).unwrap_or_else(|| Indexed::from(from));
        index.go_on(journal, to, &spill).map_err(|error| match error {
            IndexError::Journal(error) => T0Error::Journal(error),
            IndexError::Frame(error) => T0Error::Frame(error),
        })?;
        Ok(index)
    }

    fn index_until(&self, begin: Position) -> Result<Option<Arc<Indexed>>, T0Error> {
        loop {
            let (journal, applied) = {
                let state = self.state.read();
                (state.journal.clone(), state.applied)
            };
            let Some(journal) = journal.filter(|_| applied < begin) else {
                return if applied > begin { Err(T0Error::Passed) } else { Ok(None) };
            };
            match self.index(&journal, applied, begin) {
                Ok(index) => return Ok(Some(Arc::new(index))),
                // The updater went on meanwhile.
                Err(T0Error::Journal(JournalError::Trimmed { .. })) if self.applied_position() > applied => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Behind those that begin no later, before those that the volumes reach later.
    fn number_for(&self, begin: Position) -> Result<u64, T0Error> {
        let mut state = self.state.write();
        let later = state.eras.partition_point(|era| era.begin <= begin.max(state.applied));
        let before = later.checked_sub(1).and_then(|last| state.eras.get(last)).map_or(0, Era::files_end);
        let next = state.eras.get(later).map(|era| era.number);
        let spent = state.spent.last().copied().unwrap_or(0);
        let mut number = next.map_or(before.max(spent) + STEP, |next| before + next.saturating_sub(before) / 2);
        while state.spent.contains(&number) {
            number += 1;
        }
        if number <= before || next.is_some_and(|next| number >= next) {
            return Err(T0Error::Passed);
        }
        state.spent.insert(number);
        Ok(number)
    }

    /// A user goes. Without users an era becomes part of the next older one that has some; without one, it is gone and its space
    /// is given back.
    pub fn leave(&self, number: u64) {
        // Not while its file is being written.
        let _window = self.window.lock();
        let mut state = self.state.write();
        let Some(at) = state.eras.iter().position(|era| era.number == number) else { return };
        if let Some(era) = state.eras.get_mut(at) {
            era.users = era.users.saturating_sub(1);
            if era.users > 0 {
                return;
            }
        }
        let era = state.eras.remove(at);
        match at.checked_sub(1).and_then(|older| state.eras.get_mut(older)) {
            Some(older) => {
                older.concordance.merge(&era.concordance);
                older.files.extend(era.files);
                self.recount(&state);
            }
            None => {
                self.recount(&state);
                drop(state);
                self.remove_files(&era.files);
            }
        }
    }

    pub(super) fn remove_files(&self, files: &[Arc<SideFile>]) {
        for file in files {
            if let Err(error) = self.parts.disk.remove(file.path()) {
                tracing::warn!(path = %file.path().display(), %error, "a side file could not be removed; the next start does it");
            }
            self.parts.space.give(file.bytes());
        }
    }

    /// Bytes that an era keeps from being given back: its own files and those of eras it swallowed.
    #[must_use]
    pub fn bytes_of(&self, number: u64) -> u64 {
        self.state.read().eras.iter().find(|era| era.number == number).map_or(0, Era::bytes)
    }

    /// Tells what the frames between the volumes and the begin of an era write to a volume; nothing when they have reached it.
    ///
    /// # Errors
    /// [`T0Error::Index`].
    pub fn each_pending(&self, number: u64, volume: VolumeIndex, tell: impl FnMut(Extent)) -> Result<(), T0Error> {
        let state = self.state.read();
        let pending = state.eras.iter().find(|era| era.number == number).and_then(|era| era.pending.clone());
        drop(state);
        pending.map_or(Ok(()), |pending| Ok(pending.each_range(volume, tell)?))
    }

    /// Ranges in the index of what the volumes miss of an era: in memory, and on the disk.
    #[must_use]
    pub fn pending_ranges(&self, number: u64) -> (usize, usize) {
        let state = self.state.read();
        let pending = state.eras.iter().find(|era| era.number == number).and_then(|era| era.pending.as_ref());
        pending.map_or((0, 0), |pending| pending.ranges())
    }

    /// Whether there are no eras.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.state.read().eras.is_empty()
    }

    /// Whether it is there.
    #[must_use]
    pub fn has(&self, number: u64) -> bool {
        self.state.read().eras.iter().any(|era| era.number == number)
    }

    /// Whether the volumes hold all that came before it.
    #[must_use]
    pub fn is_reached(&self, number: u64) -> bool {
        let state = self.state.read();
        state.eras.iter().any(|era| era.number == number && era.pending.is_none())
    }

    /// A range of the image at the begin of an era: what was saved since, what the volumes miss, and what is in them.
    pub(super) fn locate(&self, number: u64, extent: Extent) -> Result<Vec<Piece<Place>>, T0Error> {
        let state = self.state.read();
        let own = state.eras.iter().position(|era| era.number == number).ok_or(T0Error::Gone)?;
        let mut located = Vec::new();
        state.locate_in(own, own, extent, &mut located);
        drop(state);
        let mut pieces = Vec::with_capacity(located.len());
        for found in located {
            match found {
                Found::Here(piece) => pieces.push(piece),
                Found::Pending(look, journal) => pieces.extend(look.pieces()?.into_iter().map(|piece| Piece {
                    extent: piece.extent,
                    location: piece.location.map(|location| Place::Pending(location, Arc::clone(&journal))),
                })),
            }
        }
        Ok(pieces)
    }

    /// Whether any of a range was saved since the begin of an era.
    pub(super) fn is_saved(&self, number: u64, extent: Extent) -> bool {
        let state = self.state.read();
        let since = state.eras.iter().skip_while(|era| era.number != number);
        since.flat_map(|era| era.concordance.pieces(extent)).any(|piece| piece.location.is_some())
    }
}

impl Era {
    /// The largest number among its files: eras it swallowed had larger ones than its own.
    fn files_end(&self) -> u64 {
        self.files.iter().map(|file| file.number()).max().unwrap_or(self.number)
    }
}

impl State {
    fn locate_in(&self, own: usize, at: usize, extent: Extent, located: &mut Vec<Found>) {
        let Some(era) = self.eras.get(at) else {
            self.locate_unsaved(own, extent, located);
            return;
        };
        for piece in era.concordance.pieces(extent) {
            match piece.location {
                Some(saved) => {
                    let file = match &saved {
                        Saved::Zero => None,
                        Saved::Data(place) => super::concordance::file_of(&era.files, place),
                    };
                    let location = Some(Place::Saved(saved, file));
                    located.push(Found::Here(Piece { extent: piece.extent, location }));
                }
                None => self.locate_in(own, at + 1, piece.extent, located),
            }
        }
    }

    fn locate_unsaved(&self, own: usize, extent: Extent, located: &mut Vec<Found>) {
        let pending = self.eras.get(own).and_then(|era| era.pending.as_ref()).zip(self.journal.as_ref());
        located.push(match pending {
            None => Found::Here(Piece { extent, location: None }),
            Some((pending, journal)) => Found::Pending(pending.look(extent), Arc::clone(journal)),
        });
    }
}

/// The side file of an era.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:016x}.side")
}

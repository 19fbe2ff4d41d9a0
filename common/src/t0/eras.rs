//! The eras of one group: where each begins, what it saved, who uses it. The updater asks before every window how far it may
//! go, and has saved what the window overwrites; whoever wants an image begins an era or joins one.
//!
//! Two locks, in this order: `window`, held by the updater for a whole window, and `state`, for moments only.

mod indexes;
mod locate;
mod swallowed;
mod users;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::task::block_in_place;

pub use self::indexes::INDEXES_MAX;
pub(super) use self::locate::Place;
use super::concordance::{Concordance, Copied};
use super::follow::Follower;
use super::side_file::{SideError, SideFile};
use super::space::{Full, Held, SideSpace};
use crate::ids::{GroupId, VolumeIndex};
use crate::journal::{Journal, JournalError, Position};
use crate::overlay::run::RunError;
use crate::overlay::unapplied::{Indexed, SharedIndex};
use crate::record::{FrameError, MarkerRecord};
use crate::storage::{Disk, is_no_space};
use crate::wire::message::VolumeSpec;

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
    /// All numbers between two eras are given out.
    #[error(
        "there are too many images, or have been, between those before and behind that marker: delete some of them, or name another marker"
    )]
    Crowded,
    /// Images have taken all that there is for them.
    #[error("{0}: delete images that are not needed, let backups and splits come to their end, or raise it")]
    Full(#[from] Full),
    /// No engine has started with the volumes.
    #[error("its group does not run, and what its volumes lack of that moment is not known")]
    NotRunning,
    /// Nothing has this number.
    #[error("it is gone")]
    Gone,
    /// What lies between the volumes and the begin of an image.
    #[error(transparent)]
    Index(#[from] RunError),
    /// A folder or a file.
    #[error("{action} {}: {source}{}", path.display(), room(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What to do about a full disk.
fn room(error: &std::io::Error) -> &'static str {
    if is_no_space(error) { ". Make room there, or delete images that are not needed" } else { "" }
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
    /// The record of one that has left may be there still.
    may_be_named: bool,
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
    /// Eras that are just being begun, and have no file yet: their numbers, and where they begin.
    coming: Vec<(u64, Position)>,
    /// Numbers given out since the start, and those it found: whoever still holds an image that is gone, and a record or a file that could
    /// not be removed, must not find another under its number, nor an older one.
    pub(super) spent: BTreeSet<u64>,
    /// Numbers that a start may find though their eras are gone: of files that are being removed or could not be, which it would take for saved by
    /// an older era, and of records that do not say yet that their images are broken, with which it would give up the older ones.
    pub(super) left: BTreeSet<u64>,
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

impl Era {
    pub(super) fn new(user: &EraUser, file: Arc<SideFile>) -> Self {
        Self {
            number: user.era,
            begin: user.begin,
            users: 1,
            brief: 0,
            may_be_named: false,
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

    /// For the updater: no era goes, and no engine is changed, while a window is under way. Who waits for one that stands before a disk keeps no
    /// thread by which others are heard.
    pub fn window(&self) -> MutexGuard<'_, ()> {
        self.window.try_lock().unwrap_or_else(|| block_in_place(|| self.window.lock()))
    }

    /// The same, for whoever keeps others waiting meanwhile. `None`: a window is not over within this time, because a disk does not answer.
    #[must_use]
    pub fn window_within(&self, limit: Duration) -> Option<MutexGuard<'_, ()>> {
        self.window.try_lock().or_else(|| block_in_place(|| self.window.try_lock_for(limit)))
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
        let _window = self.window();
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
        let _window = self.window();
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

    /// Whether the volumes wait because nothing more can be saved.
    #[must_use]
    pub fn is_squeezed(&self) -> bool {
        self.squeezed.load(Ordering::Acquire)
    }

    /// Whether who is to be done soon should hurry: the volumes wait, or those of another group do while something is kept here, for the side
    /// store is one for all. Hosts that write a target themselves cannot wait: for them it is time while there is room still.
    #[must_use]
    pub fn must_hurry(&self) -> bool {
        let space = &self.parts.space;
        let is_time = space.is_waited_for() || !self.parts.outlive && space.is_half_full();
        self.is_squeezed() || is_time && self.keep_something()
    }

    fn keep_something(&self) -> bool {
        self.state.read().eras.iter().any(|era| era.concordance.ranges() > 0)
    }

    /// The volumes wait because nothing more can be saved, or do no longer.
    pub(super) fn squeeze(&self, now: bool) {
        if self.squeezed.swap(now, Ordering::AcqRel) != now {
            self.parts.space.waits(now);
        }
    }

    /// Whether the volumes can wait: the journal, which takes what hosts write meanwhile, is not half full.
    pub(super) fn can_wait(&self) -> bool {
        let state = self.state.read();
        let has_room = |journal: &Arc<Journal>| journal.free_bytes() > journal.capacity_bytes() / 2;
        state.eras.iter().any(|era| era.brief > 0) && state.journal.as_ref().is_some_and(has_room)
    }

    /// Bytes that an era keeps from being given back: its own files and those of eras it swallowed.
    #[must_use]
    pub fn bytes_of(&self, number: u64) -> u64 {
        self.state.read().eras.iter().find(|era| era.number == number).map_or(0, Era::bytes)
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

    /// Whether what the volumes lack of it is not known: no engine has started with them yet, and what is recorded of them lies before it.
    #[must_use]
    pub(crate) fn is_unknown(&self, number: u64) -> bool {
        let state = self.state.read();
        state.eras.iter().any(|era| era.number == number && !state.knows(era))
    }

    /// Whether the volumes hold all that came before it.
    #[must_use]
    pub fn is_reached(&self, number: u64) -> bool {
        let state = self.state.read();
        state.eras.iter().any(|era| era.number == number && era.pending.is_none())
    }
}

/// The side file of an era.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:016x}.side")
}

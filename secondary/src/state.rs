//! What a secondary knows of its copy, shared by the intake, the updater, the acknowledgements and status.

mod looking;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tidemark_common::catalog::GroupVolume;
use tidemark_common::clock::Clock;
use tidemark_common::forecast::Forecast;
use tidemark_common::history::History;
use tidemark_common::journal::{DurableEnd, Journal, Position};
use tidemark_common::markers::Markers;
use tidemark_common::record::{ControlRecord, MarkerRecord};
use tidemark_common::repeats::Recurring;
use tidemark_common::sentences::joined;
use tidemark_common::updater::AppliedPosition;
use tidemark_common::wire::message::{Message, Position as Remote, VolumeSpec};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::looking::Looking;
use crate::as_of::AsOf;
use crate::permission::{Permission, Permitted};
use crate::points::Points;

/// What the primary said of the time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heard {
    /// Newest heartbeat of this connection.
    pub heartbeat: u64,
    /// When it was heard, monotonic.
    pub at: Option<Duration>,
    /// Newest number the primary gave out as of then.
    pub captured_seq: u64,
    /// The newest moment of which all writes are in a permitted marker.
    pub as_of: AsOf,
}

#[derive(Debug, Default)]
struct Inner {
    permission: Permission,
    durable: DurableEnd,
    applied: AppliedPosition,
    heard: Heard,
    /// What a person must look at, by whom it concerns.
    problems: [Option<String>; 2],
    /// The updater has applied up to here and given back all it could.
    at_rest: Position,
    /// Nothing is applied beyond these while somebody looks at the image there.
    held: Vec<Position>,
    /// Markers whose images somebody looks at.
    looked_at: Vec<Permitted>,
    /// Which markers are moments of the image.
    points: Points,
    /// What is to be kept behind the newest marker.
    asked: History,
    /// Nothing is applied beyond this, so that the markers from there on can be had.
    floor: Option<Position>,
    /// The journal had no room for all that was asked for.
    shortened: bool,
    /// The newest marker that was said to be applied while there was a history: the copy serves it, wherever its volumes are.
    told_applied: u64,
}

/// The history as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// What was asked for.
    pub asked: History,
    /// From where on; `None`: nothing is kept.
    pub floor: Option<Position>,
    /// The journal had no room for all that was asked for.
    pub shortened: bool,
}

/// Whom a problem concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// Taking frames in.
    Intake,
    /// Applying them.
    Updater,
}

impl Concern {
    /// What the log says of a problem, and of its end.
    const fn logged_as(self) -> (&'static str, &'static str) {
        match self {
            Self::Intake => ("the copy has no room for what comes", "the copy takes what comes again"),
            Self::Updater => ("the copy cannot apply what it has", "the copy applies what it has again"),
        }
    }
}

/// The state of one copy.
pub struct CopyState {
    /// The group's name, for the log.
    group: String,
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
    /// Permission or applied position moved, or it is time to stop.
    moved: Condvar,
    version: watch::Sender<u64>,
    stop: AtomicBool,
    /// What takes long is left in the middle.
    leave: Arc<AtomicBool>,
    /// Cancelled when the journal is found to be damaged.
    damage: CancellationToken,
    /// The markers held.
    pub markers: Markers,
    /// When the journal will be full.
    pub forecast: Forecast,
    /// The volumes may hold writes up to here since before the last restart.
    pub may_hold: Position,
    /// The journal was full, and has not had ample room since.
    full: AtomicBool,
    /// What was logged of problems, by whom they concern.
    logged: [Recurring; 2],
}

impl std::fmt::Debug for CopyState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyState").field("group", &self.group).field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl CopyState {
    /// The state of a group's copy after recovery.
    #[must_use]
    pub fn new(
        group: String,
        clock: Arc<dyn Clock>,
        permission: Permission,
        durable: DurableEnd,
        applied: AppliedPosition,
        points: Points,
    ) -> Self {
        let time_ns = permission.permitted().map_or(0, |permitted| permitted.marker.time_ns);
        let heard = Heard { as_of: AsOf::of_marker(time_ns), ..Heard::default() };
        Self {
            group,
            clock,
            inner: Mutex::new(Inner { permission, durable, applied, heard, points, ..Inner::default() }),
            moved: Condvar::new(),
            version: watch::Sender::default(),
            stop: AtomicBool::new(false),
            leave: Arc::default(),
            damage: CancellationToken::new(),
            markers: Markers::default(),
            forecast: Forecast::default(),
            may_hold: Position::default(),
            full: AtomicBool::new(false),
            logged: <[Recurring; 2]>::default(),
        }
    }

    /// Changes that concern whoever acknowledges.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn changed(&self) {
        self.moved.notify_all();
        self.version.send_modify(|version| *version += 1);
    }

    /// Frames are durable here: their control records, in order, and the journal's end. Returns how often that moved the
    /// permitted marker.
    pub fn durable(&self, records: &[(ControlRecord, Position)], end: &DurableEnd) -> u64 {
        let mut inner = self.inner.lock();
        let mut moves = 0;
        for (record, position) in records {
            let before = inner.permitted_marker();
            inner.permission.durable(record, *position);
            moves += u64::from(inner.permitted_marker() != before);
            let Inner { permission, points, .. } = &mut *inner;
            points.durable(record, *position, permission, &self.markers);
        }
        inner.durable = *end;
        inner.improve();
        drop(inner);
        self.changed();
        moves
    }

    /// Since when the image has its volumes, and which they are.
    #[must_use]
    pub(crate) fn image_begins(&self) -> (Position, Vec<GroupVolume>) {
        let inner = self.inner.lock();
        (inner.points.begins(), inner.points.members().to_vec())
    }

    /// The image's volumes as they were at a marker that ends at a place; `None`: it is not known how large they were.
    #[must_use]
    pub fn volumes_at(&self, end: Position) -> Option<Arc<[VolumeSpec]>> {
        self.inner.lock().points.volumes_at(end).cloned()
    }

    /// Whether the image has had its volumes since a marker that ends at a place, and it is known how large they were there.
    #[must_use]
    pub fn tells_of(&self, end: Position) -> bool {
        self.inner.lock().points.tells_of(end)
    }

    /// The oldest marker at which it is known how large the volumes were.
    #[must_use]
    pub fn oldest_with_sizes(&self) -> Option<MarkerRecord> {
        let from = self.inner.lock().points.sizes_known_from()?;
        self.markers.oldest_from(from)
    }

    /// The journal begins here: of what was before, nobody asks any more.
    pub fn trimmed(&self, oldest: Position) {
        self.markers.trim(oldest);
        self.inner.lock().points.trim(oldest);
    }

    /// The history as it is.
    #[must_use]
    pub fn history(&self) -> Kept {
        let inner = self.inner.lock();
        Kept { asked: inner.asked, floor: inner.floor, shortened: inner.shortened }
    }

    /// What is to be kept behind the newest marker.
    pub fn ask_history(&self, asked: History) {
        self.inner.lock().asked = asked;
        self.changed();
    }

    /// Nothing is applied beyond a place. It is recorded already; `None`: nothing is kept any more.
    pub(crate) fn set_floor(&self, floor: Option<Position>) {
        let mut inner = self.inner.lock();
        inner.told_applied = inner.told_applied.max(inner.applied_marker());
        inner.floor = floor;
        if floor.is_none() {
            inner.shortened = false;
        }
        drop(inner);
        self.changed();
    }

    /// The journal had no room for all that was asked for; or it is all there again.
    pub(crate) fn set_shortened(&self, shortened: bool) -> bool {
        std::mem::replace(&mut self.inner.lock().shortened, shortened) != shortened
    }

    /// A heartbeat came.
    pub fn heartbeat(&self, number: u64, as_of_ms: i64, captured_seq: u64, now: Duration) {
        let mut inner = self.inner.lock();
        // They are counted by connection.
        let first = number <= inner.heard.heartbeat;
        inner.heard.heartbeat = number;
        inner.heard.at = Some(now);
        inner.heard.captured_seq = captured_seq;
        let permitted = inner.permission.permitted_seq().0;
        inner.heard.as_of.heartbeat(first, as_of_ms, captured_seq, permitted, now);
        inner.improve();
        drop(inner);
        self.changed();
    }

    /// Something came from the primary.
    pub fn heard(&self, now: Duration) {
        self.inner.lock().heard.at = Some(now);
    }

    /// What was heard.
    #[must_use]
    pub fn last_heard(&self) -> Heard {
        self.inner.lock().heard
    }

    /// The volumes are this far.
    pub fn applied(&self, applied: AppliedPosition) {
        let mut inner = self.inner.lock();
        inner.applied = applied;
        inner.permission.passed(applied.position);
        drop(inner);
        self.changed();
    }

    /// How far the volumes are.
    #[must_use]
    pub fn applied_position(&self) -> AppliedPosition {
        self.inner.lock().applied
    }

    /// Permission as it is now.
    #[must_use]
    pub fn permission(&self) -> Permission {
        self.inner.lock().permission.clone()
    }

    /// These are let go.
    pub fn forget_left(&self, members: &[GroupVolume]) {
        self.inner.lock().permission.forget_left(members);
    }

    /// What is permitted, and the journal's durable end at that moment.
    #[must_use]
    pub fn limit_and_end(&self) -> (Position, Position) {
        let inner = self.inner.lock();
        (inner.permission.limit(), inner.durable.position)
    }

    /// The journal's durable end.
    #[must_use]
    pub fn durable_end(&self) -> DurableEnd {
        self.inner.lock().durable
    }

    /// What the primary is told.
    #[must_use]
    pub fn acknowledgement(&self, journal_free_bytes: u64) -> Message {
        let heard = self.last_heard();
        Message::Ack {
            position: self.position(),
            heartbeat: heard.heartbeat,
            good_as_of_ms: heard.as_of.good_ms(),
            journal_free_bytes,
        }
    }

    /// How far this side is, for the primary.
    #[must_use]
    pub fn position(&self) -> Remote {
        let inner = self.inner.lock();
        let permission = &inner.permission;
        let copy = permission.copy();
        let permitted_marker = inner.permitted_marker();
        let (copy_volume, copy_offset) = copy.map_or((0, 0), |copy| copy.cursor);
        Remote {
            durable_seq: inner.durable.seq.0,
            received_marker: permission.received().0,
            permitted_marker,
            permitted_seq: permission.permitted_seq().0,
            // While a first copy runs, what is applied is no marker's image yet.
            applied_marker: inner.applied_marker(),
            copy: copy.map_or(0, |copy| copy.number),
            copy_volume,
            copy_offset,
        }
    }

    /// Waits until more than `applied` may be applied, or it is time to stop. The limit then.
    pub(crate) fn wait_for_limit(&self, applied: Position, at_most: Duration) -> Position {
        let mut inner = self.inner.lock();
        if inner.limit() <= applied && !self.is_stopping() {
            self.moved.wait_for(&mut inner, at_most);
        }
        inner.limit()
    }

    /// How far may be applied now.
    #[must_use]
    pub fn limit(&self) -> Position {
        self.inner.lock().limit()
    }

    /// Nothing is applied beyond the permitted marker of now while the hold lives. `None`: there is no image to hold.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Option<Hold> {
        let mut inner = self.inner.lock();
        let permitted = inner.permission.image()?.clone();
        inner.held.push(permitted.end);
        drop(inner);
        Some(Hold { state: Arc::clone(self), permitted })
    }

    /// The updater has applied up to here and given back all it could.
    pub fn rests(&self, at: Position) {
        self.inner.lock().at_rest = at;
        self.moved.notify_all();
    }

    /// Whether no more space comes back before more is permitted.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        let inner = self.inner.lock();
        inner.at_rest >= inner.permission.limit()
    }

    /// Whether the volumes are what this side was before it returned.
    #[must_use]
    pub fn keeps_before(&self) -> bool {
        self.inner.lock().permission.keeps_before()
    }

    /// What this side was before is given up, which is recorded already.
    pub fn give_up_before(&self) {
        self.inner.lock().permission.give_up_before();
        self.changed();
    }

    /// Whether what came last could not be taken, and all that is permitted is applied.
    #[must_use]
    pub(crate) fn is_refusing_at_rest(&self) -> bool {
        self.is_at_rest() && self.inner.lock().problems.get(Concern::Intake as usize).is_some_and(Option::is_some)
    }

    /// Waits for the updater to give space back.
    pub(crate) fn wait_for_room(&self, at_most: Duration) {
        let mut inner = self.inner.lock();
        self.moved.wait_for(&mut inner, at_most);
    }

    /// The journal is damaged: it is of no use to take more of it.
    pub fn found_damage(&self) {
        self.damage.cancel();
    }

    /// Cancelled when the journal is found to be damaged.
    #[must_use]
    pub fn damage(&self) -> CancellationToken {
        self.damage.clone()
    }

    /// [`Self::stop`], in the middle of what the updater does if that takes long: who asks for it goes on from the journal.
    pub fn stop_at_once(&self) {
        self.leave.store(true, Ordering::Release);
        self.stop();
    }

    /// Set by [`Self::stop_at_once`].
    #[must_use]
    pub fn left(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.leave)
    }

    /// Ends the updater and the intake; the volumes stand behind a write then, as all those before it have left them.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let _inner = self.inner.lock();
        self.moved.notify_all();
    }

    /// Whether it is time to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// What a person must look at; `None` when it is over. Returns whether it is one that was not known.
    pub(crate) fn set_problem(&self, concern: Concern, problem: Option<String>) -> bool {
        if let Some(problem) = &problem {
            self.log_problem(concern, problem);
        }
        let mut inner = self.inner.lock();
        let Some(known) = inner.problems.get_mut(concern as usize) else { return false };
        if *known == problem {
            return false;
        }
        *known = problem;
        let is_new = known.is_some();
        drop(inner);
        self.changed();
        if !is_new && self.logged.get(concern as usize).is_some_and(Recurring::ends) {
            tracing::info!(group = %self.group, "{}", concern.logged_as().1);
        }
        is_new
    }

    /// A journal that empties slowly is full again and again.
    fn log_problem(&self, concern: Concern, problem: &str) {
        let (Some(logged), now) = (self.logged.get(concern as usize), self.clock.monotonic()) else { return };
        let left_out = match concern {
            // It is always about room.
            Concern::Intake => logged.stands_anywhere(problem, now),
            Concern::Updater => logged.stands(problem, now),
        };
        if let Some(left_out) = left_out {
            tracing::error!(group = %self.group, %problem, left_out, "{}", concern.logged_as().0);
        }
    }

    /// There was no room for a frame: in the journal, or on the disk under it. Returns whether nobody knew.
    pub(crate) fn no_room(&self, journal_is_full: bool, problem: String) -> bool {
        self.full.store(journal_is_full, Ordering::Release);
        self.set_problem(Concern::Intake, Some(problem))
    }

    /// A frame was taken. That the journal is full is not over by that: one that empties slowly would say so again and again.
    pub fn taken(&self) {
        if !self.full.load(Ordering::Acquire) {
            self.set_problem(Concern::Intake, None);
        }
    }

    /// The journal, as it is now: with ample room, that it was full is over.
    pub fn has_room(&self, journal: &Journal) {
        let ample = (journal.capacity_bytes() / 8).max(2 * journal.segment_bytes()).min(journal.capacity_bytes() / 2);
        if self.full.load(Ordering::Acquire) && journal.free_bytes() >= ample {
            self.full.store(false, Ordering::Release);
            self.set_problem(Concern::Intake, None);
        }
    }

    /// What a person must look at, of one concern.
    #[must_use]
    pub fn problem_of(&self, concern: Concern) -> Option<String> {
        self.inner.lock().problems.get(concern as usize).cloned().flatten()
    }

    /// What a person must look at: first what keeps it from being applied, which may be why there is no room for more.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        joined(self.inner.lock().problems.iter().rev().cloned())
    }
}

/// The image at a marker, kept as it is.
#[derive(Debug)]
pub struct Hold {
    state: Arc<CopyState>,
    /// The marker.
    pub permitted: Permitted,
}

impl Hold {
    /// Whether all of the image is in the volumes.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.state.inner.lock().at_rest >= self.permitted.end
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        {
            let mut inner = self.state.inner.lock();
            if let Some(at) = inner.held.iter().position(|held| *held == self.permitted.end) {
                inner.held.swap_remove(at);
            }
        }
        self.state.moved.notify_all();
    }
}

impl Inner {
    /// How far may be applied.
    fn limit(&self) -> Position {
        let limit = self.permission.limit();
        self.held.iter().chain(&self.floor).min().map_or(limit, |held| limit.min(*held))
    }

    /// The newest marker that the copy is done with: its volumes hold it, or hold back on purpose.
    fn applied_marker(&self) -> u64 {
        let permitted = self.permitted_marker();
        let applied = if self.floor.is_some() { permitted } else { self.applied.marker.0.max(self.told_applied) };
        applied.min(permitted)
    }

    fn permitted_marker(&self) -> u64 {
        self.permission.permitted().map_or(0, |permitted| permitted.marker.number)
    }

    /// Moves the time as of which the copy is good, by markers and by heartbeats that a permitted marker has reached.
    fn improve(&mut self) {
        if self.permission.copy().is_some() {
            // What is captured is permitted, and yet the copy may lack a whole volume.
            return;
        }
        if let Some(permitted) = self.permission.permitted() {
            let seq = self.permission.permitted_seq().0;
            self.heard.as_of.reached(seq, permitted.marker.time_ns);
        }
    }
}

#[cfg(test)]
mod tests;

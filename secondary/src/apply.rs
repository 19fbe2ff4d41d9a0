//! The secondary's updater thread: applies what is permitted, records how far, trims (invariants 4, 5, 6).

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::catalog::{Batch, GroupVolume, HistoryRecord, KeptMarkerRecord};
use tidemark_common::clock::Clock;
use tidemark_common::journal::{Journal, Position};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::markers::kept;
use tidemark_common::metrics::{GroupMetrics, Part};
use tidemark_common::overlay::unapplied::{IndexError, Indexed, SharedIndex, Spill};
use tidemark_common::record::MarkerRecord;
use tidemark_common::t0::Eras;
use tidemark_common::t0::eras::INDEXES_MAX;
use tidemark_common::updater::{AppliedPosition, Updater};
use tidemark_common::volumes::Volumes;

use crate::group::SecondaryParts;
use crate::history::{self, Room};
use crate::intake::{CopyVolumes, TRIES};
use crate::permission::{Permission, Permitted};
use crate::state::{Concern, CopyState, Kept};

/// How long a failing volume is left alone before the next try, and how long an idle thread sleeps.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes of the journal that may be permitted and neither applied nor indexed: what a failover has to read, some tens of milliseconds.
const UNINDEXED_BYTES_MAX: u64 = 64 << 20;
/// The same with a history, where all of it is indexed anyway: bytes that compress well are many writes, and an image of an older marker reads
/// as many at least.
const UNINDEXED_HISTORY_BYTES_MAX: u64 = 2 << 20;
/// How long a barrier is waited for before the next look; it wakes who waits.
const BARRIER_LOOK: Duration = Duration::from_millis(20);
/// How often it is looked whether the history still has to give room.
const ROOM_LOOK: Duration = Duration::from_millis(50);

/// The updater thread of a copy.
pub struct Apply {
    /// The updater.
    pub updater: Updater,
    /// What it writes.
    pub volumes: Arc<Volumes>,
    /// What it reads.
    pub journal: Arc<Journal>,
    /// What it may apply, and where it says how far it is.
    pub(crate) state: Arc<CopyState>,
    /// Where it records that.
    keeper: Arc<GroupKeeper>,
    /// What passes are timed by.
    pub(crate) clock: Arc<dyn Clock>,
    /// Where figures go.
    metrics: GroupMetrics,
    /// Who has the copy volumes.
    provider: Arc<dyn CopyVolumes>,
    /// What images of older moments need.
    eras: Arc<Eras>,
    /// The set of volumes settled last.
    settled: Option<Vec<GroupVolume>>,
    /// The newest marker recorded.
    recorded_marker: u64,
    /// The index of what is permitted and not yet applied, as far as there is one.
    pub indexed: SharedIndex,
    /// An index of what has come behind that and may be permitted next.
    ahead: Option<Ahead>,
    /// What keeps them within their bounds.
    pub spill: Spill,
    /// When the history was looked at last.
    history_seen: Option<Duration>,
    /// Why its floor could not be moved when that was tried last: nothing is applied beyond it.
    unmoved: Option<String>,
    /// Why the index of what is permitted goes no further: the journal cannot be read there, and a failover could not read it either.
    unindexed: Option<String>,
    /// How often in a row the disk did not give out what the index needs, and when that was counted last.
    unread: (u32, Duration),
    /// How often in a row the journal could not be read where it goes on.
    unreadable: u32,
    /// The journal may hold segments of which all is applied.
    untrimmed: bool,
}

/// An index of what lies behind the permitted limit.
#[derive(Debug)]
struct Ahead {
    begin: Position,
    indexed: Indexed,
    /// The disk takes nothing of it, and memory is not for what may not be needed.
    given_up: bool,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applying {
    /// Volumes were written.
    Did,
    /// All that is permitted is applied.
    Idle,
    /// What images need must be read first: it is tried again soon.
    Waits,
    /// A volume or the journal failed: it is tried again later.
    Failed,
}

impl std::fmt::Debug for Apply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Apply").field("updater", &self.updater).finish_non_exhaustive()
    }
}

impl Apply {
    /// Of a copy that was just opened.
    pub(crate) fn new(
        parts: &SecondaryParts,
        updater: Updater,
        journal: &Arc<Journal>,
        state: &Arc<CopyState>,
        indexed: &SharedIndex,
    ) -> Self {
        let path = parts.journal_folder.with_extension("index");
        Self {
            updater,
            volumes: Arc::clone(&parts.volumes),
            journal: Arc::clone(journal),
            state: Arc::clone(state),
            keeper: Arc::clone(&parts.keeper),
            clock: Arc::clone(&parts.clock),
            metrics: parts.metrics.clone(),
            provider: Arc::clone(&parts.provider),
            eras: Arc::clone(&parts.eras),
            settled: None,
            recorded_marker: 0,
            indexed: Arc::clone(indexed),
            ahead: None,
            spill: Spill::new(Arc::clone(&parts.disk), path, parts.index_ranges_max),
            history_seen: None,
            unmoved: None,
            unindexed: None,
            unread: (0, Duration::ZERO),
            unreadable: 0,
            untrimmed: true,
        }
    }

    /// Applies until told to stop. What is permitted and not yet applied then stays in the journal: a failover reads it
    /// there, by the index, so that its time does not grow with the backlog.
    pub fn run(mut self) {
        let mut has_more_ahead = false;
        while !self.state.is_stopping() {
            self.keep_history();
            let at = self.updater.applied().position;
            let end = self.journal.durable_end().position;
            let permitted = self.state.wait_for_limit(at, if has_more_ahead { Duration::ZERO } else { RETRY });
            let (limit, durable) = self.state.limit_and_end();
            let has_history = self.state.history().floor.is_some();
            let unindexed_max = if has_history { UNINDEXED_HISTORY_BYTES_MAX } else { UNINDEXED_BYTES_MAX };
            self.index_permitted(limit, unindexed_max);
            has_more_ahead = !self.state.is_stopping() && self.look_ahead(limit, durable, UNINDEXED_BYTES_MAX);
            let limit = self.eras.limit(at, permitted);
            if limit <= at && at < permitted {
                // An image is just being begun.
                self.eras.wait_lifted(BARRIER_LOOK);
                continue;
            }
            match self.step(limit) {
                Applying::Did => {}
                Applying::Idle if !has_more_ahead && self.journal.durable_end().position == end => {
                    self.updater.rest();
                    self.journal.rest();
                }
                Applying::Idle => {}
                Applying::Waits => Updater::wait_for_images(),
                Applying::Failed if self.state.is_stopping() => return,
                Applying::Failed => self.state.wait_for_room(RETRY),
            }
        }
        let members = self.members_so_far();
        if let Err(problem) = self.record(&members) {
            self.report(problem);
        }
        // What is left to read, the failover reads; it may want less.
        self.take_over_ahead(self.state.limit_and_end().0);
    }

    /// Indexes what is permitted, when more than so many bytes of it are neither applied nor indexed. Where the disk takes no runs, as much as
    /// memory is for: a failover reads the rest.
    pub fn index_permitted(&mut self, limit: Position, unindexed_max: u64) {
        self.take_over_ahead(limit);
        let mut indexed = self.indexed.lock();
        let is_due = self.journal.bytes_between(indexed.up_to(), limit) > unindexed_max;
        let gone_on = is_due.then(|| indexed.go_on_within(&self.journal, limit, &self.spill));
        self.keep_index(&indexed, unindexed_max);
        drop(indexed);
        match gone_on {
            Some(gone_on) => self.note_permitted(gone_on),
            // Whatever was in the way, the volumes have it.
            None => self.index_goes_on(),
        }
    }

    /// With a history the updater comes to it a day later, and until then only a failover would find out that it cannot be read.
    fn note_permitted(&mut self, gone_on: Result<bool, IndexError>) {
        let error = match gone_on {
            Err(error) if error.is_damage() || error.is_unreadable() => error,
            gone_on => {
                if self.note_unindexed(gone_on) {
                    self.index_goes_on();
                }
                return;
            }
        };
        // A path to a disk may come back; a sector does not.
        let is_damage = error.is_damage() || self.stays_unread();
        let problem = error.to_string();
        // Found again and again, also while something else is shown.
        if self.unindexed.as_ref() != Some(&problem) {
            self.report(problem.clone());
            self.unindexed = Some(problem);
        }
        // Behind that: the primary is told what is shown.
        if is_damage {
            self.found_damage();
        }
    }

    /// Nothing is in the way of the index any more.
    fn index_goes_on(&mut self) {
        self.unindexed = None;
        self.unread = (0, Duration::ZERO);
    }

    /// Whether the index has found the journal unreadable as often as the updater would try. It looks with each marker that comes, and counts once
    /// in the time between two tries.
    fn stays_unread(&mut self) -> bool {
        let (now, (times, last)) = (self.clock.monotonic(), self.unread);
        if times == 0 || now.saturating_sub(last) >= RETRY {
            self.unread = (times.saturating_add(1), now);
        }
        self.unread.0 > TRIES
    }

    /// The journal is damaged, for the primary to mend: whoever finds it, and however often, it is one, and is counted once.
    fn found_damage(&self) {
        if !self.state.damage().is_cancelled() {
            self.metrics.journal_damaged();
        }
        self.state.found_damage();
    }

    /// With a history, images of older moments go on from what the index was before: they are there soon, however much lies before them.
    fn keep_index(&self, indexed: &Indexed, apart: u64) {
        let (applied, end) = (self.updater.applied().position, indexed.up_to());
        let from = self.eras.indexes().pop().unwrap_or(applied);
        let apart = (self.journal.bytes_between(applied, end) / INDEXES_MAX as u64).max(apart);
        if self.state.history().floor.is_none() || self.journal.bytes_between(from, end) <= apart {
            return;
        }
        match indexed.keep(&self.spill) {
            Ok(point) => self.eras.keep_index(point),
            Err(error) => {
                tracing::warn!(group = %self.keeper.name(), %error, "an image of an older marker will take longer");
            }
        }
    }

    /// When more is permitted than when what lies ahead was begun, that is a part of the index. It says nothing of the new limit when it goes
    /// beyond it: that is the case with markers that came and were not permitted at once.
    fn take_over_ahead(&mut self, limit: Position) {
        let applied = self.updater.applied().position;
        let mut indexed = self.indexed.lock();
        if indexed.up_to() < applied {
            *indexed = Indexed::from(applied);
        }
        let Some(ahead) = self.ahead.take_if(|ahead| ahead.begin < limit) else { return };
        if ahead.given_up || ahead.indexed.up_to() > limit || indexed.up_to() > ahead.begin {
            return;
        }
        let gone_on = indexed.go_on_within(&self.journal, ahead.begin, &self.spill);
        if self.note_unindexed(gone_on)
            && let Err(error) = indexed.adopt(ahead.indexed, &self.spill)
        {
            tracing::warn!(group = %self.keeper.name(), %error, "what was indexed ahead is indexed again");
        }
    }

    /// Indexes a part of what has come and may be permitted next, all of it at once perhaps: the copy of a resync, one large interval. The limit
    /// and the end are of one moment. Returns whether there is more.
    pub fn look_ahead(&mut self, limit: Position, end: Position, unindexed_max: u64) -> bool {
        let begin = || Ahead { begin: limit, indexed: Indexed::from(limit), given_up: false };
        let mut ahead = self.ahead.take().filter(|ahead| ahead.begin == limit).unwrap_or_else(begin);
        let from = ahead.indexed.up_to();
        let is_passed = self.updater.applied().position > limit;
        if ahead.given_up || is_passed || self.journal.bytes_between(from, end) <= unindexed_max {
            self.ahead = Some(ahead).filter(|ahead| ahead.given_up || ahead.indexed.up_to() > limit);
            return false;
        }
        // A failover that is asked for meanwhile waits for this.
        let to = end.min(Position { segment: from.segment + 1, offset: u64::MAX });
        let mut gone_on = ahead.indexed.go_on_within(&self.journal, to, &self.spill);
        if gone_on.is_ok() && ahead.indexed.up_to() == from {
            gone_on = ahead.indexed.go_on_within(&self.journal, end, &self.spill);
        }
        if matches!(gone_on, Ok(false)) || !ahead.indexed.is_bounded(&self.spill) {
            ahead = Ahead { given_up: true, ..begin() };
        }
        let goes_on = !ahead.given_up && to < end;
        self.ahead = Some(ahead);
        self.note_unindexed(gone_on) && goes_on
    }

    /// Whether it was indexed.
    fn note_unindexed(&self, gone_on: Result<bool, IndexError>) -> bool {
        // The updater meets it as well, and shows it; or the index, once it is permitted.
        gone_on.unwrap_or_else(|error| {
            tracing::debug!(group = %self.keeper.name(), %error, "what is not applied cannot be indexed");
            false
        })
    }

    /// Applies what can be applied now, up to the limit.
    pub fn step(&mut self, limit: Position) -> Applying {
        self.metrics.journal_segments(self.journal.segments());
        let begin = self.clock.monotonic();
        self.state.has_room(&self.journal);
        // A history that is kept in it goes before it is full.
        let full_in = self.state.forecast.sample(begin, &self.journal);
        self.metrics.journal_full_in(full_in.filter(|_| self.state.history().asked.is_off()));
        match self.updater.apply_window(limit) {
            Ok(Some(applied)) => {
                self.unreadable = 0;
                let took = self.clock.monotonic().saturating_sub(begin);
                self.metrics.applied((&applied).into(), took);
                self.indexed.lock().forget(&applied.extents, applied.last_frame);
                self.state.applied(self.updater.applied());
                let trimmed = self.trim();
                self.show(trimmed);
                Applying::Did
            }
            Ok(None) if self.updater.is_waiting() => Applying::Waits,
            Ok(None) => {
                let settled = self.settle(limit);
                // What a death or a full disk has left: with the journal full of it, nothing would ever come that is applied.
                let settled = if self.untrimmed { settled.and_then(|()| self.trim()) } else { settled };
                self.show(settled);
                self.state.rests(self.updater.applied().position.max(limit));
                Applying::Idle
            }
            Err(error) => {
                self.report(error.told());
                // A path to a disk may come back; a sector does not.
                self.unreadable = if error.is_unreadable() { self.unreadable.saturating_add(1) } else { 0 };
                if error.is_damage() || self.unreadable > TRIES {
                    self.found_damage();
                }
                Applying::Failed
            }
        }
    }

    /// Moves the floor of the history to where it is to be. Recorded first: after any death it says what the volumes may hold.
    pub fn keep_history(&mut self) {
        let kept = self.state.history();
        let has_image = self.state.permission().image().is_some();
        let moved = match (kept.floor, has_image && !kept.asked.is_off()) {
            (None, false) => Ok(()),
            (None, true) => self.move_floor(Some(self.updater.applied().position.max(self.state.may_hold))),
            (Some(_), false) => self.move_floor(None),
            (Some(floor), true) => self.advance_floor(floor, kept),
        };
        self.unmoved = moved.err();
        if let Some(problem) = self.unmoved.clone() {
            // It is tried again with the next step.
            self.history_seen = None;
            self.report(problem);
        }
    }

    fn advance_floor(&mut self, floor: Position, kept: Kept) -> Result<(), String> {
        let room = Room { free_bytes: self.journal.free_bytes(), capacity_bytes: self.journal.capacity_bytes() };
        let (begins, _) = self.state.image_begins();
        let now = self.clock.monotonic();
        let pause = if room.is_needed() { ROOM_LOOK } else { history::pause(kept.asked) };
        let is_due = self.history_seen.is_none_or(|seen| now.saturating_sub(seen) >= pause);
        if !is_due && begins <= floor {
            return Ok(());
        }
        self.history_seen = Some(now);
        let markers = self.state.markers.moments();
        let end = markers.last().map_or(floor, |(end, ..)| *end);
        let target = history::target(kept.asked, floor.max(begins), &markers, room, |from| {
            self.journal.bytes_between(from, end)
        });
        let shortened = target.shortened || kept.shortened && !target.complete;
        if self.state.set_shortened(shortened) && shortened {
            tracing::warn!(group = %self.keeper.name(), "the journal has no room for all of the history that was asked for: its oldest markers go");
        }
        if target.floor > floor { self.move_floor(Some(target.floor)) } else { Ok(()) }
    }

    fn move_floor(&self, floor: Option<Position>) -> Result<(), String> {
        let (id, mut batch) = (self.keeper.id(), Batch::new());
        match floor {
            Some(Position { segment, offset }) => {
                let (_, volumes) = self.state.image_begins();
                let record = HistoryRecord { segment, offset, volumes };
                batch.put_history(id, &record).map_err(|error| error.to_string())?;
            }
            None => batch.delete_history(id),
        }
        self.keeper.catalog().commit(batch).map_err(|error| error.to_string())?;
        self.state.set_floor(floor);
        Ok(())
    }

    /// Shows a problem. Returns whether it is one that was not known.
    fn report(&self, problem: String) -> bool {
        let new = self.state.set_problem(Concern::Updater, Some(problem));
        if new {
            self.metrics.error(Part::Updater);
        }
        new
    }

    /// Shows how it went: a problem stays until what it kept from being done is done.
    fn show(&self, done: Result<(), String>) {
        let stands = self.unmoved.as_ref().or(self.unindexed.as_ref());
        match done.and_then(|()| stands.map_or(Ok(()), |problem| Err(problem.clone()))) {
            Ok(()) => drop(self.state.set_problem(Concern::Updater, None)),
            Err(problem) => drop(self.report(problem)),
        }
    }

    fn trim(&mut self) -> Result<(), String> {
        let applied = self.updater.applied().position;
        self.untrimmed = applied.segment > self.journal.oldest().segment;
        if !self.untrimmed {
            return Ok(());
        }
        // In this order: what is taken away is in the volumes, and the catalogue knows.
        let members = self.members_so_far();
        let result = self.record(&members).and_then(|()| self.journal.trim(applied).map_err(|error| error.to_string()));
        self.state.trimmed(self.journal.oldest());
        self.untrimmed = result.is_err();
        result.map(drop)
    }

    /// Everything permitted is applied: members that the image no longer has are let go, and its set of volumes is recorded. In
    /// this order: what is interrupted is done again. A volume that is just coming was no member yet, and is left alone.
    fn settle(&mut self, limit: Position) -> Result<(), String> {
        let permission = self.state.permission();
        // All of it; or, with a history, all that was written before the image had the volumes it has.
        let floor = self.state.history().floor;
        let is_all = permission.limit() == limit || floor.is_some() && self.state.image_begins().0 <= limit;
        if permission.permitted().is_none() || permission.copy().is_some() || !is_all {
            return Ok(());
        }
        let Some(members) = permission.volumes().map(|volumes| GroupVolume::members(volumes)) else { return Ok(()) };
        let left = permission.left_before(limit);
        if self.settled.as_ref() == Some(&members) && left.is_empty() {
            return Ok(());
        }
        let mut leaving = self.keeper.get().volumes;
        leaving.retain(|member| !members.contains(member));
        self.volumes.sync().map_err(|(volume, error)| format!("sync volume '{volume}': {error}"))?;
        self.provider.let_go(&self.keeper.name(), &leaving, &self.volumes)?;
        self.record(&members)?;
        self.provider.left(&leaving);
        // Behind the record: who starts from there again is told nothing of them any more.
        self.provider.let_strays_go(&self.keeper.name(), &left, &self.volumes)?;
        self.state.forget_left(&left);
        self.settled = Some(members);
        Ok(())
    }

    /// The members to record while not all that is permitted is applied: those that come are there, those that leave still are.
    fn members_so_far(&self) -> Vec<GroupVolume> {
        let mut all = self.keeper.get().volumes;
        let coming = self.state.permission().volumes().map_or_else(Vec::new, |volumes| GroupVolume::members(volumes));
        all.extend(coming.into_iter().filter(|member| !all.contains(member)).collect::<Vec<_>>());
        all
    }

    /// Syncs the volumes and records how far they are, with what the journal will no longer tell.
    fn record(&mut self, members: &[GroupVolume]) -> Result<(), String> {
        self.volumes.sync().map_err(|(volume, error)| format!("sync volume '{volume}': {error}"))?;
        self.updater.keep_followers()?;
        let applied = self.updater.applied();
        let permission = self.state.permission();
        let id = self.keeper.id();
        let mut batch = Batch::new();
        // Of a history that a copy has replaced, whose numbers were higher: a start would take the newest of them for the image's.
        let newest = self.keeper.catalog().markers(id, 1).map_err(|error| error.to_string())?.pop();
        if newest.is_some_and(|newest| newest.number > applied.marker.0) {
            batch.delete_markers_after(id, applied.marker);
            self.recorded_marker = 0;
        }
        let kept: Vec<KeptMarkerRecord> = self.markers_to_keep(&permission, &applied).iter().map(kept).collect();
        // One batch: a position without the copy it lies in would permit half of it, also when that has ended behind the position.
        // A copy that begins behind the position is found there again.
        let copy = permission.copy_at(applied.position);
        let prepared = batch.put_applied(id, &applied.record()).and_then(|()| batch.put_markers(id, &kept));
        let recorded = prepared.and_then(|()| crate::group::record_copy(&self.keeper, batch, copy, members));
        recorded.map_err(|error| error.to_string())?;
        self.recorded_marker = kept.last().map_or(self.recorded_marker, |marker| marker.number);
        Ok(())
    }

    /// The permitted markers not yet kept. While there is no image yet, the newest marker here: the end of the copy refers to
    /// it.
    fn markers_to_keep(&self, permission: &Permission, applied: &AppliedPosition) -> Vec<MarkerRecord> {
        let Some(permitted) = permission.permitted() else {
            let is_passed = |at: &&Permitted| at.end <= applied.position && at.marker.number <= applied.marker.0;
            let newest = permission.received_marker().filter(is_passed);
            return newest.map(|newest| newest.marker.clone()).into_iter().collect();
        };
        let mut markers = self.state.markers.between(self.recorded_marker, applied.position);
        markers.retain(|marker| marker.number <= permitted.marker.number.min(applied.marker.0));
        markers
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! The users of eras: they begin one or join it, are done with it soon, and leave. Who begins one gives it a number.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::{Barrier, Era, EraUser, Eras, Joined, State, T0Error, file_name};
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::journal::Position;
use crate::stage;
use crate::t0::held::held_by;
use crate::t0::side_file::SideFile;
use crate::t0::space::Held;

/// Numbers of eras leave room between them, because others may have to begin before one that is not yet reached: each has as much of it before
/// it as it has of the journal, so that there are some for every marker. It lasts for sixteen million one behind the other.
const STEP: u64 = 1 << 40;
/// Longer than a window takes.
pub(super) const LEAVE_LIMIT: Duration = Duration::from_secs(1);

impl Eras {
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
        let made = SideFile::create(&*self.parts.disk, &path, self.parts.group, number);
        let mut state = self.state.write();
        state.coming.retain(|(coming, _)| *coming != number);
        let file = Arc::new(made?);
        self.parts.space.found(file.bytes());
        let user = EraUser { era: number, begin, volumes: volumes.clone() };
        let era = Era { pending, ..Era::new(&user, file) };
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
        let mut state = self.state.write();
        if let Some(era) = state.eras.iter_mut().find(|era| era.number == number) {
            era.brief = if brief { era.brief + 1 } else { era.brief.saturating_sub(1) };
        }
        // Without one the volumes wait for nobody. Where no updater finds that out, because the group stands, nobody else would hurry for it.
        if state.eras.iter().all(|era| era.brief == 0) {
            self.squeeze(false);
        }
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

    /// Behind those that begin no later, before those that the volumes reach later; those that others are just beginning count as well. Whoever
    /// begins it takes it out of `coming`.
    fn number_for(&self, begin: Position) -> Result<u64, T0Error> {
        let mut state = self.state.write();
        let there = state.eras.iter().map(|era| (era.number, era.begin, era.files_end()));
        let coming = state.coming.iter().map(|(number, begin)| (*number, *begin, *number));
        let mut others: Vec<(u64, Position, u64)> = there.chain(coming).collect();
        others.sort_unstable_by_key(|(number, ..)| *number);
        let later = others.partition_point(|(_, place, _)| *place <= begin.max(state.applied));
        let last = later.checked_sub(1).and_then(|last| others.get(last)).copied();
        let next = others.get(later).copied();
        // Not before what a start may find of one that is gone.
        let left = state.left.range(..next.map_or(u64::MAX, |(next, ..)| next)).next_back().copied();
        let before = last.map_or(0, |(.., files_end)| files_end).max(left.unwrap_or(0));
        let spent = state.spent.last().copied().unwrap_or(0);
        let number = match next {
            None => before.max(spent) + STEP,
            Some((next, end, _)) => {
                let from = last.map_or(state.applied, |(_, place, _)| place.max(state.applied));
                let share = state.share(from, begin, end, next.saturating_sub(before));
                free_number(&state.spent, before, before.saturating_add(share), next).ok_or(T0Error::Crowded)?
            }
        };
        state.spent.insert(number);
        state.coming.push((number, begin));
        Ok(number)
    }

    /// A user goes. Without users an era becomes part of the next older one that has some; without one, it is gone and its space
    /// is given back. Not while its file is being written: when that does not come to its end, because a disk does not answer, it goes
    /// behind that, and who asked is not kept waiting.
    pub fn leave(self: &Arc<Self>, number: u64) {
        self.leave_with(number, false);
    }

    /// The same, where no record names the era any more, and none will: what only it needed of its file is given back, too.
    pub fn leave_for_good(self: &Arc<Self>, number: u64) {
        self.leave_with(number, true);
    }

    fn leave_with(self: &Arc<Self>, number: u64, for_good: bool) {
        if let Some(window) = self.window_within(LEAVE_LIMIT) {
            self.leave_in(window, number, for_good);
            return;
        }
        let eras = Arc::clone(self);
        let later = stage::beside_hosts("eras", move || eras.leave_in(eras.window(), number, for_good));
        if let Err(error) = later {
            tracing::warn!(folder = %self.parts.folder.display(), %error, "what an image kept goes with the next start");
        }
    }

    fn leave_in(&self, window: MutexGuard<'_, ()>, number: u64, for_good: bool) {
        let mut state = self.state.write();
        let Some(at) = state.eras.iter().position(|era| era.number == number) else { return };
        if let Some(era) = state.eras.get_mut(at) {
            era.may_be_named |= !for_good;
            era.users = era.users.saturating_sub(1);
            if era.users > 0 {
                return;
            }
        }
        let era = state.eras.remove(at);
        // Its record or some of its files may outlive it, if only for as long as they are being removed. Of one that the volumes have not reached, the
        // numbers behind it are needed for moments before it.
        if era.begin <= state.applied {
            state.left.insert(era.files_end());
        }
        // Whoever goes last may have no record, and another have left one: a start that misses the file gives up the older images, too.
        let for_good = !era.may_be_named;
        match at.checked_sub(1).and_then(|older| state.eras.get_mut(older)) {
            Some(older) => {
                let taken = if for_good { older.concordance.lacks(&era.concordance) } else { Vec::new() };
                let own = era.files.first().filter(|_| for_good).cloned();
                older.concordance.merge(&era.concordance);
                older.files.extend(era.files);
                self.recount(&state);
                drop(state);
                drop(window);
                if let Some(own) = own {
                    self.spare(&own, &taken);
                }
            }
            None => {
                self.recount(&state);
                drop(state);
                // Nobody knows of them any more, and large ones take their time: neither an updater nor a host waits for that.
                drop(window);
                self.remove_files(&era.files);
            }
        }
    }

    pub(super) fn remove_files(&self, files: &[Arc<SideFile>]) {
        for file in files {
            if let Err(error) = self.parts.disk.remove(file.path()) {
                tracing::warn!(path = %file.path().display(), %error, "a side file could not be removed; the next start does it");
                self.state.write().left.insert(file.number());
            }
            self.parts.space.give(file.bytes());
        }
    }
}

impl State {
    /// How many of the numbers between two eras lie before one that begins between them.
    fn share(&self, from: Position, begin: Position, end: Position, numbers: u64) -> u64 {
        let bytes = |to| self.journal.as_ref().map_or(0, |journal| u128::from(journal.bytes_between(from, to)));
        let (before, all) = (bytes(begin), bytes(end));
        if all == 0 {
            return numbers / 2;
        }
        u64::try_from(u128::from(numbers) * before.min(all) / all).unwrap_or(numbers)
    }
}

/// The number between two others that nobody had and that is next to one.
fn free_number(spent: &BTreeSet<u64>, before: u64, wanted: u64, next: u64) -> Option<u64> {
    let first = before.checked_add(1).filter(|first| *first < next)?;
    let wanted = wanted.clamp(first, next - 1);
    (wanted..next).chain((first..wanted).rev()).find(|number| !spent.contains(number))
}

impl Era {
    /// The largest number among its files: eras it swallowed had larger ones than its own.
    fn files_end(&self) -> u64 {
        self.files.iter().map(|file| file.number()).max().unwrap_or(self.number)
    }
}

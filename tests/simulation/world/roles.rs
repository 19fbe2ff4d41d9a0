//! Roles change: the primary's site is struck, its copy is taken over and written to; the old primary comes back, keeps what it had
//! alone, and becomes the copy. The sites change places in the world then: `near` is whichever is primary.

use std::sync::Arc;

use rand::RngExt;
use tidemark_common::catalog::RoleRecord;
use tidemark_primary::group::{Primary, Stages};

use super::{Side, World};
use crate::fate::survives;
use crate::near::Near;
use crate::site::{Site, TakenOver};

/// The new primary is alone for fewer steps than this.
const ALONE_STEPS: u64 = 600;
/// Tries of a takeover that is broken off.
pub(super) const TRIES: usize = 20;
/// Changes of its disk after which a takeover or a return is broken off, at most.
const BROKEN_OFF: u64 = 40;

/// The old primary is away.
#[derive(Debug)]
pub(super) struct Away {
    /// The step at which it returns.
    pub(super) returns: u64,
}

impl World {
    pub(super) fn is_apart(&self) -> bool {
        self.away.is_some()
    }

    /// A disaster at the primary's site: its copy is taken over.
    pub(super) fn fail_over(&mut self, power: Option<u64>) {
        if self.is_apart() || self.far_waits || self.giving_up.is_some() || self.told.1 == 0 {
            return;
        }
        if self.near.is_some() {
            self.die_at_work(Side::Near, power);
        }
        if self.far.is_some() {
            self.died(Side::Far, None);
        }
        let (told, before) = (self.told.1, self.far_site.group_record().generation);
        let Some((primary, stages)) = self.take_over() else {
            // The copy's disk does not let it: the old primary comes back as what it was.
            return;
        };
        self.generation = self.far_site.group_record().generation;
        assert_eq!(self.generation, before + 1, "invariant 8");
        let marker = primary.marker(None).expect("it has an image");
        let boundary = primary.status().positions.captured_seq;
        let what = format!("the copy taken over at marker {}, told {told}", marker.number);
        assert!(marker.number >= told, "{what}: an older one is served");
        self.far_site.device.read_well();
        let volumes = self.far_site.read_all(&primary);
        let moment = self.moment(boundary);
        self.hosts.taken_over(&what, &volumes, moment);
        self.moments.retain(|seq, _| *seq <= boundary);
        // Those that were lost with the old primary are given out again.
        self.images.retain(|number, _| *number <= marker.number);
        std::mem::swap(&mut self.near_site, &mut self.far_site);
        self.failing.swap(0, 1);
        self.standing.clear();
        self.near = Some(Near::new(primary, stages, (self.profile.turn, self.profile.stretch_bytes)));
        self.near_down = (self.figures.steps, false);
        self.answered_marker = marker.number;
        self.told = (0, 0, 0);
        self.was = None;
        self.far_down = u64::MAX;
        self.away = Some(Away { returns: self.figures.steps + self.random.random_range(0..ALONE_STEPS) });
        self.figures.failovers += 1;
        self.note(("taken over", marker.number));
    }

    /// However often it is broken off. `None`: the disk does not let it.
    fn take_over(&mut self) -> Option<(Arc<Primary>, Stages)> {
        for _ in 0..TRIES {
            let doom = self.random.random_bool(0.5).then(|| self.random.random_range(0..BROKEN_OFF));
            let site = &mut self.far_site;
            let taken = survives(|| {
                if site.group_record().role == RoleRecord::Primary {
                    return site.open_primary().map(Some);
                }
                site.doomed = doom;
                let taken = site.take_over(|_| None)?;
                Ok(taken.map(|TakenOver { primary, stages, .. }| (primary, stages)))
            });
            site.doomed = None;
            match taken {
                None => {
                    self.note("a takeover is broken off");
                    match self.power_at_death() {
                        Some(seed) => self.far_site.lost_power(seed),
                        None => self.far_site.died(),
                    }
                }
                Some(Ok(taken)) => return Some(taken.expect("an image was told")),
                Some(Err(reason)) => {
                    self.note(("not taken over", &reason));
                    self.excuse(Side::Far, &reason);
                    self.far_site.died();
                }
            }
        }
        panic!("a takeover does not end");
    }

    /// The old primary comes back, if it is time.
    pub(super) fn let_return(&mut self) {
        if self.near.is_none() || self.away.as_ref().is_none_or(|away| away.returns > self.figures.steps) {
            return;
        }
        // It is asked again, when something stops it.
        self.away = Some(Away { returns: self.figures.steps + 50 });
        self.doomed = self.random.random_bool(0.3).then(|| {
            let side = if self.random.random_bool(0.5) { Side::Near } else { Side::Far };
            (side, self.random.random_range(0..BROKEN_OFF))
        });
        self.try_return();
        self.far_site.doomed = None;
    }

    /// The old primary comes back, and the new one is there. It stays away when something stops it.
    pub(super) fn try_return(&mut self) {
        // From its record on it is a copy, whoever died after that.
        if self.far_site.group_record().role == RoleRecord::Primary && self.bring_back().is_none() {
            return;
        }
        self.far_site.died();
        self.away = None;
        self.far_down = self.figures.steps;
        if let Some(near) = &mut self.near {
            near.suspended = false;
        }
        self.figures.returns += 1;
        self.look_at_before();
        self.note("returned");
    }

    /// `None`: something stopped it.
    fn bring_back(&mut self) -> Option<()> {
        let (captured, old) = self.of_far("settled", |site| site.settle_captured())?;
        let pair = self.near_site.group_record().pairs.remove(0);
        let parted = pair.parted.expect("it was taken over");
        let tail = self.of_far("its tail is read", |site| site.tail(&parted))?;
        if tail.is_known() {
            let wanted = captured - parted.seq;
            assert_eq!(tail.writes, wanted, "the lost tail is what was written after marker {}", parted.marker);
            self.hosts.check_lost(&old, |volume, offset| tail.dirty.is_marked(volume, offset));
            self.figures.lost_writes += tail.writes;
        }
        if tail.writes > 0 {
            self.of_far("kept", |site| site.keep_tail(&tail))?;
        }
        self.was = (tail.is_known() && tail.writes > 0).then_some(old);
        let near = self.near.as_ref()?;
        let fate = self.near_site.fate.clone();
        if let Some((Side::Near, steps)) = self.doomed {
            fate.doom(steps);
        }
        let agreed = survives(|| {
            let goes_on = near.pair.goes_on_from(&parted)?;
            near.pair.returned(&tail.dirty, !tail.is_known() || !goes_on)
        });
        fate.doom(u64::MAX);
        match agreed {
            None => return self.dies(Side::Near),
            Some(Err(reason)) => {
                self.note(("not agreed", &reason));
                return None;
            }
            Some(Ok(())) => {}
        }
        let generation = self.generation;
        self.of_far("recorded", |site| site.become_copy(&parted, generation, &tail))
    }

    /// What the old primary does by itself. `None`: it died, or its disk failed.
    fn of_far<T>(&mut self, what: &str, does: impl FnOnce(&mut Site) -> Result<T, String>) -> Option<T> {
        let site = &mut self.far_site;
        site.doomed = self.doomed.and_then(|(side, steps)| (side == Side::Far).then_some(steps));
        match survives(|| does(site)) {
            Some(Ok(done)) => Some(done),
            Some(Err(reason)) => {
                self.note(("not", what, &reason));
                self.excuse(Side::Far, &reason);
                self.far_site.died();
                None
            }
            None => self.dies(Side::Far),
        }
    }

    /// In the middle of something.
    fn dies<T>(&mut self, side: Side) -> Option<T> {
        let power = self.power_at_death();
        self.died(side, power);
        None
    }
}

//! Worlds that begin after a disaster: both sides as a loss of power left them, or a copy that has just been taken over and whose old
//! primary returns; and what a copy with a history must still hold.

use tidemark_common::journal::Position as JournalPosition;

use super::roles::{Away, TRIES};
use super::*;
use crate::hosts::Known;

/// The floor of a history, and the permitted markers from there on.
pub(super) type Held = (JournalPosition, Vec<(JournalPosition, u64)>);

impl World {
    /// One that goes on where both sides were left by a loss of power: what hosts know and saw, and what the copy had told.
    pub(crate) fn going_on(
        seed: u64,
        profile: Profile,
        sites: [Site; 2],
        hosts: Hosts,
        moments: Moments,
        told: (u64, u64, u64),
    ) -> Self {
        let ground = ground(&profile, Points::deadly(&[]));
        ground.now_ns.store(sites[0].clock.now_ns.load(Ordering::SeqCst), Ordering::SeqCst);
        let sites = sites.map(|site| site.moved_to(&ground));
        let mut world = Self::of(seed, profile, &ground, sites, hosts);
        (world.moments, world.told, world.near_down.1) = (moments, told, true);
        world.start_near();
        world.start_far();
        world
    }

    /// One in which a copy has just become primary, and its old primary is not there.
    pub(crate) fn taken_over(
        seed: u64,
        profile: Profile,
        ground: &Ground,
        sites: [Site; 2],
        (taken, generation): (TakenOver, u64),
        (hosts, moments): (Hosts, Moments),
    ) -> Self {
        let mut world = Self::of(seed, profile, ground, sites, hosts);
        world.generation = generation;
        world.answered_marker = taken.marker.number;
        world.moments = moments;
        world.moments.retain(|seq, _| *seq <= taken.marker.boundary_seq);
        world.far_down = u64::MAX;
        world.away = Some(Away { returns: u64::MAX });
        let speed = (world.profile.turn, world.profile.stretch_bytes);
        world.near = Some(Near::new(taken.primary, taken.stages, speed));
        world
    }

    /// Hosts write, and nothing befalls but the points at which somebody dies.
    pub(crate) fn go_on(&mut self, steps: u64) {
        (0..steps).for_each(|_| self.step());
    }

    pub(crate) fn go_on_until(&mut self, reached: impl Fn(&Far) -> bool) {
        for _ in 0..REST_STEPS {
            self.step();
            self.befall();
            if self.far.as_ref().is_some_and(&reached) {
                return;
            }
        }
        panic!("it never comes to that: {}", self.state());
    }

    /// A disaster: both sites as they are now, and what hosts and whoever cut know.
    pub(crate) fn left(&self) -> ([Site; 2], Known, Moments) {
        let sites = [self.near_site.twin(None), self.far_site.twin(None)];
        (sites, self.hosts.as_of(Tick::MAX), self.moments.clone())
    }

    /// The old primary returns as the copy. Whoever dies in it is started again, and it is asked for again.
    pub(crate) fn rejoin(&mut self) {
        for _ in 0..TRIES {
            while self.near.is_none() {
                self.start_near();
            }
            self.try_return();
            if !self.is_apart() {
                return self.note("the old primary is the copy");
            }
        }
        panic!("a return does not end");
    }

    /// What a copy holds of its history after a start: all it held before, but what it was just giving up.
    pub(super) fn check_history(&mut self) {
        let Some((far, (floor, held))) = self.far.as_ref().zip(self.held.take()) else { return };
        let (found, numbers) = (far.secondary.state().history().floor, crate::site::held(far.secondary.state()));
        // Bits that flipped cost all of it.
        let Some(found) = found.filter(|found| *found >= floor) else {
            assert!(self.flipped, "the history began at {floor:?}, and now at {found:?}");
            return;
        };
        for (end, number) in held {
            let is_there = end < found || numbers.contains(&number);
            assert!(is_there || self.flipped, "marker {number} was held, the history begins at {found:?}: {numbers:?}");
        }
        if self.profile.looks_at_history {
            for marker in numbers {
                self.look_at_taken(None, |_| Some(marker));
            }
        }
    }
}

/// What a copy holds of its history, as it says.
pub(super) fn held_by(far: &Far) -> Option<Held> {
    let state = far.secondary.state();
    let floor = state.history().floor?;
    let moments = state.markers.moments().into_iter().map(|(end, number, _)| (end, number));
    Some((floor, moments.filter(|(end, _)| *end >= floor).collect()))
}

//! Crash points of a disaster: a copy is taken over, hosts write to it, and the old primary returns as its copy. At every change of a
//! disk on either side, from the first of the take-over on, whoever makes it dies, or power is lost there.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tidemark_common::catalog::RoleRecord;
use tidemark_tests::history::Tick;

use crate::far::Far;
use crate::fate::{Points, survives};
use crate::figures::Figures;
use crate::hosts::Known;
use crate::points::{assert_each, each, pairs};
use crate::profile::Profile;
use crate::site::{Site, TakenOver, held};
use crate::world::{Moments, World, ground};

const SEED: u64 = 11;
/// Steps of hosts and stages on the new primary before the old one returns.
const ALONE: u64 = 120;
/// Pairs of deaths tried, of all there are: a seeded sample of each kind.
const PAIRS: usize = 150;

/// A pair at the moment of the disaster.
struct Disaster {
    profile: Profile,
    sites: [Site; 2],
    known: Known,
    moments: Moments,
    /// The newest marker the copy may serve.
    newest: u64,
    /// The marker of its history that is to be taken over.
    older: Option<u64>,
}

impl Disaster {
    /// Hosts write until the copy is so far.
    fn of(profile: Profile, reached: impl Fn(&Far) -> bool, back: Option<usize>) -> Self {
        let mut world = World::new(SEED, profile.clone(), Points::deadly(&[]));
        world.go_on_until(reached);
        Self::now(&world, profile, back)
    }

    /// The copy has all that was written.
    fn at_rest(profile: Profile) -> Self {
        let mut world = World::new(SEED, profile.clone(), Points::deadly(&[]));
        world.go_on(100);
        world.rest();
        Self::now(&world, profile, None)
    }

    fn now(world: &World, profile: Profile, back: Option<usize>) -> Self {
        let (sites, known, moments) = world.left();
        let (secondary, _) = sites[1].twin(None).open_secondary().expect("a copy");
        let newest = secondary.permitted().expect("an image").marker.number;
        let older = back.map(|back| {
            let held = held(secondary.state());
            held[held.len() - 1 - back]
        });
        Self { profile, sites, known, moments, newest, older }
    }

    /// What is to be served.
    fn wanted(&self) -> u64 {
        self.older.unwrap_or(self.newest)
    }

    fn moment(&self, taken: &TakenOver) -> Tick {
        self.moments[&taken.marker.boundary_seq]
    }
}

/// The operator takes over; whoever dies in it is started again as what its catalogue says, and a copy is taken over again.
fn take_over(disaster: &Disaster, far: &mut Site, power: &mut Option<StdRng>) -> (TakenOver, u64) {
    let before = far.group_record().generation;
    loop {
        let wanted = |held: &[u64]| disaster.older.filter(|older| held.contains(older));
        let taken = if far.group_record().role == RoleRecord::Primary {
            survives(|| {
                far.open_primary().map(|(primary, stages)| {
                    let marker = primary.marker(None).expect("the marker it serves");
                    Some(TakenOver { marker, primary, stages })
                })
            })
        } else {
            survives(|| far.take_over(wanted))
        };
        if let Some(taken) = taken {
            let taken = taken.unwrap_or_else(|why| panic!("it is not taken over: {why}")).expect("an image");
            assert_eq!(taken.marker.number, disaster.wanted(), "the image that was promised");
            let generation = far.group_record().generation;
            assert_eq!(generation, before + 1, "invariant 8");
            return (taken, generation);
        }
        far.fate.kill();
        match power {
            Some(random) => far.lost_power(random.random()),
            None => far.died(),
        }
        look_at_the_rest(disaster, far);
    }
}

/// Nobody takes it over again just yet: what it is then is an image that was, and none but these two.
fn look_at_the_rest(disaster: &Disaster, far: &Site) {
    if far.group_record().role == RoleRecord::Primary {
        return;
    }
    let mut twin = far.twin(None);
    let taken = twin.take_over(|_| None).unwrap_or_else(|why| panic!("it cannot be taken over again: {why}"));
    let taken = taken.expect("an image");
    let marker = taken.marker.number;
    assert!(marker == disaster.newest || marker == disaster.wanted(), "marker {marker} is served");
    let what = format!("the copy, its take-over broken off, at marker {marker}");
    disaster.known.hosts().judge_copy(&what, &twin.read_all(&taken.primary), disaster.moment(&taken));
}

/// All of it. What it came to.
fn run(disaster: &Disaster, deaths: &[u64], power_lost: bool) -> Figures {
    let profile = Profile { power_lost, ..disaster.profile.clone() };
    let ground = ground(&profile, Points::deadly(deaths));
    let [mut near, mut far] = disaster.sites.each_ref().map(|site| site.twin(None).moved_to(&ground));
    // Of the machine that is gone, the memory is too, or not.
    if power_lost {
        near.lost_power(SEED);
    }
    ground.points.arm();
    let mut power = power_lost.then(|| StdRng::seed_from_u64(SEED));
    let (taken, generation) = take_over(disaster, &mut far, &mut power);
    let mut hosts = disaster.known.hosts();
    hosts.taken_over("the copy that is primary now", &far.read_all(&taken.primary), disaster.moment(&taken));
    let known = (hosts, disaster.moments.clone());
    let mut world = World::taken_over(SEED, profile, &ground, [far, near], (taken, generation), known);
    let run = AssertUnwindSafe(|| {
        world.go_on(ALONE);
        world.rejoin();
        world.run()
    });
    let figures = catch_unwind(run).unwrap_or_else(|payload| {
        world.tell_trace();
        resume_unwind(payload)
    });
    ground.points.assert_met();
    figures
}

fn assert_survived(disaster: &Disaster) {
    for power_lost in [false, true] {
        let steps = run(disaster, &[], power_lost).disk_steps;
        println!("{steps} changes of disks, died before and after each, power lost: {power_lost}");
        assert_each(&each(steps), |deaths| {
            run(disaster, deaths, power_lost);
        });
    }
}

fn with_an_image() -> Disaster {
    let has_image = |far: &Far| far.secondary.state().position().permitted_marker >= 3;
    Disaster::of(Profile::goes_on(), has_image, None)
}

/// The newest marker is taken over.
#[test]
fn a_death_at_any_change_of_a_takeover_and_of_the_return_is_survived() {
    assert_survived(&with_an_image());
}

/// Who has died dies again: soon after, in what the first death left to be done again, or at any later change.
#[test]
fn two_deaths_in_a_takeover_and_the_return_are_survived() {
    for (seed, disaster) in [(1, with_an_image()), (2, in_a_resync())] {
        for power_lost in [false, true] {
            let steps = run(&disaster, &[], power_lost).disk_steps;
            assert_each(&pairs(steps, PAIRS, seed), |deaths| {
                run(&disaster, deaths, power_lost);
            });
        }
    }
}

/// Nothing is lost: the old primary returns with the image that was taken over.
#[test]
fn a_death_at_any_change_of_a_takeover_that_lost_nothing_is_survived() {
    assert_survived(&Disaster::at_rest(Profile::goes_on()));
}

fn in_a_resync() -> Disaster {
    let profile = Profile { steps: 300, ..Profile::short() };
    let is_copying = |far: &Far| {
        let permission = far.secondary.state().permission();
        permission.permitted().is_some() && permission.copy().is_some_and(|copy| !copy.direct && copy.cursor.1 > 0)
    };
    Disaster::of(profile, is_copying, None)
}

/// A resync is under way: the image before it is taken over.
#[test]
fn a_death_at_any_change_of_a_takeover_in_a_resync_is_survived() {
    assert_survived(&in_a_resync());
}

/// An older marker of its history is taken over.
#[test]
fn a_death_at_any_change_of_a_takeover_of_an_older_marker_is_survived() {
    let profile = Profile { steps: 300, looks_at_history: false, ..Profile::short_with_history() };
    let has_history = |far: &Far| held(far.secondary.state()).len() >= 4;
    assert_survived(&Disaster::of(profile, has_history, Some(2)));
}

//! Crash points: one short run (first copy, writes, trims, cuts, a journal that cannot be kept, the copy that follows) whose
//! every change of a disk, on either side, is a place to die: before it took effect, and right after. Then pairs of them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::device::Pace;
use crate::fate::Points;
use crate::figures::Figures;
use crate::profile::Profile;
use crate::world::World;
use crate::{parallel, tell};

/// Pairs tried, of all there are: a seeded sample.
const PAIRS: usize = 400;
/// Those at which power is lost.
const PAIRS_WITHOUT_POWER: usize = 200;

/// Dies at these points; panics with what is wrong.
fn run_of(profile: Profile, deaths: &[u64]) -> Figures {
    let points = Points::deadly(deaths);
    let figures = run_world(World::new(SEED, profile, Arc::clone(&points)));
    points.assert_met();
    figures
}

fn run_world(mut world: World) -> Figures {
    catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|payload| {
        world.tell_trace();
        resume_unwind(payload)
    })
}

fn run(deaths: &[u64], power_lost: bool) -> (u64, u64) {
    let figures = run_of(Profile { power_lost, ..Profile::short() }, deaths);
    (figures.disk_steps, figures.differential)
}

const SEED: u64 = 5;

fn assert_all_hold(deaths: &[Vec<u64>], power_lost: bool) {
    assert_each(deaths, |deaths| {
        run(deaths, power_lost);
    });
}

/// At each of these something is survived.
pub(crate) fn assert_each(deaths: &[Vec<u64>], run: impl Fn(&[u64]) + Sync) {
    let failed = parallel(deaths, |deaths| tell(&format!("dying at {deaths:?}"), || run(deaths)).err());
    let failed: Vec<_> = failed.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), deaths.len(), failed.first());
}

#[test]
fn a_death_at_any_change_of_a_disk_is_survived() {
    let (steps, differential) = run(&[], false);
    assert!(differential > 0, "the run is to meet a full journal");
    println!("{steps} changes of disks, died before and after each");
    assert_all_hold(&each(steps), false);
}

#[test]
fn a_loss_of_power_at_any_change_of_a_disk_is_survived() {
    let (steps, _) = run(&[], false);
    assert_all_hold(&each(steps), true);
}

/// A side that is started for the first time makes its journal, its write buffer and its first records: whatever is there of them when
/// that is broken off, the next start goes on from.
#[test]
fn a_death_at_any_change_of_a_first_start_is_survived() {
    for power_lost in [false, true] {
        let profile = Profile { power_lost, ..Profile::goes_on() };
        let (_, steps) = World::newborn(SEED, profile.clone(), Points::deadly(&[]));
        assert!(steps >= 8, "{steps} changes");
        assert_each(&each(steps), |deaths| {
            let points = Points::deadly(deaths);
            run_world(World::newborn(SEED, profile.clone(), Arc::clone(&points)).0);
            points.assert_met();
        });
    }
}

/// Before and after each of so many changes.
pub(crate) fn each(steps: u64) -> Vec<Vec<u64>> {
    (0..2 * steps).map(|death| vec![death]).collect()
}

fn assert_history_holds(power_lost: bool) {
    let profile = Profile { power_lost, ..Profile::short_with_history() };
    let figures = run_of(profile.clone(), &[]);
    assert!(figures.floors >= 3, "the history is to give markers up: {figures}");
    assert_each(&each(figures.disk_steps), |deaths| {
        run_of(profile.clone(), deaths);
    });
}

/// Every marker that a copy held before is there after, and is an image that was.
#[test]
fn a_death_at_any_change_of_a_disk_costs_no_marker_of_a_history() {
    assert_history_holds(false);
}

#[test]
fn a_loss_of_power_at_any_change_of_a_disk_costs_no_marker_of_a_history() {
    assert_history_holds(true);
}

#[test]
fn two_deaths_are_survived() {
    let (steps, _) = run(&[], false);
    assert_all_hold(&pairs(steps, PAIRS, 1), false);
}

#[test]
fn two_losses_of_power_are_survived() {
    let (steps, _) = run(&[], false);
    assert_all_hold(&pairs(steps, PAIRS_WITHOUT_POWER, 2), true);
}

/// What a kill leaves of a write is in the system's memory alone: all, half or none of it. Power is lost before the next start has made
/// that durable, or right after.
#[test]
fn a_death_in_the_middle_of_a_write_and_then_a_loss_of_power_are_survived() {
    let halves = Pace { short_writes: 1_000_000, ..Pace::default() };
    let profile = Profile { power_lost_next: true, paces: [halves; 2], ..Profile::short() };
    let steps = run_of(profile.clone(), &[]).disk_steps;
    assert_each(&pairs(steps, PAIRS, 3), |deaths| {
        run_of(profile.clone(), deaths);
    });
}

/// So many pairs of deaths in a run of so many changes.
pub(crate) fn pairs(steps: u64, count: usize, seed: u64) -> Vec<Vec<u64>> {
    let random = &mut StdRng::seed_from_u64(seed);
    let mut pair = || {
        let first = random.random_range(0..2 * steps);
        // Half of them soon after: in the recovery from the first. The others at any change before the run ends.
        let later = if random.random_bool(0.5) { 60 } else { 2 * steps - first };
        vec![first, first + 1 + random.random_range(0..later)]
    };
    (0..count).map(|_| pair()).collect()
}

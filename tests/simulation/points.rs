//! Crash points: one short run (first copy, writes, trims, cuts, a journal that cannot be kept, the copy that follows) whose
//! every change of a disk, on either side, is a place to die: before it took effect, and right after. Then pairs of them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::fate::Points;
use crate::profile::Profile;
use crate::world::World;
use crate::{parallel, tell};

/// Pairs tried, of all there are: a seeded sample.
const PAIRS: usize = 400;

/// Dies at these points; panics with what is wrong.
fn run(deaths: &[u64], power_lost: bool) -> (u64, u64) {
    let points = Points::deadly(deaths);
    let mut world = World::new(SEED, Profile { power_lost, ..Profile::short() }, points);
    let figures = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|payload| {
        world.tell_trace();
        resume_unwind(payload)
    });
    (figures.disk_steps, figures.differential)
}

const SEED: u64 = 5;

fn assert_all_hold(deaths: &[Vec<u64>], power_lost: bool) {
    let failed = parallel(deaths, |deaths| tell(&format!("dying at {deaths:?}"), || run(deaths, power_lost)).err());
    let failed: Vec<_> = failed.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), deaths.len(), failed.first());
}

#[test]
fn a_death_at_any_change_of_a_disk_is_survived() {
    let (steps, differential) = run(&[], false);
    assert!(differential > 0, "the run is to meet a full journal");
    println!("{steps} changes of disks, died before and after each");
    assert_all_hold(&(0..2 * steps).map(|death| vec![death]).collect::<Vec<_>>(), false);
}

#[test]
fn a_loss_of_power_at_any_change_of_a_disk_is_survived() {
    let (steps, _) = run(&[], false);
    assert_all_hold(&(0..2 * steps).map(|death| vec![death]).collect::<Vec<_>>(), true);
}

#[test]
fn two_deaths_are_survived() {
    let (steps, _) = run(&[], false);
    let random = &mut StdRng::seed_from_u64(1);
    let mut pair = || {
        let first = random.random_range(0..2 * steps);
        // Half of them soon after: in the recovery from the first.
        let soon = if random.random_bool(0.5) { 60 } else { 2 * steps };
        vec![first, first + 1 + random.random_range(0..soon)]
    };
    assert_all_hold(&(0..PAIRS).map(|_| pair()).collect::<Vec<_>>(), false);
}

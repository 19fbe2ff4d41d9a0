//! Simulation: both engines under virtual time, over disks and a line that fail as the seed says. One seed is one run.
//!
//! `make simulate SEEDS=50000 FROM=1` runs many, `make simulate SEEDS=1 FROM=n TRACE=1` one again with its last steps. Seeds
//! that once failed are kept in `seeds.txt`.

mod far;
mod fate;
mod hosts;
mod lies;
mod line;
mod near;
mod points;
mod profile;
mod replay;
mod site;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::fate::Points;
use crate::profile::Profile;
use crate::world::{Figures, World};

/// What a run came to, or what was wrong with it.
fn run(seed: u64) -> Result<Figures, String> {
    tell(&format!("seed {seed}"), || {
        let mut world = World::new(seed, Profile::of(seed), Points::deadly(&[]));
        catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|payload| {
            world.tell_trace();
            resume_unwind(payload)
        })
    })
}

/// The same with a copy that can go back: whatever befalls, every marker it holds can be had.
fn run_with_history(seed: u64) -> Result<Figures, String> {
    tell(&format!("seed {seed}"), || {
        let mut world = World::new(seed, Profile::with_history(seed), Points::deadly(&[]));
        catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|payload| {
            world.tell_trace();
            resume_unwind(payload)
        })
    })
}

/// Runs something that panics with what is wrong, and says so.
fn tell<T>(what: &str, run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        format!("{what}: {}", text.unwrap_or_else(|| "a panic without a message".into()))
    })
}

/// A number from the environment.
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Does something for each of many on all processors.
fn parallel<T: Sync, R: Send>(all: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(one) = all.get(usize::try_from(next.fetch_add(1, Ordering::SeqCst)).unwrap()) {
                    let result = each(one);
                    done.lock().unwrap().push(result);
                }
            });
        }
    });
    done.into_inner().unwrap()
}

/// Runs many seeds: their figures together, and those that failed.
fn run_all(seeds: &[u64]) -> (Figures, Vec<u64>) {
    let done = AtomicUsize::new(0);
    let results = parallel(seeds, |seed| {
        let result = run(*seed);
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(1000) {
            eprintln!("{done} of {} seeds", seeds.len());
        }
        if let Err(what) = &result {
            eprintln!("FAILED {what}\n  again: make simulate SEEDS=1 FROM={seed} TRACE=1");
        }
        (*seed, result)
    });
    let mut figures = Figures::default();
    let mut failed = Vec::new();
    for (seed, result) in results {
        match result {
            Ok(one) => figures.add(&one),
            Err(_) => failed.push(seed),
        }
    }
    failed.sort_unstable();
    (figures, failed)
}

fn assert_all_hold(seeds: &[u64]) {
    let (figures, failed) = run_all(seeds);
    println!("{} seeds\n{figures}violations        {}", seeds.len(), failed.len());
    assert!(failed.is_empty(), "{} of {} seeds failed: {failed:?}", failed.len(), seeds.len());
}

#[test]
fn the_same_seed_gives_the_same_run_step_by_step() {
    for seed in [1, 2, 3, 4] {
        assert_eq!(run(seed).unwrap().trace, run(seed).unwrap().trace, "seed {seed}");
    }
}

#[test]
fn two_hundred_seeds_hold() {
    assert_all_hold(&(1..=200).collect::<Vec<_>>());
}

#[test]
fn a_copy_that_keeps_a_history_can_be_had_at_every_marker_of_it() {
    let (from, count) = (number("FROM", 1), number("SEEDS", 60));
    let failed: Vec<_> = parallel(&(from..from + count).collect::<Vec<_>>(), |seed| run_with_history(*seed))
        .into_iter()
        .filter_map(Result::err)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Bits of its journal flip, in the middle of everything else: it never serves what never was, and mends itself.
#[test]
fn a_copy_whose_journal_is_damaged_again_and_again_is_mended_each_time() {
    let run = |seed: &u64| {
        tell(&format!("seed {seed}"), || {
            let mut world = World::new(*seed, Profile::with_damage(*seed), Points::deadly(&[]));
            catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|payload| {
                world.tell_trace();
                resume_unwind(payload)
            })
        })
    };
    let (from, count) = (number("FROM", 1), number("SEEDS", 100));
    let (mut figures, mut failed) = (Figures::default(), Vec::new());
    for result in parallel(&(from..from + count).collect::<Vec<_>>(), run) {
        result.map_or_else(|what| failed.push(what), |one| figures.add(&one));
    }
    println!("{figures}");
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(figures.renewals >= count / 8, "{figures}");
}

#[test]
fn seeds_that_once_failed_hold() {
    let seeds = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let number = |line: &str| line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a seed");
    assert_all_hold(&seeds.map(number).collect::<Vec<_>>());
}

/// `make simulate`.
#[test]
#[ignore = "as many as SEEDS says"]
fn many() {
    let from = number("FROM", 1);
    assert_all_hold(&(from..from + number("SEEDS", 1000)).collect::<Vec<_>>());
}

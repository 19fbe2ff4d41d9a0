//! Simulation: both engines under virtual time, over disks and a line that fail as the seed says. One seed is one run.
//!
//! `make simulate SEEDS=50000 FROM=1` runs many (`KIND=history`, `KIND=damage`, `KIND=roles`, `KIND=pressure`, `KIND=quick`: other worlds), `make simulate SEEDS=1 FROM=n
//! TRACE=1` one again with its last steps. Seeds that once failed are kept in `seeds.txt`.

mod device;
mod far;
mod fate;
mod figures;
mod first_copy;
mod hosts;
mod lies;
mod line;
mod near;
mod points;
mod profile;
mod recorder;
mod replay;
mod roles;
mod site;
mod takeover;
mod went_back;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::fate::Points;
use crate::figures::Figures;
use crate::profile::{Calamity, Profile};
use crate::world::World;

/// What a world is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Over disks that take no time and do what they are asked to, or fail as a whole: what most kept seeds were found with.
    Quick,
    /// With a copy that can go back: whatever befalls, every marker it holds can be had.
    History,
    /// With a copy whose journal is damaged again and again.
    Damage,
    /// Copies are taken over, and old primaries return as copies.
    Roles,
    /// Journals fill while the line is cut for long.
    Pressure,
}

impl Kind {
    const ALL: [(&'static str, Self); 6] = [
        ("plain", Self::Plain),
        ("quick", Self::Quick),
        ("history", Self::History),
        ("damage", Self::Damage),
        ("roles", Self::Roles),
        ("pressure", Self::Pressure),
    ];

    fn called(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(called, _)| *called == name).map(|(_, kind)| kind)
    }

    const fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    fn profile(self, seed: u64) -> Profile {
        match self {
            Self::Plain => Profile::of(seed).over_slow_disks(seed),
            Self::Quick => Profile::of(seed),
            // The kept seeds are odd, and stay what they were.
            Self::History if seed.is_multiple_of(2) => Profile::with_history(seed).over_slow_disks(seed),
            Self::History => Profile::with_history(seed),
            Self::Damage if seed.is_multiple_of(2) => Profile::with_damage(seed).over_slow_disks(seed),
            Self::Damage => Profile::with_damage(seed),
            Self::Roles => Profile::with_role_changes(seed),
            Self::Pressure => Profile::under_pressure(seed),
        }
    }
}

/// What a run came to, or what was wrong with it.
fn run(kind: Kind, seed: u64) -> Result<Figures, String> {
    tell(&format!("seed {seed} {}", kind.name()), || {
        let mut world = World::new(seed, kind.profile(seed), Points::deadly(&[]));
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

/// Runs many worlds: their figures together, and those that failed.
fn run_all(worlds: &[(Kind, u64)]) -> (Figures, Vec<u64>) {
    let done = AtomicUsize::new(0);
    let results = parallel(worlds, |(kind, seed)| {
        let result = run(*kind, *seed);
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(1000) {
            eprintln!("{done} of {} seeds", worlds.len());
        }
        if let Err(what) = &result {
            eprintln!("FAILED {what}\n  again: make simulate SEEDS=1 FROM={seed} KIND={} TRACE=1", kind.name());
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

fn assert_all_hold(worlds: &[(Kind, u64)]) -> Figures {
    let (figures, failed) = run_all(worlds);
    println!("{} seeds\n{figures}violations        {}", worlds.len(), failed.len());
    assert!(failed.is_empty(), "{} of {} seeds failed: {failed:?}", failed.len(), worlds.len());
    figures
}

fn worlds(kind: Kind, from: u64, count: u64) -> Vec<(Kind, u64)> {
    (from..from + count).map(|seed| (kind, seed)).collect()
}

#[test]
fn the_same_seed_gives_the_same_run_step_by_step() {
    for seed in [1, 2, 3, 4] {
        let trace = || run(Kind::Plain, seed).unwrap().trace;
        assert_eq!(trace(), trace(), "seed {seed}");
    }
}

/// A primary's disk gives nothing of the journal out any more, though all of it is in the volumes: the copy comes from these.
#[test]
fn what_cannot_be_read_of_a_primarys_journal_is_copied_from_its_volumes() {
    for seed in 1..=5 {
        let profile = Profile { partition: None, weights: [24, 14, 8, 24, 20, 14, 8, 8, 1, 0], ..Profile::short() };
        let mut world = World::new(seed, profile, Points::deadly(&[]));
        (0..600).for_each(|_| world.step());
        world.lose_journal_behind_the_volumes(200);
    }
}

/// What a copy has and could not say any more, when the line was lost, is where it goes on from: its primary has folded what lies behind all
/// that was sent, and nothing before that (invariant 6).
#[test]
fn a_copy_goes_on_behind_what_it_was_sent_though_the_journal_was_folded() {
    for seed in 1..=8 {
        let figures = World::new(seed, Profile::folds(), Points::deadly(&[])).run();
        assert!(figures.folds > 0, "seed {seed}: {figures}");
        assert_eq!((figures.differential, figures.resyncs), (0, 0), "seed {seed}: it goes on by the journal");
    }
}

/// And in them all that can befall does, and is followed by what it is for.
#[test]
fn two_hundred_seeds_hold() {
    let figures = assert_all_hold(&worlds(Kind::Plain, 1, 200));
    let never: Vec<_> = Calamity::ANYWHERE.into_iter().filter(|name| !figures.befell.contains_key(name)).collect();
    assert!(never.is_empty(), "no seed has {never:?}: {figures}");
    let suffered = [figures.stalls, figures.short_writes, figures.refused_reads, figures.power_losses, figures.full];
    assert!(!suffered.contains(&0), "{figures}");
    let judged = [figures.copies_judged / 500, figures.lies_noticed / 500, figures.differential, figures.resyncs];
    assert!(!judged.contains(&0), "{figures}");
}

/// Lines that are cut for long under hosts that go on: journals are folded, and given up, in the middle of everything else.
#[test]
fn journals_are_folded_and_given_up_again_and_again_and_every_copy_is_what_was() {
    let figures = assert_all_hold(&worlds(Kind::Pressure, 1, 60));
    assert!(figures.folds >= 10 && figures.differential >= 10 && figures.resyncs >= 10, "{figures}");
    let befell = |name: &str| figures.befell.get(name).copied().unwrap_or(0);
    assert!(befell("deaths in starts") >= 20 && befell("failed folders") >= 20, "{figures}");
}

#[test]
fn a_copy_that_keeps_a_history_can_be_had_at_every_marker_of_it() {
    let figures = assert_all_hold(&worlds(Kind::History, 1, 60));
    assert!(figures.floors >= 30 && figures.copies_judged >= 100, "{figures}");
}

/// Bits of its journal flip, in the middle of everything else: it never serves what never was, and mends itself.
#[test]
fn a_copy_whose_journal_is_damaged_again_and_again_is_mended_each_time() {
    let figures = assert_all_hold(&worlds(Kind::Damage, 1, 100));
    assert!(figures.renewals >= 10, "{figures}");
}

/// Copies are taken over and written to, old primaries return as copies: what was permitted is kept, what an old primary had alone is what
/// it says, and until its copy is complete it goes back to exactly what it was.
#[test]
fn roles_change_again_and_again_and_what_was_permitted_is_kept() {
    let figures = assert_all_hold(&worlds(Kind::Roles, 1, 60));
    assert!(figures.failovers >= 60 && figures.returns >= 60 && figures.went_back >= 60, "{figures}");
}

#[test]
fn seeds_that_once_failed_hold() {
    let world = |line: &str| {
        let mut words = line.split_whitespace();
        let seed = words.next().and_then(|word| word.parse().ok()).expect("a seed");
        (words.next().and_then(Kind::called).unwrap_or(Kind::Quick), seed)
    };
    let lines = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    assert_all_hold(&lines.map(world).collect::<Vec<_>>());
}

/// `make simulate`.
#[test]
#[ignore = "as many as SEEDS says"]
fn many() {
    let kind = std::env::var("KIND").unwrap_or_else(|_| "plain".into());
    let kind = Kind::called(&kind)
        .unwrap_or_else(|| panic!("KIND is plain, quick, history, damage, roles or pressure, not {kind}"));
    assert_all_hold(&worlds(kind, number("FROM", 1), number("SEEDS", 1000)));
}

use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::ids::Seq;
use crate::overlay::location::JournalPlace;
use crate::record::view::Chunk;
use crate::storage::disk::SystemDisk;
use crate::storage::memory::MemoryDisk;

const SIZE: u64 = 96;

fn extent(offset: u64, length: u64) -> Extent {
    Extent { volume: VolumeIndex((offset / 64) as u32), offset, length }
}

/// The frame of a number; each byte of a range has a place of its own in it.
fn journal(number: u64, within: u64) -> Location {
    let frame = Position { segment: 1, offset: 1000 + number };
    Location::Journal(JournalPlace { frame, chunk: Chunk::default(), within: within as u32 })
}

fn spill(ranges_max: usize) -> Spill {
    let disk = Arc::new(MemoryDisk::new());
    disk.create_folder("g".as_ref()).unwrap();
    Spill::new(disk, "g/run".into(), ranges_max)
}

#[derive(Debug, Clone)]
enum Step {
    Frame(u64, u64),
    Buffer(u64, u64),
    Drain,
    Apply(u64),
    Bound,
    /// One half of it, then the other: what is written in between is newer.
    Half,
}

fn step() -> impl Strategy<Value = Step> {
    // Within one of the two volumes.
    let range = (0..SIZE, 1..12_u64).prop_map(|(offset, length)| (offset, length.min(64 - offset % 64)));
    (0..10, range, 0..6_u64).prop_map(|(kind, (offset, length), back)| match kind {
        0..=2 => Step::Frame(offset, length),
        3 => Step::Buffer(offset, length),
        4 => Step::Drain,
        5 => Step::Apply(back),
        6 | 7 => Step::Half,
        _ => Step::Bound,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn memory_and_runs_together_are_one_index(steps in proptest::collection::vec(step(), 0..60), ranges_max in 0..6_usize) {
        let (index, spill) = (Mutex::new(Unapplied::default()), spill(ranges_max));
        let mut oracle = [None; 2 * 64];
        let mut buffered: Vec<(u64, Extent)> = Vec::new();
        let (mut number, mut half) = (0, None);
        for step in steps {
            number += 1;
            match step {
                Step::Frame(offset, length) => {
                    // The drain keeps the order: what is buffered goes first.
                    drain(&index, &mut oracle, &mut buffered, number);
                    number += 1;
                    index.lock().insert(extent(offset, length), journal(number, 0));
                    for byte in 0..length { oracle[(offset + byte) as usize] = Some(journal(number, byte)); }
                }
                Step::Buffer(offset, length) => {
                    index.lock().insert(extent(offset, length), Location::Buffer { seq: Seq(number), position: 0 });
                    for byte in 0..length {
                        oracle[(offset + byte) as usize] = Some(Location::Buffer { seq: Seq(number), position: byte });
                    }
                    buffered.push((number, extent(offset, length)));
                }
                Step::Drain => drain(&index, &mut oracle, &mut buffered, number),
                Step::Apply(back) => {
                    let up_to = Position { segment: 1, offset: 1000 + number.saturating_sub(back) };
                    for volume in 0..2 { index.lock().forget(extent(volume * 64, 64), up_to); }
                    for there in &mut oracle {
                        if there.is_some_and(|at: Location| at.frame().is_some_and(|frame| frame <= up_to)) { *there = None; }
                    }
                }
                Step::Half => match half.take() {
                    None => half = Some(spill.sweep(&index).unwrap()),
                    Some(run) => spill.publish(&index, run).unwrap(),
                },
                Step::Bound if half.is_some() => {}
                Step::Bound => {
                    spill.bound(&index).unwrap();
                    let index = index.lock();
                    let held = buffered.iter().map(|(_, extent)| extent.length as usize).sum::<usize>();
                    prop_assert!(index.in_memory() <= ranges_max.max(2 * held), "{} in memory", index.in_memory());
                }
            }
        }
        for (offset, length) in [(0, 64), (64, 64), (10, 30), (63, 1)] {
            prop_assert_eq!(seen(&index, extent(offset, length)), &oracle[offset as usize..(offset + length) as usize]);
        }
    }
}

fn drain(index: &Mutex<Unapplied>, oracle: &mut [Option<Location>], buffered: &mut Vec<(u64, Extent)>, number: u64) {
    for (seq, extent) in buffered.drain(..) {
        let of_it = |there: &Location| there.buffered_seq() == Some(Seq(seq));
        index.lock().move_buffered(extent, journal(number, 0), of_it);
        for byte in 0..extent.length {
            let there = &mut oracle[(extent.offset + byte) as usize];
            if there.as_ref().is_some_and(of_it) {
                *there = Some(journal(number, byte));
            }
        }
    }
}

fn seen(index: &Mutex<Unapplied>, extent: Extent) -> Vec<Option<Location>> {
    let look = index.lock().look(extent);
    let bytes = |piece: Piece<Location>| {
        (0..piece.extent.length).map(move |byte| piece.location.map(|location| location.advance(byte)))
    };
    look.pieces().unwrap().into_iter().flat_map(bytes).collect()
}

#[test]
fn indexes_taken_over_one_after_the_other_leave_few_runs() {
    let spill = spill(4);
    let (mut indexed, mut number) = (Indexed::default(), 0);
    let at = |offset| Extent { volume: VolumeIndex(0), offset, length: 1 };
    for _ in 0..200 {
        let mut ahead = Indexed::from(indexed.up_to);
        for _ in 0..11 {
            number += 1;
            ahead.index.get_mut().insert(at(2 * number), journal(number, 0));
            spill.bound(&ahead.index).unwrap();
        }
        ahead.up_to = Position { segment: 1, offset: 1001 + number };
        indexed.adopt(ahead, &spill).unwrap();
        let runs = indexed.index.lock().runs.len();
        assert!(runs <= 12, "{runs} runs of {number} ranges");
    }
    for there in 1..=number {
        assert_eq!(seen(&indexed.index, at(2 * there)), [Some(journal(there, 0))]);
    }
}

/// Readers, writers and the one that moves ranges to the disk, all at once.
#[test]
fn nothing_is_lost_while_ranges_move() {
    const FRAMES: u64 = 5_000;
    let folder = tempfile::tempdir().unwrap();
    let spill = Spill::new(Arc::new(SystemDisk), folder.path().join("run"), 20);
    let index = Mutex::new(Unapplied::default());
    let (done, mut newest, mut last) = (AtomicBool::new(false), [0; 64], 0);
    std::thread::scope(|threads| {
        let moves = threads.spawn(|| {
            while !done.load(Ordering::Acquire) {
                spill.bound(&index).unwrap();
            }
        });
        let goes_on = |number: &u64| *number <= FRAMES || index.lock().on_disk() == 0;
        let wrong = (1..).take_while(goes_on).find_map(|number| {
            let (write_at, look_at) = (number * 37 % 64, number * 11 % 64);
            index.lock().insert(extent(write_at, 1), journal(number, 0));
            newest[write_at as usize] = number;
            let newest = newest[look_at as usize];
            let found = seen(&index, extent(look_at, 1));
            let right = moves.is_finished() || found == [(newest > 0).then(|| journal(newest, 0))];
            (!right).then_some((number, look_at, newest, found))
        });
        done.store(true, Ordering::Release);
        assert_eq!(wrong, None);
        last = newest.into_iter().max().unwrap();
    });
    assert!(index.lock().on_disk() > 0);
    let mut index = index.into_inner();
    index.forget(extent(0, 64), Position { segment: 1, offset: 1000 + last });
    assert_eq!((index.in_memory(), index.on_disk()), (0, 0), "what is in the volumes costs nothing");
}

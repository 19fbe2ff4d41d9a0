//! Clones: what is written over an image.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::storage::filter::{self, Filter};

#[derive(Debug, Clone)]
enum Change {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Flush,
}

fn change() -> impl Strategy<Value = Change> {
    let range = (0..SIZE as u64 / 512, 1..60_u64).prop_map(|(from, count)| {
        let from = from * 512;
        (from, (count * 512).min(SIZE as u64 - from))
    });
    (0..5, range, 1..200_u8).prop_map(|(kind, (offset, length), byte)| match kind {
        0..=2 => Change::Write(offset, length, byte),
        3 => Change::Zero(offset, length),
        _ => Change::Flush,
    })
}

fn disk(rig: &Rig) -> Arc<dyn Disk> {
    Arc::new(rig.disk.clone())
}

/// A clone over an image of ones, below which the volume goes on changing.
fn cloned(rig: &Rig, space: u64) -> io::Result<CloneVolume> {
    let image = rig.image(rig.known[0].user.era);
    let space = Arc::new(CloneSpace::new(space));
    CloneVolume::open(&disk(rig), Path::new("/clone"), &image, &image.volumes()[0].clone(), &space)
}

fn content(clone: &CloneVolume) -> Vec<u8> {
    let mut bytes = vec![0xEE; SIZE];
    clone.read(0, &mut bytes).unwrap();
    bytes
}

/// Changes a clone, and what it is to hold, the newest last: what it held since its last flush. Whether that was done.
fn take(clone: &CloneVolume, change: &Change, versions: &mut Vec<Vec<u8>>) -> bool {
    let mut next = versions.last().unwrap().clone();
    let done = match *change {
        Change::Write(offset, length, byte) => {
            next[offset as usize..(offset + length) as usize].fill(byte);
            clone.write(offset, &vec![byte; length as usize]).is_ok()
        }
        Change::Zero(offset, length) => {
            next[offset as usize..(offset + length) as usize].fill(0);
            clone.zero(offset, length).is_ok()
        }
        Change::Flush => clone.flush().is_ok(),
    };
    if done && matches!(change, Change::Flush) {
        versions.clear();
    }
    versions.push(next);
    done
}

/// Each sector holds what it held at the last flush, or a later version of it.
fn assert_legal(found: &[u8], versions: &[Vec<u8>], what: &str) {
    for sector in 0..SIZE / 512 {
        let range = sector * 512..(sector + 1) * 512;
        let legal = versions.iter().any(|version| version[range.clone()] == found[range.clone()]);
        let holds = found[range.start];
        assert!(legal, "{what}: sector {sector} holds {holds}, which it never held since the last flush");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// After a loss of power each sector holds what it held at the last flush, or a later version of it; with all of its power a
    /// clone holds what was written.
    #[test]
    fn a_clone_holds_what_was_written_and_after_a_loss_of_power_what_was_flushed(
        changes in proptest::collection::vec(change(), 1..16), after in 0..160_u64, seed in 0..1000_u64
    ) {
        let mut rig = Rig::new(64 << 20);
        rig.write(extent(0, SIZE as u64), 1).unwrap();
        rig.begin().unwrap();
        rig.write(extent(0, 30_000), 2).unwrap();
        rig.file.sync().unwrap();
        let clone = cloned(&rig, 64 << 20).unwrap();
        rig.disk.power_off_after(after);
        let mut versions = vec![vec![1_u8; SIZE]];
        let mut broken = false;
        for change in &changes {
            if !take(&clone, change, &mut versions) {
                broken = true;
                break;
            }
            prop_assert_eq!(&content(&clone), versions.last().unwrap());
        }
        if !broken {
            clone.flush().ok();
        }
        let crashed = rig.disk.crash(seed);
        rig.restart(crashed);
        assert_legal(&content(&cloned(&rig, 64 << 20).unwrap()), &versions, "after the crash");
    }
}

/// A short run with everything in it that changes a clone; it dies after so many changes of the disk. What it may hold then, and how many there were.
fn run_and_die(after: u64) -> (Rig, Vec<Vec<u8>>, u64) {
    use Change::{Flush, Write, Zero};
    let mut rig = Rig::new(64 << 20);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    rig.begin().unwrap();
    rig.write(extent(0, 30_000), 2).unwrap();
    rig.file.sync().unwrap();
    let clone = cloned(&rig, 64 << 20).unwrap();
    let begun = rig.disk.effects();
    rig.disk.power_off_after(after);
    let mut versions = vec![vec![1_u8; SIZE]];
    let mut run = vec![Write(0, 8192, 5), Flush, Write(512, 1024, 6), Write(16_384, 4096, 7), Zero(4096, 12_288)];
    run.extend([Flush, Zero(19_968, 512), Write(0, 4096, 8), Flush, Zero(0, 4096), Write(61_440, 4096, 9)]);
    for change in &run {
        if !take(&clone, change, &mut versions) {
            break;
        }
    }
    let changes = rig.disk.effects() - begun;
    (rig, versions, changes)
}

/// All of them, each followed by a second death, or loss of power, at every change of the start that comes after it.
#[test]
fn a_death_at_any_change_of_a_clone_and_in_the_start_after_it_costs_nothing_that_was_flushed() {
    let (_, _, all) = run_and_die(u64::MAX);
    assert!(all > 10, "{all} changes");
    let left = |disk: &MemoryDisk, power: Option<u64>| power.map_or_else(|| disk.outlive(), |seed| disk.crash(seed));
    for power in [None, Some(1), Some(2)] {
        for first in 0..all {
            for second in 0.. {
                let what = format!("after {first} changes, then {second}, power lost {power:?}");
                let (mut rig, versions, _) = run_and_die(first);
                let again = left(&rig.disk, power);
                again.power_off_after(second);
                let opened = rig.try_restart(again.clone()).ok().and_then(|()| cloned(&rig, 64 << 20).ok());
                let whole = opened.is_some();
                let clone = opened.unwrap_or_else(|| {
                    rig.restart(left(&again, power));
                    cloned(&rig, 64 << 20).unwrap_or_else(|error| panic!("{what}: {error}"))
                });
                assert_legal(&content(&clone), &versions, &what);
                if whole {
                    break;
                }
            }
        }
    }
}

/// It reads well, from memory, as long as the kernel has it there: the next process took it for what the disk has, and flushed nothing.
#[test]
fn a_clone_that_could_not_be_synced_is_not_taken_for_sound_by_the_next_start() {
    let mut rig = Rig::new(64 << 20);
    rig.begin().unwrap();
    let clone = cloned(&rig, 1 << 20).unwrap();
    clone.write(0, &[5; 8192]).unwrap();
    rig.disk.fail_next_sync(io::ErrorKind::Other);
    clone.flush().unwrap_err();
    assert!(clone.broken().is_some_and(|why| why.contains("Make the clone again")));
    clone.flush().unwrap_err();
    drop(clone);
    for _ in 0..2 {
        let error = cloned(&rig, 1 << 20).unwrap_err();
        assert!(error.to_string().contains("make the clone again"), "{error}");
    }
}

/// As what a process that is gone had written.
#[test]
fn a_clone_that_cannot_be_synced_at_a_start_is_not_taken_for_sound_by_the_next_one() {
    let mut rig = Rig::new(64 << 20);
    rig.begin().unwrap();
    drop(cloned(&rig, 1 << 20).unwrap());
    rig.disk.fail_next_sync(io::ErrorKind::Other);
    cloned(&rig, 1 << 20).unwrap_err();
    cloned(&rig, 1 << 20).unwrap_err();
}

#[test]
fn clones_together_take_no_more_than_there_is_for_all() {
    let mut rig = Rig::new(64 << 20);
    rig.begin().unwrap();
    let all = Arc::new(CloneSpace::new(4 * 4096));
    let image = rig.image(rig.known[0].user.era);
    let open = |folder: &str| {
        let space = Arc::new(CloneSpace::within(1 << 20, Arc::clone(&all)));
        CloneVolume::open(&disk(&rig), Path::new(folder), &image, &image.volumes()[0].clone(), &space).unwrap()
    };
    let (one, other) = (open("/one"), open("/other"));
    one.write(0, &[1; 3 * 4096]).unwrap();
    other.write(0, &[2; 4096]).unwrap();
    assert!(matches!(other.write(8192, &[3; 4096]), Err(CloneError::AllFull(_))));
    assert!(matches!(one.write(3 * 4096, &[3; 4096]), Err(CloneError::AllFull(_))));
    other.write(0, &[4; 4096]).unwrap();
    one.flush().unwrap();
    drop(one);
    assert_eq!(all.used(), 4096, "what a clone had is given back with it");
    let one = open("/one");
    assert_eq!(all.used(), 4 * 4096, "a restart counts what is there");
    one.zero(0, 4096).unwrap();
    other.write(8192, &[5; 4096]).unwrap();
    assert_eq!(all.used(), 4 * 4096);
}

#[test]
fn a_clone_takes_no_more_than_its_space_and_gives_back_what_is_trimmed() {
    let mut rig = Rig::new(64 << 20);
    rig.begin().unwrap();
    let clone = cloned(&rig, 16384).unwrap();
    clone.write(0, &[5; 16384]).unwrap();
    assert!(matches!(clone.write(20480, &[6; 512]), Err(CloneError::Full(16384))));
    clone.write(0, &[7; 16384]).unwrap();
    clone.zero(4096, 4096).unwrap();
    clone.write(20480, &[6; 512]).unwrap();
    let bytes = content(&clone);
    assert_eq!((bytes[0], bytes[4096], bytes[8192], bytes[20480], bytes[20992]), (7, 0, 7, 6, 0));
    assert_eq!(clone.status(4096, 4096).unwrap(), (4096, true));
}

/// What they discard is known in memory only until then.
#[test]
fn the_map_of_a_large_clone_goes_to_its_file_though_no_host_flushes() {
    let mut rig = Rig::new(64 << 20);
    rig.begin().unwrap();
    let image = rig.image(rig.known[0].user.era);
    let volume = ImageVolume { size: 64 << 30, ..image.volumes()[0].clone() };
    let space = Arc::new(CloneSpace::new(1 << 20));
    let clone = CloneVolume::open(&disk(&rig), Path::new("/clone"), &image, &volume, &space).unwrap();
    let in_file = || rig.disk.bytes_of(Path::new("/clone/a.map")).unwrap().len();
    for far in 0..=crate::t0::clone_map::SECTORS_MAX as u64 {
        assert_eq!(in_file(), 0, "{far}");
        clone.zero(far * 2032 * 4096, 4096).unwrap();
    }
    assert!(in_file() > 0);
}

/// Hears how much is zeroed at once, and refuses it.
#[derive(Default)]
struct Zeroed(AtomicU64);

impl Filter for Zeroed {
    fn before_zero(&self, length: u64) -> io::Result<()> {
        self.0.store(length, Ordering::Release);
        Err(io::Error::other("it was to be heard of only"))
    }
}

/// One request may be for all of a volume of 64 TiB: its map would be in memory before any of it is in the file.
#[test]
fn a_large_range_of_a_clone_is_zeroed_piece_by_piece() {
    let mut rig = Rig::new(64 << 20);
    rig.begin().unwrap();
    let image = rig.image(rig.known[0].user.era);
    let volume = ImageVolume { size: 2 << 30, ..image.volumes()[0].clone() };
    let (space, zeroed) = (Arc::new(CloneSpace::new(1 << 20)), Arc::new(Zeroed::default()));
    let disk = filter::disk(Arc::new(rig.disk.clone()), &zeroed);
    let clone = CloneVolume::open(&disk, Path::new("/clone"), &image, &volume, &space).unwrap();
    assert!(clone.zero(4096, (2 << 30) - 4096).is_err());
    assert_eq!(zeroed.0.load(Ordering::Acquire), (1 << 30) - 4096);
}

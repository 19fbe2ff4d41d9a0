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
            versions.push(next);
            if !done {
                broken = true;
                break;
            }
            prop_assert_eq!(&content(&clone), versions.last().unwrap());
            if matches!(change, Change::Flush) {
                versions.drain(..versions.len() - 1);
            }
        }
        if !broken {
            clone.flush().ok();
        }
        let crashed = rig.disk.crash(seed);
        rig.restart(crashed);
        let found = content(&cloned(&rig, 64 << 20).unwrap());
        for sector in 0..SIZE / 512 {
            let range = sector * 512..(sector + 1) * 512;
            let legal = versions.iter().any(|version| version[range.clone()] == found[range.clone()]);
            prop_assert!(legal, "sector {} holds {} which it never held since the last flush", sector, found[range.start]);
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

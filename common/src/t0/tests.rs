//! Eras and images against an oracle: whole snapshots. The updater is played by [`Rig::write`]: save, write, move on.

#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::concordance::RANGE_BYTES;
use super::side_file::SideFile;
use super::*;
use crate::extent::Extent;
use crate::ids::{GroupId, VolumeIndex};
use crate::journal::Position;
use crate::storage::memory::MemoryDisk;
use crate::storage::{Disk, DiskFile, Open};
use crate::volumes::{VolumeFile, Volumes};

const SIZE: usize = 64 << 10;
const GROUP: GroupId = GroupId([9; 16]);
const VOLUME: VolumeIndex = VolumeIndex(1);
const FOLDER: &str = "/t0";

fn extent(offset: u64, length: u64) -> Extent {
    Extent { volume: VOLUME, offset, length }
}

const fn at(place: u64) -> Position {
    Position { segment: 1, offset: place }
}

/// What the catalogue knows of an image, and what it must show.
#[derive(Debug, Clone)]
struct Known {
    user: EraUser,
    snapshot: Vec<u8>,
}

struct Rig {
    disk: MemoryDisk,
    space: Arc<SideSpace>,
    file: Arc<dyn DiskFile>,
    volumes: Volumes,
    eras: Arc<Eras>,
    place: u64,
    oracle: Vec<u8>,
    known: Vec<Known>,
    writes: Vec<(Extent, u8)>,
}

#[derive(Default)]
struct Told(Mutex<Vec<(u64, String)>>);

impl ErasWatch for Told {
    fn on_era_ended(&self, _: GroupId, era: u64, reason: &str) {
        self.0.lock().push((era, reason.to_owned()));
    }

    fn on_cut(&self, _: GroupId, _: Position) -> Result<(), String> {
        Ok(())
    }

    fn on_all_reached(&self, _: GroupId) -> Result<(), String> {
        Ok(())
    }
}

fn parts(disk: &MemoryDisk, space: &Arc<SideSpace>) -> ErasParts {
    let (disk, space) = (Arc::new(disk.clone()), Arc::clone(space));
    ErasParts { disk, folder: FOLDER.into(), group: GROUP, space, index_ranges_max: 4, outlive: true }
}

fn open_volume(disk: &MemoryDisk) -> std::io::Result<(Arc<dyn DiskFile>, Volumes)> {
    let file = disk.open(Path::new("/volumes/a"), Open::ExistingOrNew)?;
    file.grow(SIZE as u64)?;
    let volumes = Volumes::default();
    volumes.insert(VolumeFile::new(VOLUME, "a".into(), Arc::clone(&file), SIZE as u64));
    Ok((file, volumes))
}

impl Rig {
    fn new(space: u64) -> Self {
        let disk = MemoryDisk::new();
        disk.create_folder(Path::new("/volumes")).unwrap();
        let (file, volumes) = open_volume(&disk).unwrap();
        file.sync().unwrap();
        disk.sync_folder(Path::new("/volumes")).unwrap();
        let space = Arc::new(SideSpace::new(space));
        let (eras, lost) = Eras::open(parts(&disk, &space), &[]).unwrap();
        assert_eq!(lost, []);
        Self {
            disk,
            space,
            file,
            volumes,
            eras,
            place: 1,
            oracle: vec![0; SIZE],
            known: Vec::new(),
            writes: Vec::new(),
        }
    }

    /// What the updater does with one window.
    fn write(&mut self, extent: Extent, byte: u8) -> std::io::Result<()> {
        self.writes.push((extent, byte));
        self.apply(self.place, extent, byte)?;
        let range = extent.offset as usize..extent.end() as usize;
        self.oracle[range].fill(byte);
        self.place += 1;
        Ok(())
    }

    fn apply(&self, place: u64, extent: Extent, byte: u8) -> std::io::Result<()> {
        assert!(self.eras.save(at(place), &[extent], &self.volumes, false)?);
        if byte == 0 {
            self.file.zero(extent.offset, extent.length, true)?;
        } else {
            self.file.write_all_at(&vec![byte; extent.length as usize], extent.offset)?;
        }
        self.eras.applied(at(place + 1));
        Ok(())
    }

    fn begin(&mut self) -> Result<u64, T0Error> {
        let volumes = BTreeSet::from([VOLUME]);
        let barrier = self.eras.hold(at(self.place));
        let joined = self.eras.begin(&barrier, &volumes)?;
        let user = EraUser { era: joined.era, begin: joined.begin, volumes };
        self.known.push(Known { user, snapshot: self.oracle.clone() });
        Ok(joined.era)
    }

    /// The record goes first, as in the product.
    fn end(&mut self, which: usize) {
        let known = self.known.remove(which);
        self.eras.leave(known.user.era);
    }

    fn users(&self) -> Vec<EraUser> {
        self.known.iter().map(|known| known.user.clone()).collect()
    }

    fn restart(&mut self, disk: MemoryDisk) {
        self.try_restart(disk).unwrap();
    }

    fn try_restart(&mut self, disk: MemoryDisk) -> Result<(), String> {
        self.disk = disk;
        self.space = Arc::new(SideSpace::new(self.space.capacity()));
        let opened = Eras::open(parts(&self.disk, &self.space), &self.users());
        let (eras, lost) = opened.map_err(|error| error.to_string())?;
        assert_eq!(lost, []);
        (self.file, self.volumes) = open_volume(&self.disk).map_err(|error| error.to_string())?;
        self.eras = eras;
        self.eras.applied(at(self.place));
        Ok(())
    }

    /// After whatever befell it: nothing was recorded as applied, so the updater applies all of it again.
    fn come_back(&mut self, disk: MemoryDisk) -> Result<(), String> {
        self.place = 1;
        self.try_restart(disk)?;
        for (place, (extent, byte)) in (1..).zip(self.writes.clone()) {
            let limit = self.eras.limit(at(place), at(place + 1));
            assert_eq!(limit, at(place + 1), "one write is one window here");
            self.apply(place, extent, byte).map_err(|error| error.to_string())?;
        }
        self.place = self.writes.len() as u64 + 1;
        Ok(())
    }

    fn image(&self, era: u64) -> Image {
        let volume = ImageVolume { index: VOLUME, name: "a".into(), size: SIZE as u64, file: Arc::clone(&self.file) };
        Image::new(Arc::clone(&self.eras), era, vec![volume])
    }

    fn check(&self, what: &str) {
        for known in &self.known {
            let image = self.image(known.user.era);
            let mut bytes = vec![0xEE; SIZE];
            image.read(VOLUME, 0, &mut bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
            let differs = bytes.iter().zip(&known.snapshot).position(|(one, other)| one != other);
            assert_eq!(differs, None, "{what}: image of era {:x}", known.user.era);
            for offset in (0..SIZE).step_by(8192) {
                let zero = image.hole(VOLUME, offset as u64, (SIZE - offset) as u64).unwrap() as usize;
                assert!(
                    known.snapshot[offset..offset + zero].iter().all(|byte| *byte == 0),
                    "{what}: no hole at {offset}"
                );
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u64, u8),
    Begin,
    End(usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0..SIZE as u64 / 512, 1..40_u64, 0..5_u8)
        .prop_map(|(from, count, byte)| Step::Write(from * 512, (count * 512).min(SIZE as u64 - from * 512), byte));
    prop_oneof![6 => write, 2 => Just(Step::Begin), 1 => (0..8_usize).prop_map(Step::End), 1 => Just(Step::Restart)]
}

fn take(rig: &mut Rig, step: &Step) -> Result<(), String> {
    match *step {
        Step::Write(offset, length, byte) => rig.write(extent(offset, length), byte).map_err(|error| error.to_string()),
        Step::Begin => rig.begin().map(drop).map_err(|error| error.to_string()),
        Step::End(which) => {
            if which < rig.known.len() {
                rig.end(which);
            }
            Ok(())
        }
        Step::Restart => {
            let disk = rig.disk.clone();
            rig.restart(disk);
            Ok(())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_image_shows_its_moment_whatever_is_written_deleted_and_restarted(
        steps in proptest::collection::vec(step(), 1..40)
    ) {
        let mut rig = Rig::new(64 << 20);
        for step in &steps {
            take(&mut rig, step).unwrap();
            rig.check(&format!("after {step:?}"));
        }
        while !rig.known.is_empty() {
            rig.end(rig.known.len() / 2);
            rig.check("after an end");
        }
        prop_assert_eq!(rig.space.used(), 0, "all space is given back");
        prop_assert_eq!(rig.disk.list(Path::new(FOLDER)).unwrap_or_default().len(), 0);
    }

    /// Power goes at any effect; afterwards the updater applies again what it had not recorded, which is everything.
    #[test]
    fn a_loss_of_power_anywhere_costs_no_image(
        steps in proptest::collection::vec(step(), 1..14), after in 0..120_u64, seed in 0..1000_u64
    ) {
        let mut rig = Rig::new(64 << 20);
        rig.disk.power_off_after(after);
        for step in steps.iter().filter(|step| !matches!(step, Step::Restart)) {
            if take(&mut rig, step).is_err() {
                break;
            }
        }
        // A write that was cut off is in the journal, and is applied after the restart.
        let crashed = rig.disk.crash(seed);
        rig.come_back(crashed).unwrap();
        prop_assert_eq!(rig.eras.applied_position().max(at(1)), at(rig.place));
        rig.check("after the crash");
    }
}

/// A short run with everything in it that changes a disk, once each.
fn short_run() -> Vec<Step> {
    use Step::{Begin, End, Restart, Write};
    vec![
        Write(0, SIZE as u64, 1),
        Begin,
        Write(4096, 8192, 2),
        Begin,
        Write(4096, 4096, 3),
        Write(32_768, 12_288, 0),
        Restart,
        Write(0, 16_384, 4),
        End(0),
        Begin,
        Write(8192, 512, 2),
        End(0),
        Write(8192, 32_768, 1),
    ]
}

/// Dies after so many changes of the disk, or loses power there.
fn run_and_die(after: u64) -> Rig {
    let mut rig = Rig::new(64 << 20);
    rig.disk.power_off_after(after);
    for step in short_run() {
        let done = match step {
            Step::Restart => rig.try_restart(rig.disk.clone()),
            step => take(&mut rig, &step),
        };
        if done.is_err() {
            break;
        }
    }
    rig
}

/// What is left on the disk: all that was written, or, with a seed, what a loss of power leaves of it.
fn left(disk: &MemoryDisk, power: Option<u64>) -> MemoryDisk {
    power.map_or_else(|| disk.outlive(), |seed| disk.crash(seed))
}

/// And nothing of it stays when the last image has ended.
fn assert_survived(mut rig: Rig, what: &str) {
    rig.check(what);
    while !rig.known.is_empty() {
        rig.end(0);
        rig.check(what);
    }
    assert_eq!((rig.space.used(), rig.disk.list(Path::new(FOLDER)).unwrap_or_default()), (0, vec![]), "{what}");
}

/// All of them, each followed by a second death, or loss of power, at every change of the start that comes after it.
#[test]
fn a_death_at_any_change_of_a_disk_and_in_the_start_after_it_costs_no_image() {
    let all = run_and_die(u64::MAX).disk.effects();
    assert!(all > 30, "{all} changes");
    for power in [None, Some(1), Some(2)] {
        for first in 0..all {
            for second in 0.. {
                let what = format!("after {first} changes, then {second}, power lost {power:?}");
                let mut rig = run_and_die(first);
                let again = left(&rig.disk, power);
                again.power_off_after(second);
                let whole = rig.come_back(again.clone()).is_ok() && again.list(Path::new("/volumes")).is_ok();
                if whole {
                    again.power_off_after(u64::MAX);
                } else {
                    rig.come_back(left(&again, power)).unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                assert_survived(rig, &what);
                if whole {
                    break;
                }
            }
        }
    }
}

fn side_files(disk: &MemoryDisk) -> Vec<PathBuf> {
    disk.list(Path::new(FOLDER)).unwrap().iter().map(|name| Path::new(FOLDER).join(name)).collect()
}

#[test]
fn what_is_saved_is_saved_once_for_all_images() {
    let mut rig = Rig::new(64 << 20);
    rig.write(extent(0, 32768), 1).unwrap();
    rig.begin().unwrap();
    rig.begin().unwrap();
    assert_eq!(rig.known[0].user.era, rig.known[1].user.era, "at the same moment: the same era");
    rig.write(extent(4096, 4096), 2).unwrap();
    rig.begin().unwrap();
    let before = rig.space.used();
    rig.write(extent(8192, 4096), 3).unwrap();
    let one_batch = rig.space.used() - before;
    rig.write(extent(8192, 4096), 4).unwrap();
    assert_eq!((one_batch, rig.space.used() - before), (8192, 8192), "header and block, once");
    rig.check("shared");
}

#[test]
fn a_full_side_store_ends_the_oldest_image_and_nothing_else() {
    let mut rig = Rig::new(44 << 10);
    let told = Arc::new(Told::default());
    let watch: std::sync::Weak<dyn ErasWatch> = Arc::downgrade(&(Arc::clone(&told) as Arc<dyn ErasWatch>));
    rig.eras.watched_by(watch);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    let oldest = rig.begin().unwrap();
    rig.write(extent(0, 16384), 2).unwrap();
    rig.begin().unwrap();
    rig.write(extent(16384, 16384), 3).unwrap();
    assert_eq!(told.0.lock().len(), 1, "two times 16 KiB and their headers do not fit");
    let (era, reason) = told.0.lock()[0].clone();
    assert_eq!(era, oldest);
    assert!(reason.contains("side_store_bytes"), "{reason}");
    assert_eq!(rig.oracle[16384], 3, "the write went through");
    let mut byte = [0];
    assert!(matches!(rig.image(oldest).read(VOLUME, 0, &mut byte), Err(ImageError::Gone)));
    rig.known.remove(0);
    rig.check("the younger one is whole");
    let disk = rig.disk.clone();
    let record = EraUser { era: oldest, begin: at(2), volumes: BTreeSet::from([VOLUME]) };
    let users = [rig.users(), vec![record]].concat();
    let (_, lost) = Eras::open(parts(&disk, &Arc::new(SideSpace::new(1 << 20))), &users).unwrap();
    assert_eq!(lost.iter().map(|lost| lost.0).collect::<Vec<_>>(), [oldest], "and is known to be lost after a restart");
    rig.restart(disk);
    rig.check("after a restart");
}

#[test]
fn a_full_disk_ends_images_and_not_the_write() {
    let mut rig = Rig::new(64 << 20);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    let era = rig.begin().unwrap();
    rig.disk.limit_space(Some(rig.disk.used_bytes() + 4096));
    rig.write(extent(0, 32768), 2).unwrap();
    assert!(!rig.eras.has(era));
    assert_eq!(rig.space.used(), 0);
    rig.known.clear();
    let next = rig.begin().unwrap();
    rig.check("there is room for the next");
    assert_ne!(next, era, "who still holds the one that is gone does not find another");
}

#[test]
fn saved_content_that_was_altered_is_never_served() {
    let mut rig = Rig::new(64 << 20);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    let era = rig.begin().unwrap();
    rig.write(extent(0, 4096), 2).unwrap();
    rig.write(extent(8192, 4096), 3).unwrap();
    let path = side_files(&rig.disk).remove(0);
    rig.disk.flip_bit(&path, (4096 + 64 + 32 + 100) * 8).unwrap();
    let mut bytes = [0; 4096];
    let error = rig.image(era).read(VOLUME, 0, &mut bytes).unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
    rig.image(era).read(VOLUME, 8192, &mut bytes).unwrap();
    // A header that cannot be read, with a younger batch behind it, is no torn end.
    rig.disk.flip_bit(&path, (4096 + 10) * 8).unwrap();
    let (_, lost) = Eras::open(parts(&rig.disk, &rig.space), &rig.users()).unwrap();
    assert!(lost[0].1.contains("a younger one follows"), "{lost:?}");
}

/// What an image had swallowed goes with it when it is lost: a later one would be taken to have saved that.
#[test]
fn nothing_of_a_lost_image_becomes_part_of_a_later_one() {
    let mut rig = Rig::new(64 << 20);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    let lost = rig.begin().unwrap();
    rig.write(extent(0, 4096), 9).unwrap();
    for byte in 2..4 {
        rig.begin().unwrap();
        rig.write(extent(0, 8192), byte).unwrap();
    }
    rig.end(2);
    rig.end(1);
    rig.check("it has swallowed two");
    let mut files = side_files(&rig.disk);
    files.sort_unstable();
    assert_eq!(files.len(), 3);
    // Nobody names the youngest, which can no longer be read.
    rig.disk.flip_bit(&files[2], 8).unwrap();
    let (eras, told) = Eras::open(parts(&rig.disk, &rig.space), &rig.users()).unwrap();
    assert_eq!(told.iter().map(|told| told.0).collect::<Vec<_>>(), [lost]);
    assert_eq!(side_files(&rig.disk), Vec::<PathBuf>::new());
    rig.known.clear();
    eras.applied(at(rig.place));
    rig.eras = eras;
    rig.begin().unwrap();
    rig.write(extent(16_384, 4096), 4).unwrap();
    rig.restart(rig.disk.clone());
    rig.check("a later image after a start");
}

#[test]
fn what_a_volume_holds_is_never_taken_for_a_batch() {
    let disk = MemoryDisk::new();
    disk.create_folder(Path::new(FOLDER)).unwrap();
    let make = |name: &str, number| SideFile::create(&disk, &Path::new(FOLDER).join(name), GROUP, number).unwrap();
    let saving = |bytes: Vec<u8>| [side_file::Saving { extent: extent(0, bytes.len() as u64), bytes: Some(bytes) }];
    let inner = make("inner", 1);
    for byte in 1..6 {
        inner.append(&saving(vec![byte; 3000]), true).unwrap();
    }
    let inner = disk.bytes_of(&Path::new(FOLDER).join("inner")).unwrap();
    // A volume that held a side file, saved so that its batches lie where those of the outer one could begin.
    let mut held = vec![0; 4000];
    held.extend(&inner[4096..]);
    let path = Path::new(FOLDER).join("1.side");
    make("1.side", 1).append(&saving(held), true).unwrap();
    let found = || {
        let mut found = 0;
        SideFile::open(&disk, &path, GROUP, 1, &mut |_, _| found += 1).map(|_| found)
    };
    assert_eq!(found().unwrap(), 1);
    // Torn: what lies behind its begin is no younger batch.
    disk.flip_bit(&path, (4096 + 10) * 8).unwrap();
    assert_eq!(found().unwrap(), 0);
    assert!(SideFile::open(&disk, &path, GroupId([1; 16]), 1, &mut |_, _| {}).is_err(), "another group's");
}

/// Whoever looks for the last good moment goes back from marker to marker, and may keep all images.
#[test]
fn many_images_may_begin_each_before_the_last() {
    let rig = Rig::new(64 << 20);
    let begin = |place| rig.eras.begin(&rig.eras.hold(at(place)), &BTreeSet::from([VOLUME])).map(|joined| joined.era);
    let numbers: Vec<u64> = (2..34).rev().map(|place| begin(place).unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] < pair[0]), "{numbers:?}");
}

#[test]
fn an_image_may_begin_before_one_that_is_not_reached_yet() {
    let rig = Rig::new(64 << 20);
    let volumes = BTreeSet::from([VOLUME]);
    let begin = |place| {
        let barrier = rig.eras.hold(at(place));
        assert_eq!(rig.eras.limit(at(place), at(30)), at(place), "held");
        rig.eras.begin(&barrier, &volumes).unwrap()
    };
    let (later, sooner) = (begin(20), begin(10));
    assert!(sooner.era < later.era);
    assert_eq!(rig.eras.limit(at(1), at(30)), at(10));
    assert_eq!(rig.eras.limit(at(10), at(30)), at(20));
    assert_eq!(rig.eras.limit(at(20), at(30)), at(30));
}

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

/// A clone over an image of ones, below which the volume goes on changing.
fn cloned(rig: &Rig, space: u64) -> std::io::Result<CloneVolume> {
    let image = rig.image(rig.known[0].user.era);
    let space = Arc::new(CloneSpace::new(space));
    CloneVolume::open(&rig.disk, Path::new("/clone"), &image, &image.volumes()[0].clone(), &space)
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

#[test]
fn memory_for_images_is_bounded_and_given_back() {
    let mut rig = Rig::new(1 << 20);
    rig.space = Arc::new(SideSpace::new(1 << 20).with_memory(8 * RANGE_BYTES));
    rig.eras = Eras::open(parts(&rig.disk, &rig.space), &[]).unwrap().0;
    let told = Arc::new(Told::default());
    let watch: Arc<dyn ErasWatch> = told.clone();
    rig.eras.watched_by(Arc::downgrade(&watch));
    rig.eras.applied(at(rig.place));
    let first = rig.begin().unwrap();
    // Each is a hole: it takes next to nothing of the disk.
    for block in 0..7 {
        rig.write(extent(block * 8192, 4096), 1).unwrap();
    }
    assert_eq!(rig.space.memory_used(), 7 * RANGE_BYTES);
    rig.begin().unwrap();
    rig.write(extent(7 * 8192, 4096), 1).unwrap();
    let refused = rig.begin();
    assert!(matches!(&refused, Err(T0Error::Full(Full::Memory { .. }))), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("memory_bytes"));
    rig.check("memory");
    rig.write(extent(4096, 4096), 1).unwrap();
    let ended = told.0.lock().clone();
    assert!(matches!(&ended[..], [(era, reason)] if *era == first && reason.contains("memory_bytes")), "{ended:?}");
    rig.known.remove(0);
    rig.check("memory");
    assert_eq!(rig.space.memory_used(), 2 * RANGE_BYTES);
    let disk = rig.disk.fork();
    rig.restart(disk);
    rig.check("memory");
    rig.end(0);
    assert_eq!((rig.space.memory_used(), rig.space.used()), (0, 0));
}

#[test]
fn a_full_side_store_refuses_further_images() {
    let mut rig = Rig::new(60 << 10);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    rig.begin().unwrap();
    rig.write(extent(0, 48 << 10), 2).unwrap();
    let refused = rig.begin().unwrap_err().to_string();
    assert!(refused.contains("side_store_bytes") && refused.contains("delete images"), "{refused}");
    rig.check("memory");
}

#[test]
fn clones_together_take_no_more_than_there_is_for_all() {
    let mut rig = Rig::new(64 << 20);
    rig.begin().unwrap();
    let all = Arc::new(CloneSpace::new(4 * 4096));
    let image = rig.image(rig.known[0].user.era);
    let open = |folder: &str| {
        let space = Arc::new(CloneSpace::within(1 << 20, Arc::clone(&all)));
        CloneVolume::open(&rig.disk, Path::new(folder), &image, &image.volumes()[0].clone(), &space).unwrap()
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

#[test]
fn what_every_user_has_copied_is_not_saved_any_more() {
    let mut rig = Rig::new(1 << 20);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    let backup = rig.begin().unwrap();
    // Another image at the same moment: both users' copies count, and one of an era with two users does not.
    let shared = rig.eras.share(backup).unwrap().era;
    rig.eras.copied(backup, extent(0, 8192));
    let saved = |rig: &mut Rig, offset: u64| {
        let before = rig.space.used();
        rig.write(extent(offset, 4096), 2).unwrap();
        rig.space.used() > before
    };
    assert!(saved(&mut rig, 0), "the other user has not copied it");
    rig.eras.leave(shared);
    rig.eras.copied(backup, extent(4096, 12_288));
    assert!(!saved(&mut rig, 4096) && !saved(&mut rig, 8192));
    let before = rig.space.used();
    assert!(saved(&mut rig, 20_480), "nobody has copied it");
    let one_block = rig.space.used() - before;
    assert!(rig.eras.share(backup).is_err(), "it is not whole any more");
    // A range that was copied in part is saved in part.
    let before = rig.space.used();
    rig.write(extent(12_288, 8192), 3).unwrap();
    assert_eq!(rig.space.used() - before, one_block);
    // A younger image needs what lies there now.
    let younger = rig.begin().unwrap();
    assert!(saved(&mut rig, 4096));
    let image = rig.image(younger);
    let mut read = [0; 4096];
    image.read(VOLUME, 4096, &mut read).unwrap();
    assert_eq!(read, [2; 4096]);
    // What was not copied is what it was.
    let image = rig.image(backup);
    for offset in [0, 16_384, 20_480, 61_440] {
        image.read(VOLUME, offset, &mut read).unwrap();
        assert_eq!(read, [1; 4096], "{offset}");
    }
}

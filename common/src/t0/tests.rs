//! Eras and images against an oracle: whole snapshots. The updater is played by [`Rig::write`]: save, write, move on.

#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

mod clones;
mod large;
mod removal;
mod runs;
mod shared;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Builder;

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
        eras.applied(at(1));
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
        // One that dies here has told nobody what it found.
        self.disk.list(Path::new("/volumes")).map_err(|error| error.to_string())?;
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

/// A service that starts without the group's engine, whose journal holds what the volumes lack.
#[test]
fn an_image_that_the_volumes_may_not_have_reached_is_not_read_without_an_engine() {
    let mut rig = Rig::new(64 << 20);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    let era = rig.begin().unwrap();
    rig.write(extent(0, 4096), 2).unwrap();
    rig.eras = Eras::open(parts(&rig.disk, &rig.space), &rig.users()).unwrap().0;
    // What is recorded of the volumes lies before it.
    rig.eras.applied(at(1));
    assert!(rig.eras.is_unknown(era));
    let mut bytes = [0; 4096];
    assert!(matches!(rig.image(era).read(VOLUME, 8192, &mut bytes), Err(ImageError::NotRunning)));
    assert!(matches!(rig.image(era).hole(VOLUME, 8192, 4096), Err(ImageError::NotRunning)));
    rig.image(era).read(VOLUME, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [1; 4096], "what was saved of it is known");
    rig.eras.applied(at(rig.place));
    assert!(!rig.eras.is_unknown(era));
    rig.check("with an engine");
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

/// Without a file that it had swallowed an image is not what it was, though its own is there.
#[test]
fn an_image_that_ends_while_power_is_lost_is_whole_or_lost_whatever_it_had_swallowed() {
    for seed in 0..128 {
        let mut rig = Rig::new(64 << 20);
        rig.write(extent(0, SIZE as u64), 1).unwrap();
        let era = rig.begin().unwrap();
        rig.write(extent(0, 4096), 2).unwrap();
        rig.begin().unwrap();
        rig.write(extent(8192, 4096), 3).unwrap();
        rig.end(1);
        rig.file.sync().unwrap();
        assert_eq!(side_files(&rig.disk).len(), 2);
        rig.disk.power_off_after(seed % 4);
        let _ = rig.eras.end_after(at(1), "what lies behind is cut");
        let disk = rig.disk.crash(seed);
        let (eras, lost) = Eras::open(parts(&disk, &rig.space), &rig.users()).unwrap();
        if lost.is_empty() {
            eras.applied(at(rig.place));
            (rig.eras, rig.file) = (eras, open_volume(&disk).unwrap().0);
            rig.check(&format!("seed {seed}"));
        } else {
            assert_eq!(lost.iter().map(|lost| lost.0).collect::<Vec<_>>(), [era], "seed {seed}");
        }
    }
}

/// A lost image of which nothing could be recorded is named by its record still: a later one of its number would be taken for it.
#[test]
fn no_later_image_has_the_number_of_one_that_a_start_found() {
    let mut rig = Rig::new(64 << 20);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    let lost = rig.begin().unwrap();
    rig.disk.remove(&side_files(&rig.disk)[0]).unwrap();
    let (eras, told) = Eras::open(parts(&rig.disk, &rig.space), &rig.users()).unwrap();
    assert_eq!(told.iter().map(|told| told.0).collect::<Vec<_>>(), [lost]);
    eras.applied(at(rig.place));
    rig.eras = eras;
    assert_ne!(rig.begin().unwrap(), lost);
}

/// Between a look for what was saved and the reading of the volume, the image may end and the volume be written.
#[test]
fn what_was_read_of_a_volume_is_not_believed_when_the_image_has_ended_meanwhile() {
    let mut rig = Rig::new(64 << 20);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    let era = rig.begin().unwrap();
    assert!(!rig.eras.is_saved(era, extent(0, 4096)).unwrap());
    rig.eras.end_after(at(1), "no room").unwrap();
    rig.write(extent(0, 4096), 2).unwrap();
    assert!(matches!(rig.eras.is_saved(era, extent(0, 4096)), Err(T0Error::Gone)), "2 is not what it held");
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

/// Tasks begin images of a copy, and leave them: one after the other, they took all threads, and nobody was heard any more.
#[test]
fn who_waits_for_a_window_that_hangs_keeps_no_thread_of_the_runtime() {
    let mut rig = Rig::new(1 << 20);
    let image = rig.begin().unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let window = rig.eras.window();
    let eras = Arc::clone(&rig.eras);
    let leaving = runtime.spawn(async move { eras.leave(image) });
    let (tells, told) = sync_channel(1);
    runtime.spawn(async move { tells.send(()) });
    let heard = told.recv_timeout(Duration::from_secs(20));
    drop(window);
    assert!(heard.is_ok(), "no thread is left");
    runtime.block_on(leaving).unwrap();
    assert!(rig.eras.are_none());
}

/// Images and backups on a full disk ended with what the system said.
#[test]
fn a_full_disk_is_told_with_what_to_do() {
    let at = |kind: std::io::ErrorKind| {
        T0Error::Io { action: "make the folder", path: "/d/images".into(), source: kind.into() }.to_string()
    };
    assert!(at(std::io::ErrorKind::StorageFull).contains("Make room there"));
    assert!(!at(std::io::ErrorKind::PermissionDenied).contains("room"));
}

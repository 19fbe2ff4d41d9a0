//! Pairs against an oracle: the source as a byte array, and the target as it was at its split, with what was written to it since.
//! The updater is played by [`Rig::write`]: save, write, tell, move on; its journal is the list of all writes.

#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

mod beside;
mod runs;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::bits::{VOLUME, range};
use super::split::split;
use super::*;
use crate::catalog::{Catalog, LocalPairRecord, LocalPairStateRecord as State};
use crate::clock::SystemClock;
use crate::extent::Extent;
use crate::ids::{GroupId, VolumeIndex};
use crate::journal::Position;
use crate::record::MarkerRecord;
use crate::storage::memory::MemoryDisk;
use crate::storage::{Disk, DiskFile, Open};
use crate::t0::{BlockVolume, Eras, ErasParts, ImagePoint, SideSpace};
use crate::volumes::{VolumeFile, Volumes};
use crate::wire::message::VolumeSpec;

/// Five regions and a half.
const SIZE: u64 = (5 << 16) + (1 << 15);
/// The target is larger than its source.
const TARGET: u64 = SIZE + (1 << 16);
const SOURCE: VolumeIndex = VolumeIndex(3);

const fn at(place: u64) -> Position {
    Position { segment: 1, offset: place }
}

fn record() -> LocalPairRecord {
    LocalPairRecord {
        target: "t".into(),
        id: [7; 16],
        source: "s".into(),
        source_index: SOURCE.0,
        group: "g".into(),
        group_id: [9; 16],
        size: SIZE,
        state: State::Copy,
        reason: None,
        since_ns: 0,
        rate: 1 << 30,
        era: None,
        begin: None,
        marker: 0,
        marker_ns: 0,
    }
}

/// What is gone with a kill.
struct Running {
    catalog: Catalog,
    eras: Arc<Eras>,
    source: Arc<dyn DiskFile>,
    volumes: Volumes,
    pair: Arc<LocalPair>,
}

struct Rig {
    disk: MemoryDisk,
    running: Running,
    /// The journal.
    writes: Vec<(Extent, u8)>,
    /// How many of them are recorded as written.
    recorded: usize,
    source: Vec<u8>,
    /// What the target showed, since its last flush the newest last.
    versions: Vec<Vec<u8>>,
}

fn open_file(disk: &MemoryDisk, name: &str, size: u64) -> Result<Arc<dyn DiskFile>, String> {
    let path = Path::new("/volumes").join(name);
    let file = disk.open(&path, Open::ExistingOrNew).map_err(|error| error.to_string())?;
    file.grow(size).map_err(|error| error.to_string())?;
    Ok(file)
}

fn eras(disk: &MemoryDisk, name: &str, users: &[crate::t0::EraUser], space: u64) -> Result<Arc<Eras>, String> {
    let parts = ErasParts {
        disk: Arc::new(disk.clone()),
        folder: Path::new("/").join(name),
        group: GroupId([9; 16]),
        space: Arc::new(SideSpace::new(space)),
        index_ranges_max: 4,
        outlive: name == "eras",
    };
    let (eras, lost) = Eras::open(parts, users).map_err(|error| error.to_string())?;
    // One that dies here has told nobody what it found.
    disk.list(Path::new("/volumes")).map_err(|error| error.to_string())?;
    assert_eq!(lost, []);
    Ok(eras)
}

impl Running {
    /// Opens what the disk has; a pair that is not there is made.
    fn start(disk: &MemoryDisk, space: u64) -> Result<Self, String> {
        Self::start_over(disk, space, |target| target)
    }

    fn start_over(
        disk: &MemoryDisk,
        space: u64,
        target: impl FnOnce(Arc<dyn DiskFile>) -> Arc<dyn DiskFile>,
    ) -> Result<Self, String> {
        let catalog = Catalog::open_simulated(disk, Path::new("/catalog"), &SystemClock::new());
        let catalog = catalog.map_err(|error| error.to_string())?;
        let found = catalog.local_pairs().map_err(|error| error.to_string())?.pop();
        let users: Vec<_> = found.iter().filter_map(pair::era_user).collect();
        let (eras, saves) = (eras(disk, "eras", &users, space)?, eras(disk, "saves", &[], space)?);
        let source = open_file(disk, "s", SIZE)?;
        let volumes = Volumes::default();
        volumes.insert(VolumeFile::new(SOURCE, "s".into(), Arc::clone(&source), SIZE));
        let target = Arc::new(VolumeFile::new(VOLUME, "t".into(), target(open_file(disk, "t", TARGET)?), TARGET));
        let parts = LocalPairParts {
            catalog: catalog.clone(),
            clock: Arc::new(SystemClock::new()),
            source: Arc::clone(&source),
            target,
            eras: Arc::clone(&eras),
            saves,
            patience: Duration::from_secs(10),
        };
        let pair = match found {
            Some(record) => LocalPair::open(parts, record),
            None => LocalPair::create(parts, record()),
        };
        let pair = pair.map_err(|error| error.to_string())?;
        Ok(Self { catalog, eras, source, volumes, pair })
    }

    fn apply(&self, place: u64, extent: Extent, byte: u8) -> std::io::Result<()> {
        assert!(self.eras.save(at(place), &[extent], &self.volumes, false)?);
        if byte == 0 {
            self.source.zero(extent.offset, extent.length, true)?;
        } else {
            self.source.write_all_at(&vec![byte; extent.length as usize], extent.offset)?;
        }
        self.eras.written(at(place + 1), &[extent]);
        self.eras.applied(at(place + 1));
        Ok(())
    }

    fn content(&self) -> Result<Vec<u8>, LocalPairError> {
        let mut bytes = vec![0xEE; TARGET as usize];
        self.pair.read(0, &mut bytes).map(|()| bytes)
    }
}

impl Rig {
    fn new(space: u64) -> Self {
        let disk = MemoryDisk::new();
        disk.create_folder(Path::new("/volumes")).unwrap();
        let running = Running::start(&disk, space).unwrap();
        running.eras.applied(at(1));
        running.source.sync().unwrap();
        running.pair.target().file.write_all_at(&[0xAB; TARGET as usize], 0).unwrap();
        running.pair.target().sync().unwrap();
        disk.sync_folder(Path::new("/volumes")).unwrap();
        Self { disk, running, writes: vec![], recorded: 0, source: vec![0; SIZE as usize], versions: vec![] }
    }

    fn pair(&self) -> &Arc<LocalPair> {
        &self.running.pair
    }

    fn write(&mut self, offset: u64, length: u64, byte: u8) -> Result<(), String> {
        let extent = Extent { volume: SOURCE, offset, length };
        self.writes.push((extent, byte));
        self.source[offset as usize..(offset + length) as usize].fill(byte);
        self.running.apply(self.writes.len() as u64, extent, byte).map_err(|error| error.to_string())
    }

    /// As the updater's owner does.
    fn record(&mut self) -> Result<(), String> {
        self.running.source.sync().map_err(|error| error.to_string())?;
        self.running.eras.keep_followers()?;
        self.recorded = self.writes.len();
        Ok(())
    }

    fn split(&mut self) -> Result<(), LocalPairError> {
        let place = at(self.writes.len() as u64 + 1);
        let marker =
            MarkerRecord { number: place.offset, boundary_seq: place.offset, time_ns: 1, freeze_ns: 1, tag: None };
        let spec = VolumeSpec { index: SOURCE.0, name: "s".into(), size: SIZE };
        let point = ImagePoint { marker, barrier: self.running.eras.hold(place), volumes: vec![spec] };
        split(&[Arc::clone(self.pair())], std::slice::from_ref(&point))?;
        let tail = vec![0xAB; (TARGET - SIZE) as usize];
        let before = self.versions.last().map_or(tail, |before| before[SIZE as usize..].to_vec());
        self.versions = vec![[self.source.clone(), before].concat()];
        Ok(())
    }

    fn target_write(&mut self, offset: u64, length: u64, byte: u8) -> Result<(), LocalPairError> {
        let mut next = self.versions.last().unwrap().clone();
        next[offset as usize..(offset + length) as usize].fill(byte);
        self.versions.push(next);
        let target = TargetVolume(Arc::clone(self.pair()));
        if byte == 0 { target.zero(offset, length) } else { target.write(offset, &vec![byte; length as usize]) }
    }

    fn flush(&mut self) -> Result<(), LocalPairError> {
        TargetVolume(Arc::clone(self.pair())).flush()?;
        self.versions.drain(..self.versions.len() - 1);
        Ok(())
    }

    /// What has been killed comes back, over the disk as it is or as a loss of power left it, and the updater writes again what was
    /// not recorded.
    fn restart(&mut self, disk: MemoryDisk) {
        self.try_restart(disk).unwrap();
    }

    fn try_restart(&mut self, disk: MemoryDisk) -> Result<(), String> {
        self.disk = disk;
        self.running = Running::start(&self.disk, 64 << 20)?;
        self.running.eras.applied(at(self.recorded as u64 + 1));
        for (place, (extent, byte)) in (1..).zip(self.writes.clone()).skip(self.recorded) {
            self.running.apply(place, extent, byte).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What it shows after a death or a loss of power: its image with what was flushed to it, and perhaps more of what was written.
    fn judge(&mut self, before: &LocalPairRecord) {
        let found = self.pair().record();
        if found.state != State::Split {
            return;
        }
        // A split that was not answered may be there: then the image is that of its marker.
        let place = found.marker as usize - 1;
        if found.marker != before.marker {
            let mut source = vec![0; SIZE as usize];
            for (extent, byte) in &self.writes[..place] {
                source[extent.offset as usize..extent.end() as usize].fill(*byte);
            }
            if self.versions.first().is_none_or(|version| version[..SIZE as usize] != source) {
                let content = self.running.content().unwrap();
                assert_same(&content[..SIZE as usize], &source, "a split that was not answered");
                self.versions.clear();
            }
        }
        if !self.versions.is_empty() {
            let content = self.running.content().unwrap();
            for sector in 0..SIZE as usize / 512 {
                let range = sector * 512..(sector + 1) * 512;
                let legal = self.versions.iter().any(|version| version[range.clone()] == content[range.clone()]);
                let holds = content[range.start];
                assert!(legal, "sector {sector} holds {holds}, which it never held since the last flush");
            }
        }
    }

    /// What is to be restored is all that differs.
    fn check_reverse(&self) {
        let mut target = vec![0; SIZE as usize];
        self.pair().target().file.read_exact_at(&mut target, 0).unwrap();
        let ranges = self.pair().to_restore();
        for (at, (one, other)) in (0..).zip(target.iter().zip(&self.source)) {
            let known = ranges.iter().any(|range| (range.offset..range.end()).contains(&at));
            assert!(one == other || known, "byte {at} differs, and is not restored: {ranges:?}");
        }
        self.pair().restored().unwrap();
        assert_eq!(self.pair().state(), State::Pair);
    }

    fn drain(&self) {
        while self.pair().step() != Copied::Nothing {}
    }

    /// Whatever happened, a resync makes both the same, and nothing but that.
    fn check_resync(&self) {
        if matches!(self.pair().state(), State::Split | State::Error) {
            self.pair().resync().unwrap();
        }
        self.drain();
        assert_eq!(self.pair().state(), State::Pair, "{:?}", self.pair().record().reason);
        let mut bytes = vec![0; SIZE as usize];
        self.pair().target().file.read_exact_at(&mut bytes, 0).unwrap();
        assert_same(&bytes, &self.source, "after a resync");
    }

    fn check(&self, what: &str) {
        if self.pair().state() == State::Split {
            assert_same(&self.running.content().unwrap(), self.versions.last().unwrap(), what);
            for offset in (0..TARGET).step_by(1 << 14) {
                let hole = self.pair().hole(offset, TARGET - offset).unwrap();
                let found = &self.versions.last().unwrap()[offset as usize..(offset + hole) as usize];
                assert!(found.iter().all(|byte| *byte == 0), "{what}: no hole at {offset}");
            }
        }
    }
}

fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    let differs = found.iter().zip(expected).position(|(one, other)| one != other);
    assert_eq!(differs.map(|at| (at, found[at], expected[at])), None, "{what}");
}

#[test]
fn a_resync_copies_what_differs_and_no_more() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    rig.drain();
    assert_eq!((rig.pair().state(), rig.pair().figures()), (State::Pair, pair::LocalPairFigures::default()));
    rig.split().unwrap();
    rig.drain();
    rig.write(0, 512, 2).unwrap();
    rig.target_write(3 << 16, 512, 3).unwrap();
    let figures = rig.pair().figures();
    assert_eq!((figures.source_changed_bytes, figures.target_changed_bytes), (1 << 16, 1 << 16));
    rig.pair().resync().unwrap();
    assert_eq!(rig.pair().figures().differential_bytes, 2 << 16);
    rig.check_resync();
}

#[test]
fn hosts_that_never_rest_do_not_keep_a_copy_or_resync_from_ending() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    for round in 0..3 {
        for step in 0..12 {
            rig.write(0, 512, step).unwrap();
            rig.write(4 << 16, 512, step).unwrap();
            rig.pair().step();
        }
        assert_eq!(rig.pair().state(), State::Pair, "round {round}");
        assert!(rig.pair().figures().differential_bytes > 0, "they wrote after every step");
        rig.split().unwrap();
        rig.pair().step();
        rig.pair().resync().unwrap();
        assert_eq!(rig.pair().state(), State::Resync);
    }
    rig.check_resync();
}

#[test]
fn a_side_store_that_is_full_makes_the_pair_say_that_its_target_is_no_image() {
    let mut rig = Rig::new(16 << 10);
    rig.write(0, SIZE, 1).unwrap();
    rig.split().unwrap();
    let era = rig.pair().record().era.unwrap();
    rig.write(0, 128 << 10, 2).unwrap();
    assert!(!rig.running.eras.has(era), "the source's write went through");
    // The appliance is told of it, and tells the pair.
    rig.pair().on_era_ended(era, "full");
    assert_eq!(rig.pair().state(), State::Error);
    assert!(rig.pair().record().reason.unwrap().contains("local-pair resync t"));
    rig.check_resync();
}

#[test]
fn a_target_that_cannot_be_written_is_an_error_and_nothing_is_forgotten() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    rig.disk.limit_space(Some(rig.disk.used_bytes()));
    let target = rig.pair().target();
    target.file.zero(0, TARGET, true).unwrap();
    rig.disk.limit_space(Some(rig.disk.used_bytes()));
    // Recording that needs space as well: what is in memory says it.
    rig.pair().step();
    assert_eq!(rig.pair().state(), State::Error, "{:?}", rig.pair().record());
    rig.disk.limit_space(None);
    rig.check_resync();
}

#[test]
fn a_reverse_needs_a_target_that_lacks_nothing_and_says_what_to_restore() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    assert!(matches!(rig.pair().reverse(), Err(LocalPairError::State { state: "copy" })));
    rig.split().unwrap();
    assert!(matches!(rig.pair().reverse(), Err(LocalPairError::Lacks { .. })));
    rig.drain();
    rig.write(70_000 / 512 * 512, 512, 2).unwrap();
    rig.target_write(0, 512, 3).unwrap();
    rig.target_write(TARGET - 512, 512, 4).unwrap();
    rig.pair().reverse().unwrap();
    assert!(rig.target_write(0, 512, 5).is_err(), "it is closed");
    assert_eq!(rig.pair().to_restore(), [range(0, 2 << 16)], "and nothing behind the end of the source");
    assert_eq!(rig.pair().figures().to_restore_bytes, 2 << 16);
    // Killed in between, it knows that still.
    rig.record().unwrap();
    rig.restart(rig.disk.clone());
    assert_eq!(rig.pair().state(), State::Reverse);
    let left: Vec<_> = rig.pair().to_restore();
    assert!(left[0].offset == 0 && left[0].end() >= 2 << 16, "{left:?}");
    rig.pair().restored().unwrap();
    assert_eq!(rig.pair().state(), State::Pair);
}

/// Another side has run the group since, and its hosts have written what a restore that went on would take back.
#[test]
fn a_restore_that_is_given_up_is_not_gone_on_with_and_nothing_that_differs_is_forgotten() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    rig.split().unwrap();
    rig.drain();
    assert!(rig.pair().give_up_reverse("nothing is restored").is_err());
    rig.target_write(0, 512, 3).unwrap();
    rig.write(1 << 16, 512, 2).unwrap();
    rig.pair().reverse().unwrap();
    rig.pair().give_up_reverse("the source is a copy now").unwrap();
    assert_eq!(rig.pair().state(), State::Error);
    assert_eq!(rig.pair().record().reason.as_deref(), Some("the source is a copy now"));
    rig.write(2 << 16, 512, 4).unwrap();
    rig.record().unwrap();
    rig.restart(rig.disk.clone());
    assert_eq!(rig.pair().state(), State::Error, "over a kill, too");
    rig.check_resync();
}

/// A copy's volume grows with its primary's, and the pair does not.
#[test]
fn what_is_written_behind_the_size_of_a_pair_does_not_differ_for_good() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    rig.drain();
    let across = Extent { volume: SOURCE, offset: SIZE - 512, length: 1 << 20 };
    let behind = Extent { volume: SOURCE, offset: 1 << 30, length: 512 };
    rig.running.eras.written(at(9), &[across, behind]);
    assert_eq!(rig.pair().figures().differential_bytes, 1 << 16, "the last of its regions");
    rig.drain();
    assert_eq!(rig.pair().figures(), pair::LocalPairFigures::default());
}

/// A service that starts without the group's engine: whatever was copied then might be older than the split, or fail and end its image.
#[test]
fn what_a_target_lacks_waits_for_the_engine_of_its_group() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    rig.record().unwrap();
    rig.split().unwrap();
    rig.running = Running::start(&rig.disk, 64 << 20).unwrap();
    assert!(rig.pair().waits());
    assert_eq!(rig.pair().step(), Copied::Nothing);
    assert_eq!(rig.pair().state(), State::Split);
    assert!(rig.running.content().is_err());
    rig.running.eras.applied(at(2));
    rig.check("with an engine");
    rig.drain();
    rig.check_resync();
}

/// The catalogue's disk has hung while the pair is changed: status and metrics hung with it.
#[test]
fn who_asks_how_a_pair_stands_waits_for_nobody_who_changes_it() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    rig.record().unwrap();
    rig.split().unwrap();
    rig.running = Running::start(&rig.disk, 64 << 20).unwrap();
    let pair = Arc::clone(rig.pair());
    let changing = pair.now.lock();
    let (tell, told) = sync_channel(1);
    let asks = Arc::clone(&pair);
    std::thread::spawn(move || tell.send((asks.waits(), asks.record().state, asks.figures().differential_bytes > 0)));
    let told = told.recv_timeout(Duration::from_secs(20));
    drop(changing);
    assert_eq!(told, Ok((true, State::Split, true)));
}

/// Its disk has hung: whoever waited for that would keep all other changes waiting, and in a split the updater of the source's group.
#[test]
fn no_change_of_state_waits_without_end_for_what_is_under_way_at_the_target() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    let parts = LocalPairParts { patience: Duration::ZERO, ..rig.pair().parts.clone() };
    rig.running.pair = LocalPair::open(parts, rig.pair().record()).unwrap();
    let pair = Arc::clone(rig.pair());
    let step = pair.copying.lock();
    assert!(matches!(rig.split(), Err(LocalPairError::Stuck { .. })));
    assert!(matches!(pair.delete(), Err(LocalPairError::Stuck { .. })));
    drop(step);
    rig.split().unwrap();
    let write = pair.writing.read();
    for changed in [pair.resync(), pair.reverse(), pair.delete(), pair.begin_image().map(drop)] {
        assert!(matches!(changed, Err(LocalPairError::Stuck { .. })), "{changed:?}");
    }
    assert!(target::begin_images(&[&pair]).is_err_and(|(target, _)| target == "t"));
    drop(write);
    rig.check("nothing was changed");
    rig.check_resync();
}

#[test]
fn a_pair_whose_bitmaps_are_lost_says_so_and_copies_everything() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    rig.split().unwrap();
    rig.write(0, 512, 2).unwrap();
    rig.record().unwrap();
    let record = rig.pair().record();
    // A bitmap that was altered where its checksum cannot tell: what an older build might have left.
    rig.running.catalog.put_local_pair(&record, &[9; 5]).unwrap();
    rig.restart(rig.disk.clone());
    assert_eq!(rig.pair().state(), State::Error);
    assert!(rig.pair().record().reason.unwrap().contains("local-pair resync t"));
    assert!(rig.running.eras.are_none(), "nothing is saved for an image that is none");
    rig.pair().resync().unwrap();
    assert_eq!(rig.pair().figures().differential_bytes, SIZE.div_ceil(1 << 16) << 16);
    rig.check_resync();
}

/// Who still reads a target that is no image any more gets an error, and nothing of what is copied over it.
#[test]
fn a_target_that_follows_again_is_not_read_as_an_image() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    rig.split().unwrap();
    rig.drain();
    rig.pair().reverse().unwrap();
    assert_same(&rig.running.content().unwrap()[..SIZE as usize], &rig.source, "the source is restored from it");
    rig.pair().restored().unwrap();
    rig.write(0, SIZE, 2).unwrap();
    rig.drain();
    assert!(matches!(rig.running.content(), Err(LocalPairError::State { state: "pair" })));
    assert!(matches!(rig.pair().hole(0, SIZE), Err(LocalPairError::State { state: "pair" })));
}

#[test]
fn nothing_is_kept_for_a_pair_that_cannot_go_on() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    rig.split().unwrap();
    rig.write(0, 512, 2).unwrap();
    assert!(!rig.running.eras.are_none() && rig.pair().saved_bytes() > 0);
    rig.pair().fail("the target's disk is gone");
    assert_eq!((rig.pair().state(), rig.pair().record().era), (State::Error, None));
    assert!(rig.running.eras.are_none(), "other images need that room");
    rig.restart(rig.disk.clone());
    assert_eq!(rig.pair().state(), State::Error);
    rig.check_resync();
}

/// A host's write to a split target, or a command, waits for the catalogue's disk. Status does not, nor a host that comes in to any volume.
#[test]
fn what_a_pair_is_can_be_told_while_it_is_being_changed() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    rig.split().unwrap();
    let is = |pair: &LocalPair| (pair.state(), pair.record().marker, pair.figures(), pair.saved_bytes());
    let before = is(rig.pair());
    assert_eq!(before.0, State::Split);
    let pair = Arc::clone(rig.pair());
    let changing = rig.pair().now.lock();
    let (tells, told) = sync_channel(1);
    let asking = std::thread::spawn(move || tells.send(is(&pair)));
    let heard = told.recv_timeout(Duration::from_secs(20));
    drop(changing);
    asking.join().unwrap().unwrap();
    assert_eq!(heard, Ok(before));
    rig.drain();
    let lacks = is(rig.pair()).2;
    assert_eq!(lacks.differential_bytes, 0, "and what is changed is told");
}

/// A failover to an older marker cuts the journal before the split: the source never gets what the target has, and the places are used again.
#[test]
fn a_resync_behind_a_cut_before_the_split_copies_everything() {
    let mut rig = Rig::new(64 << 20);
    rig.write(0, SIZE, 1).unwrap();
    rig.split().unwrap();
    rig.drain();
    rig.pair().on_cut(at(2)).unwrap();
    assert_eq!(rig.pair().figures().source_changed_bytes, 0, "the split is not behind it");
    rig.pair().on_cut(at(1)).unwrap();
    assert_eq!(rig.pair().figures().source_changed_bytes, SIZE.div_ceil(1 << 16) << 16);
    let extent = Extent { volume: SOURCE, offset: 0, length: SIZE };
    rig.source.fill(9);
    rig.running.apply(0, extent, 9).unwrap();
    rig.check("the target is the image still");
    rig.check_resync();
}

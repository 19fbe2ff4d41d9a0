//! Images of moments that the volumes have not reached, read through the index of the journal in between, against whole snapshots. The
//! updater is played by [`Rig::apply`].

#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use std::collections::BTreeSet;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::overlay::unapplied::{Indexed, SharedIndex, Spill};
use crate::storage::{Disk, DiskFile, Open};
use crate::t0::{EraUser, Eras, ErasParts, Image, ImageVolume, SideSpace};
use crate::volumes::{VolumeFile, Volumes};

const SIZE: usize = 64 << 10;
const VOLUME: VolumeIndex = VolumeIndex(1);

/// What one frame writes; zeroes are written as such.
type Writes = Vec<(Extent, u8)>;

fn frame_of() -> impl Strategy<Value = Writes> {
    let range = (0..SIZE as u64 / 512, 1..24_u64, 0..4_u8).prop_map(|(from, count, byte)| {
        let offset = from * 512;
        (Extent { volume: VOLUME, offset, length: (count * 512).min(SIZE as u64 - offset) }, byte)
    });
    proptest::collection::vec(range, 1..6)
}

#[derive(Debug, Clone)]
enum Step {
    /// An image of so many frames more than are applied.
    Begin(usize),
    Apply,
    Trim,
    Restart,
    /// The updater indexes so many frames more than are applied.
    Index(usize),
    /// What it has indexed is kept.
    Keep,
}

fn step() -> impl Strategy<Value = Step> {
    (0..13, 0..24_usize).prop_map(|(kind, ahead)| match kind {
        0..=2 => Step::Begin(ahead),
        3..=6 => Step::Apply,
        7 => Step::Trim,
        9..=10 => Step::Index(ahead),
        11..=12 => Step::Keep,
        _ => Step::Restart,
    })
}

struct Rig {
    disk: MemoryDisk,
    writer: Writer,
    frames: Vec<Writes>,
    /// Where the journal goes on behind so many frames, and what the volume holds then.
    places: Vec<Position>,
    snapshots: Vec<Vec<u8>>,
    file: Arc<dyn DiskFile>,
    volumes: Volumes,
    applied: usize,
    eras: Arc<Eras>,
    /// Images, and of how many frames each is.
    images: Vec<(EraUser, usize)>,
    ranges_max: usize,
    /// The updater's own index.
    indexed: SharedIndex,
}

fn eras(disk: &MemoryDisk, users: &[EraUser], index_ranges_max: usize) -> Arc<Eras> {
    let space = Arc::new(SideSpace::new(64 << 20));
    let parts = ErasParts {
        disk: Arc::new(disk.clone()),
        folder: "/images".into(),
        group: GROUP,
        space,
        index_ranges_max,
        outlive: true,
    };
    let (eras, lost) = Eras::open(parts, users).unwrap();
    assert_eq!(lost, []);
    eras
}

impl Rig {
    fn new(frames: Vec<Writes>, ranges_max: usize) -> Self {
        let (disk, mut writer) = fresh();
        let (mut places, mut snapshots) = (vec![writer.journal().durable_end().position], vec![vec![0; SIZE]]);
        for writes in &frames {
            let mut builder = FrameBuilder::new();
            let mut snapshot = snapshots.last().unwrap().clone();
            for (extent, byte) in writes {
                snapshot[extent.offset as usize..extent.end() as usize].fill(*byte);
                match byte {
                    0 => builder.push_zero(*extent, true),
                    _ => drop(builder.push_data(*extent, &vec![*byte; extent.length as usize])),
                }
            }
            let frame = builder.finish(FrameKind::Writes, &place(writer.tip(), 1));
            append(&mut writer, frame.to_vec());
            writer.sync().unwrap();
            places.push(writer.journal().durable_end().position);
            snapshots.push(snapshot);
        }
        // What is read comes from the disk, where a test can break it.
        writer.journal().rest();
        let file = disk.open("/volume".as_ref(), Open::ExistingOrNew).unwrap();
        file.grow(SIZE as u64).unwrap();
        let volumes = Volumes::default();
        volumes.insert(VolumeFile::new(VOLUME, "a".into(), Arc::clone(&file), SIZE as u64));
        let eras = eras(&disk, &[], ranges_max);
        eras.attach(writer.journal(), places[0]).unwrap();
        let indexed = SharedIndex::new(Mutex::new(Indexed::from(places[0])));
        eras.indexed_by(Arc::clone(&indexed));
        let (images, applied) = (Vec::new(), 0);
        Self { disk, writer, frames, places, snapshots, file, volumes, applied, eras, images, ranges_max, indexed }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Begin(ahead) => self.begin((self.applied + ahead).min(self.frames.len())),
            Step::Apply if self.applied < self.frames.len() => self.apply(),
            Step::Apply => {}
            Step::Trim => drop(self.writer.journal().trim(self.places[self.applied]).unwrap()),
            Step::Restart => {
                let users: Vec<_> = self.images.iter().map(|(user, _)| user.clone()).collect();
                self.eras = eras(&self.disk, &users, self.ranges_max);
                self.eras.attach(self.writer.journal(), self.places[self.applied]).unwrap();
                *self.indexed.lock() = Indexed::from(self.places[self.applied]);
                self.eras.indexed_by(Arc::clone(&self.indexed));
            }
            Step::Index(ahead) => {
                let to = self.places[(self.applied + ahead).min(self.frames.len())];
                self.indexed.lock().go_on(self.writer.journal(), to, &self.updaters()).unwrap();
            }
            Step::Keep => {
                let indexed = self.indexed.lock();
                if self.eras.indexes().pop() < Some(indexed.up_to()) {
                    self.eras.keep_index(indexed.keep(&self.updaters()).unwrap());
                }
            }
        }
    }

    fn updaters(&self) -> Spill {
        Spill::new(Arc::new(self.disk.clone()), "/updaters".into(), 2 * self.ranges_max)
    }

    fn begin(&mut self, frames: usize) {
        let volumes = BTreeSet::from([VOLUME]);
        let joined = self.eras.begin(&self.eras.hold(self.places[frames]), &volumes).unwrap();
        self.images.push((EraUser { era: joined.era, begin: joined.begin, volumes }, frames));
    }

    /// What the updater does with one frame.
    fn apply(&mut self) {
        let (from, to) = (self.places[self.applied], self.places[self.applied + 1]);
        assert_eq!(self.eras.limit(from, to), to, "one frame is one window here");
        for (extent, byte) in &self.frames[self.applied] {
            assert!(self.eras.save(from, &[*extent], &self.volumes, false).unwrap());
            match byte {
                0 => self.file.zero(extent.offset, extent.length, true).unwrap(),
                _ => self.file.write_all_at(&vec![*byte; extent.length as usize], extent.offset).unwrap(),
            }
        }
        self.applied += 1;
        self.eras.applied(to);
        let extents: Vec<Extent> = self.frames[self.applied - 1].iter().map(|(extent, _)| *extent).collect();
        let mut indexed = self.indexed.lock();
        indexed.forget(&extents, from);
        if indexed.up_to() < to {
            *indexed = Indexed::from(to);
        }
    }

    /// Every image is what it was, and its index is no larger than it may be; the ranges that are on the disk.
    fn check(&self) -> usize {
        let mut on_disk = 0;
        for (user, frames) in &self.images {
            let (here, there) = self.eras.pending_ranges(user.era);
            assert!(here <= self.ranges_max, "{here} ranges in memory");
            on_disk += there;
            let volume =
                ImageVolume { index: VOLUME, name: "a".into(), size: SIZE as u64, file: Arc::clone(&self.file) };
            let image = Image::new(Arc::clone(&self.eras), user.era, vec![volume]);
            let (snapshot, mut bytes) = (&self.snapshots[*frames], vec![0xEE; SIZE]);
            image.read(VOLUME, 0, &mut bytes).unwrap();
            let differs = bytes.iter().zip(snapshot).position(|(one, other)| one != other);
            assert_eq!(differs, None, "the image of {frames} frames when {} are applied", self.applied);
            for offset in (0..SIZE).step_by(8192) {
                let hole = image.hole(VOLUME, offset as u64, (SIZE - offset) as u64).unwrap() as usize;
                assert!(snapshot[offset..offset + hole].iter().all(|byte| *byte == 0), "no hole at {offset}");
            }
            self.check_told(user.era, *frames);
        }
        on_disk
    }

    /// What a pair takes for different is all that is not in the volume yet.
    fn check_told(&self, era: u64, frames: usize) {
        let mut told = vec![false; SIZE];
        self.eras
            .each_pending(era, VOLUME, |extent| told[extent.offset as usize..extent.end() as usize].fill(true))
            .unwrap();
        let missing = self.frames.get(self.applied..frames).into_iter().flatten().flatten();
        for (extent, _) in missing {
            assert!(
                told[extent.offset as usize..extent.end() as usize].iter().all(|told| *told),
                "{extent:?} is not told"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn images_ahead_of_the_volumes_are_exact_whatever_little_memory_their_index_has(
        frames in proptest::collection::vec(frame_of(), 1..24),
        steps in proptest::collection::vec(step(), 1..40),
        ranges_max in 0..6_usize,
    ) {
        let mut rig = Rig::new(frames, ranges_max);
        for step in &steps {
            rig.take(step);
            rig.check();
        }
        while rig.applied < rig.frames.len() {
            rig.apply();
            rig.check();
        }
    }
}

/// Where the updater has read the journal, an image does not read it again: here it cannot.
#[test]
fn an_image_goes_on_from_what_the_updater_has_indexed() {
    let writes = |number: u64| vec![(Extent { volume: VOLUME, offset: number * 1024, length: 512 }, number as u8 + 1)];
    for (indexed, begins) in [(0, false), (8, true), (12, true), (13, false)] {
        let mut rig = Rig::new((0..20).map(writes).collect(), 2);
        rig.take(&Step::Index(indexed));
        // Where the updater has been.
        rig.disk.break_sector(&path_of(1), rig.places[3].offset).unwrap();
        let begun = rig.eras.begin(&rig.eras.hold(rig.places[12]), &BTreeSet::from([VOLUME]));
        assert_eq!(begun.is_ok(), begins, "{indexed} of 20 frames are indexed");
    }
}

/// What the updater's index was at earlier places is gone on from as well, the newest that is not beyond the image, and of many of them enough
/// are kept.
#[test]
fn an_image_of_an_older_moment_goes_on_from_what_was_indexed_before_it() {
    let writes =
        |number: u64| vec![(Extent { volume: VOLUME, offset: number % 128 * 512, length: 512 }, number as u8 + 1)];
    for (kept, begins) in [(&[][..], false), (&[1, 2, 3, 4], false), (&[3, 9, 18], true), (&[12], true), (&[13], false)]
    {
        let mut rig = Rig::new((0..20).map(writes).collect(), 2);
        for place in kept {
            rig.take(&Step::Index(*place));
            rig.take(&Step::Keep);
        }
        rig.take(&Step::Index(20));
        // Where the updater has been; what is not known is read from the newest before.
        rig.disk.break_sector(&path_of(1), rig.places[5].offset).unwrap();
        let begun = rig.eras.begin(&rig.eras.hold(rig.places[12]), &BTreeSet::from([VOLUME]));
        assert_eq!(begun.is_ok(), begins, "kept at {kept:?}");
    }
    // More than are kept: the stretches between those that are left are alike.
    let mut rig = Rig::new((0..150).map(writes).collect(), 2);
    for place in 1..=150 {
        rig.take(&Step::Index(place));
        rig.take(&Step::Keep);
    }
    let frames_at = |place: &Position| rig.places.iter().position(|other| other == place).unwrap();
    let kept: Vec<usize> = rig.eras.indexes().iter().map(frames_at).collect();
    let apart = std::iter::once(&0).chain(&kept).zip(&kept).map(|(from, to)| to - from);
    assert!(apart.max() <= Some(16) && kept.len() <= 32 && kept.last() == Some(&150), "{kept:?}");
    // And those that the volumes have passed go.
    while rig.applied < 150 {
        rig.apply();
    }
    assert_eq!(rig.eras.indexes(), []);
}

/// Whoever looks for the moment at which something went wrong goes on from image to image while a later one stands: each took half of the
/// numbers that were left between them, which lasted for forty.
#[test]
fn any_number_of_images_may_begin_between_two_others() {
    let writes = |number: u64| vec![(Extent { volume: VOLUME, offset: number * 1024, length: 512 }, number as u8 + 1)];
    for backwards in [false, true] {
        let mut rig = Rig::new((0..60).map(writes).collect(), 2);
        rig.begin(60);
        // Some of them go again: nobody has their numbers either.
        for again in 0..50 {
            rig.eras.leave_for_good(rig.eras.begin(&rig.eras.hold(rig.places[1]), &[VOLUME].into()).unwrap().era);
            assert!(!rig.eras.are_none(), "{again}");
        }
        for frames in 1..60 {
            rig.begin(if backwards { 60 - frames } else { frames });
        }
        let mut in_order: Vec<_> = rig.images.iter().map(|(user, frames)| (user.era, *frames)).collect();
        in_order.sort_unstable();
        assert!(in_order.is_sorted_by_key(|(_, frames)| *frames), "{in_order:?}");
        rig.take(&Step::Restart);
        rig.check();
        while rig.applied < 60 {
            rig.apply();
        }
        rig.check();
    }
}

#[test]
fn what_an_images_index_moves_to_the_disk_has_no_name_there() {
    let writes = |number: u64| vec![(Extent { volume: VOLUME, offset: number * 1024, length: 512 }, number as u8 + 1)];
    let mut rig = Rig::new((0..20).map(writes).collect(), 2);
    rig.begin(20);
    assert!(rig.check() >= 18, "there is something on the disk");
    assert_eq!(rig.disk.list("/images".as_ref()).unwrap().len(), 1, "the side file, and nothing else with a name");
}

//! What is done with files while nobody waits: what an image that is gone leaves behind is removed, and several are made at the same time.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::storage::filter::{self, Filter};

/// Removes nothing for as long as somebody has `hang`, or it is `stuck`, and makes no name durable while somebody has `hang_syncs`.
#[derive(Default)]
struct Slow {
    hang: Mutex<()>,
    stuck: AtomicBool,
    asked: AtomicBool,
    hang_syncs: Mutex<()>,
    syncs: AtomicU64,
}

impl Filter for Slow {
    fn before_remove(&self, _path: &Path) -> io::Result<()> {
        self.asked.store(true, Ordering::Release);
        drop(self.hang.lock());
        if self.stuck.load(Ordering::Acquire) { Err(io::Error::other("it stays")) } else { Ok(()) }
    }

    fn before_sync_folder(&self, _folder: &Path) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::AcqRel);
        drop(self.hang_syncs.lock());
        Ok(())
    }
}

fn eras_on(slow: &Arc<Slow>) -> (Arc<Eras>, MemoryDisk) {
    let memory = MemoryDisk::new();
    let disk = filter::disk(Arc::new(memory.clone()), slow);
    let space = Arc::new(SideSpace::new(1 << 20));
    let parts = ErasParts { disk, folder: FOLDER.into(), group: GROUP, space, index_ranges_max: 4, outlive: true };
    (Eras::open(parts, &[]).unwrap().0, memory)
}

/// The updater is in the middle of a window, and its volume's disk does not answer.
#[test]
fn who_leaves_an_image_does_not_wait_without_end_for_a_window() {
    let mut rig = Rig::new(64 << 20);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    let era = rig.begin().unwrap();
    let window = rig.eras.window();
    rig.eras.leave(era);
    assert!(rig.eras.has(era), "not while its file is written");
    drop(window);
    while rig.eras.has(era) {
        std::thread::yield_now();
    }
}

#[test]
fn no_updater_waits_while_files_of_an_image_that_is_gone_are_removed() {
    let slow = Arc::new(Slow::default());
    let (eras, memory) = eras_on(&slow);
    let era = eras.begin(&eras.hold(at(1)), &[VOLUME].into()).unwrap().era;
    let hang = slow.hang.lock();
    let leaves = Arc::clone(&eras);
    let leaving = std::thread::spawn(move || leaves.leave(era));
    while !slow.asked.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    let (tell, told) = mpsc::sync_channel(1);
    let applies = Arc::clone(&eras);
    let applying = std::thread::spawn(move || {
        drop(applies.window());
        let _ = tell.send(());
    });
    let answer = told.recv_timeout(Duration::from_secs(20));
    drop(hang);
    assert_eq!(answer, Ok(()), "the image is gone, whatever its files are");
    leaving.join().unwrap();
    applying.join().unwrap();
    assert_eq!(memory.list(Path::new(FOLDER)).unwrap(), Vec::<String>::new());
}

/// Images that come and go beside one that stays: all that hosts overwrite all the time was kept for it, each time again.
#[test]
fn an_image_that_stays_keeps_of_those_that_go_only_what_it_lacks() {
    const HOT: u64 = 32 << 10;
    let mut rig = Rig::new(64 << 20);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    rig.write(extent(HOT, 4096), 0).unwrap();
    rig.begin().unwrap();
    rig.write(extent(0, HOT), 2).unwrap();
    let before = rig.space.used();
    for round in 1..4_u8 {
        rig.begin().unwrap();
        rig.write(extent(0, HOT), 2 + round).unwrap();
        rig.write(extent(HOT + 4096 * u64::from(round), 4096), 9).unwrap();
        let gone = rig.known.remove(1);
        rig.eras.leave_for_good(gone.user.era);
        rig.check("beside one that has gone");
        // A file, and in it the block with its header.
        assert_eq!(rig.space.used() - before, 12_288 * u64::from(round));
    }
    // Nothing but what it has; and zeroes.
    for offset in [0, HOT] {
        rig.begin().unwrap();
        rig.write(extent(offset, 4096), 7).unwrap();
        let gone = rig.known.remove(1);
        rig.eras.leave_for_good(gone.user.era);
    }
    assert_eq!(side_files(&rig.disk).len(), 5);
    let disk = rig.disk.clone();
    rig.restart(disk);
    rig.check("after a start");
    rig.end(0);
    assert_eq!((rig.space.used(), side_files(&rig.disk).len()), (0, 0));
}

/// One of two images of a moment was broken, and the catalogue could not take that: a start looks for its era, and without the file the older
/// images are lost with it.
#[test]
fn a_file_that_a_record_may_name_stays_whoever_goes_last() {
    let mut rig = Rig::new(64 << 20);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    rig.begin().unwrap();
    rig.write(extent(0, 4096), 2).unwrap();
    let shared = rig.begin().unwrap();
    assert_eq!(rig.begin().unwrap(), shared);
    rig.write(extent(0, 8192), 3).unwrap();
    rig.eras.leave(shared);
    rig.eras.leave_for_good(shared);
    rig.known.pop();
    // With the record that was left.
    let disk = rig.disk.clone();
    rig.restart(disk);
    rig.check("after a start");
}

/// A start takes a file that nobody names for saved by the next older image: what is in this one is of before those.
#[test]
fn no_later_image_has_a_number_before_a_file_that_could_not_be_removed() {
    let slow = Arc::new(Slow::default());
    let (eras, memory) = eras_on(&slow);
    let begin = |place| eras.begin(&eras.hold(at(place)), &[VOLUME].into()).unwrap().era;
    let gone = begin(1);
    slow.stuck.store(true, Ordering::Release);
    eras.leave_for_good(gone);
    assert_eq!(memory.list(Path::new(FOLDER)).unwrap().len(), 1);
    let later = [begin(9), begin(5), begin(3)];
    assert!(later.iter().all(|era| *era > gone), "{gone}: {later:?}");
    assert!(later.is_sorted_by(|one, other| one > other), "{later:?}");
}

/// A kill meanwhile leaves it to the next start, as one that could not be removed.
#[test]
fn no_later_image_has_a_number_before_a_file_that_is_just_being_removed() {
    let slow = Arc::new(Slow::default());
    let (eras, _) = eras_on(&slow);
    let begin = |place| eras.begin(&eras.hold(at(place)), &[VOLUME].into()).unwrap().era;
    let (gone, far) = (begin(1), begin(100));
    eras.applied(at(1));
    let hang = slow.hang.lock();
    let leaves = Arc::clone(&eras);
    let leaving = std::thread::spawn(move || leaves.leave_for_good(gone));
    while !slow.asked.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    let between = [begin(50), begin(40)];
    drop(hang);
    leaving.join().unwrap();
    assert!(between.iter().all(|era| (gone..far).contains(era)), "{gone} {between:?} {far}");
}

/// It stays when the file that a record names does, without which it would be taken for whole.
#[test]
fn no_later_image_has_a_number_before_what_a_lost_one_had_swallowed() {
    let mut rig = Rig::new(64 << 20);
    rig.write(extent(0, SIZE as u64), 1).unwrap();
    let lost = rig.begin().unwrap();
    rig.write(extent(0, 4096), 2).unwrap();
    let swallowed = rig.begin().unwrap();
    rig.write(extent(0, 8192), 3).unwrap();
    rig.end(1);
    let far = rig.eras.begin(&rig.eras.hold(at(100)), &[VOLUME].into()).unwrap().era;
    let mut files = side_files(&rig.disk);
    files.sort_unstable();
    rig.disk.flip_bit(&files[1], 8).unwrap();
    let slow = Arc::new(Slow::default());
    slow.stuck.store(true, Ordering::Release);
    let disk = filter::disk(Arc::new(rig.disk.clone()), &slow);
    let users = [rig.users(), vec![EraUser { era: far, begin: at(100), volumes: [VOLUME].into() }]].concat();
    let (eras, told) = Eras::open(ErasParts { disk, ..parts(&rig.disk, &rig.space) }, &users).unwrap();
    assert_eq!(told.iter().map(|told| told.0).collect::<Vec<_>>(), [lost]);
    assert_eq!(side_files(&rig.disk).len(), 3, "none of them could be removed");
    eras.applied(at(rig.place));
    let begin = |place| eras.begin(&eras.hold(at(place)), &[VOLUME].into()).unwrap().era;
    let between = [begin(50), begin(40)];
    assert!(between.iter().all(|era| (swallowed..far).contains(era)), "{swallowed} {between:?} {far}");
}

/// That they are broken could not be recorded, perhaps, as of a disk that was full for both: a start misses the file of such a one, and would
/// give up with it whatever is older by its number.
#[test]
fn no_later_image_has_a_number_before_one_that_is_broken() {
    for how in ["ended", "left", "lost"] {
        let mut rig = Rig::new(64 << 20);
        rig.write(extent(0, SIZE as u64), 1).unwrap();
        let broken = rig.begin().unwrap();
        let begin = |rig: &Rig, place| rig.eras.begin(&rig.eras.hold(at(place)), &[VOLUME].into()).unwrap().era;
        let far = begin(&rig, 100);
        match how {
            "ended" => {
                rig.disk.limit_space(Some(rig.disk.used_bytes() + 4096));
                rig.write(extent(0, 32_768), 2).unwrap();
                rig.disk.limit_space(None);
            }
            "left" => rig.eras.leave(broken),
            _ => {
                let mut files = side_files(&rig.disk);
                files.sort_unstable();
                rig.disk.remove(&files[0]).unwrap();
                let user = EraUser { era: far, begin: at(100), volumes: [VOLUME].into() };
                let users = [rig.users(), vec![user]].concat();
                rig.eras = Eras::open(parts(&rig.disk, &rig.space), &users).unwrap().0;
                rig.eras.applied(at(rig.place));
            }
        }
        assert!(!rig.eras.has(broken) && rig.eras.has(far));
        let later = [begin(&rig, 50), begin(&rig, 40)];
        assert!(later.iter().all(|era| (broken..far).contains(era)), "{how}: {broken} {later:?} {far}");
    }
}

/// A comparison looks at a copy while a drill of it begins: an image reads through those behind it.
#[test]
fn images_that_begin_at_the_same_time_are_in_the_order_of_their_moments() {
    let slow = Arc::new(Slow::default());
    let (eras, _) = eras_on(&slow);
    let begin = |place: u64| {
        let eras = Arc::clone(&eras);
        std::thread::spawn(move || eras.begin(&eras.hold(at(place)), &[VOLUME].into()).unwrap().era)
    };
    let wait_for_file = |number: u64| {
        while slow.syncs.load(Ordering::Acquire) < number {
            std::thread::yield_now();
        }
    };
    let hang = slow.hang_syncs.lock();
    let later = begin(9);
    wait_for_file(1);
    let earlier = begin(5);
    wait_for_file(2);
    drop(hang);
    let (later, earlier) = (later.join().unwrap(), earlier.join().unwrap());
    assert!(earlier < later, "{earlier} {later}");
}

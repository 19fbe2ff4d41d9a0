//! What an image that is gone leaves behind is removed while nobody waits.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::storage::filter::{self, Filter};

/// Removes nothing for as long as somebody has `hang`.
struct Slow {
    hang: Mutex<()>,
    asked: AtomicBool,
}

impl Filter for Slow {
    fn before_remove(&self, _path: &Path) -> io::Result<()> {
        self.asked.store(true, Ordering::Release);
        drop(self.hang.lock());
        Ok(())
    }
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
    let slow = Arc::new(Slow { hang: Mutex::new(()), asked: AtomicBool::new(false) });
    let memory = MemoryDisk::new();
    let disk = filter::disk(Arc::new(memory.clone()), &slow);
    let space = Arc::new(SideSpace::new(1 << 20));
    let parts = ErasParts { disk, folder: FOLDER.into(), group: GROUP, space, index_ranges_max: 4, outlive: true };
    let (eras, _) = Eras::open(parts, &[]).unwrap();
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

//! Ranges as large as a host can discard with one request: a volume.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::storage::filter::{self, Filter};
use crate::t0::side_file::{BATCH_BYTES_MAX, PIECE_BYTES_MAX};

const LARGE: VolumeIndex = VolumeIndex(2);
const BYTES: u64 = 32 << 20;

/// Counts what is read, and how much of it was at most not yet on its way to a side file.
struct Counted {
    space: Arc<SideSpace>,
    read: AtomicU64,
    held_max: AtomicU64,
}

impl Filter for Counted {
    fn before_read(&self, bytes: usize) -> io::Result<()> {
        let read = self.read.fetch_add(bytes as u64, Ordering::AcqRel) + bytes as u64;
        self.held_max.fetch_max(read.saturating_sub(self.space.used()), Ordering::AcqRel);
        Ok(())
    }
}

/// An image of a volume that is full of data.
fn large(space: u64) -> (Rig, u64, Arc<Counted>) {
    let rig = Rig::new(space);
    let file = rig.disk.open(Path::new("/volumes/large"), Open::New).unwrap();
    for at in (0..BYTES).step_by(1 << 20) {
        file.write_all_at(&[7; 1 << 20], at).unwrap();
    }
    let (read, held_max) = (AtomicU64::new(0), AtomicU64::new(0));
    let counted = Arc::new(Counted { space: Arc::clone(&rig.space), read, held_max });
    rig.volumes.insert(VolumeFile::new(LARGE, "large".into(), filter::file(file, &counted), BYTES));
    let barrier = rig.eras.hold(at(1));
    let era = rig.eras.begin(&barrier, &BTreeSet::from([LARGE])).unwrap().era;
    drop(barrier);
    (rig, era, counted)
}

/// Saves all of it, as for a discard of the whole.
fn save(rig: &Rig, stop: bool) -> bool {
    let all = Extent { volume: LARGE, offset: 0, length: BYTES };
    rig.eras.save_until(at(1), &[all], &rig.volumes, false, &AtomicBool::new(stop)).unwrap()
}

#[test]
fn what_is_saved_of_a_large_range_is_never_in_memory_all_at_once() {
    let (rig, era, counted) = large(64 << 20);
    assert!(save(&rig, false));
    assert!(rig.eras.has(era) && rig.space.used() > BYTES);
    assert_eq!(counted.read.load(Ordering::Acquire), BYTES);
    let held_max = counted.held_max.load(Ordering::Acquire);
    assert!(held_max <= BATCH_BYTES_MAX + PIECE_BYTES_MAX, "{held_max} bytes");
    let volume = rig.volumes.get(LARGE).unwrap();
    volume.file.zero(0, BYTES, true).unwrap();
    let seen = ImageVolume { index: LARGE, name: "large".into(), size: BYTES, file: Arc::clone(&volume.file) };
    let image = Image::new(Arc::clone(&rig.eras), era, vec![seen]);
    let mut bytes = vec![0; 1 << 20];
    for at in (0..BYTES).step_by(1 << 20) {
        image.read(LARGE, at, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 7), "{at}");
    }
}

#[test]
fn nothing_more_of_a_large_range_is_read_for_images_that_have_ended() {
    let (rig, era, counted) = large(1 << 20);
    assert!(save(&rig, false));
    assert!(!rig.eras.has(era));
    let read = counted.read.load(Ordering::Acquire);
    assert!(read <= BATCH_BYTES_MAX + PIECE_BYTES_MAX, "{read} bytes");
}

#[test]
fn the_rest_of_a_large_range_is_saved_later_when_it_is_time_to_stop() {
    let (rig, era, counted) = large(64 << 20);
    assert!(!save(&rig, true));
    assert!(rig.eras.has(era));
    let read = counted.read.load(Ordering::Acquire);
    assert!(read <= BATCH_BYTES_MAX + PIECE_BYTES_MAX, "{read} bytes");
    assert!(save(&rig, false));
    assert_eq!(counted.read.load(Ordering::Acquire), BYTES, "what is saved is not read again");
}

//! Whatever a window holds, and wherever its data is found (beside the frames in memory, in frames in memory, on the disk; past the
//! page cache or through it), the volumes are what the writes make of them.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;
use crate::ids::{GroupId, VolumeIndex};
use crate::journal::{self, JournalOptions, Writer};
use crate::record::{FrameBuilder, FrameKind, Place};
use crate::storage::disk::SystemDisk;
use crate::storage::filter::{self, Filter};
use crate::storage::{Disk, Open};

const GROUP: GroupId = GroupId([7; 16]);
const SECTORS: u64 = 4096;
const VOLUME_BYTES: u64 = SECTORS * 512;

#[derive(Debug, Clone, Copy)]
struct Write {
    volume: u32,
    sector: u64,
    sectors: u64,
    kind: u8,
}

fn write() -> impl Strategy<Value = Write> {
    // Most are whole blocks, as most of hosts' are; the others move what follows them in a frame away from blocks' borders.
    let length = prop_oneof![4 => (1_u64..40).prop_map(|blocks| blocks * 8), 1 => 1_u64..20];
    (0_u32..2, 0..SECTORS / 8, length, 1_u8..10).prop_map(|(volume, block, sectors, kind)| {
        let sector = block * 8;
        Write { volume, sector, sectors: sectors.min(SECTORS - sector), kind }
    })
}

fn extent(write: Write) -> Extent {
    Extent { volume: VolumeIndex(write.volume), offset: write.sector * 512, length: write.sectors * 512 }
}

fn append(writer: &mut Writer, writes: &[Write], tag: u8, with_raw: bool) {
    let mut builder = FrameBuilder::new();
    for write in writes {
        let extent = extent(*write);
        match write.kind {
            1 => builder.push_zero(extent, false),
            2 => builder.push_zero(extent, true),
            kind => drop(builder.push_data(extent, &vec![kind ^ tag; usize::try_from(extent.length).unwrap()])),
        }
    }
    let tip = *writer.tip();
    let place = Place {
        group: GROUP,
        member: 0,
        generation: tip.generation,
        first_seq: tip.seq.next(),
        last_seq: Seq(tip.seq.0 + writes.len() as u64),
        marker: tip.marker,
        chain: tip.chain,
    };
    if with_raw {
        let (frame, raw) = builder.finish_with_raw(FrameKind::Writes, &place);
        writer.append_with_raw(frame, raw).unwrap();
    } else {
        writer.append_frame(builder.finish(FrameKind::Writes, &place)).unwrap();
    }
}

fn volumes_in(folder: &Path) -> Arc<Volumes> {
    let volumes = Volumes::default();
    for index in 0..2 {
        let file = SystemDisk.open(&folder.join(format!("v{index}")), Open::New).unwrap();
        file.grow(VOLUME_BYTES).unwrap();
        volumes.insert(VolumeFile::new(VolumeIndex(index), format!("v{index}"), file, VOLUME_BYTES));
    }
    Arc::new(volumes)
}

fn model_of(frames: &[(Vec<Write>, bool)]) -> [Vec<u8>; 2] {
    let mut model = [(); 2].map(|()| vec![0_u8; usize::try_from(VOLUME_BYTES).unwrap()]);
    for (tag, (writes, _)) in (16_u8..).zip(frames) {
        for write in writes {
            let (from, length) = (write.sector * 512, write.sectors * 512);
            let range = usize::try_from(from).unwrap()..usize::try_from(from + length).unwrap();
            model[write.volume as usize][range].fill(if write.kind < 3 { 0 } else { write.kind ^ tag });
        }
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn volumes_are_what_was_written_wherever_the_data_is_found(
        frames in proptest::collection::vec((proptest::collection::vec(write(), 1..8), any::<bool>()), 1..20),
        from_disk in any::<bool>(),
        past_cache in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let options = JournalOptions { segment_bytes: 4 << 20, capacity_bytes: 256 << 20 };
        let opened = journal::open(Arc::new(SystemDisk), folder.path(), GROUP, options, None, &mut |_, _, _| {});
        let mut writer = opened.unwrap().writer;
        let volumes = volumes_in(folder.path());
        let mut updater = Updater::new(Arc::clone(writer.journal()), Arc::clone(&volumes), AppliedPosition::default());
        if past_cache {
            updater = updater.past_the_page_cache();
        }
        for (tag, (writes, with_raw)) in (16_u8..).zip(&frames) {
            append(&mut writer, writes, tag, *with_raw);
        }
        let end = writer.sync().unwrap().position;
        if from_disk {
            writer.journal().rest();
        }
        while updater.apply_window(end).unwrap().is_some() {}
        for (index, model) in model_of(&frames).iter().enumerate() {
            let mut read = vec![0; model.len()];
            volumes.all()[index].file.read_exact_at(&mut read, 0).unwrap();
            prop_assert!(read == *model, "volume {index}");
        }
    }
}

/// Has it be time to stop as soon as anything is zeroed.
struct Stopping {
    stop: Arc<AtomicBool>,
    zeroed: AtomicU64,
}

impl Filter for Stopping {
    fn before_zero(&self, length: u64) -> io::Result<()> {
        if self.zeroed.fetch_add(length, Ordering::AcqRel) == 0 {
            self.stop.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// A disk that gives nothing back is written for what a host discards, all of a volume perhaps: a failover does not wait for that.
#[test]
fn a_large_range_is_not_zeroed_to_its_end_when_it_is_time_to_stop() {
    const LARGE: u64 = 16 * STEP_BYTES;
    let folder = tempfile::tempdir().unwrap();
    let options = JournalOptions { segment_bytes: 4 << 20, capacity_bytes: 256 << 20 };
    let opened = journal::open(Arc::new(SystemDisk), folder.path(), GROUP, options, None, &mut |_, _, _| {});
    let mut writer = opened.unwrap().writer;
    append(&mut writer, &[Write { volume: 1, sector: 0, sectors: LARGE / 512, kind: 2 }], 0, false);
    let end = writer.sync().unwrap().position;
    let file = SystemDisk.open(&folder.path().join("v"), Open::New).unwrap();
    file.grow(LARGE).unwrap();
    let (stop, zeroed) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(0));
    let stopping = Arc::new(Stopping { stop: Arc::clone(&stop), zeroed });
    let volumes = Arc::new(Volumes::default());
    volumes.insert(VolumeFile::new(VolumeIndex(1), "v".into(), filter::file(file, &stopping), LARGE));
    let updater = Updater::new(Arc::clone(writer.journal()), volumes, AppliedPosition::default());
    let mut updater = updater.until(Arc::clone(&stop));
    assert!(updater.apply_window(end).unwrap().is_none() && updater.is_waiting());
    assert_eq!(stopping.zeroed.load(Ordering::Acquire), STEP_BYTES);
    assert_eq!(updater.applied(), AppliedPosition::default(), "all of it is tried again");
    stop.store(false, Ordering::Release);
    assert_eq!(updater.apply_window(end).unwrap().unwrap().zero_bytes, LARGE);
    assert_eq!((stopping.zeroed.load(Ordering::Acquire), updater.applied().seq), (STEP_BYTES + LARGE, Seq(1)));
}

//! On a real disk, past the page cache: whatever sizes are appended and however often they are synced, readers find the
//! same frames in memory, on the disk, and after the journal is opened again.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::storage::disk::SystemDisk;
use crate::storage::memory::SECTOR;

fn open_in(folder: &Path) -> Writer {
    let options = JournalOptions { segment_bytes: 1 << 20, capacity_bytes: 64 << 20 };
    super::super::open(Arc::new(SystemDisk), folder, GROUP, options, None, &mut |_, _, _| {}).unwrap().writer
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Written at once, or with what follows.
    Append {
        bytes: usize,
        later: bool,
    },
    Sync,
    /// The service is started again.
    Open,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![1_usize..400, 3_000_usize..5_000, 100_000_usize..200_000];
    prop_oneof![
        6 => (bytes, any::<bool>()).prop_map(|(bytes, later)| Step::Append { bytes, later }),
        3 => Just(Step::Sync),
        1 => Just(Step::Open),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn what_is_appended_is_read_from_memory_from_the_disk_and_after_a_start(steps in proptest::collection::vec(step(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open_in(folder.path());
        let mut appended: Vec<Bytes> = Vec::new();
        for step in steps {
            match step {
                Step::Append { bytes, later } => {
                    let frame = Bytes::from(writes(writer.tip(), 1, bytes));
                    appended.push(frame.clone());
                    if later { writer.append_later(frame) } else { writer.append_frame(frame) }.unwrap();
                }
                Step::Sync => drop(writer.sync().unwrap()),
                Step::Open => {
                    writer.sync().unwrap();
                    drop(writer);
                    writer = open_in(folder.path());
                }
            }
        }
        writer.sync().unwrap();
        let bytes = |journal: &Arc<Journal>| held(journal).into_iter().map(|held| held.bytes).collect::<Vec<_>>();
        prop_assert!(bytes(writer.journal()) == appended, "from memory");
        writer.journal().rest();
        prop_assert!(bytes(writer.journal()) == appended, "from the disk");
        drop(writer);
        prop_assert!(bytes(open_in(folder.path()).journal()) == appended, "after a start");
    }
}

/// The disk that fails on purpose sees the blocks, and one that takes none holds the same frames.
#[test]
fn with_and_without_direct_writes_a_loss_of_power_leaves_what_was_synced() {
    for refused in [false, true] {
        let disk = MemoryDisk::new();
        if refused {
            disk.refuse_direct();
        }
        let mut writer = super::open(&disk).writer;
        let mut frames = fill(&mut writer, 9);
        assert_eq!(disk.direct_blocks() == 0, refused);
        for seed in 0..20 {
            let mut lost = disk.fork();
            let mut later = super::open(&lost).writer;
            // The last block is written again, and none of it synced.
            later.append(&writes(later.tip(), 1, 100)).unwrap();
            lost = lost.crash(seed);
            let found = reopened(&lost);
            assert_eq!(found[..frames.len()], frames, "seed {seed}");
        }
        frames.extend(fill(&mut writer, 1));
        assert_eq!(reopened(&disk), frames);
    }
}

/// A large frame is read without a copy through the page cache, wherever in a block it lies, and as it is where that is not possible; a
/// sector beside it that cannot be read costs nothing.
#[test]
fn a_large_frame_is_read_past_the_page_cache_and_whole() {
    const LARGE: usize = 200_000;
    for refused in [false, true] {
        let disk = MemoryDisk::new();
        if refused {
            disk.refuse_direct();
        }
        let options = JournalOptions { segment_bytes: 1 << 20, capacity_bytes: 64 << 20 };
        let opened = super::super::open(Arc::new(disk.clone()), &folder(), GROUP, options, None, &mut |_, _, _| {});
        let mut writer = opened.unwrap().writer;
        let frames: Vec<Held> = [LARGE, 5_000, LARGE, 100, LARGE, LARGE, LARGE, 5_000]
            .into_iter()
            .map(|bytes| {
                let frame = writes(writer.tip(), 1, bytes);
                append(&mut writer, frame)
            })
            .collect();
        writer.sync().unwrap();
        writer.journal().rest();
        assert_eq!(held(writer.journal()), frames);
        assert_eq!(disk.direct_blocks_read() == 0, refused);
        if !refused {
            let blocks_at_least = frames.iter().filter(|frame| frame.bytes.len() >= LARGE).count() * LARGE / 4096;
            assert!(disk.direct_blocks_read() >= blocks_at_least as u64, "{}", disk.direct_blocks_read());
        }
        let behind = frames[0].position.offset + frames[0].bytes.len() as u64;
        disk.break_sector(&path_of(frames[0].position.segment), behind.next_multiple_of(SECTOR)).unwrap();
        let mut reader = writer.journal().reader(Position::default());
        assert_eq!(reader.next_frame().unwrap().unwrap().bytes, frames[0].bytes);
        reader.next_frame().unwrap_err();
    }
}

/// What an index tells of is readable before it is durable.
#[test]
fn a_frame_can_be_read_as_soon_as_it_is_appended() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open_in(folder.path());
    for _ in 0..3 {
        let frame = Bytes::from(writes(writer.tip(), 1, 5_000));
        let at = writer.append_frame(frame.clone()).unwrap();
        assert_eq!(writer.journal().recent(at), Some(frame.clone()));
        writer.journal().rest();
        let mut read = vec![0; frame.len()];
        assert!(writer.journal().read_stored(at, &mut read).unwrap());
        assert!(read == frame, "it is in the file, too");
    }
}

#[test]
fn nothing_is_given_out_before_it_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open_in(folder.path());
    let mut reader = writer.journal().reader(Position::default());
    for _ in 0..3 {
        let frame = Bytes::from(writes(writer.tip(), 1, 5_000));
        writer.append_frame(frame.clone()).unwrap();
        assert!(reader.next_frame().unwrap().is_none(), "it is in memory, and not durable");
        writer.sync().unwrap();
        assert_eq!(reader.next_frame().unwrap().unwrap().bytes, frame);
    }
}

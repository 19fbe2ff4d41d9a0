//! No room: the journal says so, stays usable, and goes on when there is room again.

use super::*;
use crate::storage::{Disk, Open};

fn open_small(disk: &MemoryDisk, capacity_bytes: u64) -> Writer {
    let options = JournalOptions { capacity_bytes, ..options() };
    super::super::open(Arc::new(disk.clone()), &folder(), GROUP, options, None, &mut |_, _, _| {}).unwrap().writer
}

/// Appends until it is refused.
fn append_until_full(writer: &mut Writer) -> (Vec<Held>, JournalError) {
    let mut frames = Vec::new();
    loop {
        let frame = writes(writer.tip(), 1, QUARTER);
        match writer.append(&frame) {
            Ok(position) => frames.push(Held { position, bytes: frame.into() }),
            Err(error) => return (frames, error),
        }
    }
}

#[test]
fn a_full_journal_refuses_and_goes_on_after_a_trim() {
    let disk = MemoryDisk::new();
    let mut writer = open_small(&disk, 3 * SEGMENT_BYTES);
    let (mut frames, error) = append_until_full(&mut writer);
    assert!(error.is_no_space() && matches!(error, JournalError::Full { .. }), "{error}");
    assert_eq!(frames.len(), 12);
    writer.sync().unwrap();
    assert_eq!(held(writer.journal()), frames);
    writer.journal().trim(Position { segment: 2, offset: 4096 }).unwrap();
    frames.drain(..4);
    frames.extend(append_until_full(&mut writer).0);
    writer.sync().unwrap();
    assert_eq!(frames.len(), 12);
    assert_eq!(held(writer.journal()), frames);
    assert_eq!(reopened(&disk), frames);
}

#[test]
fn the_capacity_is_never_passed_and_free_bytes_are_real() {
    for capacity in [2 * SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES - 1, 4 * SEGMENT_BYTES - 5000] {
        let disk = MemoryDisk::new();
        let mut writer = open_small(&disk, capacity);
        let mut free = writer.journal().free_bytes();
        loop {
            assert!(disk.used_bytes() <= capacity, "{} of {capacity} bytes", disk.used_bytes());
            let frame = writes(writer.tip(), 1, QUARTER);
            let result = writer.append(&frame);
            let now = writer.journal().free_bytes();
            if result.is_err() {
                assert!(free < SEGMENT_BYTES, "refused with {free} bytes said to be free");
                break;
            }
            assert!(now < free);
            free = now;
        }
    }
}

#[test]
fn a_full_journal_is_said_to_be_full_though_its_segments_end_unused() {
    let disk = MemoryDisk::new();
    let mut writer = open_small(&disk, 4 * SEGMENT_BYTES);
    assert!(writer.journal().bytes() <= SEGMENT_BYTES / 4, "only a header");
    let error = loop {
        // Of these, a segment holds one.
        let frame = writes(writer.tip(), 1, 5 * QUARTER / 2);
        if let Err(error) = writer.append(&frame) {
            break error;
        }
    };
    assert!(error.is_journal_full(), "{error}");
    let journal = writer.journal();
    assert_eq!(journal.bytes() + journal.free_bytes(), journal.capacity_bytes());
    assert!(journal.bytes() > 3 * SEGMENT_BYTES, "{} of {}", journal.bytes(), journal.capacity_bytes());
}

#[test]
fn what_frees_a_full_journal_finds_room_once() {
    let disk = MemoryDisk::new();
    let mut writer = open_small(&disk, 3 * SEGMENT_BYTES);
    let (mut frames, _) = append_until_full(&mut writer);
    for _ in 0..4 {
        let frame = writes(writer.tip(), 1, QUARTER);
        let position = writer.append_to_free(frame.clone().into()).unwrap();
        frames.push(Held { position, bytes: frame.into() });
    }
    let frame = writes(writer.tip(), 1, QUARTER);
    let error = writer.append_to_free(frame.into()).unwrap_err();
    assert!(error.is_journal_full(), "one segment beyond, and no more: {error}");
    writer.sync().unwrap();
    assert!(writer.journal().is_full());
    assert_eq!(reopened(&disk), frames);
}

#[test]
fn a_full_disk_refuses_a_segment_and_goes_on_with_space() {
    for room in [0, 512, 5000, SEGMENT_BYTES - 512] {
        let (disk, mut writer) = fresh();
        let mut frames = fill(&mut writer, 2);
        disk.limit_space(Some(disk.used_bytes() + room));
        let (more, error) = append_until_full(&mut writer);
        assert!(error.is_no_space(), "{error}");
        let told = error.told();
        assert!(told.starts_with(&error.to_string()) && told.contains("Make room on the file system of /"), "{told}");
        assert_eq!(writer.journal().poisoned(), None);
        frames.extend(more);
        assert_eq!(frames.len(), 4);
        assert_eq!(writer.sync().unwrap().seq, Seq(4), "what was taken becomes durable");
        assert_eq!(disk.used_bytes(), SEGMENT_BYTES, "half a segment is not kept");
        assert_eq!(names(&disk).len(), 1);
        let (none, error) = append_until_full(&mut writer);
        assert!(none.is_empty() && error.is_no_space(), "{error}");
        assert_eq!(reopened(&disk.fork()), frames);
        disk.limit_space(None);
        frames.extend(fill(&mut writer, 7));
        assert_eq!(held(writer.journal()), frames);
        assert_eq!(reopened(&disk), frames);
    }
}

/// A file system that copies on write, or a thin volume, may refuse to write even where something was before.
#[test]
fn a_write_refused_for_space_can_be_tried_again() {
    let (disk, mut writer) = fresh();
    let mut frames = fill(&mut writer, 2);
    let file = disk.open(&path_of(1), Open::Existing).unwrap();
    file.zero((writer.end().offset + 512).next_multiple_of(512), 4096, true).unwrap();
    disk.limit_space(Some(disk.used_bytes() + 1024));
    let frame = writes(writer.tip(), 1, QUARTER);
    let error = writer.append(&frame).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_eq!(writer.sync().unwrap().seq, Seq(2));
    let killed = disk.fork();
    let error = try_open(&killed, None).expect_err("a segment is needed to go on in");
    assert!(error.is_no_space(), "{error}");
    disk.limit_space(None);
    killed.limit_space(None);
    assert_eq!(reopened(&killed), frames, "half a record is cut");
    frames.extend(fill(&mut writer, 2));
    assert_eq!(reopened(&disk), frames);
}

/// The same where frames wait for each other: the sync that would write them is tried again.
#[test]
fn waiting_frames_refused_for_space_wait_on() {
    let (disk, mut writer) = fresh();
    let mut frames = fill(&mut writer, 1);
    let file = disk.open(&path_of(1), Open::Existing).unwrap();
    file.zero((writer.end().offset + 512).next_multiple_of(512), 4096, true).unwrap();
    disk.limit_space(Some(disk.used_bytes() + 1024));
    for _ in 0..2 {
        let frame = Bytes::from(writes(writer.tip(), 1, 2 * QUARTER / 3));
        let position = writer.append_later(frame.clone()).unwrap();
        frames.push(Held { position, bytes: frame });
    }
    for _ in 0..2 {
        let error = writer.sync().unwrap_err();
        assert!(error.is_no_space(), "{error}");
        assert_eq!(writer.journal().poisoned(), None);
        assert_eq!(held(writer.journal()), frames[..1]);
    }
    disk.limit_space(None);
    assert_eq!(writer.sync().unwrap().seq, Seq(3));
    assert_eq!(held(writer.journal()), frames);
    assert_eq!(reopened(&disk.crash(1)), frames);
}

/// What cannot become durable is taken back and comes again, also when it is another history by then, or the process dies.
#[test]
fn what_is_refused_for_space_can_be_taken_back() {
    for (markers, later) in [(0, 300), (2, 3 * QUARTER / 4)] {
        let (disk, mut writer) = fresh();
        let mut frames = fill(&mut writer, 1);
        let (tip, end) = (*writer.tip(), writer.end());
        let file = disk.open(&path_of(1), Open::Existing).unwrap();
        file.zero((end.offset + 512).next_multiple_of(512), 4096, true).unwrap();
        disk.limit_space(Some(disk.used_bytes() + 1024));
        for _ in 0..2 {
            writer.append_later(Bytes::from(writes(writer.tip(), 1, 2 * QUARTER / 3))).unwrap();
        }
        for _ in 0..markers {
            writer.append_later(Bytes::from(marker(writer.tip()))).unwrap();
        }
        assert!(writer.sync().unwrap_err().is_no_space());
        writer.take_back();
        assert_eq!((*writer.tip(), writer.end()), (tip, end));
        assert_eq!(writer.sync().unwrap().position, end, "nothing is left to sync");
        disk.limit_space(None);
        let frame = Bytes::from(writes(writer.tip(), 1, later));
        let position = writer.append_later(frame.clone()).unwrap();
        frames.push(Held { position, bytes: frame });
        writer.sync().unwrap();
        frames.extend(fill(&mut writer, 3));
        assert_eq!(held(writer.journal()), frames);
        assert_eq!(reopened(&disk.crash(1)), frames);
    }
}

/// Its sender may have given it up: it would be in no other journal.
#[test]
fn what_was_taken_back_does_not_come_back_with_a_restart() {
    let (disk, mut writer) = fresh();
    let frames = fill(&mut writer, 1);
    // In the file, before the next finds no room.
    let taken_back = writes(writer.tip(), 1, QUARTER / 2);
    writer.append(&taken_back).unwrap();
    let beyond = disk.open(&path_of(1), Open::Existing).unwrap();
    beyond.zero((writer.end().offset + 512).next_multiple_of(512), 4096, true).unwrap();
    disk.limit_space(Some(disk.used_bytes()));
    writer.append_later(Bytes::from(writes(writer.tip(), 1, QUARTER))).unwrap();
    assert!(writer.sync().unwrap_err().is_no_space());
    writer.take_back();
    assert!(writer.check().is_ok());
    disk.limit_space(None);
    assert_eq!(reopened(&disk), frames);
}

#[test]
fn a_sync_refused_for_space_is_not_tried_again() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 1);
    let frame = writes(writer.tip(), 1, 100);
    append(&mut writer, frame);
    disk.fail_next_sync(std::io::ErrorKind::StorageFull);
    let error = writer.sync().unwrap_err();
    assert!(!error.is_no_space(), "nobody knows what the disk holds now: {error}");
    assert!(writer.journal().poisoned().is_some());
}

#[test]
fn spares_are_used_when_the_disk_is_full() {
    let (disk, mut writer) = fresh();
    let mut frames = fill(&mut writer, 12);
    writer.journal().trim(Position { segment: 3, offset: 0 }).unwrap();
    frames.drain(..8);
    disk.limit_space(Some(disk.used_bytes()));
    frames.extend(fill(&mut writer, 8));
    assert_eq!(reopened(&disk), frames);
}

/// Whoever made a group on a full disk was told what the system said, and not what to do.
#[test]
fn a_full_disk_is_told_with_where_to_make_room() {
    let at = |kind: std::io::ErrorKind| JournalError::Io {
        action: "open",
        path: "/d/journal".into(),
        offset: 0,
        source: kind.into(),
    };
    let full = at(std::io::ErrorKind::StorageFull);
    assert!(full.advised().ends_with(". Make room on the file system of /d"), "{}", full.advised());
    assert!(full.told().ends_with("of /d; it goes on by itself"), "{}", full.told());
    let other = at(std::io::ErrorKind::PermissionDenied);
    assert_eq!((other.advised(), other.told()), (other.to_string(), other.to_string()));
}

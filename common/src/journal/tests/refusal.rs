//! What a journal does not take, and what it does not open.

use super::*;
use crate::record::{Chain, FrameHeader, HEADER_BYTES};

/// The frame with another header.
fn with_header(frame: &[u8], change: impl FnOnce(&mut FrameHeader)) -> Vec<u8> {
    let mut header = FrameHeader::decode(frame).unwrap();
    change(&mut header);
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(&frame[HEADER_BYTES..]);
    bytes
}

#[test]
fn a_frame_that_does_not_follow_is_refused_and_leaves_no_trace() {
    let (disk, mut writer) = fresh();
    let frame = role(writer.tip());
    append(&mut writer, frame);
    let frame = marker(writer.tip());
    append(&mut writer, frame);
    writer.sync().unwrap();
    let good = writes(writer.tip(), 1, 100);
    let before = disk.everything();
    let bad = [
        with_header(&good, |header| header.chain = Chain([1; 16])),
        with_header(&good, |header| header.generation = Generation(0)),
        with_header(&good, |header| header.marker = MarkerNumber(0)),
        with_header(&good, |header| (header.first_seq, header.last_seq) = (Seq(2), Seq(2))),
        with_header(&good, |header| header.group = GroupId([8; 16])),
        with_header(&marker(writer.tip()), |header| header.last_seq = Seq(1)),
    ];
    for frame in bad {
        assert!(matches!(writer.append(&frame), Err(JournalError::Gap { .. })));
    }
    assert_eq!(disk.everything(), before);
    append(&mut writer, good);
    writer.sync().unwrap();
    assert_eq!(reopened(&disk).len(), 3);
}

#[test]
fn bytes_that_are_no_frame_are_refused() {
    let (disk, mut writer) = fresh();
    let good = writes(writer.tip(), 1, 100);
    let mut longer = good.clone();
    longer.push(0);
    for bytes in [&[][..], &[0; 4096], &good[..good.len() - 1], &longer] {
        assert!(matches!(writer.append(bytes), Err(JournalError::Damaged { .. })), "{} bytes", bytes.len());
    }
    append(&mut writer, good);
    writer.sync().unwrap();
    assert_eq!(reopened(&disk).len(), 1);
}

#[test]
fn a_frame_larger_than_a_segment_is_refused() {
    let (_disk, mut writer) = fresh();
    let large = writes(writer.tip(), 1, 1 << 14);
    assert!(matches!(writer.append(&large), Err(JournalError::TooLarge { .. })));
    fill(&mut writer, 1);
}

#[test]
fn another_groups_journal_is_refused() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 1);
    let before = disk.everything();
    let other = GroupId([8; 16]);
    let opened = super::super::open(Arc::new(disk.clone()), &folder(), other, options(), None, &mut |_, _, _| {});
    assert!(matches!(opened, Err(JournalError::Damaged { offset: 0, .. })), "{opened:?}");
    assert_eq!(disk.everything(), before);
}

#[test]
fn a_failed_sync_stops_the_journal_for_good() {
    let (disk, mut writer) = fresh();
    let synced = fill(&mut writer, 2);
    let end = writer.journal().durable_end();
    let frame = writes(writer.tip(), 1, 100);
    append(&mut writer, frame);
    disk.fail_next_sync(std::io::ErrorKind::Other);
    assert!(matches!(writer.sync(), Err(JournalError::Io { action: "sync", .. })));
    assert!(writer.journal().poisoned().is_some());
    let next = writes(writer.tip(), 1, 100);
    assert!(matches!(writer.append(&next), Err(JournalError::Poisoned { .. })));
    assert!(matches!(writer.sync(), Err(JournalError::Poisoned { .. })), "the disk would say yes now");
    assert_eq!(writer.journal().durable_end(), end);
    assert_eq!(held(writer.journal()), synced, "readers stay at the durable end");
    for seed in 0..20 {
        let found = reopened(&disk.fork().crash(seed));
        assert_eq!(found[..2], synced);
    }
}

/// No file may be opened for a moment, or a path to the disk is switched: nothing of the journal is in doubt.
#[test]
fn a_segment_that_cannot_be_made_is_tried_again() {
    let (disk, mut writer) = fresh();
    let mut frames = fill(&mut writer, 4);
    for _ in 0..3 {
        disk.fail_next_sync(std::io::ErrorKind::Other);
        let frame = writes(writer.tip(), 1, QUARTER);
        let error = writer.append(&frame).unwrap_err();
        assert!(writer.may_try_again(&error) && !error.is_no_space(), "{error}");
        assert_eq!(writer.journal().poisoned(), None);
        assert_eq!(names(&disk).len(), 1, "nothing of it is left");
    }
    frames.extend(fill(&mut writer, 5));
    assert_eq!(held(writer.journal()), frames);
    for seed in 0..20 {
        assert_eq!(reopened(&disk.fork().crash(seed)), frames);
    }
}

/// It may be there after a loss of power, and says where the journal ends before it.
#[test]
fn a_segment_that_may_have_its_name_stops_the_journal_for_good() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 4);
    disk.fail_folder_sync_after(0);
    let frame = writes(writer.tip(), 1, QUARTER);
    let error = writer.append(&frame).unwrap_err();
    assert!(!writer.may_try_again(&error), "{error}");
    assert!(writer.journal().poisoned().is_some());
}

#[test]
fn a_failed_write_stops_the_journal_for_good() {
    let (disk, mut writer) = fresh();
    let synced = fill(&mut writer, 2);
    let frame = writes(writer.tip(), 1, 3000);
    disk.power_off_after(0);
    assert!(matches!(writer.append(&frame), Err(JournalError::Io { action: "write", .. })));
    assert!(matches!(writer.append(&frame), Err(JournalError::Poisoned { .. })));
    for seed in 0..20 {
        let found = reopened(&disk.fork().crash(seed));
        assert_eq!(found[..2], synced);
        assert!(found.len() == 2 || found[2].bytes == frame);
    }
}

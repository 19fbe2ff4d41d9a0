//! Damage to what was durable: an error that says where, a disk left as it is, and never other content.

use super::*;
use crate::journal::segment::Envelope;
use crate::record::{FrameError, HEADER_BYTES, crc32c};
use crate::storage::{Disk, Open};

/// Opening must fail and change nothing.
fn refused(disk: &MemoryDisk) -> JournalError {
    let before = disk.everything();
    let error = try_open(disk, None).expect_err("it is damaged");
    assert_eq!(disk.everything(), before, "{error}");
    error
}

fn flip(disk: &MemoryDisk, at: Position, bit: u64) {
    disk.flip_bit(&path_of(at.segment), at.offset * 8 + bit).unwrap();
}

#[test]
fn damage_before_the_durable_end_is_an_error_with_its_place() {
    let (disk, mut writer) = fresh();
    let mut frames = Vec::new();
    for _ in 0..10 {
        frames.extend(fill(&mut writer, 1));
    }
    writer.journal().trim(Position { segment: 2, offset: 0 }).unwrap();
    for frame in &frames[4..9] {
        let record = frame.position.offset - 32;
        // Envelope, header, tables, data. Data of older segments is left to whoever reads it.
        let newest = frame.position.segment == 3;
        for byte in [0, 20, 32, 100, 32 + 128 + 4, 32 + 128 + 48 + 16 + 100].iter().take(if newest { 6 } else { 4 }) {
            let disk = disk.fork();
            flip(&disk, Position { offset: record + byte, ..frame.position }, 3);
            match refused(&disk) {
                JournalError::Damaged { path, offset, .. } => {
                    assert_eq!((path, offset), (path_of(frame.position.segment), record));
                }
                error => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_reader_stops_at_damaged_data_and_says_where() {
    let (disk, mut writer) = fresh();
    let frames = fill(&mut writer, 10);
    flip(&disk, Position { offset: frames[2].position.offset + 1000, ..frames[2].position }, 0);
    // What is still in memory is sound.
    assert_eq!(held(writer.journal()), frames);
    writer.journal().rest();
    for journal in [Arc::clone(writer.journal()), Arc::clone(open(&disk).writer.journal())] {
        let mut reader = journal.reader(Position::default());
        reader.next_frame().unwrap().unwrap();
        reader.next_frame().unwrap().unwrap();
        for _ in 0..2 {
            match reader.next_frame() {
                Err(JournalError::Damaged { offset, source: FrameError::Checksum { part: "data" }, .. }) => {
                    assert_eq!(offset, frames[2].position.offset, "and it stays there");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Two small segments with records of several kinds, synced one by one, and how to open them.
fn small() -> (MemoryDisk, Vec<Held>) {
    let disk = MemoryDisk::new();
    let mut writer = open_small(&disk).unwrap().writer;
    let mut frames = Vec::new();
    let makes =
        [|tip: &Tip| writes(tip, 1, 600), marker, |tip: &Tip| writes(tip, 2, 60), |tip: &Tip| writes(tip, 1, 0)];
    for round in 0..8 {
        let frame = makes[round % 4](writer.tip());
        frames.push(append(&mut writer, frame));
        writer.sync().unwrap();
    }
    assert_eq!(frames[5].position.segment, 2);
    (disk, frames)
}

fn open_small(disk: &MemoryDisk) -> Result<Recovered, JournalError> {
    let options = JournalOptions { segment_bytes: 6144, capacity_bytes: 1 << 20 };
    super::super::open(Arc::new(disk.clone()), &folder(), GROUP, options, None, &mut |_, _, _| {})
}

#[test]
fn no_flipped_bit_of_a_synced_journal_shows_other_content() {
    let (disk, frames) = small();
    let last = frames.last().unwrap();
    let (mut harmless, mut seen, mut cut) = (0, 0, 0);
    for segment in [1, 2] {
        for bit in (0..200 * 8).chain(4096 * 8..6144 * 8) {
            let disk = disk.fork();
            flip(&disk, Position { segment, offset: 0 }, bit);
            let found =
                open_small(&disk).and_then(|recovered| Ok((recovered.torn, try_held(recovered.writer.journal())?)));
            match found {
                Err(JournalError::Damaged { .. } | JournalError::Gap { .. }) => seen += 1,
                Ok((None, found)) if found == frames => harmless += 1,
                // Nothing behind the last record can say that it was durable.
                Ok((Some(torn), found)) if found == frames[..frames.len() - 1] => {
                    assert_eq!(torn.position, Position { offset: last.position.offset - 32, ..last.position });
                    cut += 1;
                }
                other => panic!("bit {bit} of segment {segment}: {other:?}"),
            }
        }
    }
    assert_eq!(cut, 8 * (32 + last.bytes.len()), "exactly the last record");
    let bytes: usize = frames.iter().map(|frame| 32 + frame.bytes.len()).sum();
    assert!(seen >= 8 * (bytes - 32 - last.bytes.len()), "every other record: {seen} errors");
    assert!(harmless > 0);
}

#[test]
fn a_missing_segment_is_a_gap() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 18);
    for missing in [2, 3, 4] {
        let disk = disk.fork();
        disk.remove(&path_of(missing)).unwrap();
        assert!(matches!(refused(&disk), JournalError::Gap { .. }), "segment {missing}");
    }
}

#[test]
fn a_segment_under_anothers_name_is_refused() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 14);
    disk.rename(&path_of(4), &path_of(9)).unwrap();
    assert!(matches!(refused(&disk), JournalError::Damaged { offset: 0, .. }));
}

#[test]
fn a_truncated_segment_is_refused() {
    let (disk, mut writer) = fresh();
    let frames = fill(&mut writer, 10);
    let bytes = disk.bytes_of(&path_of(1)).unwrap();
    for length in [0, 50, 4096, 9000] {
        let disk = disk.fork();
        disk.remove(&path_of(1)).unwrap();
        disk.open(&path_of(1), Open::New).unwrap().write_all_at(&bytes[..length], 0).unwrap();
        assert!(matches!(refused(&disk), JournalError::Damaged { .. }), "{length} bytes of {frames:?}");
    }
}

#[test]
fn an_unreadable_sector_is_no_torn_tail() {
    let (disk, mut writer) = fresh();
    let frames = fill(&mut writer, 3);
    disk.break_sector(&path_of(1), frames[2].position.offset + 700).unwrap();
    assert!(matches!(refused(&disk), JournalError::Io { action: "read", .. }));
}

/// A record with checksums in order, as a build that knows more would have written it.
fn append_raw(disk: &MemoryDisk, writer: &Writer, frame: &[u8]) {
    let file = disk.open(&path_of(writer.end().segment), Open::Existing).unwrap();
    let envelope = Envelope::of(frame, writer.journal().durable_end().position).encode(GROUP, writer.end());
    file.write_all_at(&envelope, writer.end().offset).unwrap();
    file.write_all_at(frame, writer.end().offset + 32).unwrap();
    file.sync().unwrap();
}

fn recheck(frame: &mut [u8]) {
    let check = crc32c(&frame[..HEADER_BYTES - 4]).to_le_bytes();
    frame[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&check);
}

#[test]
fn a_newer_builds_frame_is_no_torn_tail() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 1);
    let mut frame = marker(writer.tip());
    frame[4] = 2;
    recheck(&mut frame);
    append_raw(&disk, &writer, &frame);
    let error = refused(&disk);
    assert!(matches!(error, JournalError::Damaged { source: FrameError::Version { version: 2 }, .. }), "{error}");
}

#[test]
fn a_newer_builds_record_is_no_torn_tail() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 1);
    let mut frame = marker(writer.tip());
    let body = frame.len() - HEADER_BYTES;
    frame[HEADER_BYTES..].fill(0x77);
    let check = crc32c(&frame[HEADER_BYTES..]).to_le_bytes();
    frame[84..88].copy_from_slice(&check);
    recheck(&mut frame);
    append_raw(&disk, &writer, &frame);
    let error = refused(&disk);
    assert!(
        matches!(error, JournalError::Damaged { source: FrameError::Malformed { .. }, .. }),
        "{error}, {body} bytes"
    );
}

#[test]
fn a_frame_that_does_not_follow_is_a_gap() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 1);
    let ahead = Tip { seq: Seq(5), ..*writer.tip() };
    append_raw(&disk, &writer, &writes(&ahead, 1, 100));
    assert!(matches!(refused(&disk), JournalError::Gap { .. }));
}

#[test]
fn another_groups_frame_is_a_gap() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 1);
    let mut frame = marker(writer.tip());
    frame[8..24].fill(9);
    recheck(&mut frame);
    append_raw(&disk, &writer, &frame);
    assert!(matches!(refused(&disk), JournalError::Gap { .. }));
}

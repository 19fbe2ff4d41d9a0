//! Tails: what a crash leaves of what was not synced is cut, whatever it is, and what was synced stays.

use super::*;
use crate::journal::TornTail;
use crate::storage::{Disk, Open};

/// Writes bytes into a segment's file behind the journal's back.
fn overwrite(disk: &MemoryDisk, segment: u64, offset: u64, bytes: &[u8]) {
    let file = disk.open(&path_of(segment), Open::Existing).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync().unwrap();
}

/// A journal in one segment, and a copy of its disk from before the last frame.
fn with_last_frame(size: usize) -> (MemoryDisk, Vec<Held>, Vec<u8>) {
    let (disk, mut writer) = fresh();
    let mut frames = fill(&mut writer, 2);
    let before = disk.bytes_of(&path_of(1)).unwrap();
    let frame = writes(writer.tip(), 1, size);
    frames.push(append(&mut writer, frame));
    writer.sync().unwrap();
    (disk, frames, before)
}

#[test]
fn a_record_cut_at_any_byte_is_left_out() {
    let (disk, frames, _) = with_last_frame(300);
    let last = &frames[2];
    let begin = last.position.offset - 32;
    let length = 32 + last.bytes.len() as u64;
    let others: [&[u8]; 3] = [&[0; 700], &[0xff; 700], &noise(&Tip::default(), 700)];
    for cut in 0..length {
        for other in others {
            let disk = disk.fork();
            overwrite(&disk, 1, begin + cut, &other[..usize::try_from(length - cut).unwrap()]);
            let recovered = open(&disk);
            assert_eq!(held(recovered.writer.journal()), frames[..2], "cut at byte {cut}");
            if cut >= 32 {
                let position = Position { segment: 1, offset: begin };
                assert_eq!(recovered.torn, Some(TornTail { position }), "cut at byte {cut}");
            }
        }
    }
}

#[test]
fn a_journal_goes_on_behind_a_cut_tail() {
    let (disk, frames, before) = with_last_frame(3000);
    // The envelope is whole, the frame's data is what the file held before.
    let from = 512 * 24;
    overwrite(&disk, 1, from, &before[usize::try_from(from).unwrap()..]);
    let recovered = open(&disk);
    assert!(recovered.torn.is_some());
    let mut writer = recovered.writer;
    assert_eq!(writer.end(), Position { segment: 2, offset: 4096 }, "the torn bytes stay invisible");
    let more = fill(&mut writer, 6);
    let expected = [&frames[..2], &more].concat();
    assert_eq!(held(writer.journal()), expected);
    let recovered = open(&disk);
    assert_eq!(recovered.torn, None, "it was cut once");
    assert_eq!(held(recovered.writer.journal()), expected);
}

#[test]
fn a_tail_whose_envelope_is_lost_is_reported() {
    let (disk, frames, before) = with_last_frame(3000);
    let begin = usize::try_from(frames[2].position.offset - 32).unwrap();
    overwrite(&disk, 1, begin as u64, &before[begin..begin + 32]);
    let recovered = open(&disk);
    assert_eq!(recovered.torn, Some(TornTail { position: Position { segment: 1, offset: begin as u64 } }));
    assert_eq!(held(recovered.writer.journal()), frames[..2]);
}

/// The frames of a group commit may reach the disk in any order.
#[test]
fn frames_behind_a_lost_one_are_cut_with_it() {
    let (disk, mut writer) = fresh();
    let synced = fill(&mut writer, 1);
    let mut unsynced = Vec::new();
    for _ in 0..3 {
        let frame = writes(writer.tip(), 1, QUARTER);
        unsynced.push(append(&mut writer, frame));
    }
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let recovered = open(&disk.fork().crash(seed));
        let found = held(recovered.writer.journal());
        assert_eq!(found[..1], synced);
        assert!(unsynced.starts_with(&found[1..]), "seed {seed}: {found:?}");
        lengths.insert(found.len());
    }
    assert_eq!(lengths.len(), 4, "every prefix was seen: {lengths:?}");
}

#[test]
fn a_tail_over_the_end_of_a_segment_is_cut() {
    let (disk, mut writer) = fresh();
    let synced = fill(&mut writer, 2);
    let mut all = synced.clone();
    for _ in 0..9 {
        let frame = writes(writer.tip(), 1, QUARTER);
        all.push(append(&mut writer, frame));
    }
    assert_eq!(writer.end().segment, 3);
    for seed in 0..300 {
        let found = reopened(&disk.fork().crash(seed));
        assert!(found.len() >= 2 && all.starts_with(&found), "seed {seed}: {found:?}");
    }
}

#[test]
fn power_may_go_at_any_moment_of_a_new_segment() {
    for effects in 0.. {
        let (disk, mut writer) = fresh();
        let synced = fill(&mut writer, 4);
        let next = writes(writer.tip(), 1, QUARTER);
        disk.power_off_after(effects);
        let done = writer.append(&next).and_then(|_| writer.sync()).is_ok();
        for seed in 0..20 {
            let disk = disk.fork().crash(seed);
            let found = reopened(&disk);
            assert_eq!(found[..4], synced, "{effects} effects, seed {seed}");
            assert!(found.len() == 5 || !done, "{effects} effects, seed {seed}: {found:?}");
        }
        if done {
            break;
        }
    }
}

/// A killed process leaves frames in the page cache; recovery reads them, and then power goes.
#[test]
fn power_may_go_at_any_moment_of_a_recovery() {
    for torn in [false, true] {
        for effects in 0.. {
            let (disk, mut writer) = fresh();
            let synced = fill(&mut writer, 2);
            let mut all = synced.clone();
            for _ in 0..2 {
                let frame = writes(writer.tip(), 1, QUARTER);
                all.push(append(&mut writer, frame));
            }
            if torn {
                let file = disk.open(&path_of(1), Open::Existing).unwrap();
                file.write_all_at(&[0; 512], all[3].position.offset + 1024).unwrap();
                all.truncate(3);
            }
            disk.power_off_after(effects);
            let done = try_open(&disk, None).is_ok();
            for seed in 0..20 {
                let found = reopened(&disk.fork().crash(seed));
                assert!(found.len() >= 2 && all.starts_with(&found), "{effects} effects, seed {seed}: {found:?}");
                assert!(found == all || !done, "{effects} effects, seed {seed}: what was opened was told durable");
            }
            if done {
                break;
            }
        }
    }
}

/// Power goes again and again while the journal recovers from the last time.
#[test]
fn recoveries_may_be_interrupted_many_times() {
    let (mut disk, mut writer) = fresh();
    let synced = fill(&mut writer, 6);
    let mut all = synced.clone();
    for _ in 0..5 {
        let frame = writes(writer.tip(), 1, QUARTER);
        all.push(append(&mut writer, frame));
    }
    for seed in 0..40 {
        disk = disk.crash(seed);
        disk.power_off_after(seed % 7);
        let _ = try_open(&disk, None);
    }
    let found = reopened(&disk.crash(1));
    assert!(found.len() >= 6 && all.starts_with(&found), "{found:?}");
}

#[test]
fn the_journals_folder_is_durable_before_its_frames() {
    let (disk, mut writer) = fresh();
    let frames = fill(&mut writer, 1);
    assert!((0..50).all(|seed| reopened(&disk.fork().crash(seed)) == frames));
}

/// The system says no to a sync once and forgets it: pages it could not write read well and are never written again. The
/// next process finds whole frames there, and a sync that succeeds says nothing of them.
#[test]
fn what_a_failed_sync_left_in_doubt_is_durable_once_it_is_recovered() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 1);
    let frame = writes(writer.tip(), 1, QUARTER);
    append(&mut writer, frame);
    disk.fail_next_sync(std::io::ErrorKind::Other);
    writer.sync().unwrap_err();
    drop(writer);
    let mut writer = open(&disk).writer;
    let found = held(writer.journal());
    assert_eq!(found.len(), 2, "it is in the page cache");
    let all = [found.clone(), fill(&mut writer, 1)].concat();
    for seed in 0..100 {
        assert_eq!(reopened(&disk.fork().crash(seed)), all, "seed {seed}: it was told to be durable");
    }
}

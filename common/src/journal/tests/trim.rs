//! What trimming takes away, what it keeps, and what becomes of the files.

use super::*;
use crate::storage::Disk;

fn at(segment: u64) -> Position {
    Position { segment, offset: 4096 }
}

#[test]
fn only_segments_wholly_before_the_place_go() {
    let (disk, mut writer) = fresh();
    let frames = fill(&mut writer, 14);
    let journal = Arc::clone(writer.journal());
    assert_eq!(journal.trim(Position { segment: 3, offset: 8000 }).unwrap(), 2 * SEGMENT_BYTES);
    assert_eq!(journal.oldest(), at(3));
    assert_eq!(held(&journal), frames[8..]);
    assert_eq!(journal.trim(frames[9].position).unwrap(), 0, "the segment is still needed");
    assert_eq!(reopened(&disk), frames[8..]);
}

#[test]
fn the_newest_segment_always_stays() {
    let (disk, mut writer) = fresh();
    let frames = fill(&mut writer, 10);
    writer.journal().trim(at(99)).unwrap();
    assert_eq!(held(writer.journal()), frames[8..]);
    let more = fill(&mut writer, 6);
    assert_eq!(reopened(&disk), [&frames[8..], &more].concat());
}

#[test]
fn a_history_goes_on_after_its_begin_is_gone() {
    let (disk, mut writer) = fresh();
    let frames = fill(&mut writer, 10);
    let before = FrameHeaderOf(&frames[8]).chain();
    writer.journal().trim(at(3)).unwrap();
    let recovered = open(&disk);
    assert_eq!((recovered.oldest.seq, recovered.oldest.chain), (Seq(8), before));
    assert_eq!(recovered.writer.tip(), writer.tip());
}

struct FrameHeaderOf<'a>(&'a Held);

impl FrameHeaderOf<'_> {
    fn chain(&self) -> crate::record::Chain {
        crate::record::FrameHeader::decode(&self.0.bytes).unwrap().chain
    }
}

#[test]
fn trimmed_files_are_used_again() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 12);
    let used = disk.used_bytes();
    for _ in 0..10 {
        fill(&mut writer, 4);
        let newest = writer.end().segment;
        writer.journal().trim(at(newest - 2)).unwrap();
        assert!(disk.used_bytes() <= used + 2 * SEGMENT_BYTES, "{} bytes", disk.used_bytes());
    }
    let spares = names(&disk).iter().filter(|name| name.ends_with(".spare")).count();
    assert_eq!(spares, 1, "the others are in use again: {:?}", names(&disk));
    let effects = disk.effects();
    fill(&mut writer, 4);
    assert!(disk.effects() - effects < 12, "{} effects: nothing is preallocated", disk.effects() - effects);
}

#[test]
fn at_most_two_spares_are_kept_and_found_again() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 30);
    writer.journal().trim(at(7)).unwrap();
    let spares = |disk: &MemoryDisk| names(disk).iter().filter(|name| name.ends_with(".spare")).count();
    assert_eq!(spares(&disk), 2);
    let mut writer = open(&disk).writer;
    fill(&mut writer, 8);
    assert_eq!(spares(&disk), 0, "both are in use");
}

#[test]
fn a_spare_of_another_size_is_not_used() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 10);
    writer.journal().trim(at(2)).unwrap();
    let half = folder().join(super::super::segment::spare_name(77));
    let file = disk.open(&half, crate::storage::Open::New).unwrap();
    file.write_all_at(&[0; 5000], 0).unwrap();
    let mut writer = open(&disk).writer;
    assert!(!names(&disk).contains(&"000000000000004d.spare".to_owned()));
    fill(&mut writer, 12);
    reopened(&disk);
}

/// Frames of one size lie at the same places in every life of a file, so an old record begins wherever a new one ends.
#[test]
fn old_records_of_a_recycled_file_never_show() {
    for extra in 0..8 {
        let (disk, mut writer) = fresh();
        let mut frames = fill(&mut writer, 12);
        for round in 0..5 {
            let newest = writer.end().segment;
            writer.journal().trim(at(newest)).unwrap();
            frames.retain(|frame| frame.position.segment == newest);
            frames.extend(fill(&mut writer, extra + round));
            assert_eq!(held(writer.journal()), frames);
            let recovered = open(&disk);
            assert_eq!(recovered.torn, None, "old bytes are no torn tail");
            writer = recovered.writer;
            assert_eq!(held(writer.journal()), frames);
        }
    }
}

#[test]
fn a_reader_behind_the_trimmed_place_is_told() {
    let (_disk, mut writer) = fresh();
    let frames = fill(&mut writer, 10);
    let mut reader = writer.journal().reader(Position::default());
    assert_eq!(reader.next_frame().unwrap().unwrap().position, frames[0].position, "from the oldest");
    let stale = reader.position();
    writer.journal().trim(at(3)).unwrap();
    fill(&mut writer, 12);
    assert!(matches!(reader.next_frame(), Err(JournalError::Trimmed { .. })), "its file holds another segment now");
    let mut late = writer.journal().reader(stale);
    assert!(matches!(late.next_frame(), Err(JournalError::Trimmed { .. })), "never a later frame in silence");
    let mut from_oldest = writer.journal().reader(Position::default());
    assert_eq!(from_oldest.next_frame().unwrap().unwrap().position, frames[8].position);
}

#[test]
fn power_may_go_at_any_moment_of_a_trim() {
    for effects in 0.. {
        let (disk, mut writer) = fresh();
        let frames = fill(&mut writer, 22);
        disk.power_off_after(effects);
        let done = writer.journal().trim(at(5)).is_ok();
        for seed in 0..10 {
            let disk = disk.fork().crash(seed);
            let mut writer = open(&disk).writer;
            let found = held(writer.journal());
            assert!(found.len() >= 6 && frames.ends_with(&found), "{effects} effects, seed {seed}: {found:?}");
            let more = fill(&mut writer, 9);
            assert_eq!(reopened(&disk), [found, more].concat());
        }
        if done {
            break;
        }
    }
}

/// The file has its other name, or is gone, and that is not yet durable: what is tried again finds it so.
#[test]
fn a_trim_that_could_not_be_made_durable_is_done_by_the_next() {
    // The first becomes a spare; the third is removed.
    for (passed, gone) in [(0, 0), (2, 8)] {
        let (disk, mut writer) = fresh();
        let frames = fill(&mut writer, 22);
        let journal = Arc::clone(writer.journal());
        disk.fail_folder_sync_after(passed);
        journal.trim(at(5)).unwrap_err();
        assert_eq!(held(&journal), frames[gone..], "nothing is gone that was not said to be");
        journal.trim(at(5)).unwrap();
        assert_eq!((journal.oldest(), held(&journal)), (at(5), frames[16..].to_vec()));
        for seed in 0..10 {
            assert_eq!(reopened(&disk.fork().crash(seed)), frames[16..], "seed {seed}");
        }
        let more = fill(&mut writer, 9);
        assert_eq!(reopened(&disk), [&frames[16..], &more].concat());
    }
}

/// A pair may lack more than the journal still has; that it lacks less than that is never said.
#[test]
fn bytes_from_a_place_that_is_trimmed_are_those_from_the_oldest() {
    let (_disk, mut writer) = fresh();
    let frames = fill(&mut writer, 14);
    let journal = Arc::clone(writer.journal());
    journal.trim(at(3)).unwrap();
    let end = journal.durable_end().position;
    let from_oldest = journal.bytes_between(journal.oldest(), end);
    assert!(from_oldest > SEGMENT_BYTES, "{from_oldest}");
    // The last one of its segment.
    assert_eq!(journal.bytes_between(frames[7].position, end), from_oldest);
    assert_eq!(journal.bytes_between(Position::default(), end), from_oldest);
    assert_eq!(journal.bytes_between(frames[0].position, frames[7].position), 0);
}

/// What a kill has left of a rename is durable before anything counts on it.
#[test]
fn a_kill_in_the_middle_of_a_trim_or_of_a_new_segment_and_a_loss_of_power_behind_it_cost_nothing() {
    let append = |writer: &mut Writer, synced: &mut Vec<Held>| -> Result<(), JournalError> {
        for _ in 0..6 {
            let frame = writes(writer.tip(), 1, QUARTER);
            let position = writer.append(&frame)?;
            writer.sync()?;
            synced.push(Held { position, bytes: frame.into() });
        }
        Ok(())
    };
    for first in 0.. {
        let (disk, mut writer) = fresh();
        fill(&mut writer, 11);
        disk.power_off_after(first);
        let trimmed = writer.journal().trim(at(3));
        let whole = trimmed.and_then(|_| append(&mut writer, &mut Vec::new())).is_ok();
        let killed = disk.outlive();
        for second in 0.. {
            let disk = killed.fork();
            let mut writer = open(&disk).writer;
            let mut synced = held(writer.journal());
            disk.power_off_after(second);
            let done = append(&mut writer, &mut synced).is_ok();
            for seed in 0..6 {
                let found = reopened(&disk.fork().crash(seed));
                assert!(found.starts_with(&synced), "{first} effects, then {second}, seed {seed}: {found:?}");
            }
            if done {
                break;
            }
        }
        if whole {
            break;
        }
    }
}

#[test]
fn volumes_go_on_only_from_a_place_the_journal_still_has() {
    let (disk, mut writer) = fresh();
    let frames = fill(&mut writer, 14);
    writer.journal().trim(at(3)).unwrap();
    let journal = Arc::clone(writer.journal());
    let end = journal.durable_end();
    for held in [Position::default(), at(3), frames[9].position, end.position] {
        journal.check_goes_on_from(held, end.seq).unwrap();
    }
    let early = journal.check_goes_on_from(frames[3].position, Seq(4)).unwrap_err();
    assert!(matches!(early, JournalError::BeginsLate { oldest: 3, .. }) && early.is_damage(), "{early}");
    // The newest record is lost.
    let path = folder().join(names(&disk).pop().unwrap());
    disk.flip_bit(&path, frames[13].position.offset * 8).unwrap();
    let shorter = Arc::clone(open(&disk).writer.journal());
    shorter.check_goes_on_from(frames[12].position, Seq(13)).unwrap();
    let lost = shorter.check_goes_on_from(end.position, end.seq).unwrap_err();
    assert!(matches!(lost, JournalError::EndsEarly { .. }) && lost.is_damage(), "{lost}");
    // All of it is lost.
    let other = Arc::clone(open(&MemoryDisk::new()).writer.journal());
    assert!(other.check_goes_on_from(end.position, Seq(0)).is_err());
}

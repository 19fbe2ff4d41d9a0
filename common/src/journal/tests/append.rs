//! What goes in comes out, when it is durable and not before.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::storage::filter::{self, Filter};

#[test]
fn what_was_synced_is_read_back_across_segments() {
    let (disk, mut writer) = fresh();
    let frames = fill(&mut writer, 14);
    assert_eq!(frames[13].position.segment, 4, "four to a segment");
    assert_eq!(held(writer.journal()), frames);
    assert_eq!(reopened(&disk), frames);
}

#[test]
fn frames_of_every_kind_come_back() {
    let (disk, mut writer) = fresh();
    let mut frames = Vec::new();
    for round in 0..3 {
        for make in [marker, role, |tip: &Tip| writes(tip, 3, 700), |tip: &Tip| writes(tip, 1, 0)] {
            let frame = make(writer.tip());
            frames.push(append(&mut writer, frame));
        }
        let start_seq = writer.tip().seq.0 + 100;
        let frame = copy_begin(writer.tip(), start_seq, [round; 16]);
        frames.push(append(&mut writer, frame));
        assert_eq!(writer.tip().seq, Seq(start_seq), "the history goes on where the copy began");
        let frame = regions(writer.tip(), 900);
        frames.push(append(&mut writer, frame));
        let end = ControlRecord::CopyEnd { copy: 1, marker: writer.tip().marker.0 + 1 };
        let frame = control(writer.tip(), &end);
        frames.push(append(&mut writer, frame));
    }
    writer.sync().unwrap();
    assert_eq!(writer.tip().generation, Generation(3));
    assert_eq!(held(writer.journal()), frames);
    assert_eq!(reopened(&disk), frames);
}

#[test]
fn a_frame_larger_than_the_copy_buffer_comes_back() {
    let disk = MemoryDisk::new();
    let large = JournalOptions { segment_bytes: 1 << 20, capacity_bytes: 8 << 20 };
    let open = || {
        let disk = Arc::new(disk.clone());
        super::super::open(disk, &folder(), GROUP, large, None, &mut |_, _, _| {}).unwrap().writer
    };
    let mut writer = open();
    let sizes = [100, 130 << 10, 500 << 10, 400 << 10, (128 << 10) - 128 - 24 - 24 - 16];
    let mut frames = Vec::new();
    for size in sizes {
        let frame = writes(writer.tip(), 1, size);
        frames.push(append(&mut writer, frame));
    }
    writer.sync().unwrap();
    assert_eq!(held(writer.journal()), frames);
    assert_eq!(held(open().journal()), frames);
}

#[test]
fn readers_see_the_durable_end_only() {
    let (_disk, mut writer) = fresh();
    let mut reader = writer.journal().reader(Position::default());
    let frame = writes(writer.tip(), 1, 100);
    let first = append(&mut writer, frame);
    assert!(reader.next_frame().unwrap().is_none());
    writer.sync().unwrap();
    let frame = writes(writer.tip(), 1, 100);
    append(&mut writer, frame);
    let read = reader.next_frame().unwrap().unwrap();
    assert_eq!((read.position, read.bytes), (first.position, first.bytes));
    assert!(reader.next_frame().unwrap().is_none(), "the second is not durable");
    assert_eq!(reader.position(), read.next);
}

#[test]
fn headers_are_where_the_frames_are() {
    let (_disk, mut writer) = fresh();
    fill(&mut writer, 9);
    let mut frames = writer.journal().reader(Position::default());
    let mut headers = writer.journal().reader(Position::default());
    while let Some(frame) = frames.next_frame().unwrap() {
        let (record, header) = headers.next_header().unwrap().unwrap();
        assert_eq!(header, frame.header);
        assert_eq!((headers.position(), record.segment), (frame.next, frame.position.segment));
        let at = writer.journal().reader(record).next_frame().unwrap().unwrap();
        assert_eq!(at.position, frame.position, "a header's place is where a reader can begin");
    }
    assert!(headers.next_header().unwrap().is_none());
}

#[test]
fn the_durable_end_is_told_to_threads_and_tasks() {
    let (_disk, mut writer) = fresh();
    let journal = Arc::clone(writer.journal());
    let mut watch = journal.watch_durable();
    watch.mark_unchanged();
    let before = journal.durable_end().position;
    let waiter = std::thread::spawn(move || {
        journal.wait_durable(before, Duration::from_secs(60));
        journal.durable_end()
    });
    fill(&mut writer, 1);
    let end = waiter.join().unwrap();
    assert_eq!((end.seq, end.position), (Seq(1), writer.end()));
    assert!(watch.has_changed().unwrap());
    assert_eq!(*watch.borrow_and_update(), end);
    writer.sync().unwrap();
    assert!(!watch.has_changed().unwrap(), "nothing was appended");
}

#[test]
fn recovery_shows_every_frame_and_the_tip() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 6);
    let frame = marker(writer.tip());
    append(&mut writer, frame);
    writer.sync().unwrap();
    let mut seen = Vec::new();
    let recovered = super::super::open(Arc::new(disk), &folder(), GROUP, options(), None, &mut |at, header, record| {
        seen.push((at, header.last_seq, record.cloned()));
    });
    let recovered = recovered.unwrap();
    assert_eq!(seen.len(), 7);
    let read = recovered.writer.journal().reader(seen[4].0).next_frame().unwrap().unwrap();
    assert_eq!(read.header.last_seq, Seq(5), "a place shown is where a reader can begin");
    assert!(matches!(&seen[6].2, Some(ControlRecord::Marker(marker)) if marker.number == 1));
    assert_eq!((recovered.oldest, recovered.torn), (Tip::default(), None));
    assert_eq!(recovered.writer.tip(), writer.tip());
    assert_eq!(recovered.writer.end(), writer.end());
}

#[test]
fn a_reopened_journal_goes_on_in_the_same_segment() {
    let (disk, mut writer) = fresh();
    let mut frames = fill(&mut writer, 2);
    for _ in 0..5 {
        let mut writer = open(&disk).writer;
        frames.extend(fill(&mut writer, 2));
    }
    assert_eq!(frames.last().unwrap().position.segment, 3);
    assert_eq!(reopened(&disk), frames);
    assert_eq!(names(&disk).len(), 3);
}

#[test]
fn stored_bytes_are_read_by_place() {
    let (_disk, mut writer) = fresh();
    let frames = fill(&mut writer, 9);
    let mut buffer = vec![0; 100];
    let at = Position { offset: frames[8].position.offset + 50, ..frames[8].position };
    assert!(writer.journal().read_stored(at, &mut buffer).unwrap());
    assert_eq!(buffer, frames[8].bytes[50..150]);
    writer.journal().trim(at).unwrap();
    assert!(!writer.journal().read_stored(frames[0].position, &mut buffer).unwrap(), "trimmed");
}

#[test]
fn a_reader_in_no_hurry_waits_for_company_but_not_behind_a_marker() {
    let (_disk, mut writer) = fresh();
    let journal = Arc::clone(writer.journal());
    let end = journal.durable_end().position;
    let frame = writes(writer.tip(), 1, 100);
    append(&mut writer, frame);
    writer.sync().unwrap();
    let clock = SystemClock::new();
    journal.wait_for_company(end, Duration::ZERO, Duration::from_millis(30));
    assert!(clock.monotonic() >= Duration::from_millis(30), "waited {:?} only", clock.monotonic());
    let waiting = Arc::clone(&journal);
    let long = Duration::from_secs(600);
    let waiter = std::thread::spawn(move || waiting.wait_for_company(end, long, long));
    let frame = marker(writer.tip());
    append(&mut writer, frame);
    writer.sync().unwrap();
    waiter.join().unwrap();
    journal.wait_for_company(end, long, long);
    let end = journal.durable_end().position;
    fill(&mut writer, 14);
    journal.wait_for_company(end, long, long);
}

/// Nothing comes any more, and whoever follows the journal must not burn a processor while it waits to be stopped.
#[test]
fn a_poisoned_journal_is_waited_for_like_any_other() {
    let (disk, mut writer) = fresh();
    let frame = writes(writer.tip(), 1, 100);
    append(&mut writer, frame);
    disk.fail_next_sync(std::io::ErrorKind::Other);
    writer.sync().unwrap_err();
    let journal = Arc::clone(writer.journal());
    let end = journal.durable_end().position;
    let clock = SystemClock::new();
    journal.wait_durable(end, Duration::from_millis(30));
    assert!(clock.monotonic() >= Duration::from_millis(30), "waited {:?} only", clock.monotonic());
    let waiter = std::thread::spawn(move || journal.wait_durable(end, Duration::from_secs(600)));
    while !waiter.is_finished() {
        writer.journal().wake();
    }
    waiter.join().unwrap();
}

/// A disk whose folders can be listed for a while.
#[derive(Default)]
struct Unlisted {
    refuses: AtomicBool,
}

impl Filter for Unlisted {
    fn before_list(&self, _folder: &Path) -> io::Result<()> {
        let refuses = self.refuses.load(Ordering::Acquire);
        if refuses { Err(io::Error::other("it cannot be listed")) } else { Ok(()) }
    }
}

/// Once, for a moment, and the journal took nothing more until a restart.
#[test]
fn segments_follow_each_other_though_the_folder_cannot_be_listed() {
    let (memory, unlisted) = (MemoryDisk::new(), Arc::new(Unlisted::default()));
    let disk = filter::disk(Arc::new(memory.clone()), &unlisted);
    let opened = super::super::open(disk, &folder(), GROUP, options(), None, &mut |_, _, _| {});
    let mut writer = opened.unwrap().writer;
    unlisted.refuses.store(true, Ordering::Release);
    let frames = fill(&mut writer, 10);
    writer.journal().trim(Position { segment: 2, offset: 4096 }).unwrap();
    let frames = [&frames[4..], &fill(&mut writer, 10)].concat();
    assert_eq!(held(writer.journal()), frames);
    assert_eq!(reopened(&memory), frames);
}

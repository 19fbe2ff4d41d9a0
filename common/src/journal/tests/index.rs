//! The index of what a journal has and the volumes do not: read on as the journal grows, or all at once.

use super::cut::journal;
use super::*;
use crate::limits::{FRAME_EXTENTS_MAX, INDEX_RANGES_MAX};
use crate::overlay::location::locations;
use crate::overlay::unapplied::{Indexed, Spill, Unapplied};
use crate::record::FrameView;

/// What the index says of everything that these journals write.
fn known(index: &Unapplied) -> String {
    let all = Extent { volume: VolumeIndex(1), offset: 0, length: 2 << 30 };
    format!("{:?}", index.look(all).pieces().unwrap())
}

fn of_frames(frames: &[Held]) -> Unapplied {
    let mut index = Unapplied::default();
    for frame in frames {
        let view = FrameView::new(&frame.bytes).unwrap();
        locations(&view, frame.position).for_each(|(extent, location)| index.insert(extent, location));
    }
    index
}

#[test]
fn it_goes_on_where_it_stopped_and_is_never_used_beyond_its_place() {
    let (disk, frames, places) = journal();
    let spill = Spill::new(Arc::new(disk.clone()), "/journal.index".into(), 2);
    let journal = Arc::clone(open(&disk).writer.journal());
    let mut growing = Indexed::default();
    for (count, place) in places.iter().enumerate() {
        growing.go_on(&journal, *place, &spill).unwrap();
        let mut at_once = Indexed::default();
        at_once.go_on(&journal, *place, &spill).unwrap();
        assert!(growing.up_to() <= *place);
        let at_once = at_once.unless_beyond(*place).into_index();
        assert!(at_once.in_memory() <= 2, "{} ranges in memory", at_once.in_memory());
        assert_eq!(known(&at_once), known(&of_frames(&frames[..count])), "up to frame {count}");
    }
    assert_eq!(growing.up_to(), *places.last().unwrap());
    let before_the_last = places[places.len() - 2];
    let mut cut = growing.unless_beyond(before_the_last);
    assert_eq!(cut.up_to(), Position::default(), "begun anew");
    cut.go_on(&journal, before_the_last, &spill).unwrap();
    assert_eq!(known(&cut.into_index()), known(&of_frames(&frames[..frames.len() - 1])));
}

/// What was read ahead is taken over wherever it begins, in memory and in runs, over all or nothing of what lies before it.
#[test]
fn one_that_was_read_ahead_goes_on_top_of_what_it_begins_behind() {
    let (disk, frames, places) = journal();
    let journal = Arc::clone(open(&disk).writer.journal());
    let all = known(&of_frames(&frames));
    let begins = std::iter::once(journal.reader(Position::default()).position()).chain(places.iter().copied());
    for begin in begins {
        for (ranges_max, ahead_max) in [(2, 2), (2, 1000), (1000, 2), (1000, 1000)] {
            let spill = |ranges_max| Spill::new(Arc::new(disk.clone()), "/journal.index".into(), ranges_max);
            let mut indexed = Indexed::default();
            indexed.go_on(&journal, begin, &spill(ranges_max)).unwrap();
            let mut ahead = Indexed::from(begin);
            ahead.go_on(&journal, *places.last().unwrap(), &spill(ahead_max)).unwrap();
            indexed.adopt(ahead, &spill(ranges_max)).unwrap();
            assert_eq!(indexed.up_to(), *places.last().unwrap());
            assert_eq!(
                known(&indexed.into_index()),
                all,
                "read ahead from {begin:?}, {ranges_max} and {ahead_max} ranges"
            );
        }
    }
}

/// The disk takes no runs: who may never need the index has as much of it as memory is for, and a failover, which does, all of it.
#[test]
fn an_index_that_may_never_be_needed_goes_no_further_than_memory_is_for() {
    let (disk, frames, places) = journal();
    let spill = Spill::new(Arc::new(disk.clone()), "/journal.index".into(), 1);
    let journal = Arc::clone(open(&disk).writer.journal());
    let (before, end) = (places[places.len() - 2], places[places.len() - 1]);
    disk.limit_space(Some(0));
    let mut indexed = Indexed::default();
    assert!(!indexed.go_on_within(&journal, end, &spill).unwrap());
    let (in_memory, up_to) = (indexed.ranges().0, indexed.up_to());
    assert!((3..=4).contains(&in_memory) && up_to < before, "{in_memory} ranges up to {up_to:?}");
    for to in [end, before, end] {
        assert!(!indexed.go_on_within(&journal, to, &spill).unwrap());
        assert_eq!((indexed.ranges().0, indexed.up_to()), (in_memory, up_to));
    }
    indexed.go_on(&journal, end, &spill).unwrap();
    assert_eq!((indexed.up_to(), known(&indexed.into_index())), (end, known(&of_frames(&frames))));

    disk.limit_space(None);
    let mut indexed = Indexed::default();
    assert!(indexed.go_on_within(&journal, end, &spill).unwrap());
    assert!(indexed.ranges().0 <= 1, "{:?}", indexed.ranges());
    assert_eq!(known(&indexed.into_index()), known(&of_frames(&frames)));
}

/// With the bound that groups have: a backlog of more ranges than that, as a copy's slow disk leaves it, goes to the disk as it is indexed, all of
/// it is found, and what is written takes nothing any more.
#[test]
fn a_backlog_of_more_ranges_than_memory_is_for_is_found_whole_in_bounded_memory() {
    const EACH: u64 = FRAME_EXTENTS_MAX as u64;
    const FRAMES: u64 = 72;
    const RANGES: u64 = FRAMES * EACH;
    const _: () = assert!(RANGES > INDEX_RANGES_MAX as u64 + EACH);
    const APART: u64 = 8192;
    let disk = MemoryDisk::new();
    let options = JournalOptions { segment_bytes: 1 << 20, capacity_bytes: 64 << 20 };
    let opened = super::super::open(Arc::new(disk.clone()), &folder(), GROUP, options, None, &mut |_, _, _| {});
    let mut writer = opened.unwrap().writer;
    let journal = Arc::clone(writer.journal());
    let spill = Spill::new(Arc::new(disk), "/journal.index".into(), INDEX_RANGES_MAX);
    let mut indexed = Indexed::default();
    for frame in 0..FRAMES {
        let mut builder = FrameBuilder::new();
        for number in frame * EACH..(frame + 1) * EACH {
            // Scattered, each once, and none beside another.
            let offset = number * 40_507 % RANGES * APART;
            builder.push_zero(Extent { volume: VolumeIndex(1), offset, length: 4096 }, false);
        }
        let bytes = builder.finish(FrameKind::Writes, &place(writer.tip(), EACH));
        writer.append(&bytes).unwrap();
        writer.sync().unwrap();
        indexed.go_on(&journal, writer.end(), &spill).unwrap();
        let (in_memory, on_disk) = indexed.ranges();
        assert!(in_memory <= INDEX_RANGES_MAX, "{in_memory} ranges are in memory behind frame {frame}");
        assert_eq!((in_memory + on_disk) as u64, (frame + 1) * EACH);
    }
    assert!(indexed.ranges().1 >= INDEX_RANGES_MAX, "{:?}", indexed.ranges());
    let all = Extent { volume: VolumeIndex(1), offset: 0, length: RANGES * APART };
    let pieces = indexed.look(all).pieces().unwrap();
    let found: Vec<_> = pieces.iter().filter(|piece| piece.location.is_some()).map(|piece| piece.extent).collect();
    assert_eq!(found.len() as u64, RANGES);
    assert!((0..).zip(&found).all(|(number, extent)| (extent.offset, extent.length) == (number * APART, 4096)));
    indexed.forget(&[all], writer.end());
    assert_eq!(indexed.ranges(), (0, 0));
}

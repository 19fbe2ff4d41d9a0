use std::path::PathBuf;

use tidemark_common::catalog::{Catalog, GroupRecord};
use tidemark_common::clock::SystemClock;
use tidemark_common::ids::GroupId;
use tidemark_common::journal::{self, JournalOptions};
use tidemark_common::record::{ControlRecord, FrameBuilder, FrameKind, MarkerRecord, Place};
use tidemark_common::storage::memory::MemoryDisk;

use super::*;

const GROUP: GroupId = GroupId([7; 16]);

fn differences(pair: PairRecord) -> Differences {
    let catalog = Catalog::open_simulated(&MemoryDisk::new(), "records".as_ref(), &SystemClock::new()).unwrap();
    let group = GroupRecord { pairs: vec![pair.clone()], ..GroupRecord::new("g", [7; 16]) };
    catalog.put_group(&group).unwrap();
    Differences::open(Arc::new(GroupKeeper::new(catalog, group)), &pair)
}

/// Copy 7 had arrived up to a place when its frames were given up, and its end is forgotten.
#[test]
fn a_side_that_ended_the_copy_whose_end_is_forgotten_is_a_base() {
    let differences = differences(PairRecord { counted: Some((7, 1, 65536)), ..PairRecord::new("far", 0) });
    let says = |copy, copy_offset, permitted_marker| Remote {
        copy,
        copy_volume: 1,
        copy_offset,
        permitted_marker,
        ..Remote::default()
    };
    assert!(differences.can_stand(None, &says(0, 0, 8)), "what is behind the begin is permitted with the end");
    assert!(!differences.can_stand(None, &says(0, 0, 7)), "it was put back to before the copy");
    assert!(differences.can_stand(None, &says(7, 65536, 6)), "it stands in the copy");
    assert!(!differences.can_stand(None, &says(7, 0, 6)), "it was put back to earlier in the copy");
}

/// Copy 7 had arrived up to a place when it was taken back, and copy 9 began over that. A restart here forgets how far that one has arrived when
/// it is taken back, too: the pair waited for a person, though the other side stands where it is known to stand.
#[test]
fn a_side_in_a_copy_that_was_taken_back_has_what_the_copy_before_it_had_brought() {
    let copy = CopyRecord { number: 9, direct: false, ..CopyRecord::first(REGION_BYTES) };
    let pair = PairRecord { counted: Some((7, 1, 65536)), copy: Some(copy), ..PairRecord::new("far", 0) };
    let keeper = Arc::clone(&differences(pair.clone()).keeper);
    let mut batch = Batch::new();
    let inner = Inner { bitmap: everything(&[(VolumeIndex(1), REGION_BYTES)]), ..Inner::default() };
    batch.put_bitmap(keeper.id(), "far", &inner.encode()).unwrap();
    keeper.update_with(batch, |_| {}).unwrap();
    let differences = Differences::open(Arc::clone(&keeper), &pair);
    differences.mark(&Bitmap::default(), None).unwrap();
    assert!(differences.copy().is_none());
    let says = |copy, copy_volume, copy_offset, permitted_marker| Remote {
        copy,
        copy_volume,
        copy_offset,
        permitted_marker,
        ..Remote::default()
    };
    assert!(differences.can_stand(None, &says(9, 0, 0, 6)), "it stands in that copy");
    assert!(differences.can_stand(None, &says(9, 1, 4096, 6)));
    assert!(differences.can_stand(None, &says(0, 0, 0, 10)), "it has ended it");
    assert!(differences.can_stand(None, &says(7, 1, 65536, 6)), "it never heard of it");
    assert!(!differences.can_stand(None, &says(7, 1, 0, 6)), "it was put back to before that");
    assert!(!differences.can_stand(None, &says(5, 2, 0, 4)));
}

#[test]
fn what_differs_of_a_volume_that_left_is_forgotten_and_yet_a_copy_is_made() {
    let sizes = [(VolumeIndex(1), 4 * REGION_BYTES), (VolumeIndex(2), 64 * REGION_BYTES)];
    let members = everything(&sizes[..1]);
    for (marked, left) in [(&sizes[..], 4), (&sizes[1..], 1)] {
        let differences = differences(PairRecord::new("far", 0));
        differences.keep_only(&members).unwrap();
        assert!(differences.are_none(), "nothing differed");
        differences.mark(&everything(marked), None).unwrap();
        differences.keep_only(&members).unwrap();
        assert_eq!(differences.bytes(), left * REGION_BYTES);
        assert!(!differences.are_none() && differences.copy().is_none());
    }
    // A first copy that has not begun says what is left of it, and one that has begun is as it is.
    for (number, left) in [(0, 4), (7, 68)] {
        let copy = CopyRecord { number, ..CopyRecord::first(68 * REGION_BYTES) };
        let keeper = {
            let differences = differences(PairRecord::new("far", 0));
            differences.mark(&everything(&sizes), None).unwrap();
            Arc::clone(&differences.keeper)
        };
        let pair = PairRecord { copy: Some(copy), ..PairRecord::new("far", 0) };
        keeper.update(|group| group.pairs = vec![pair.clone()]).unwrap();
        let differences = Differences::open(keeper, &pair);
        differences.keep_only(&members).unwrap();
        assert_eq!(differences.bytes(), left * REGION_BYTES);
        assert_eq!(differences.copy().unwrap().total_bytes, left * REGION_BYTES);
    }
}

/// Its end was not permitted yet, and what is given up then may be nothing but markers.
#[test]
fn a_copy_whose_regions_had_all_arrived_is_not_over_when_it_is_taken_back() {
    for direct in [false, true] {
        let differences = differences(PairRecord::new("far", 0));
        differences.mark(&everything(&[(VolumeIndex(1), 4 * REGION_BYTES)]), None).unwrap();
        let copy = CopyRecord { number: 7, direct, ..CopyRecord::first(4 * REGION_BYTES) };
        let pair = PairRecord { copy: Some(copy), ..PairRecord::new("far", 0) };
        differences.keeper.update(|group| group.pairs = vec![pair]).unwrap();
        differences.mark(&Bitmap::default(), Some((7, (VolumeIndex(2), 0)))).unwrap();
        assert!(!differences.are_none(), "there is a copy to make");
        assert_eq!(differences.bytes(), REGION_BYTES);
        let pair = differences.keeper.pair("far").unwrap();
        assert_eq!((pair.copy.is_some(), pair.counted), (direct, Some((7, 2, 0))));
        Differences::open(Arc::clone(&differences.keeper), &pair).check().unwrap();
    }
}

/// Three frames, the last of which cannot be read: a copy that has the first two stands before it.
#[test]
fn the_end_of_what_can_be_read_is_a_point() {
    for is_flipped in [true, false] {
        let disk = MemoryDisk::new();
        let options = JournalOptions { segment_bytes: 512 << 10, capacity_bytes: 4 << 20 };
        let opened =
            journal::open(Arc::new(disk.clone()), "/journal".as_ref(), GROUP, options, None, &mut |_, _, _| {});
        let mut writer = opened.unwrap().writer;
        let (from, mut points, mut last) = (writer.end(), Vec::new(), writer.end());
        for number in 1..=3 {
            let tip = *writer.tip();
            points.push((tip.seq, tip.chain));
            let mut builder = FrameBuilder::new();
            let data: Vec<u8> = (0..64_u32 << 10).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
            let extent = Extent { volume: VolumeIndex(1), offset: number << 16, length: data.len() as u64 };
            builder.push_data(extent, &data);
            let place = Place { first_seq: tip.seq.next(), last_seq: tip.seq.next(), ..Place::at(GROUP, &tip) };
            last = writer.append(&builder.finish(FrameKind::Writes, &place)).unwrap();
        }
        let end = writer.sync().unwrap().position;
        writer.journal().rest();
        let segment = PathBuf::from(format!("/journal/{:016x}.segment", last.segment));
        if is_flipped {
            disk.flip_bit(&segment, (last.offset + 40) * 8).unwrap();
        } else {
            disk.break_sector(&segment, last.offset).unwrap();
        }
        let counted = Counted::between(writer.journal(), from, end, Some(end)).unwrap();
        assert!(counted.damage.is_some());
        assert_eq!(counted.points, points, "flipped: {is_flipped}");
        let (differences, all) = (differences(PairRecord::new("far", 0)), everything(&[(VolumeIndex(1), 4 << 16)]));
        differences.mark(&all, None).unwrap();
        assert!(!differences.were_unread(), "hosts may write everywhere");
        differences.give_up(writer.journal(), (from, end), end, None, &all).unwrap();
        let after_a_restart = Differences::open(Arc::clone(&differences.keeper), &PairRecord::new("far", 0));
        after_a_restart.check().unwrap();
        for known in [&differences, &after_a_restart] {
            assert!(known.were_unread());
            assert!(known.knows(points[2].0, points[2].1) && known.bitmap() == all);
        }
    }
}

/// Hosts wrote nothing while the link was down. The journal no longer has the place where the other side stands: it is told from another
/// history by its point alone, and there must be a copy to bring it on.
#[test]
fn a_pair_that_lacks_nothing_but_markers_is_brought_on_by_a_copy_when_those_are_given_up() {
    let options = JournalOptions { segment_bytes: 512 << 10, capacity_bytes: 4 << 20 };
    let disk = Arc::new(MemoryDisk::new());
    let mut writer = journal::open(disk, "/journal".as_ref(), GROUP, options, None, &mut |_, _, _| {}).unwrap().writer;
    let (from, stands) = (writer.end(), *writer.tip());
    for number in 1..=3 {
        let marker = MarkerRecord { number, boundary_seq: 0, time_ns: 1, freeze_ns: 1, tag: None };
        let frame = ControlRecord::Marker(marker).frame(&Place::at(GROUP, writer.tip())).unwrap();
        writer.append(&frame).unwrap();
    }
    let end = writer.sync().unwrap().position;
    let (differences, all) = (differences(PairRecord::new("far", 0)), everything(&[(VolumeIndex(1), 4 << 16)]));
    differences.give_up(writer.journal(), (end, end), end, None, &all).unwrap();
    assert!(differences.are_none(), "nothing was given up");
    differences.give_up(writer.journal(), (from, end), from, None, &all).unwrap();
    assert!(differences.knows(stands.seq, stands.chain) && !differences.are_none());
    assert_eq!(differences.bytes(), REGION_BYTES);
}

//! What a fold leaves: the same images at the markers that are kept, less space, and one place to stand on each side of it,
//! wherever the power goes.

#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::{FoldRange, Folded};
use super::*;
use crate::limits::MARKER_MAX;
use crate::record::{FoldCheck, FrameHeader, FrameView, view::ExtentKind};

/// A few kilobytes of one volume, as the frames up to a marker make it.
type Image = Vec<u8>;
const BLOCK: u64 = 512;
const BLOCKS: u64 = 32;

/// A write of one or more blocks, or zeroes, other bytes each time.
fn write_at(tip: &Tip, block: u64, blocks: u64, zero: bool) -> Vec<u8> {
    let mut builder = FrameBuilder::new();
    let blocks = blocks.min(BLOCKS - block);
    let extent = Extent { volume: VolumeIndex(1), offset: block * BLOCK, length: blocks * BLOCK };
    if zero {
        builder.push_zero(extent, true);
    } else {
        builder.push_data(extent, &noise(tip, usize::try_from(extent.length).unwrap()));
    }
    builder.finish(FrameKind::Writes, &place(tip, 1)).to_vec()
}

/// The image at every marker held, from what lies before the journal.
fn images(frames: &[Held], base: &Image) -> BTreeMap<u64, Image> {
    let mut image = base.clone();
    let mut at_markers = BTreeMap::new();
    for frame in frames {
        let view = FrameView::verified(&frame.bytes).unwrap();
        if view.header.kind == FrameKind::Control {
            if let ControlRecord::Marker(marker) = ControlRecord::of(&view).unwrap() {
                at_markers.insert(marker.number, image.clone());
            }
            continue;
        }
        let mut raw = Vec::new();
        view.unpack(&mut raw).unwrap();
        for entry in view.extents() {
            let (begin, end) = (entry.extent.offset as usize, entry.extent.end() as usize);
            match entry.kind {
                ExtentKind::Data => {
                    let from = entry.raw_offset as usize;
                    image[begin..end].copy_from_slice(&raw[from..from + end - begin]);
                }
                ExtentKind::Zero { .. } => image[begin..end].fill(0),
            }
        }
    }
    at_markers
}

fn blank() -> Image {
    vec![0xee; (BLOCK * BLOCKS) as usize]
}

/// Markers between writes that mostly go over each other, through several segments.
fn busy(writer: &mut Writer, rounds: u64) {
    for round in 0..rounds {
        for write in 0..6 {
            let frame = write_at(writer.tip(), (round * 7 + write * 3) % 8, 3, write == 4);
            append(writer, frame);
        }
        let frame = marker(writer.tip());
        append(writer, frame);
        writer.sync().unwrap();
    }
}

fn everything(writer: &Writer) -> FoldRange {
    FoldRange { after: Position::default(), before: writer.end(), bytes_max: 1 << 20 }
}

fn fold_all(writer: &Writer) -> Vec<Folded> {
    let mut range = everything(writer);
    let mut all = Vec::new();
    while let Some(folded) = writer.journal().fold(range).unwrap() {
        range.after = folded.to;
        all.push(folded);
    }
    all
}

/// Every image that is left is what it was.
fn assert_kept(before: &BTreeMap<u64, Image>, after: &BTreeMap<u64, Image>) {
    for (number, image) in after {
        assert!(before.get(number) == Some(image), "marker {number} has another image");
    }
}

#[test]
fn what_is_left_is_smaller_and_every_marker_left_has_its_image() {
    let (disk, mut writer) = fresh();
    busy(&mut writer, 40);
    let journal = Arc::clone(writer.journal());
    let before = images(&held(&journal), &blank());
    let (free, used) = (journal.free_bytes(), disk.used_bytes());
    let folds = fold_all(&writer);
    assert_eq!(folds.len(), 1, "{folds:?}");
    let frames = held(&journal);
    let after = images(&frames, &blank());
    assert_kept(&before, &after);
    assert_eq!(before.len() as u64 - folds[0].markers, after.len() as u64);
    assert!(after.len() < before.len() / 3, "{} of {} markers", after.len(), before.len());
    assert!(journal.free_bytes() > free + 3 * SEGMENT_BYTES, "{} and {free}", journal.free_bytes());
    assert!(disk.used_bytes() < used - 3 * SEGMENT_BYTES);
    assert!(folds[0].bytes_after < folds[0].bytes_before / 3);
    assert_eq!(reopened(&disk), frames);
    busy(&mut writer, 3);
    let recovered = open(&disk);
    assert_eq!(recovered.writer.tip(), writer.tip());
    assert_kept(&images(&held(&journal), &blank()), &images(&reopened(&disk), &blank()));
}

#[test]
fn what_was_folded_can_be_folded_again_and_trimmed() {
    let (disk, mut writer) = fresh();
    let mut before = BTreeMap::new();
    for _ in 0..4 {
        busy(&mut writer, 15);
        before.append(&mut images(&held(writer.journal()), &blank()));
        assert!(!fold_all(&writer).is_empty());
        assert_kept(&before, &images(&reopened(&disk), &blank()));
    }
    let journal = writer.journal();
    assert!(journal.segments() < 6, "{} segments", journal.segments());
    journal.trim(writer.end()).unwrap();
    assert_eq!(journal.segments(), 1);
    assert_eq!(names(&disk).iter().filter(|name| name.ends_with(".segment")).count(), 1);
    assert_eq!(reopened(&disk), held(journal));
}

/// What is left to read of it is in frames that lie before him now.
#[test]
fn who_reads_what_is_folded_meanwhile_is_told() {
    // In the first segment, whose number a folded one takes over, and in one that has gone.
    for frames in [1, 30] {
        let (_disk, mut writer) = fresh();
        busy(&mut writer, 40);
        let mut reader = writer.journal().reader(Position::default());
        (0..frames).for_each(|_| assert!(reader.next_frame().unwrap().is_some()));
        assert_eq!(fold_all(&writer).len(), 1);
        let told = std::iter::from_fn(|| reader.next_frame().transpose()).find_map(Result::err);
        assert!(matches!(told, Some(JournalError::Trimmed { .. })), "{frames}: {told:?}");
    }
}

#[test]
fn who_stands_before_a_fold_or_at_its_end_goes_on_and_nobody_finds_himself_inside() {
    let (_disk, mut writer) = fresh();
    busy(&mut writer, 40);
    let journal = Arc::clone(writer.journal());
    let all = held(&journal);
    fold_all(&writer);
    let (mut found, mut inside) = (0, 0);
    for frame in &all {
        let header = FrameHeader::decode(&frame.bytes).unwrap();
        let Some(mut reader) = journal.reader_at_chain(header.seq_before(), header.chain).unwrap() else {
            inside += 1;
            continue;
        };
        found += 1;
        // What comes is what a receiver that stands there takes, to the end.
        let mut tip = Tip {
            seq: header.seq_before(),
            marker: MarkerNumber(0),
            generation: header.generation,
            chain: header.chain,
        };
        let mut check = FoldCheck::default();
        while let Some(next) = reader.next_frame().unwrap() {
            let view = FrameView::verified(&next.bytes).unwrap();
            let control = (next.header.kind == FrameKind::Control).then(|| ControlRecord::of(&view).unwrap());
            check.check(&tip, control.as_ref()).unwrap();
            check.take(&next.header, control.as_ref());
            tip = tip.follow(&next.header).unwrap();
        }
        assert_eq!((tip.seq, tip.chain), (writer.tip().seq, writer.tip().chain));
    }
    assert!(found > 5 && inside > 100, "{found} {inside}");
}

/// A first fold was larger than the next one may be, and its begin is trimmed: what is left tells nobody that all of it is there.
#[test]
fn nothing_is_folded_from_the_middle_of_a_fold() {
    let (_disk, mut writer) = fresh();
    let begin = *writer.tip();
    busy(&mut writer, 40);
    let journal = Arc::clone(writer.journal());
    let first = journal.fold(everything(&writer)).unwrap().unwrap();
    assert!(first.from.segment < first.to.segment, "{first:?}");
    busy(&mut writer, 40);
    let inside = FoldRange { after: first.from, ..everything(&writer) };
    assert!(journal.fold(inside).unwrap().is_some());
    assert!(journal.reader_at_chain(begin.seq, begin.chain).unwrap().is_some());
    assert!(journal.trim(Position { segment: first.from.segment + 1, offset: 0 }).unwrap() > 0);
    assert!(journal.reader_at_chain(begin.seq, begin.chain).unwrap().is_none());
}

#[test]
fn wherever_the_power_goes_the_journal_is_as_before_or_as_after() {
    let (disk, mut writer) = fresh();
    busy(&mut writer, 20);
    let before = held(writer.journal());
    drop(writer);
    let steps = {
        let disk = disk.fork();
        let recovered = open(&disk);
        let begin = disk.effects();
        fold_all(&recovered.writer);
        disk.effects() - begin
    };
    assert!(steps > 10, "{steps} steps");
    let (mut olds, mut news) = (0, 0);
    for step in 0..=steps {
        for seed in 0..4 {
            let disk = disk.fork();
            let recovered = open(&disk);
            disk.power_off_after(step);
            let _ = recovered.writer.journal().fold(everything(&recovered.writer));
            let disk = disk.crash(seed);
            let recovered = open(&disk);
            let after = held(recovered.writer.journal());
            if after == before {
                olds += 1;
            } else {
                news += 1;
                assert_kept(&images(&before, &blank()), &images(&after, &blank()));
                assert!(after.len() < before.len());
            }
            // Nothing is left over, and it can be done again.
            assert!(names(&disk).iter().all(|name| !name.ends_with(".fold")), "{:?}", names(&disk));
            fold_all(&recovered.writer);
            assert_kept(&images(&before, &blank()), &images(&reopened(&disk), &blank()));
        }
    }
    assert!(olds > 0 && news > 0, "{olds} {news}");
}

/// What a fold has replaced and was not tidied up must not be left before a journal that was trimmed behind it: that would not be opened.
#[test]
fn a_folder_that_fails_once_in_a_fold_or_the_trim_behind_it_costs_nothing() {
    let (disk, mut writer) = fresh();
    busy(&mut writer, 20);
    drop(writer);
    let mut failed = 0;
    for passed in 0..12 {
        let disk = disk.fork();
        let mut writer = open(&disk).writer;
        let journal = Arc::clone(writer.journal());
        disk.fail_folder_sync_after(passed);
        let folded = journal.fold(everything(&writer));
        let trimmed = journal.trim(writer.end());
        failed += u32::from(folded.is_err()) + u32::from(trimmed.is_err());
        disk.heal();
        journal.trim(writer.end()).unwrap();
        assert_eq!(journal.segments(), 1, "{passed} passed");
        for seed in 0..4 {
            assert_eq!(reopened(&disk.fork().crash(seed)), held(&journal), "{passed} passed, seed {seed}");
        }
        busy(&mut writer, 20);
        fold_all(&writer);
        assert_eq!(reopened(&disk), held(&journal), "{passed} passed");
        assert!(names(&disk).iter().all(|name| !name.ends_with(".fold")), "{:?}", names(&disk));
    }
    assert!(failed > 2, "{failed} failed");
}

#[test]
fn nothing_is_folded_over_a_change_of_role_or_volumes_or_before_it_is_allowed() {
    let (_disk, mut writer) = fresh();
    busy(&mut writer, 6);
    let frame = role(writer.tip());
    let role = append(&mut writer, frame);
    busy(&mut writer, 20);
    let journal = Arc::clone(writer.journal());
    for folded in fold_all(&writer) {
        assert!(folded.to < role.position || folded.from > role.position, "{folded:?} over {role:?}");
    }
    assert!(held(&journal).contains(&role));
    assert_eq!(journal.fold(FoldRange { after: writer.end(), ..everything(&writer) }).unwrap(), None);
    assert_eq!(journal.fold(FoldRange { before: journal.oldest(), ..everything(&writer) }).unwrap(), None);
}

#[test]
fn what_does_not_shrink_is_left_alone() {
    let (disk, mut writer) = fresh();
    let frames = fill(&mut writer, 20);
    assert_eq!(fold_all(&writer), []);
    assert_eq!(held(writer.journal()), frames);
    assert!(names(&disk).iter().all(|name| !name.ends_with(".fold")));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Write { block: u64, blocks: u64, zero: bool },
    Marker,
    Role,
    Fold { from: usize, bytes_max: u64 },
    Trim,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..BLOCKS, 1..10_u64, proptest::bool::weighted(0.1))
            .prop_map(|(block, blocks, zero)| Step::Write { block, blocks, zero }),
        5 => Just(Step::Marker),
        1 => Just(Step::Role),
        2 => (0_usize..3, 4096_u64..100_000).prop_map(|(from, bytes_max)| Step::Fold { from, bytes_max }),
        1 => Just(Step::Trim),
        1 => Just(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]

    /// Any history, folded anywhere, any number of times.
    #[test]
    fn every_marker_ever_kept_has_the_image_it_had(steps in proptest::collection::vec(step(), 50..400)) {
        let (disk, mut writer) = fresh();
        let mut image = blank();
        let mut oracle = BTreeMap::new();
        // What the journal no longer holds.
        let mut base = blank();
        for step in steps {
            match step {
                Step::Write { block, blocks, zero } => {
                    let frame = write_at(writer.tip(), block, blocks, zero);
                    let held = append(&mut writer, frame);
                    let end = control(writer.tip(), &ControlRecord::Marker(MarkerRecord {
                        number: MARKER_MAX, boundary_seq: 0, time_ns: 0, freeze_ns: 0, tag: None,
                    }));
                    let both = [held, Held { position: writer.end(), bytes: end.into() }];
                    image = images(&both, &image).remove(&MARKER_MAX).unwrap();
                }
                Step::Marker => {
                    let frame = marker(writer.tip());
                    append(&mut writer, frame);
                    oracle.insert(writer.tip().marker.0, image.clone());
                }
                Step::Role => {
                    let frame = role(writer.tip());
                    append(&mut writer, frame);
                }
                Step::Fold { from, bytes_max } => {
                    writer.sync().unwrap();
                    let first = writer.journal().oldest().segment + from as u64;
                    let after = Position { segment: first.saturating_sub(1), offset: 0 };
                    let range = FoldRange { after, bytes_max, ..everything(&writer) };
                    writer.journal().fold(range).unwrap();
                }
                Step::Trim => {
                    writer.sync().unwrap();
                    let journal = Arc::clone(writer.journal());
                    let middle = journal.middle();
                    let all = held(&journal);
                    let gone: Vec<Held> = all.into_iter().filter(|held| held.position < middle).collect();
                    if journal.trim(middle).unwrap() > 0 {
                        let end = control(writer.tip(), &ControlRecord::Marker(MarkerRecord {
                            number: MARKER_MAX, boundary_seq: 0, time_ns: 0, freeze_ns: 0, tag: None,
                        }));
                        let end = Held { position: middle, bytes: end.into() };
                        base = images(&[gone, vec![end]].concat(), &base).remove(&MARKER_MAX).unwrap();
                    }
                }
                Step::Kill => {
                    writer.sync().unwrap();
                    drop(writer);
                    writer = open(&disk).writer;
                }
            }
        }
        writer.sync().unwrap();
        let left = images(&held(writer.journal()), &base);
        for (number, image) in &left {
            prop_assert!(oracle.get(number) == Some(image), "marker {}", number);
        }
        prop_assert_eq!(reopened(&disk), held(writer.journal()));
    }
}

//! Finding the place in a history that another side stands at.

use super::*;
use crate::record::Chain;

/// The tip before each frame and the frame, some segments long.
fn history(writer: &mut Writer) -> Vec<(Tip, Held)> {
    let mut all = Vec::new();
    for round in 0..20 {
        let make: &[fn(&Tip) -> Vec<u8>] = match round % 4 {
            0 => &[marker, |tip| writes(tip, 1, QUARTER)],
            1 => &[role, marker, |tip| writes(tip, 5, 200)],
            2 => &[marker, marker, marker],
            _ => &[|tip| writes(tip, 2, QUARTER)],
        };
        for make in make {
            let tip = *writer.tip();
            let frame = make(&tip);
            all.push((tip, append(writer, frame)));
        }
    }
    writer.sync().unwrap();
    assert!(writer.end().segment >= 3);
    all
}

fn found(journal: &Arc<Journal>, seq: Seq, chain: Chain) -> Option<Position> {
    let reader = journal.reader_at_chain(seq, chain).unwrap();
    reader.map(|mut reader| reader.next_frame().unwrap().map_or_else(|| reader.position(), |frame| frame.position))
}

#[test]
fn every_place_is_found_exactly() {
    let (_disk, mut writer) = fresh();
    let all = history(&mut writer);
    for (tip, frame) in &all {
        assert_eq!(found(writer.journal(), tip.seq, tip.chain), Some(frame.position), "{tip:?}");
    }
    let tip = *writer.tip();
    assert_eq!(found(writer.journal(), tip.seq, tip.chain), Some(writer.end()), "the end is a place");
}

#[test]
fn a_foreign_chain_is_found_nowhere() {
    let (_disk, mut writer) = fresh();
    for (tip, _) in history(&mut writer) {
        let mut chain = tip.chain;
        chain.0[15] ^= 1;
        assert_eq!(found(writer.journal(), tip.seq, chain), None);
    }
    let ahead = Seq(writer.tip().seq.0 + 1);
    assert_eq!(found(writer.journal(), ahead, writer.tip().chain), None, "the chain with another sequence number");
}

#[test]
fn a_trimmed_place_is_found_no_more() {
    let (_disk, mut writer) = fresh();
    let all = history(&mut writer);
    let kept = writer.end().segment - 1;
    writer.journal().trim(Position { segment: kept, offset: 0 }).unwrap();
    for (tip, frame) in &all {
        let expected = (frame.position.segment >= kept).then_some(frame.position);
        assert_eq!(found(writer.journal(), tip.seq, tip.chain), expected, "{frame:?}");
    }
}

#[test]
fn what_is_not_durable_is_found_nowhere() {
    let (_disk, mut writer) = fresh();
    history(&mut writer);
    let frame = writes(writer.tip(), 1, 100);
    append(&mut writer, frame);
    assert_eq!(found(writer.journal(), writer.tip().seq, writer.tip().chain), None);
}

#[test]
fn places_behind_a_copys_begin_are_found() {
    let (_disk, mut writer) = fresh();
    let mut older = history(&mut writer);
    // A copy may also set the sequence number back.
    for (start_seq, chain) in [(1000, [1; 16]), (40, [2; 16])] {
        let frame = copy_begin(writer.tip(), start_seq, chain);
        append(&mut writer, frame);
        let frame = regions(writer.tip(), QUARTER);
        append(&mut writer, frame);
        let newer = history(&mut writer);
        for (tip, frame) in &newer {
            assert_eq!(found(writer.journal(), tip.seq, tip.chain), Some(frame.position), "{tip:?}");
        }
        for (tip, frame) in &older {
            let place = found(writer.journal(), tip.seq, tip.chain);
            assert!(place.is_none_or(|place| place == frame.position), "never another place: {tip:?}");
        }
        older.extend(newer);
    }
}

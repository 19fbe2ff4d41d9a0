//! The oracle judged: legal images pass, and every kind of planted violation is caught.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::history::History;

const VOLUMES: usize = 2;
const BLOCKS: u64 = 16;

/// A run of a correct store: its history and the order in which it captured the writes.
struct Run {
    history: History,
    captured: Vec<WriteId>,
    /// When each capture happened.
    moments: Vec<Tick>,
}

/// Sends, captures and answers at random, up to four writes in flight.
fn run(seed: u64, steps: usize) -> Run {
    let mut random = StdRng::seed_from_u64(seed);
    let mut run = Run { history: History::new(), captured: Vec::new(), moments: Vec::new() };
    let (mut sent, mut unanswered): (Vec<WriteId>, Vec<WriteId>) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        match random.random_range(0..3) {
            0 if sent.len() + unanswered.len() < 4 => sent.extend(send(&mut run, &mut random, &sent, &unanswered)),
            1 if !sent.is_empty() => {
                let id = sent.swap_remove(random.random_range(0..sent.len()));
                run.captured.push(id);
                run.moments.push(run.history.tick());
                unanswered.push(id);
            }
            2 if !unanswered.is_empty() => {
                run.history.acknowledged(unanswered.swap_remove(random.random_range(0..unanswered.len())));
            }
            _ => {}
        }
    }
    run
}

fn send(run: &mut Run, random: &mut StdRng, sent: &[WriteId], unanswered: &[WriteId]) -> Option<WriteId> {
    let (volume, first) = (random.random_range(0..VOLUMES), random.random_range(0..BLOCKS - 2));
    let blocks = random.random_range(1..3);
    let writes = run.history.writes();
    let busy = writes.iter().filter(|write| sent.contains(&write.id) || unanswered.contains(&write.id));
    let free = busy
        .into_iter()
        .all(|write| write.volume != volume || write.range().end <= first || first + blocks <= write.range().start);
    free.then(|| run.history.sending(volume, first, blocks, Kind::Stamp))
}

/// What a store shows that has captured these writes in this order.
fn image_of(writes: &[Write], captured: &[WriteId]) -> Image {
    let mut image = Image::new(vec![vec![Content::Zero; BLOCKS as usize]; VOLUMES]);
    for write in captured.iter().map(|id| &writes[*id as usize - 1]) {
        for block in write.range() {
            *image.block_mut(write.volume, block) = Content::Stamp(write.id);
        }
    }
    image
}

proptest! {
    #[test]
    fn every_moment_of_a_correct_store_is_legal(seed: u64, steps in 10_usize..200, at in 0.0..1.0_f64) {
        let run = run(seed, steps);
        let writes = run.history.writes();
        let count = (run.captured.len() as f64 * at) as usize;
        let image = image_of(&writes, &run.captured[..count]);
        let began = count.checked_sub(1).map_or(0, |last| run.moments[last]);
        let ended = run.moments.get(count).copied().unwrap_or(Tick::MAX);
        let verdict = judge(&writes, &image, Bounds::cut(began, ended));
        prop_assert!(verdict.is_ok(), "{verdict:?}");
        let verdict = verdict.unwrap();
        prop_assert!(run.captured[..count].iter().all(|id| verdict.holds(*id)));
        prop_assert_eq!(verdict.count(), count);
    }

    #[test]
    fn the_end_of_a_correct_store_holds_everything_acked(seed: u64, steps in 10_usize..200) {
        let run = run(seed, steps);
        let writes = run.history.writes();
        let image = image_of(&writes, &run.captured);
        prop_assert!(judge(&writes, &image, Bounds::EVERYTHING_ACKED).is_ok());
    }

    #[test]
    fn a_dropped_write_is_caught(seed: u64, which in 0.0..1.0_f64) {
        let run = run(seed, 200);
        let writes = run.history.writes();
        let acked: Vec<_> = run.captured.iter().filter(|id| writes[**id as usize - 1].acked.is_some()).collect();
        prop_assume!(!acked.is_empty());
        let dropped = *acked[(acked.len() as f64 * which) as usize];
        let kept: Vec<_> = run.captured.iter().copied().filter(|id| *id != dropped).collect();
        let image = image_of(&writes, &kept);
        let visible = image != image_of(&writes, &run.captured);
        prop_assert_eq!(judge(&writes, &image, Bounds::EVERYTHING_ACKED).is_err(), visible);
    }

    #[test]
    fn a_write_applied_too_early_is_caught(seed: u64, at in 0.0..1.0_f64) {
        let run = run(seed, 200);
        let writes = run.history.writes();
        let count = (run.captured.len() as f64 * at) as usize;
        // A missing write that depends on another missing one, and does not hide it by covering it.
        let missing: Vec<_> = run.captured[count..].iter().map(|id| &writes[*id as usize - 1]).collect();
        let early = missing.iter().find(|early| missing.iter().any(|other| depends(early, other) && !covers(early, other)));
        prop_assume!(early.is_some());
        let early = early.map(|write| write.id);
        let order: Vec<_> = run.captured[..count].iter().copied().chain(early).collect();
        prop_assert!(judge(&writes, &image_of(&writes, &order), Bounds::ANY).is_err());
    }
}

fn depends(late: &Write, early: &Write) -> bool {
    early.acked.is_some_and(|acked| acked < late.sent)
}

fn covers(over: &Write, under: &Write) -> bool {
    over.volume == under.volume && under.range().all(|block| over.range().contains(&block))
}

/// Two dependent writes on two volumes: A answered before B was sent.
fn dependent() -> (History, Image) {
    let history = History::new();
    for volume in 0..2 {
        let id = history.sending(volume, 0, 2, Kind::Stamp);
        history.acknowledged(id);
    }
    let image = image_of(&history.writes(), &[1, 2]);
    (history, image)
}

fn violations(history: &History, image: &Image, bounds: Bounds) -> Vec<Violation> {
    judge(&history.writes(), image, bounds).expect_err("illegal")
}

#[test]
fn a_later_write_without_an_earlier_one_is_reordered() {
    let (history, _) = dependent();
    let image = image_of(&history.writes(), &[2]);
    let found = violations(&history, &image, Bounds::ANY);
    assert!(matches!(found[..], [Violation::Reordered { missing: 1, held: 2, .. }]), "{found:?}");
}

#[test]
fn half_a_write_is_torn() {
    let (history, mut image) = dependent();
    *image.block_mut(1, 1) = Content::Zero;
    let found = violations(&history, &image, Bounds::ANY);
    assert!(matches!(found[..], [Violation::Torn { write: 2, held: 0, missing: 1, .. }]), "{found:?}");
}

#[test]
fn what_nobody_wrote_is_foreign() {
    let (history, mut image) = dependent();
    *image.block_mut(1, 5) = Content::Stamp(2);
    *image.block_mut(0, 7) = Content::Foreign("junk".into());
    let found = violations(&history, &image, Bounds::ANY);
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|violation| matches!(violation, Violation::Foreign { .. })), "{found:?}");
}

#[test]
fn a_write_sent_after_the_cut_is_too_new() {
    let (history, image) = dependent();
    let between = history.writes()[0].acked.expect("answered");
    let found = violations(&history, &image, Bounds::cut(between, between));
    assert!(matches!(found[..], [Violation::TooNew { write: 2, .. }]), "{found:?}");
}

#[test]
fn a_missing_tail_is_legal_until_it_was_answered_before_the_cut() {
    let (history, _) = dependent();
    let image = image_of(&history.writes(), &[1]);
    assert!(judge(&history.writes(), &image, Bounds::ANY).is_ok());
    let found = violations(&history, &image, Bounds::EVERYTHING_ACKED);
    assert!(matches!(found[..], [Violation::Dropped { write: 2, .. }]), "{found:?}");
}

/// Any moment is legal, and yet none from before the first copy was made.
#[test]
fn an_image_from_before_there_was_any_is_none() {
    let (history, image) = dependent();
    history.everywhere();
    let later = history.sending(0, 4, 1, Kind::Stamp);
    history.acknowledged(later);
    assert!(judge(&history.writes(), &image, Bounds::ANY).is_ok());
    for held in [&[][..], &[1]] {
        let found = violations(&history, &image_of(&history.writes(), held), Bounds::ANY);
        assert!(found.iter().all(|one| matches!(one, Violation::Dropped { .. })), "{found:?}");
    }
}

#[test]
fn what_a_crash_lost_must_not_come_back() {
    let (history, image) = dependent();
    let unanswered = history.sending(0, 4, 1, Kind::Stamp);
    let verdict = judge(&history.writes(), &image, Bounds::EVERYTHING_ACKED).expect("legal");
    history.settle(&verdict);
    let back = image_of(&history.writes(), &[1, 2, unanswered]);
    let found = violations(&history, &back, Bounds::ANY);
    assert!(matches!(found[..], [Violation::Resurrected { write: 3, .. }]), "{found:?}");
}

#[test]
fn a_zero_shows_the_write_that_zeroed() {
    let (history, mut image) = dependent();
    let zeroing = history.sending(1, 0, 1, Kind::Zero);
    history.acknowledged(zeroing);
    let found = violations(&history, &image, Bounds::EVERYTHING_ACKED);
    assert!(matches!(found[..], [Violation::Dropped { write: 3, .. }]), "{found:?}");
    *image.block_mut(1, 0) = Content::Zero;
    let verdict = judge(&history.writes(), &image, Bounds::EVERYTHING_ACKED).expect("legal");
    assert!(verdict.holds(zeroing));
}

/// At a moment before a block was first written it reads as zeroes, whatever zeroed it later.
#[test]
fn a_block_not_yet_written_is_not_taken_for_one_zeroed_later() {
    let history = History::new();
    let early = history.sending(0, 0, 1, Kind::Stamp);
    history.acknowledged(early);
    let moment = history.tick();
    for (block, kind) in [(1, Kind::Stamp), (2, Kind::Stamp), (2, Kind::Zero)] {
        let id = history.sending(0, block, 1, kind);
        history.acknowledged(id);
    }
    let writes = history.writes();
    let image = image_of(&writes, &[early]);
    assert_eq!(judge(&writes, &image, Bounds::cut(moment, moment)).map(|verdict| verdict.count()), Ok(1));
    // Nor without a moment: a write that was answered before the zeroing was sent is missing.
    assert_eq!(judge(&writes, &image, Bounds::ANY).map(|verdict| verdict.count()), Ok(1));
    // What was there at that moment and is zero now is missing.
    let nothing = image_of(&writes, &[]);
    assert!(judge(&writes, &nothing, Bounds::cut(moment, moment)).is_err());
}

/// A block that was never written reads as zeroes: that is no sign of the write that was to zero it, when one that was answered
/// before is lost.
#[test]
fn a_zero_is_no_sign_of_a_write_that_cannot_be_there() {
    let history = History::new();
    let lost = history.sending(0, 0, 1, Kind::Stamp);
    history.acknowledged(lost);
    let zeroing = history.sending(1, 0, 1, Kind::Zero);
    history.acknowledged(zeroing);
    let image = Image::new(vec![vec![Content::Zero; 4]; 2]);
    let verdict = assert_legal("nothing", &history.writes(), &image, Bounds::default());
    assert!(!verdict.holds(zeroing) && !verdict.holds(lost));
    // What the zero had to write over is there: then both are.
    let over = history.sending(1, 2, 1, Kind::Stamp);
    history.acknowledged(over);
    let mut image = Image::new(vec![vec![Content::Zero; 4]; 2]);
    *image.block_mut(1, 2) = Content::Stamp(over);
    let found = violations(&history, &image, Bounds::default());
    assert!(
        found.iter().any(|one| matches!(one, Violation::Reordered { missing, .. } if *missing == lost)),
        "{found:?}"
    );
}

/// A write that zeroes several blocks, of which one was never written, is in an image as a whole or not at all: when one of its
/// blocks shows something older, the zeroes of another are older, too.
#[test]
fn zeroes_are_no_sign_of_a_write_that_another_block_lacks() {
    let history = History::new();
    let older = history.sending(0, 1, 1, Kind::Stamp);
    history.acknowledged(older);
    history.sending(0, 0, 2, Kind::Zero);
    let image = image_of(&history.writes(), &[older]);
    let verdict = assert_legal("without it", &history.writes(), &image, Bounds::EVERYTHING_ACKED);
    assert_eq!(verdict.count(), 1);
}

/// Half of it over what was there is seen all the same.
#[test]
fn half_a_write_of_zeroes_is_caught() {
    let (history, mut image) = dependent();
    history.sending(0, 0, 2, Kind::Zero);
    *image.block_mut(0, 0) = Content::Zero;
    let found = violations(&history, &image, Bounds::ANY);
    assert!(matches!(found[..], [Violation::Torn { write: 1, .. }, ..]), "{found:?}");
}

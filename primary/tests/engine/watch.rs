//! Invariant 6 for those who watch what hosts write: the journal stays until they have read it, or they learn that it did not;
//! it never costs a host anything.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidemark_common::ids::VolumeIndex;
use tidemark_common::limits::REGION_BYTES;
use tidemark_primary::verify::{Since, VerifyError};
use tidemark_tests::wait::{check, wait_until};

use crate::machine::{Engine, Machine, SOON, Settings};

const WRITE_BYTES: usize = 64 << 10;

/// A cut, and what is written after it is watched.
fn since_a_cut(machine: &Machine, engine: &Engine) -> Since {
    let watch = engine.primary.watch();
    let marker = machine.soon("a cut", engine.primary.cut(None)).unwrap();
    engine.primary.since_marker(marker.number, watch).unwrap()
}

/// So many segments of the journal, written to the volume's second region on, and back in the volume.
fn write_segments(machine: &Machine, engine: &Engine, segments: u64, noise: &mut StdRng) {
    let mut data = vec![0; WRITE_BYTES];
    let places = machine.settings.volume_bytes() / REGION_BYTES - 1;
    for number in 0..segments * machine.settings.segment_bytes / WRITE_BYTES as u64 {
        noise.fill(&mut data[..]);
        machine.write(engine, 1, REGION_BYTES * (1 + number % places), &data).unwrap();
    }
    machine.flush(engine).unwrap();
    let captured = engine.captured();
    wait_until("it to be in the volumes", SOON, || check(engine.applied() >= captured, || "behind".into()));
}

#[test]
fn what_is_watched_stays_in_the_journal_until_it_was_read() {
    let machine = Machine::new(Settings { segments: 16, ..Settings::default() });
    let engine = machine.start();
    let mut noise = StdRng::seed_from_u64(1);
    for _ in 0..4 {
        let mut since = since_a_cut(&machine, &engine);
        for _ in 0..3 {
            // Nobody else needs these segments any longer.
            write_segments(&machine, &engine, 4, &mut noise);
            engine.primary.catch_up(&mut since).unwrap();
        }
        assert!(since.has(VolumeIndex(2), REGION_BYTES) && !since.has(VolumeIndex(2), 0));
    }
}

#[test]
fn a_journal_that_runs_full_is_kept_for_nobody_who_only_watches_and_they_learn_it() {
    let machine = Machine::new(Settings::default());
    let engine = machine.start();
    let mut noise = StdRng::seed_from_u64(2);
    let mut since = since_a_cut(&machine, &engine);
    write_segments(&machine, &engine, 3 * machine.settings.segments, &mut noise);
    assert_eq!(engine.primary.problem(), None);
    let error = engine.primary.catch_up(&mut since).unwrap_err();
    assert!(error.wants_another_marker(), "{error}");
    // It does not come back: what it would read from here on is not all there was.
    write_segments(&machine, &engine, 1, &mut noise);
    let again = engine.primary.catch_up(&mut since);
    assert!(again.as_ref().is_err_and(VerifyError::wants_another_marker), "{again:?}");
    let mut since = since_a_cut(&machine, &engine);
    write_segments(&machine, &engine, 1, &mut noise);
    engine.primary.catch_up(&mut since).unwrap();
    assert!(since.has(VolumeIndex(2), REGION_BYTES));
}

/// Invariant 9: a copy that is behind stands at a marker from before a volume grew, and nothing of what it grew by differs.
#[test]
fn what_a_volume_grew_by_is_not_judged_by_a_marker_from_before() {
    let machine = Machine::new(Settings::default());
    let engine = machine.start();
    let mut since = since_a_cut(&machine, &engine);
    let size = 2 * machine.settings.volume_bytes();
    let held = machine.soon("a larger volume", engine.primary.announce_size("volume-1", size)).unwrap();
    engine.primary.grow_volume("volume-1", size, held).unwrap();
    for _ in 0..2 {
        let error = engine.primary.catch_up(&mut since).unwrap_err();
        assert!(error.wants_another_marker(), "{error}");
    }
    let mut since = since_a_cut(&machine, &engine);
    engine.primary.catch_up(&mut since).unwrap();
}

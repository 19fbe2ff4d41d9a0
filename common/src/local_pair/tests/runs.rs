//! Whatever is done in whatever order, and whatever dies in it.

use proptest::prelude::*;

use super::*;
use crate::t0::{Image, ImageVolume};

#[derive(Debug, Clone)]
enum Act {
    Write(u64, u64, u8),
    Record,
    Step,
    Split,
    TargetWrite(u64, u64, u8),
    Flush,
    Resync,
    Reverse,
    Restore,
    Kill,
}

fn act() -> impl Strategy<Value = Act> {
    let within = |size: u64| {
        (0..size / 512, 1..300_u64).prop_map(move |(from, count)| (from * 512, (count * 512).min(size - from * 512)))
    };
    prop_oneof![
        4 => (within(SIZE), 0..5_u8).prop_map(|((offset, length), byte)| Act::Write(offset, length, byte)),
        1 => Just(Act::Record),
        4 => Just(Act::Step),
        2 => Just(Act::Split),
        4 => (within(TARGET), 0..5_u8).prop_map(|((offset, length), byte)| Act::TargetWrite(offset, length, byte * 40)),
        1 => Just(Act::Flush),
        1 => Just(Act::Resync),
        1 => Just(Act::Kill),
    ]
}

/// What cannot be done in the state the pair is in is left out.
fn take(rig: &mut Rig, act: &Act) -> Result<(), String> {
    let text = |error: LocalPairError| error.to_string();
    let state = rig.pair().state();
    match *act {
        Act::Write(offset, length, byte) => rig.write(offset, length, byte),
        Act::Record => rig.record(),
        Act::Step => {
            rig.pair().step();
            if rig.pair().state() == State::Error { Err("it failed".into()) } else { Ok(()) }
        }
        Act::Split if states::follows(state) => rig.split().map_err(text),
        Act::TargetWrite(offset, length, byte) if state == State::Split => {
            rig.target_write(offset, length, byte).map_err(text)
        }
        Act::Flush if state == State::Split => rig.flush().map_err(text),
        Act::Resync if state == State::Split => rig.pair().resync().map_err(text),
        Act::Reverse if state == State::Split => rig.pair().reverse().map_err(text),
        Act::Restore if state == State::Reverse => restore(rig),
        Act::Kill => rig.try_restart(rig.disk.clone()),
        _ => Ok(()),
    }
}

/// As who restores does it: what differs is written to the source, as a host would, and when that is durable the two are a pair again.
fn restore(rig: &mut Rig) -> Result<(), String> {
    let mut target = vec![0; SIZE as usize];
    rig.pair().target().file.read_exact_at(&mut target, 0).map_err(|error| error.to_string())?;
    for range in rig.pair().to_restore() {
        let mut at = range.offset;
        for run in target[range.offset as usize..range.end() as usize].chunk_by(|one, next| one == next) {
            rig.write(at, run.len() as u64, run[0])?;
            at += run.len() as u64;
        }
    }
    rig.record()?;
    rig.pair().restored().map_err(|error| error.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_target_is_what_it_was_at_its_split_and_a_resync_copies_all_that_differs(
        acts in proptest::collection::vec(act(), 1..40)
    ) {
        let mut rig = Rig::new(64 << 20);
        for act in &acts {
            take(&mut rig, act).unwrap();
            rig.check(&format!("after {act:?}"));
        }
        if rig.pair().state() == State::Split {
            rig.drain();
            rig.check("when nothing differs");
            prop_assert_eq!(rig.pair().record().era, None, "nothing is saved for it any more");
        }
        rig.check_resync();
    }

    /// Power goes at any effect. What the target shows is its image with what was flushed to it, and perhaps more of what was written;
    /// and no difference is forgotten.
    #[test]
    fn a_loss_of_power_anywhere_costs_no_image_and_no_mark(
        acts in proptest::collection::vec(act(), 1..25), after in 0..250_u64, seed in 0..1000_u64
    ) {
        let mut rig = Rig::new(64 << 20);
        rig.disk.power_off_after(after);
        for act in acts.iter().filter(|act| !matches!(act, Act::Kill)) {
            if take(&mut rig, act).is_err() {
                break;
            }
        }
        let before = rig.pair().record();
        let crashed = rig.disk.crash(seed);
        rig.restart(crashed);
        rig.judge(&before);
        rig.check_resync();
    }

    /// Who reads an older moment of the target sees nothing of what is written to it, also while it still lacks most; and who comes
    /// later sees what was written until then.
    #[test]
    fn images_of_a_target_do_not_change(
        acts in proptest::collection::vec(act(), 1..25), again in 0..25_usize, bring in any::<bool>()
    ) {
        let mut rig = Rig::new(64 << 20);
        rig.write(0, SIZE, 1).unwrap();
        rig.split().unwrap();
        rig.target_write(70_000 / 512 * 512, 5120, 9).unwrap();
        let begin = |rig: &Rig| {
            let pair = rig.pair();
            let era = pair.begin_image().unwrap().era;
            let file = Arc::new(RedirectFile::new(Arc::clone(pair), bring));
            let volume = ImageVolume { index: VOLUME, name: "t".into(), size: TARGET, file };
            (era, Image::new(Arc::clone(pair.saves()), era, vec![volume]), rig.versions.last().unwrap().clone())
        };
        let mut images = vec![begin(&rig)];
        for (number, act) in acts.iter().filter(|act| !matches!(act, Act::Kill | Act::Resync)).enumerate() {
            take(&mut rig, act).unwrap();
            rig.check(&format!("after {act:?}"));
            if number == again {
                images.push(begin(&rig));
            }
            for (_, image, snapshot) in &images {
                let mut bytes = vec![0xEE; TARGET as usize];
                image.read(VOLUME, 0, &mut bytes).unwrap();
                assert_same(&bytes, snapshot, "an image of the target");
            }
        }
        images.iter().for_each(|(era, ..)| rig.pair().saves().leave(*era));
        rig.check_resync();
    }
}

/// A short run with everything in it that changes a disk or the catalogue.
fn short_run() -> Vec<Act> {
    use Act::{Flush, Kill, Record, Restore, Resync, Reverse, Split, Step, TargetWrite, Write};
    let steps = || std::iter::repeat_n(Step, 8);
    let mut run = vec![Write(0, SIZE, 1), Record, Step, Split, Write(65_536, 4096, 2), TargetWrite(0, 8192, 7), Flush];
    run.extend([TargetWrite(131_072, 512, 9), Step, Kill, Write(200_704, 1024, 0), Record, Resync, Step]);
    run.extend([Write(0, 512, 3), Step, Split, TargetWrite(66_048, 512, 6)]);
    run.extend(steps().chain([Flush, Write(4096, 512, 4), Reverse, Restore, Write(8192, 512, 5), Step, Split]));
    run
}

/// Dies after so many changes of the disk, or loses power there. Whether it came to its end.
fn run_and_die(after: u64) -> (Rig, bool) {
    let mut rig = Rig::new(64 << 20);
    rig.disk.power_off_after(after);
    for act in short_run() {
        if take(&mut rig, &act).is_err() {
            return (rig, false);
        }
    }
    (rig, true)
}

fn left(disk: &MemoryDisk, power: Option<u64>) -> MemoryDisk {
    power.map_or_else(|| disk.outlive(), |seed| disk.crash(seed))
}

/// All of them, each followed by a second death, or loss of power, at every change of the start that comes after it.
#[test]
fn a_death_at_any_change_of_a_disk_and_in_the_start_after_it_costs_no_image_and_no_mark() {
    let (whole, ended) = run_and_die(u64::MAX);
    assert!(ended && whole.pair().state() == State::Split, "{:?}", whole.pair().record());
    let all = whole.disk.effects();
    for power in [None, Some(1), Some(2)] {
        for first in 0..all {
            for second in 0.. {
                let what = format!("after {first} changes, then {second}, power lost {power:?}");
                let (mut rig, _) = run_and_die(first);
                let before = rig.pair().record();
                let again = left(&rig.disk, power);
                again.power_off_after(second);
                let started = rig.try_restart(again.clone()).is_ok() && again.list(Path::new("/volumes")).is_ok();
                if started {
                    again.power_off_after(u64::MAX);
                } else {
                    rig.try_restart(left(&again, power)).unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                rig.judge(&before);
                if rig.pair().state() == State::Reverse {
                    rig.check_reverse();
                } else {
                    rig.check_resync();
                }
                if started {
                    break;
                }
            }
        }
    }
}

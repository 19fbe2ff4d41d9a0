//! Whatever is done in whatever order, and whatever dies in it.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u64, u8),
    Begin,
    End(usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0..SIZE as u64 / 512, 1..40_u64, 0..5_u8)
        .prop_map(|(from, count, byte)| Step::Write(from * 512, (count * 512).min(SIZE as u64 - from * 512), byte));
    prop_oneof![6 => write, 2 => Just(Step::Begin), 1 => (0..8_usize).prop_map(Step::End), 1 => Just(Step::Restart)]
}

fn take(rig: &mut Rig, step: &Step) -> Result<(), String> {
    match *step {
        Step::Write(offset, length, byte) => rig.write(extent(offset, length), byte).map_err(|error| error.to_string()),
        Step::Begin => rig.begin().map(drop).map_err(|error| error.to_string()),
        Step::End(which) => {
            if which < rig.known.len() {
                let era = rig.known.remove(which).user.era;
                // As those do that nothing names any more, and others.
                if which.is_multiple_of(2) { rig.eras.leave_for_good(era) } else { rig.eras.leave(era) }
            }
            Ok(())
        }
        Step::Restart => {
            let disk = rig.disk.clone();
            rig.restart(disk);
            Ok(())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_image_shows_its_moment_whatever_is_written_deleted_and_restarted(
        steps in proptest::collection::vec(step(), 1..40)
    ) {
        let mut rig = Rig::new(64 << 20);
        for step in &steps {
            take(&mut rig, step).unwrap();
            rig.check(&format!("after {step:?}"));
        }
        while !rig.known.is_empty() {
            rig.end(rig.known.len() / 2);
            rig.check("after an end");
        }
        prop_assert_eq!(rig.space.used(), 0, "all space is given back");
        prop_assert_eq!(rig.disk.list(Path::new(FOLDER)).unwrap_or_default().len(), 0);
    }

    /// Power goes at any effect; afterwards the updater applies again what it had not recorded, which is everything.
    #[test]
    fn a_loss_of_power_anywhere_costs_no_image(
        steps in proptest::collection::vec(step(), 1..14), after in 0..120_u64, seed in 0..1000_u64
    ) {
        let mut rig = Rig::new(64 << 20);
        rig.disk.power_off_after(after);
        for step in steps.iter().filter(|step| !matches!(step, Step::Restart)) {
            if take(&mut rig, step).is_err() {
                break;
            }
        }
        // A write that was cut off is in the journal, and is applied after the restart.
        let crashed = rig.disk.crash(seed);
        rig.come_back(crashed).unwrap();
        prop_assert_eq!(rig.eras.applied_position().max(at(1)), at(rig.place));
        rig.check("after the crash");
    }
}

/// A short run with everything in it that changes a disk, once each.
fn short_run() -> Vec<Step> {
    use Step::{Begin, End, Restart, Write};
    vec![
        Write(0, SIZE as u64, 1),
        Begin,
        Write(4096, 8192, 2),
        Begin,
        Write(4096, 4096, 3),
        Write(32_768, 12_288, 0),
        Restart,
        Write(0, 16_384, 4),
        End(0),
        Begin,
        Write(8192, 512, 2),
        End(0),
        Write(8192, 32_768, 1),
    ]
}

/// Dies after so many changes of the disk, or loses power there.
fn run_and_die(after: u64) -> Rig {
    let mut rig = Rig::new(64 << 20);
    rig.disk.power_off_after(after);
    for step in short_run() {
        let done = match step {
            Step::Restart => rig.try_restart(rig.disk.clone()),
            step => take(&mut rig, &step),
        };
        if done.is_err() {
            break;
        }
    }
    rig
}

/// What is left on the disk: all that was written, or, with a seed, what a loss of power leaves of it.
fn left(disk: &MemoryDisk, power: Option<u64>) -> MemoryDisk {
    power.map_or_else(|| disk.outlive(), |seed| disk.crash(seed))
}

/// And nothing of it stays when the last image has ended.
fn assert_survived(mut rig: Rig, what: &str) {
    rig.check(what);
    while !rig.known.is_empty() {
        rig.end(0);
        rig.check(what);
    }
    assert_eq!((rig.space.used(), rig.disk.list(Path::new(FOLDER)).unwrap_or_default()), (0, vec![]), "{what}");
}

/// All of them, each followed by a second death, or loss of power, at every change of the start that comes after it.
#[test]
fn a_death_at_any_change_of_a_disk_and_in_the_start_after_it_costs_no_image() {
    let all = run_and_die(u64::MAX).disk.effects();
    assert!(all > 30, "{all} changes");
    for power in [None, Some(1), Some(2)] {
        for first in 0..all {
            for second in 0.. {
                let what = format!("after {first} changes, then {second}, power lost {power:?}");
                let mut rig = run_and_die(first);
                let again = left(&rig.disk, power);
                again.power_off_after(second);
                let whole = rig.come_back(again.clone()).is_ok() && again.list(Path::new("/volumes")).is_ok();
                if whole {
                    again.power_off_after(u64::MAX);
                } else {
                    rig.come_back(left(&again, power)).unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                assert_survived(rig, &what);
                if whole {
                    break;
                }
            }
        }
    }
}

/// What a kill left of an image that was not yet durable is so before the volume is written over: power may be lost then.
#[test]
fn a_kill_at_any_change_of_a_disk_and_a_loss_of_power_behind_the_start_cost_no_image() {
    let all = run_and_die(u64::MAX).disk.effects();
    for first in 0..all {
        for seed in 0..16 {
            let what = format!("after {first} changes, seed {seed}");
            let mut rig = run_and_die(first);
            let killed = rig.disk.outlive();
            rig.come_back(killed.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
            rig.file.sync().unwrap();
            // The volume is synced, so how far it is has been recorded: nothing is applied, or saved, once more.
            let lost_power = killed.crash(seed);
            rig.try_restart(lost_power).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_survived(rig, &what);
        }
    }
}

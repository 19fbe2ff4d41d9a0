//! Reads see what was written, wherever it is by now: in the buffer, in the journal, in the volume, or partly in each.

use proptest::prelude::*;
use tidemark_common::nbd::ZeroMode;
use tidemark_tests::wait::{check, wait_until};

use crate::machine::{Engine, Machine, NEVER, SOON, Settings, VOLUMES};
use crate::staged::Call;

const VOLUME_BYTES: u64 = 64 << 10;

#[derive(Debug, Clone)]
enum Step {
    Write {
        volume: usize,
        range: Range,
        byte: u8,
    },
    Zero {
        volume: usize,
        range: Range,
        hole: bool,
    },
    Trim {
        volume: usize,
        range: Range,
    },
    Read {
        volume: usize,
        range: Range,
    },
    /// Into the journal.
    Drain,
    /// What is in the journal stays there for now.
    HoldBack,
    /// Into the volumes, all of it.
    WriteBack,
    Kill,
}

type Range = (u64, usize);

fn range() -> impl Strategy<Value = Range> {
    let aligned = (0..VOLUME_BYTES / 512, 1..64_u64).prop_map(|(at, length)| (at * 512, length * 512));
    let any = (0..VOLUME_BYTES, 1..9000_u64);
    prop_oneof![aligned, any].prop_map(|(at, length)| (at, length.min(VOLUME_BYTES - at) as usize))
}

fn step() -> impl Strategy<Value = Step> {
    let volume = 0..2_usize;
    prop_oneof![
        8 => (volume.clone(), range(), 1..=255_u8).prop_map(|(volume, range, byte)| Step::Write { volume, range, byte }),
        2 => (volume.clone(), range(), any::<bool>()).prop_map(|(volume, range, hole)| Step::Zero { volume, range, hole }),
        1 => (volume.clone(), range()).prop_map(|(volume, range)| Step::Trim { volume, range }),
        8 => (volume, range()).prop_map(|(volume, range)| Step::Read { volume, range }),
        3 => Just(Step::Drain),
        1 => Just(Step::HoldBack),
        2 => Just(Step::WriteBack),
        1 => Just(Step::Kill),
    ]
}

/// Bytes that tell one place from the next.
fn data(byte: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| byte.wrapping_add((at / 64) as u8)).collect()
}

fn write_back(machine: &Machine, engine: &Engine) {
    engine.disk.release();
    machine.flush(engine).unwrap();
    let captured = engine.captured();
    wait_until("the volumes to have everything", SOON, || {
        check(engine.applied() == captured, || format!("{} of {captured}", engine.applied()))
    });
}

fn play(steps: &[Step]) -> Result<(), TestCaseError> {
    let settings = Settings {
        volumes: 2,
        volume_blocks: VOLUME_BYTES / 4096,
        ring_bytes: 128 << 10,
        delay: NEVER,
        ..Settings::default()
    };
    let machine = Machine::new(settings);
    let mut engine = machine.start();
    let mut model = vec![vec![0_u8; VOLUME_BYTES as usize]; 2];
    for step in steps {
        match *step {
            Step::Write { volume, range: (at, length), byte } => {
                machine.write(&engine, volume, at, &data(byte, length)).unwrap();
                model[volume][at as usize..][..length].copy_from_slice(&data(byte, length));
            }
            Step::Zero { volume, range: (at, length), hole } => {
                let mode = ZeroMode { no_hole: !hole, ..ZeroMode::default() };
                machine.soon("zeroes", engine.volumes[volume].write_zeroes(at, length as u64, mode)).unwrap();
                model[volume][at as usize..][..length].fill(0);
            }
            Step::Trim { volume, range: (at, length) } => {
                machine.soon("a trim", engine.volumes[volume].trim(at, length as u64, false)).unwrap();
                model[volume][at as usize..][..length].fill(0);
            }
            Step::Read { volume, range: (at, length) } => {
                let expected = &model[volume][at as usize..][..length];
                prop_assert_eq!(&machine.read(&engine, volume, at, length), expected);
            }
            Step::Drain => machine.flush(&engine).unwrap(),
            Step::HoldBack => engine.disk.hold(Call::Write, VOLUMES),
            Step::WriteBack => write_back(&machine, &engine),
            Step::Kill => {
                machine.kill(engine, None);
                engine = machine.start();
            }
        }
    }
    for (volume, expected) in model.iter().enumerate() {
        prop_assert_eq!(&machine.read(&engine, volume, 0, expected.len()), expected);
    }
    write_back(&machine, &engine);
    for (volume, expected) in model.iter().enumerate() {
        prop_assert_eq!(&machine.read(&engine, volume, 0, expected.len()), expected, "written back");
    }
    engine.primary.stop();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn reads_see_what_was_written_wherever_it_is(steps in proptest::collection::vec(step(), 1..60)) {
        play(&steps)?;
    }
}

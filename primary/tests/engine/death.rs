//! Invariants 1 and 2: a killed process loses nothing that was answered, a loss of power nothing that was flushed, and what
//! is left is always a beginning of the history.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidemark_common::extent::Extent;
use tidemark_common::ids::{Seq, VolumeIndex};
use tidemark_primary::ring::{Entry, EntryKind, Ring};
use tidemark_tests::cluster::flip_byte;
use tidemark_tests::history::Kind;
use tidemark_tests::stamp::BLOCK_BYTES;
use tidemark_tests::wait::{check, wait_until};
use tokio::time::timeout;

use crate::hosts::{Hosts, SPARE_BLOCKS, Story, stamps};
use crate::machine::{Engine, GROUP, JOURNAL, Machine, NEVER, SOON, Settings};
use crate::staged::Call;

const ROUNDS: u64 = 4;

/// The same machine is killed again and again under load.
fn kill_again_and_again(settings: &Settings, seed: u64) {
    let machine = Machine::new(settings.clone());
    let mut random = StdRng::seed_from_u64(seed);
    let mut engine = machine.start();
    let story = Story::begin(&machine, &engine);
    for round in 0..ROUNDS {
        let hosts = Hosts::start(&machine, &engine, &story, seed * ROUNDS + round);
        hosts.wait_acked(random.random_range(1..150));
        machine.kill(engine, Some(hosts));
        engine = machine.start();
        story.judge_kill(&format!("seed {seed}, kill {round}"), &machine, &engine);
    }
    assert_goes_on(&machine, &engine);
}

/// All that was captured can be made durable.
fn assert_goes_on(machine: &Machine, engine: &Engine) {
    machine.flush(engine).unwrap();
    let positions = engine.primary.status().positions;
    assert_eq!(positions.journaled_seq, positions.captured_seq);
    wait_until("no problem", SOON, || engine.primary.problem().map_or(Ok(()), Err));
}

#[test]
fn a_kill_loses_nothing_answered() {
    for seed in 0..10 {
        kill_again_and_again(&Settings::default(), seed);
    }
}

#[test]
fn a_kill_loses_nothing_answered_that_only_the_buffer_has() {
    for seed in 0..6 {
        kill_again_and_again(&Settings { delay: NEVER, ..Settings::keeping() }, seed);
    }
}

#[test]
fn a_kill_between_many_cuts_loses_nothing_answered() {
    for seed in 0..6 {
        let delay = Duration::from_millis(2);
        kill_again_and_again(&Settings { delay, interval: Duration::from_millis(10), ..Settings::default() }, seed);
    }
}

/// What a host had in flight when the process died: header and number are there, its bytes only in part.
fn leave_in_flight(ring: &Ring, seq: u64, volume: u32, block: u64) {
    let position = append(ring, seq, volume, block);
    ring.write_payload(position, &[0xee; BLOCK_BYTES / 2]);
}

/// What another host had answered behind it.
fn leave_answered(ring: &Ring, seq: u64, volume: u32, block: u64, data: &[u8]) {
    let position = append(ring, seq, volume, block);
    ring.write_payload(position, data);
    ring.commit(position);
}

fn append(ring: &Ring, seq: u64, volume: u32, block: u64) -> u64 {
    let length = BLOCK_BYTES as u64;
    let extent = Extent { volume: VolumeIndex(volume + 1), offset: block * length, length };
    let entry = Entry { kind: EntryKind::Data, seq: Seq(seq), extent, payload_bytes: length as u32, payload_check: 0 };
    let (head, tail) = ring.ends();
    let (position, pad) = ring.place(head, tail, entry.ring_bytes()).expect("room for what was in flight");
    assert_eq!(pad, None, "the ring is large enough for all of the test");
    ring.reserve_blocks(0, position + entry.ring_bytes()).unwrap();
    ring.write_entry(position, &entry);
    ring.set_head(position + entry.ring_bytes());
    position
}

#[test]
fn a_write_in_flight_at_a_kill_keeps_its_number_and_does_nothing() {
    for (seed, in_flight_last) in [(1, false), (2, true), (3, false), (4, true)] {
        let machine = Machine::new(Settings { delay: NEVER, ..Settings::keeping() });
        let engine = machine.start();
        let story = Story::begin(&machine, &engine);
        let hosts = Hosts::start(&machine, &engine, &story, seed);
        hosts.wait_acked(40);
        let (captured, _) = machine.kill(engine, Some(hosts));
        let (ring, _) = Ring::open(&machine.ring, GROUP).unwrap().unwrap();
        let spare = machine.settings.volume_blocks - SPARE_BLOCKS;
        leave_in_flight(&ring, captured + 1, 0, spare);
        let id = story.history.sending(1, spare, 1, Kind::Stamp);
        leave_answered(&ring, captured + 2, 1, spare, &stamps(id, 1, spare, 1));
        story.history.acknowledged(id);
        if in_flight_last {
            leave_in_flight(&ring, captured + 3, 2, spare);
        }
        drop(ring);
        let engine = machine.start();
        let what = format!("seed {seed}");
        story.judge_kill(&what, &machine, &engine);
        assert_eq!(engine.captured(), captured + 2 + u64::from(in_flight_last), "{what}: numbers stay dense");
        assert_goes_on(&machine, &engine);
        // A second kill, now with all of it in the journal.
        machine.kill(engine, None);
        let engine = machine.start();
        story.judge_kill(&what, &machine, &engine);
    }
}

/// The same machine loses power again and again, between two effects on its disk as well.
fn lose_power_again_and_again(settings: &Settings, seed: u64) {
    let mut machine = Machine::new(settings.clone());
    let mut random = StdRng::seed_from_u64(seed);
    let mut engine = machine.start();
    let story = Story::begin(&machine, &engine);
    for round in 0..ROUNDS {
        let hosts = Hosts::start(&machine, &engine, &story, seed * ROUNDS + round);
        hosts.wait_acked(random.random_range(1..150));
        if random.random_bool(0.5) {
            machine.disk.power_off_after(random.random_range(0..60));
            // Whoever meets it first: the drain, and hosts are told, or the updater.
            wait_until("the power to be gone", SOON, || {
                check(engine.primary.problem().is_some(), || "it is on".into())
            });
        }
        machine.lose_power(engine, Some(hosts), random.random());
        engine = machine.start();
        story.judge_power_loss(&format!("seed {seed}, loss of power {round}"), &machine, &engine);
        if random.random_bool(0.3) {
            // What was recovered was told to be durable: a kill and another loss of power change nothing.
            machine.lose_power(engine, None, random.random());
            engine = machine.start();
            story.judge_kill(&format!("seed {seed}, loss of power {round} once more"), &machine, &engine);
        }
    }
    assert_goes_on(&machine, &engine);
}

#[test]
fn a_loss_of_power_leaves_what_was_flushed_and_a_beginning_of_the_rest() {
    for seed in 0..16 {
        lose_power_again_and_again(&Settings::default(), seed);
    }
}

#[test]
fn a_loss_of_power_with_much_in_the_buffer_leaves_what_was_flushed() {
    for seed in 0..8 {
        lose_power_again_and_again(&Settings { delay: NEVER, ..Settings::default() }, seed);
    }
}

/// Flush, FUA and cut promise that a loss of power takes nothing back: none is answered while the sync is under way.
#[test]
fn nothing_durable_is_answered_before_the_journal_is_synced() {
    let machine = Machine::new(Settings { delay: NEVER, ..Settings::default() });
    let engine = machine.start();
    for ask in [Ask::Flush, Ask::Fua, Ask::Zero, Ask::Cut] {
        machine.write(&engine, 0, 0, &[1; 4096]).unwrap();
        engine.disk.hold(Call::Sync, JOURNAL);
        let mut answer = Box::pin(ask.of(&engine));
        let at_once = Duration::from_millis(1);
        let mut answered = || machine.runtime.block_on(async { timeout(at_once, answer.as_mut()).await.is_ok() });
        assert!(!answered(), "{ask:?}: answered before there was a sync");
        engine.disk.wait_held();
        assert!(!answered(), "{ask:?}: answered before the sync was over");
        engine.disk.release();
        machine.soon("the answer", answer);
    }
}

#[derive(Debug, Clone, Copy)]
enum Ask {
    Flush,
    Fua,
    Zero,
    Cut,
}

impl Ask {
    async fn of(self, engine: &Engine) {
        let volume = &engine.volumes[1];
        match self {
            Self::Flush => volume.flush().await.unwrap(),
            Self::Fua => volume.write(0, &[2; 4096], true).await.unwrap(),
            Self::Zero => volume.trim(0, 4096, true).await.unwrap(),
            Self::Cut => drop(engine.primary.cut(None).await.unwrap()),
        }
    }
}

#[test]
fn a_marker_that_was_answered_survives_a_loss_of_power() {
    for seed in 0..20 {
        let mut machine = Machine::new(Settings { delay: NEVER, ..Settings::default() });
        let engine = machine.start();
        machine.write(&engine, 0, 0, &[1; 4096]).unwrap();
        let marker = machine.soon("a cut", engine.primary.cut(Some("kept".into()))).unwrap();
        machine.write(&engine, 0, 0, &[2; 4096]).unwrap();
        machine.lose_power(engine, None, seed);
        let engine = machine.start();
        assert_eq!(engine.primary.marker(None), Some(marker), "seed {seed}");
        let next = machine.soon("a cut", engine.primary.cut(None)).unwrap();
        assert_eq!(next.number, 2, "seed {seed}: numbers go on");
    }
}

/// What only the buffer has, altered: the group does not start, so nothing of it is served or journaled, and all of it is
/// there once the file is as it was.
#[test]
fn an_altered_entry_of_the_buffer_is_named_and_nothing_is_lost_once_it_is_restored() {
    /// The ring's header and the first entry's, which is the first write's: its number, whether it counts, its data.
    const FIRST: u64 = 4096;
    const PLACES: [(u64, &str); 4] =
        [(FIRST, "entry"), (FIRST + 8, "entry"), (FIRST + 48, "state"), (FIRST + 64, "data")];
    let machine = Machine::new(Settings { delay: NEVER, ..Settings::keeping() });
    let engine = machine.start();
    for number in 0..8 {
        machine.write(&engine, 0, number * 4096, &[number as u8 + 1; 4096]).unwrap();
    }
    machine.kill(engine, None);
    for (place, what) in PLACES {
        flip_byte(&machine.ring, place);
        let reason = machine.try_start().err().expect("it does not start").to_string();
        assert!(reason.contains(what) && reason.contains(&machine.ring.display().to_string()), "{place}: {reason}");
        flip_byte(&machine.ring, place);
    }
    let engine = machine.start();
    for number in 0..8 {
        assert_eq!(machine.read(&engine, 0, number * 4096, 4096), [number as u8 + 1; 4096]);
    }
}

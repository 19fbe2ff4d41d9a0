//! Disks that fail: what a failed sync left is never believed.

use tidemark_common::nbd::IoError;
use tidemark_tests::wait::{check, wait_until};

use crate::hosts::{Hosts, Story};
use crate::machine::{JOURNAL, Machine, NEVER, SOON, Settings, VOLUMES};
use crate::staged::Call;

/// All that these tests write fits the first segment: the call that fails is one on it, and none on a segment that is being made.
fn one_segment() -> Settings {
    Settings { segment_bytes: 16 << 20, segments: 4, ..Settings::default() }
}

/// The journal's sync fails once, under load: nothing is answered as durable from then on, though the next sync would
/// succeed. A restart makes all of it durable, and a loss of power then takes nothing.
#[test]
fn a_failed_sync_of_the_journal_is_never_believed() {
    for seed in 0..10 {
        let mut machine = Machine::new(one_segment());
        let engine = machine.start();
        let story = Story::begin(&machine, &engine);
        let hosts = Hosts::start(&machine, &engine, &story, seed);
        hosts.wait_acked(30);
        engine.disk.fail_next(Call::Sync, JOURNAL);
        wait_until("all hosts to be told", SOON, || check(hosts.have_ended(), || "they write".into()));
        assert_eq!(hosts.end(), vec![IoError::Io; 4]);
        for _ in 0..3 {
            assert_eq!(machine.flush(&engine), Err(IoError::Io), "seed {seed}");
            let alone = machine.soon("a flush", engine.volumes[0].flush_alone());
            assert_eq!(alone, Err(IoError::Io), "seed {seed}");
        }
        assert!(engine.primary.problem().is_some());
        machine.kill(engine, None);
        let engine = machine.start();
        story.judge_kill(&format!("seed {seed}, after the restart"), &machine, &engine);
        let moment = story.history.tick();
        machine.flush(&engine).unwrap();
        story.flushed(moment);
        machine.lose_power(engine, None, seed);
        let engine = machine.start();
        story.judge_power_loss(&format!("seed {seed}, after a loss of power"), &machine, &engine);
    }
}

/// The same with the loss of power at once: what was flushed before is there.
#[test]
fn a_loss_of_power_after_a_failed_sync_takes_nothing_flushed() {
    for seed in 0..10 {
        let mut machine = Machine::new(Settings::default());
        let engine = machine.start();
        let story = Story::begin(&machine, &engine);
        let hosts = Hosts::start(&machine, &engine, &story, seed);
        hosts.wait_acked(30);
        engine.disk.fail_next(Call::Sync, JOURNAL);
        machine.lose_power(engine, Some(hosts), seed);
        let engine = machine.start();
        story.judge_power_loss(&format!("seed {seed}"), &machine, &engine);
    }
}

/// A volume's sync fails once, and a later one would succeed: the journal keeps what the volume may have lost, until a
/// restart has written it again.
#[test]
fn a_failed_sync_of_a_volume_keeps_the_journal() {
    for seed in 0..10 {
        let mut machine = Machine::new(Settings { segments: 4, ..Settings::default() });
        let engine = machine.start();
        let story = Story::begin(&machine, &engine);
        engine.disk.fail_next(Call::Sync, VOLUMES);
        let hosts = Hosts::start(&machine, &engine, &story, seed);
        wait_until("the volume's sync to fail and the journal to fill", SOON, || {
            let problem = engine.primary.problem().unwrap_or_default();
            check(engine.disk.has_failed() && problem.contains("full"), || problem)
        });
        if seed % 2 == 0 {
            machine.lose_power(engine, Some(hosts), seed);
            let engine = machine.start();
            story.judge_power_loss(&format!("seed {seed}"), &machine, &engine);
        } else {
            machine.kill(engine, Some(hosts));
            let engine = machine.start();
            story.judge_kill(&format!("seed {seed}, after the restart"), &machine, &engine);
            let moment = story.history.tick();
            machine.flush(&engine).unwrap();
            story.flushed(moment);
            machine.lose_power(engine, None, seed);
            let engine = machine.start();
            story.judge_power_loss(&format!("seed {seed}, after a loss of power"), &machine, &engine);
        }
    }
}

/// A write into the journal that fails, rather than its sync.
#[test]
fn a_failed_write_of_the_journal_ends_it_and_loses_nothing_answered() {
    for seed in 0..5 {
        let machine = Machine::new(Settings { delay: NEVER, ..one_segment() });
        let engine = machine.start();
        let story = Story::begin(&machine, &engine);
        let hosts = Hosts::start(&machine, &engine, &story, seed);
        hosts.wait_acked(30);
        engine.disk.fail_next(Call::Write, JOURNAL);
        wait_until("all hosts to be told", SOON, || check(hosts.have_ended(), || "they write".into()));
        assert_eq!(hosts.end(), vec![IoError::Io; 4]);
        assert_eq!(machine.flush(&engine), Err(IoError::Io), "seed {seed}");
        machine.kill(engine, None);
        let engine = machine.start();
        story.judge_kill(&format!("seed {seed}"), &machine, &engine);
        machine.flush(&engine).unwrap();
    }
}

/// No file may be opened for a moment, or a path to the disk is switched: what was durable is, and the next try makes another file.
#[test]
fn a_segment_that_cannot_be_made_once_is_no_hosts_to_know() {
    let machine = Machine::new(Settings::default());
    let engine = machine.start();
    let story = Story::begin(&machine, &engine);
    engine.disk.fail_next(Call::Write, "/journal/0000000000000003.spare");
    let hosts = Hosts::start(&machine, &engine, &story, 1);
    wait_until("a segment that cannot be made", SOON, || {
        check(engine.disk.has_failed(), || "none is needed yet".into())
    });
    let flushed = machine.flush(&engine);
    assert_eq!(flushed, Ok(()), "{:?}", engine.primary.problem());
    wait_until("no problem", SOON, || engine.primary.problem().map_or(Ok(()), Err));
    assert_eq!(hosts.end(), vec![], "they waited");
    machine.kill(engine, None);
    let engine = machine.start();
    story.judge_kill("after a kill", &machine, &engine);
}

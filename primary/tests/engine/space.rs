//! No space: hosts are told or wait, nothing answered is lost, and it goes on by itself when there is space again.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidemark_common::nbd::IoError;
use tidemark_tests::small_disk::SmallDisk;
use tidemark_tests::stamp::BLOCK_BYTES;
use tidemark_tests::wait::{check, wait_until};

use crate::hosts::{Hosts, Story};
use crate::machine::{Engine, JOURNAL, Machine, NEVER, SOON, Settings, VOLUMES};
use crate::staged::Call;

/// Writes what is there already and flushes until both are answered again.
fn wait_until_it_goes_on(machine: &Machine, engine: &Engine) {
    let spare = (machine.settings.volume_blocks - 1) * BLOCK_BYTES as u64;
    let same = machine.read(engine, 0, spare, BLOCK_BYTES);
    wait_until("hosts to be answered again", SOON, || {
        let written = machine.write(engine, 0, spare, &same);
        let answer = written.and_then(|()| machine.flush(engine));
        check(answer.is_ok() && engine.primary.problem().is_none(), || format!("{answer:?}"))
    });
}

/// Fills the disk under the journal while hosts write; all of them are told.
fn fill_disk(machine: &Machine, engine: &Engine, hosts: Hosts) {
    machine.disk.limit_space(Some(machine.disk.used_bytes()));
    wait_until("all hosts to be told", SOON, || check(hosts.have_ended(), || "they write".into()));
    assert_eq!(hosts.end(), vec![IoError::NoSpace; 4]);
    assert!(engine.primary.problem().is_some());
}

/// Volumes have their space already, so that the journal is all that needs more; what it holds is not trimmed.
fn settings() -> Settings {
    Settings { segments: 64, ..Settings::default() }
}

#[test]
fn hosts_are_told_of_a_full_disk_under_the_journal_and_go_on_when_there_is_space() {
    for seed in 0..3 {
        let machine = Machine::new(settings());
        let engine = machine.start();
        engine.disk.hold(Call::Write, VOLUMES);
        let story = Story::begin(&machine, &engine);
        let hosts = Hosts::start(&machine, &engine, &story, seed);
        fill_disk(&machine, &engine, hosts);
        story.judge_kill("while the disk is full", &machine, &engine);
        machine.disk.limit_space(None);
        engine.disk.release();
        wait_until("hosts to be let in", SOON, || {
            let hosts = Hosts::start(&machine, &engine, &story, seed + 100);
            hosts.wait_acked(20);
            let ended = hosts.end();
            story.judge_kill("while some are let in", &machine, &engine);
            check(ended.is_empty(), || format!("{ended:?}"))
        });
        machine.flush(&engine).unwrap();
        machine.kill(engine, None);
        let engine = machine.start();
        story.judge_kill("after it", &machine, &engine);
    }
}

#[test]
fn a_process_killed_on_a_full_disk_has_lost_nothing_answered() {
    for seed in 0..3 {
        let machine = Machine::new(settings());
        let engine = machine.start();
        engine.disk.hold(Call::Write, VOLUMES);
        let story = Story::begin(&machine, &engine);
        let hosts = Hosts::start(&machine, &engine, &story, seed);
        fill_disk(&machine, &engine, hosts);
        machine.kill(engine, None);
        let engine = machine.start();
        story.judge_kill("on the full disk", &machine, &engine);
        machine.disk.limit_space(None);
        story.judge_kill("with space again", &machine, &engine);
        wait_until_it_goes_on(&machine, &engine);
    }
}

/// A record, too, may be what finds the disk full: who asked for it is told, each who asked, and hosts are not held up for
/// what was not theirs.
#[test]
fn a_record_that_finds_the_disk_full_is_its_askers_to_know() {
    let machine = Machine::new(Settings { delay: NEVER, ..settings() });
    let engine = machine.start();
    machine.disk.limit_space(Some(machine.disk.used_bytes()));
    let record = || machine.soon("a record", engine.primary.record_volumes());
    let mut refused = record();
    while refused.is_ok() {
        refused = record();
    }
    let (first, second, third) = machine.soon("three records", async {
        let record = || engine.primary.record_volumes();
        tokio::join!(record(), record(), record())
    });
    for refused in [refused, first, second, third] {
        let reason = refused.unwrap_err();
        assert!(reason.contains("no storage space"), "{reason}");
    }
    machine.disk.limit_space(None);
    wait_until_it_goes_on(&machine, &engine);
    assert_eq!(record(), Ok(()));
}

/// A journal at its capacity is ours to solve: hosts wait, none is told.
#[test]
fn hosts_wait_for_a_full_journal_and_lose_nothing() {
    for seed in 0..3 {
        let machine = Machine::new(Settings { segments: 3, ..Settings::default() });
        let engine = machine.start();
        let story = Story::begin(&machine, &engine);
        engine.disk.hold(Call::Write, VOLUMES);
        let hosts = Hosts::start(&machine, &engine, &story, seed);
        wait_until("the journal to be full", SOON, || {
            let problem = engine.primary.problem();
            check(problem.as_ref().is_some_and(|problem| problem.contains("full")), || format!("{problem:?}"))
        });
        assert!(!hosts.have_ended());
        engine.disk.release();
        hosts.wait_acked(200);
        assert_eq!(hosts.end(), vec![]);
        wait_until_it_goes_on(&machine, &engine);
        machine.kill(engine, None);
        let engine = machine.start();
        story.judge_kill(&format!("seed {seed}"), &machine, &engine);
    }
}

/// Killed while it is full, and while the volumes are behind.
#[test]
fn a_process_killed_with_a_full_journal_goes_on_from_it() {
    let machine = Machine::new(Settings { segments: 3, ..Settings::default() });
    let engine = machine.start();
    let story = Story::begin(&machine, &engine);
    engine.disk.hold(Call::Write, VOLUMES);
    let hosts = Hosts::start(&machine, &engine, &story, 1);
    wait_until("the journal to be full", SOON, || {
        check(engine.primary.problem().is_some(), || "it takes writes".into())
    });
    machine.kill(engine, Some(hosts));
    let engine = machine.start();
    story.judge_kill("after the kill", &machine, &engine);
    wait_until_it_goes_on(&machine, &engine);
}

/// The volumes' disk and the journal's fail together; what waits for a full journal is told, and so is who comes later.
#[test]
fn hosts_are_told_when_a_sync_fails_behind_a_full_journal() {
    let machine = Machine::new(Settings {
        segments: 1,
        segment_bytes: 1 << 20,
        ring_bytes: 16 << 20,
        volume_blocks: 1024,
        delay: NEVER,
        ..Settings::default()
    });
    let engine = machine.start();
    // More entries than one frame takes: the first frame fits into the journal, the second does not.
    let mut random = StdRng::seed_from_u64(1);
    let mut noise = [0_u8; 512];
    for number in 0..2400 {
        random.fill(&mut noise);
        machine.write(&engine, 0, number * 1024, &noise).unwrap();
    }
    engine.disk.fail_next(Call::Sync, JOURNAL);
    assert_eq!(machine.flush(&engine), Err(IoError::Io));
    assert!(engine.disk.has_failed());
    wait_until("hosts to be told", SOON, || {
        let answer = machine.write(&engine, 0, 0, &noise);
        check(answer == Err(IoError::Io), || format!("{answer:?}"))
    });
}

/// The buffer's file system has no space for the buffer's first lap.
#[test]
fn hosts_are_told_of_a_full_disk_under_the_buffer_and_go_on_when_there_is_space() {
    let folder = || tempfile::Builder::new().prefix("tm").tempdir_in("/dev/shm").unwrap();
    // Its own folder, which goes when the disk has gone.
    let place = folder();
    let small = SmallDisk::mount(&place.path().join("small"), 16 << 20);
    let settings = Settings {
        ring_bytes: 6 << 20,
        segment_bytes: 8 << 20,
        delay: Duration::from_millis(1),
        ..Settings::default()
    };
    let ring = small.path().join("ring");
    let machine = Machine::with_ring(settings, folder(), ring);
    let engine = machine.start();
    let story = Story::begin(&machine, &engine);
    let ballast = small.fill();
    let hosts = Hosts::start(&machine, &engine, &story, 1);
    wait_until("all hosts to be told", SOON, || check(hosts.have_ended(), || "they write".into()));
    assert_eq!(hosts.end(), vec![IoError::NoSpace; 4]);
    let problem = engine.primary.problem().unwrap();
    assert!(problem.contains("no space") && problem.contains(&small.path().display().to_string()), "{problem}");
    story.judge_kill("while there is no space", &machine, &engine);
    machine.flush(&engine).unwrap();
    std::fs::remove_file(ballast).unwrap();
    assert_eq!(engine.primary.problem(), None);
    let hosts = Hosts::start(&machine, &engine, &story, 2);
    hosts.wait_acked(1000);
    assert_eq!(hosts.end(), vec![]);
    let (_, ended) = machine.kill(engine, None);
    assert_eq!(ended, vec![]);
    let engine = machine.start();
    story.judge_kill("after a kill", &machine, &engine);
}

//! Commits on a host's own task: made without the drain's thread, and never with the last thread there is.

use std::sync::Arc;

use tidemark_tests::wait::{check, wait_until};

use crate::machine::{JOURNAL, Machine, NEVER, SOON, Settings};
use crate::staged::Call;

/// The drain's thread sleeps unless something is wanted of it.
fn machine() -> Machine {
    Machine::new(Settings { delay: NEVER, ..Settings::default() })
}

#[test]
fn a_host_that_is_alone_makes_its_commit_itself() {
    let machine = machine();
    let engine = machine.start();
    let here = std::thread::current().id();
    // The thread may be at it just then.
    let mine = (0..100).filter(|round| {
        machine.write(&engine, 0, round * 4096, &[1; 4096]).unwrap();
        machine.soon("a flush", engine.volumes[0].flush_alone()).unwrap();
        assert_eq!(engine.primary.status().positions.journaled_seq, engine.captured());
        engine.disk.last_sync() == Some(here)
    });
    assert!(mine.count() > 50);
}

/// The disks of two groups hang, and a host of each waits for a commit: the runtime of two threads goes on.
#[test]
fn disks_that_hang_leave_the_runtime_a_thread() {
    let machines = [machine(), machine()];
    let engines = machines.each_ref().map(Machine::start);
    let runtime = machines[0].runtime.handle();
    let mut commits = Vec::new();
    for (machine, engine) in machines.iter().zip(&engines) {
        machine.write(engine, 0, 0, &[1; 4096]).unwrap();
        engine.disk.hold(Call::Sync, JOURNAL);
        let volume = Arc::clone(&engine.volumes[0]);
        commits.push(runtime.spawn(async move { volume.flush_alone().await }));
        wait_until("the disk to hang", SOON, || check(engine.disk.is_held(), || "it does not".into()));
    }
    let (told, hears) = std::sync::mpsc::sync_channel(1);
    runtime.spawn(async move { told.send(()) });
    hears.recv_timeout(SOON).expect("no thread is left");
    for engine in &engines {
        engine.disk.release();
    }
    for commit in commits {
        machines[0].soon("a commit", commit).unwrap().unwrap();
    }
}

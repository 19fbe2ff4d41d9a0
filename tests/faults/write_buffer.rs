//! A write buffer that is not where it was: looked for, missed, never forgotten.

use std::fs::{self, File};
use std::path::Path;

use tidemark_tests::cluster::Cluster;
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{Pair, Setup};

use crate::damage::{assert_everything_is_there, assert_names, killed, rings};

#[test]
fn a_ring_directory_that_changed_after_a_kill_costs_nothing() {
    let mut pair = killed(222);
    let old = rings(&pair).remove(0);
    let new = tempfile::Builder::new().prefix("tm").tempdir_in("/dev/shm").expect("a directory on tmpfs");
    pair.east.move_rings(new.path());
    assert_everything_is_there(&mut pair);
    let log = pair.east.log_text();
    assert!(log.contains(&old.display().to_string()), "says where it is: {log}");
    // A clean stop gives it up, and the next start has it where the configuration says.
    pair.east.restart();
    assert!(!old.exists(), "the ring of before is still there");
    pair.east.open("a").write(0, &[1; 4096]).expect("write");
    let made = fs::read_dir(new.path()).expect("the new place").count();
    assert_eq!(made, 1, "the ring is in the new place");
    pair.east.stop();
    assert_eq!(fs::read_dir(new.path()).expect("the new place").count(), 0, "a clean stop leaves nothing there");
}

#[test]
fn a_ring_that_was_moved_by_hand_is_found_in_the_new_place() {
    let mut pair = killed(223);
    let old = rings(&pair).remove(0);
    let new = tempfile::Builder::new().prefix("tm").tempdir_in("/dev/shm").expect("a directory on tmpfs");
    let folder = new.path().join(old.parent().and_then(Path::file_name).expect("its folder"));
    fs::create_dir(&folder).expect("make its folder");
    fs::copy(&old, folder.join(old.file_name().expect("its name"))).expect("copy the ring");
    fs::remove_file(&old).expect("remove the old one");
    pair.east.move_rings(new.path());
    assert_everything_is_there(&mut pair);
}

#[test]
fn a_ring_that_is_gone_is_missed_and_given_up_only_on_request_which_costs_nothing_that_was_flushed() {
    let mut pair = Pair::unpaired(&Setup::seeded(205));
    pair.prefill();
    let load = pair.load(0);
    load.wait_acked(600);
    load.stop();
    let before_flush = pair.history.tick();
    // Of any one volume: a flush covers the group.
    pair.east.open("a").flush().expect("flush");
    let load = pair.load(1);
    load.wait_acked(300);
    pair.east.kill9();
    drop(load.join_broken());
    let ring = rings(&pair).remove(0);
    fs::remove_file(&ring).expect("remove the ring");
    let reason = pair.east.start_damaged();
    assert_names(&reason, &ring);
    assert!(pair.east.try_open("a").is_err(), "served without what was acknowledged");
    // The reason says what to do, and what it says helps.
    let given_up = reason.split("`touch ").nth(1).and_then(|rest| rest.split('`').next()).expect("what to do");
    File::create(given_up).expect("touch it");
    pair.east.restart();
    let bounds = Bounds { holds_acked_before: Some(before_flush), nothing_sent_after: None };
    let image = pair.image(&pair.east);
    let verdict = assert_legal("after the loss", &pair.history.writes(), &image, bounds);
    pair.history.settle(&verdict);
    let load = pair.load(2);
    load.wait_acked(300);
    load.stop();
    let image = pair.image(&pair.east);
    assert_legal("it goes on", &pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
    assert!(!Path::new(given_up).exists(), "it counts once");
}

#[test]
fn a_ring_directory_that_is_not_there_is_named_and_not_made() {
    let mut pair = Pair::unpaired(&Setup::one_volume("v", 1 << 20, 224));
    let nowhere = pair.cluster.join("nowhere");
    pair.east.stop();
    pair.east.move_rings(&nowhere);
    let reason = pair.east.start_damaged();
    assert_names(&reason, &nowhere);
    assert!(!nowhere.exists(), "a folder was made where a tmpfs should be mounted");
}

/// Nothing needs it yet: it is told before a failover finds out.
#[test]
fn a_ring_directory_that_is_not_there_is_told_at_the_start() {
    let cluster = Cluster::new();
    let nowhere = cluster.join("nowhere");
    let mut east = cluster.appliance("east");
    east.move_rings(&nowhere);
    east.start();
    let log = east.log_text();
    let told = log.lines().filter(|line| line.contains("ring_directory cannot be used"));
    assert!(told.clone().count() == 1 && told.clone().all(|line| line.contains("nowhere")), "{log}");
    let made = east.ok(&["volume", "create", "v", "--size", "1MiB"]);
    assert!(made.is_empty(), "what needs no write buffer works: {made}");
}

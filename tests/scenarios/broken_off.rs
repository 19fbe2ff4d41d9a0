//! A copy that an operator suspends or deletes in the middle: nothing half-made is served or stays behind, and it ends when it
//! is asked for again.

use std::path::Path;
use std::time::Duration;

use tidemark_common::api::types::{PairState, RejoinReport};
use tidemark_tests::impairment::Weather;
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

const LIMIT: Duration = Duration::from_secs(40);
const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;

fn slow(pair: &Pair) {
    pair.relay.set(Weather { bytes_per_second: Some(8_000_000), ..Weather::default() });
}

fn fast(pair: &Pair) {
    pair.relay.set(Weather::default());
}

/// Waits until some of the copy has arrived, and much is still to come.
fn wait_in_the_middle(pair: &Pair, state: PairState) {
    let status = pair.west.wait_pair(GROUP, "the middle of the copy", LIMIT, |pair| {
        pair.copy.is_some_and(|copy| copy.done_bytes > 0) && pair.state == state
    });
    let copy = status.copy.expect("a copy under way");
    assert!(copy.done_bytes < copy.total_bytes * 3 / 4, "{copy:?}");
}

fn suspend(pair: &Pair) {
    pair.east.ok(&["pair", "suspend", GROUP, "--to", "west"]);
    pair.east.wait_pair(GROUP, "the pair to be suspended", LIMIT, |pair| pair.state == PairState::Suspended);
    pair.west.wait_pair(GROUP, "the link to be gone", LIMIT, |pair| !pair.connected && pair.reason.is_some());
    // It stands: what is written meanwhile comes over when it goes on.
    let sent = pair.relay.forward().bytes();
    write_noise(&pair.east, "v", 8 * MIB, MIB, 77);
    let _ = pair.cut();
    assert!(pair.relay.forward().bytes() - sent < MIB, "a suspended pair sends nothing");
}

fn resume(pair: &Pair) {
    pair.east.ok(&["pair", "resume", GROUP, "--to", "west"]);
}

fn delete(pair: &Pair) {
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    assert!(pair.east.group(GROUP).pairs.is_empty());
    pair.west.wait_pair(GROUP, "the link to be gone", LIMIT, |pair| !pair.connected);
    write_noise(&pair.east, "v", 8 * MIB, MIB, 78);
}

/// Both give the group's pair up: neither keeps anything of it but the volume.
fn assert_cleaned_up(pair: &Pair) {
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    pair.west.wait_pair(GROUP, "the link to be gone", LIMIT, |pair| !pair.connected);
    pair.west.ok(&["pair", "delete", GROUP, "--to", "east"]);
    assert!(pair.west.try_group(GROUP).is_none());
    assert!(pair.west.files(|name| name.ends_with(".segment")).is_empty(), "a journal stays behind");
    pair.west.ok(&["volume", "delete", "v"]);
    assert!(pair.west.status().volumes.is_empty());
    // On the primary nothing is kept for the pair any more: its journal shrinks to what is not yet in the volume.
    wait_until("the primary's journal to be free", LIMIT, || {
        let _ = pair.cut();
        let journal = pair.east.group(GROUP).journal;
        check(journal.bytes < 32 * MIB, || format!("{journal:?}"))
    });
    pair.create();
    pair.assert_same();
}

#[test]
fn an_initial_copy_that_is_suspended_and_deleted_in_the_middle_ends_when_it_is_asked_for_again() {
    let mut pair = Pair::unpaired(&Setup::one_volume("v", SIZE, 141));
    write_noise(&pair.east, "v", 0, SIZE, 1);
    slow(&pair);
    pair.create();
    wait_in_the_middle(&pair, PairState::InitialCopy);
    suspend(&pair);
    let refused = pair.west.refuses(&["failover", GROUP, "--force"]);
    assert!(refused.contains("no usable copy"), "{refused}");
    // Both sides know it after a restart, too.
    pair.east.kill9();
    pair.west.kill9();
    pair.west.start();
    pair.east.start();
    assert_eq!(pair.east.pair(GROUP).state, PairState::Suspended);
    resume(&pair);
    wait_in_the_middle(&pair, PairState::InitialCopy);
    delete(&pair);
    let refused = pair.west.refuses(&["failover", GROUP, "--force"]);
    assert!(refused.contains("no usable copy"), "{refused}");
    pair.create();
    wait_in_the_middle(&pair, PairState::InitialCopy);
    fast(&pair);
    pair.assert_same();
    assert_cleaned_up(&pair);
}

/// Nobody can tell the copy of it: what its status says is all that an operator there has.
#[test]
fn a_copy_whose_pair_was_deleted_behind_a_cut_link_says_what_can_be_done() {
    let pair = Pair::paired(&Setup::one_volume("v", 4 * MIB, 144));
    pair.relay.cut();
    pair.west.wait_pair(GROUP, "the link to be gone", LIMIT, |pair| !pair.connected);
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    pair.relay.heal();
    let said = pair.west.pair(GROUP).reason.unwrap_or_default();
    let (again, up) = ("`tidemark pair create g --to west` there", "`tidemark pair delete g --to east` here");
    assert!(said.contains(again) && said.contains(up), "{said}");
    pair.create();
    pair.assert_same();
    // Over a link that is up, it is told.
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    pair.west.wait_pair(GROUP, "the copy to be told", LIMIT, |pair| {
        let said = pair.reason.as_deref().unwrap_or_default();
        said.contains("was deleted on 'east'") && said.contains(up)
    });
    pair.west.ok(&["pair", "delete", GROUP, "--to", "east"]);
    assert!(pair.west.try_group(GROUP).is_none());
}

#[test]
fn a_first_copy_that_is_given_up_on_both_sides_in_the_middle_leaves_nothing() {
    let pair = Pair::unpaired(&Setup::one_volume("v", SIZE, 142));
    write_noise(&pair.east, "v", 0, SIZE, 1);
    slow(&pair);
    pair.create();
    wait_in_the_middle(&pair, PairState::InitialCopy);
    fast(&pair);
    assert_cleaned_up(&pair);
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("make the folder");
    for file in std::fs::read_dir(from).expect("its files").flatten() {
        std::fs::copy(file.path(), to.join(file.file_name())).expect("copy it");
    }
}

/// A kill in the middle of giving a copy up may leave its journal, and the markers in it permit what is in none of the volumes made since.
#[test]
fn what_a_kill_has_left_of_a_copy_that_was_given_up_is_no_part_of_the_next() {
    let mut pair = Pair::unpaired(&Setup::one_volume("v", SIZE, 144).journals("128MiB", "128MiB"));
    write_noise(&pair.east, "v", 0, SIZE, 1);
    pair.create();
    pair.wait_paired();
    pair.settle();
    let journal = pair.west.directory().join("groups").join(pair.west.group(GROUP).id).join("journal");
    let aside = pair.cluster.join("journal-of-west");
    pair.west.stop();
    copy_files(&journal, &aside);
    pair.west.start();
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    pair.west.wait_pair(GROUP, "the link to be gone", LIMIT, |pair| !pair.connected);
    pair.west.ok(&["pair", "delete", GROUP, "--to", "east"]);
    pair.west.ok(&["volume", "delete", "v"]);
    pair.west.kill9();
    copy_files(&aside, &journal);
    pair.west.start();
    slow(&pair);
    pair.create();
    wait_in_the_middle(&pair, PairState::InitialCopy);
    assert_eq!(pair.west.pair(GROUP).permitted_marker, 0, "there is no image yet");
    let refused = pair.west.refuses(&["failover", GROUP, "--force"]);
    assert!(refused.contains("no usable copy"), "{refused}");
    fast(&pair);
    pair.assert_same();
}

/// The journal was given up: all of the volume is being copied beside the old image, which is returned.
fn in_the_middle_of_a_resync(seed: u64) -> (Pair, Vec<u8>) {
    let pair = Pair::paired(&Setup::one_volume("v", SIZE, seed).journals("64MiB", "512MiB"));
    write_noise(&pair.east, "v", 0, SIZE, 1);
    pair.settle();
    pair.relay.cut();
    for round in 0..2 {
        write_noise(&pair.east, "v", 0, SIZE, 2 + round);
    }
    pair.east.wait_pair(GROUP, "the fall back", LIMIT, |pair| pair.state == PairState::Differential);
    slow(&pair);
    wait_in_the_middle(&pair, PairState::Resync);
    (pair, noise(1, SIZE))
}

#[test]
fn a_resync_that_is_suspended_and_deleted_in_the_middle_keeps_the_image_and_ends_when_it_is_asked_for_again() {
    let (pair, before) = in_the_middle_of_a_resync(143);
    let same = |what: &str| assert!(pair.backing(&pair.west)[0] == before, "{what}: the old image is another");
    same("in the middle");
    suspend(&pair);
    same("suspended");
    assert!(pair.west.pair(GROUP).permitted_marker > 0, "the old image can be had");
    resume(&pair);
    wait_in_the_middle(&pair, PairState::Resync);
    delete(&pair);
    same("deleted");
    assert!(pair.west.pair(GROUP).permitted_marker > 0, "the old image can be had");
    fast(&pair);
    pair.create();
    pair.assert_same();
    // What was staged for a copy that never ended is gone with it.
    wait_until("the copy's journal to be free", LIMIT, || {
        pair.settle();
        let journal = pair.west.group(GROUP).journal;
        check(journal.bytes < 64 * MIB, || format!("{journal:?}"))
    });
    assert_cleaned_up(&pair);
}

/// The primary is lost while half of the new image is there: hosts get the old one, to the last byte, also where the copy was killed before.
#[test]
fn a_failover_in_the_middle_of_a_resync_serves_the_old_image_exactly() {
    for (seed, kill_west) in [(144, false), (145, true)] {
        let (mut pair, before) = in_the_middle_of_a_resync(seed);
        let permitted = pair.west.pair(GROUP).permitted_marker;
        assert!(permitted > 0, "the old image can be had");
        pair.east.kill9();
        if kill_west {
            pair.west.kill9();
            pair.west.start();
        }
        let report = pair.failover();
        assert_eq!(report.marker.number, permitted, "{report:?}");
        assert!(pair.west.open("v").read_all().expect("read") == before, "served is another image");
        pair.west.open("v").write(MIB, &[7; 4096]).expect("it takes writes");
        pair.west.kill9();
        pair.west.start();
        let mut expected = before;
        expected[(1 << 20)..(1 << 20) + 4096].fill(7);
        assert!(pair.west.open("v").read_all().expect("read") == expected, "another image after a kill");
        // The old primary had all of the new image alone: it is kept, and the side returns.
        fast(&pair);
        pair.east.start();
        pair.east.wait_fenced(GROUP);
        let returned: RejoinReport = pair.east.json(&["rejoin", GROUP]);
        assert!(returned.lost_writes > 0 && returned.kept.is_some(), "{returned:?}");
        pair.wait_paired();
        pair.assert_copied(&pair.west, &pair.east);
        assert!(pair.backing(&pair.east)[0] == expected, "the copy is another image");
    }
}

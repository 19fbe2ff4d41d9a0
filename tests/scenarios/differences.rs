//! What the other side lacks is known, whatever happens meanwhile: volumes that grow, journals that fill, copies that are
//! not what they were.

use std::path::Path;
use std::time::Duration;

use tidemark_common::api::types::PairState;
use tidemark_tests::command::run;
use tidemark_tests::impairment::Weather;
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};

const LIMIT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

#[test]
fn what_a_volume_grew_by_before_its_first_copy_is_copied() {
    let mut pair = Pair::unpaired(&Setup::one_volume("v", 16 * MIB, 81));
    write_noise(&pair.east, "v", 0, 4 * MIB, 1);
    pair.west.kill9();
    pair.create();
    pair.east.ok(&["volume", "resize", "v", "--size", "32MiB"]);
    write_noise(&pair.east, "v", 20 * MIB, 4 * MIB, 2);
    pair.west.start();
    pair.assert_same();
}

#[test]
fn growing_over_what_a_backing_held_already_copies_it() {
    let pair = Pair::unpaired(&Setup::one_volume("first", MIB, 82));
    let backing = pair.cluster.join("device").display().to_string();
    std::fs::write(&backing, noise(3, 64 * MIB)).expect("a backing with old content");
    pair.east.ok(&["volume", "create", "v", "--size", "32MiB", "--backing", &backing]);
    pair.east.ok(&["group", "add", GROUP, "--volume", "v"]);
    pair.create();
    pair.wait_paired();
    pair.east.ok(&["volume", "resize", "v", "--size", "64MiB"]);
    pair.wait_paired();
    pair.settle();
    let original = pair.east.open("v").read_all().expect("read the original");
    let path = pair.west.status().volumes.into_iter().find(|volume| volume.name == "v").expect("the copy").backing;
    let copy = std::fs::read(path).expect("read the copy");
    assert_eq!(copy.len(), original.len());
    assert!(copy == original, "the copy of what was uncovered differs");
}

#[test]
fn a_journal_that_cannot_be_kept_becomes_a_bitmap_and_the_copy_comes_back_by_itself() {
    let pair = Pair::paired(&Setup::one_volume("v", 96 * MIB, 83).journals("64MiB", "64MiB"));
    write_noise(&pair.east, "v", 0, 8 * MIB, 4);
    pair.settle();
    let before = pair.backing(&pair.west);
    pair.relay.cut();
    for round in 0..12 {
        write_noise(&pair.east, "v", 4 * MIB, 8 * MIB, 5 + round);
    }
    let status = pair.east.wait_pair(GROUP, "the fall back", LIMIT, |pair| pair.state == PairState::Differential);
    assert!(status.differential_bytes > 0 && status.reason.is_some(), "{status:?}");
    assert!(status.rpo_seconds.is_none_or(|rpo| rpo > 0.0), "content is missing over there: {status:?}");
    assert_eq!(pair.backing(&pair.west), before, "the old image stays");
    pair.relay.heal();
    pair.assert_same();
    assert_eq!(pair.east.pair(GROUP).differential_bytes, 0);
}

#[test]
fn a_copy_under_journal_pressure_converges_and_sends_nothing_twice_that_arrived() {
    let setup = Setup::one_volume("v", 96 * MIB, 84).journals("64MiB", "64MiB");
    let pair = Pair::unpaired(&setup);
    write_noise(&pair.east, "v", 0, 96 * MIB, 6);
    pair.relay.set(Weather { bytes_per_second: Some(16_000_000), ..Weather::default() });
    pair.create();
    pair.west.wait_pair(GROUP, "part of the copy", COPY_LIMIT, |pair| {
        pair.copy.is_some_and(|copy| copy.done_bytes > 40 * MIB)
    });
    let before = pair.relay.forward().bytes();
    // One hot region, more often than the journal can hold it: the copy has to give frames up and begin again.
    for round in 0..12 {
        write_noise(&pair.east, "v", 0, 6 * MIB, 100 + round);
    }
    pair.relay.set(Weather { bytes_per_second: Some(40_000_000), ..Weather::default() });
    pair.wait_paired();
    let sent = pair.relay.forward().bytes() - before;
    pair.relay.set(Weather::default());
    pair.assert_copy_equals();
    assert!(sent < 200 * MIB, "{sent} bytes sent: the copy began from zero more than once");
}

/// Copies a stopped appliance's directory aside, or back.
fn copy_directory(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    run("cp", &["-a", &from.display().to_string(), &to.display().to_string()]).done();
}

#[test]
fn a_copy_restored_from_a_backup_is_never_taken_for_what_it_was() {
    let mut pair = Pair::paired(&Setup::one_volume("v", 64 * MIB, 85).journals("32MiB", "256MiB"));
    write_noise(&pair.east, "v", 0, MIB, 7);
    pair.settle();
    let kept = pair.cluster.join("kept");
    pair.west.stop();
    copy_directory(pair.west.directory(), &kept);
    pair.west.start();
    pair.wait_paired();
    // Journaled over there, applied, and long trimmed on this side: no bitmap knows of it.
    for round in 0..4 {
        write_noise(&pair.east, "v", 8 * MIB, 16 * MIB, 8 + round);
        pair.settle();
    }
    pair.west.kill9();
    copy_directory(&kept, pair.west.directory());
    // The journal cannot be kept meanwhile: what is known is a bitmap of what came after.
    write_noise(&pair.east, "v", 32 * MIB, 32 * MIB, 20);
    pair.east.wait_pair(GROUP, "the fall back", LIMIT, |pair| pair.differential_bytes > 0);
    pair.west.start();
    let status =
        pair.east.wait_pair(GROUP, "the other history to be seen", LIMIT, |pair| pair.state == PairState::Error);
    assert!(status.reason.as_deref().is_some_and(|why| why.contains("tidemark pair create")), "{status:?}");
    let copy = pair.west.pair(GROUP);
    assert!(copy.state != PairState::Paired || !copy.connected, "{copy:?}");
    // What the reason says helps.
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    pair.create();
    pair.assert_same();
}

#[test]
fn an_interval_larger_than_the_copys_journal_is_cut_in_time() {
    let pair = Pair::paired(&Setup::one_volume("v", 64 * MIB, 86).journals("1GiB", "160MiB").interval("1h"));
    for round in 0..6 {
        write_noise(&pair.east, "v", 0, 64 * MIB, 30 + round);
    }
    pair.assert_same();
}

#[test]
fn a_copy_put_back_to_before_a_volume_joined_is_not_followed() {
    let mut pair = Pair::paired(&Setup::one_volume("v", 16 * MIB, 88));
    write_noise(&pair.east, "v", 0, MIB, 11);
    pair.settle();
    let kept = pair.cluster.join("kept");
    pair.west.stop();
    copy_directory(pair.west.directory(), &kept);
    pair.west.start();
    pair.east.ok(&["volume", "create", "w", "--size", "8MiB"]);
    write_noise(&pair.east, "w", 0, 8 * MIB, 12);
    pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
    pair.wait_paired();
    write_noise(&pair.east, "v", 0, MIB, 13);
    pair.settle();
    pair.west.stop();
    copy_directory(&kept, pair.west.directory());
    // The journal still holds that place, and not what the volume brought.
    pair.west.start();
    let status = pair.east.wait_pair(GROUP, "the gap to be seen", LIMIT, |pair| pair.state == PairState::Error);
    assert!(status.reason.as_deref().is_some_and(|why| why.contains("tidemark pair create")), "{status:?}");
    assert!(status.rpo_seconds.is_none_or(|rpo| rpo > 0.0), "nobody knows how old it is: {status:?}");
}

#[test]
fn a_copy_whose_begin_was_lost_begins_again_without_a_person() {
    let pair = Pair::paired(&Setup::one_volume("v", 48 * MIB, 89).journals("256MiB", "256MiB"));
    pair.relay.set(Weather { bytes_per_second: Some(1_000_000), ..Weather::default() });
    // Far behind: the copy stands at a place that only the journal knows.
    write_noise(&pair.east, "v", 0, 40 * MIB, 14);
    pair.east.ok(&["volume", "create", "w", "--size", "1MiB"]);
    write_noise(&pair.east, "w", 0, MIB, 15);
    pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
    pair.east.wait_pair(GROUP, "the copy to begin", LIMIT, |pair| pair.state == PairState::Resync);
    pair.relay.cut();
    pair.east.wait_pair(GROUP, "the loss of the link to be noticed", LIMIT, |pair| !pair.connected);
    write_noise(&pair.east, "v", 0, 20 * MIB, 16);
    pair.relay.set(Weather::default());
    pair.relay.heal();
    pair.assert_same();
}

//! Sources restored from their targets.

use tidemark_common::api::local_pair::types::LocalPairState;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::image::compare;
use tidemark_tests::noise::write_noise;
use tidemark_tests::pair::{Pair, Setup};

use super::{
    TARGETS, assert_closed, assert_same, make_targets, sources, split, targets, wait_alone, wait_equal, wait_shown,
    wait_state,
};

#[test]
fn a_reverse_restores_the_source_with_what_was_written_to_the_target_and_replicates_it() {
    let mut pair = Pair::prefilled(&Setup::seeded(212));
    make_targets(&pair, &pair.east, "1GiB");
    wait_state(&pair.east, LocalPairState::Pair);
    let load = pair.load(0);
    load.wait_acked(100);
    split(&pair, &pair.east);
    load.wait_acked(200);
    let why = pair.east.refuses(&["local-pair", "reverse", "ta"]);
    assert!(why.contains("NBD connection"), "{why}");
    load.stop();
    wait_equal(&pair.east);
    pair.east.open("ta").write(8192, &[3; 512]).expect("write to a target");
    let expected = targets(&pair.east);
    ["a", "b", "c", "ta", "tb", "tc"].iter().for_each(|name| wait_alone(&pair.east, name));
    for target in TARGETS {
        pair.east.ok(&["local-pair", "reverse", target]);
    }
    wait_state(&pair.east, LocalPairState::Pair);
    assert_same("restored", &sources(&pair.east), &expected);
    pair.assert_copy_equals();
    // And again, killed in the middle: the source stays closed until it is done.
    TARGETS.iter().for_each(|name| wait_alone(&pair.east, name));
    for (source, target) in pair.volumes().iter().zip(TARGETS) {
        pair.east.ok(&["local-pair", "delete", target]);
        pair.east.ok(&["local-pair", "create", source, "--target", target, "--rate", "3MiB"]);
    }
    wait_state(&pair.east, LocalPairState::Pair);
    split(&pair, &pair.east);
    wait_equal(&pair.east);
    for source in ["a", "b", "c"] {
        let mut host = pair.east.open(source);
        host.write_all(0, &vec![0x55; 6 << 20]).expect("write to a source");
        host.flush().expect("flush a source");
        drop(host);
        wait_alone(&pair.east, source);
    }
    for target in TARGETS {
        pair.east.ok(&["local-pair", "reverse", target]);
    }
    wait_shown(&pair.east, "ta", "half restored", |shown| (1..5 << 20).contains(&shown.differential_bytes));
    assert_closed(&pair.east, "a", "being restored from 'ta'");
    assert!(pair.east.refuses(&["local-pair", "delete", "ta"]).contains("half restored"));
    pair.east.kill9();
    pair.east.start();
    assert_closed(&pair.east, "a", "being restored from 'ta'");
    wait_state(&pair.east, LocalPairState::Pair);
    assert_same("restored over a kill", &sources(&pair.east), &expected);
    pair.wait_paired();
    pair.assert_copy_equals();
}

/// Two that restored one source at once would make it neither, and so would be a backup of it now. One after the other is fine.
#[test]
fn a_source_is_restored_from_one_target_at_a_time_and_not_backed_up_meanwhile() {
    let cluster = Cluster::new();
    let side = cluster.running("alone");
    for volume in ["a", "t", "u"] {
        side.ok(&["volume", "create", volume, "--size", "4MiB"]);
    }
    side.ok(&["group", "create", "g", "--volume", "a"]);
    side.ok(&["set", "create", "s", "a"]);
    write_noise(&side, "a", 0, 4 << 20, 1);
    let held = side.open("a").read_all().expect("read the source");
    for target in ["t", "u"] {
        side.ok(&["local-pair", "create", "a", "--target", target, "--rate", "1MiB"]);
    }
    side.ok(&["local-pair", "split", "t", "u"]);
    for target in ["t", "u"] {
        wait_shown(&side, target, "equal", |shown| shown.differential_bytes == 0);
    }
    side.open("t").write(0, &[7; 4096]).expect("write to a target");
    write_noise(&side, "a", 0, 4 << 20, 2);
    ["a", "t", "u"].iter().for_each(|name| wait_alone(&side, name));
    side.ok(&["local-pair", "reverse", "t"]);
    let to = cluster.join("b.tar").display().to_string();
    for words in [&["local-pair", "reverse", "u"][..], &["backup", "create", "b", "--set", "s", "--to", &to]] {
        let why = side.refuses(words);
        assert!(why.contains("volume 'a' is being restored from 't'"), "{words:?}: {why}");
    }
    wait_shown(&side, "t", "a pair", |shown| shown.state == LocalPairState::Pair);
    let mut expected = held.clone();
    expected[..4096].fill(7);
    compare(&side.open("a").read_all().expect("read the source"), &expected).expect("what the first target was");
    wait_alone(&side, "a");
    side.ok(&["local-pair", "reverse", "u"]);
    wait_shown(&side, "u", "a pair", |shown| shown.state == LocalPairState::Pair);
    compare(&side.open("a").read_all().expect("read the source"), &held).expect("what the second target was");
}

/// What differs is written back to the source, and nothing else: each write of it goes to the journal and over the line.
#[test]
fn a_reverse_writes_only_what_differs() {
    let cluster = Cluster::new();
    let side = cluster.running("alone");
    for volume in ["a", "t"] {
        side.ok(&["volume", "create", volume, "--size", "64MiB"]);
    }
    side.ok(&["group", "create", "g", "--volume", "a"]);
    write_noise(&side, "a", 0, 64 << 20, 1);
    let mut expected = side.open("a").read_all().expect("read the source");
    side.ok(&["local-pair", "create", "a", "--target", "t", "--rate", "1GiB"]);
    wait_shown(&side, "t", "a pair", |shown| shown.state == LocalPairState::Pair && shown.differential_bytes == 0);
    side.ok(&["local-pair", "split", "t"]);
    wait_shown(&side, "t", "complete", |shown| shown.differential_bytes == 0);
    side.open("a").write(10 << 20, &[9; 4096]).expect("write to the source");
    side.open("t").write(20 << 20, &[7; 4096]).expect("write to the target");
    expected[20 << 20..][..4096].fill(7);
    wait_shown(&side, "t", "changed", |shown| {
        (shown.source_changed_bytes, shown.target_changed_bytes) == (65_536, 65_536)
    });
    ["a", "t"].iter().for_each(|name| wait_alone(&side, name));
    let before = side.group("g").positions.captured_seq;
    side.ok(&["local-pair", "reverse", "t"]);
    wait_shown(&side, "t", "a pair", |shown| shown.state == LocalPairState::Pair);
    let written = side.group("g").positions.captured_seq - before;
    assert!((2..8).contains(&written), "two regions of a thousand, not {written} writes");
    compare(&side.open("a").read_all().expect("read the source"), &expected).expect("what the target was");
}

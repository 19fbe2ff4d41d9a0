//! A copy keeps the image it had until the new one is complete: what has to be staged for that finds room, or it is said so.

use std::time::Duration;

use tidemark_common::api::types::PairState;
use tidemark_tests::impairment::Weather;
use tidemark_tests::noise::write_noise;
use tidemark_tests::pair::{GROUP, Pair, Setup};

const LIMIT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

/// As the reasons say.
fn raise_the_journal(pair: &mut Pair) {
    pair.west.stop();
    let path = pair.west.directory().join("config.toml");
    let text = std::fs::read_to_string(&path).expect("read config.toml");
    std::fs::write(&path, text.replacen("\"64MiB\"", "\"512MiB\"", 1)).expect("write config.toml");
    pair.west.start();
}

/// West misses more than its journal can hold beside its image: nothing is sent, and the reason says what there is to do.
fn too_large_a_resync(seed: u64) -> (Pair, Vec<Vec<u8>>) {
    let pair = Pair::paired(&Setup::one_volume("v", 160 * MIB, seed).journals("64MiB", "64MiB"));
    write_noise(&pair.east, "v", 0, MIB, 9);
    pair.settle();
    let before = pair.backing(&pair.west);
    pair.relay.cut();
    write_noise(&pair.east, "v", 0, 160 * MIB, 10);
    pair.east.wait_pair(GROUP, "the fall back", LIMIT, |pair| pair.state == PairState::Differential);
    let held = pair.west.group(GROUP).journal.bytes;
    pair.relay.heal();
    pair.east.wait_pair(GROUP, "the reason", LIMIT, |pair| {
        pair.reason.as_deref().is_some_and(|why| why.contains("raise journal_bytes") && why.contains("--in-place"))
    });
    assert_eq!(pair.east.pair(GROUP).state, PairState::Differential);
    pair.west.wait_pair(GROUP, "the copy to know that it is not the link", LIMIT, |pair| {
        let told = pair.reason.as_deref().is_some_and(|why| why.contains("'east' sends nothing"));
        told && pair.stands && !pair.connected
    });
    assert_eq!(pair.backing(&pair.west), before, "the old image stays");
    assert_eq!(pair.west.group(GROUP).journal.bytes, held, "found out before, not in the middle");
    (pair, before)
}

#[test]
fn a_resync_that_finds_no_room_is_not_begun_and_goes_on_by_itself_when_there_is() {
    let (mut pair, _) = too_large_a_resync(87);
    raise_the_journal(&mut pair);
    pair.assert_same();
}

#[test]
fn an_image_is_given_up_for_a_resync_only_when_the_operator_says_so() {
    let (mut pair, before) = too_large_a_resync(89);
    // The old image is what a failover would serve, as long as nobody says otherwise.
    pair.west.restart();
    assert_eq!(pair.backing(&pair.west), before);
    assert!(pair.west.pair(GROUP).permitted_marker > 0);
    let sent = pair.relay.forward().bytes();
    pair.east.ok(&["pair", "resume", GROUP, "--to", "west", "--in-place"]);
    pair.east.wait_pair(GROUP, "the copy in place", LIMIT, |pair| pair.state == PairState::InitialCopy);
    pair.west.kill9();
    pair.west.start();
    pair.assert_same();
    let sent = pair.relay.forward().bytes() - sent;
    assert!(sent < 330 * MIB, "{sent} bytes for what differs");
    let refused = pair.east.refuses(&["pair", "resume", GROUP, "--to", "west", "--in-place"]);
    assert!(refused.contains("nothing has to be copied"), "{refused}");
}

/// What it may come to is said before the first byte is changed, with the numbers; and it comes to that, the link being down.
#[test]
fn a_restore_that_the_copy_may_not_follow_says_so_before() {
    let pair = Pair::paired(&Setup::one_volume("v", 160 * MIB, 426).journals("64MiB", "64MiB"));
    let east = &pair.east;
    // So that the copy follows.
    for piece in 0..10 {
        write_noise(east, "v", 16 * MIB * piece, 16 * MIB, 9 + piece);
        pair.settle();
    }
    east.ok(&["set", "create", "all", "v"]);
    let archive = pair.cluster.join("b.tar").display().to_string();
    east.ok(&["backup", "create", "b", "--set", "all", "--to", &archive, "--wait"]);
    pair.relay.cut();
    east.wait_without_hosts(LIMIT);
    let restored = east.cli(&["backup", "restore", "b", "--onto-volumes"]);
    assert_eq!(restored.code, 0, "{restored:?}");
    for word in ["160 MiB", "'west' may not follow", "48 MiB", "journal_bytes to at least 214 MiB", "--in-place"] {
        assert!(restored.stderr.contains(word), "{word}: {restored:?}");
    }
    assert_eq!(restored.stderr.matches("warning: ").count(), 1, "{restored:?}");
    east.wait_pair(GROUP, "the fall back", LIMIT, |pair| pair.state == PairState::Differential);
    pair.relay.heal();
    east.wait_pair(GROUP, "the reason", LIMIT, |pair| {
        pair.stands && pair.reason.as_deref().is_some_and(|why| why.contains("raise journal_bytes"))
    });
}

/// A pair that stands for one volume stands for all of its group: it is said before, and is over when that volume has left again.
#[test]
fn a_volume_that_finds_no_room_over_there_is_refused_and_leaves_nothing_behind_when_it_is_taken_out() {
    let pair = Pair::paired(&Setup::one_volume("v", 16 * MIB, 252).journals("512MiB", "64MiB"));
    write_noise(&pair.east, "v", 0, MIB, 33);
    pair.settle();
    pair.east.ok(&["volume", "create", "w", "--size", "160MiB"]);
    let refused = pair.east.refuses(&["group", "add", GROUP, "--volume", "w"]);
    for word in ["160 MiB", "48 MiB", "journal_bytes", "--force", "--in-place"] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    assert_eq!(pair.east.group(GROUP).volumes, ["v"]);
    pair.east.ok(&["group", "add", GROUP, "--volume", "w", "--force"]);
    pair.east.wait_pair(GROUP, "the reason", LIMIT, |pair| {
        pair.stands && pair.reason.as_deref().is_some_and(|why| why.contains("raise journal_bytes"))
    });
    write_noise(&pair.east, "v", 2 * MIB, MIB, 34);
    write_noise(&pair.east, "w", 0, MIB, 35);
    pair.east.ok(&["group", "remove", GROUP, "--volume", "w"]);
    pair.east.wait_pair(GROUP, "the pair to go on by itself", LIMIT, |pair| {
        pair.state == PairState::Paired && pair.differential_bytes == 0
    });
    pair.assert_same();
    assert_eq!(pair.west.group(GROUP).volumes, ["v"]);
}

/// The pair followed until a volume came that finds no room beside the image over there: what the reason advises is done, on both sides.
#[test]
fn a_volume_that_finds_no_room_is_copied_in_place_when_the_operator_says_so() {
    let mut pair = Pair::paired(&Setup::one_volume("v", MIB, 101).journals("512MiB", "64MiB"));
    write_noise(&pair.east, "v", 0, MIB, 33);
    pair.settle();
    pair.east.ok(&["volume", "create", "w", "--size", "96MiB"]);
    write_noise(&pair.east, "w", 0, 96 * MIB, 34);
    pair.east.ok(&["group", "add", GROUP, "--volume", "w", "--force"]);
    let status = pair.east.wait_pair(GROUP, "the reason", LIMIT, |pair| {
        pair.reason.as_deref().is_some_and(|why| why.contains("raise journal_bytes") && why.contains("--in-place"))
    });
    assert_eq!(status.state, PairState::Differential, "a volume is missing over there: {status:?}");
    assert!(pair.west.pair(GROUP).permitted_marker > 0, "the old image stays");
    pair.relay.set(Weather { bytes_per_second: Some(16_000_000), ..Weather::default() });
    pair.east.ok(&["pair", "resume", GROUP, "--to", "west", "--in-place"]);
    pair.west.wait_pair(GROUP, "the image to be given up", LIMIT, |pair| pair.permitted_marker == 0);
    let status =
        pair.east.wait_pair(GROUP, "the copy", LIMIT, |pair| pair.copy.is_some_and(|copy| copy.done_bytes > 0));
    assert_eq!(status.state, PairState::InitialCopy, "no image that is kept: {status:?}");
    assert_eq!(pair.west.pair(GROUP).state, PairState::InitialCopy);
    pair.east.kill9();
    pair.east.start();
    pair.relay.set(Weather::default());
    pair.assert_same();
}

/// What the write buffer holds when a cut is made is one interval, and has to be held over there as one.
#[test]
fn a_burst_into_an_empty_buffer_fits_the_copys_journal() {
    let pair = Pair::paired(&Setup::one_volume("v", 64 * MIB, 97).journals("512MiB", "64MiB"));
    for round in 0..3 {
        write_noise(&pair.east, "v", 0, 60 * MIB, 50 + round);
        pair.settle();
    }
    pair.assert_same();
}

/// More than west's journal has room for beside a copy of 44 MiB, while that is under way.
fn overwrite_during_the_copy(pair: &Pair, state: PairState) {
    pair.east.wait_pair(GROUP, "the copy to begin", LIMIT, |pair| pair.state == state && pair.copy.is_some());
    for round in 0..3 {
        write_noise(&pair.east, "v", 0, 16 * MIB, 40 + round);
    }
}

/// A resync fits when it begins, and no more with what hosts write meanwhile.
fn outgrown_resync(seed: u64) -> (Pair, Vec<Vec<u8>>) {
    let pair = Pair::paired(&Setup::one_volume("v", 16 * MIB, seed).journals("512MiB", "64MiB"));
    write_noise(&pair.east, "v", 0, 16 * MIB, 30);
    pair.settle();
    let before = pair.backing(&pair.west);
    pair.east.ok(&["volume", "create", "w", "--size", "44MiB"]);
    write_noise(&pair.east, "w", 0, 44 * MIB, 31);
    pair.relay.set(Weather { bytes_per_second: Some(16_000_000), ..Weather::default() });
    pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
    overwrite_during_the_copy(&pair, PairState::Resync);
    pair.east.wait_pair(GROUP, "the reason", LIMIT, |pair| {
        let says = |what| pair.reason.as_deref().is_some_and(|why| why.contains(what));
        says("full of a resync") && says("raise journal_bytes") && says("--in-place")
    });
    assert!(pair.west.pair(GROUP).permitted_marker > 0);
    assert_eq!(pair.backing(&pair.west)[0], before[0], "the old image stays");
    (pair, before)
}

#[test]
fn a_resync_that_outgrows_its_room_says_so_and_goes_on_where_it_stands_when_there_is_more() {
    let (mut pair, before) = outgrown_resync(98);
    pair.west.kill9();
    pair.west.start();
    assert_eq!(pair.backing(&pair.west)[0], before[0], "the old image stays");
    raise_the_journal(&mut pair);
    pair.relay.set(Weather::default());
    pair.assert_same();
}

#[test]
fn a_resync_that_outgrows_its_room_takes_the_images_place_when_the_operator_says_so() {
    let (mut pair, _) = outgrown_resync(99);
    pair.east.ok(&["pair", "resume", GROUP, "--to", "west", "--in-place"]);
    pair.west.wait_pair(GROUP, "the image to be given up", LIMIT, |pair| pair.permitted_marker == 0);
    pair.west.kill9();
    pair.west.start();
    pair.relay.set(Weather::default());
    pair.assert_same();
}

/// It was ordered over an image that was kept as long as there was room for both: nobody has to be asked.
#[test]
fn a_first_copy_that_outgrows_its_room_takes_the_images_place_by_itself() {
    let mut pair = Pair::paired(&Setup::one_volume("v", 44 * MIB, 100).journals("512MiB", "64MiB"));
    write_noise(&pair.east, "v", 0, 44 * MIB, 32);
    pair.settle();
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    pair.relay.set(Weather { bytes_per_second: Some(16_000_000), ..Weather::default() });
    pair.create();
    overwrite_during_the_copy(&pair, PairState::InitialCopy);
    pair.west.wait_pair(GROUP, "the image to be given up", LIMIT, |pair| pair.permitted_marker == 0);
    pair.west.kill9();
    pair.west.start();
    pair.relay.set(Weather::default());
    pair.assert_same();
}

//! The set of volumes belongs to the image: who fails over gets those of the marker, not those on their way.

use std::time::Duration;

use tidemark_common::api::types::{LostTail, PairState, RejoinReport};
use tidemark_tests::impairment::Weather;
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

const LIMIT: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

fn written(pair: &Pair, volume: &str, byte: u8, bytes: u64) {
    let mut export = pair.east.open(volume);
    let mut data = vec![byte; usize::try_from(bytes).expect("bytes")];
    // Not to be compressed away: what is copied takes its time.
    data.chunks_mut(8).enumerate().for_each(|(at, chunk)| {
        let mixed = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).to_le_bytes();
        chunk[..7].copy_from_slice(&mixed[..7]);
    });
    export.write_all(0, &data).expect("write");
    export.flush().expect("flush");
}

#[test]
fn a_failover_while_a_volume_joins_serves_the_image_without_it() {
    let pair = Pair::paired(&Setup::one_volume("v", 4 * MIB, 91));
    written(&pair, "v", 1, 4 * MIB);
    pair.settle();
    pair.east.ok(&["volume", "create", "w", "--size", "64MiB"]);
    written(&pair, "w", 2, 64 * MIB);
    pair.relay.set(Weather { bytes_per_second: Some(4_000_000), ..Weather::default() });
    pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
    let status = pair.west.wait_pair(GROUP, "part of the new volume", COPY_LIMIT, |pair| {
        pair.copy.is_some_and(|copy| copy.done_bytes > 4 * MIB)
    });
    assert_eq!(status.state, PairState::Resync);
    let east = pair.east.pair(GROUP);
    assert!(east.rpo_seconds.is_none_or(|rpo| rpo > 0.0), "a volume is missing over there: {east:?}");
    assert!(pair.west.try_open("w").is_err(), "what is on its way is not served");
    pair.relay.cut();

    let report = pair.failover();
    assert_eq!(report.exports, ["v"]);
    assert_eq!(pair.west.group(GROUP).volumes, ["v"]);
    assert!(pair.west.try_open("w").is_err(), "a volume that has not come is not served");
    let image = pair.west.open("v").read_all().expect("read");
    assert!(image == pair.east.open("v").read_all().expect("read"), "and the others are");
}

/// Its file cannot be taken away: that is told, and the image is served.
#[test]
fn a_volume_that_had_only_begun_to_come_keeps_nobody_from_a_failover() {
    let mut pair = Pair::paired(&Setup::one_volume("v", 4 * MIB, 117));
    written(&pair, "v", 1, 4 * MIB);
    pair.settle();
    pair.east.ok(&["volume", "create", "w", "--size", "64MiB"]);
    written(&pair, "w", 2, 64 * MIB);
    pair.relay.set(Weather { bytes_per_second: Some(4_000_000), ..Weather::default() });
    pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
    pair.west.wait_pair(GROUP, "part of the new volume", COPY_LIMIT, |pair| {
        pair.copy.is_some_and(|copy| copy.done_bytes > 4 * MIB)
    });
    let begun = pair.west.status().volumes.into_iter().find(|volume| volume.name == "w").expect("it has begun");
    // Before it is removed it gets this name.
    std::fs::create_dir(format!("{}.deleted", begun.backing)).expect("make a folder in the way");
    pair.relay.cut();

    let report = pair.failover();
    assert_eq!(report.exports, ["v"]);
    assert!(pair.west.log_text().contains("could not be discarded"), "and it is told");
    pair.west.restart();
    assert_eq!(pair.west.group(GROUP).volumes, ["v"]);
    let image = pair.west.open("v").read_all().expect("read");
    assert!(image == pair.east.open("v").read_all().expect("read"), "what the marker has");
}

#[test]
fn a_volume_taken_out_after_the_marker_still_belongs_to_its_image() {
    let volumes = vec![("v", MIB.to_string()), ("w", MIB.to_string())];
    let mut pair = Pair::paired(&Setup { volumes, interval: "1h", seed: 92, journals: None, on_full: "fold" });
    written(&pair, "w", 3, MIB);
    let original = pair.east.open("w").read_all().expect("read");
    pair.settle();
    let before = pair.east.pair(GROUP);
    pair.east.ok(&["group", "remove", GROUP, "--volume", "w"]);
    // The record is over there, and no marker after it.
    pair.east.wait_pair(GROUP, "the record to be received", LIMIT, |pair| pair.lag_bytes == 0 && pair.connected);
    assert_eq!(pair.east.pair(GROUP).permitted_marker, before.permitted_marker);
    pair.east.kill9();
    let report = pair.failover();
    assert_eq!(report.exports, ["v", "w"]);
    assert!(pair.west.open("w").read_all().expect("read") == original, "its content is that of the marker");
}

#[test]
fn a_volume_that_left_is_let_go_by_the_copy_at_the_next_marker() {
    let volumes = vec![("v", MIB.to_string()), ("w", MIB.to_string())];
    let mut pair = Pair::paired(&Setup { volumes, interval: "250ms", seed: 93, journals: None, on_full: "fold" });
    written(&pair, "w", 4, MIB);
    let original = pair.east.open("w").read_all().expect("read");
    pair.east.ok(&["group", "remove", GROUP, "--volume", "w"]);
    pair.settle();
    tidemark_tests::wait::wait_until("the copy to let the volume go", LIMIT, || {
        let status = pair.west.status();
        let volume = status.volumes.into_iter().find(|volume| volume.name == "w").expect("it stays");
        if volume.group.is_none() && status.groups[0].volumes == ["v"] { Ok(()) } else { Err(format!("{volume:?}")) }
    });
    pair.west.kill9();
    pair.west.start();
    pair.wait_paired();
    assert_eq!(pair.west.group(GROUP).volumes, ["v"]);
    assert!(pair.west.open("w").read_all().expect("read") == original, "with what it had");
    pair.west.ok(&["volume", "delete", "w"]);
}

/// West is primary: what it serves is what lies behind east's copies, at one marker.
fn assert_east_has(pair: &Pair, names: &[&str]) {
    pair.wait_paired();
    let marker = pair.west.ok(&["cut", GROUP]);
    pair.west.ok(&["wait", GROUP, "--to", "east", "--marker", marker.trim(), "--for", "applied", "--timeout", "30s"]);
    for name in names {
        let original = pair.west.open(name).read_all().expect("read the original");
        let found = pair.east.status().volumes.into_iter().find(|volume| volume.name == *name);
        let copy = std::fs::read(found.expect("the copy").backing).expect("read the copy");
        assert!(copy == original, "the copy of {name} is another");
    }
}

/// Frames name a volume by its index: one that joins after a change of roles gets one that none had before.
#[test]
fn a_volume_that_joins_after_a_change_of_roles_is_not_taken_for_one_that_joined_before() {
    let mut pair = Pair::paired(&Setup::one_volume("v", MIB, 111));
    pair.east.ok(&["volume", "create", "w", "--size", "1MiB"]);
    pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
    written(&pair, "w", 2, MIB);
    let original = pair.east.open("w").read_all().expect("read");
    pair.settle();
    pair.wait_paired();
    pair.east.ok(&["switchover", GROUP, "--to", "west"]);
    pair.west.ok(&["volume", "create", "x", "--size", "1MiB"]);
    pair.west.ok(&["group", "add", GROUP, "--volume", "x"]);
    pair.west.open("x").write_all(0, &vec![5; 1 << 20]).expect("write");
    pair.west.open("w").write_all(0, &[6; 4096]).expect("write");
    pair.west.kill9();
    pair.west.start();
    assert!(pair.west.open("x").read_all().expect("read").iter().all(|byte| *byte == 5), "what was written to it");
    let found = pair.west.open("w").read_all().expect("read");
    assert!(found[..4096] == [6; 4096] && found[4096..] == original[4096..], "and to no other");
    assert_east_has(&pair, &["v", "w", "x"]);
}

/// Either side has taken a volume into the group while they were apart, and has given it the same index.
#[test]
fn a_volume_that_only_the_old_primary_had_is_not_taken_for_one_of_the_new() {
    let mut pair = Pair::paired(&Setup::one_volume("v", MIB, 112));
    pair.settle();
    pair.relay.cut();
    pair.east.ok(&["volume", "create", "w", "--size", "1MiB"]);
    pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
    written(&pair, "w", 1, MIB);
    let alone = pair.east.open("w").read_all().expect("read");
    let _ = pair.failover();
    pair.west.ok(&["volume", "create", "x", "--size", "1MiB"]);
    pair.west.ok(&["group", "add", GROUP, "--volume", "x"]);
    pair.west.open("x").write_all(0, &vec![2; 1 << 20]).expect("write");
    pair.relay.heal();
    pair.east.wait_fenced(GROUP);
    pair.east.ok(&["rejoin", GROUP]);
    assert_east_has(&pair, &["v", "x"]);
    wait_until("the volume to leave", LIMIT, || {
        let status = pair.east.status();
        let volume = status.volumes.into_iter().find(|volume| volume.name == "w").expect("it stays");
        check(volume.group.is_none() && status.groups[0].volumes == ["v", "x"], || format!("{volume:?}"))
    });
    assert!(pair.east.open("w").read_all().expect("read") == alone, "with what it had");
    // What it had alone goes by the names of then.
    let tails: Vec<LostTail> = pair.east.json(&["lost", "list", GROUP]);
    let [tail] = tails.as_slice() else { panic!("one tail: {tails:?}") };
    let named: Vec<_> = tail.volumes.iter().filter_map(|volume| volume.name.as_deref()).collect();
    assert_eq!(named, ["w"]);
    let file = pair.cluster.join("w.lost");
    pair.east.ok(&["lost", "export", GROUP, &tail.name, "--volume", "w", "--to", &file.display().to_string()]);
    assert!(std::fs::read(&file).expect("read what was exported") == alone, "what was exported");
    pair.east.restart();
    pair.west.open("x").write_all(0, &[3; 4096]).expect("write");
    assert_east_has(&pair, &["v", "x"]);
}

/// Nothing was written while they were apart, so nothing is copied: the old primary hears all the same which volumes there are, and how
/// large they are.
#[test]
fn what_the_old_primary_alone_had_taken_in_or_grown_is_no_part_of_its_copy_though_nothing_is_copied() {
    let pair = Pair::paired(&Setup::one_volume("v", MIB, 116));
    written(&pair, "v", 3, MIB);
    pair.settle();
    pair.relay.cut();
    pair.east.ok(&["volume", "create", "w", "--size", "1MiB"]);
    pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
    pair.east.ok(&["volume", "resize", "v", "--size", "2MiB"]);
    let _ = pair.failover();
    pair.relay.heal();
    pair.east.wait_fenced(GROUP);
    let returned: RejoinReport = pair.east.json(&["rejoin", GROUP]);
    assert_eq!((returned.lost_writes, returned.whole), (0, false), "{returned:?}");
    pair.wait_paired();
    assert_eq!(pair.east.pair(GROUP).copy, None, "nothing is copied");
    wait_until("the volumes to be those of the new primary", LIMIT, || {
        let status = pair.east.status();
        let find = |name: &str| status.volumes.iter().find(|volume| volume.name == name).expect("it stays");
        let (v, w) = (find("v"), find("w"));
        let same = v.size == MIB && w.group.is_none() && status.groups[0].volumes == ["v"];
        check(same, || format!("{v:?} {w:?}"))
    });
    assert_eq!(pair.east.open("w").size(), MIB, "it is a volume in no group");
    pair.west.ok(&["volume", "resize", "v", "--size", "2MiB"]);
    assert_east_has(&pair, &["v"]);
}

/// What was written to it while it was in no group is in no journal, and what came later lies there under another index.
#[test]
fn a_volume_that_left_and_joined_again_on_the_old_primary_alone_is_the_new_ones_when_that_side_has_returned() {
    for stays_out in [false, true] {
        let volumes = vec![("v", MIB.to_string()), ("w", MIB.to_string())];
        let pair = Pair::paired(&Setup { volumes, interval: "250ms", seed: 115, journals: None, on_full: "fold" });
        written(&pair, "w", 1, MIB);
        pair.settle();
        pair.relay.cut();
        pair.east.ok(&["group", "remove", GROUP, "--volume", "w"]);
        written(&pair, "w", 2, MIB);
        if !stays_out {
            pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
            pair.east.open("w").write_all(4096, &[3; 4096]).expect("write");
        }
        let _ = pair.failover();
        pair.relay.heal();
        pair.east.wait_fenced(GROUP);
        pair.east.ok(&["rejoin", GROUP]);
        if stays_out {
            // It holds what hosts wrote there: nothing is copied over it unasked.
            pair.west.wait_pair(GROUP, "the volume that is in the way", LIMIT, |pair| {
                pair.reason.as_ref().is_some_and(|reason| reason.contains("'w'"))
            });
            pair.east.ok(&["volume", "offer", "w", "--group", GROUP]);
        }
        assert_east_has(&pair, &["v", "w"]);
    }
}

#[test]
fn what_was_lost_of_a_volume_that_left_and_came_again_is_exported_and_never_an_image_of_nothing() {
    let volumes = vec![("v", MIB.to_string()), ("w", MIB.to_string())];
    let pair = Pair::paired(&Setup { volumes, interval: "250ms", seed: 114, journals: None, on_full: "fold" });
    pair.settle();
    pair.relay.cut();
    written(&pair, "w", 7, MIB);
    let alone = pair.east.open("w").read_all().expect("read");
    let _ = pair.failover();
    pair.relay.heal();
    pair.east.wait_fenced(GROUP);
    pair.east.ok(&["rejoin", GROUP]);
    assert_east_has(&pair, &["v", "w"]);
    pair.west.ok(&["group", "remove", GROUP, "--volume", "w"]);
    wait_until("the copy to let the volume go", LIMIT, || {
        let volume = pair.east.status().volumes.into_iter().find(|volume| volume.name == "w").expect("it stays");
        check(volume.group.is_none(), || format!("{volume:?}"))
    });
    pair.east.ok(&["volume", "delete", "w"]);
    pair.west.ok(&["group", "add", GROUP, "--volume", "w"]);
    assert_east_has(&pair, &["v", "w"]);

    let tails: Vec<LostTail> = pair.east.json(&["lost", "list", GROUP]);
    let [tail] = tails.as_slice() else { panic!("one tail: {tails:?}") };
    let [lost] = tail.volumes.as_slice() else { panic!("one volume: {tail:?}") };
    assert_eq!((lost.name.as_deref(), lost.bytes), (Some("w"), MIB));
    let path = |name: &str| pair.cluster.join(name).display().to_string();
    let export = |volume: &str, to: &str| {
        pair.east.ok(&["lost", "export", GROUP, &tail.name, "--volume", volume, "--to", to]);
        std::fs::read(to).expect("read what was exported")
    };
    assert!(export("w", &path("w.lost")) == alone, "by its name");
    let nothing = path("v.lost");
    let refused = pair.east.refuses(&["lost", "export", GROUP, &tail.name, "--volume", "v", "--to", &nothing]);
    assert!(refused.contains("holds nothing of volume 'v'"), "{refused}");
    assert!(!std::path::Path::new(&nothing).exists(), "and leaves no file");
    // One that was kept without a note of the volumes of then.
    std::fs::remove_file(std::path::Path::new(&tail.folder).join("volumes.json")).expect("remove the note");
    assert!(export(&lost.index.to_string(), &path("index.lost")) == alone, "by its index");
}

#[test]
fn a_name_that_is_taken_over_there_is_told_to_who_asked() {
    let pair = Pair::paired(&Setup::one_volume("v", MIB, 94));
    pair.west.ok(&["volume", "create", "w", "--size", "1MiB"]);
    pair.east.ok(&["volume", "create", "w", "--size", "1MiB"]);
    pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
    let status = pair.east.wait_pair(GROUP, "the reason", LIMIT, |pair| {
        pair.reason.as_deref().is_some_and(|reason| reason.contains("tidemark volume delete w"))
    });
    assert_ne!(status.state, PairState::Paired);
    pair.west.ok(&["volume", "delete", "w"]);
    pair.wait_paired();
    assert_eq!(pair.west.group(GROUP).volumes, ["v", "w"]);
}

#[test]
fn a_volume_that_joins_at_once_after_the_first_copy_is_copied() {
    for round in 0..4 {
        let pair = Pair::unpaired(&Setup::one_volume("v", 4 * MIB, 95 + round).interval("200ms"));
        pair.east.ok(&["volume", "create", "w", "--size", "1MiB"]);
        written(&pair, "w", 5, MIB);
        pair.create();
        pair.east.wait_pair(GROUP, "the first copy", COPY_LIMIT, |pair| pair.state == PairState::Paired);
        pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
        pair.wait_paired();
        pair.settle();
        assert_eq!(pair.west.group(GROUP).volumes, ["v", "w"]);
        let original = pair.east.open("w").read_all().expect("read");
        let status = pair.west.status().volumes.into_iter().find(|volume| volume.name == "w").expect("the copy");
        assert_eq!(status.group.as_deref(), Some(GROUP));
        assert!(std::fs::read(status.backing).expect("read the copy") == original);
    }
}

#[test]
fn a_first_copy_that_begins_anew_is_no_image_after_a_restart() {
    let mut pair = Pair::unpaired(&Setup::one_volume("v", 64 * MIB, 99).interval("100ms"));
    written(&pair, "v", 6, 64 * MIB);
    pair.east.ok(&["volume", "create", "w", "--size", "16MiB"]);
    written(&pair, "w", 7, 16 * MIB);
    pair.relay.set(Weather { bytes_per_second: Some(4_000_000), ..Weather::default() });
    pair.create();
    // Markers of this copy are there, and none is an image.
    pair.west.wait_pair(GROUP, "part of the first copy", COPY_LIMIT, |pair| {
        pair.received_marker > 1 && pair.copy.is_some_and(|copy| copy.done_bytes > 8 * MIB)
    });
    // From here on the copy comes so slowly that its beginning cannot be missed.
    pair.relay.set(Weather { bytes_per_second: Some(400_000), ..Weather::default() });
    let mut export = pair.east.open("v");
    (0..8).for_each(|block| export.write(block * 4096, &[8; 4096]).expect("write"));
    pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
    // What is on its way at the rate before comes first, at this one.
    pair.west.wait_pair(GROUP, "the copy to begin anew", COPY_LIMIT * 4, |pair| {
        pair.copy.is_some_and(|copy| copy.done_bytes < 4 * MIB)
    });
    pair.relay.cut();
    pair.west.restart();
    let status = pair.west.pair(GROUP);
    assert_eq!((status.state, status.permitted_marker), (PairState::InitialCopy, 0), "{status:?}");
    assert!(pair.west.refuses(&["failover", GROUP, "--force"]).contains("not complete"));
    pair.relay.set(Weather::default());
    pair.relay.heal();
    pair.wait_paired();
    pair.assert_copy_equals();
}

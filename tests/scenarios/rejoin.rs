//! Failing back: the old primary returns as the copy, roles change as planned, and what never reached the other side is kept.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tidemark_common::api::types::{
    FailoverReport, LostRange, LostTail, PairState, RejoinReport, Role, SwitchoverReport,
};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::{Cluster, flip_bit};
use tidemark_tests::history::{Kind, Write};
use tidemark_tests::host::{EPERM, HostError};
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::small_disk::SmallDisk;
use tidemark_tests::stamp::{self, BLOCK_BYTES, Content};
use tidemark_tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

fn rejoin(side: &Appliance) -> RejoinReport {
    side.wait_fenced(GROUP);
    side.json(&["rejoin", GROUP])
}

fn switch(from: &Appliance, to: &Appliance) -> SwitchoverReport {
    let report: SwitchoverReport = from.json(&["switchover", GROUP, "--to", to.name()]);
    assert_eq!(report.problem, None);
    assert_eq!((from.group(GROUP).role, to.group(GROUP).role), (Role::Secondary, Role::Primary));
    report
}

/// What a block shows after the lost writes of one side, and no other: that of the last that was answered, or of one after it.
fn may_be_lost(writes: &[Write], volume: usize, block: u64) -> Vec<Content> {
    let lost = writes.iter().filter(|write| write.lost && write.volume == volume && write.range().contains(&block));
    let lost: Vec<_> = lost.collect();
    let last_acked = lost.iter().rposition(|write| write.acked.is_some()).unwrap_or(0);
    let shown = |write: &&Write| if write.kind == Kind::Zero { Content::Zero } else { Content::Stamp(write.id) };
    lost[last_acked..].iter().map(shown).collect()
}

/// What is kept is exactly what the image taken over lacks: each write that was answered lies within a listed range and in the
/// exported image, nothing else does, and it goes only when that is asked.
fn assert_lost_tail(pair: &Pair, writes: u64, marker: u64) {
    let tails: Vec<LostTail> = pair.east.json(&["lost", "list", GROUP]);
    let [tail] = tails.as_slice() else { panic!("one tail: {tails:?}") };
    assert_eq!((tail.writes, tail.after_marker), (writes, marker));
    let history = pair.history.writes();
    let lost: Vec<_> = history.iter().filter(|write| write.lost).collect();
    let acked = lost.iter().filter(|write| write.acked.is_some()).count() as u64;
    assert!(acked > 0 && (acked..=lost.len() as u64).contains(&writes), "{writes} of {acked} to {}", lost.len());
    for (volume, name) in pair.volumes().iter().enumerate() {
        let listed = tail.volumes.iter().find(|lost| lost.name.as_ref() == Some(name));
        let ranges = listed.map_or(&[][..], |listed| &listed.ranges);
        let blocks: BTreeSet<u64> = ranges.iter().flat_map(blocks).collect();
        let of_volume = lost.iter().filter(|write| write.volume == volume);
        for write in of_volume.filter(|write| write.acked.is_some()) {
            let missing: Vec<_> = write.range().filter(|block| !blocks.contains(block)).collect();
            assert!(missing.is_empty(), "{write:?} was answered, and its blocks {missing:?} are not listed");
        }
        let file = pair.cluster.join(&format!("{name}.lost"));
        let path = file.display().to_string();
        if blocks.is_empty() {
            pair.east.refuses(&["lost", "export", GROUP, &tail.name, "--volume", name, "--to", &path]);
            continue;
        }
        pair.east.ok(&["lost", "export", GROUP, &tail.name, "--volume", name, "--to", &path]);
        let exported = std::fs::read(&file).expect("read what was exported");
        for (block, bytes) in (0..).zip(exported.chunks(BLOCK_BYTES)) {
            let content = stamp::read(bytes, volume, block);
            if blocks.contains(&block) {
                let may_be = may_be_lost(&history, volume, block);
                assert!(may_be.contains(&content), "block {block} of {name} shows {content:?}, not one of {may_be:?}");
            } else {
                assert_eq!(content, Content::Zero, "block {block} of {name} was not lost");
            }
        }
        pair.east.refuses(&["lost", "export", GROUP, &tail.name, "--volume", name, "--to", &path]);
    }
    pair.east.ok(&["lost", "discard", GROUP, &tail.name]);
    assert!(pair.east.json::<Vec<LostTail>>(&["lost", "list", GROUP]).is_empty());
}

fn blocks(range: &LostRange) -> std::ops::Range<u64> {
    range.offset / BLOCK_BYTES as u64..(range.offset + range.length).div_ceil(BLOCK_BYTES as u64)
}

#[test]
fn what_a_side_had_alone_is_found_by_the_groups_name_after_the_group_was_given_up() {
    let pair = Pair::paired(&Setup::one_volume("v", 1 << 20, 229));
    pair.relay.cut();
    pair.east.open("v").write(4096, &[7; 4096]).expect("write");
    pair.east.open("v").flush().expect("flush");
    let _ = pair.failover();
    pair.relay.heal();
    assert_eq!(rejoin(&pair.east).lost_writes, 1);
    pair.wait_paired();
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    pair.east.ok(&["volume", "delete", "v"]);
    let tails: Vec<LostTail> = pair.east.json(&["lost", "list", GROUP]);
    let [tail] = tails.as_slice() else { panic!("one tail: {tails:?}") };
    assert_eq!(tail.volumes[0].name.as_deref(), Some("v"));
    let file = pair.cluster.join("lost");
    pair.east.ok(&["lost", "export", GROUP, &tail.name, "--volume", "v", "--to", &file.display().to_string()]);
    let exported = std::fs::read(&file).expect("read");
    assert_eq!((exported.len(), &exported[4096..8192]), (1 << 20, &[7; 4096][..]));
    pair.east.ok(&["lost", "discard", GROUP, &tail.name]);
    assert!(pair.east.refuses(&["lost", "list", GROUP]).contains("no group 'g'"));
    assert!(pair.east.files(|name| name == "given-up.json").is_empty(), "nothing stays behind");
}

/// What west serves after its failover is legal; what it left out is not asked for again.
fn settle_taken_over(pair: &Pair) {
    let verdict = assert_legal(
        "the image taken over",
        &pair.history.writes(),
        &pair.image(&pair.west),
        Bounds { holds_acked_before: None, nothing_sent_after: None },
    );
    pair.history.settle(&verdict);
}

#[test]
fn an_old_primary_returns_as_the_copy_and_its_lost_tail_is_kept() {
    let mut pair = Pair::prefilled(&Setup::seeded(101));
    let load = pair.load(0);
    load.wait_acked(400);
    pair.relay.cut();
    load.wait_acked(400);
    pair.east.kill9();
    drop(load.join_broken());
    let report = pair.failover();
    settle_taken_over(&pair);
    let load = pair.load_on(&pair.west, 1);
    load.wait_acked(300);

    pair.relay.heal();
    pair.east.start();
    let returned = rejoin(&pair.east);
    assert_eq!((returned.primary.as_str(), returned.generation), ("west", report.generation));
    assert_eq!(returned.marker, report.marker.number);
    assert!(!returned.whole && returned.lost_writes > 0 && returned.lost_bytes > 0, "{returned:?}");
    let kept = returned.kept.expect("the tail is kept");
    assert!(std::fs::read_dir(&kept).expect("the folder").count() > 0);
    load.wait_acked(100);
    load.stop();
    pair.wait_paired();
    assert_lost_tail(&pair, returned.lost_writes, report.marker.number);
    assert_eq!(pair.east.group(GROUP).role, Role::Secondary);
    pair.assert_copied(&pair.west, &pair.east);
    match pair.east.try_open("a") {
        Err(HostError::Refused { .. }) => {}
        Ok(mut export) => assert!(matches!(export.write(0, &[1; 4096]), Err(HostError::Errno(EPERM)))),
        Err(other) => panic!("a copy volume is refused with a reason, not: {other}"),
    }

    // And back, as planned.
    let back = switch(&pair.west, &pair.east);
    assert_eq!(back.generation, report.generation + 1);
    pair.wait_paired();
    let load = pair.load(2);
    load.wait_acked(300);
    load.stop();
    pair.assert_copied(&pair.east, &pair.west);
    assert_legal("after the failback", &pair.history.writes(), &pair.image(&pair.east), Bounds::EVERYTHING_ACKED);
}

#[test]
fn failing_over_and_back_without_a_write_copies_nothing() {
    let mut pair = Pair::prefilled(&Setup::seeded(102));
    pair.settle();
    pair.east.kill9();
    let report = pair.failover();
    pair.east.start();
    let before = pair.relay.backward().bytes() + pair.relay.forward().bytes();
    let returned = rejoin(&pair.east);
    assert_eq!((returned.lost_writes, returned.whole, returned.kept), (0, false, None));
    assert_eq!(returned.marker, report.marker.number);
    // Its image is that of the marker from the first moment.
    let status = pair.east.pair(GROUP);
    assert_eq!(status.permitted_marker, report.marker.number, "{status:?}");
    pair.wait_paired();
    let east = pair.east.pair(GROUP);
    assert_eq!(east.copy, None);
    pair.assert_copied(&pair.west, &pair.east);
    let sent = pair.relay.backward().bytes() + pair.relay.forward().bytes() - before;
    assert!(sent < 1 << 20, "{sent} bytes crossed the link");
}

#[test]
fn a_switchover_under_load_loses_nothing_and_hosts_meet_a_pause_only() {
    let pair = Pair::prefilled(&Setup::seeded(103));
    let load = pair.load(0);
    load.wait_acked(300);
    let report = switch(&pair.east, &pair.west);
    assert!(report.hosts_waited_ms < 10_000.0, "{report:?}");
    // Hosts were told that the volumes are elsewhere now.
    drop(load.end());
    pair.wait_paired();
    let verdict = assert_legal(
        "what is served after the switchover",
        &pair.history.writes(),
        &pair.image(&pair.west),
        Bounds::EVERYTHING_ACKED,
    );
    pair.history.settle(&verdict);
    let load = pair.load_on(&pair.west, 1);
    load.wait_acked(200);
    load.stop();
    pair.assert_copied(&pair.west, &pair.east);
}

#[test]
fn a_switchover_to_a_copy_that_does_not_follow_changes_nothing() {
    let pair = Pair::prefilled(&Setup::seeded(104));
    pair.settle();
    pair.relay.cut();
    let load = pair.load(0);
    load.wait_acked(50);
    let why = pair.east.cli(&["switchover", GROUP, "--to", "west", "--timeout", "2s"]).failed_with(4);
    assert!(why.contains("west"), "{why}");
    load.wait_acked(50);
    load.stop();
    assert_eq!((pair.east.group(GROUP).role, pair.west.group(GROUP).role), (Role::Primary, Role::Secondary));
    pair.relay.heal();
    pair.wait_paired();
    pair.assert_copy_equals();
    assert!(pair.east.refuses(&["rejoin", GROUP]).contains("primary here"));
    assert!(pair.west.refuses(&["rejoin", GROUP]).contains("copy here"));
}

/// A marker over everything so far, which the other side has said it has permitted.
fn permitted_now(from: &Appliance, to: &Appliance) -> u64 {
    let marker = from.ok(&["cut", GROUP]).trim().parse().expect("a marker's number");
    from.wait_pair(GROUP, "the marker to be permitted", LIMIT, |pair| pair.permitted_marker >= marker);
    assert!(to.pair(GROUP).permitted_marker >= marker);
    marker
}

#[test]
fn ten_role_changes_in_a_row_under_load_keep_what_was_permitted() {
    let mut pair = Pair::prefilled(&Setup::seeded(105));
    for round in 0..10 {
        let west_is_primary = round % 2 == 1;
        let (from, to) = if west_is_primary { (&pair.west, &pair.east) } else { (&pair.east, &pair.west) };
        let load = pair.load_on(from, round);
        load.wait_acked(150);
        let planned = round % 3 != 0;
        let bounds = if planned {
            switch(from, to);
            drop(load.end());
            Bounds::EVERYTHING_ACKED
        } else {
            // What was answered before this moment is in a marker that the other side says it has permitted.
            let floor = pair.history.tick();
            let marker = permitted_now(from, to);
            let report: FailoverReport = to.json(&["failover", GROUP, "--force"]);
            drop(load.end());
            rejoin(from);
            assert!(report.marker.number >= marker, "marker {marker} was permitted: {report:?}");
            Bounds { holds_acked_before: Some(floor), nothing_sent_after: None }
        };
        let verdict = assert_legal(&format!("round {round}"), &pair.history.writes(), &pair.image(to), bounds);
        pair.history.settle(&verdict);
        pair.wait_paired();
        pair.assert_copied(to, from);
        if round == 4 {
            // A restart in between finds everything as it was.
            pair.east.restart();
            pair.west.restart();
            pair.wait_paired();
        }
    }
    assert_eq!(pair.east.group(GROUP).generation, 11);
}

/// Half of what is exported looks like all of it: it never has the name that was asked for.
#[test]
fn an_export_that_finds_no_room_leaves_nothing_and_is_whole_when_there_is() {
    let pair = Pair::paired(&Setup::one_volume("v", 8 * MIB, 114));
    pair.relay.cut();
    write_noise(&pair.east, "v", 0, 8 * MIB, 1);
    let _ = pair.failover();
    pair.relay.heal();
    assert!(rejoin(&pair.east).lost_writes > 0);
    pair.wait_paired();
    let tails: Vec<LostTail> = pair.east.json(&["lost", "list", GROUP]);
    let [tail] = tails.as_slice() else { panic!("one tail: {tails:?}") };
    let small = SmallDisk::mount(&pair.cluster.join("small"), 2 * MIB);
    let names = || std::fs::read_dir(small.path()).expect("list").count();
    let file = small.path().join("v.lost");
    let to = file.display().to_string();
    let export = ["lost", "export", GROUP, tail.name.as_str(), "--volume", "v", "--to", to.as_str()];
    let refused = pair.east.refuses(&export);
    assert!(refused.contains("No space"), "{refused}");
    assert_eq!(names(), 0, "a part of it is there");
    small.resize(32 * MIB);
    std::fs::write(small.path().join("v.lost.tidemark-part"), "1").expect("what a kill leaves");
    pair.east.ok(&export);
    assert!(std::fs::read(&file).expect("read what was exported") == noise(1, 8 * MIB), "all of it");
    assert_eq!(names(), 1, "and nothing else");
}

/// Nobody waits for a side that does not answer: it is told, and all is as before.
#[test]
fn a_return_to_a_side_that_hangs_ends_in_time_and_is_asked_again() {
    let pair = Pair::paired(&Setup::one_volume("v", MIB, 113));
    pair.relay.cut();
    write_noise(&pair.east, "v", 0, MIB, 1);
    let _ = pair.failover();
    pair.relay.heal();
    pair.east.wait_fenced(GROUP);
    pair.west.freeze();
    let asked = Instant::now();
    let why = pair.east.refuses(&["rejoin", GROUP]);
    let took = asked.elapsed();
    pair.west.thaw();
    assert!(why.contains("'west'") && took < LIMIT, "after {took:?}: {why}");
    assert_eq!(pair.east.group(GROUP).role, Role::Fenced);
    assert!(pair.east.json::<Vec<LostTail>>(&["lost", "list", GROUP]).is_empty(), "nothing is lost yet");
    assert!(rejoin(&pair.east).lost_writes > 0);
    pair.wait_paired();
    pair.assert_copied(&pair.west, &pair.east);
}

#[test]
fn an_old_primary_killed_while_it_returns_returns_again() {
    let mut pair = Pair::prefilled(&Setup::seeded(106));
    let load = pair.load(0);
    load.wait_acked(200);
    pair.west.ok(&["failover", GROUP, "--force"]);
    drop(load.end());
    settle_taken_over(&pair);
    let load = pair.load_on(&pair.west, 1);
    load.wait_acked(200);
    load.stop();
    rejoin(&pair.east);
    pair.east.kill9();
    pair.east.start();
    pair.wait_paired();
    pair.assert_copied(&pair.west, &pair.east);
    // The new primary dies, and its copy, which was the old primary, takes over.
    pair.west.kill9();
    wait_until("the failover", LIMIT, || {
        let outcome = pair.east.cli(&["failover", GROUP]);
        if outcome.code == 0 { Ok(()) } else { Err(outcome.stderr) }
    });
    assert_legal("after two failovers", &pair.history.writes(), &pair.image(&pair.east), Bounds::EVERYTHING_ACKED);
}

/// The volume that only the old primary had grown is that of the new one again, and what was behind its end does not come back when it grows.
#[test]
fn what_an_old_primary_had_alone_behind_a_volumes_end_is_no_part_of_its_copy() {
    let pair = Pair::paired(&Setup::one_volume("v", MIB, 112));
    write_noise(&pair.east, "v", 0, MIB, 1);
    pair.settle();
    pair.relay.cut();
    pair.east.ok(&["volume", "resize", "v", "--size", "2MiB"]);
    write_noise(&pair.east, "v", 0, 2 * MIB, 3);
    let _ = pair.failover();
    assert_eq!(pair.west.open("v").size(), MIB);
    pair.relay.heal();
    assert!(rejoin(&pair.east).lost_writes > 0);
    pair.wait_paired();
    let tails: Vec<LostTail> = pair.east.json(&["lost", "list", GROUP]);
    let [tail] = tails.as_slice() else { panic!("one tail: {tails:?}") };
    let file = pair.cluster.join("v.lost");
    pair.east.ok(&["lost", "export", GROUP, &tail.name, "--volume", "v", "--to", &file.display().to_string()]);
    assert!(std::fs::read(&file).expect("read what was exported") == noise(3, 2 * MIB), "all of it is kept");
    pair.west.ok(&["volume", "resize", "v", "--size", "2MiB"]);
    pair.assert_copied(&pair.west, &pair.east);
    switch(&pair.west, &pair.east);
    pair.wait_paired();
    pair.assert_copied(&pair.east, &pair.west);
}

/// A pair whose primary no longer holds the place both have: more than its journal holds was written there alone, all of it noise of seed
/// 2. The image that west has is noise of seed 1.
fn written_beyond_its_journal(cluster: Cluster, seed: u64) -> Pair {
    let setup = Setup::one_volume("v", 96 * MIB, seed).journals("64MiB", "256MiB");
    let pair = Pair::unpaired_in(cluster, &setup);
    pair.create();
    pair.wait_paired();
    write_noise(&pair.east, "v", 0, 96 * MIB, 1);
    pair.settle();
    pair.relay.cut();
    write_noise(&pair.east, "v", 0, 96 * MIB, 2);
    pair.east.wait_pair(GROUP, "the fall back", LIMIT, |pair| pair.state == PairState::Differential);
    pair
}

fn fenced_beyond_its_journal(cluster: Cluster, seed: u64) -> (Pair, FailoverReport) {
    fenced(written_beyond_its_journal(cluster, seed))
}

fn fenced(mut pair: Pair) -> (Pair, FailoverReport) {
    pair.east.kill9();
    let report = pair.failover();
    pair.relay.heal();
    pair.east.start();
    pair.east.wait_fenced(GROUP);
    (pair, report)
}

/// All that was never shipped is kept: also what had left the journal, as the volume held it.
fn assert_all_kept(pair: &Pair, returned: &RejoinReport) {
    assert!(returned.whole && returned.lost_writes > 0, "{returned:?}");
    let tails: Vec<LostTail> = pair.east.json(&["lost", "list", GROUP]);
    let [tail] = tails.as_slice() else { panic!("one tail: {tails:?}") };
    assert_eq!((tail.writes, tail.volumes[0].bytes), (returned.lost_writes, 96 * MIB), "{:?}", tail.volumes);
    let file = pair.cluster.join("lost");
    let path = file.display().to_string();
    pair.east.ok(&["lost", "export", GROUP, &tail.name, "--volume", "v", "--to", &path]);
    let exported = std::fs::read(&file).expect("read what was exported");
    assert!(exported == noise(2, 96 * MIB), "what was exported is not what was written");
}

/// It takes everything, says so, and what it had alone is kept as a whole.
#[test]
fn an_old_primary_that_no_longer_holds_the_place_takes_a_full_copy() {
    let (mut pair, report) = fenced_beyond_its_journal(Cluster::new(), 107);
    let mut served = pair.west.open("v");
    assert!(served.read_all().expect("read") == noise(1, 96 * MIB), "the image at the marker both had");
    served.write(5 * MIB, &[7; 4096]).expect("write");
    drop(served);
    let returned = rejoin(&pair.east);
    assert_eq!((returned.primary.as_str(), returned.generation), ("west", report.generation));
    assert_eq!(returned.marker, report.marker.number);
    // Nothing of what it held is an image of this history.
    assert_eq!(pair.east.pair(GROUP).permitted_marker, 0);
    pair.east.kill9();
    pair.east.start();
    pair.wait_paired();
    pair.assert_copied(&pair.west, &pair.east);
    assert_all_kept(&pair, &returned);
    switch(&pair.west, &pair.east);
    pair.wait_paired();
    pair.assert_copied(&pair.east, &pair.west);
}

/// What is kept beside the journal is checked like it: named by place, and nothing of it is given out.
#[test]
fn a_kept_region_that_is_damaged_is_named_and_not_exported() {
    let (pair, _) = fenced_beyond_its_journal(Cluster::new(), 115);
    let returned = rejoin(&pair.east);
    assert!(returned.whole, "{returned:?}");
    let kept = PathBuf::from(returned.kept.clone().expect("the tail is kept"));
    let tails: Vec<LostTail> = pair.east.json(&["lost", "list", GROUP]);
    let [tail] = tails.as_slice() else { panic!("one tail: {tails:?}") };
    let to = pair.cluster.join("damaged.lost").display().to_string();
    let export = ["lost", "export", GROUP, tail.name.as_str(), "--volume", "v", "--to", to.as_str()];

    let names = std::fs::read_dir(&kept).expect("list").map(|entry| entry.expect("an entry").path());
    let regions = names.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "volume"));
    let regions = regions.expect("regions that left the journal");
    let held = std::fs::read(&regions).expect("read").iter().position(|byte| *byte != 0).expect("data");
    flip_bit(&regions, held as u64 + 5_000, 2);
    let refused = pair.east.refuses(&export);
    let file = regions.file_name().expect("a name").to_string_lossy();
    assert!(refused.contains(&*file) && refused.contains("damaged at"), "{refused}");
    assert!(!std::path::Path::new(&to).exists(), "nothing of it is given out");
    flip_bit(&regions, held as u64 + 5_000, 2);

    // Another one beside it is listed as always, and the damaged one is named.
    let other = kept.with_file_name(tail.name.replacen("generation-1-", "generation-0-", 1));
    std::fs::create_dir(&other).expect("make a folder");
    for file in std::fs::read_dir(&kept).expect("list").map(|entry| entry.expect("an entry").path()) {
        std::fs::copy(&file, other.join(file.file_name().expect("a name"))).expect("copy what is kept");
    }
    flip_bit(&kept.join("regions"), 20, 1);
    let listed: Vec<LostTail> = pair.east.json(&["lost", "list", GROUP]);
    let [sound, damaged] = listed.as_slice() else { panic!("two tails: {listed:?}") };
    assert_eq!((sound.generation, sound.writes, &sound.volumes), (0, tail.writes, &tail.volumes), "{sound:?}");
    assert_eq!((&damaged.name, damaged.volumes.len()), (&tail.name, 0), "{damaged:?}");
    assert!(damaged.problem.as_deref().is_some_and(|why| why.contains("regions is damaged")), "{damaged:?}");
    let told = pair.east.ok(&["lost", "list", GROUP]);
    assert!(told.contains(&sound.name) && told.contains(&format!("'{}' cannot be read", tail.name)), "{told}");
    assert!(pair.east.refuses(&export).contains("regions is damaged"), "nothing of it is given out");
    flip_bit(&kept.join("regions"), 20, 1);
    pair.east.ok(&["lost", "discard", GROUP, &sound.name]);
    pair.wait_paired();
    assert_all_kept(&pair, &returned);
}

/// Everything is copied over the volumes that its image reads through: what it needs of them is saved before that.
#[test]
fn a_t0_copy_on_an_old_primary_shows_its_moment_after_a_full_copy() {
    let pair = written_beyond_its_journal(Cluster::new(), 110);
    pair.east.ok(&["t0", "create", "image", "--of", GROUP]);
    let (mut pair, _) = fenced(pair);
    let assert_unchanged = |pair: &Pair, when: &str| {
        let image = pair.east.open("image/v").read_all().expect("read the image");
        assert!(image == noise(2, 96 * MIB), "{when}, the image is not what the volume held then");
    };
    assert_unchanged(&pair, "fenced");
    let returned = rejoin(&pair.east);
    assert!(returned.whole, "{returned:?}");
    pair.wait_paired();
    pair.assert_copied(&pair.west, &pair.east);
    assert_unchanged(&pair, "copied over");
    pair.east.kill9();
    pair.east.start();
    assert_unchanged(&pair, "after a kill");
}

/// Without room to keep what it had alone, nothing is overwritten: it stays fenced until there is.
#[test]
fn an_old_primary_without_room_for_what_it_had_alone_stays_as_it_is() {
    let cluster = Cluster::new().with_disk("east", 640 * MIB);
    let (mut pair, _) = fenced_beyond_its_journal(cluster, 109);
    let before = pair.backing(&pair.east);
    let ballast = pair.cluster.disk("east").fill();
    // Room for the journal's part, not for what has left it.
    let file = std::fs::File::options().write(true).open(&ballast).expect("open the ballast");
    file.set_len(file.metadata().expect("its size").len() - 96 * MIB).expect("make some room");
    drop(file);
    let refused = pair.east.refuses(&["rejoin", GROUP]);
    assert!(refused.contains("keep ") && refused.contains("make room"), "{refused}");
    assert_eq!(pair.east.group(GROUP).role, Role::Fenced);
    assert!(pair.backing(&pair.east) == before, "its volume is another");
    assert!(pair.east.json::<Vec<LostTail>>(&["lost", "list", GROUP]).is_empty(), "half of it is listed");
    pair.east.kill9();
    pair.east.start();
    pair.east.wait_fenced(GROUP);
    std::fs::remove_file(ballast).expect("remove the ballast");
    let returned = rejoin(&pair.east);
    pair.wait_paired();
    pair.assert_copied(&pair.west, &pair.east);
    assert_all_kept(&pair, &returned);
}

/// Hosts of the new primary write more than its journal holds before the old one returns: what differs is in the bitmap then, and
/// only that is copied.
#[test]
fn a_new_primary_whose_journal_overflows_before_the_old_one_returns_copies_what_differs() {
    const CHANGED: u64 = 96 * MIB;
    let mut pair = Pair::paired(&Setup::one_volume("v", 192 * MIB, 108).journals("512MiB", "64MiB"));
    write_noise(&pair.east, "v", 0, 192 * MIB, 1);
    pair.settle();
    pair.east.kill9();
    let report = pair.failover();
    write_noise(&pair.west, "v", 0, CHANGED, 2);
    pair.west.wait_pair(GROUP, "the journal to overflow", LIMIT, |pair| pair.differential_bytes > 0);
    pair.west.restart();
    write_noise(&pair.west, "v", 0, 8 * MIB, 3);

    pair.east.start();
    let sent = pair.way_back.forward().bytes() + pair.relay.backward().bytes();
    let returned = rejoin(&pair.east);
    assert_eq!((returned.marker, returned.whole, returned.lost_writes), (report.marker.number, false, 0));
    // Until it is complete, its image is that of the marker.
    assert_eq!(pair.east.pair(GROUP).permitted_marker, report.marker.number);
    pair.wait_paired();
    pair.assert_copied(&pair.west, &pair.east);
    let sent = pair.way_back.forward().bytes() + pair.relay.backward().bytes() - sent;
    assert!((CHANGED / 2..CHANGED * 3 / 2).contains(&sent), "{sent} bytes for {CHANGED} that differ");
}

//! Any point in time: a copy that keeps a history is cloned, and taken over, at every marker of it, whatever is written, killed
//! and full meanwhile.

use std::time::{Duration, Instant};

use tidemark_common::api::local_pair::types::{LocalPairState, LocalPairStatus};
use tidemark_common::api::types::{
    FailoverReport, HistoryStatus, ImageStatus, LostTail, MarkerInfo, PairState, RejoinReport, Role, VerifyReport,
};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::image::{self, Image};
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};
use tidemark_tests::workload::Load;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// A marker, and what its image must hold.
struct Moment {
    marker: u64,
    bounds: Bounds,
}

fn history(side: &Appliance) -> HistoryStatus {
    side.group(GROUP).history.unwrap_or_default()
}

/// From now on west keeps so much.
fn keep(pair: &Pair, how: &str) {
    pair.east.ok(&["group", "set", GROUP, "--history", how]);
    wait_until("west to keep a history", LIMIT, || {
        check(history(&pair.west).oldest_marker.is_some(), || format!("{:?}", pair.west.group(GROUP)))
    });
}

fn moment(pair: &Pair) -> Moment {
    let began = pair.history.tick();
    let marker = pair.cut();
    let bounds = Bounds::cut(began, pair.history.tick());
    pair.wait_for(marker, "applied");
    Moment { marker, bounds }
}

/// So many moments of a load, one after the other.
fn moments(pair: &Pair, load: &Load, count: usize) -> Vec<Moment> {
    let next = |_| {
        load.wait_acked(100);
        moment(pair)
    };
    (0..count).map(next).collect()
}

fn read(pair: &Pair, name: &str) -> Image {
    let mut exports: Vec<_> = pair.volumes().iter().map(|volume| pair.west.open(&format!("{name}/{volume}"))).collect();
    image::read(&mut exports).expect("read the image")
}

/// A clone at an older marker is exactly that moment.
fn assert_cloned(pair: &Pair, name: &str, at: &Moment) -> Image {
    let made: ImageStatus = pair.west.json(&["clone", "create", name, "--of", GROUP, "--at", &at.marker.to_string()]);
    assert_eq!(made.marker, at.marker, "{made:?}");
    assert!(made.age_seconds < 1.0, "{made:?}");
    let seen = read(pair, name);
    assert_legal(name, &pair.history.writes(), &seen, at.bounds);
    seen
}

#[test]
fn clones_at_old_markers_are_legal_while_replication_goes_on_and_after_kill_9() {
    let mut pair = Pair::prefilled(&Setup::seeded(901));
    let load = pair.load(0);
    // The volumes have gone on from the first of these when the history begins.
    let passed = moments(&pair, &load, 2)[0].marker;
    keep(&pair, "1h");
    let held = moments(&pair, &load, 5);
    let first = assert_cloned(&pair, "first", &held[0]);
    let third = assert_cloned(&pair, "third", &held[2]);
    assert_ne!(first, third);
    let markers: Vec<MarkerInfo> = pair.west.json(&["markers", GROUP]);
    let time = markers.iter().find(|marker| marker.number == held[1].marker).expect("it is listed").time.to_string();
    let second: ImageStatus = pair.west.json(&["clone", "create", "second", "--of", GROUP, "--at", &time]);
    assert_eq!(second.marker, held[1].marker, "the newest marker cut by its time");
    load.wait_acked(200);
    assert_eq!(read(&pair, "first"), first, "it does not change");
    let compared: VerifyReport = pair.east.json(&["verify", GROUP, "--to", "west"]);
    assert_eq!(compared.different_bytes, 0, "{compared:?}");
    let refused = pair.west.refuses(&["clone", "create", "x", "--of", GROUP, "--at", &passed.to_string()]);
    assert!(refused.contains(&format!("marker {passed} is not held here")), "{refused}");

    pair.west.kill9();
    load.wait_acked(100);
    pair.west.start();
    assert_eq!(read(&pair, "first"), first, "after kill -9");
    for (name, at) in ["again0", "again1", "again2", "again3", "again4"].iter().zip(&held) {
        assert_cloned(&pair, name, at);
    }
    let before = history(&pair.west).oldest_marker.expect("it keeps a history");
    let refused = pair.west.refuses(&["clone", "create", "x", "--of", GROUP, "--at", &(before - 1).to_string()]);
    assert!(refused.contains(&format!("the oldest marker that is held is {before}")), "{refused}");
    assert!(refused.contains("--history"), "it says what to do: {refused}");
    for name in ["first", "second", "third", "again0", "again1", "again2", "again3", "again4"] {
        pair.west.ok(&["clone", "delete", name]);
    }

    pair.wait_paired();
    load.stop();
    pair.east.ok(&["group", "set", GROUP, "--history", "off"]);
    wait_until("west to keep no history", LIMIT, || {
        check(pair.west.group(GROUP).history.is_none(), || format!("{:?}", pair.west.group(GROUP)))
    });
    wait_until("west to have applied everything", LIMIT, || {
        let positions = pair.west.group(GROUP).positions;
        check(positions.applied_seq == positions.journaled_seq, || format!("{positions:?}"))
    });
    pair.assert_copy_equals();
}

/// Fails over to an older marker; what came after is kept, and the old primary follows afterwards.
#[test]
fn a_failover_to_an_older_marker_keeps_what_came_after_and_the_pair_works_again() {
    let mut pair = Pair::prefilled(&Setup::seeded(902));
    keep(&pair, "1h");
    let load = pair.load(0);
    let held = moments(&pair, &load, 4);
    assert_cloned(&pair, "older", &held[0]);
    let older = read(&pair, "older");
    assert_cloned(&pair, "later", &held[3]);
    for at in [&held[1], &held[3]] {
        pair.west.ok(&["drill", "run", GROUP, "--marker", &at.marker.to_string()]);
    }
    let proven = |pair: &Pair| {
        let drills = pair.west.status().drills.into_iter().find(|drills| drills.group == GROUP);
        drills.and_then(|drills| drills.proven_marker)
    };
    assert_eq!(proven(&pair), Some(held[3].marker));
    pair.east.kill9();
    drop(load.join_broken());

    let wanted = held[1].marker.to_string();
    let report: FailoverReport = pair.west.json(&["failover", GROUP, "--force", "--at", &wanted]);
    assert_eq!((report.marker.number, report.generation), (held[1].marker, 2), "{report:?}");
    assert!(report.kept.is_some() && report.dropped_writes > 0, "{report:?}");
    let verdict = assert_legal("the image", &pair.history.writes(), &pair.image(&pair.west), held[1].bounds);
    pair.history.settle(&verdict);
    let tails: Vec<LostTail> = pair.west.json(&["lost", "list", GROUP]);
    assert_eq!(tails.len(), 1, "{tails:?}");
    assert_eq!((tails[0].writes, tails[0].after_marker), (report.dropped_writes, held[1].marker));
    let images: Vec<ImageStatus> = pair.west.json(&["clone", "list"]);
    let reason = |name: &str| images.iter().find(|image| image.name == name).expect("listed").reason.clone();
    assert_eq!(reason("older"), None);
    assert!(reason("later").is_some_and(|reason| reason.contains("failover")), "its moment is no more: {images:?}");
    assert_eq!(read(&pair, "older"), older, "an image of an older moment stays");
    assert_eq!(proven(&pair), Some(held[1].marker), "the later one cannot be had any more");

    let load = pair.load_on(&pair.west, 1);
    load.wait_acked(200);
    pair.west.kill9();
    drop(load.join_broken());
    pair.west.start();
    let image = pair.image(&pair.west);
    let verdict = assert_legal("after kill -9", &pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
    pair.history.settle(&verdict);
    assert_eq!(read(&pair, "older"), older, "after kill -9");

    pair.east.start();
    pair.east.wait_fenced(GROUP);
    let returned: RejoinReport = pair.east.json(&["rejoin", GROUP]);
    assert_eq!((returned.generation, returned.marker), (2, held[1].marker), "{returned:?}");
    let load = pair.load_on(&pair.west, 2);
    load.wait_acked(200);
    for side in [&pair.west, &pair.east] {
        side.wait_pair(GROUP, "the pair to be paired", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    }
    load.stop();
    let compared: VerifyReport = pair.west.json(&["verify", GROUP, "--to", "east"]);
    assert_eq!(compared.different_bytes, 0, "{compared:?}");
    assert_legal("the end", &pair.history.writes(), &pair.image(&pair.west), Bounds::EVERYTHING_ACKED);
}

/// A target that was split at a marker that a failover leaves behind has what its source never will have: a resync knows that.
#[test]
fn a_target_of_a_later_split_is_made_equal_after_a_failover_to_an_older_marker() {
    let mut pair = Pair::paired(&Setup::one_volume("v", 16 * MIB, 909));
    write_noise(&pair.east, "v", 0, 16 * MIB, 1);
    keep(&pair, "1h");
    let older = pair.settle().to_string();
    write_noise(&pair.east, "v", 4 * MIB, 2 * MIB, 2);
    pair.settle();
    pair.west.ok(&["volume", "create", "t", "--size", "16MiB"]);
    pair.west.ok(&["local-pair", "create", "v", "--target", "t", "--rate", "1GiB"]);
    pair.west.ok(&["local-pair", "split", "t"]);
    let wait_shown = |pair: &Pair, wanted: LocalPairState| {
        let equal = |shown: &LocalPairStatus| shown.state == wanted && shown.differential_bytes == 0;
        pair.west.wait_local_pair("t", "nothing to differ", LIMIT, equal);
    };
    wait_shown(&pair, LocalPairState::Split);
    let all = |pair: &Pair, volume: &str| pair.west.open(volume).read_all().expect("read");
    let image = all(&pair, "t");
    pair.east.kill9();
    let _: FailoverReport = pair.west.json(&["failover", GROUP, "--force", "--at", &older]);
    // The journal's places behind that marker are used again.
    write_noise(&pair.west, "v", 9 * MIB, MIB, 3);
    assert!(all(&pair, "t") == image, "the target is another");
    wait_until("the resync", LIMIT, || {
        let outcome = pair.west.cli(&["local-pair", "resync", "t"]);
        check(outcome.code == 0, || outcome.stderr)
    });
    wait_shown(&pair, LocalPairState::Pair);
    pair.west.ok(&["local-pair", "split", "t"]);
    assert!(all(&pair, "t") == all(&pair, "v"), "the target is not its source");
}

#[test]
fn a_clone_of_a_marker_from_before_a_volume_grew_is_as_large_as_the_volume_was() {
    let mut pair = Pair::paired(&Setup::one_volume("v", MIB, 910));
    keep(&pair, "1h");
    write_noise(&pair.east, "v", 0, MIB, 1);
    let older = pair.settle();
    pair.east.ok(&["volume", "resize", "v", "--size", "2MiB"]);
    write_noise(&pair.east, "v", MIB, MIB, 5);
    let newer = pair.settle();
    let assert_sizes = |pair: &Pair, round: &str| {
        for (marker, bytes) in [(older, MIB), (newer, 2 * MIB)] {
            let name = format!("{round}-{marker}");
            pair.west.ok(&["clone", "create", &name, "--of", GROUP, "--at", &marker.to_string()]);
            assert_eq!(pair.west.open(&format!("{name}/v")).size(), bytes, "at marker {marker}, {round}");
        }
    };
    assert_sizes(&pair, "running");
    pair.west.kill9();
    pair.west.start();
    assert_sizes(&pair, "started");
}

/// What a volume grew by is no part of that moment, and what was written there does not come back when it grows again.
#[test]
fn a_failover_to_a_marker_from_before_a_volume_grew_serves_it_as_large_as_it_was() {
    for (seed, restarted) in [(911, false), (912, true)] {
        let mut pair = Pair::paired(&Setup::one_volume("v", MIB, seed));
        keep(&pair, "1h");
        write_noise(&pair.east, "v", 0, MIB, 1);
        let older = pair.settle();
        pair.east.ok(&["volume", "resize", "v", "--size", "2MiB"]);
        write_noise(&pair.east, "v", MIB, MIB, 5);
        pair.settle();
        pair.east.kill9();
        if restarted {
            pair.west.kill9();
            pair.west.start();
        }
        let report: FailoverReport = pair.west.json(&["failover", GROUP, "--force", "--at", &older.to_string()]);
        assert_eq!(report.marker.number, older, "{report:?}");
        let all = |pair: &Pair| pair.west.open("v").read_all().expect("read");
        assert!(all(&pair) == noise(1, MIB), "it serves {} bytes, or others", all(&pair).len());
        pair.west.kill9();
        pair.west.start();
        assert!(all(&pair) == noise(1, MIB), "after kill -9");
        pair.west.ok(&["volume", "resize", "v", "--size", "2MiB"]);
        let (held, grown) = (all(&pair), 1_usize << 20);
        assert!(held[grown..].iter().all(|byte| *byte == 0) && held[..grown] == noise(1, MIB), "it grows by zeroes");
        pair.east.start();
        pair.east.wait_fenced(GROUP);
        let _: RejoinReport = pair.east.json(&["rejoin", GROUP]);
        pair.wait_paired();
        pair.assert_copied(&pair.west, &pair.east);
    }
}

/// There is no place for what came after the marker: the copy goes on at once, and can be taken over.
#[test]
fn a_failover_to_an_older_marker_that_cannot_keep_what_came_after_it_changes_nothing() {
    let pair = Pair::paired(&Setup::one_volume("v", MIB, 907));
    keep(&pair, "1h");
    write_noise(&pair.east, "v", 0, MIB, 1);
    let older = pair.settle().to_string();
    write_noise(&pair.east, "v", 0, MIB, 2);
    pair.settle();
    let lost = pair.west.directory().join("groups").join(pair.west.group(GROUP).id).join("lost");
    std::fs::write(&lost, "in the way").expect("put something in the way");
    let refused = pair.west.refuses(&["failover", GROUP, "--force", "--at", &older]);
    assert!(refused.contains("was not failed over") && refused.contains("lost"), "{refused}");
    assert_eq!(pair.west.group(GROUP).role, Role::Secondary);
    write_noise(&pair.east, "v", 0, MIB, 5);
    pair.settle();
    std::fs::remove_file(&lost).expect("take it away");
    let report: FailoverReport = pair.west.json(&["failover", GROUP, "--force", "--at", &older]);
    assert_eq!(report.marker.number.to_string(), older, "{report:?}");
    assert!(pair.west.open("v").read_all().expect("read") == noise(1, MIB), "the image of that marker");
}

/// Whenever a failover to an older marker dies, the copy is what it was, or that marker; it is asked for again and is there.
#[test]
fn a_failover_to_an_older_marker_that_is_killed_is_asked_for_again() {
    for (round, seed) in [(0, 903), (1, 904)] {
        let mut pair = Pair::prefilled(&Setup::seeded(seed));
        keep(&pair, "1h");
        let load = pair.load(0);
        let held = moments(&pair, &load, 2);
        pair.east.kill9();
        drop(load.join_broken());
        let wanted = held[0].marker.to_string();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(pair.west.cli(&["failover", GROUP, "--force", "--at", &wanted])));
            wait_until("the tail to be kept", LIMIT, || {
                let segments = pair.west.files(|name| name.ends_with(".segment"));
                let there = segments.iter().any(|path| path.to_string_lossy().contains("/lost/"));
                let over = round == 1 && pair.west.log_text().contains("failed over");
                check(there && (round == 0 || over), || "not yet".into())
            });
            let pid = rustix::process::Pid::from_raw(i32::try_from(pair.west.pid()).expect("a pid")).expect("a pid");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill it");
        });
        pair.west.kill9();
        pair.west.start();
        if pair.west.group(GROUP).role == Role::Secondary {
            let report: FailoverReport = pair.west.json(&["failover", GROUP, "--force", "--at", &wanted]);
            assert_eq!(report.marker.number, held[0].marker);
        }
        assert_legal("the image", &pair.history.writes(), &pair.image(&pair.west), held[0].bounds);
        let tails: Vec<LostTail> = pair.west.json(&["lost", "list", GROUP]);
        assert_eq!(tails.len(), 1, "{tails:?}");
    }
}

/// A short history moves on all the time: killed again and again, the copy loses nothing and knows what it holds.
#[test]
fn a_copy_with_a_short_history_that_is_killed_again_and_again_serves_what_it_says_it_holds() {
    let mut pair = Pair::prefilled(&Setup::seeded(905));
    keep(&pair, "1s");
    let load = pair.load(0);
    let mut floor = None;
    for round in 0..4 {
        let begun = history(&pair.west).oldest_marker.expect("it keeps a history");
        wait_until("the history to move on", LIMIT, || {
            let now = history(&pair.west);
            check(now.oldest_marker.is_some_and(|oldest| oldest > begun + 4), || format!("{now:?}"))
        });
        pair.west.kill9();
        load.wait_acked(50);
        pair.west.start();
        let at = moment(&pair);
        assert_cloned(&pair, &format!("newest{round}"), &at);
        floor = at.bounds.holds_acked_before;
        let oldest = history(&pair.west).oldest_marker.expect("it keeps a history").to_string();
        // It may have moved on between the two commands.
        let name = format!("oldest{round}");
        if pair.west.cli(&["clone", "create", &name, "--of", GROUP, "--at", &oldest]).code == 0 {
            assert_legal("the oldest", &pair.history.writes(), &read(&pair, &name), Bounds::ANY);
        }
    }
    pair.east.kill9();
    drop(load.join_broken());
    let report = pair.failover();
    let image = pair.image(&pair.west);
    let bounds = Bounds { holds_acked_before: floor, nothing_sent_after: None };
    assert_legal("the image taken over", &pair.history.writes(), &image, bounds);
    assert!(report.kept.is_none(), "{report:?}");
}

/// The journal's room belongs to what comes: the history yields before anything stands.
#[test]
fn a_history_yields_when_the_journal_fills_and_says_so() {
    let setup = Setup::one_volume("v", 64 * MIB, 906).journals("256MiB", "128MiB");
    let pair = Pair::paired(&setup);
    keep(&pair, "1h");
    let first = pair.settle();
    for round in 0..40 {
        write_noise(&pair.east, "v", 8 * MIB * (round % 8), 8 * MIB, round);
        pair.settle();
        let status = pair.east.pair(GROUP);
        assert!(matches!(status.state, PairState::Paired | PairState::CatchingUp), "{status:?}");
        assert_eq!(status.differential_bytes, 0, "its history was given up");
    }
    assert!(pair.west.log_text().contains("no room for all of the history"));
    // Its last marker is applied: the oldest may still be on their way out.
    let (now, refused) = wait_until("the oldest marker to be the one a refusal names", LIMIT, || {
        let now = history(&pair.west);
        let refused = pair.west.refuses(&["clone", "create", "x", "--of", GROUP, "--at", &first.to_string()]);
        let oldest = now.oldest_marker.map(|oldest| format!("is held is {oldest}"));
        let named = oldest.is_some_and(|oldest| refused.contains(&oldest));
        if named { Ok((now, refused)) } else { Err(format!("{now:?}: {refused}")) }
    });
    assert!(now.shortened, "{now:?}");
    let oldest = now.oldest_marker.expect("some of it is left");
    assert!(oldest > first && now.bytes > 0, "{now:?}: {refused}");
    pair.west.ok(&["clone", "create", "x", "--of", GROUP, "--at", &oldest.to_string()]);
}

/// Without a time: of a journal with room for three times as much, the size is kept, and nothing is said to be short.
#[test]
fn a_group_that_is_made_with_a_history_of_a_size_keeps_that_much() {
    let pair = Pair::unpaired(&Setup::one_volume("v", MIB, 913).journals("256MiB", "128MiB"));
    let (east, west) = (&pair.east, &pair.west);
    east.ok(&["volume", "create", "h", "--size", "8MiB"]);
    east.ok(&["group", "create", "sized", "--volume", "h", "--history", "32MiB"]);
    east.ok(&["pair", "create", "sized", "--to", "west"]);
    east.wait_pair("sized", "the pair to be paired", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    let kept = || west.try_group("sized").and_then(|group| group.history).unwrap_or_default();
    wait_until("west to keep a history", LIMIT, || {
        check(kept().oldest_marker.is_some(), || format!("{:?}", west.try_group("sized")))
    });
    let markers: Vec<String> = (0..13)
        .map(|round| {
            write_noise(east, "h", 0, 8 * MIB, 2 * round + 1);
            let marker = east.ok(&["cut", "sized"]).trim().to_owned();
            let words = ["wait", "sized", "--to", "west", "--marker", &marker, "--for", "applied", "--timeout", "30s"];
            east.ok(&words);
            marker
        })
        .collect();
    let now = wait_until("the oldest markers to go", LIMIT, || {
        let now = kept();
        if (16 * MIB..=44 * MIB).contains(&now.bytes) && !now.shortened { Ok(now) } else { Err(format!("{now:?}")) }
    });
    assert_eq!((now.asked.bytes, now.asked.milliseconds), (32 * MIB, 0), "{now:?}");
    assert!(west.refuses(&["clone", "create", "x", "--of", "sized", "--at", &markers[0]]).contains("is not held here"));
    let made: ImageStatus = west.json(&["clone", "create", "c", "--of", "sized", "--at", &markers[11]]);
    assert_eq!(made.marker.to_string(), markers[11], "{made:?}");
    assert!(west.open("c/h").read_all().expect("read the clone") == noise(23, 8 * MIB), "it is of another marker");
}

/// Markers inside of a resync are no moments of the image, and a volume that joins begins the history anew.
#[test]
fn a_resync_and_a_volume_that_joins_leave_only_markers_that_are_moments() {
    let pair = Pair::prefilled(&Setup { journals: Some(("64MiB", "512MiB")), ..Setup::seeded(907) });
    keep(&pair, "1h");
    let load = pair.load(0);
    let before = moments(&pair, &load, 2);
    pair.east.ok(&["volume", "create", "n", "--size", "64MiB"]);
    write_noise(&pair.east, "n", 0, 32 * MIB, 5);
    pair.east.ok(&["group", "add", GROUP, "--volume", "n"]);
    wait_until("west's image to have the volume", LIMIT, || {
        let volumes = pair.west.group(GROUP).volumes;
        check(volumes.len() == 4, || format!("{volumes:?}"))
    });
    pair.wait_paired();
    let after = moments(&pair, &load, 2);
    let refused = pair.west.refuses(&["clone", "create", "x", "--of", GROUP, "--at", &before[0].marker.to_string()]);
    assert!(refused.contains("the oldest marker that is held"), "{refused}");
    assert_cloned(&pair, "joined", &after[0]);
    let listed: Vec<MarkerInfo> = pair.west.json(&["markers", GROUP]);
    load.stop();
    // Each lies between those that are known.
    let bounds = Bounds { nothing_sent_after: after[0].bounds.nothing_sent_after, ..before[1].bounds };
    let mut cloned = 0;
    for marker in listed.iter().filter(|marker| marker.number > before[1].marker && marker.number < after[0].marker) {
        let (name, at) = (format!("m{}", marker.number), marker.number.to_string());
        if pair.west.cli(&["clone", "create", &name, "--of", GROUP, "--at", &at]).code == 0 {
            assert_legal(&name, &pair.history.writes(), &read(&pair, &name), bounds);
            pair.west.ok(&["clone", "delete", &name]);
            cloned += 1;
        }
    }
    assert!(cloned > 0 || listed.len() < 6, "{listed:?}");
}

/// What was copied, and not sent marker by marker, has no moments: who asks for one of these is told what there is around it.
#[test]
fn a_marker_that_came_with_a_resync_is_refused_with_its_neighbours() {
    let pair = Pair::paired(&Setup::one_volume("v", 96 * MIB, 919).journals("64MiB", "1GiB"));
    write_noise(&pair.east, "v", 0, 8 * MIB, 4);
    keep(&pair, "1h");
    let before = pair.settle();
    pair.relay.cut();
    let write = |rounds: std::ops::Range<u64>| {
        rounds.for_each(|round| write_noise(&pair.east, "v", 4 * MIB, 8 * MIB, 5 + round));
    };
    write(0..6);
    let inside = pair.cut();
    write(6..12);
    pair.east.wait_pair(GROUP, "the fall back", LIMIT, |pair| pair.state == PairState::Differential);
    pair.relay.heal();
    pair.wait_paired();
    let after = pair.settle();
    let refused = pair.west.refuses(&["clone", "create", "x", "--of", GROUP, "--at", &inside.to_string()]);
    assert!(refused.contains(&format!("marker {inside} is no moment of this copy")), "{refused}");
    assert!(!refused.contains("--history"), "a longer history would not have it: {refused}");
    for held in [before, after] {
        pair.west.ok(&["clone", "create", &format!("m{held}"), "--of", GROUP, "--at", &held.to_string()]);
    }
}

/// Scattered writes before each marker: each has a place of its own in the index that its image needs.
const WRITES: u64 = 50_000;
/// Markers, the newest last.
const MARKERS: u64 = 5;

/// Older markers of a long journal, several at a time: what lies before one is not indexed when it is asked for, but was when it came.
#[test]
fn clones_of_older_markers_behind_many_writes_are_there_in_a_second() {
    let pair = Pair::unpaired(&Setup::one_volume("a", 2048 * MIB, 908).journals("256MiB", "8GiB"));
    pair.create();
    pair.wait_paired();
    keep(&pair, "1h");
    let blocks = 2048 * MIB / 4096;
    // Each block once, far from the one before.
    let place = |number: u64| number * 40_503 % blocks * 4096;
    let content = |number: u64| number.to_le_bytes().repeat(512);
    let write = |from: u64, to: u64| {
        let hosts = (0..4).map(|host| (host, pair.east.open("a")));
        std::thread::scope(|scope| {
            for (host, mut connection) in hosts {
                scope.spawn(move || {
                    for number in (from + host..to).step_by(4) {
                        connection.write(place(number), &content(number)).expect("write");
                    }
                });
            }
        });
    };
    let markers: Vec<u64> = (0..MARKERS)
        .map(|part| {
            write(part * WRITES, (part + 1) * WRITES);
            pair.cut()
        })
        .collect();
    pair.wait_for(markers[4], "applied");
    let clone = |part: u64| {
        let (name, marker) = (format!("c{part}"), markers[usize::try_from(part).expect("few")]);
        let begin = Instant::now();
        let made: ImageStatus =
            pair.west.json(&["clone", "create", &name, "--of", GROUP, "--marker", &marker.to_string()]);
        let took = begin.elapsed().as_secs_f64();
        assert_eq!(made.marker, marker, "{made:?}");
        let mut clone = pair.west.open(&format!("{name}/a"));
        let end = (part + 1) * WRITES;
        for (number, there) in [(0, true), (end - 1, true), (end, false)] {
            assert_eq!(
                clone.read(place(number), 4096).expect("read") == content(number),
                there,
                "{name}: write {number}"
            );
        }
        took
    };
    let took: Vec<f64> = std::thread::scope(|scope| {
        let clones: Vec<_> = (0..MARKERS - 1).map(|part| scope.spawn(move || clone(part))).collect();
        clones.into_iter().map(|clone| clone.join().expect("a clone")).collect()
    });
    eprintln!("clones of older markers, {WRITES} writes between two, took {took:.3?} s");
    assert!(took.iter().all(|took| *took < 1.0), "{took:?} s");
}

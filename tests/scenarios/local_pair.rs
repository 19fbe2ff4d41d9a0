//! Pairs of a source and a target on one appliance, under load and kills: the source is never harmed, the target is the image of
//! its split or clearly none.

mod reverse;
mod side_store;

use std::path::Path;
use std::time::Duration;

use tidemark_common::api::backup::types::{BackupInfo, BackupState};
use tidemark_common::api::local_pair::types::{LocalPairState, LocalPairStatus};
use tidemark_common::api::types::PairState;
use tidemark_tests::appliance::Appliance;
use tidemark_tests::history::Tick;
use tidemark_tests::host::{Connection, HostError};
use tidemark_tests::image::{Image, compare};
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::wait::wait_until;

/// Until some megabytes are copied, also at a low rate.
const LIMIT: Duration = Duration::from_secs(60);
/// A rate at which nothing is ever done copying within a test.
const CRAWL: &str = "256KiB";

const TARGETS: [&str; 3] = ["ta", "tb", "tc"];

fn size(pair: &Pair) -> String {
    pair.profile(0).volume_bytes().to_string()
}

/// A target for each volume of the group; nothing of them is read before it was copied.
fn make_targets(pair: &Pair, side: &Appliance, rate: &str) {
    for (source, target) in pair.volumes().iter().zip(TARGETS) {
        side.ok(&["volume", "create", target, "--size", &size(pair)]);
        side.open(target).write_all(0, &vec![0xEE; 1 << 20]).expect("write to a volume in no group");
        wait_alone(side, target);
        let made: LocalPairStatus = side.json(&["local-pair", "create", source, "--target", target, "--rate", rate]);
        assert_eq!((made.state, made.source.as_str()), (LocalPairState::Copy, source.as_str()));
    }
}

/// Waits until the appliance has noticed that the hosts of a volume are gone.
fn wait_alone(side: &Appliance, name: &str) {
    wait_until(&format!("the hosts of {name} to be gone"), LIMIT, || {
        let volume = side.status().volumes.into_iter().find(|volume| volume.name == name).expect("the volume");
        if volume.connections == 0 { Ok(()) } else { Err(format!("{volume:?}")) }
    });
}

fn wait_shown(
    side: &Appliance,
    target: &str,
    what: &str,
    wanted: impl Fn(&LocalPairStatus) -> bool,
) -> LocalPairStatus {
    side.wait_local_pair(target, &format!("{target} to be {what}"), LIMIT, wanted)
}

fn wait_state(side: &Appliance, state: LocalPairState) {
    for target in TARGETS {
        wait_shown(side, target, state.name(), |shown| shown.state == state);
    }
}

fn wait_equal(side: &Appliance) {
    for target in TARGETS {
        wait_shown(side, target, "complete", |shown| shown.differential_bytes == 0);
    }
}

fn split(pair: &Pair, side: &Appliance) -> (Vec<LocalPairStatus>, Bounds) {
    let began = pair.history.tick();
    let made: Vec<LocalPairStatus> = side.json(&["local-pair", "split", "ta", "tb", "tc"]);
    assert!(
        made.iter().all(|shown| shown.marker == made[0].marker && shown.state == LocalPairState::Split),
        "{made:?}"
    );
    (made, Bounds::cut(began, pair.history.tick()))
}

fn bytes(side: &Appliance, names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| side.open(name).read_all().expect("read a volume")).collect()
}

fn targets(side: &Appliance) -> Vec<Vec<u8>> {
    bytes(side, &TARGETS)
}

fn sources(side: &Appliance) -> Vec<Vec<u8>> {
    bytes(side, &["a", "b", "c"])
}

fn assert_same(what: &str, found: &[Vec<u8>], expected: &[Vec<u8>]) {
    for (number, (found, expected)) in found.iter().zip(expected).enumerate() {
        compare(found, expected).unwrap_or_else(|difference| panic!("{what}, volume {number}: {difference}"));
    }
}

fn assert_closed(side: &Appliance, name: &str, why: &str) {
    match side.try_open(name).map(drop) {
        Err(HostError::Refused { message, .. }) => assert!(message.contains(why), "{message}"),
        other => panic!("{name} must be closed: {other:?}"),
    }
}

#[test]
fn a_split_is_the_image_of_its_moment_at_once_and_a_resync_copies_only_what_differs() {
    let pair = Pair::prefilled(&Setup::seeded(211));
    let east = &pair.east;
    let load = pair.load(0);
    make_targets(&pair, east, CRAWL);
    assert_closed(east, "ta", "local-pair split");
    load.wait_acked(100);
    // Hardly anything is copied: what the targets show is read from the sources.
    let (made, bounds) = split(&pair, east);
    assert!(made.iter().all(|shown| shown.differential_bytes > 4 << 20), "{made:?}");
    let first = targets(east);
    assert_legal("split at once", &pair.history.writes(), &Image::from_bytes(&first), bounds);
    load.wait_acked(300);
    assert_same("while most is still to be copied", &targets(east), &first);
    assert!(east.local_pair("ta").saved_bytes > 0, "hosts overwrote what was not copied");
    // A host's write to a target brings the rest of its region.
    let mut host = east.open("tb");
    host.write(70_144, &[7; 1024]).expect("write to a target");
    let mut written = first.clone();
    written[1][70_144..71_168].fill(7);
    assert_same("with what was written to it", &targets(east), &written);
    let why = east.refuses(&["local-pair", "resync", "tb"]);
    assert!(why.contains("1 NBD connection") && why.contains("--force"), "{why}");
    east.ok(&["local-pair", "resync", "tb", "--force"]);
    assert!(host.read_all().is_err(), "its host gets errors");
    drop(host);
    assert_closed(east, "tb", "local-pair split");
    for target in ["ta", "tc"] {
        wait_alone(east, target);
        east.ok(&["local-pair", "resync", target]);
    }
    assert_eq!(east.status().side_store.bytes, 0, "nothing is kept for a split that is over");
    // The pairs are made again, as fast as it goes.
    wait_alone(east, "tb");
    for (source, target) in pair.volumes().iter().zip(TARGETS) {
        east.ok(&["local-pair", "delete", target]);
        east.ok(&["local-pair", "create", source, "--target", target]);
    }
    wait_state(east, LocalPairState::Pair);
    load.wait_acked(100);
    let (_, bounds) = split(&pair, east);
    let second = targets(east);
    assert_legal("split of what follows", &pair.history.writes(), &Image::from_bytes(&second), bounds);
    load.stop();
    wait_equal(east);
    assert_same("complete", &targets(east), &second);
    pair.settle();
    // Only what differs is copied, and it is everything.
    east.open("a").write(1 << 20, &[9; 4096]).expect("write to a source");
    east.open("ta").write(3 << 20, &[8; 4096]).expect("write to a target");
    pair.settle();
    wait_alone(east, "ta");
    let changed = wait_shown(east, "ta", "changed", |shown| shown.source_changed_bytes > 0);
    assert_eq!(changed.target_changed_bytes, 65_536);
    let resynced: LocalPairStatus = east.json(&["local-pair", "resync", "ta"]);
    assert!(resynced.differential_bytes <= changed.source_changed_bytes + changed.target_changed_bytes, "{resynced:?}");
    wait_shown(east, "ta", "a pair", |shown| shown.state == LocalPairState::Pair);
    east.ok(&["local-pair", "split", "ta"]);
    assert_same("after the resync", &bytes(east, &["ta"]), &bytes(east, &["a"]));
    pair.assert_copy_equals();
}

/// Kills the appliance in the middle of a load; the sources hold every write that was answered.
fn kill(pair: &mut Pair, load: u64) {
    let running = pair.load(load);
    running.wait_acked(150);
    pair.east.kill9();
    drop(running.join_broken());
    pair.east.start();
    let image = Image::from_bytes(&sources(&pair.east));
    let verdict = assert_legal("the sources", &pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
    pair.history.settle(&verdict);
}

#[test]
fn kill_9_in_any_state_harms_no_source_and_no_image_and_forgets_no_difference() {
    let mut pair = Pair::prefilled(&Setup::seeded(213));
    make_targets(&pair, &pair.east, CRAWL);
    // Split, with most of it still to be copied.
    let load = pair.load(10);
    load.wait_acked(100);
    let (_, bounds) = split(&pair, &pair.east);
    load.wait_acked(100);
    load.stop();
    let image = targets(&pair.east);
    assert_legal("the early split", &pair.history.writes(), &Image::from_bytes(&image), bounds);
    assert!(TARGETS.iter().all(|target| pair.east.local_pair(target).differential_bytes > 1 << 20));
    kill(&mut pair, 11);
    assert_same("after kill -9 with most still to be copied", &targets(&pair.east), &image);
    for (source, target) in pair.volumes().iter().zip(TARGETS) {
        wait_alone(&pair.east, target);
        pair.east.ok(&["local-pair", "delete", target, "--force"]);
        pair.east.ok(&["local-pair", "create", source, "--target", target, "--rate", "2MiB"]);
    }
    // In the middle of the first copy.
    wait_shown(&pair.east, "ta", "half copied", |shown| shown.differential_bytes < 5 << 20);
    kill(&mut pair, 0);
    assert_eq!(pair.east.local_pair("ta").state, LocalPairState::Copy);
    assert_closed(&pair.east, "ta", "local-pair split");
    wait_state(&pair.east, LocalPairState::Pair);
    // While they follow.
    kill(&mut pair, 1);
    assert_eq!(pair.east.local_pair("ta").state, LocalPairState::Pair);
    // Split, with differences.
    let load = pair.load(2);
    load.wait_acked(100);
    let (_, bounds) = split(&pair, &pair.east);
    load.wait_acked(100);
    load.stop();
    let image = targets(&pair.east);
    assert_legal("the split", &pair.history.writes(), &Image::from_bytes(&image), bounds);
    let mut host = pair.east.open("tb");
    host.write(5000 * 512, &[6; 1024]).expect("write to a target");
    host.flush().expect("flush a target");
    drop(host);
    let mut expected = image;
    expected[1][5000 * 512..5002 * 512].fill(6);
    for load in 3..5 {
        kill(&mut pair, load);
        assert_same("after kill -9", &targets(&pair.east), &expected);
    }
    // In the middle of a resync, which then makes both the same.
    for target in TARGETS {
        wait_alone(&pair.east, target);
        pair.east.ok(&["local-pair", "resync", target]);
    }
    kill(&mut pair, 5);
    for target in TARGETS {
        assert!(matches!(pair.east.local_pair(target).state, LocalPairState::Resync | LocalPairState::Pair));
        assert_closed(&pair.east, target, "local-pair split");
    }
    wait_state(&pair.east, LocalPairState::Pair);
    split(&pair, &pair.east);
    assert_same("after all of it", &targets(&pair.east), &sources(&pair.east));
    pair.wait_paired();
    pair.assert_copy_equals();
}

#[test]
fn what_cannot_be_paired_is_refused_with_what_to_do() {
    let pair = Pair::prefilled(&Setup::seeded(214));
    let east = &pair.east;
    let bytes = size(&pair);
    east.ok(&["volume", "create", "small", "--size", "4096"]);
    east.ok(&["volume", "create", "t", "--size", &bytes]);
    east.ok(&["volume", "create", "u", "--size", &bytes]);
    let refused = |words: &[&str], why: &str| {
        let said = east.refuses(words);
        assert!(said.contains(why), "{words:?}: {said}");
    };
    refused(&["local-pair", "create", "a", "--target", "small"], "volume resize small");
    refused(&["local-pair", "create", "a", "--target", "a"], "its own target");
    refused(&["local-pair", "create", "a", "--target", "b"], "in group");
    refused(&["local-pair", "create", "t", "--target", "u"], "in no group");
    refused(&["local-pair", "create", "nothing", "--target", "t"], "no volume 'nothing'");
    refused(&["local-pair", "create", "a", "--target", "nothing"], "no volume 'nothing'");
    let host: Connection = east.open("t");
    refused(&["local-pair", "create", "a", "--target", "t"], "1 NBD connection");
    drop(host);
    wait_alone(east, "t");
    east.ok(&["local-pair", "create", "a", "--target", "t", "--rate", CRAWL]);
    refused(&["local-pair", "create", "b", "--target", "t"], "already");
    refused(&["local-pair", "create", "t", "--target", "u"], "a target itself");
    refused(&["local-pair", "resync", "t"], "state 'copy'");
    refused(&["local-pair", "reverse", "t"], "state 'copy'");
    refused(&["local-pair", "split", "u"], "not the target of a local pair");
    refused(&["group", "add", GROUP, "--volume", "t"], "local-pair delete t");
    refused(&["group", "remove", GROUP, "--volume", "a"], "local-pair delete t");
    for name in ["a", "t"] {
        refused(&["volume", "resize", name, "--size", "1GiB"], "local-pair delete t");
    }
    refused(&["volume", "delete", "t"], "local-pair delete t");
    east.ok(&["local-pair", "split", "t"]);
    refused(&["local-pair", "reverse", "t"], "still to be copied");
    refused(&["local-pair", "delete", "t"], "--force");
    // Nor while a host has it open, also when it is complete.
    east.ok(&["local-pair", "create", "b", "--target", "u"]);
    wait_shown(east, "u", "a pair", |shown| shown.state == LocalPairState::Pair);
    east.ok(&["local-pair", "split", "u"]);
    wait_shown(east, "u", "complete", |shown| shown.differential_bytes == 0);
    let host: Connection = east.open("u");
    refused(&["local-pair", "delete", "u"], "1 NBD connection");
    east.ok(&["local-pair", "delete", "u", "--force"]);
    drop(host);
    wait_alone(east, "u");
    refused(&["local-pair", "split", "t"], "state 'split'");
    // On the other side a copy may be a source as well, and stays one.
    let west = &pair.west;
    west.ok(&["volume", "create", "w", "--size", &bytes]);
    west.ok(&["local-pair", "create", "a", "--target", "w"]);
    let why = west.refuses(&["pair", "delete", GROUP, "--to", "east"]);
    assert!(why.contains("local-pair delete w"), "{why}");
    east.ok(&["local-pair", "delete", "t", "--force"]);
    assert_eq!(east.local_pair("t").state, LocalPairState::Simplex);
    east.open("t").write(0, &[1; 512]).expect("it is a volume like any other");
    east.ok(&["volume", "delete", "u"]);
}

#[test]
fn a_copy_on_the_secondary_is_split_while_it_follows() {
    let pair = Pair::prefilled(&Setup::seeded(215));
    make_targets(&pair, &pair.west, "1GiB");
    let load = pair.load(0);
    wait_state(&pair.west, LocalPairState::Pair);
    for _ in 0..3 {
        load.wait_acked(150);
        let began: Tick = pair.history.tick();
        let marker = pair.cut();
        pair.wait_for(marker, "received");
        split(&pair, &pair.west);
        let bounds = Bounds { holds_acked_before: Some(began), nothing_sent_after: Some(pair.history.tick()) };
        let image = targets(&pair.west);
        assert_legal("the split of a copy", &pair.history.writes(), &Image::from_bytes(&image), bounds);
        load.wait_acked(100);
        assert_same("while the copy goes on", &targets(&pair.west), &image);
        for target in TARGETS {
            wait_alone(&pair.west, target);
            pair.west.ok(&["local-pair", "resync", target]);
        }
    }
    load.stop();
    pair.settle();
    wait_state(&pair.west, LocalPairState::Pair);
    let why = pair.west.refuses(&["local-pair", "reverse", "ta"]);
    assert!(why.contains("secondary"), "{why}");
    split(&pair, &pair.west);
    assert_same("the copy at rest", &targets(&pair.west), &sources(&pair.east));
    pair.assert_copy_equals();
}

#[test]
fn a_split_outlives_a_failover_and_the_return_of_the_old_primary() {
    let mut pair = Pair::prefilled(&Setup::seeded(217));
    make_targets(&pair, &pair.east, "1GiB");
    make_targets(&pair, &pair.west, CRAWL);
    let load = pair.load(0);
    wait_state(&pair.east, LocalPairState::Pair);
    load.wait_acked(150);
    let (_, bounds) = split(&pair, &pair.east);
    let east_image = targets(&pair.east);
    assert_legal("the split on the primary", &pair.history.writes(), &Image::from_bytes(&east_image), bounds);
    let began: Tick = pair.history.tick();
    let marker = pair.cut();
    pair.wait_for(marker, "received");
    split(&pair, &pair.west);
    let bounds = Bounds { holds_acked_before: Some(began), nothing_sent_after: Some(pair.history.tick()) };
    let west_image = targets(&pair.west);
    assert_legal("the split on the copy", &pair.history.writes(), &Image::from_bytes(&west_image), bounds);
    load.wait_acked(150);
    pair.east.kill9();
    drop(load.join_broken());
    let _ = pair.failover();
    assert_same("after the failover", &targets(&pair.west), &west_image);
    let load = pair.load_on(&pair.west, 1);
    load.wait_acked(150);
    assert_same("while the new primary is written", &targets(&pair.west), &west_image);
    pair.east.start();
    pair.east.wait_fenced(GROUP);
    assert_same("on the fenced side", &targets(&pair.east), &east_image);
    pair.east.ok(&["rejoin", GROUP]);
    pair.west.wait_pair(GROUP, "the old primary to follow", LIMIT, |pair| pair.state == PairState::Paired);
    load.wait_acked(150);
    load.stop();
    assert_same("after it has become the copy", &targets(&pair.east), &east_image);
    let marker: u64 = pair.west.ok(&["cut", GROUP]).trim().parse().expect("a number");
    pair.west.ok(&["wait", GROUP, "--to", "east", "--marker", &marker.to_string(), "--timeout", "30s"]);
    // What was written meanwhile, on either side and through every change of roles, is known as a difference.
    for side in [&pair.east, &pair.west] {
        for (source, target) in pair.volumes().iter().zip(TARGETS) {
            wait_alone(side, target);
            side.ok(&["local-pair", "resync", target]);
            if side.name() == "west" {
                side.ok(&["local-pair", "delete", target]);
                side.ok(&["local-pair", "create", source, "--target", target]);
            }
        }
        wait_state(side, LocalPairState::Pair);
        side.ok(&["local-pair", "split", "ta", "tb", "tc"]);
        assert_same(side.name(), &targets(side), &sources(&pair.west));
    }
}

/// The targets as a backup of raw files holds them.
fn backed_up(folder: &Path, name: &str) -> Vec<Vec<u8>> {
    TARGETS.iter().map(|target| std::fs::read(folder.join(name).join("s").join(target)).expect("a raw file")).collect()
}

#[test]
fn a_backup_right_after_the_split_gives_the_same_bytes_in_all_three_ways_while_hosts_write() {
    let pair = Pair::prefilled(&Setup::seeded(216));
    let east = &pair.east;
    make_targets(&pair, east, "1MiB");
    east.ok(&["set", "create", "s", "ta", "tb", "tc"]);
    let folder = east.directory().with_file_name("backups");
    std::fs::create_dir_all(&folder).expect("make a folder for backups");
    let to = folder.display().to_string();
    let why = east.refuses(&["backup", "create", "early", "--set", "s", "--to", &to]);
    assert!(why.contains("local-pair split ta"), "{why}");
    let load = pair.load(0);
    load.wait_acked(100);
    let (_, bounds) = split(&pair, east);
    let mut expected = targets(east);
    assert_legal("the split", &pair.history.writes(), &Image::from_bytes(&expected), bounds);
    east.open("tb").write(70_144, &[7; 1024]).expect("write to a target");
    expected[1][70_144..71_168].fill(7);
    let ways = ["copy", "wait", "merge"];
    for way in ways {
        let create =
            ["backup", "create", way, "--set", "s", "--to", &to, "--rate", "4MiB", "--while-differential", way];
        let made: BackupInfo = east.json(&create);
        assert_eq!(made.moments.len(), 1, "one split is one moment: {made:?}");
    }
    assert!(east.local_pair("ta").differential_bytes > 0, "nobody waits for the rest of the copy");
    // Hosts write both sides meanwhile.
    let mut host = east.open("tb");
    for block in 0..32 {
        host.write(block * 65_536, &[0x5A; 4096]).expect("write to a target");
    }
    drop(host);
    wait_alone(east, "ta");
    let why = east.refuses(&["local-pair", "resync", "ta"]);
    assert!(why.contains("backup") && why.contains("cancel"), "{why}");
    for way in ways {
        let ended = east.wait_backup(way, LIMIT, |backup| backup.state.is_over());
        assert_eq!((ended.state, ended.reason), (BackupState::Done, None), "{way}");
        assert_same(way, &backed_up(&folder, way), &expected);
        east.ok(&["backup", "verify", way]);
    }
    assert_eq!(east.status().backups.get("done"), Some(&3));
    load.stop();
    let shown: Vec<LocalPairStatus> = east.json(&["local-pair", "list"]);
    assert_eq!(shown.iter().map(|shown| shown.target.as_str()).collect::<Vec<_>>(), TARGETS);
    east.ok(&["local-pair", "wait", "ta"]);
}

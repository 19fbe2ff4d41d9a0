//! Kills at whatever moment of a command that makes, changes or ends images, or changes roles: it was done or it was not, source and image are
//! whole, nothing is left of what is gone, and the same again works.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use tidemark_common::api::backup::types::{BackupInfo, BackupState};
use tidemark_common::api::local_pair::types::{LocalPairState, LocalPairStatus};
use tidemark_common::api::types::{DrillReport, DrillResult, ImageStatus, LostTail, Role};
use tidemark_tests::appliance::{Appliance, binary};
use tidemark_tests::cluster::Cluster;
use tidemark_tests::host::HostError;
use tidemark_tests::image::compare;
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

use crate::drills::{assert_nothing_left, left};

const LIMIT: Duration = Duration::from_secs(60);
const SIZE: u64 = 4 << 20;
/// After so many changes of the service's files, counted from when a command is begun, the service dies: before it has heard of it, at some
/// step of it, or when it is done. Not after a time: how long a step takes, every machine says differently.
const AFTER: [usize; 7] = [0, 1, 2, 3, 4, 6, 9];
/// Where a round is quick: one more each time, until what is asked for was done before. No more than so many, since other things change files too.
const STEPS_MAX: usize = 24;

/// A volume in a group.
fn side(cluster: &Cluster) -> Appliance {
    let side = cluster.running("alone");
    side.ok(&["volume", "create", "a", "--size", &SIZE.to_string()]);
    side.ok(&["group", "create", "g", "--volume", "a"]);
    side
}

/// Sizes and times of all files below a folder; those that go away meanwhile are gone.
fn files(folder: &Path) -> BTreeMap<PathBuf, (u64, Option<SystemTime>)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => found.extend(files(&entry.path())),
            Ok(meta) => drop(found.insert(entry.path(), (Metadata::len(&meta), meta.modified().ok()))),
            Err(_) => {}
        }
    }
    found
}

/// What a service changes: its own files, and its backups beside them.
fn changing(side: &Appliance) -> BTreeMap<PathBuf, (u64, Option<SystemTime>)> {
    let mut found = files(side.directory());
    found.extend(files(&side.directory().with_file_name("backups")));
    found
}

/// Asks for something and kills the service at some step of it. Whether it was over before.
fn asked_and_killed(side: &mut Appliance, words: &[&str], after: usize) -> bool {
    let mut asking = ask(side, words);
    kill_after(side, &mut asking, after)
}

fn ask(side: &Appliance, words: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.args(words).arg("--dir").arg(side.directory()).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start tidemark")
}

/// Kills a service when it has changed so many files, or what is asked for is done, and starts it again. Whether it was done.
fn kill_after(side: &mut Appliance, asking: &mut Child, after: usize) -> bool {
    let (mut seen, mut changes) = (changing(side), 0);
    while changes < after && asking.try_wait().expect("whether it has ended").is_none() {
        let now = changing(side);
        if now != seen {
            (seen, changes) = (now, changes + 1);
        }
    }
    side.kill9();
    asking.wait().expect("its end");
    side.start();
    changes < after
}

fn content(side: &Appliance, export: &str) -> Vec<u8> {
    side.open(export).read_all().expect("read an export")
}

fn put(side: &Appliance, seed: u64) -> Vec<u8> {
    write_noise(side, "a", 0, SIZE, seed);
    noise(seed, SIZE)
}

fn assert_holds(side: &Appliance, export: &str, expected: &[u8], what: &str) {
    compare(&content(side, export), expected).unwrap_or_else(|difference| panic!("{export} {what}: {difference}"));
}

fn assert_nothing_kept(side: &Appliance, what: &str) {
    assert_eq!(side.status().side_store.bytes, 0, "{what}");
    assert_eq!(side.files(|name| name.ends_with(".side")), Vec::<PathBuf>::new(), "{what}");
}

fn state(side: &Appliance) -> LocalPairState {
    side.local_pair("t").state
}

fn wait_for(side: &Appliance, what: &str, wanted: impl Fn(&LocalPairStatus) -> bool) {
    side.wait_local_pair("t", what, LIMIT, wanted);
    wait_alone(side);
}

/// Waits until the appliance has noticed that all hosts are gone.
fn wait_alone(side: &Appliance) {
    wait_until("all hosts to be gone", LIMIT, || {
        let status = side.status();
        let volumes = status.volumes.iter().map(|volume| volume.connections);
        let hosts: u64 = volumes.chain(status.images.iter().map(|image| image.connections)).sum();
        if hosts == 0 { Ok(()) } else { Err(format!("{hosts} connections")) }
    });
}

/// Asks for something that is killed; asks again unless it was done.
fn until_done(side: &mut Appliance, words: &[&str], after: usize, before: LocalPairState, behind: &[LocalPairState]) {
    asked_and_killed(side, words, after);
    let found = state(side);
    if found == before {
        side.ok(words);
    } else {
        assert!(behind.contains(&found), "{words:?} killed after {after} changes: {found:?}");
    }
}

#[test]
fn kill_9_at_any_moment_of_a_command_to_a_local_pair_leaves_it_done_or_not_done() {
    use LocalPairState::{Copy, Pair, Resync, Reverse, Simplex, Split};
    let cluster = Cluster::new();
    let mut side = side(&cluster);
    side.ok(&["volume", "create", "t", "--size", &SIZE.to_string()]);
    let equal = |shown: &LocalPairStatus| shown.differential_bytes == 0;
    for (seed, after) in (1..).step_by(10).zip(AFTER) {
        let held = put(&side, seed);
        // What a kill makes the updater write again would be marked again, whatever the pair has forgotten.
        side.restart();
        until_done(&mut side, &["local-pair", "create", "a", "--target", "t"], after, Simplex, &[Copy, Pair]);
        assert_holds(&side, "a", &held, "after a create");
        wait_for(&side, "a pair", |shown| shown.state == Pair && equal(shown));
        until_done(&mut side, &["local-pair", "split", "t"], after, Pair, &[Split]);
        assert_holds(&side, "t", &held, "after a split");
        let newer = put(&side, seed + 1);
        assert_holds(&side, "t", &held, "as at its split");
        wait_for(&side, "complete", equal);
        until_done(&mut side, &["local-pair", "resync", "t"], after, Split, &[Resync, Pair]);
        wait_for(&side, "a pair again", |shown| shown.state == Pair && equal(shown));
        side.ok(&["local-pair", "split", "t"]);
        assert_holds(&side, "t", &newer, "after a resync");
        put(&side, seed + 2);
        wait_for(&side, "complete again", equal);
        until_done(&mut side, &["local-pair", "reverse", "t"], after, Split, &[Reverse, Pair]);
        wait_for(&side, "restored", |shown| shown.state == Pair);
        assert_holds(&side, "a", &newer, "after a reverse");
        wait_alone(&side);
        until_done(&mut side, &["local-pair", "delete", "t"], after, Pair, &[Simplex]);
        assert_eq!(state(&side), Simplex);
        side.kill9();
        side.start();
        assert_eq!(state(&side), Simplex, "it does not come back");
        assert_nothing_kept(&side, "after a delete");
        assert_holds(&side, "a", &newer, "after all of it");
    }
}

#[test]
fn kill_9_at_any_moment_of_making_or_deleting_an_image_leaves_all_of_it_or_nothing() {
    let cluster = Cluster::new();
    let mut side = side(&cluster);
    let listed = |side: &Appliance, kind: &str| side.json::<Vec<ImageStatus>>(&[kind, "list"]).len();
    for (seed, after) in (1..).step_by(10).zip(0..STEPS_MAX) {
        let mut over = true;
        for (number, kind) in ["t0", "clone"].into_iter().enumerate() {
            let held = put(&side, seed + 2 * number as u64);
            let create = [kind, "create", "i", "--of", "g"];
            over &= asked_and_killed(&mut side, &create, after);
            if listed(&side, kind) == 0 {
                assert_nothing_kept(&side, "of an image that is none");
                side.ok(&create);
            }
            assert_holds(&side, "a", &held, "after making an image");
            put(&side, seed + 2 * number as u64 + 1);
            assert_holds(&side, "i/a", &held, "at its moment");
            wait_alone(&side);
            over &= asked_and_killed(&mut side, &[kind, "delete", "i"], after);
            if listed(&side, kind) == 1 {
                assert_holds(&side, "i/a", &held, "still");
                wait_alone(&side);
                side.ok(&[kind, "delete", "i"]);
            }
            assert_nothing_kept(&side, "of an image that is gone");
            assert_eq!(side.status().clone_store.bytes, 0);
        }
        if over {
            break;
        }
    }
}

#[test]
fn kill_9_at_any_moment_of_a_backup_leaves_all_of_it_or_nothing() {
    let cluster = Cluster::new();
    let mut side = side(&cluster);
    side.ok(&["set", "create", "s", "a"]);
    let folder = cluster.join("backups");
    std::fs::create_dir_all(&folder).expect("a folder for backups");
    let (archive, files) = (folder.join("b.tar"), folder.join("b"));
    let rounds = |to, made| (0..STEPS_MAX).map(move |after| (after, to, made));
    let mut over = None;
    for (seed, (after, to, made)) in (1..).zip(rounds(&archive, &archive).chain(rounds(&folder, &files))) {
        if over == Some(made) {
            continue;
        }
        let (held, to) = (put(&side, seed), to.display().to_string());
        let create = ["backup", "create", "b", "--set", "s", "--to", &to];
        if asked_and_killed(&mut side, &[create.as_slice(), &["--wait"]].concat(), after) {
            over = Some(made);
        }
        let found = side.json::<Vec<BackupInfo>>(&["backup", "list"]).pop();
        let done = found.is_some_and(|backup| {
            assert!(matches!(backup.state, BackupState::Done | BackupState::Failed), "{backup:?}");
            backup.state == BackupState::Done
        });
        wait_until("an interim name to be gone", LIMIT, || {
            let names = std::fs::read_dir(&folder).expect("list").count();
            if names == usize::from(done) {
                Ok(())
            } else {
                Err(format!("{names} names, killed after {after} changes"))
            }
        });
        assert_holds(&side, "a", &held, "after a backup");
        assert_nothing_kept(&side, "of a backup that is over");
        if !done {
            side.ok(&[create.as_slice(), &["--wait"]].concat());
        }
        side.ok(&["backup", "verify", "b"]);
        wait_alone(&side);
        side.ok(&["backup", "restore", "b", "--onto", "a"]);
        assert_holds(&side, "a", &held, "restored");
        side.ok(&["backup", "delete", "b"]);
        let removed = if made.is_dir() { std::fs::remove_dir_all(made) } else { std::fs::remove_file(made) };
        removed.expect("remove the backup");
    }
}

#[test]
fn kill_9_at_any_moment_of_a_restore_leaves_a_volume_that_is_whole_or_closed() {
    let cluster = Cluster::new();
    let mut side = side(&cluster);
    side.ok(&["set", "create", "s", "a"]);
    let held = put(&side, 1);
    let to = cluster.join("b.tar").display().to_string();
    side.ok(&["backup", "create", "b", "--set", "s", "--to", &to, "--wait"]);
    let restore = ["backup", "restore", "b", "--onto-volumes"];
    for (seed, after) in (3..).step_by(2).zip(0..STEPS_MAX) {
        let newer = put(&side, seed);
        wait_alone(&side);
        let over = asked_and_killed(&mut side, &restore, after);
        match side.try_open("a") {
            Ok(mut host) => {
                let found = host.read_all().expect("read the volume");
                assert!(found == newer || found == held, "open and half restored, killed after {after} changes");
            }
            Err(HostError::Refused { message, .. }) => assert!(message.contains("is half restored"), "{message}"),
            Err(other) => panic!("killed after {after} changes: {other:?}"),
        }
        wait_alone(&side);
        side.ok(&restore);
        assert_holds(&side, "a", &held, "restored");
        assert!(side.status().restores.is_empty());
        if over {
            break;
        }
    }
}

/// It has passed or failed, or never was; its clone and all that its check had are gone, and the next one passes.
#[test]
fn kill_9_at_any_moment_of_a_drill_leaves_its_record_at_most() {
    let cluster = Cluster::new();
    let mut side = side(&cluster);
    let run = ["drill", "run", "g", "--check", "true"];
    for (seed, after) in (1..).step_by(2).zip(0..STEPS_MAX) {
        let held = put(&side, seed);
        let over = asked_and_killed(&mut side, &run, after);
        let listed: Vec<DrillReport> = side.json(&["drill", "list"]);
        for drill in &listed {
            let interrupted = drill.reason.as_deref().is_some_and(|reason| reason.starts_with("interrupted"));
            assert_eq!(drill.result == DrillResult::Failed, interrupted, "killed after {after} changes: {drill:?}");
            assert_ne!(drill.result, DrillResult::Running, "{drill:?}");
        }
        wait_until("what the check had to go", LIMIT, || {
            let left = left(&side);
            check(left.is_empty(), || format!("{left:?}, killed after {after} changes"))
        });
        assert_nothing_left(&side);
        assert_nothing_kept(&side, "of a drill that is over");
        assert_eq!(side.status().clone_store.bytes, 0);
        assert_holds(&side, "a", &held, "after a drill");
        let next: DrillReport = side.json(&run);
        assert_eq!(next.result, DrillResult::Passed, "{next:?}");
        assert!(listed.iter().all(|drill| drill.id < next.id), "a number is given once: {listed:?}, {next:?}");
        if over {
            break;
        }
    }
}

/// After so many changes of its files dies the side that returns, or the one to which it returns.
const RETURNS: [(usize, bool); 6] = [(1, false), (1, true), (2, false), (3, true), (4, false), (8, false)];

/// The side that returns is fenced or the copy afterwards, nothing in between: what it had alone is kept once and whole, and it is the exact
/// copy, when it is asked again if need be.
#[test]
fn kill_9_at_any_moment_of_a_rejoin_leaves_it_done_or_not_done_and_loses_nothing() {
    let half = usize::try_from(SIZE / 2).expect("small");
    let mut pair = Pair::paired(&Setup::one_volume("v", SIZE, 340));
    write_noise(&pair.east, "v", 0, SIZE, 1);
    let mut held = noise(1, SIZE);
    for (seed, (after, kill_west)) in (11..).step_by(10).zip(RETURNS) {
        let what = format!("killed after {after} changes, the new primary: {kill_west}");
        pair.settle();
        pair.relay.cut();
        write_noise(&pair.east, "v", 0, SIZE / 2, seed);
        let _ = pair.failover();
        write_noise(&pair.west, "v", SIZE / 4, SIZE / 2, seed + 2);
        held[half / 2..half / 2 + half].copy_from_slice(&noise(seed + 2, SIZE / 2));
        pair.relay.heal();
        pair.east.wait_fenced(GROUP);

        let mut asking = ask(&pair.east, &["rejoin", GROUP]);
        let dies = if kill_west { &mut pair.west } else { &mut pair.east };
        kill_after(dies, &mut asking, after);
        assert_eq!(pair.west.group(GROUP).role, Role::Primary, "{what}");
        assert_holds(&pair.west, "v", &held, &what);
        match pair.east.group(GROUP).role {
            Role::Fenced => {
                let listed: Vec<LostTail> = pair.east.json(&["lost", "list", GROUP]);
                assert!(listed.is_empty(), "{what}: nothing is lost yet: {listed:?}");
                pair.east.ok(&["rejoin", GROUP]);
            }
            role => assert_eq!(role, Role::Secondary, "{what}"),
        }
        pair.wait_paired();
        pair.assert_copied(&pair.west, &pair.east);
        assert!(pair.backing(&pair.east)[0] == held, "{what}: the copy is another image");

        let tails: Vec<LostTail> = pair.east.json(&["lost", "list", GROUP]);
        let [tail] = tails.as_slice() else { panic!("{what}: one tail: {tails:?}") };
        assert_eq!(tail.volumes.iter().map(|volume| volume.bytes).sum::<u64>(), SIZE / 2, "{what}: {tail:?}");
        let file = pair.cluster.join(&format!("lost-{seed}"));
        pair.east.ok(&["lost", "export", GROUP, &tail.name, "--volume", "v", "--to", &file.display().to_string()]);
        let exported = std::fs::read(&file).expect("read what was exported");
        assert!(exported[..half] == noise(seed, SIZE / 2), "{what}: what was lost is not what was written");
        assert!(exported[half..].iter().all(|byte| *byte == 0), "{what}: more is called lost than was");
        pair.east.ok(&["lost", "discard", GROUP, &tail.name]);
        pair.west.ok(&["switchover", GROUP, "--to", "east"]);
        pair.wait_paired();
    }
    pair.assert_copied(&pair.east, &pair.west);
}

/// After so many changes of its files dies the copy that takes over.
const TAKES_OVER: [usize; 5] = [1, 2, 3, 5, 8];

/// The copy is the copy or the primary afterwards, nothing in between, and serves what was permitted. Asked again, it has taken over once.
#[test]
fn kill_9_at_any_moment_of_a_failover_leaves_it_done_or_not_done_and_loses_nothing() {
    let mut pair = Pair::paired(&Setup::one_volume("v", SIZE, 341));
    for (seed, after) in (21..).zip(TAKES_OVER) {
        let what = format!("killed after {after} changes");
        let generation = pair.west.group(GROUP).generation;
        write_noise(&pair.east, "v", 0, SIZE, seed);
        let held = noise(seed, SIZE);
        pair.settle();
        pair.east.kill9();
        pair.west.wait_pair(GROUP, "the loss of its primary", LIMIT, |pair| !pair.connected);

        let mut asking = ask(&pair.west, &["failover", GROUP, "--force"]);
        kill_after(&mut pair.west, &mut asking, after);
        if pair.west.group(GROUP).role == Role::Secondary {
            pair.west.ok(&["failover", GROUP, "--force"]);
        }
        let taken = pair.west.group(GROUP);
        assert_eq!((taken.role, taken.generation), (Role::Primary, generation + 1), "{what}");
        assert_holds(&pair.west, "v", &held, &what);

        pair.east.start();
        pair.east.wait_fenced(GROUP);
        pair.east.ok(&["rejoin", GROUP]);
        pair.wait_paired();
        pair.assert_copied(&pair.west, &pair.east);
        let tails: Vec<LostTail> = pair.east.json(&["lost", "list", GROUP]);
        assert!(tails.is_empty(), "{what}: nothing was lost: {tails:?}");
        pair.west.ok(&["switchover", GROUP, "--to", "east"]);
        pair.wait_paired();
    }
    pair.assert_copied(&pair.east, &pair.west);
}

//! Drills: they pass, fail, hang and are interrupted; the copy never notices, and nothing of them stays behind.

use std::path::PathBuf;
use std::time::Duration;

use tidemark_common::api::types::{DrillReport, DrillResult, GroupDrills, ImageStatus};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::command::run;
use tidemark_tests::disk::Disk;
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

pub(crate) fn drill(side: &Appliance, words: &[&str]) -> (i32, DrillReport) {
    let outcome = side.cli(&[&["drill", "run", GROUP, "--json"], words].concat());
    let report = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
    (outcome.code, report)
}

fn proven(side: &Appliance) -> GroupDrills {
    side.status().drills.remove(0)
}

/// Where its drills have their folders.
pub(crate) fn folders(side: &Appliance) -> String {
    std::env::temp_dir().join(format!("tidemark-{}-drill-", &side.id()[..16])).display().to_string()
}

/// What drills have left on this machine.
pub(crate) fn left(side: &Appliance) -> Vec<String> {
    let folders = folders(side);
    let listed = std::env::temp_dir().read_dir().expect("list").flatten().map(|entry| entry.path());
    let folder = listed.map(|path| path.display().to_string()).filter(|path| path.starts_with(&folders));
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("read mounts");
    let loops = run("losetup", &["--list", "--noheadings", "--output", "NAME,BACK-FILE"]).done();
    let lines = mounts.lines().chain(loops.lines()).filter(|line| line.contains(&folders)).map(str::to_owned);
    let processes = processes(&folders);
    folder.chain(lines).chain(processes.iter().map(|pid| format!("process {pid}"))).collect()
}

/// Processes that have a text in their command line or their environment.
pub(crate) fn processes(text: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("list processes").flatten();
    let holds = |path: PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    let found = entries.filter(|entry| ["cmdline", "environ"].iter().any(|file| holds(entry.path().join(file))));
    found.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

pub(crate) fn assert_nothing_left(side: &Appliance) {
    let status = side.status();
    assert_eq!((status.images.len(), status.side_store.bytes), (0, 0), "{:?}", status.images);
    let left = left(side);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn drills_under_load_pass_fail_and_hang_and_the_copy_never_notices() {
    let mut pair = Pair::prefilled(&Setup::seeded(211));
    let load = pair.load(0);
    load.wait_acked(200);
    let west = &pair.west;
    let look = "for uri in $TIDEMARK_DRILL_EXPORTS; do nbdinfo --size $uri; done; test -n \"$TIDEMARK_DRILL_NBD_A\"; echo seen";
    let (code, passed) = drill(west, &["--check", look]);
    assert_eq!((code, passed.result, passed.check_exit_code), (0, DrillResult::Passed, Some(0)), "{passed:?}");
    assert_eq!(passed.output.lines().count(), 4, "{passed:?}");
    assert!(
        passed.rto_seconds.is_some_and(|rto| rto < 2.0) && passed.rpo_seconds.is_some_and(|rpo| rpo < 30.0),
        "{passed:?}"
    );
    assert_eq!(passed.exports.len(), 3);
    let after = proven(west);
    assert_eq!((after.proven_marker, after.last_passed), (Some(passed.marker), Some(true)), "{after:?}");
    let show = |side: &Appliance| side.json::<DrillReport>(&["drill", "show", &passed.id.to_string()]);
    assert_eq!(show(west), passed, "what was answered is what is recorded");

    let (code, failed) = drill(west, &["--check", "echo broken >&2; exit 3"]);
    assert_eq!((code, failed.result, failed.check_exit_code), (1, DrillResult::Failed, Some(3)));
    assert_eq!(failed.output, "broken\n");
    let after = proven(west);
    assert_eq!((after.proven_marker, after.last_passed), (Some(passed.marker), Some(false)), "{after:?}");

    // A check that hangs in a child of its shell; both must go.
    let mark = format!("31{}", west.pid());
    let (code, hung) = drill(west, &["--check", &format!("sleep {mark} & sleep {mark}; true"), "--timeout", "500ms"]);
    assert_eq!((code, hung.result, hung.check_exit_code), (1, DrillResult::Failed, None));
    assert!(hung.reason.as_deref().unwrap_or_default().contains("--timeout"), "{hung:?}");
    wait_until("the check's processes to be gone", Duration::from_secs(5), || {
        let left = run("pgrep", &["-f", &format!("^sleep {mark}")]);
        check(left.code == 1, || left.stdout.clone())
    });
    load.wait_acked(100);
    assert_nothing_left(west);
    let listed: Vec<DrillReport> = west.json(&["drill", "list"]);
    assert_eq!(listed.iter().map(|drill| drill.id).collect::<Vec<_>>(), [3, 2, 1], "newest first");
    let shown: DrillReport = west.json(&["drill", "show", "2"]);
    assert_eq!(shown.output, "broken\n");
    let page = west.ok(&["drill", "report", "2"]);
    assert!(page.starts_with("<!doctype html>") && page.contains("exit code 3"), "{page}");
    assert!(west.refuses(&["drill", "run", "nothing"]).contains("no group"));
    assert!(west.refuses(&["drill", "run", GROUP, "--marker", "999999"]).contains("not held"));
    load.stop();
    pair.wait_paired();
    pair.assert_copy_equals();
    pair.west.restart();
    assert_eq!(show(&pair.west), passed, "after a restart, too");
}

#[test]
fn a_drill_interrupted_by_kill_9_has_failed_and_leaves_nothing() {
    let mut pair = Pair::prefilled(&Setup::seeded(212));
    pair.settle();
    let mark = format!("32{}", pair.west.pid());
    let command = format!("exec sleep {mark}");
    pair.west.ok(&["drill", "schedule", GROUP, "--every", "1h", "--check", &command]);
    wait_until("the scheduled drill to run its check", Duration::from_secs(20), || {
        let found = run("pgrep", &["-f", &format!("^sleep {mark}")]);
        check(found.code == 0, || format!("{:?}", pair.west.status().drills))
    });
    assert!(pair.west.refuses(&["drill", "run", GROUP]).contains("under way"));
    let listed: Vec<DrillReport> = pair.west.json(&["drill", "list"]);
    assert_eq!(
        listed.iter().map(|drill| (drill.id, drill.result)).collect::<Vec<_>>(),
        [(1, DrillResult::Running)],
        "what is under way is listed"
    );
    assert!(pair.west.ok(&["drill", "list"]).contains("running"));
    let clones: Vec<ImageStatus> = pair.west.json(&["clone", "list"]);
    assert_eq!(clones.len(), 1, "{clones:?}");
    pair.west.kill9();
    wait_until("the check to go with the service", Duration::from_secs(5), || {
        let left = left(&pair.west);
        check(left.is_empty(), || format!("{left:?}"))
    });
    pair.west.start();
    let shown: DrillReport = pair.west.json(&["drill", "show", "1"]);
    assert!(shown.scheduled && shown.result == DrillResult::Failed, "{shown:?}");
    assert!(shown.reason.as_deref().unwrap_or_default().starts_with("interrupted"), "{shown:?}");
    assert_nothing_left(&pair.west);
    assert_eq!(proven(&pair.west).every_seconds, Some(3600.0), "the schedule stays, and is not due");
    pair.west.ok(&["drill", "unschedule", GROUP]);
    assert_eq!(drill(&pair.west, &[]).0, 0, "without a check the exports are read");
    let first = pair.west.cli(&["drill", "schedule", GROUP, "--every", "1h"]);
    assert!(first.code == 0 && !first.stderr.contains("replaces"), "{first:?}");
    let second = pair.west.cli(&["drill", "schedule", GROUP, "--every", "2h"]);
    assert!(second.code == 0 && second.stderr.contains("which replaces the schedule every 1 h"), "{second:?}");
    pair.wait_paired();
}

#[test]
fn the_ready_checks_tell_a_sound_file_system_from_a_broken_one() {
    let pair = Pair::paired(&Setup::one_volume("a", 64 << 20, 213));
    let ext4 = "\"$TIDEMARK\" drill check ext4";
    {
        let disk = Disk::attach(&pair.east.uri("a"), &pair.cluster.join("disk"));
        disk.make_ext4();
        let mounted = disk.mount(&pair.cluster.join("mnt"));
        for number in 0..200 {
            std::fs::write(mounted.join(&format!("file-{number}")), vec![7; 20_000]).expect("write a file");
        }
        run("sqlite3", &[&mounted.join("db").display().to_string(), "create table t(x); insert into t values (1)"])
            .done();
        let mut database = std::fs::read(mounted.join("db")).expect("read the database");
        let half = database.len() / 2;
        database[half..].fill(0xA5);
        std::fs::write(mounted.join("damaged"), database).expect("write a damaged one");
        std::os::unix::fs::symlink(mounted.join("db"), mounted.join("leaving")).expect("make a link");
        mounted.sync();
        // While it is mounted and written: what a disaster would leave.
        pair.settle();
        let (code, report) = drill(&pair.west, &["--check", ext4]);
        assert_eq!((code, report.result), (0, DrillResult::Passed), "{report:?}");
        let sqlite = "\"$TIDEMARK\" drill check sqlite --volume a db";
        let (code, report) = drill(&pair.west, &["--check", sqlite]);
        assert_eq!(code, 0, "{report:?}");
        let damaged = "\"$TIDEMARK\" drill check sqlite --volume a damaged";
        let (code, report) = drill(&pair.west, &["--check", damaged]);
        assert!(code == 1 && report.output.contains("/damaged: "), "{report:?}");
        let leaving = "\"$TIDEMARK\" drill check sqlite --volume a leaving";
        let (code, report) = drill(&pair.west, &["--check", leaving]);
        assert!(code == 1 && report.output.contains("out of the clone"), "the original's is not looked at: {report:?}");
        let mounted = "test \"$(ls $TIDEMARK_DRILL_MOUNT_A | grep -c file-)\" = 200";
        let (code, report) = drill(&pair.west, &["--mount", "--check", mounted]);
        assert_eq!(code, 0, "{report:?}");
        let options = "grep \" $TIDEMARK_DRILL_MOUNT_A \" /proc/self/mounts";
        let (code, report) = drill(&pair.west, &["--mount", "--check", options]);
        assert_eq!(
            (code, report.output.contains("errors=remount-ro")),
            (0, true),
            "whatever it holds itself: {report:?}"
        );
        let hanging = "echo mounted; sleep 1000";
        let (code, report) = drill(&pair.west, &["--mount", "--check", hanging, "--timeout", "5s"]);
        assert_eq!((code, report.output.trim()), (1, "mounted"), "{report:?}");
        assert_nothing_left(&pair.west);
    }
    let mut host = pair.east.open("a");
    let end = host.size();
    for offset in (0..end).step_by(1 << 20) {
        host.write(offset, &[0xA5; 65536]).expect("break it");
    }
    host.flush().expect("flush");
    pair.settle();
    let (code, report) = drill(&pair.west, &["--check", ext4]);
    assert_eq!((code, report.result), (1, DrillResult::Failed), "{report:?}");
    assert_nothing_left(&pair.west);
}

/// XFS is replayed by the kernel, also where the original is mounted; what is broken is told.
#[test]
fn the_ready_check_of_xfs_replays_its_log_and_tells_a_sound_one_from_a_broken_one() {
    let pair = Pair::paired(&Setup::one_volume("a", 320 << 20, 214));
    let xfs = "\"$TIDEMARK\" drill check xfs";
    {
        let disk = Disk::attach(&pair.east.uri("a"), &pair.cluster.join("disk"));
        disk.make_xfs();
        let mounted = disk.mount(&pair.cluster.join("mnt"));
        for number in 0..200 {
            std::fs::write(mounted.join(&format!("file-{number}")), vec![7; 20_000]).expect("write a file");
        }
        mounted.sync();
        // Of these the log has more than its places on the disk.
        for number in 0..100 {
            let name = |kind: &str| mounted.join(&format!("{kind}-{number}"));
            std::fs::rename(name("file"), name("moved")).expect("rename a file");
        }
        mounted.sync();
        pair.settle();
        let (code, report) = drill(&pair.west, &["--check", xfs]);
        assert_eq!((code, report.result), (0, DrillResult::Passed), "{report:?}");
        assert!(report.output.contains("Phase 7") && report.output.contains("is well"), "{report:?}");
        assert!(!report.output.contains("host filesystem"), "{report:?}");
        let mounted = "ls $TIDEMARK_DRILL_MOUNT_A | grep -c moved-";
        let (code, report) = drill(&pair.west, &["--mount", "--check", mounted]);
        assert_eq!((code, report.output.trim()), (0, "100"), "{report:?}");
        assert_nothing_left(&pair.west);
    }
    let mut host = pair.east.open("a");
    for offset in (8192..host.size()).step_by(1 << 20) {
        host.write(offset, &[0xA5; 65536]).expect("break it");
    }
    host.flush().expect("flush");
    pair.settle();
    let (code, report) = drill(&pair.west, &["--check", xfs]);
    assert_eq!((code, report.result), (1, DrillResult::Failed), "{report:?}");
    assert_nothing_left(&pair.west);
}

/// A check that takes one volume for another proves what it has not looked at.
#[test]
fn volumes_whose_variables_would_have_one_name_are_told_apart() {
    let volumes = ["u", "U", "u.fuse"].map(|name| (name, "16MiB".to_owned())).to_vec();
    let pair = Pair::paired(&Setup { volumes, interval: "250ms", seed: 215, journals: None, on_full: "fold" });
    for (number, name) in ["u", "U", "u.fuse"].into_iter().enumerate() {
        Disk::attach(&pair.east.uri(name), &pair.cluster.join(&format!("disk-{number}"))).make_ext4();
    }
    pair.settle();
    let look = "test -z \"$TIDEMARK_DRILL_NBD_U$TIDEMARK_DRILL_MOUNT_U\" && test -n \"$TIDEMARK_DRILL_NBD_U_FUSE\" && \
                test -d $TIDEMARK_DRILL_MOUNT_U_FUSE/lost+found && echo \"$TIDEMARK_DRILL_NBD\" && echo \"$TIDEMARK_DRILL_MOUNT\"";
    let (code, report) = drill(&pair.west, &["--mount", "--check", look]);
    assert_eq!(code, 0, "{report:?}");
    let mut lines = report.output.lines();
    let note = lines.next().unwrap_or_default();
    assert!(note.contains("volumes u, U have no variables") || note.contains("volumes U, u have"), "{report:?}");
    for line in lines {
        let all: std::collections::BTreeMap<String, String> = serde_json::from_str(line).expect("a JSON object");
        assert_eq!(all.keys().collect::<Vec<_>>(), ["U", "u", "u.fuse"]);
        assert_eq!(all.values().collect::<std::collections::BTreeSet<_>>().len(), 3, "{all:?}");
    }
    assert_nothing_left(&pair.west);
    // One of them is broken, and it is that one.
    let mut host = pair.east.open("U");
    for offset in (0..host.size()).step_by(1 << 20) {
        host.write(offset, &[0xA5; 65536]).expect("break it");
    }
    host.flush().expect("flush");
    pair.settle();
    for (volume, expected) in [("u", 0), ("U", 1), ("u.fuse", 0)] {
        let ext4 = format!("\"$TIDEMARK\" drill check ext4 --volume {volume}");
        let (code, report) = drill(&pair.west, &["--check", &ext4]);
        assert_eq!(code, expected, "{volume}: {report:?}");
    }
    assert_nothing_left(&pair.west);
}

#[test]
fn a_drill_leaves_aside_the_names_that_people_gave_to_images() {
    let pair = Pair::paired(&Setup::one_volume("a", 8 << 20, 216));
    let west = &pair.west;
    west.json::<ImageStatus>(&["clone", "create", "drill-1", "--of", GROUP]);
    west.json::<ImageStatus>(&["t0", "create", "drill-3", "--of", GROUP]);
    for expected in ["drill-2", "drill-4"] {
        let (code, report) = drill(west, &[]);
        assert_eq!((code, report.name.as_str()), (0, expected), "{report:?}");
    }
    let images: Vec<_> = west.status().images.into_iter().map(|image| image.name).collect();
    assert_eq!(images, ["drill-1", "drill-3"], "they are people's");
    west.ok(&["clone", "delete", "drill-1"]);
    west.ok(&["t0", "delete", "drill-3"]);
    assert_eq!(drill(west, &[]).1.name, "drill-5");
    assert_nothing_left(west);
}

/// The page of a drill before which its service ran for some seconds has its times, its figures and a plot.
fn assert_reported(side: &Appliance) {
    let drill = wait_until("a drill with a plot", Duration::from_secs(30), || {
        let listed: Vec<DrillReport> = side.json(&["drill", "list"]);
        let newest = listed.iter().find(|drill| drill.result == DrillResult::Passed).ok_or("none has passed yet")?;
        // The list leaves out how old the copy was.
        let shown: DrillReport = side.json(&["drill", "show", &newest.id.to_string()]);
        let has_plot = shown.lag.iter().any(|at| at.0 > 1.0);
        if has_plot { Ok(shown) } else { Err("none yet".to_owned()) }
    });
    let page = side.ok(&["drill", "report", &drill.id.to_string()]);
    let times = [drill.started, drill.marker_time].map(|time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
    for words in [times[0].as_str(), times[1].as_str(), "<polyline points=\"60.0,"] {
        assert!(page.contains(words), "{words}: {page}");
    }
    for label in ["<small>RTO", "<small>RPO", "<small>the whole drill"] {
        let before = page.split(label).next().unwrap_or_default();
        let figure = before.rsplit("<div>").next().unwrap_or_default();
        assert!(figure.starts_with(|digit: char| digit.is_ascii_digit()) && figure.ends_with('s'), "{label}: {page}");
    }
}

/// What is scheduled is done again and again, and what it proves gets newer; a drill that fails takes nothing of that away.
#[test]
fn scheduled_drills_follow_each_other_and_prove_newer_and_newer_markers() {
    let mut pair = Pair::paired(&Setup::one_volume("a", 8 << 20, 217));
    let schedule =
        |pair: &Pair, check: &str| pair.west.ok(&["drill", "schedule", GROUP, "--every", "1s", "--check", check]);
    let within = Duration::from_secs(30);
    schedule(&pair, "true");
    let mut proven_at = 0;
    for byte in 1..4 {
        pair.east.open("a").write(0, &[byte; 4096]).expect("write");
        let marker = pair.settle();
        let drills = wait_until("a newer marker to be proven", within, || {
            let drills = proven(&pair.west);
            let newer = drills.proven_marker.is_some_and(|proven| proven >= marker);
            check(newer, || format!("{drills:?}")).map(|()| drills)
        });
        assert!(drills.proven_marker > Some(proven_at), "{drills:?}");
        assert!(drills.proven_age_seconds.is_some_and(|age| age < 30.0) && drills.proven_time.is_some(), "{drills:?}");
        proven_at = drills.proven_marker.expect("a marker");
    }
    assert_reported(&pair.west);
    // They go on after a restart, and now they fail.
    pair.west.restart();
    schedule(&pair, "false");
    let failed = wait_until("a drill to fail", within, || {
        let newest = pair.west.json::<Vec<DrillReport>>(&["drill", "list"]).remove(0);
        let failed = newest.check.as_deref() == Some("false") && newest.result == DrillResult::Failed;
        check(failed, || format!("{newest:?}")).map(|()| newest.id)
    });
    let before = proven(&pair.west);
    assert!(before.proven_marker >= Some(proven_at), "{before:?}");
    wait_until("the next one", within, || {
        let drills = proven(&pair.west);
        check(drills.last > Some(failed), || format!("{drills:?}"))
    });
    assert_eq!(proven(&pair.west).proven_marker, before.proven_marker, "what failed proves nothing");
    pair.west.ok(&["drill", "unschedule", GROUP]);
    assert_eq!(proven(&pair.west).every_seconds, None);
}

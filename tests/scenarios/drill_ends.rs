//! However a drill ends (in time, too late, by a kill of the service or of the check's guard), nothing of it stays on the machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tidemark_common::api::types::{DrillReport, DrillResult, ImageStatus};
use tidemark_common::catalog::Catalog;
use tidemark_common::clock::SystemClock;
use tidemark_tests::appliance::{Appliance, Options, binary};
use tidemark_tests::cluster::Cluster;
use tidemark_tests::command::run;
use tidemark_tests::disk::Disk;
use tidemark_tests::host::Connection;
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

use super::drills::{assert_nothing_left, drill, folders, left, processes};

/// What does not end when it is told to has five seconds.
const END_LIMIT: Duration = Duration::from_secs(20);
const BEGIN_LIMIT: Duration = Duration::from_secs(20);

/// A number of seconds that nobody else sleeps. When a test fails, whoever does so still is ended here.
struct Mark(String);

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        run("pkill", &["-KILL", "-f", &format!("^sleep {self}$")]);
    }
}

fn mark(side: &Appliance, test: u32) -> Mark {
    Mark(format!("{test}{}", side.pid()))
}

fn sleepers(mark: &Mark) -> Vec<String> {
    run("pgrep", &["-f", &format!("^sleep {mark}$")]).stdout.lines().map(str::to_owned).collect()
}

/// Has a check run by schedule, until so many of its processes sleep.
fn begin(side: &Appliance, words: &[&str], mark: &Mark, count: usize) {
    side.ok(&[&["drill", "schedule", GROUP, "--every", "1h"], words].concat());
    wait_until("the scheduled drill to run its check", BEGIN_LIMIT, || {
        let drills: Vec<DrillReport> = side.json(&["drill", "list"]);
        check(sleepers(mark).len() == count, || format!("{} of {count}; {drills:?}", sleepers(mark).len()))
    });
}

fn wait_gone(side: &Appliance, mark: &Mark) {
    wait_until("nothing of the drill to be left", END_LIMIT, || {
        let (sleepers, left) = (sleepers(mark), left(side));
        check(sleepers.is_empty() && left.is_empty(), || format!("{sleepers:?} {left:?}"))
    });
}

fn assert_interrupted(side: &Appliance) {
    let shown: DrillReport = side.json(&["drill", "show", "1"]);
    assert_eq!((shown.result, shown.check_exit_code), (DrillResult::Failed, None), "{shown:?}");
    assert!(shown.reason.as_deref().unwrap_or_default().starts_with("interrupted"), "{shown:?}");
}

fn guard(side: &Appliance) -> Pid {
    let found = processes(&folders(side)).into_iter().find(|pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).nth(2) == Some(b"guard")
    });
    found.and_then(Pid::from_raw).expect("the check has a guard")
}

/// The service dies; nobody starts it again, and all the same: a child of the check's shell, one that knows nothing of the drill and left
/// its session, and one that does not end when it is told to.
#[test]
fn kill_9_of_the_service_ends_whatever_a_check_has_started() {
    let mut pair = Pair::prefilled(&Setup::seeded(221));
    pair.settle();
    let mark = mark(&pair.west, 21);
    let deaf = format!("env -i setsid -f sh -c 'trap \"\" TERM; sleep {mark}; true'");
    let command = format!("sleep {mark} & {deaf}; sleep {mark}; true");
    begin(&pair.west, &["--check", &command], &mark, 3);
    pair.west.kill9();
    wait_gone(&pair.west, &mark);
    pair.west.start();
    assert_interrupted(&pair.west);
    assert_nothing_left(&pair.west);
    assert_eq!(drill(&pair.west, &[]).0, 0, "the next one passes");
    pair.wait_paired();
}

#[test]
fn kill_9_of_the_service_takes_away_what_a_drill_has_mounted() {
    let mut pair = Pair::paired(&Setup::one_volume("a", 64 << 20, 222));
    Disk::attach(&pair.east.uri("a"), &pair.cluster.join("disk")).make_ext4();
    pair.settle();
    let mark = mark(&pair.west, 22);
    let command = format!("cd $TIDEMARK_DRILL_MOUNT_A && echo much > file && sleep {mark}; true");
    begin(&pair.west, &["--mount", "--check", &command], &mark, 1);
    let seen = left(&pair.west);
    assert!(
        seen.iter().any(|line| line.contains(" ext4 ")) && seen.iter().any(|line| line.contains("/.fuse/a fuse")),
        "{seen:?}"
    );
    pair.west.kill9();
    wait_gone(&pair.west, &mark);
    pair.west.start();
    assert_interrupted(&pair.west);
    assert_nothing_left(&pair.west);
    let (code, report) = drill(&pair.west, &["--mount", "--check", "test -d $TIDEMARK_DRILL_MOUNT_A/lost+found"]);
    assert_eq!(code, 0, "{report:?}");
    assert_nothing_left(&pair.west);
}

/// What a check says and ends with is what it was without a guard.
#[test]
fn daemons_of_a_check_end_with_it_whether_it_is_in_time_or_not() {
    let pair = Pair::prefilled(&Setup::seeded(223));
    pair.settle();
    let west = &pair.west;
    let mark = mark(west, 23);
    let daemon = format!("env -i setsid -f sleep {mark}; until pgrep -f '^sleep {mark}' > seen; do :; done; echo seen");
    let hangs = format!("{daemon}; sleep {mark}; true");
    let (code, hung) = drill(west, &["--check", &hangs, "--timeout", "5s"]);
    assert_eq!((code, hung.result, hung.check_exit_code, hung.output.trim()), (1, DrillResult::Failed, None, "seen"));
    assert!(hung.reason.as_deref().unwrap_or_default().contains("--timeout"), "{hung:?}");
    assert_eq!(sleepers(&mark), [""; 0]);
    assert_nothing_left(west);

    let (code, passed) = drill(west, &["--check", &daemon]);
    assert_eq!(
        (code, passed.result, passed.check_exit_code, passed.output.trim()),
        (0, DrillResult::Passed, Some(0), "seen")
    );
    assert_eq!(sleepers(&mark), [""; 0]);
    assert_nothing_left(west);

    let (_, failed) = drill(west, &["--check", &format!("{daemon}; exit 41")]);
    assert_eq!((failed.result, failed.check_exit_code, failed.output.trim()), (DrillResult::Failed, Some(41), "seen"));
    let (_, ended) = drill(west, &["--check", "echo now; kill -9 $$"]);
    assert_eq!((ended.result, ended.check_exit_code, ended.output.trim()), (DrillResult::Failed, None, "now"));
    assert!(ended.reason.as_deref().unwrap_or_default().contains("signal 9"), "{ended:?}");
    // All of its process group: the guard is in another.
    let (_, ended) = drill(west, &["--check", "kill -9 0"]);
    assert!(ended.reason.as_deref().unwrap_or_default().contains("signal 9"), "{ended:?}");
    assert_eq!(sleepers(&mark), [""; 0]);
    assert_nothing_left(west);
}

/// The guard alone dies, and then the guard and the service.
#[test]
fn a_check_that_lost_its_guard_is_ended_by_the_service_or_by_its_next_start() {
    let mut pair = Pair::prefilled(&Setup::seeded(224));
    pair.settle();
    let mark = mark(&pair.west, 24);
    let command = format!("setsid -f sleep {mark}; sleep {mark}; true");
    begin(&pair.west, &["--check", &command], &mark, 2);
    kill_process(guard(&pair.west), Signal::KILL).expect("kill the guard");
    wait_gone(&pair.west, &mark);
    let ended: DrillReport = wait_until("the drill to have ended", END_LIMIT, || {
        let shown: DrillReport = pair.west.json(&["drill", "show", "1"]);
        if shown.result == DrillResult::Running { Err(format!("{shown:?}")) } else { Ok(shown) }
    });
    assert!(ended.reason.as_deref().unwrap_or_default().contains("from outside"), "{ended:?}");
    assert_nothing_left(&pair.west);

    begin(&pair.west, &["--check", &command], &mark, 2);
    pair.west.freeze();
    kill_process(guard(&pair.west), Signal::KILL).expect("kill the guard");
    pair.west.kill9();
    assert_eq!(sleepers(&mark).len(), 2, "nobody has ended them");
    pair.west.start();
    wait_gone(&pair.west, &mark);
    let shown: DrillReport = pair.west.json(&["drill", "show", "2"]);
    assert!(shown.reason.as_deref().unwrap_or_default().starts_with("interrupted"), "{shown:?}");
    assert_nothing_left(&pair.west);
}

/// Ctrl-C, or SIGTERM: nobody waits for the drill any more, and the command goes when nothing of it is left.
#[test]
fn a_drill_whose_command_is_broken_off_is_ended_with_all_it_has_started() {
    let pair = Pair::prefilled(&Setup::seeded(227));
    pair.settle();
    let west = &pair.west;
    let mark = mark(west, 27);
    let sleeps = format!("setsid -f sleep {mark}; sleep {mark}; true");
    let reason = "cancelled by the operator";
    for (number, signal, code) in [("1", Signal::INT, 130), ("2", Signal::TERM, 143)] {
        let mut command = Command::new(binary());
        command.args(["drill", "run", GROUP, "--check", sleeps.as_str(), "--dir"]).arg(west.directory());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let command = command.spawn().expect("run tidemark");
        wait_until("the drill to run its check", BEGIN_LIMIT, || {
            check(sleepers(&mark).len() == 2, || format!("{} of 2", sleepers(&mark).len()))
        });
        kill_process(Pid::from_child(&command), signal).expect("signal the command");
        let output = command.wait_with_output().expect("the command ends");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains("is being ended, with its check and its clone") && told.contains(reason), "{told}");
        assert_eq!(sleepers(&mark), [""; 0]);
        assert_nothing_left(west);
        let shown: DrillReport = west.json(&["drill", "show", number]);
        assert_eq!((shown.result, shown.check_exit_code), (DrillResult::Failed, None), "{shown:?}");
        assert_eq!(shown.reason.as_deref(), Some(reason), "{shown:?}");
    }
    assert!(west.refuses(&["drill", "cancel", GROUP]).contains("no drill of group"));

    // One that was scheduled, and runs for nobody.
    begin(west, &["--check", &sleeps], &mark, 2);
    assert!(west.refuses(&["drill", "run", GROUP]).contains("tidemark drill cancel"));
    let told = west.cli(&["drill", "unschedule", GROUP]);
    assert!(told.code == 0 && told.stderr.contains("tidemark drill cancel"), "it goes on: {told:?}");
    let ended: DrillReport = west.json(&["drill", "cancel", GROUP]);
    assert_eq!((ended.id, ended.reason.as_deref()), (3, Some(reason)), "{ended:?}");
    assert_eq!(sleepers(&mark), [""; 0]);
    assert_nothing_left(west);
    assert!(west.refuses(&["drill", "unschedule", GROUP]).contains("no drills of group"));
    assert_eq!(drill(west, &[]).0, 0, "the next one passes");
    pair.wait_paired();
}

fn catalog(directory: &Path) -> Catalog {
    Catalog::open(directory, &SystemClock::new()).expect("open the catalogue of a service that does not run")
}

/// A kill between a drill's clone and its record.
#[test]
fn a_clone_of_a_drill_that_is_not_recorded_goes_at_the_next_start() {
    let mut pair = Pair::prefilled(&Setup::seeded(225));
    pair.settle();
    let mark = mark(&pair.west, 25);
    begin(&pair.west, &["--check", &format!("sleep {mark}; true")], &mark, 1);
    let clones: Vec<ImageStatus> = pair.west.json(&["clone", "list"]);
    assert_eq!(clones.len(), 1, "{clones:?}");
    pair.west.kill9();
    wait_gone(&pair.west, &mark);
    let unrecorded = catalog(pair.west.directory());
    unrecorded.delete_drill(1).expect("take away the record");
    assert_eq!((unrecorded.images().expect("images").len(), unrecorded.drills().expect("drills").len()), (1, 0));
    drop(unrecorded);
    pair.west.start();
    assert_nothing_left(&pair.west);
    let (code, report) = drill(&pair.west, &[]);
    assert_eq!((code, report.name), (0, clones[0].name.clone()), "its name is free");
    assert_nothing_left(&pair.west);
}

/// A kill between a clone's files and its record, or when it is deleted: between its record and its files.
#[test]
fn files_of_a_clone_that_is_not_recorded_go_at_the_next_start_and_clones_stay() {
    let mut pair = Pair::prefilled(&Setup::seeded(226));
    pair.settle();
    let made = |name: &str| pair.west.json::<ImageStatus>(&["clone", "create", name, "--of", GROUP]);
    let volume = &pair.volumes()[0];
    let (kept, _) = (made("kept"), made("half"));
    let open = |pair: &Pair, name: &str| -> Connection { pair.west.open(&format!("{name}/{volume}")) };
    for name in ["kept", "half"] {
        let mut host = open(&pair, name);
        host.write(0, &[0xC7; 4096]).expect("write to the clone");
        host.flush().expect("flush");
    }
    let folder = pair.west.directory().join("images/clones");
    let folders = || {
        let mut names: Vec<_> = folder.read_dir().expect("list").flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(folders(), ["half", "kept"]);
    pair.west.kill9();
    catalog(pair.west.directory()).delete_image("half").expect("take away the record");
    pair.west.start();
    assert_eq!(folders(), ["kept"]);
    let images = pair.west.status().images;
    assert_eq!(
        images.iter().map(|image| (image.name.as_str(), image.marker)).collect::<Vec<_>>(),
        [("kept", kept.marker)]
    );
    assert_eq!(open(&pair, "kept").read(0, 4096).expect("read the clone"), [0xC7; 4096]);
    pair.west.json::<ImageStatus>(&["clone", "create", "half", "--of", GROUP]);
    assert_ne!(open(&pair, "half").read(0, 4096).expect("read the new clone"), [0xC7; 4096], "it begins anew");
    for name in ["kept", "half"] {
        pair.west.ok(&["clone", "delete", name, "--force"]);
    }
    assert_eq!((folders().len(), pair.west.status().side_store.bytes), (0, 0));
    pair.wait_paired();
}

/// A package is upgraded under a running service: its drills go on, with the program that is there now.
#[test]
fn a_drill_finds_its_program_when_that_was_replaced() {
    let cluster = Cluster::new();
    let (program, newer) = (cluster.join("tidemark"), cluster.join("newer"));
    for copy in [&program, &newer] {
        std::fs::copy(binary(), copy).expect("copy the program");
    }
    let options = Options { binary: Some(program.display().to_string()), ..Options::default() };
    let mut side = Appliance::init(&cluster.join("alone"), "alone", &options);
    side.start();
    side.ok(&["volume", "create", "v", "--size", "4MiB"]);
    side.ok(&["group", "create", GROUP, "--volume", "v"]);
    std::fs::rename(&newer, &program).expect("replace the program");
    let (code, report) = drill(&side, &["--check", "\"$TIDEMARK\" --version"]);
    assert_eq!((code, report.result), (0, DrillResult::Passed), "{report:?}");
    assert_nothing_left(&side);
}

//! The binary as scripts use it: exit codes, standard output for machines, standard error for people.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails where it stands")]

mod fake;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use fake::{Served, samples};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tidemark_common::api::types::{ErrorBody, ErrorKind, ImageKind, Status};
use tidemark_common::config::Config;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// What a command did.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark"));
    command.args(words).env_remove("TIDEMARK_DIR").env_remove("RUST_LOG").stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(words: &[&str]) -> Outcome {
    command(words).output().await.unwrap().into()
}

async fn run_in(served: &Served, line: &str) -> Outcome {
    let words: Vec<&str> = line.split_whitespace().collect();
    command(&words).env("TIDEMARK_DIR", served.directory.path()).output().await.unwrap().into()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn what_is_done_is_told_to_people_on_stderr_and_to_machines_on_stdout() {
    let served = Served::showing(samples::paired());
    let peer = format!("peer add west --id {} --addr west:7411", "00".repeat(32));
    for (line, told, field) in [
        (peer.as_str(), "peer 'west' at west:7411 is trusted", "address"),
        ("peer remove north", "peer 'north' is no longer trusted", "name"),
        ("volume create c --size 1GiB", "volume 'c' is made: 1 GiB", "backing"),
        ("volume delete a", "volume 'a' is deleted", "name"),
        ("volume offer a --group h", "may be made on volume 'a'", "offered_to"),
        ("volume resize a --size 2GiB", "volume 'a' has 2 GiB now", "size"),
        ("group create h --volume a --volume b", "group 'h' has the volumes a, b", "volumes"),
        ("group set g --history 24h,1GiB", "keep older markers from now on: 1d, 1 GiB", "volumes"),
        ("group set g --history off", "keep no older markers any more", "volumes"),
        ("group set g --on-full throttle", "are slowed while its journal fills", "on_full"),
        ("group add g --volume c", "group 'g' has the volumes a, b, c", "volumes"),
        ("group remove g --volume b", "group 'g' has the volume a", "volumes"),
        ("pair create g --to west", "pair of 'g' with 'west': paired", "state"),
        ("pair suspend g --to west", "'west': paired", "state"),
        ("pair resume g --to west", "'west': paired", "state"),
        ("pair release g --to west", "'west': paired", "state"),
        ("pair delete g --to west", "is deleted", "peer"),
        ("wait g", "marker 42 of 'g' is applied", "number"),
        ("wait g --marker 7 --for received", "marker 7 of 'g' is received", "number"),
        ("failover g", "serves     marker 41", "dropped_writes"),
        ("rejoin g", "lost       7 writes (28 KiB) that this side does not know to be on 'west'", "lost_writes"),
        ("rejoin g --as-primary", "primary here again, generation 2, with what it has", "lost_writes"),
        ("drill cancel g", "drill 7 of group 'g' at marker 42 passed", "result"),
        ("backup restore /b --onto c", "warning: a copy may not follow\nrestored 1 member, 512 B onto c", "warnings"),
        ("backup restore /b --onto c --cancel", "what is in b now is neither what was there nor the backup", "state"),
        ("backup restore --give-up a", "volume 'a' is open to hosts as it is", "name"),
        ("switchover g --to west", "'west' is primary now, generation 2", "hosts_waited_ms"),
    ] {
        let people = run_in(&served, line).await;
        assert_eq!((people.code, people.stdout.as_str()), (Some(0), ""), "{line}: {people:?}");
        assert!(people.stderr.contains(told), "{line}: {people:?}");
        let machine = run_in(&served, &format!("{line} --json")).await;
        assert_eq!((machine.code, machine.stderr.as_str()), (Some(0), ""), "{line}: {machine:?}");
        let answer: Value = serde_json::from_str(&machine.stdout).unwrap();
        assert!(answer.get(field).is_some(), "{line}: {answer}");
    }
}

#[tokio::test]
async fn what_is_no_clone_is_not_deleted_as_one() {
    let mut status = samples::paired();
    status.images = vec![samples::image("noon", ImageKind::T0), samples::image("try", ImageKind::Clone)];
    let served = Served::showing(status);
    for (line, says) in [
        ("clone delete noon", "'noon' is a T0 copy: nothing was changed. `tidemark t0 delete noon` deletes it"),
        ("t0 delete try", "'try' is a clone: nothing was changed. `tidemark clone delete try` deletes it"),
    ] {
        let refused = run_in(&served, line).await;
        assert!(refused.code == Some(1) && refused.stderr.contains(says), "{line}: {refused:?}");
    }
    assert!(served.fake.calls().is_empty(), "nothing was asked for");
    let deleted = run_in(&served, "t0 delete noon").await;
    assert!(deleted.code == Some(0) && deleted.stderr.contains("T0 copy 'noon' is deleted"), "{deleted:?}");
}

#[tokio::test]
async fn questions_are_answered_on_stdout() {
    let served = Served::showing(samples::paired());
    let cut = run_in(&served, "cut g --tag x").await;
    assert_eq!((cut.code, cut.stdout.as_str(), cut.stderr.as_str()), (Some(0), "43\n", ""));
    let markers = run_in(&served, "markers g").await;
    assert_eq!(markers.code, Some(0));
    let numbers: Vec<&str> = markers.stdout.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(numbers, ["42", "41", "40", "39", "38"]);
    let pair = run_in(&served, "local-pair show t").await;
    let times = ["state: split, since 2026-01-01 00:00:00Z", "marker 41 of 2026-01-01 00:00:00Z"];
    assert!(times.iter().all(|told| pair.stdout.contains(told)), "{pair:?}");
    let volumes = run_in(&served, "volume list").await;
    assert!(volumes.stdout.contains("scratch  512 MiB  -"), "{volumes:?}");
    let status = run_in(&served, "status").await;
    assert!(status.stdout.contains("──▶ west   paired"), "{status:?}");
    assert!(!status.stdout.contains('\x1b'), "no colour where there is no terminal");
    let json = run_in(&served, "status --json").await;
    assert_eq!(serde_json::from_str::<Status>(&json.stdout).unwrap(), samples::paired());
}

#[tokio::test]
async fn who_breaks_off_what_the_service_goes_on_with_is_told() {
    for (line, what) in
        [("switchover g --to west", "the switchover of group 'g'"), ("group delete h", "the deletion of group 'h'")]
    {
        let served = Served::showing(samples::paired());
        let hold = served.fake.hold();
        let mut command = command(&line.split_whitespace().collect::<Vec<_>>());
        command.env("TIDEMARK_DIR", served.directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        // It listens for signals before it asks.
        served.fake.asked.notified().await;
        let process = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap())).unwrap();
        kill_process(process, Signal::INT).unwrap();
        let ended: Outcome = child.wait_with_output().await.unwrap().into();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(130), ""), "{line}: {ended:?}");
        assert!(
            ended.stderr.contains(what) && ended.stderr.contains("completes what it has begun"),
            "{line}: {ended:?}"
        );
        hold.notify_one();
        served.fake.ended.notified().await;
    }
}

#[tokio::test]
async fn a_demo_that_is_broken_off_leaves_nothing_and_ends_as_the_signal_says() {
    let place = tempfile::tempdir().unwrap();
    let mut command = command(&["demo"]);
    command.env("TMPDIR", place.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It listens for signals before it says anything.
    let (mut stdout, mut seen) = (child.stdout.take().unwrap(), Vec::new());
    assert_ne!(stdout.read_buf(&mut seen).await.unwrap(), 0, "it ended early");
    let process = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap())).unwrap();
    kill_process(process, Signal::INT).unwrap();
    stdout.read_to_end(&mut seen).await.unwrap();
    let ended: Outcome = child.wait_with_output().await.unwrap().into();
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(ended.stderr.contains("both services are stopped, and their folder is removed"), "{ended:?}");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "nothing is left");
}

#[tokio::test]
async fn an_answer_that_finds_no_room_is_said_to_be_the_output() {
    let served = Served::showing(samples::paired());
    for line in ["markers g", "status --json"] {
        let mut command = command(&line.split_whitespace().collect::<Vec<_>>());
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        command.env("TIDEMARK_DIR", served.directory.path()).stdout(full).stderr(Stdio::piped());
        let full: Outcome = command.spawn().unwrap().wait_with_output().await.unwrap().into();
        let told = "tidemark: the answer could not be written to the standard output: No space left on device";
        assert!(full.code == Some(1) && full.stderr.contains(told), "{line}: {full:?}");
    }
}

#[tokio::test]
async fn what_is_refused_was_not_said_to_be_under_way() {
    let served = Served::showing(samples::paired());
    for line in ["verify nothing --to west", "drill run nothing"] {
        let refused = run_in(&served, line).await;
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{line}: {refused:?}");
        let said: Vec<&str> = refused.stderr.lines().collect();
        assert!(matches!(said.as_slice(), [why] if why.starts_with("tidemark: ")), "only why: {line}: {refused:?}");
    }
}

#[tokio::test]
async fn watching_without_a_terminal_prints_blocks_until_the_service_goes() {
    let served = Served::showing(samples::paired());
    let mut child = command(&["status", "--watch", "--json", "--dir", text(served.directory.path())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    while seen.iter().filter(|byte| **byte == b'\n').count() < 2 {
        assert_ne!(stdout.read_buf(&mut seen).await.unwrap(), 0, "it ended early");
    }
    served.stop.cancel();
    let seen = String::from_utf8(seen).unwrap();
    for line in seen.lines().take(2) {
        assert_eq!(serde_json::from_str::<Status>(line).unwrap(), samples::paired());
    }
    assert_eq!(child.wait().await.unwrap().code(), Some(3));
}

#[tokio::test]
async fn exit_codes_are_those_of_the_contract() {
    let served = Served::showing(samples::paired());
    for (line, code, says) in [
        ("cut nothing", 1, "nothing of that name"),
        ("volume create a --size 1GB", 2, "as in 1GiB"),
        ("frobnicate", 2, "frobnicate"),
        ("wait g --marker 99 --timeout 1ms", 4, "no marker of 'g' was applied within 1ms"),
    ] {
        let outcome = run_in(&served, line).await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{line}: {outcome:?}");
        assert!(outcome.stderr.contains(says), "{line}: {outcome:?}");
    }
    for (kind, code) in
        [(ErrorKind::Invalid, 1), (ErrorKind::Refused, 1), (ErrorKind::Failed, 1), (ErrorKind::Timeout, 4)]
    {
        served.fake.refuse(ErrorBody::new(kind, "why, and what to do"));
        let outcome = run_in(&served, "failover g --json").await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{kind:?}");
        assert_eq!(outcome.stderr, "tidemark: why, and what to do\n");
    }
    let nowhere = tempfile::tempdir().unwrap();
    for line in ["status", "status --watch", "cut g", "wait g", "volume list"] {
        let mut words: Vec<&str> = line.split(' ').collect();
        assert_eq!(run(&words).await.code, Some(2), "{line} without a directory");
        words.extend(["--dir", text(nowhere.path())]);
        let outcome = run(&words).await;
        assert_eq!(outcome.code, Some(3), "{line}: {outcome:?}");
        assert!(outcome.stderr.contains("holds no appliance"), "{outcome:?}");
    }
}

/// A script goes by the exit code, and whoever reads its log by the reason.
#[tokio::test]
async fn what_differs_ends_with_1_and_the_reason_whoever_reads_the_answer() {
    let served = Served::showing(samples::paired());
    let line = "verify g --to west --repair --json";
    let found = run_in(&served, line).await;
    let report: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!((found.code, report["different_bytes"].as_u64()), (Some(1), Some(131_072)));
    assert!(found.stderr.contains("differ at marker 42"), "{found:?}");
    let mut command = command(&line.split_whitespace().collect::<Vec<_>>());
    command.env("TIDEMARK_DIR", served.directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let unread: Outcome = child.wait_with_output().await.unwrap().into();
    assert_eq!(unread.code, Some(1), "{unread:?}");
}

async fn run_with_an_empty_variable(words: &[&str]) -> Outcome {
    command(words).env("TIDEMARK_DIR", "").output().await.unwrap().into()
}

/// As a unit file or a container has it that leaves the directory to the command line.
#[tokio::test]
async fn an_empty_variable_names_no_directory_and_refuses_none() {
    let served = Served::showing(samples::paired());
    let directory = text(served.directory.path());
    for words in [["--dir", directory, "volume", "list"], ["volume", "list", "--dir", directory]] {
        let listed = run_with_an_empty_variable(&words).await;
        assert_eq!(listed.code, Some(0), "{words:?}: {listed:?}");
    }
    let made = run_with_an_empty_variable(&["init", text(&served.directory.path().join("east"))]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    for words in [&["volume", "list"][..], &["--dir", "", "volume", "list"]] {
        let nowhere = run_with_an_empty_variable(words).await;
        assert!(nowhere.code == Some(2) && nowhere.stderr.contains("set TIDEMARK_DIR"), "{words:?}: {nowhere:?}");
    }
}

#[tokio::test]
async fn a_reader_that_has_heard_enough_is_no_failure() {
    let served = Served::showing(samples::large());
    let mut child = command(&["status", "--json", "--dir", text(served.directory.path())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output: Outcome = child.wait_with_output().await.unwrap().into();
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn init_makes_an_appliance_once() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("deep/east");
    let made = run(&["init", text(&directory)]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(made.stdout.trim().len(), 64, "{made:?}");
    assert_eq!(run(&["id", text(&directory)]).await.stdout, made.stdout);
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(directory.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    let config = Config::load(&directory).unwrap();
    assert_eq!(config.name, "east");
    assert_eq!(config.nbd.addresses[0].to_string(), format!("unix:{}", text(&directory.join("nbd.sock"))));
    let before = fs::read(directory.join("config.toml")).unwrap();
    let again = run(&["init", text(&directory), "--name", "other"]).await;
    assert_eq!((again.code, again.stdout.as_str()), (Some(1), ""));
    assert!(again.stderr.contains("already holds an appliance 'east'"), "{again:?}");
    assert_eq!(fs::read(directory.join("config.toml")).unwrap(), before);
    assert_eq!(run(&["id", text(&directory)]).await.stdout, made.stdout);
}

#[tokio::test]
async fn of_a_wrong_directory_no_new_appliance_is_advised() {
    let place = tempfile::tempdir().unwrap();
    let wrong = run(&["id", text(place.path())]).await;
    assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(1), ""));
    assert!(wrong.stderr.contains("holds no appliance") && !wrong.stderr.contains("new appliance"), "{wrong:?}");
    let directory = place.path().join("east");
    assert_eq!(run(&["init", text(&directory)]).await.code, Some(0));
    fs::remove_file(directory.join("cert.pem")).unwrap();
    let lost = run(&["id", text(&directory)]).await;
    assert!(lost.stderr.contains("cert.pem is missing"), "{lost:?}");
}

#[tokio::test]
async fn init_takes_what_it_is_told() {
    let place = tempfile::tempdir().unwrap();
    let words = ["init", "d", "--name", "we.st", "--nbd", "unix:n.sock", "--nbd", "[::1]:0"];
    let ports = ["--replication", "east.example:1", "--metrics", "0.0.0.0:2", "--json"];
    let made: Outcome = command(&[&words[..], &ports].concat()).current_dir(&place).output().await.unwrap().into();
    assert_eq!(made.code, Some(0), "{made:?}");
    let answer: Value = serde_json::from_str(&made.stdout).unwrap();
    assert_eq!(answer["name"], "we.st");
    let config = Config::load(&place.path().join("d")).unwrap();
    let addresses: Vec<String> = config.nbd.addresses.iter().map(ToString::to_string).collect();
    let beside = fs::canonicalize(&place).unwrap().join("n.sock");
    assert_eq!(addresses, [format!("unix:{}", beside.display()), "[::1]:0".into()]);
    assert_eq!(config.replication.address.to_string(), "east.example:1");
    assert_eq!(config.metrics.address.to_string(), "0.0.0.0:2");
    assert!(config.metrics.allow_remote_metrics, "naming such an address is asking for it");
}

#[tokio::test]
async fn init_touches_nothing_that_is_there() {
    let place = tempfile::tempdir().unwrap();
    let fresh = place.path().join("fresh-file-system");
    fs::create_dir_all(fresh.join("lost+found")).unwrap();
    assert_eq!(run(&["init", text(&fresh)]).await.code, Some(0));
    let used = place.path().join("used");
    fs::create_dir(&used).unwrap();
    fs::write(used.join("precious"), "data").unwrap();
    let refused = run(&["init", text(&used)]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("is not empty (it holds 'precious')"), "{refused:?}");
    assert_eq!(fs::read_dir(&used).unwrap().count(), 1);
    let file = used.join("precious");
    assert_eq!(run(&["init", text(&file)]).await.code, Some(1));
    let long = place.path().join("x".repeat(64)).join("y".repeat(64));
    for words in [
        vec!["init", text(&long)],
        vec!["init", text(&long), "--nbd", "127.0.0.1:0"],
        vec!["init", "/tmp/a b"],
        vec!["init", "/"],
    ] {
        let refused = run(&words).await;
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{words:?}: {refused:?}");
    }
    assert!(!long.parent().unwrap().exists());
}

#[tokio::test]
async fn init_says_how_to_start_it_in_words_a_shell_takes() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("my disk");
    let made = run(&["init", text(&directory), "--name", "east"]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let hint = format!("`tidemark serve '{}'`", text(&directory));
    assert!(made.stderr.contains(&hint), "{made:?}");
    let long = place.path().join("x".repeat(64)).join("y".repeat(64));
    let refused = run(&["init", text(&long), "--nbd", "127.0.0.1:0"]).await;
    assert!(refused.stderr.contains("api.sock") && refused.stderr.contains("shorter directory"), "{refused:?}");
}

#[tokio::test]
async fn of_two_inits_at_the_same_time_one_wins() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("east");
    let words = ["init", text(&directory)];
    let (one, two) = tokio::join!(run(&words), run(&words));
    let (winner, loser) = if one.code == Some(0) { (one, two) } else { (two, one) };
    assert_eq!((winner.code, loser.code), (Some(0), Some(1)), "{winner:?} {loser:?}");
    assert_eq!(run(&["id", text(&directory)]).await.stdout, winner.stdout);
    assert_eq!(fs::read_dir(&place).unwrap().count(), 1, "nothing is left beside it");
}

#[tokio::test]
async fn a_second_service_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("east");
    assert_eq!(run(&["init", text(&directory)]).await.code, Some(0));
    let mut lock = fs::File::create_new(directory.join("lock")).unwrap();
    writeln!(lock, "4711").unwrap();
    lock.lock().unwrap();
    let refused = run(&["serve", text(&directory)]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("is served already, by process 4711"), "{refused:?}");
    let mut kept = String::new();
    lock.rewind().unwrap();
    lock.read_to_string(&mut kept).unwrap();
    assert_eq!(kept, "4711\n", "the holder's number stays");
}

#[tokio::test]
async fn a_service_without_good_settings_does_not_start() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("east");
    let nowhere = run(&["serve", text(&directory)]).await;
    assert_eq!(nowhere.code, Some(1));
    assert!(nowhere.stderr.contains("config.toml is not there"), "{nowhere:?}");
    assert_eq!(run(&["init", text(&directory)]).await.code, Some(0));
    let file = directory.join("config.toml");
    let good = fs::read_to_string(&file).unwrap();
    for (bad, says) in [
        (good.replace("[groups]", "[group]"), "unknown field `group`"),
        (good[..good.len() / 2].to_owned(), "may have been cut short"),
    ] {
        fs::write(&file, bad).unwrap();
        let refused = run(&["serve", text(&directory)]).await;
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains(&format!("{}:", text(&file))), "{refused:?}");
        assert!(refused.stderr.contains(says), "{refused:?}");
    }
    fs::write(&file, good).unwrap();
    let refused: Outcome =
        command(&["serve", text(&directory)]).env("RUST_LOG", "=loud=").output().await.unwrap().into();
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("RUST_LOG is '=loud='"), "{refused:?}");
}

/// The log is where a service says why it ended.
#[tokio::test]
async fn a_log_that_is_turned_off_hides_no_reason() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("east");
    assert_eq!(run(&["init", text(&directory)]).await.code, Some(0));
    fs::remove_file(directory.join("cert.pem")).unwrap();
    for (filter, is_logged) in [("info", true), ("off", false), ("quinn=debug", false)] {
        let ended: Outcome =
            command(&["serve", text(&directory)]).env("RUST_LOG", filter).output().await.unwrap().into();
        assert_eq!(ended.code, Some(1), "{filter}: {ended:?}");
        assert!(ended.stderr.contains("cert.pem is missing"), "{filter}: {ended:?}");
        assert_eq!(ended.stderr.contains("tidemark: "), !is_logged, "said once: {filter}: {ended:?}");
    }
}

/// Volumes would be made beside it, in a folder whose name is nearly its own.
#[tokio::test]
async fn a_path_that_is_no_text_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let odd = place.path().join(OsStr::from_bytes(b"gr\xf6\xdfe"));
    let directory = text(place.path());
    for words in
        [&["init", "--name", "east"][..], &["lost", "export", "g", "tail", "--dir", directory, "--volume", "a", "--to"]]
    {
        let refused: Outcome = command(words).arg(&odd).output().await.unwrap().into();
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{refused:?}");
        assert!(refused.stderr.contains("is not a path in UTF-8"), "{refused:?}");
    }
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

#[tokio::test]
async fn a_ready_check_that_is_not_run_as_it_is_meant_says_how() {
    let outside = run(&["drill", "check", "ext4"]).await;
    assert_eq!(outside.code, Some(1));
    assert!(outside.stderr.trim_end().ends_with("--check`"), "{outside:?}");
    let drill = [("VOLUMES", "a"), ("DIR", "/nowhere"), ("NBD", "{}"), ("MOUNT", "{}")];
    let variables = drill.map(|(name, value)| (format!("TIDEMARK_DRILL_{name}"), value));
    for words in [&["drill", "check", "sqlite", "--volume", "a", "db"][..], &["drill", "check", "ext4"]] {
        let mounted: Outcome = command(words).envs(variables.clone()).output().await.unwrap().into();
        assert_eq!(mounted.code, Some(1));
        assert!(mounted.stderr.contains("leave --mount out"), "{mounted:?}");
    }
}

#[tokio::test]
async fn manual_completions_and_document_come_from_the_definitions() {
    let place = tempfile::tempdir().unwrap();
    let pages = place.path().join("man1");
    assert_eq!(run(&["man", text(&pages)]).await.code, Some(0));
    for page in ["tidemark.1", "tidemark-volume-create.1", "tidemark-status.1", "tidemark-pair-suspend.1"] {
        let page = fs::read_to_string(pages.join(page)).unwrap();
        assert!(page.contains(".SH SYNOPSIS") && page.contains("TIDEMARK_DIR"), "{page}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]).await;
        assert_eq!(script.code, Some(0));
        assert!(script.stdout.contains("failover"), "{shell}");
    }
    let document: Value = serde_json::from_str(&run(&["openapi"]).await.stdout).unwrap();
    assert!(document["paths"]["/v1/status"].is_object());
}

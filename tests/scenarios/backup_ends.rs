//! What a backup leaves however it ends, and what it says of itself: at targets that fill, in the middle, between its last byte and its
//! name; its order, its moment, its times.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tidemark_common::api::backup::types::{BackupInfo, BackupProgress, BackupState};
use tidemark_common::api::types::MarkerInfo;
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::command::run;
use tidemark_tests::noise::write_noise;
use tidemark_tests::small_disk::SmallDisk;
use tidemark_tests::wait::{check, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
const VOLUME: u64 = 8 << 20;

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn wait_state(side: &Appliance, name: &str, wanted: impl Fn(&BackupInfo) -> bool) -> BackupInfo {
    side.wait_backup(name, LIMIT, wanted)
}

fn names(folder: &Path) -> Vec<String> {
    let name =
        |entry: std::io::Result<std::fs::DirEntry>| entry.expect("entry").file_name().into_string().expect("a name");
    let mut names: Vec<_> = std::fs::read_dir(folder).expect("list").map(name).collect();
    names.sort_unstable();
    names
}

/// The interim name of what one side writes.
fn part(side: &Appliance, name: &str) -> String {
    format!("{name}.{}.part", &side.id()[..16])
}

/// One volume of noise in a group, and a set of it.
fn side(cluster: &Cluster) -> Appliance {
    side_of(cluster, "alone", 1)
}

fn side_of(cluster: &Cluster, name: &str, seed: u64) -> Appliance {
    let side = cluster.running(name);
    side.ok(&["volume", "create", "v", "--size", &VOLUME.to_string()]);
    side.ok(&["group", "create", "g", "--volume", "v"]);
    side.ok(&["set", "create", "all", "v"]);
    write_noise(&side, "v", 0, VOLUME, seed);
    side
}

fn manifest(archive: &Path) -> serde_json::Value {
    let taken = Command::new("tar").arg("-xOf").arg(archive).arg("tidemark-manifest.json").output().expect("run tar");
    serde_json::from_slice(&taken.stdout).expect("a manifest")
}

/// The file or the folder that backup `b` makes, as `--to` names it and as it is called in the end.
fn targets(folder: &Path) -> [(PathBuf, &'static str); 2] {
    [(folder.join("b.tar"), "b.tar"), (folder.to_owned(), "b")]
}

#[test]
fn a_target_whose_disk_fills_ends_a_backup_loudly_and_nothing_of_it_is_left() {
    let cluster = Cluster::new();
    let side = side(&cluster);
    let small = SmallDisk::mount(&cluster.join("small"), VOLUME / 2);
    for (to, name) in targets(small.path()) {
        side.ok(&["backup", "create", "b", "--set", "all", "--to", &text(&to)]);
        let backup = wait_state(&side, "b", |backup| backup.state.is_over());
        let reason = backup.reason.expect("a reason");
        assert_eq!(backup.state, BackupState::Failed, "{reason}");
        for words in ["write all/v", &text(&to), "No space left on device"] {
            assert!(reason.contains(words), "{words}: {reason}");
        }
        assert_eq!(names(small.path()), Vec::<String>::new(), "its space is given back");
        assert_eq!(side.status().side_store.bytes, 0);
        let outcome = side.cli(&["backup", "wait", "b"]);
        assert!(outcome.code == 1 && outcome.stderr.contains("No space left"), "{outcome:?}");
        assert_eq!(side.status().backups["failed"], 1);
        // There is room: the same again is whole.
        small.resize(2 * VOLUME);
        side.ok(&["backup", "create", "b", "--set", "all", "--to", &text(&to), "--wait"]);
        assert_eq!(names(small.path()), [name]);
        assert!(side.ok(&["backup", "verify", "b", "--json"]).contains("\"bad\": []"));
        side.ok(&["backup", "delete", "b"]);
        let made = small.path().join(name);
        let removed = if made.is_dir() { std::fs::remove_dir_all(made) } else { std::fs::remove_file(made) };
        removed.expect("remove the backup");
        small.resize(VOLUME / 2);
    }
}

#[test]
fn a_backup_that_is_cancelled_in_the_middle_leaves_nothing() {
    let cluster = Cluster::new();
    let side = side(&cluster);
    let folder = cluster.join("to");
    std::fs::create_dir_all(&folder).expect("a folder");
    for (to, name) in targets(&folder) {
        side.ok(&["backup", "create", "b", "--set", "all", "--to", &text(&to), "--rate", "512KiB"]);
        wait_state(&side, "b", |backup| backup.progress.done_bytes > 0);
        assert_eq!(names(&folder), [part(&side, name)]);
        let backup: BackupInfo = side.json(&["backup", "cancel", "b"]);
        assert_eq!(backup.state, BackupState::Cancelled);
        assert!(backup.progress.done_bytes < VOLUME, "in the middle: {backup:?}");
        assert_eq!(names(&folder), Vec::<String>::new());
        assert_eq!(side.status().side_store.bytes, 0, "what was saved for it is given back");
    }
}

/// Two that wrote one file, or one tape, would both be neither. Afterwards the place is free.
#[test]
fn where_a_backup_is_written_no_other_is() {
    let cluster = Cluster::new();
    let side = side(&cluster);
    let (folder, link) = (cluster.join("to"), cluster.join("link"));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::os::unix::fs::symlink(&folder, &link).expect("another way to it");
    let pipe = folder.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("run mkfifo").success());
    let file = folder.join("b.tar");
    side.ok(&["backup", "create", "one", "--set", "all", "--to", &text(&file), "--rate", "256KiB"]);
    wait_state(&side, "one", |backup| backup.progress.done_bytes > 0);
    // Nobody reads: it stands.
    side.ok(&["backup", "create", "piped", "--set", "all", "--to", &text(&pipe)]);
    for (to, by) in
        [(&file, "'one'"), (&link.join("b.tar"), "'one'"), (&pipe, "'piped'"), (&link.join("pipe"), "'piped'")]
    {
        let why = side.refuses(&["backup", "create", "two", "--set", "all", "--to", &text(to)]);
        assert!(why.contains(&format!("backup {by} goes to")) && why.contains("backup cancel"), "{why}");
    }
    assert!(side.refuses(&["backup", "show", "two"]).contains("no backup 'two'"), "it leaves no record");
    assert_eq!(names(&folder), [part(&side, "b.tar"), "pipe".into()]);
    for name in ["one", "piped"] {
        let backup: BackupInfo = side.json(&["backup", "cancel", name]);
        assert_eq!(backup.state, BackupState::Cancelled);
    }
    side.ok(&["backup", "create", "two", "--set", "all", "--to", &text(&file), "--wait"]);
    side.ok(&["backup", "verify", "two"]);
}

/// Two sites with a backup of one name for one store: one of them gets the name, the other fails, and neither touches what the other writes.
/// Nor is what somebody has called something like it in their way.
#[test]
fn backups_of_two_appliances_for_one_place_do_not_mix() {
    let cluster = Cluster::new();
    let (one, other) = (side_of(&cluster, "one", 1), side_of(&cluster, "other", 2));
    let held = one.open("v").read_all().expect("read the volume");
    let folder = cluster.join("to");
    std::fs::create_dir_all(&folder).expect("a folder");
    for (to, name) in targets(&folder) {
        let strangers = folder.join(format!("{name}.part"));
        std::fs::write(&strangers, "mine").expect("a stranger's file");
        for (side, rate) in [(&one, "2MiB"), (&other, "1MiB")] {
            side.ok(&["backup", "create", "b", "--set", "all", "--to", &text(&to), "--rate", rate]);
            wait_state(side, "b", |backup| backup.progress.done_bytes > 0);
        }
        let mut expected = vec![part(&one, name), part(&other, name), format!("{name}.part")];
        expected.sort_unstable();
        assert_eq!(names(&folder), expected, "each writes its own");
        let backup = wait_state(&one, "b", |backup| backup.state.is_over());
        assert_eq!((backup.state, backup.reason), (BackupState::Done, None));
        let backup = wait_state(&other, "b", |backup| backup.state.is_over());
        assert_eq!(backup.state, BackupState::Failed, "{backup:?}");
        assert_eq!(names(&folder), [name.to_owned(), format!("{name}.part")], "of the other nothing is left");
        one.ok(&["backup", "verify", "b"]);
        let out = cluster.join(&format!("out-{name}"));
        one.ok(&["backup", "restore", "b", "--into", &text(&out)]);
        assert!(std::fs::read(out.join("all/v")).expect("the volume") == held, "{name} is the backup of the first");
        assert_eq!(std::fs::read(&strangers).expect("the stranger's file"), b"mine");
        one.ok(&["backup", "delete", "b"]);
        std::fs::remove_file(strangers).expect("remove it");
        let made = folder.join(name);
        let removed = if made.is_dir() { std::fs::remove_dir_all(made) } else { std::fs::remove_file(made) };
        removed.expect("remove the backup");
    }
}

/// A folder that does not answer, as of a store whose network is gone: whoever looks into it waits until this is dropped, and gets an error then.
struct Hung {
    fuse: Child,
    folder: PathBuf,
}

impl Hung {
    /// What is served there is of no moment.
    fn mount(folder: &Path, uri: &str) -> Self {
        std::fs::create_dir_all(folder).expect("make the folder");
        let file = folder.join("disk");
        let mut fuse = Command::new("setpriv");
        fuse.args(["--pdeathsig", "KILL", "nbdfuse"]).arg(&file).arg(uri).stdin(Stdio::null());
        let hung = Self { fuse: fuse.spawn().expect("start nbdfuse"), folder: folder.into() };
        wait_until("nbdfuse to serve", LIMIT, || check(file.exists(), || "no file yet".into()));
        let pid = i32::try_from(hung.fuse.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::STOP).expect("stop it");
        hung
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let _ = self.fuse.kill();
        let _ = self.fuse.wait();
        let _ = run("fusermount3", &["-uz", &text(&self.folder)]);
    }
}

/// Backups whose store is gone hold up nobody: not the start of the service, not its hosts, not who looks at it, not other backups.
#[test]
fn targets_that_do_not_answer_hold_up_nobody() {
    let cluster = Cluster::new();
    let (mut side, store) = (side(&cluster), side_of(&cluster, "store", 2));
    let held = side.open("v").read_all().expect("read the volume");
    let (folder, hangs, way) = (cluster.join("to"), cluster.join("hangs"), cluster.join("way"));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::os::unix::fs::symlink(&folder, &way).expect("the way to it");
    let create = |name: &str| {
        let to = text(&way.join(format!("{name}.tar")));
        ["backup", "create", name, "--set", "all", "--to", &to].map(str::to_owned).to_vec()
    };
    let ask = |side: &Appliance, name: &str, more: &[&str]| {
        let words = create(name);
        side.ok(&words.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>());
    };
    // One is done, one under way, and more begin at one time than the service has threads for.
    ask(&side, "done", &["--wait"]);
    ask(&side, "broken", &["--rate", "256KiB"]);
    wait_state(&side, "broken", |backup| backup.progress.done_bytes > 0);
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(15);
    let many = std::thread::available_parallelism().map_or(4, usize::from) + 2;
    let later: Vec<String> = (0..many).map(|number| format!("later{number}")).collect();
    later.iter().for_each(|name| ask(&side, name, &["--at", &at.to_string()]));
    side.kill9();
    std::fs::remove_file(&way).expect("remove the way");
    std::os::unix::fs::symlink(&hangs, &way).expect("the way to what hangs");
    let hung = Hung::mount(&hangs, &store.uri("v"));
    side.start();
    let broken = || {
        let under_way = side.status().backups_under_way;
        under_way.into_iter().find(|backup| backup.name == "broken").expect("it is not known how it ended")
    };
    assert!(broken().reason.expect("a reason").contains("has not answered"));
    assert!(side.open("v").read_all().expect("read the volume") == held, "hosts go on");
    wait_until("the others to begin", LIMIT, || check(jiff::Timestamp::now() > at, || "it is too early".into()));
    // Who wants to write there waits for it, and nobody else.
    let late = create("late");
    let late: Vec<&str> = late.iter().map(String::as_str).collect();
    let asked = side.cli_within(Duration::from_secs(2), &late);
    assert_eq!(asked.code, 124, "{asked:?}");
    assert!(broken().reason.is_some());
    for words in [&["backup", "list"][..], &["backup", "show", "broken"], &["backup", "show", "done"]] {
        let asked = side.cli_within(Duration::from_secs(10), words);
        assert_eq!(asked.code, 0, "it is known without a look at the target: {asked:?}");
    }
    let to = text(&folder.join("good.tar"));
    side.ok(&["backup", "create", "good", "--set", "all", "--to", &to, "--wait"]);
    side.ok(&["backup", "delete", "done"]);
    side.ok(&["cut", "g"]);
    // It is gone for good: they end, and say why.
    drop(hung);
    for name in later.iter().map(String::as_str).chain(["broken"]) {
        wait_state(&side, name, |backup| backup.state.is_over());
    }
    let broken = side.backup("broken");
    assert_eq!(broken.state, BackupState::Failed, "{broken:?}");
    assert!(broken.reason.expect("a reason").contains("interrupted"));
    side.ok(&["backup", "verify", "good"]);
}

/// As many as copy at once, to pipes that nobody reads: who comes behind them waits, and is cancelled all the same.
#[test]
fn a_backup_that_waits_behind_others_is_cancelled_at_once() {
    let cluster = Cluster::new();
    let side = side(&cluster);
    let folder = cluster.join("to");
    std::fs::create_dir_all(&folder).expect("a folder");
    for number in 0..8 {
        let (name, pipe) = (format!("b{number}"), folder.join(format!("pipe{number}")));
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("run mkfifo").success());
        side.ok(&["backup", "create", &name, "--set", "all", "--to", &text(&pipe)]);
        wait_state(&side, &name, |backup| backup.state == BackupState::Copying);
    }
    side.ok(&["backup", "create", "last", "--set", "all", "--to", &text(&folder.join("last.tar"))]);
    assert_eq!(side.backup("last").state, BackupState::Waiting);
    let backup: BackupInfo = side.json(&["backup", "cancel", "last"]);
    assert_eq!(backup.state, BackupState::Cancelled);
    assert_eq!(side.backup("b0").state, BackupState::Copying, "the others wait on");
}

/// A kill between the last byte and the record that it is done, and a stranger who has made a file of its name by then.
#[test]
fn a_backup_is_done_after_a_kill_only_when_what_has_its_name_is_it() {
    let cluster = Cluster::new();
    let mut side = side(&cluster);
    let folder = cluster.join("to");
    std::fs::create_dir_all(&folder).expect("a folder");
    let other = folder.join("whole.tar");
    side.ok(&["backup", "create", "whole", "--set", "all", "--to", &text(&other), "--wait"]);
    side.ok(&["backup", "create", "raw", "--set", "all", "--to", &text(&folder), "--wait"]);
    let begin = |side: &Appliance, to: &Path| {
        side.ok(&["backup", "create", "b", "--set", "all", "--to", &text(to), "--rate", "512KiB"]);
        wait_state(side, "b", |backup| backup.progress.done_bytes > 0);
    };
    let (file, interim) = (folder.join("b.tar"), folder.join(part(&side, "b.tar")));
    // A stranger's file, of any kind: also a backup, only not this one.
    begin(&side, &file);
    side.kill9();
    std::fs::copy(&other, &file).expect("a stranger's file");
    side.start();
    let backup = side.backup("b");
    assert_eq!(backup.state, BackupState::Failed, "{backup:?}");
    assert!(backup.reason.expect("a reason").contains("interrupted"));
    assert_eq!(names(&folder), ["b.tar", "raw", "whole.tar"], "the stranger keeps his file");
    assert_eq!(std::fs::read(&file).expect("read"), std::fs::read(&other).expect("read"));
    std::fs::remove_file(&file).expect("remove it");
    // Its own, complete and named, and not yet recorded.
    begin(&side, &file);
    side.kill9();
    std::fs::copy(&other, &interim).expect("its last bytes");
    std::fs::hard_link(&interim, &file).expect("its name");
    side.start();
    let backup = side.backup("b");
    assert_eq!((backup.state, backup.reason), (BackupState::Done, None));
    assert_eq!(names(&folder), ["b.tar", "raw", "whole.tar"], "its interim name is gone");
    side.ok(&["backup", "verify", "b"]);
    // Recorded, and the interim name was still there.
    side.kill9();
    std::fs::hard_link(&file, &interim).expect("its interim name");
    side.start();
    wait_until("the interim name to go", LIMIT, || if interim.exists() { Err("it is there".into()) } else { Ok(()) });
    assert_eq!(side.backup("b").state, BackupState::Done);
    side.ok(&["backup", "verify", "b"]);
    side.ok(&["backup", "delete", "b"]);
    // A folder somebody else made, with another backup in it.
    begin(&side, &folder);
    side.kill9();
    std::fs::remove_dir_all(folder.join(part(&side, "b"))).expect("its own is gone");
    let copied = Command::new("cp").arg("-r").arg(folder.join("raw")).arg(folder.join("b")).status().expect("run cp");
    assert!(copied.success());
    side.start();
    assert_eq!(side.backup("b").state, BackupState::Failed);
    assert!(folder.join("b/all/v").exists(), "it stays");
}

#[test]
fn an_archive_has_the_order_asked_for_and_says_truly_what_it_is() {
    let cluster = Cluster::new();
    let side = side(&cluster);
    side.ok(&["volume", "create", "a", "--size", "4MiB"]);
    side.ok(&["group", "add", "g", "--volume", "a"]);
    write_noise(&side, "a", 1 << 20, 384 << 10, 2);
    side.ok(&["set", "create", "one", "v:4MiB+1MiB", "a"]);
    side.ok(&["set", "create", "two", "v:1MiB+512KiB", "v:512KiB+256KiB"]);
    let given = ["two/v@1048576+524288", "two/v@524288+262144", "one/v@4194304+1048576", "one/a"];
    let mut made = Vec::new();
    for (order, wanted) in [
        ("given", [0, 1, 2, 3]),
        ("address", [3, 1, 0, 2]),
        // The whole volume has the most bytes, and the second fewest of data.
        ("smallest-first", [1, 3, 0, 2]),
    ] {
        let to = cluster.join(&format!("{order}.tar"));
        let path = text(&to);
        let began = side.json::<MarkerInfo>(&["cut", "g"]);
        let backup: BackupInfo = side.json(&[
            "backup", "create", order, "--set", "two", "--set", "one", "--order", order, "--to", &path, "--wait",
        ]);
        let ended = side.json::<MarkerInfo>(&["cut", "g"]);
        let listed = Command::new("tar").arg("-tf").arg(&to).output().expect("run tar");
        let listed = String::from_utf8(listed.stdout).expect("names");
        let mut wanted: Vec<_> = wanted.map(|number| given[number]).to_vec();
        let manifest = manifest(&to);
        let members = manifest["members"].as_array().expect("members");
        assert_eq!(members.iter().map(|member| member["name"].as_str().expect("a name")).collect::<Vec<_>>(), wanted);
        wanted.extend(["tidemark-manifest.json", "tidemark-manifest.json.b3"]);
        assert_eq!(listed.lines().collect::<Vec<_>>(), wanted, "{order}");
        // Its moment is a marker of the group, between the one before it was asked for and the one after it was done.
        let moment = &manifest["moments"][0];
        let number = moment["marker"].as_u64().expect("a marker");
        assert!(began.number < number && number < ended.number, "{} {number} {}", began.number, ended.number);
        let markers: Vec<MarkerInfo> = side.json(&["markers", "g"]);
        let marker = markers.iter().find(|marker| marker.number == number).expect("the group knows it");
        let time =
            |value: &serde_json::Value| -> jiff::Timestamp { value.as_str().expect("a time").parse().expect("a time") };
        assert_eq!(time(&moment["time"]), marker.time);
        assert_eq!((moment["group"].as_str(), manifest["skew_seconds"].as_f64()), (Some("g"), Some(0.0)));
        let mut volumes: Vec<_> = moment["volumes"].as_array().expect("volumes").clone();
        volumes.sort_by_key(|volume| volume["name"].as_str().expect("a name").to_owned());
        assert_eq!(
            volumes,
            [serde_json::json!({"name": "a", "size": 4 << 20}), serde_json::json!({"name": "v", "size": VOLUME})]
        );
        // What the service says of it is the same.
        assert_eq!((backup.moments[0].marker, backup.moments[0].time), (number, marker.time));
        let (said, ran) =
            (time(&manifest["began"]), (backup.began.expect("its begin"), backup.ended.expect("its end")));
        assert_eq!(said, ran.0);
        assert!(
            began.time <= backup.asked && backup.asked <= ran.0 && ran.0 <= ran.1 && ran.1 <= ended.time,
            "{backup:?}"
        );
        assert_eq!((manifest["name"].as_str(), manifest["appliance"].as_str()), (Some(order), Some("alone")));
        assert_eq!(manifest["order"].as_str(), Some(order));
        assert_eq!(backup.progress.total_bytes, (1 << 20) + (768 << 10) + (384 << 10));
        made.push(BackupInfo { progress: BackupProgress::default(), ..backup });
    }
    made.sort_by(|one, other| one.name.cmp(&other.name));
    let listed: Vec<BackupInfo> = side.json(&["backup", "list"]);
    assert!(listed.iter().all(|backup| backup.progress.done_bytes == backup.progress.total_bytes));
    let without = |backup: BackupInfo| BackupInfo { progress: BackupProgress::default(), ..backup };
    assert_eq!(listed.into_iter().map(without).collect::<Vec<_>>(), made);
    let listed = side.ok(&["backup", "list"]);
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 4, "{listed}");
    for (line, backup) in lines[1..].iter().zip(&made) {
        assert_eq!(
            (line[0], line[1], line[line.len() - 1]),
            (backup.name.as_str(), "done", backup.to.as_str()),
            "{listed}"
        );
    }
}

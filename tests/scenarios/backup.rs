//! Backups of data sets: the image at a marker, whatever hosts do meanwhile and whatever happens to the backup.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tidemark_common::api::backup::types::{BackupInfo, BackupState, RestoreReport};
use tidemark_tests::appliance::{Appliance, binary, tidemark};
use tidemark_tests::cluster::Cluster;
use tidemark_tests::disk::Disk;
use tidemark_tests::host::HostError;
use tidemark_tests::image::{Image, compare};
use tidemark_tests::noise::write_noise;
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::wait::wait_until;

/// Until a backup of some megabytes is over.
const BACKUP_LIMIT: Duration = Duration::from_secs(30);

/// A folder for what is backed up, on the same disk as everything else of the test.
fn place(pair: &Pair) -> PathBuf {
    let folder = pair.east.directory().with_file_name("backups");
    std::fs::create_dir_all(&folder).expect("make a folder for backups");
    folder
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn all_volumes(pair: &Pair, side: &Appliance) {
    let volumes = pair.volumes();
    let mut words = vec!["set", "create", "all"];
    words.extend(volumes.iter().map(String::as_str));
    side.ok(&words);
}

fn wait_state(side: &Appliance, name: &str, wanted: impl Fn(&BackupInfo) -> bool) -> BackupInfo {
    side.wait_backup(name, BACKUP_LIMIT, wanted)
}

/// What tar takes out of an archive: the volumes of set `all`.
fn taken_out(pair: &Pair, archive: &Path) -> Vec<Vec<u8>> {
    let out = archive.with_extension("out");
    std::fs::create_dir_all(&out).expect("a folder");
    let done = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&out).output().expect("run tar");
    assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    pair.volumes().iter().map(|name| std::fs::read(out.join("all").join(name)).expect("a volume")).collect()
}

fn parts(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("list").map(|entry| entry.expect("entry").path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "part")).collect()
}

#[test]
fn backups_under_load_are_the_images_of_their_markers() {
    let pair = Pair::prefilled(&Setup::seeded(131));
    let folder = place(&pair);
    all_volumes(&pair, &pair.east);
    let load = pair.load(0);
    let mut begun = Vec::new();
    // Several at once, in all orders, one of them slow: they share what is saved.
    for (number, words) in [
        &["--order", "given"][..],
        &["--order", "address", "--rate", "1MiB"],
        &["--order", "smallest-first"],
        &["--when-idle", "--rate", "100MiB"],
    ]
    .iter()
    .enumerate()
    {
        load.wait_acked(100);
        let (name, to) = (format!("b{number}"), folder.join(format!("b{number}.tar")));
        let began = pair.history.tick();
        let path = text(&to);
        pair.east.ok(&[&["backup", "create", &name, "--set", "all", "--to", &path], *words].concat());
        begun.push((name, to, Bounds::cut(began, pair.history.tick())));
    }
    load.wait_acked(500);
    load.stop();
    for (name, to, bounds) in begun {
        let backup = wait_state(&pair.east, &name, |backup| backup.state.is_over());
        assert_eq!((backup.state, &backup.reason), (BackupState::Done, &None));
        assert_eq!(backup.progress.done_bytes, backup.progress.total_bytes);
        let image = Image::from_bytes(&taken_out(&pair, &to));
        assert_legal(&name, &pair.history.writes(), &image, bounds);
        assert!(pair.east.ok(&["backup", "verify", &name, "--json"]).contains("\"bad\": []"));
    }
    assert_eq!(parts(&folder), Vec::<PathBuf>::new());
    pair.assert_copy_equals();
}

#[test]
fn a_secondary_backs_its_copy_up_while_it_follows() {
    let pair = Pair::prefilled(&Setup::seeded(132));
    let folder = place(&pair);
    all_volumes(&pair, &pair.west);
    let load = pair.load(0);
    load.wait_acked(200);
    let to = folder.join("copy.tar");
    let began = pair.history.tick();
    pair.settle();
    let backup: BackupInfo =
        pair.west.json(&["backup", "create", "b", "--set", "all", "--to", &text(&to), "--rate", "2MiB"]);
    let bounds = Bounds::cut(began, pair.history.tick());
    let marker = backup.moments.first().expect("a moment").marker;
    assert!(marker > 0, "{backup:?}");
    load.wait_acked(400);
    load.stop();
    let backup = wait_state(&pair.west, "b", |backup| backup.state.is_over());
    assert_eq!((backup.state, backup.reason), (BackupState::Done, None));
    assert_legal("the copy", &pair.history.writes(), &Image::from_bytes(&taken_out(&pair, &to)), bounds);
    pair.assert_copy_equals();
}

#[test]
fn kill_9_in_the_middle_of_a_backup_leaves_nothing_half_valid_and_the_volumes_alone() {
    let mut pair = Pair::prefilled(&Setup::seeded(133));
    let folder = place(&pair);
    all_volumes(&pair, &pair.east);
    let load = pair.load(0);
    let to = text(&folder.join("b.tar"));
    pair.east.ok(&["backup", "create", "b", "--set", "all", "--to", &to, "--rate", "512KiB"]);
    let raw = text(&folder);
    pair.east.ok(&["backup", "create", "raw", "--set", "all", "--to", &raw, "--rate", "512KiB"]);
    pair.east.ok(&[
        "backup",
        "create",
        "later",
        "--set",
        "all",
        "--to",
        &text(&folder.join("later.tar")),
        "--at",
        "2100-01-01T00:00:00Z",
    ]);
    for name in ["b", "raw"] {
        wait_state(&pair.east, name, |backup| backup.progress.done_bytes > 0);
    }
    let under_way: Vec<_> = pair.east.status().backups_under_way.into_iter().map(|backup| backup.name).collect();
    assert_eq!(under_way, ["b", "raw"], "and none that is scheduled");
    let shown = pair.east.ok(&["status"]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shown.contains("backup cancel b`") && shown.contains("backup cancel raw`"), "{shown}");
    load.wait_acked(200);
    assert_eq!(parts(&folder).len(), 2);
    pair.east.kill9();
    drop(load.join_broken());
    pair.east.start();
    for name in ["b", "raw"] {
        let backup = pair.east.backup(name);
        let reason = backup.reason.expect("a reason");
        assert!(backup.state == BackupState::Failed && reason.contains("interrupted"), "{reason}");
    }
    assert_eq!(pair.east.backup("later").state, BackupState::Scheduled);
    assert_eq!(std::fs::read_dir(&folder).expect("list").count(), 0, "{:?}", parts(&folder));
    let image = pair.image(&pair.east);
    let verdict = assert_legal("the volumes", &pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
    pair.history.settle(&verdict);
    // The same again is fine now, and a clean stop ends it as well.
    let backup: BackupInfo = pair.east.json(&["backup", "create", "b", "--set", "all", "--to", &to, "--wait"]);
    assert_eq!(backup.state, BackupState::Done);
    let source = pair.image(&pair.east);
    assert_eq!(Image::from_bytes(&taken_out(&pair, Path::new(&to))), source);
    pair.east.ok(&["backup", "create", "raw", "--set", "all", "--to", &raw, "--rate", "512KiB"]);
    pair.east.restart();
    let backup = pair.east.backup("raw");
    assert!(backup.reason.expect("a reason").contains("stopped"));
    assert_eq!(parts(&folder), Vec::<PathBuf>::new());
    pair.assert_copy_equals();
}

#[test]
fn a_pipe_that_stalls_or_breaks_off_is_told_and_holds_up_nobody() {
    let pair = Pair::prefilled(&Setup::seeded(134));
    let folder = place(&pair);
    all_volumes(&pair, &pair.east);
    let pipe = folder.join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("run mkfifo");
    assert!(made.success());
    let create = |name: &str| pair.east.ok(&["backup", "create", name, "--set", "all", "--to", &text(&pipe)]);
    // Nobody reads yet.
    create("early");
    wait_state(&pair.east, "early", |backup| backup.state == BackupState::Copying);
    wait_state(&pair.east, "early", |backup| backup.progress.stalled_seconds.is_some());
    let shown = pair.east.ok(&["backup", "show", "early"]);
    assert!(shown.contains("taken nothing") && !shown.contains("at \n"), "{shown}");
    pair.east.ok(&["backup", "cancel", "early"]);
    assert_eq!(pair.east.backup("early").state, BackupState::Cancelled);
    // Somebody reads a little and then no more.
    create("stalls");
    let mut reader = std::fs::File::open(&pipe).expect("open the pipe");
    let mut some = [0; 4096];
    reader.read_exact(&mut some).expect("the begin of the archive");
    let backup = wait_state(&pair.east, "stalls", |backup| backup.progress.stalled_seconds.is_some());
    assert!(pair.east.ok(&["backup", "show", "stalls"]).contains("taken nothing"), "{backup:?}");
    // What it reads stays in its group; hosts go on meanwhile.
    let why = pair.east.refuses(&["group", "remove", GROUP, "--volume", "a"]);
    assert!(why.contains("backup 'stalls'") && why.contains("backup cancel"), "{why}");
    let load = pair.load(0);
    load.wait_acked(200);
    drop(reader);
    let backup = wait_state(&pair.east, "stalls", |backup| backup.state.is_over());
    assert!(backup.state == BackupState::Failed && backup.reason.expect("a reason").contains("Broken pipe"));
    // Again, and all of it.
    let began = pair.history.tick();
    create("stalls");
    let bounds = Bounds::cut(began, pair.history.tick());
    let mut archive = Vec::new();
    std::fs::File::open(&pipe).expect("open the pipe").read_to_end(&mut archive).expect("read the archive");
    load.stop();
    assert_eq!(wait_state(&pair.east, "stalls", |backup| backup.state.is_over()).state, BackupState::Done);
    let path = folder.join("piped.tar");
    std::fs::write(&path, &archive).expect("keep the archive");
    assert_legal("piped", &pair.history.writes(), &Image::from_bytes(&taken_out(&pair, &path)), bounds);
    // It is not looked for there by its name: nobody writes any more.
    for words in [["backup", "verify", "stalls"].as_slice(), &["backup", "restore", "stalls", "--onto-volumes"]] {
        let outcome = pair.east.cli_within(Duration::from_secs(10), words);
        assert!(outcome.code == 1 && outcome.stderr.contains("went to the pipe"), "{outcome:?}");
    }
    // The standard output is a pipe as well, and so is the standard input of `verify`.
    let tidemark = |words: &[&str], input: Stdio| {
        let mut command = Command::new(binary());
        command.args(words).arg("--dir").arg(pair.east.directory()).stdin(input);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start tidemark")
    };
    let mut creating = tidemark(&["backup", "create", "out", "--set", "all", "--to", "-"], Stdio::null());
    let archive = creating.stdout.take().expect("its output");
    let verifying = tidemark(&["backup", "verify", "-"], archive.into());
    let (created, verified) =
        (creating.wait_with_output().expect("its end"), verifying.wait_with_output().expect("its end"));
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(created.status.success() && verified.status.success(), "{}{}", said(&created), said(&verified));
    assert!(said(&verified).contains("as it was made: 3 members"), "{}", said(&verified));
    // Where that went, the service does not know: nobody waits for an archive from his keyboard.
    for words in [["backup", "verify", "out"].as_slice(), &["backup", "restore", "out", "--onto-volumes"]] {
        let why = pair.east.refuses(words);
        assert!(why.contains("went to the standard output"), "{why}");
    }
    // Who hangs up ends it.
    let mut creating = tidemark(&["backup", "create", "hung-up", "--set", "all", "--to", "-"], Stdio::null());
    drop(creating.stdout.take());
    let ended = creating.wait_with_output().expect("its end");
    assert!(ended.status.code() == Some(1) && said(&ended).contains("hung up"), "{}", said(&ended));
    let backup = wait_state(&pair.east, "hung-up", |backup| backup.state.is_over());
    assert!(backup.state == BackupState::Failed && backup.reason.expect("a reason").contains("hung up"));
    // A standard output that is full is said to be full.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("open /dev/full");
    let mut creating = Command::new(binary());
    creating.args(["backup", "create", "full", "--set", "all", "--to", "-", "--wait"]);
    creating.arg("--dir").arg(pair.east.directory()).stdin(Stdio::null()).stdout(full);
    let ended = creating.output().expect("its end");
    assert!(ended.status.code() == Some(1) && said(&ended).contains("No space left"), "{}", said(&ended));
    assert!(!said(&ended).contains("hung up"), "{}", said(&ended));
    pair.assert_copy_equals();
}

#[test]
fn what_was_backed_up_is_restored_through_the_hosts_path_and_replicated() {
    let pair = Pair::prefilled(&Setup::seeded(135));
    let folder = place(&pair);
    all_volumes(&pair, &pair.east);
    pair.east.ok(&["set", "create", "some", "a:64KiB+64KiB", "b"]);
    let before: Vec<Vec<u8>> =
        pair.open(&pair.east).iter_mut().map(|export| export.read_all().expect("read")).collect();
    let to = text(&folder.join("b.tar"));
    pair.east.ok(&["backup", "create", "b", "--set", "some", "--to", &to, "--wait"]);
    pair.east.ok(&["backup", "create", "r", "--set", "all", "--to", &text(&folder), "--wait"]);
    assert!(folder.join("r/all/c").exists());
    let load = pair.load(0);
    load.wait_acked(400);
    // A volume that is in use is not written behind its hosts' backs.
    let why = pair.east.refuses(&["backup", "restore", "b", "--onto-volumes"]);
    assert!(why.contains("hosts are connected"), "{why}");
    load.stop();
    let changed: Vec<Vec<u8>> =
        pair.open(&pair.east).iter_mut().map(|export| export.read_all().expect("read")).collect();
    assert!(changed[1] != before[1]);
    pair.east.wait_without_hosts(BACKUP_LIMIT);
    let report: RestoreReport = pair.east.json(&["backup", "restore", "b", "--onto-volumes", "--set", "some"]);
    assert_eq!(report.members, 2);
    let restored: Vec<Vec<u8>> =
        pair.open(&pair.east).iter_mut().map(|export| export.read_all().expect("read")).collect();
    let mut expected = changed;
    expected[0][65536..131_072].copy_from_slice(&before[0][65536..131_072]);
    expected[1].clone_from(&before[1]);
    for (now, expected) in restored.iter().zip(&expected) {
        assert_eq!(compare(now, expected), Ok(()));
    }
    pair.east.wait_without_hosts(BACKUP_LIMIT);
    pair.east.ok(&["backup", "restore", "r", "--onto-volumes"]);
    for (mut export, before) in pair.open(&pair.east).into_iter().zip(&before) {
        assert_eq!(compare(&export.read_all().expect("read"), before), Ok(()));
    }
    pair.assert_copy_equals();
    let out = folder.join("out");
    pair.east.ok(&["backup", "restore", &to, "--into", &text(&out), "--set", "some"]);
    assert!(std::fs::read(out.join("some/b")).expect("the file") == before[1]);
}

#[test]
fn a_backup_across_groups_says_how_far_its_moments_lie_apart() {
    let pair = Pair::prefilled(&Setup::seeded(136));
    let folder = place(&pair);
    pair.east.ok(&["volume", "create", "x", "--size", "4MiB"]);
    pair.east.ok(&["volume", "create", "loose", "--size", "4MiB"]);
    pair.east.ok(&["group", "create", "h", "--volume", "x"]);
    pair.east.ok(&["set", "create", "both", "a", "x"]);
    pair.east.ok(&["set", "create", "loose", "loose"]);
    let to = folder.join("b.tar");
    let backup: BackupInfo = pair.east.json(&["backup", "create", "b", "--set", "both", "--to", &text(&to), "--wait"]);
    let groups: Vec<_> = backup.moments.iter().map(|moment| moment.group.as_str()).collect();
    assert_eq!(groups, [GROUP, "h"]);
    let listed = Command::new("tar").arg("-xOf").arg(&to).arg("tidemark-manifest.json").output().expect("run tar");
    let manifest: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("a manifest");
    let skew = manifest["skew_seconds"].as_f64().expect("a number");
    let apart = backup.moments[0].time.duration_since(backup.moments[1].time).abs().as_secs_f64();
    assert!(skew < 1.0 && (skew - apart).abs() < 1e-6, "{skew} {apart}");
    let why = pair.east.refuses(&["backup", "create", "l", "--set", "loose", "--to", &text(&folder.join("l.tar"))]);
    assert!(why.contains("in no group") && why.contains("group create"), "{why}");
    assert!(pair.east.refuses(&["backup", "show", "l"]).contains("no backup"));
}

#[test]
fn the_files_of_a_directory_come_out_as_files() {
    let pair = Pair::unpaired(&Setup::seeded(137));
    let folder = place(&pair);
    let source = folder.join("source");
    std::fs::create_dir_all(source.join("etc/conf.d")).expect("folders");
    std::fs::write(source.join("etc/conf.d/app"), vec![b'x'; 200_000]).expect("a file");
    std::fs::write(source.join("etc/hosts"), "127.0.0.1 localhost\n").expect("a file");
    std::fs::write(source.join("other"), "not this").expect("a file");
    std::fs::hard_link(source.join("etc/hosts"), source.join("etc/alias")).expect("a hard link");
    assert!(Command::new("mkfifo").arg(source.join("etc/pipe")).status().expect("run mkfifo").success());
    let disk = folder.join("disk");
    std::fs::File::create(&disk).expect("a file").set_len(16 << 20).expect("its size");
    let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&source).arg(&disk).status();
    assert!(made.expect("run mke2fs").success());
    pair.east.ok(&["volume", "create", "fs", "--size", "16MiB", "--backing", &text(&disk)]);
    pair.east.ok(&["group", "create", "h", "--volume", "fs"]);
    pair.east.ok(&["set", "create", "etc", "fs:/etc"]);
    let to = folder.join("etc.tar");
    let backup: BackupInfo = pair.east.json(&["backup", "create", "b", "--set", "etc", "--to", &text(&to), "--wait"]);
    assert_eq!((backup.state, backup.progress.total_bytes), (BackupState::Done, 200_040), "{backup:?}");
    let note = "1 special file left out, 1 hard link stored as a copy";
    assert_eq!(backup.reason.as_deref(), Some(note));
    assert!(pair.east.ok(&["backup", "show", "b"]).contains(&format!("note: {note}")));
    pair.east.ok(&["backup", "verify", &text(&to)]);
    let out = folder.join("out");
    pair.east.ok(&["backup", "restore", &text(&to), "--into", &text(&out)]);
    let file = |name: &str| std::fs::read(out.join("etc/fs/etc").join(name)).expect("a file");
    assert_eq!(file("hosts"), b"127.0.0.1 localhost\n");
    assert_eq!(file("conf.d/app"), vec![b'x'; 200_000]);
    assert!(!out.join("etc/fs/other").exists());
    let why = pair.east.refuses(&["backup", "restore", &text(&to), "--onto-volumes"]);
    assert!(why.contains("--into FOLDER"), "{why}");
}

#[test]
fn a_scheduled_backup_begins_by_itself_also_after_a_restart() {
    let mut pair = Pair::unpaired(&Setup::seeded(138));
    pair.prefill();
    let folder = place(&pair);
    all_volumes(&pair, &pair.east);
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    let to = text(&folder.join("b.tar"));
    let backup: BackupInfo =
        pair.east.json(&["backup", "create", "b", "--set", "all", "--to", &to, "--at", &at.to_string()]);
    assert_eq!(backup.state, BackupState::Scheduled);
    pair.east.restart();
    let backup = wait_state(&pair.east, "b", |backup| backup.state.is_over());
    assert_eq!((backup.state, &backup.reason), (BackupState::Done, &None));
    assert!(backup.began.expect("its begin") >= at, "{backup:?}");
    pair.east.ok(&["backup", "verify", &to]);
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let pair = Pair::unpaired(&Setup::seeded(139));
    let folder = place(&pair);
    all_volumes(&pair, &pair.east);
    let refuses = |words: &[&str], say: &str| {
        let why = pair.east.refuses(words);
        assert!(why.contains(say), "{words:?}: {why}");
    };
    refuses(&["set", "create", "all", "a"], "there is a set 'all' already");
    // In a folder, that would lie where the manifest is to.
    refuses(&["set", "create", "tidemark-manifest.json", "a"], "the name of a backup's manifest");
    refuses(&["set", "create", "s", "nowhere"], "no volume 'nowhere'");
    refuses(&["set", "create", "s", "a:0+8KiB", "a:4KiB+8KiB"], "overlap");
    refuses(&["set", "create", "s", "a", "a:p1"], "overlap");
    refuses(&["set", "create", "s", "a:x"], "OFFSET+LENGTH");
    refuses(&["set", "delete", "s"], "no set 's'");
    refuses(&["set", "create", "beyond", "a:1TiB+4KiB"], "ends beyond volume 'a', which has");
    pair.east.ok(&["set", "create", "files", "a:/etc"]);
    pair.east.ok(&["set", "create", "partition", "a:p1"]);
    let to = text(&folder.join("b.tar"));
    let create = |set: &str, to: &str, say: &str| refuses(&["backup", "create", "b", "--set", set, "--to", to], say);
    create("nothing", &to, "no set 'nothing'");
    create("files", &to, "no file system");
    create("partition", &to, "no partition table");
    create("all", &text(&folder.join("missing/b.tar")), "make it first");
    std::fs::write(&to, "mine").expect("a file");
    create("all", &to, "is there already");
    assert_eq!(std::fs::read(&to).expect("the file"), b"mine");
    let other = text(&folder.join("c.tar"));
    refuses(&["backup", "create", "b", "--set", "all", "--set", "all", "--to", &other], "named twice");
    refuses(&["backup", "create", "b", "--set", "all", "--to", &other, "--rate", "0"], "never ends");
    refuses(&["backup", "create", "b", "--set", "all", "--to", &other, "--at", "2001-01-01T00:00:00Z"], "over");
    refuses(&["backup", "show", "b"], "no backup 'b'");
    refuses(&["backup", "verify", &to], "archive");
    refuses(&["backup", "restore", &to, "--onto-volumes"], "archive");
    refuses(&["backup", "cancel", "b"], "no backup");
    pair.east.ok(&["backup", "create", "b", "--set", "all", "--to", &other, "--wait"]);
    create("all", &text(&folder.join("d.tar")), "there is a backup 'b' already");
    refuses(&["backup", "cancel", "b"], "done already");
    refuses(&["backup", "restore", "b", "--onto-volumes", "--set", "x"], "no set 'x'; it has all");
    refuses(&["backup", "restore", "b", "--onto", "a"], "several volumes");
    pair.east.ok(&["backup", "delete", "b"]);
    assert!(Path::new(&other).exists(), "the archive stays");
    let mut bytes = std::fs::read(&other).expect("the archive");
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&other, bytes).expect("cut it");
    refuses(&["backup", "verify", &other], "not complete");
    let names: Vec<_> =
        std::fs::read_dir(&folder).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_volume_that_is_restored_is_closed_to_hosts_until_that_is_over() {
    const BYTES: u64 = 256 << 20;
    let pair = Pair::unpaired(&Setup::one_volume("v", BYTES, 136));
    let folder = place(&pair);
    let content: Vec<u8> =
        (0..BYTES / 8).flat_map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).to_le_bytes()).collect();
    pair.east.open("v").write_all(0, &content).expect("write");
    pair.east.ok(&["set", "create", "all", "v"]);
    let to = text(&folder.join("b.tar"));
    pair.east.ok(&["backup", "create", "b", "--set", "all", "--to", &to, "--wait"]);
    pair.east.open("v").write_all(0, &vec![1; 1 << 20]).expect("write");
    pair.east.wait_without_hosts(BACKUP_LIMIT);
    let before = pair.east.group(GROUP).positions.captured_seq;
    let refused = std::thread::scope(|scope| {
        let restore = scope.spawn(|| pair.east.ok(&["backup", "restore", "b", "--onto-volumes"]));
        wait_until("the restore to write", BACKUP_LIMIT, || {
            let now = pair.east.group(GROUP).positions.captured_seq;
            if now > before { Ok(()) } else { Err(format!("{now}")) }
        });
        let refused = pair.east.try_open("v");
        restore.join().expect("the restore goes on to its end");
        refused
    });
    match refused {
        Err(HostError::Refused { message, .. }) => assert!(message.contains("being restored from"), "{message}"),
        other => panic!("a host opened a volume that is half restored: {other:?}"),
    }
    assert!(pair.east.open("v").read_all().expect("read") == content, "it is whole, and open again");
}

/// One volume of noise, an appliance with the smallest side store, and what the volume holds.
fn squeezed(cluster: &Cluster) -> (Appliance, Vec<u8>) {
    let mut side = cluster.appliance("alone");
    side.configure("images", "side_store_bytes", "64MiB");
    side.configure("groups", "segment_bytes", "8MiB");
    side.configure("groups", "journal_bytes", "1GiB");
    side.start();
    side.ok(&["volume", "create", "v", "--size", "192MiB"]);
    side.ok(&["group", "create", "g", "--volume", "v", "--on-full", "throttle"]);
    side.ok(&["set", "create", "all", "v"]);
    write_noise(&side, "v", 0, 192 << 20, 1);
    let held = side.open("v").read_all().expect("read the volume");
    (side, held)
}

/// The side store has room for a third of what hosts overwrite: the volumes wait, the journal has what is written, the backup
/// forgets its rate, and is whole. Hosts do not notice.
#[test]
fn a_backup_whose_side_store_fills_hurries_and_is_whole() {
    let cluster = Cluster::new();
    let (side, held) = squeezed(&cluster);
    let to = cluster.join("b.tar");
    side.ok(&["backup", "create", "b", "--set", "all", "--to", &text(&to), "--rate", "256KiB"]);
    write_noise(&side, "v", 0, 192 << 20, 2);
    assert!(side.group("g").journal.throttle_ms == 0.0, "hosts are not slowed");
    let newest = side.open("v").read_all().expect("read the volume");
    let backup = wait_state(&side, "b", |backup| backup.state.is_over());
    assert_eq!((backup.state, backup.reason), (BackupState::Done, None));
    assert!(side.log_text().contains("it copies as fast as it can"), "it tells");
    assert!(side.ok(&["backup", "verify", "b", "--json"]).contains("\"bad\": []"));
    let out = cluster.join("out");
    std::fs::create_dir_all(&out).expect("a folder");
    let done = Command::new("tar").arg("-xf").arg(&to).arg("-C").arg(&out).status().expect("run tar");
    assert!(done.success());
    compare(&std::fs::read(out.join("all/v")).expect("the volume"), &held).expect("it holds its moment");
    compare(&side.open("v").read_all().expect("read the volume"), &newest).expect("hosts read what they wrote");
    let status = side.status();
    assert_eq!(status.side_store.bytes, 0, "its space is given back");
    wait_until("the volumes to be written", BACKUP_LIMIT, || {
        let positions = side.group("g").positions;
        if positions.applied_seq == positions.captured_seq { Ok(()) } else { Err(format!("{positions:?}")) }
    });
}

/// Targets that take nothing, a pipe and a file system that stands: when the journal is half full, the images end, and with them the backups,
/// loudly; nothing is left of them.
#[test]
fn a_backup_that_cannot_hurry_ends_loudly_before_hosts_are_slowed() {
    let cluster = Cluster::new();
    let (side, _) = squeezed(&cluster);
    let store = cluster.running("store");
    store.ok(&["volume", "create", "d", "--size", "64MiB"]);
    store.ok(&["group", "create", "d", "--volume", "d"]);
    let disk = Disk::attach(&store.uri("d"), &cluster.join("disk"));
    disk.make_ext4();
    let mounted = disk.mount(&cluster.join("mounted"));
    let pipe = cluster.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let to = text(&pipe);
    // It reads nothing: the pipe is full, and stays so.
    let stuck = std::fs::File::options().read(true).write(true).open(&pipe).expect("open the pipe");
    side.ok(&["backup", "create", "b", "--set", "all", "--to", &to]);
    side.ok(&["backup", "create", "f", "--set", "all", "--to", &text(&mounted.join("f.tar")), "--rate", "1MiB"]);
    wait_state(&side, "f", |backup| backup.progress.done_bytes > 0);
    let stands = mounted.freeze();
    // Three times what the side store has room for, and the journal is not half full yet: there hosts would be slowed.
    write_noise(&side, "v", 0, 192 << 20, 11);
    let group = side.group("g");
    assert!(group.positions.applied_seq < group.positions.captured_seq, "the volumes wait: {group:?}");
    assert!(group.journal.throttle_ms == 0.0, "hosts do not: {group:?}");
    for name in ["b", "f"] {
        assert_eq!(side.backup(name).state, BackupState::Copying, "{name}");
    }
    for round in 0..4 {
        write_noise(&side, "v", 0, 192 << 20, 13 + 2 * round);
        if side.backup("b").state.is_over() {
            break;
        }
    }
    let newest = side.open("v").read_all().expect("read the volume");
    wait_state(&side, "b", |backup| backup.state.is_over());
    drop(stands);
    for name in ["b", "f"] {
        let backup = wait_state(&side, name, |backup| backup.state.is_over());
        assert_eq!(backup.state, BackupState::Failed, "{backup:?}");
        assert!(backup.reason.as_deref().unwrap_or_default().contains("side_store_bytes"), "{backup:?}");
    }
    let left = std::fs::read_dir(mounted.path()).expect("list").map(|entry| entry.expect("entry").path());
    assert_eq!(left.collect::<Vec<_>>(), [mounted.join("lost+found")], "nothing of a file");
    assert_eq!(side.group("g").problem, None);
    assert_eq!(side.status().side_store.bytes, 0);
    compare(&side.open("v").read_all().expect("read the volume"), &newest).expect("hosts read what they wrote");
    drop(stuck);
}

#[test]
fn a_backup_into_a_folder_is_said_to_be_where_it_is() {
    let cluster = Cluster::new();
    let side = cluster.running("one");
    side.ok(&["volume", "create", "a", "--size", "1MiB"]);
    side.ok(&["group", "create", GROUP, "--volume", "a"]);
    side.ok(&["set", "create", "s", "a"]);
    let folder = cluster.join("fold");
    std::fs::create_dir(&folder).expect("make the folder");
    let (to, own) = (text(&folder), text(&folder.join("c2")));
    let made = side.cli(&["backup", "create", "c2", "--set", "s", "--to", &to, "--wait"]);
    assert!(made.code == 0 && made.stderr.contains(&own), "{made:?}");
    let shown = side.backup("c2");
    assert_eq!((shown.to.as_str(), shown.place()), (to.as_str(), own.as_str()));
    assert!(side.ok(&["backup", "list"]).contains(&own) && side.ok(&["backup", "show", "c2"]).contains(&own));
    side.ok(&["backup", "verify", "c2"]);
    tidemark(&["backup", "verify", &own]).done();
    let out = text(&cluster.join("out"));
    for words in [&["backup", "verify", &to][..], &["backup", "restore", &to, "--into", &out]] {
        let why = tidemark(words).failed_with(1);
        assert!(why.contains(&own) && why.contains("holds backups"), "{why}");
    }
    let why = tidemark(&["backup", "verify", "nofile.tar"]).failed_with(2);
    assert!(why.contains("no file or folder 'nofile.tar'"), "{why}");
}

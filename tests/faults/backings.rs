//! What is behind a volume belongs to one appliance at a time, and is found again where it has gone.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::command::run;
use tidemark_tests::host::Request;
use tidemark_tests::wait::{check, wait_until};

const BYTES: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(20);

/// As soon as its last host has gone.
fn delete(side: &Appliance, volume: &str) {
    wait_until("the volume to be deleted", LIMIT, || {
        let outcome = side.cli(&["volume", "delete", volume]);
        check(outcome.code == 0, || outcome.stderr)
    });
}

#[test]
fn a_backing_that_another_appliance_holds_is_refused_and_free_when_that_one_dies() {
    let cluster = Cluster::new();
    let file = cluster.join("disk.img");
    File::create(&file).and_then(|file| file.set_len(BYTES)).expect("make the file");
    let path = file.display().to_string();
    let (mut one, two) = (cluster.running("one"), cluster.running("two"));
    one.ok(&["volume", "create", "a", "--size", "1MiB", "--backing", &path]);
    one.ok(&["group", "create", "g", "--volume", "a"]);
    let around = ["volume", "create", "b", "--size", "1MiB", "--backing", &path];
    let reason = two.refuses(&around);
    assert!(reason.contains(&path) && reason.contains("in use"), "names the file and why: {reason}");
    one.kill9();
    one.start();
    one.open("a").write(0, &[1; 4096]).expect("served again at once");
    one.kill9();
    two.ok(&around);
    let reason = one.start_damaged();
    assert!(reason.contains("'a'") && reason.contains(&path) && reason.contains("in use"), "{reason}");
    assert!(one.try_open("a").is_err(), "two would write it");
    two.open("b").write(4096, &[2; 4096]).expect("the one that holds it goes on");
    delete(&two, "b");
    one.restart();
    assert_eq!(one.group("g").problem, None);
    assert_eq!(one.open("a").read(4096, 4096).expect("read"), [2; 4096]);
}

/// A name that is misspelt would otherwise be a sparse file in memory.
#[test]
fn nothing_is_made_below_dev() {
    let cluster = Cluster::new();
    let one = cluster.running("one");
    for folder in ["/dev", "/dev/shm"] {
        let path = format!("{folder}/tidemark-misspelt-{}", std::process::id());
        let reason = one.refuses(&["volume", "create", "a", "--size", "1MiB", "--backing", &path]);
        let made = std::path::Path::new(&path).exists();
        let _ = std::fs::remove_file(&path);
        assert!(!made && reason.contains(&path) && reason.contains("no block device"), "{reason}");
        // Nor through another name of that folder.
        let file = cluster.join("link");
        std::os::unix::fs::symlink(folder, &file).expect("a link");
        let linked = file.join("tidemark-misspelt").display().to_string();
        let reason = one.refuses(&["volume", "create", "a", "--size", "1MiB", "--backing", &linked]);
        std::fs::remove_file(&file).expect("remove the link");
        assert!(reason.contains("no block device"), "{reason}");
    }
    assert!(one.status().volumes.is_empty());
}

#[test]
fn what_stays_of_a_volume_is_said_when_it_is_deleted() {
    let cluster = Cluster::new();
    let one = cluster.running("one");
    let path = cluster.join("disk.img").display().to_string();
    one.ok(&["volume", "create", "a", "--size", "1MiB", "--backing", &path]);
    one.ok(&["volume", "create", "b", "--size", "1MiB"]);
    let said = one.cli(&["volume", "delete", "a"]);
    assert!(said.code == 0 && said.stderr.contains("stays") && said.stderr.contains(&path), "{}", said.stderr);
    assert!(std::path::Path::new(&path).exists());
    let said = one.cli(&["volume", "delete", "b"]);
    assert!(said.code == 0 && !said.stderr.contains("stays"), "{}", said.stderr);
}

/// A loop device over a file, for as long as it lives.
struct Loop(String);

impl Loop {
    /// Over a new file; `None` where there are no such devices.
    fn new(image: &Path) -> Option<Self> {
        File::create(image).and_then(|file| file.set_len(BYTES)).expect("make the file");
        let found = run("losetup", &["--find", "--show", &image.display().to_string()]);
        if found.code != 0 {
            eprintln!("no loop devices here: {}", found.stderr);
            return None;
        }
        Some(Self(found.stdout.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = run("losetup", &["--detach", &self.0]);
    }
}

#[test]
fn a_device_that_is_in_use_is_refused_until_it_is_free() {
    let cluster = Cluster::new();
    let Some(device) = Loop::new(&cluster.join("disk.img")) else { return };
    let one = cluster.running("one");
    let around = ["volume", "create", "a", "--size", "1MiB", "--backing", &device.0];
    // As a mount holds it.
    let flags = i32::try_from(OFlags::EXCL.bits()).expect("flags");
    let user = File::options().read(true).custom_flags(flags).open(&device.0).expect("hold the device");
    let reason = one.refuses(&around);
    assert!(reason.contains(&device.0) && reason.contains("mounted"), "{reason}");
    drop(user);
    one.ok(&around);
    one.open("a").write(0, &[1; 4096]).expect("write");
    File::options().read(true).custom_flags(flags).open(&device.0).expect_err("nobody mounts it now");
    delete(&one, "a");
    File::options().read(true).custom_flags(flags).open(&device.0).expect("free again");
}

/// The kernel gives nothing of a claimed device back that is still to be written: as a file system on it discards what it has just written,
/// and writes zeroes beside data.
#[test]
fn what_was_just_written_to_a_device_is_discarded_and_zeroed() {
    let cluster = Cluster::new();
    let Some(device) = Loop::new(&cluster.join("disk.img")) else { return };
    let one = cluster.running("one");
    one.ok(&["volume", "create", "a", "--size", "1MiB", "--backing", &device.0]);
    let mut expected = vec![0; 64 << 10];
    // First straight to the device, then through a group.
    for (grouped, byte) in [(false, 7), (true, 9)] {
        if grouped {
            one.ok(&["group", "create", "g", "--volume", "a"]);
        }
        let mut host = one.open("a");
        host.write(0, &[byte; 64 << 10]).expect("write");
        host.ask(Request::Trim(512, 8192, 0)).expect("discard");
        host.ask(Request::Zero(16384, 512, 0)).expect("write zeroes");
        expected.fill(byte);
        expected[512..8704].fill(0);
        expected[16384..16896].fill(0);
        if grouped {
            wait_until("all of it to be in the volume", LIMIT, || {
                let group = one.group("g");
                let done = group.positions.applied_seq == group.positions.captured_seq;
                check(done && group.problem.is_none(), || format!("{:?} {:?}", group.positions, group.problem))
            });
        }
        assert!(host.read(0, 64 << 10).expect("read") == expected, "{byte}");
    }
}

#[test]
fn a_directory_that_was_copied_says_so_and_one_that_was_moved_finds_its_volumes() {
    let cluster = Cluster::new();
    let mut one = cluster.running("one");
    one.ok(&["volume", "create", "a", "--size", "1MiB"]);
    one.ok(&["volume", "create", "free", "--size", "1MiB"]);
    one.ok(&["group", "create", "g", "--volume", "a"]);
    one.open("a").write(0, &[7; 4096]).expect("write");
    one.stop();
    let first = one.directory().display().to_string();

    let mut copy = one.copied_to(&cluster.join("copy"));
    let reason = copy.start_damaged();
    assert!(reason.contains("'a'") && reason.contains("a copy of") && reason.contains(&first), "{reason}");
    let volumes = copy.status().volumes;
    let names: Vec<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["a", "free"], "they are there, and cannot be used");
    assert!(volumes.iter().all(|volume| volume.problem.is_some()), "{volumes:?}");
    let listed = copy.ok(&["volume", "list"]);
    assert!(listed.contains("volume 'free' cannot be used"), "{listed}");
    assert!(copy.try_open("free").is_err(), "the other one's file");
    copy.stop();

    let moved = cluster.join("moved");
    one.move_to(&moved);
    one.start();
    assert_eq!(one.group("g").problem, None);
    assert_eq!(one.open("a").read(0, 4096).expect("read"), [7; 4096]);
    assert!(one.status().volumes.iter().all(|volume| volume.backing.starts_with(&moved.display().to_string())));
    one.restart();
    assert_eq!(one.open("a").read(0, 4096).expect("read"), [7; 4096]);
}

//! What backups are told: at which pace, of which parts of a disk, to which devices.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidemark_common::api::backup::types::{BackupInfo, BackupState};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::command::run;
use tidemark_tests::image::compare;
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::wait::{check, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn wait_over(side: &Appliance, name: &str) -> BackupInfo {
    side.wait_backup(name, LIMIT, |backup| backup.state.is_over())
}

/// A volume of noise in a group, and a set of it.
fn side(cluster: &Cluster, bytes: u64) -> Appliance {
    let side = cluster.running("alone");
    side.ok(&["volume", "create", "v", "--size", &bytes.to_string()]);
    side.ok(&["group", "create", "g", "--volume", "v"]);
    side.ok(&["set", "create", "all", "v"]);
    write_noise(&side, "v", 0, bytes, 1);
    side
}

/// Ends a thread, also when what it runs beside fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Backups at one rate, of which some wait for quiet hosts: while one host reads its volume and another writes to his, the one that does not wait is
/// done before them, and no sooner than its rate says. When the hosts are quiet, they go on.
#[test]
fn a_backup_that_waits_for_quiet_hosts_does_and_the_rate_is_kept() {
    let cluster = Cluster::new();
    let side = side(&cluster, 8 * MIB);
    side.ok(&["volume", "create", "w", "--size", "8MiB"]);
    side.ok(&["group", "create", "h", "--volume", "w"]);
    side.ok(&["set", "create", "written", "w"]);
    write_noise(&side, "w", 0, 8 * MIB, 3);
    let begin = |name: &str, set: &str, more: &[&str]| {
        let to = text(&cluster.join(&format!("{name}.tar")));
        let words = ["backup", "create", name, "--set", set, "--to", &to, "--rate", "2MiB"];
        side.ok(&[&words, more].concat());
    };
    let waiting = ["idle-read", "idle-written"];
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ending = Ending(&ended);
        let (mut reader, mut writer, is_over) = (side.open("v"), side.open("w"), &ended);
        scope.spawn(move || {
            while !is_over.load(Ordering::Acquire) {
                reader.read(0, 4096).expect("read the volume");
            }
        });
        scope.spawn(move || {
            while !is_over.load(Ordering::Acquire) {
                writer.write(0, &[5; 4096]).expect("write to the volume");
            }
        });
        begin(waiting[0], "all", &["--when-idle"]);
        begin(waiting[1], "written", &["--when-idle"]);
        begin("steady", "all", &[]);
        let steady = wait_over(&side, "steady");
        assert_eq!((steady.state, &steady.reason), (BackupState::Done, &None));
        let took = steady.ended.expect("its end").duration_since(steady.began.expect("its begin")).as_secs_f64();
        assert!(took > 3.0, "8 MiB at 2 MiB/s, the first of them at once: {took} s");
        for name in waiting {
            let idle = side.backup(name);
            assert_eq!(idle.state, BackupState::Copying, "{idle:?}");
            assert!(idle.progress.done_bytes < idle.progress.total_bytes / 2, "{idle:?}");
        }
        drop(ending);
    });
    for name in waiting {
        let idle = wait_over(&side, name);
        assert_eq!((idle.state, idle.reason), (BackupState::Done, None));
        side.ok(&["backup", "verify", name]);
    }
}

/// A disk with a partition table, a file system on its first partition and noise on its second.
fn partitioned(cluster: &Cluster) -> std::path::PathBuf {
    let disk = cluster.join("disk");
    let source = cluster.join("source");
    std::fs::create_dir_all(source.join("etc")).expect("folders");
    std::fs::write(source.join("etc/app"), vec![b'x'; 200_000]).expect("a file");
    std::fs::write(source.join("other"), "not this").expect("a file");
    let made = std::fs::File::create(cluster.join("fs")).expect("a file");
    made.set_len(8 * MIB).expect("its size");
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-d"]).arg(&source).arg(cluster.join("fs"));
    assert!(mke2fs.status().expect("run mke2fs").success());
    std::fs::File::create(&disk).expect("a file").set_len(16 * MIB).expect("its size");
    let mut sfdisk = Command::new("sfdisk");
    sfdisk.arg("-q").arg(&disk).stdin(Stdio::piped());
    let mut sfdisk = sfdisk.spawn().expect("run sfdisk");
    let mut words = sfdisk.stdin.take().expect("its input");
    words.write_all(b"label: gpt\nstart=2048, size=16384\nstart=18432, size=8192\n").expect("tell sfdisk");
    drop(words);
    assert!(sfdisk.wait().expect("its end").success());
    let written = std::fs::File::options().write(true).open(&disk).expect("open the disk");
    for (at, bytes) in [(MIB, std::fs::read(cluster.join("fs")).expect("read")), (9 * MIB, noise(3, 4 * MIB))] {
        std::os::unix::fs::FileExt::write_all_at(&written, &bytes, at).expect("fill a partition");
    }
    written.sync_all().expect("sync the disk");
    disk
}

/// What a disk has where the manifest of an archive says that a file lay.
fn where_it_lay(archive: &Path, disk: &Path, name: &str) -> Vec<u8> {
    let text = run("tar", &["-xOf", &text(archive), "tidemark-manifest.json"]).done();
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("a manifest");
    let members = manifest["members"].as_array().expect("members");
    let file = members.iter().find(|member| member["name"] == name).expect("the file");
    let extents: Vec<(usize, usize)> = serde_json::from_value(file["extents"].clone()).expect("its extents");
    let disk = std::fs::read(disk).expect("read the disk");
    extents.iter().flat_map(|(offset, length)| &disk[*offset..offset + length]).copied().collect()
}

#[test]
fn partitions_and_the_files_on_them_are_backed_up_and_come_back() {
    let cluster = Cluster::new();
    let disk = partitioned(&cluster);
    let side = cluster.running("alone");
    side.ok(&["volume", "create", "d", "--size", "16MiB", "--backing", &text(&disk)]);
    side.ok(&["group", "create", "g", "--volume", "d"]);
    side.ok(&["set", "create", "raw", "d:p2"]);
    side.ok(&["set", "create", "etc", "d:p1:/etc"]);
    side.ok(&["set", "create", "missing", "d:p3"]);
    let to = text(&cluster.join("b.tar"));
    let why = side.refuses(&["backup", "create", "b", "--set", "missing", "--to", &to]);
    assert!(why.contains("set 'missing'") && why.contains("d:p3"), "{why}");
    let backup: BackupInfo =
        side.json(&["backup", "create", "b", "--set", "raw", "--set", "etc", "--to", &to, "--wait"]);
    assert_eq!((backup.state, backup.progress.total_bytes), (BackupState::Done, 4 * MIB + 200_000), "{backup:?}");
    assert!(
        where_it_lay(Path::new(&to), &disk, "etc/d@p1/etc/app") == vec![b'x'; 200_000],
        "its extents in the volume"
    );
    let out = cluster.join("out");
    side.ok(&["backup", "restore", "b", "--set", "etc", "--into", &text(&out)]);
    assert!(std::fs::read(out.join("etc/d@p1/etc/app")).expect("the file") == vec![b'x'; 200_000]);
    assert!(!out.join("etc/d@p1/other").exists());
    // Its own place, also when nobody could find it in the table any more; nothing around it.
    write_noise(&side, "d", 0, 16 * MIB, 4);
    let mut expected = noise(4, 16 * MIB);
    let (begin, end) = (usize::try_from(9 * MIB).expect("small"), usize::try_from(13 * MIB).expect("small"));
    expected[begin..end].copy_from_slice(&noise(3, 4 * MIB));
    wait_until("the host to be gone", LIMIT, || {
        let volume = side.status().volumes.remove(0);
        check(volume.connections == 0, || format!("{volume:?}"))
    });
    side.ok(&["backup", "restore", "b", "--set", "raw", "--onto-volumes"]);
    compare(&side.open("d").read_all().expect("read the disk"), &expected).expect("the partition, and nothing else");
}

/// A device gets the archive as bytes in their order; one that takes no more ends the backup loudly.
#[test]
fn a_device_takes_an_archive_and_one_that_is_full_says_so() {
    let cluster = Cluster::new();
    let side = side(&cluster, MIB);
    for (device, state, why) in
        [("/dev/null", BackupState::Done, ""), ("/dev/full", BackupState::Failed, "it is at its end")]
    {
        side.ok(&["backup", "create", "b", "--set", "all", "--to", device]);
        let backup = wait_over(&side, "b");
        assert_eq!(backup.state, state, "{backup:?}");
        assert!(backup.reason.as_deref().unwrap_or_default().contains(why), "{backup:?}");
        assert_eq!(side.status().side_store.bytes, 0, "its space is given back");
        side.ok(&["backup", "delete", "b"]);
    }
    assert!(Path::new("/dev/full").exists() && Path::new("/dev/null").exists(), "devices are nobody's to remove");
    let disk = cluster.join("disk");
    std::fs::File::create(&disk).expect("a file").set_len(MIB).expect("its size");
    let attached = run("losetup", &["--find", "--show", &text(&disk)]).done();
    let device = attached.trim();
    let why = side.refuses(&["backup", "create", "b", "--set", "all", "--to", device]);
    let _ = run("losetup", &["--detach", device]);
    assert!(why.contains("block device, which may hold something"), "{why}");
}

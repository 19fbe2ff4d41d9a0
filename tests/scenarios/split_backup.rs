//! Backups of targets right after their split: what each of the three ways promises beside the same bytes, and kills in the middle.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidemark_common::api::backup::types::{BackupInfo, BackupState};
use tidemark_common::api::local_pair::types::LocalPairState;
use tidemark_tests::appliance::{Appliance, files_under};
use tidemark_tests::cluster::Cluster;
use tidemark_tests::image::compare;
use tidemark_tests::noise::write_noise;
use tidemark_tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// A rate at which nothing is ever done copying within a test.
const CRAWL: &str = "256KiB";

/// A source of noise and a target that was split from it, has hardly anything yet, and is backed up as set `s`.
struct Site {
    cluster: Cluster,
    side: Appliance,
    /// The target's file.
    backing: PathBuf,
    /// What the source held at the split.
    held: Vec<u8>,
}

fn site(mib: u64, rate: &str, extent: &str) -> Site {
    let cluster = Cluster::new();
    let side = cluster.running("alone");
    let backing = cluster.join("t.image");
    let size = format!("{mib}MiB");
    side.ok(&["volume", "create", "a", "--size", &size]);
    side.ok(&["volume", "create", "t", "--size", &size, "--backing", &backing.display().to_string()]);
    side.ok(&["group", "create", "g", "--volume", "a"]);
    side.ok(&["set", "create", "s", extent]);
    write_noise(&side, "a", 0, mib * MIB, 1);
    let held = side.open("a").read_all().expect("read the source");
    side.ok(&["local-pair", "create", "a", "--target", "t", "--rate", rate]);
    side.ok(&["local-pair", "split", "t"]);
    std::fs::create_dir_all(cluster.join("backups")).expect("a folder for backups");
    Site { cluster, side, backing, held }
}

impl Site {
    fn folder(&self) -> PathBuf {
        self.cluster.join("backups")
    }

    fn begin(&self, way: &str, more: &[&str]) -> BackupInfo {
        let to = self.folder().display().to_string();
        let words = ["backup", "create", way, "--set", "s", "--to", &to, "--while-differential", way];
        self.side.json(&[&words, more].concat())
    }

    fn backup(&self, name: &str) -> BackupInfo {
        self.side.backup(name)
    }

    fn lacks(&self) -> u64 {
        self.side.local_pair("t").differential_bytes
    }

    /// The only thing that a backup of raw files holds.
    fn member(&self, name: &str) -> Vec<u8> {
        let found = files_under(&self.folder().join(name).join("s"), |_| true);
        assert_eq!(found.len(), 1, "{found:?}");
        std::fs::read(&found[0]).expect("read a raw file")
    }

    /// What of the image lies at a place.
    fn at(&self, mib: u64, length: u64) -> &[u8] {
        &self.held[(mib * MIB) as usize..((mib + length) * MIB) as usize]
    }

    /// What the target's own file holds at a place.
    fn in_the_file(&self, mib: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; (length * MIB) as usize];
        let file = File::open(&self.backing).expect("open the target's file");
        file.read_exact_at(&mut bytes, mib * MIB).expect("read the target's file");
        bytes
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("list the folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_backup_that_copies_has_what_it_asks_for_copied_to_the_target_first() {
    let site = site(48, CRAWL, "t:40MiB+4MiB");
    write_noise(&site.side, "a", 36 * MIB, 12 * MIB, 2);
    assert!(site.in_the_file(40, 4).iter().all(|byte| *byte == 0), "the copying is not there yet");
    let backup = site.begin("copy", &["--wait"]);
    assert_eq!((backup.state, backup.reason), (BackupState::Done, None));
    compare(&site.member("copy"), site.at(40, 4)).expect("it is the image of the split");
    compare(&site.in_the_file(40, 4), site.at(40, 4)).expect("and lies in the target");
    assert!(site.in_the_file(36, 4).iter().all(|byte| *byte == 0), "nothing else was copied for it");
    assert!(site.lacks() > 24 * MIB, "nobody waited for the rest");
}

#[test]
fn a_backup_that_merges_streams_and_leaves_the_target_alone() {
    let site = site(48, CRAWL, "t:40MiB+4MiB");
    write_noise(&site.side, "a", 36 * MIB, 12 * MIB, 2);
    // A host has written to the target, which has all of that region since.
    site.side.open("t").write(42 * MIB, &[7; 4096]).expect("write to the target");
    let backup = site.begin("merge", &["--wait"]);
    assert_eq!((backup.state, backup.reason), (BackupState::Done, None));
    let mut expected = site.at(40, 4).to_vec();
    expected[2 << 20..][..4096].fill(7);
    compare(&site.member("merge"), &expected).expect("what the source keeps and what the target has, as one");
    assert!(site.in_the_file(40, 2).iter().all(|byte| *byte == 0), "nothing was copied for it");
    assert!(site.lacks() > 24 * MIB, "nobody waited for the rest");
}

#[test]
fn a_backup_that_waits_begins_when_nothing_differs() {
    let site = site(16, "4MiB", "t");
    site.begin("wait", &[]);
    write_noise(&site.side, "a", 0, 16 * MIB, 2);
    let mut seen_waiting = 0;
    let ended = wait_until("the backup that waits", LIMIT, || {
        let backup = site.backup("wait");
        let there = names(&site.folder());
        let lacks = site.lacks();
        // Asked last: what still differs now differed then.
        if lacks > 0 {
            assert_eq!((backup.state, backup.progress.done_bytes), (BackupState::Waiting, 0), "{lacks}");
            assert_eq!(there, Vec::<String>::new());
            seen_waiting += 1;
        }
        if backup.state.is_over() { Ok(backup) } else { Err(format!("{backup:?}")) }
    });
    assert_eq!((ended.state, ended.reason), (BackupState::Done, None));
    assert!(seen_waiting > 0, "it was seen while it waited");
    compare(&site.in_the_file(0, 16), &site.held).expect("the target has everything");
    compare(&site.member("wait"), &site.held).expect("it is the image of the split");
}

/// Each way is killed while it runs: nothing half-valid is left, source and target are what they were, and the same again is whole.
#[test]
fn kill_9_in_the_middle_of_backups_of_a_target_leaves_nothing_half_valid_and_both_sides_alone() {
    let mut site = site(24, "64KiB", "t");
    let mut expected = site.held.clone();
    let mut written = site.held.clone();
    for way in ["copy", "merge"] {
        site.begin(way, &["--rate", "1MiB"]);
    }
    site.begin("wait", &[]);
    // Hosts overwrite both sides under them.
    let mut host = site.side.open("t");
    host.write(20 * MIB, &[5; 8192]).expect("write to the target");
    host.flush().expect("flush the target");
    drop(host);
    expected[20 << 20..][..8192].fill(5);
    let mut host = site.side.open("a");
    host.write_all(0, &vec![9; 16 << 20]).expect("write to the source");
    host.flush().expect("flush the source");
    drop(host);
    written[..16 << 20].fill(9);
    for way in ["copy", "merge"] {
        wait_until("some to be copied", LIMIT, || {
            let backup = site.backup(way);
            if backup.progress.done_bytes > 0 { Ok(()) } else { Err(format!("{backup:?}")) }
        });
    }
    assert_eq!(site.backup("wait").state, BackupState::Waiting);
    site.side.kill9();
    site.side.start();
    for way in ["copy", "merge", "wait"] {
        let backup = site.backup(way);
        let reason = backup.reason.clone().unwrap_or_default();
        assert!(backup.state == BackupState::Failed && reason.contains("interrupted"), "{way}: {backup:?}");
    }
    assert_eq!(names(&site.folder()), Vec::<String>::new(), "nothing of them is left");
    let shown = site.side.local_pair("t");
    assert_eq!((shown.state, shown.reason), (LocalPairState::Split, None));
    // Hosts' writes are still on their way into the volume, and what they overwrite is saved for the split.
    wait_until("what was saved for the backups alone to be given back", LIMIT, || {
        let kept = site.side.status().side_store.bytes;
        let shown = site.side.local_pair("t");
        if kept == shown.saved_bytes {
            Ok(())
        } else {
            Err(format!("{kept} bytes, {} for the split", shown.saved_bytes))
        }
    });
    compare(&site.side.open("t").read_all().expect("read the target"), &expected).expect("the target is what it was");
    compare(&site.side.open("a").read_all().expect("read the source"), &written).expect("the source is what it was");
    for way in ["copy", "merge"] {
        let backup = site.begin(way, &["--wait"]);
        assert_eq!((backup.state, backup.reason), (BackupState::Done, None), "{way}");
        compare(&site.member(way), &expected).unwrap_or_else(|difference| panic!("{way}: {difference}"));
    }
    assert_eq!(site.lacks(), 0, "one of them had all copied");
    let backup = site.begin("wait", &["--wait"]);
    assert_eq!((backup.state, backup.reason), (BackupState::Done, None));
    compare(&site.member("wait"), &expected).expect("the one that waits");
    // The copier, which has nothing left to do, does not wait for its rate before it says so.
    wait_until("nothing to be kept any more", LIMIT, || {
        let bytes = site.side.status().side_store.bytes;
        if bytes == 0 { Ok(()) } else { Err(format!("{bytes} bytes")) }
    });
}

/// A source that was restored is followed by its target again, which is overwritten then: not while somebody still reads that.
#[test]
fn a_source_is_not_restored_from_a_target_that_a_backup_reads() {
    let site = site(16, "1GiB", "t");
    wait_until("nothing to differ", LIMIT, || {
        let lacks = site.lacks();
        if lacks == 0 { Ok(()) } else { Err(format!("{lacks} bytes")) }
    });
    site.begin("merge", &["--rate", "1MiB"]);
    wait_until("some to be copied", LIMIT, || {
        let backup = site.backup("merge");
        if backup.progress.done_bytes > 0 { Ok(()) } else { Err(format!("{backup:?}")) }
    });
    let why = site.side.refuses(&["local-pair", "reverse", "t"]);
    assert!(why.contains("backup 'merge' reads volume 't'") && why.contains("backup cancel merge"), "{why}");
    let shown = site.side.local_pair("t");
    assert_eq!(shown.state, LocalPairState::Split);
    site.side.ok(&["backup", "cancel", "merge"]);
    wait_until("the reverse", LIMIT, || {
        let outcome = site.side.cli(&["local-pair", "reverse", "t"]);
        if outcome.code == 0 { Ok(()) } else { Err(outcome.stderr) }
    });
    site.side.wait_local_pair("t", "the source to be restored", LIMIT, |shown| shown.state == LocalPairState::Pair);
}

/// Ends a thread, also when what it runs beside fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A host writes to one target, and when that is answered to the other. A backup of both has what the first had by then, whenever it begins.
#[test]
fn targets_that_are_backed_up_together_are_of_one_moment() {
    let site = site(1, "1GiB", "t:0+4096");
    let side = &site.side;
    side.ok(&["volume", "create", "u", "--size", "1MiB"]);
    side.ok(&["local-pair", "create", "a", "--target", "u", "--rate", "1GiB"]);
    side.ok(&["local-pair", "split", "u"]);
    side.ok(&["set", "create", "both", "t:0+4096", "u:0+4096"]);
    let to = site.folder().display().to_string();
    let (mut first, mut second) = (side.open("t"), side.open("u"));
    for host in [&mut first, &mut second] {
        host.write(0, &[0; 4096]).expect("write to a target");
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ending = Ending(&ended);
        scope.spawn(|| {
            for number in 1_u64.. {
                first.write(0, &number.to_le_bytes().repeat(512)).expect("write to the first");
                second.write(0, &number.to_le_bytes().repeat(512)).expect("write to the second");
                if ended.load(Ordering::Acquire) {
                    break;
                }
            }
        });
        let number = |name: &str, target: &str| {
            let path = site.folder().join(name).join(format!("both/{target}@0+4096"));
            let bytes = std::fs::read(path).expect("read a raw file");
            u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
        };
        let all: Vec<(u64, u64)> = (0..8)
            .map(|round| {
                let name = format!("b{round}");
                side.ok(&["backup", "create", &name, "--set", "both", "--to", &to, "--wait"]);
                (number(&name, "t"), number(&name, "u"))
            })
            .collect();
        drop(ending);
        assert!(all.iter().all(|(first, second)| first == second || *first == second + 1), "{all:?}");
        assert!(all.iter().any(|(first, _)| *first > 1), "the host wrote meanwhile: {all:?}");
    });
}

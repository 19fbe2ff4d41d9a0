//! Backups of the files of an XFS that its host has mounted: what the kernel leaves in its log, and what the advice is worth.

use std::path::Path;
use std::time::Duration;

use tidemark_common::api::backup::types::{BackupInfo, BackupState};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::disk::{Disk, Mounted};

const LIMIT: Duration = Duration::from_secs(60);
const FILES: usize = 100;

fn content(number: usize) -> Vec<u8> {
    vec![u8::try_from(number % 251).expect("a byte"); 20_000 + number]
}

/// Files of which the log has more than their places on the disk.
fn write_files(mounted: &Mounted) {
    std::fs::create_dir_all(mounted.join("mail/new")).expect("folders");
    for number in 0..FILES {
        std::fs::write(mounted.join(&format!("mail/{number}")), content(number)).expect("write a file");
    }
    mounted.sync();
    for number in (0..FILES).step_by(2) {
        let name = |folder: &str| mounted.join(&format!("{folder}/{number}"));
        std::fs::rename(name("mail"), name("mail/new")).expect("rename a file");
    }
    mounted.sync();
}

fn backup(side: &Appliance, folder: &Path, name: &str) -> BackupInfo {
    let to = folder.join(format!("{name}.tar")).display().to_string();
    side.json(&["backup", "create", name, "--set", "mail", "--to", &to])
}

/// What is in the backup are the files as `write_files` has left them.
fn assert_backed_up(side: &Appliance, folder: &Path, name: &str) {
    let ended = side.wait_backup(name, LIMIT, |backup| backup.state.is_over());
    assert_eq!((ended.state, ended.reason), (BackupState::Done, None), "{name}");
    let out = folder.join(name).display().to_string();
    side.ok(&["backup", "restore", name, "--into", &out]);
    let restored = folder.join(name).join("mail/a/mail");
    for number in 0..FILES {
        let at = if number % 2 == 0 { format!("new/{number}") } else { number.to_string() };
        let found = std::fs::read(restored.join(&at)).unwrap_or_else(|error| panic!("{name}: {at}: {error}"));
        assert!(found == content(number), "{name}: {at}");
    }
    let count = |folder: &Path| std::fs::read_dir(folder).expect("list").count();
    assert_eq!((count(&restored), count(&restored.join("new"))), (FILES / 2 + 1, FILES / 2), "{name}: nothing more");
}

#[test]
fn the_files_of_a_mounted_xfs_are_backed_up_while_it_is_frozen_and_refused_while_it_is_written() {
    let cluster = Cluster::new();
    let side = cluster.running("alone");
    side.ok(&["volume", "create", "a", "--size", "320MiB"]);
    side.ok(&["group", "create", "g", "--volume", "a"]);
    side.ok(&["set", "create", "mail", "a:/mail"]);
    let folder = cluster.join("backups");
    std::fs::create_dir_all(&folder).expect("a folder for backups");
    let to = folder.join("none.tar").display().to_string();
    // A log's records have a longer header with the second.
    for (kind, options) in [("usual", "rw"), ("longer", "logbsize=256k")] {
        let disk = Disk::attach(&side.uri("a"), &cluster.join("disk"));
        disk.make_xfs();
        let mounted = disk.mount_with(&cluster.join("mnt"), options);
        write_files(&mounted);
        let why = side.refuses(&["backup", "create", "none", "--set", "mail", "--to", &to]);
        assert!(why.contains("fsfreeze --freeze MOUNTPOINT"), "{why}");
        let name = |what: &str| format!("{what}-{kind}");
        let open = std::fs::File::open(mounted.join("mail/1")).expect("open a file");
        {
            // What is deleted and still open is what a frozen log is there for.
            std::fs::write(mounted.join("mail/gone"), "gone").expect("write a file");
            let _gone = std::fs::File::open(mounted.join("mail/gone")).expect("open a file");
            std::fs::remove_file(mounted.join("mail/gone")).expect("delete a file");
            let frozen = mounted.freeze();
            let _ = backup(&side, &folder, &name("frozen"));
            drop(frozen);
        }
        // The host goes on at once.
        std::fs::rename(mounted.join("mail/1"), mounted.join("mail/elsewhere")).expect("rename a file");
        mounted.sync();
        assert_backed_up(&side, &folder, &name("frozen"));
        std::fs::rename(mounted.join("mail/elsewhere"), mounted.join("mail/1")).expect("rename a file");
        drop(open);
        mounted.make_read_only();
        let _ = backup(&side, &folder, &name("read-only"));
        assert_backed_up(&side, &folder, &name("read-only"));
        drop(mounted.unmount());
        let _ = backup(&side, &folder, &name("unmounted"));
        assert_backed_up(&side, &folder, &name("unmounted"));
    }
}

//! A disk without space, in a mount namespace of its own: the test starts itself again inside.

use std::fs::File;
use std::io::{self, Write as _};
use std::process::Command;

use super::*;

const INSIDE: &str = "TIDEMARK_TEST_FULL_DISK";

#[test]
fn a_full_disk_is_a_clear_error_and_loses_nothing() {
    if let Some(directory) = std::env::var_os(INSIDE) {
        return fill(Path::new(&directory));
    }
    let mount_point = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=16m tmpfs \"$1\" && exec \"$2\" --exact --nocapture \"$3\"";
    let name = std::thread::current().name().unwrap().to_owned();
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(mount_point.path())
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(INSIDE, mount_point.path())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn fill(directory: &Path) {
    let catalog = open(directory).unwrap();
    catalog.put_peer(&peer("far")).unwrap();
    let bitmap: Vec<u8> = (0_u32..256 << 10).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut answered = 0;
    let error = loop {
        match catalog.put_bitmap(GROUP, &format!("p{answered:02}"), &bitmap) {
            Ok(()) => answered += 1,
            Err(error) => break error,
        }
        assert!(answered < 64, "16 MiB took 64 MiB");
    };
    assert!(answered > 0, "{error}");
    assert_says_no_space(&error);
    assert_eq!(catalog.peers().unwrap(), [peer("far")], "what is there is read on");

    remount(directory, "64m");
    drop(catalog);
    let catalog = open(directory).unwrap();
    let ballast = directory.join("ballast");
    fill_up(&ballast);
    let error = (0..100_000_u64).find_map(|n| catalog.put_applied(GROUP, &applied(n)).err()).unwrap();
    assert_says_no_space(&error);
    assert_says_no_space(&catalog.put_peer(&peer("late")).unwrap_err());

    std::fs::remove_file(&ballast).unwrap();
    drop(catalog);
    let catalog = open(directory).unwrap();
    assert_eq!(catalog.peer("far").unwrap(), Some(peer("far")));
    for number in 0..answered {
        assert!(catalog.bitmap(GROUP, &format!("p{number:02}")).unwrap().as_ref() == Some(&bitmap), "{number}");
    }
    catalog.put_volume(&volume("data")).unwrap();
    catalog.verify().unwrap();
}

#[track_caller]
fn assert_says_no_space(error: &CatalogError) {
    let message = error.to_string();
    assert!(error.is_no_space(), "{message}");
    assert!(message.contains("no space") && message.contains("catalog"), "{message}");
}

fn remount(directory: &Path, size: &str) {
    let done = Command::new("mount").arg("-o").arg(format!("remount,size={size}")).arg(directory).status().unwrap();
    assert!(done.success());
}

/// Takes all the space there is.
fn fill_up(ballast: &Path) {
    let mut file = File::create(ballast).unwrap();
    let error = loop {
        if let Err(error) = file.write_all(&[1; 4096]) {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

//! What a check may leave: mounts and a folder, and processes when its guard was killed too. Those are known by their environment, in
//! which every check finds its folder.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use tidemark_common::clock::Clock;

/// The variable of a check's environment that names its folder.
pub(crate) const FOLDER: &str = "TIDEMARK_DRILL_DIR";
/// The words that begin a guard's command line; the folder follows.
pub(crate) const GUARD: [&str; 3] = ["drill", "guard", "--"];
/// A guard has ended what it guards by then, or will not.
pub(crate) const GUARD_LIMIT: Duration = Duration::from_secs(60);
/// What was killed is waited for so long.
const KILL_LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Whether a service of this user has made a folder. Where those of drills lie, anybody may make one of such a name, and have something else unmounted
/// by what he puts in the place of what was mounted there.
pub(crate) fn is_own(folder: &Path) -> bool {
    std::fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && found.uid() == geteuid().as_raw())
}

/// Ends what is left of the check of a folder, and takes away the folder. A guard that is still at it is waited for.
///
/// # Errors
/// For people: what could not be ended or taken away.
pub(crate) fn end(folder: &Path, clock: &dyn Clock) -> Result<(), String> {
    let begin = clock.monotonic();
    loop {
        let left = processes(folder);
        let passed = clock.monotonic().saturating_sub(begin);
        if left.is_empty() {
            return clear(folder);
        }
        if passed >= GUARD_LIMIT + KILL_LIMIT {
            let numbers: Vec<_> = left.iter().map(|process| process.number).collect();
            return Err(format!("processes of the check in {} could not be ended: {numbers:?}", folder.display()));
        }
        if passed >= GUARD_LIMIT || !left.iter().any(|process| process.is_guard) {
            for process in &left {
                let _ = pidfd_send_signal(&process.handle, Signal::KILL);
            }
        }
        std::thread::sleep(LOOK);
    }
}

struct Process {
    number: i32,
    handle: OwnedFd,
    is_guard: bool,
}

/// What has the folder in its environment.
fn processes(folder: &Path) -> Vec<Process> {
    let mark = [FOLDER.as_bytes(), b"=", folder.as_os_str().as_bytes()].concat();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let found = entries.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        // Taken before it is looked at: its number may go to another process at any time, a handle does not.
        let handle = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        let marked = environment.split(|byte| *byte == 0).any(|variable| variable == mark);
        let is_guard = || is_guard(&std::fs::read(entry.path().join("cmdline")).unwrap_or_default(), folder);
        marked.then(|| Process { number, handle, is_guard: is_guard() })
    });
    found.collect()
}

fn is_guard(command_line: &[u8], folder: &Path) -> bool {
    let words = command_line.split(|byte| *byte == 0).skip(1).take(GUARD.len() + 1);
    words.map(OsStr::from_bytes).eq(GUARD.iter().map(OsStr::new).chain([folder.as_os_str()]))
}

/// Takes away the folder of a check, and before that whatever is mounted there.
///
/// # Errors
/// For people: what could not be taken away.
pub(crate) fn clear(folder: &Path) -> Result<(), String> {
    if let Some(place) = unmount_below(folder, &[]).and_then(|_| unmount_below(folder, &["--lazy"])) {
        return Err(format!(
            "what a drill's check has mounted at {} could not be unmounted: do it by hand, and remove {}",
            place.display(),
            folder.display()
        ));
    }
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("the folder of a drill, {}, could not be removed: {error}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Unmounts what is mounted in a folder, up to the first that cannot be. That is the folder itself when nobody can tell what is mounted:
/// whatever is must not be removed with it.
pub(crate) fn unmount_below(folder: &Path, options: &[&str]) -> Option<PathBuf> {
    let Ok(mounts) = std::fs::read("/proc/self/mounts") else { return Some(folder.to_owned()) };
    let stays = |place: &PathBuf| {
        let mut unmount = Command::new("umount");
        unmount.args(options).arg(place).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        !unmount.status().is_ok_and(|status| status.success())
    };
    mounted_below(folder, &mounts).into_iter().find(stays)
}

/// What is mounted in a folder, the youngest first: a disk is mounted before what lies in it. Names may hold any bytes, also those of
/// mounts elsewhere.
fn mounted_below(folder: &Path, mounts: &[u8]) -> Vec<PathBuf> {
    let place = |line: &[u8]| line.split(|byte| *byte == b' ').nth(1).map(path_of);
    let mut mounted: Vec<PathBuf> = mounts.split(|byte| *byte == b'\n').filter_map(place).collect();
    mounted.retain(|place| place.starts_with(folder));
    mounted.reverse();
    mounted
}

/// A path as the kernel lists it: blanks, line ends and backslashes as a backslash and three octal digits.
fn path_of(listed: &[u8]) -> PathBuf {
    let (mut path, mut rest) = (Vec::with_capacity(listed.len()), listed);
    while let Some((first, behind)) = rest.split_first() {
        let (byte, behind) = match (first, behind) {
            (b'\\', [high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', behind @ ..]) => {
                ((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'), behind)
            }
            _ => (*first, behind),
        };
        path.push(byte);
        rest = behind;
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_made_is_no_folder_of_a_drill() {
        let place = tempfile::tempdir().unwrap();
        let (folder, link) = (place.path().join("folder"), place.path().join("link"));
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(is_own(&folder) && !is_own(&link) && !is_own(&place.path().join("none")));
        if geteuid().is_root() {
            std::os::unix::fs::chown(&folder, Some(4711), None).unwrap();
            assert!(!is_own(&folder));
        } else {
            assert!(!is_own(Path::new("/")));
        }
    }

    #[test]
    fn a_guard_is_known_by_its_folder() {
        let folder = Path::new("/tmp/tidemark-ab-drill-1");
        assert!(is_guard(b"/usr/bin/tidemark\0drill\0guard\0--\0/tmp/tidemark-ab-drill-1\0true\0", folder));
        assert!(!is_guard(b"/usr/bin/tidemark\0drill\0guard\0--\0/tmp/tidemark-ab-drill-12\0true\0", folder));
        assert!(!is_guard(b"sh\0-c\0tidemark drill guard -- /tmp/tidemark-ab-drill-1\0", folder));
        assert!(!is_guard(b"", folder));
    }

    /// One that is not found is emptied with the folder.
    #[test]
    fn what_is_mounted_in_a_folder_is_found_whatever_names_there_are() {
        let mounts = b"/dev/sda1 / ext4 rw 0 0\n/dev/sdb1 /media/Caf\xe9 vfat rw 0 0\n\
            /dev/nbd0 /tmp/of\\040mine/drill-1/disk ext4 rw 0 0\n/dev/nbd1 /tmp/of\\040mine/drill-1/disk/my\\134data ext4 rw 0 0\n\
            /dev/nbd2 /tmp/of\\040mine/drill-12 ext4 rw 0 0\nnothing\n";
        let found = mounted_below(Path::new("/tmp/of mine/drill-1"), mounts);
        assert_eq!(found, ["/tmp/of mine/drill-1/disk/my\\data", "/tmp/of mine/drill-1/disk"].map(PathBuf::from));
        assert_eq!(path_of(br"a\04"), Path::new(r"a\04"), "no such name is listed");
    }
}

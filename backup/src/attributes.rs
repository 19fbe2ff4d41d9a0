//! Owner, permissions and time of what is taken out of a backup. Nobody else opens a file, or sees into a folder, before it has its own.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown, lchown};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, futimens, utimensat};

use crate::plan::Meta;

/// Makes a file that is its maker's alone, whatever his umask is.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Gives a file or folder what it had. Each of it is tried, whatever becomes of the others.
pub(crate) fn set(file: &File, meta: &Meta) -> io::Result<()> {
    let (owned, is_owned) = own(|| fchown(file, Some(meta.uid), Some(meta.gid)));
    // A program that becomes its owner's does not become somebody else's.
    let kept = if is_owned { 0o7777 } else { 0o777 };
    let allowed = file.set_permissions(Permissions::from_mode(meta.mode & kept));
    let timed = futimens(file, &times(meta)).map_err(io::Error::from);
    owned.and(allowed).and(timed)
}

/// Gives a symbolic link what it had; it has no permissions.
pub(crate) fn set_link(path: &Path, meta: &Meta) -> io::Result<()> {
    let (owned, _) = own(|| lchown(path, Some(meta.uid), Some(meta.gid)));
    let timed = utimensat(CWD, path, &times(meta), AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from);
    owned.and(timed)
}

/// Only root gives files away: what others take out is theirs. Whether it went well, and whether it was done.
fn own(change: impl FnOnce() -> io::Result<()>) -> (io::Result<()>, bool) {
    if !rustix::process::geteuid().is_root() {
        return (Ok(()), false);
    }
    let changed = change();
    let is_owned = changed.is_ok();
    (changed, is_owned)
}

fn times(meta: &Meta) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: meta.modified, tv_nsec: 0 },
    }
}

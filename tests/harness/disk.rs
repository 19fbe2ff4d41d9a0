//! An export as a block device of this machine: nbdfuse gives it as a file, a loop device makes that a disk. No kernel
//! NBD client is needed. Detached in the right order when dropped, also when the appliance behind it is dead.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::command::{run, run_within};
use crate::wait::{check, wait_until};

const ATTACH_LIMIT: Duration = Duration::from_secs(10);
const DETACH_LIMIT: Duration = Duration::from_secs(20);

/// An attached disk.
#[derive(Debug)]
pub struct Disk {
    fuse: Child,
    directory: PathBuf,
    device: String,
}

impl Disk {
    /// Attaches the export of this URI; `directory` is for the file in between.
    ///
    /// # Panics
    /// When it cannot be attached.
    #[must_use]
    pub fn attach(uri: &str, directory: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("make the directory");
        let file = directory.join("disk");
        let fuse = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "nbdfuse"])
            .arg(&file)
            .arg(uri)
            .stdin(Stdio::null())
            .spawn()
            .expect("start nbdfuse");
        let mut disk = Self { fuse, directory: directory.into(), device: String::new() };
        wait_until("nbdfuse to serve the export", ATTACH_LIMIT, || check(file.exists(), || "no file yet".into()));
        let file = file.display().to_string();
        disk.device = run("losetup", &["--find", "--show", &file]).done().trim().to_owned();
        disk
    }

    /// The device's path.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Makes an ext4 on it.
    pub fn make_ext4(&self) {
        run("mkfs.ext4", &["-q", "-F", &self.device]).done();
    }

    /// Makes an XFS on it.
    pub fn make_xfs(&self) {
        run("mkfs.xfs", &["-q", "-f", &self.device]).done();
    }

    /// Checks the unmounted ext4 on it, which must be clean once its journal is replayed.
    pub fn check_ext4(&self) {
        // The journal is replayed by the first run, which says so with exit code 1 when it repaired nothing else.
        let replay = run("e2fsck", &["-fp", &self.device]);
        assert!(matches!(replay.code, 0 | 1), "{replay:?}");
        run("e2fsck", &["-fn", &self.device]).done();
    }

    /// Mounts the file system on it.
    #[must_use]
    pub fn mount(self, path: &Path) -> Mounted {
        self.mount_with(path, "rw")
    }

    /// Mounts it with options.
    #[must_use]
    pub fn mount_with(self, path: &Path, options: &str) -> Mounted {
        std::fs::create_dir_all(path).expect("make the mount point");
        run("mount", &["-o", options, &self.device, &path.display().to_string()]).done();
        Mounted { path: path.into(), disk: Some(self) }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.device.is_empty() {
            let _ = run_within(DETACH_LIMIT, "losetup", &["--detach", &self.device]);
        }
        let directory = self.directory.display().to_string();
        if run_within(DETACH_LIMIT, "fusermount3", &["-u", &directory]).code != 0 {
            let _ = run_within(DETACH_LIMIT, "fusermount3", &["-uz", &directory]);
            let _ = self.fuse.kill();
        }
        let _ = self.fuse.wait();
    }
}

/// A mounted file system.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    disk: Option<Disk>,
}

impl Mounted {
    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes everything written to it durable.
    pub fn sync(&self) {
        run("sync", &["--file-system", &self.path.display().to_string()]).done();
    }

    /// Keeps it from being written, everything that was being at its place, for as long as the answer lives.
    #[must_use]
    pub fn freeze(&self) -> Frozen<'_> {
        run("fsfreeze", &["--freeze", &self.path.display().to_string()]).done();
        Frozen(self)
    }

    /// From now on it is only read.
    pub fn make_read_only(&self) {
        run("mount", &["-o", "remount,ro", &self.path.display().to_string()]).done();
    }

    /// Unmounts it and gives the disk back.
    ///
    /// # Panics
    /// When it is busy.
    #[must_use]
    pub fn unmount(mut self) -> Disk {
        run("umount", &[&self.path.display().to_string()]).done();
        self.disk.take().expect("mounted once")
    }
}

/// A mounted file system that nobody can write.
#[derive(Debug)]
pub struct Frozen<'a>(&'a Mounted);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = run_within(DETACH_LIMIT, "fsfreeze", &["--unfreeze", &self.0.path.display().to_string()]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.disk.is_some() {
            let path = self.path.display().to_string();
            if run_within(DETACH_LIMIT, "umount", &[&path]).code != 0 {
                let _ = run_within(DETACH_LIMIT, "umount", &["--lazy", &path]);
            }
        }
    }
}

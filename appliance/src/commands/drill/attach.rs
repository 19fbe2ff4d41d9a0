//! An export as a file (nbdfuse), and what lies in it mounted (a loop device). Given back in the opposite order when dropped.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

/// How often it is asked whether nbdfuse serves.
const LOOK: Duration = Duration::from_millis(20);
/// So often at most.
const LOOKS: u32 = 500;

/// An export as a file.
pub(super) struct Attached {
    fuse: Child,
    folder: PathBuf,
    file: PathBuf,
}

/// A program, what it is for, and the package that has it.
pub(super) fn command(program: &str, package: &str) -> anyhow::Result<Command> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file());
    let path = found.with_context(|| format!("'{program}' is missing: install it with `apt-get install {package}`"))?;
    Ok(Command::new(path))
}

/// Runs a program to its end; what it says goes where ours goes.
pub(super) fn finish(mut command: Command, what: &str, good: &[i32]) -> anyhow::Result<i32> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("start {what}"))?;
    match status.code() {
        Some(code) if good.contains(&code) => Ok(code),
        Some(code) => bail!("{what} ended with exit code {code}"),
        None => bail!("{what} was ended by a signal"),
    }
}

impl Attached {
    /// Has the export of a URI served as a file in this folder.
    pub(super) fn new(uri: &str, folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let file = folder.join("disk");
        let mut nbdfuse = command("nbdfuse", "libnbd-bin fuse3")?;
        let fuse = nbdfuse.arg(&file).arg(uri).stdin(Stdio::null()).spawn().context("start nbdfuse")?;
        let mut attached = Self { fuse, folder: folder.to_owned(), file };
        for _ in 0..LOOKS {
            if attached.file.exists() {
                return Ok(attached);
            }
            if let Some(status) = attached.fuse.try_wait()? {
                bail!("nbdfuse ended with {status}: it needs /dev/fuse, and the right to mount");
            }
            std::thread::sleep(LOOK);
        }
        bail!("nbdfuse does not serve {uri}")
    }

    /// The file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Ok(mut unmount) = command("fusermount3", "fuse3") {
            let done = unmount.arg("-u").arg(&self.folder).stderr(Stdio::null()).status();
            if !done.is_ok_and(|status| status.success()) {
                let _ = Command::new("fusermount3").arg("-uz").arg(&self.folder).status();
                let _ = self.fuse.kill();
            }
        }
        let _ = self.fuse.wait();
    }
}

/// What is mounted was written by somebody whom nobody trusts here, and others may pass through the drill's folder: no program in it gives them the
/// rights of its owner, and no node in it is a device of this machine.
const MOUNT_OPTIONS: &str = "loop,nosuid,nodev";

/// Those of an XFS, which may be mounted here already, as the original or by another drill, and is refused then for its identity.
pub(super) fn xfs_options() -> String {
    format!("{MOUNT_OPTIONS},nouuid")
}

/// An ext4 may say that the machine is to panic at the first error, and this disk fails when the service is killed.
fn options(file: &Path) -> String {
    /// Where `s_magic` of an ext2, ext3 or ext4 ends.
    const EXT_MAGIC_END: usize = 1024 + 0x3A;
    let mut begin = [0; EXT_MAGIC_END];
    let read = std::fs::File::open(file).and_then(|mut file| file.read_exact(&mut begin));
    if read.is_ok() && begin.starts_with(b"XFSB") {
        xfs_options()
    } else if read.is_ok() && begin.ends_with(&[0x53, 0xEF]) {
        format!("{MOUNT_OPTIONS},errors=remount-ro")
    } else {
        MOUNT_OPTIONS.into()
    }
}

/// A file system in an attached export.
pub(super) struct Mounted {
    path: PathBuf,
    _disk: Attached,
}

impl Mounted {
    /// Mounts what is in an attached export.
    pub(super) fn new(disk: Attached, path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        let mut mount = command("mount", "mount")?;
        mount.arg("-o").arg(options(disk.file())).arg(disk.file()).arg(path);
        finish(mount, "mount", &[0])
            .context("mount its file system: that needs to be root, a loop device, and a file system that begins where the volume does")?;
        Ok(Self { path: path.to_owned(), _disk: disk })
    }

    /// Where.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever writes to a volume could leave there a program that makes anybody root who starts it while a drill has it mounted.
    #[test]
    fn programs_and_nodes_of_a_volume_give_nobody_rights_here() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        let mut ext4 = vec![0; 4096];
        ext4[1024 + 0x38..1024 + 0x3A].copy_from_slice(&[0x53, 0xEF]);
        let mut xfs = vec![0; 4096];
        xfs[..4].copy_from_slice(b"XFSB");
        for (content, own) in [(ext4, Some("errors=remount-ro")), (xfs, Some("nouuid")), (vec![0; 10], None)] {
            std::fs::write(&file, content).unwrap();
            let options = options(&file);
            let has = |wanted: &str| options.split(',').any(|option| option == wanted);
            assert!(["loop", "nosuid", "nodev"].into_iter().chain(own).all(has), "{options}");
        }
        assert!(xfs_options().starts_with(MOUNT_OPTIONS));
    }
}

//! A disk that can be full: a small tmpfs mounted for one test.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::command::{run, run_within};

/// A mounted tmpfs of a fixed size.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn mount(path: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(path).expect("make the mount point");
        let size = format!("size={bytes}");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &path.display().to_string()]).done();
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it another size.
    pub fn resize(&self, bytes: u64) {
        let size = format!("remount,size={bytes}");
        run("mount", &["-o", &size, &self.path.display().to_string()]).done();
    }

    /// Takes all space that is left, until the file returned is removed.
    ///
    /// # Panics
    /// When the disk fails in another way than by being full.
    #[must_use]
    pub fn fill(&self) -> PathBuf {
        let path = self.path.join("ballast");
        let mut file = File::create(&path).expect("make the ballast");
        for piece in [1 << 20, 4096] {
            while let Ok(()) = file.write_all(&vec![0xaa; piece]) {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = self.path.display().to_string();
        if run("umount", &[&path]).code != 0 {
            let _ = run_within(std::time::Duration::from_secs(10), "umount", &["--lazy", &path]);
        }
    }
}

//! Raw files: a folder per set, a sparse file per member, the manifest beside them. The folder gets its name when it is complete.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::file::sync_folder;
use super::part;
use crate::archive::{MANIFEST, MANIFEST_CHECK};
use crate::attributes;
use crate::form::Form;
use crate::plan::{Kind, Member};
use crate::source::inside;

/// See the module.
#[derive(Debug)]
pub struct RawFiles {
    folder: PathBuf,
    interim: PathBuf,
    current: Option<File>,
}

impl RawFiles {
    /// Begins it. What lies under its interim name is an earlier try, and goes.
    ///
    /// # Errors
    /// As the system says.
    pub fn create(folder: &Path, whose: &str) -> io::Result<Self> {
        let interim = part(folder, whose);
        match fs::remove_dir_all(&interim) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Files in it may be open to all, as they were where they come from, behind doors that are not here.
        DirBuilder::new().mode(0o750).create(&interim)?;
        Ok(Self { folder: folder.to_owned(), interim, current: None })
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        let inside = inside(name).ok_or_else(|| io::Error::other(format!("'{name}' leads out of the folder")))?;
        Ok(self.interim.join(inside))
    }

    fn whole(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = File::create(self.path(name)?)?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()
    }
}

impl Form for RawFiles {
    fn begin(&mut self, member: &Member) -> io::Result<()> {
        let path = self.path(&member.name)?;
        if let Some(above) = path.parent() {
            fs::create_dir_all(above)?;
        }
        let mode = match &member.kind {
            // Open to nobody more than it was, and to us. Setuid and its like, owner and time are in the manifest.
            Kind::Folder(meta) => {
                fs::create_dir_all(&path)?;
                return fs::set_permissions(&path, fs::Permissions::from_mode((meta.mode & 0o777) | 0o700));
            }
            Kind::Link(_, to) => return symlink(OsStr::from_bytes(to), &path),
            Kind::File(meta) => meta.mode & 0o777,
            Kind::Range { .. } => 0o600,
        };
        let file = attributes::create(&path)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.set_len(member.content.size)?;
        self.current = Some(file);
        Ok(())
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.current.as_ref().map_or(Ok(()), |file| file.write_all_at(bytes, at))
    }

    fn end(&mut self) -> io::Result<()> {
        self.current.take().map_or(Ok(()), |file| file.sync_all())
    }

    fn finish(&mut self, manifest: &str) -> io::Result<()> {
        self.whole(MANIFEST, manifest.as_bytes())?;
        let check = format!("{}  {MANIFEST}\n", blake3::hash(manifest.as_bytes()).to_hex());
        self.whole(MANIFEST_CHECK, check.as_bytes())?;
        sync_tree(&self.interim)?;
        fs::rename(&self.interim, &self.folder)?;
        // What is not known to be durable does not keep the name.
        sync_folder(&self.folder).inspect_err(|_| drop(fs::rename(&self.folder, &self.interim)))
    }
}

/// Makes the names in a folder and in those below it durable.
fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_do_not_look_into_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("b");
        let mut raw = RawFiles::create(&path, "us").unwrap();
        let others = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o007;
        assert_eq!(others(&part(&path, "us")), 0);
        raw.finish("{}").unwrap();
        assert_eq!(others(&path), 0);
    }
}

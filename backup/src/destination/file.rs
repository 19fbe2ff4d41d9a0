//! A file: written beside its name, synced, and then named as well.
//!
//! Its interim name stays until it is recorded that the backup is done ([`super::settle`]): for as long as that is not, two names of one
//! file say that it is complete, and nobody else's file is ever taken for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tidemark_common::storage::aligned::{AlignedBuffer, BLOCK_BYTES};
use tidemark_common::storage::disk::SystemDisk;
use tidemark_common::storage::{Disk, DiskFile, Open};

use super::part;

/// Bytes written at once, past the page cache: filling that with what nobody reads, and emptying it in bursts, is felt by hosts.
const PIECE_BYTES: usize = 1 << 20;
/// Where a file takes nothing past the page cache: bytes written before the kernel is asked to begin writing them out, so that a sync
/// at the end finds little left to do.
const FLUSH_BYTES: u64 = 64 << 20;

/// It holds what volumes do, which is nobody's business but its owner's and his group's.
const MODE: u32 = 0o640;

/// A file that gets its name when it is complete.
pub struct NamedLater {
    file: Option<Arc<dyn DiskFile>>,
    path: PathBuf,
    interim: PathBuf,
    /// What is not written yet.
    waiting: AlignedBuffer,
    /// Where that goes.
    at: u64,
    unsynced: u64,
}

impl NamedLater {
    /// Begins it. What lies under its interim name is an earlier try, and goes.
    ///
    /// # Errors
    /// As the system says, with the path.
    pub fn create(path: &Path, whose: &str) -> io::Result<Self> {
        let interim = part(path, whose);
        let file = match std::fs::remove_file(&interim) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => OpenOptions::new().write(true).create_new(true).mode(MODE).open(&interim),
        };
        let file = file.and_then(|_| SystemDisk.open(&interim, Open::Existing));
        let file =
            file.map_err(|error| io::Error::new(error.kind(), format!("create {}: {error}", interim.display())))?;
        let path = path.to_owned();
        Ok(Self { file: Some(file), path, interim, waiting: AlignedBuffer::default(), at: 0, unsynced: 0 })
    }

    fn file(&self) -> io::Result<&Arc<dyn DiskFile>> {
        self.file.as_ref().ok_or_else(|| io::Error::other("the file is complete"))
    }

    fn write_out(&mut self, length: usize) -> io::Result<()> {
        let file = Arc::clone(self.file()?);
        let piece = self.waiting.as_slice().get(..length).unwrap_or_default();
        if !file.write_direct_at(piece, self.at)? {
            file.write_all_at(piece, self.at)?;
            self.unsynced += length as u64;
        }
        if self.unsynced >= FLUSH_BYTES {
            file.sync()?;
            self.unsynced = 0;
        }
        self.at += length as u64;
        self.waiting.drop_front(length);
        Ok(())
    }

    fn named(&self) -> io::Result<()> {
        let kept = give_name(&self.interim, &self.path, || std::fs::hard_link(&self.interim, &self.path))?;
        // What is not known to be durable does not keep the name; with two of them, whoever removes it knows it by the other.
        sync_folder(&self.path).inspect_err(|_| {
            if !kept {
                let _ = std::fs::rename(&self.path, &self.interim);
            }
        })
    }
}

/// Gives a complete file its name; whether it has kept the other. Whoever made a file of that name meanwhile keeps it. Where files have one name (FAT, some network
/// file systems), it changes: a kill before that is recorded leaves a file of which only its content says that it is complete.
fn give_name(interim: &Path, path: &Path, link: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
    let linked = link();
    let has_no_links = |error: &io::Error| {
        let errno = Errno::from_io_error(error);
        matches!(errno, Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK))
    };
    if !linked.as_ref().is_err_and(has_no_links) {
        return linked.map(|()| true);
    }
    match renameat_with(CWD, interim, CWD, path, RenameFlags::NOREPLACE) {
        // It cannot be told to leave alone what is there.
        Err(Errno::INVAL | Errno::NOSYS) if !path.exists() => std::fs::rename(interim, path)?,
        renamed => renamed?,
    }
    Ok(false)
}

/// Makes the name of a path durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

impl Write for NamedLater {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file()?;
        self.waiting.reserve(PIECE_BYTES);
        let taken = bytes.get(..bytes.len().min(PIECE_BYTES - self.waiting.len())).unwrap_or_default();
        self.waiting.extend_from_slice(taken);
        if self.waiting.len() == PIECE_BYTES {
            self.write_out(PIECE_BYTES)?;
        }
        Ok(taken.len())
    }

    /// The archive is complete.
    fn flush(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        self.write_out(self.waiting.len() - self.waiting.len() % BLOCK_BYTES)?;
        self.write_out(self.waiting.len())?;
        if let Some(file) = self.file.take() {
            file.sync()?;
            return self.named();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn where_files_have_one_name_it_changes_and_a_strangers_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (interim, path) = (folder.path().join("b.tar.us.part"), folder.path().join("b.tar"));
        let give = |errno: Errno| {
            std::fs::write(&interim, "an archive").unwrap();
            give_name(&interim, &path, || Err(errno.into()))
        };
        for errno in [Errno::PERM, Errno::OPNOTSUPP] {
            assert!(!give(errno).unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), b"an archive");
            assert!(!interim.exists());
            std::fs::remove_file(&path).unwrap();
        }
        std::fs::write(&path, "a stranger's").unwrap();
        assert_eq!(give(Errno::PERM).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"a stranger's");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(give(Errno::NOSPC).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(interim.exists() && !path.exists(), "another error is one");
    }

    #[test]
    fn strangers_do_not_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.tar");
        let mut file = NamedLater::create(&path, "us").unwrap();
        let others = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o007;
        assert_eq!(others(&part(&path, "us")), 0);
        file.flush().unwrap();
        assert_eq!(others(&path), 0);
    }

    #[test]
    fn it_holds_what_was_written_whatever_the_pieces_were() {
        let folder = tempfile::tempdir().unwrap();
        for (number, length) in
            [0, 1, 4096, 4097, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 12_345].iter().enumerate()
        {
            let path = folder.path().join(number.to_string());
            let content: Vec<u8> = (0..*length).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
            std::fs::write(part(&path, "us"), "an earlier try, longer than some of these").unwrap();
            let mut file = NamedLater::create(&path, "us").unwrap();
            let mut pieces = [1, 511, 512, 4096, 100_000, 1_500_000].iter().cycle();
            let mut rest = content.as_slice();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
                file.write_all(piece).unwrap();
                rest = after;
            }
            assert!(!path.exists());
            file.flush().unwrap();
            assert!(std::fs::read(&path).unwrap() == content, "{length} bytes");
            let kind = super::super::TargetKind::File(path);
            super::super::settle(&kind, "us").unwrap();
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), number + 1);
        }
    }
}

//! The volumes of one group as files: what the updater writes and what reads fall through to.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::ids::VolumeIndex;
use crate::storage::DiskFile;
use crate::wire::message::VolumeSpec;

/// One volume's file.
pub struct VolumeFile {
    /// Its index in the group's journal.
    pub index: VolumeIndex,
    /// Its name.
    pub name: String,
    /// The file or device.
    pub file: Arc<dyn DiskFile>,
    /// What is discarded or zeroed need not be written.
    pub gives_back: bool,
    size: AtomicU64,
    announced: AtomicU64,
    dirty: AtomicBool,
    syncing: Mutex<()>,
    failed: AtomicBool,
}

impl std::fmt::Debug for VolumeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeFile").field("name", &self.name).field("size", &self.size()).finish_non_exhaustive()
    }
}

impl VolumeFile {
    /// A volume over an open file of at least this size.
    #[must_use]
    pub fn new(index: VolumeIndex, name: String, file: Arc<dyn DiskFile>, size: u64) -> Self {
        Self {
            index,
            name,
            gives_back: file.gives_back(),
            file,
            size: size.into(),
            announced: size.into(),
            // Whoever wrote it before may have been killed with writes that were never synced.
            dirty: true.into(),
            syncing: Mutex::new(()),
            failed: false.into(),
        }
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Others are about to be told of a size it is to have.
    pub fn announce(&self, size: u64) {
        self.announced.fetch_max(size, Ordering::AcqRel);
    }

    /// They are not told after all.
    pub fn take_back_announced(&self) {
        self.announced.store(self.size(), Ordering::Release);
    }

    /// What is behind a size is no part of it any more; the file keeps it.
    pub fn shrink(&self, size: u64) {
        self.size.fetch_min(size, Ordering::AcqRel);
    }

    /// Makes room in the file for a larger volume, durably: before that is recorded, because a file that is shorter than its volume is not opened
    /// after a loss of power. The volume keeps its size until [`Self::grow`].
    ///
    /// # Errors
    /// As the system says; the room may be there, or not.
    pub fn make_room(&self, size: u64) -> io::Result<()> {
        self.change(|volume| volume.file.grow(size))?;
        self.sync()
    }

    /// Grows the file, then the volume.
    ///
    /// # Errors
    /// As the system says; the volume keeps its size.
    pub fn grow(&self, size: u64) -> io::Result<()> {
        if size > self.size() {
            self.file.grow(size)?;
            self.size.store(size, Ordering::Release);
        }
        Ok(())
    }

    /// Writes to its file, and remembers that it must be synced. Only behind the write: whoever syncs meanwhile may not have it, and would
    /// leave nothing to be synced to the one who asks for it.
    ///
    /// # Errors
    /// As the write says; part of it may be written.
    pub fn change<T>(&self, write: impl FnOnce(&Self) -> io::Result<T>) -> io::Result<T> {
        let written = write(self);
        self.dirty.store(true, Ordering::Release);
        written
    }

    /// Syncs what was written since the last time.
    ///
    /// # Errors
    /// As the system says. A failed sync is never retried: only what is written again counts.
    pub fn sync(&self) -> io::Result<()> {
        // Whoever comes while another syncs waits for that: what it wrote may be what is being synced.
        let _alone = self.syncing.lock();
        if self.failed.load(Ordering::Acquire) {
            let what = "an earlier sync failed, and the kernel may have dropped what it could not write: restart the service, \
                        which writes it again";
            return Err(io::Error::other(what));
        }
        if self.dirty.swap(false, Ordering::AcqRel) {
            let result = self.file.sync();
            self.failed.store(result.is_err(), Ordering::Release);
            return result;
        }
        Ok(())
    }
}

/// The volumes of a group; the set changes while it runs.
#[derive(Debug, Default)]
pub struct Volumes {
    files: RwLock<BTreeMap<VolumeIndex, Arc<VolumeFile>>>,
    /// Of a copy: held by whoever takes volumes in or lets them go, from the first look to the last change. One that comes again while it is let
    /// go would be taken in and set free.
    pub changing: Mutex<()>,
}

impl Volumes {
    /// Adds one, in place of one with the same index.
    pub fn insert(&self, volume: VolumeFile) -> Arc<VolumeFile> {
        let volume = Arc::new(volume);
        self.files.write().insert(volume.index, Arc::clone(&volume));
        volume
    }

    /// Takes one away.
    pub fn remove(&self, index: VolumeIndex) -> Option<Arc<VolumeFile>> {
        self.files.write().remove(&index)
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, index: VolumeIndex) -> Option<Arc<VolumeFile>> {
        self.files.read().get(&index).cloned()
    }

    /// One of them, by name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Arc<VolumeFile>> {
        self.files.read().values().find(|volume| volume.name == name).cloned()
    }

    /// All of them, by index.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<VolumeFile>> {
        self.files.read().values().cloned().collect()
    }

    /// What a peer is told of them.
    #[must_use]
    pub fn specs(&self) -> Vec<VolumeSpec> {
        let spec = |volume: &Arc<VolumeFile>| VolumeSpec {
            index: volume.index.0,
            name: volume.name.clone(),
            size: volume.size(),
        };
        self.files.read().values().map(spec).collect()
    }

    /// The same with the sizes that somebody may have been told of already.
    #[must_use]
    pub fn announced_specs(&self) -> Vec<VolumeSpec> {
        let spec = |volume: &Arc<VolumeFile>| VolumeSpec {
            index: volume.index.0,
            name: volume.name.clone(),
            size: volume.size().max(volume.announced.load(Ordering::Acquire)),
        };
        self.files.read().values().map(spec).collect()
    }

    /// Whether one of them may read otherwise than it was written, because a sync failed: what is written again since the last that did not is all
    /// that counts.
    #[must_use]
    pub fn are_in_doubt(&self) -> bool {
        self.files.read().values().any(|volume| volume.failed.load(Ordering::Acquire))
    }

    /// Syncs all that were written.
    ///
    /// # Errors
    /// The first failure, with the volume's name.
    pub fn sync(&self) -> Result<(), (String, io::Error)> {
        self.all().iter().try_for_each(|volume| volume.sync().map_err(|error| (volume.name.clone(), error)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::storage::memory::MemoryDisk;
    use crate::storage::{Disk, Open};

    fn volume(disk: &MemoryDisk) -> VolumeFile {
        disk.create_folder(Path::new("/volumes")).unwrap();
        let file = disk.open(Path::new("/volumes/data"), Open::ExistingOrNew).unwrap();
        file.grow(8192).unwrap();
        VolumeFile::new(VolumeIndex(1), "data".into(), file, 8192)
    }

    #[test]
    fn the_first_sync_after_a_restart_covers_what_was_written_before_it() {
        let disk = MemoryDisk::new();
        let killed = volume(&disk);
        disk.sync_folder(Path::new("/volumes")).unwrap();
        killed.sync().unwrap();
        killed.change(|killed| killed.file.write_all_at(&[7; 4096], 0)).unwrap();
        drop(killed);
        volume(&disk).sync().unwrap();
        for seed in 0..20 {
            let bytes = disk.fork().crash(seed).bytes_of(Path::new("/volumes/data")).unwrap();
            assert_eq!(bytes[..4096], [7; 4096], "seed {seed}: the sync was answered");
        }
    }

    #[test]
    fn a_file_is_as_large_as_its_volume_is_recorded_after_a_loss_of_power() {
        let disk = MemoryDisk::new();
        let volume = volume(&disk);
        disk.sync_folder(Path::new("/volumes")).unwrap();
        volume.sync().unwrap();
        volume.make_room(65_536).unwrap();
        assert_eq!(volume.size(), 8192);
        for seed in 0..20 {
            let bytes = disk.fork().crash(seed).bytes_of(Path::new("/volumes/data")).unwrap();
            assert_eq!(bytes.len(), 65_536, "seed {seed}");
        }
    }

    /// Requests of one host, or a copier and a host, on a target: the first sync may be over before the write has begun.
    #[test]
    fn what_was_written_while_somebody_synced_is_synced_by_the_next() {
        let disk = MemoryDisk::new();
        let volume = volume(&disk);
        disk.sync_folder(Path::new("/volumes")).unwrap();
        let write = |volume: &VolumeFile| {
            volume.sync().unwrap();
            volume.file.write_all_at(&[7; 4096], 0)
        };
        volume.change(write).unwrap();
        volume.sync().unwrap();
        for seed in 0..20 {
            let bytes = disk.fork().crash(seed).bytes_of(Path::new("/volumes/data")).unwrap();
            assert_eq!(bytes[..4096], [7; 4096], "seed {seed}: the sync was answered");
        }
    }
}

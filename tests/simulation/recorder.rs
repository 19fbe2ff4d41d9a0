//! What a real run did to the disks of its machines: files of this machine, each change of them written down in its order, over all
//! machines together. Any beginning of that list can be played to disks in memory.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use tidemark_common::storage::disk::SystemDisk;
use tidemark_common::storage::memory::MemoryDisk;
use tidemark_common::storage::{Disk, DiskFile, Open};
use tidemark_common::wire::message::Position;
use tidemark_tests::history::{History, Tick};

/// A file, whatever its name.
type FileId = u64;

/// One change of a disk.
#[derive(Debug, Clone)]
enum Change {
    Made(PathBuf, FileId),
    Folder(PathBuf),
    FolderSynced(PathBuf),
    Moved(PathBuf, PathBuf),
    Removed(PathBuf),
    Written(FileId, Vec<u8>, u64),
    Synced(FileId),
    Grown(FileId, u64),
    Zeroed(FileId, u64, u64, bool),
}

/// The files made so far.
type Files = HashMap<FileId, Arc<dyn DiskFile>>;

impl Change {
    fn play(&self, disk: &MemoryDisk, files: &mut Files) -> io::Result<()> {
        match self {
            Self::Made(path, id) => {
                files.insert(*id, disk.open(path, Open::New)?);
                Ok(())
            }
            Self::Folder(path) => disk.create_folder(path),
            Self::FolderSynced(path) => disk.sync_folder(path),
            Self::Moved(from, to) => disk.rename(from, to),
            Self::Removed(path) => disk.remove(path),
            Self::Written(id, data, offset) => files[id].write_all_at(data, *offset),
            Self::Synced(id) => files[id].sync(),
            Self::Grown(id, size) => files[id].grow(*size),
            Self::Zeroed(id, offset, length, hole) => files[id].zero(*offset, *length, *hole),
        }
    }
}

/// A change, in its place among all.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// A moment before it.
    pub(crate) moment: Tick,
    /// Which of the machines.
    machine: usize,
    change: Change,
    /// What the copy said of itself before it.
    pub(crate) told: Position,
}

/// Asks the copy how far it says it is.
type Tells = Box<dyn Fn() -> Position + Send + Sync>;

/// The list of a run.
#[derive(Default)]
pub(crate) struct Recording {
    history: Arc<History>,
    entries: Mutex<Vec<Entry>>,
    tells: OnceLock<Tells>,
}

impl Recording {
    pub(crate) fn of(history: &Arc<History>) -> Arc<Self> {
        Arc::new(Self { history: Arc::clone(history), ..Self::default() })
    }

    /// Whom to ask before each change from here on.
    pub(crate) fn ask(&self, tells: Tells) {
        assert!(self.tells.set(tells).is_ok(), "one copy");
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.lock().unwrap().len()
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().clone()
    }
}

/// Disks in memory that follow a list.
#[derive(Default)]
pub(crate) struct Player {
    disks: Vec<(MemoryDisk, Files)>,
}

impl Player {
    /// For so many machines.
    pub(crate) fn new(machines: usize) -> Self {
        Self { disks: (0..machines).map(|_| (MemoryDisk::new(), Files::new())).collect() }
    }

    pub(crate) fn play(&mut self, entry: &Entry) {
        let Entry { machine, change, .. } = entry;
        let (disk, files) = &mut self.disks[*machine];
        change.play(disk, files).unwrap_or_else(|error| panic!("play {change:?}: {error}"));
    }

    pub(crate) fn disk(&self, machine: usize) -> &MemoryDisk {
        &self.disks[machine].0
    }
}

/// The disk of one machine: files of this one below a folder. What is done to them is written down.
#[derive(Clone)]
pub(crate) struct Recorder {
    below: PathBuf,
    machine: usize,
    recording: Arc<Recording>,
}

impl Recorder {
    pub(crate) fn new(below: &Path, machine: usize, recording: &Arc<Recording>) -> Self {
        Self { below: below.to_owned(), machine, recording: Arc::clone(recording) }
    }

    fn real(&self, path: &Path) -> PathBuf {
        self.below.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// An effect that may turn out to be none. One at a time, so that the list has the order of the effects.
    fn record_if<T>(
        &self,
        effect: impl FnOnce() -> io::Result<T>,
        change: impl FnOnce(&T) -> Option<Change>,
    ) -> io::Result<T> {
        let Recording { history, entries, tells } = &*self.recording;
        let mut entries = entries.lock().unwrap();
        let (moment, told) = (history.tick(), tells.get().map_or_else(Position::default, |tells| tells()));
        let done = effect()?;
        let change = change(&done);
        entries.extend(change.map(|change| Entry { moment, machine: self.machine, change, told }));
        Ok(done)
    }

    fn record<T>(&self, change: Change, effect: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.record_if(effect, |_| Some(change))
    }
}

impl Disk for Recorder {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let real = self.real(path);
        let open = || {
            let made = !real.exists();
            let file = SystemDisk.open(&real, how)?;
            Ok((file, std::fs::metadata(&real)?.ino(), made))
        };
        let (file, id, _) = self.record_if(open, |(_, id, made)| made.then(|| Change::Made(path.to_owned(), *id)))?;
        Ok(Arc::new(RecordedFile { file, id, recorder: self.clone() }))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        SystemDisk.list(&self.real(folder))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let change = Change::Moved(from.to_owned(), to.to_owned());
        self.record(change, || SystemDisk.rename(&self.real(from), &self.real(to)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.record(Change::Removed(path.to_owned()), || SystemDisk.remove(&self.real(path)))
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.record(Change::Folder(folder.to_owned()), || SystemDisk.create_folder(&self.real(folder)))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.record(Change::FolderSynced(folder.to_owned()), || SystemDisk.sync_folder(&self.real(folder)))
    }
}

struct RecordedFile {
    file: Arc<dyn DiskFile>,
    id: FileId,
    recorder: Recorder,
}

impl DiskFile for RecordedFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.file.read_cached_at(buffer, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let bytes = data.to_vec();
        self.recorder.record(Change::Written(self.id, bytes, offset), || self.file.write_all_at(data, offset))
    }

    fn write_direct_at(&self, data: &[u8], offset: u64) -> io::Result<bool> {
        // Played as any other write: on the disk in memory a loss of power does the same to both.
        let bytes = data.to_vec();
        let written = |done: &bool| done.then(|| Change::Written(self.id, bytes, offset));
        self.recorder.record_if(|| self.file.write_direct_at(data, offset), written)
    }

    fn sync(&self) -> io::Result<()> {
        self.recorder.record(Change::Synced(self.id), || self.file.sync())
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        self.recorder.record(Change::Grown(self.id, size), || self.file.grow(size))
    }

    fn zero(&self, offset: u64, length: u64, hole: bool) -> io::Result<()> {
        let change = Change::Zeroed(self.id, offset, length, hole);
        self.recorder.record(change, || self.file.zero(offset, length, hole))
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        self.file.next_data(offset)
    }
}

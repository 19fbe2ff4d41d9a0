//! Power loss, with what a real run did to a real disk: a primary with its threads works on files of this machine, every change
//! is written down in its order, and each of many beginnings of that list is played to the disk in memory, which then
//! loses power. What is found there must hold what was flushed by then.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tidemark_common::storage::disk::SystemDisk;
use tidemark_common::storage::memory::MemoryDisk;
use tidemark_common::storage::{Disk, DiskFile, Open};
use tidemark_tests::history::{History, Tick};

use crate::fate::Points;
use crate::hosts::Hosts;
use crate::profile::Profile;
use crate::site::{Ground, NEAR, Site};

const WRITES: usize = 300;
/// Beginnings of the list that are tried, each with several losses of power.
const BEGINNINGS: usize = 60;

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

/// Files of this machine below a folder, and what was done to them: each change with the moment before it.
#[derive(Clone)]
struct Recorder {
    below: PathBuf,
    history: Arc<History>,
    changes: Arc<Mutex<Vec<(Tick, Change)>>>,
}

impl Recorder {
    fn real(&self, path: &Path) -> PathBuf {
        self.below.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// An effect that may turn out to be none.
    fn record_if(&self, change: Change, effect: impl FnOnce() -> io::Result<bool>) -> io::Result<bool> {
        let mut changes = self.changes.lock().unwrap();
        let moment = self.history.tick();
        let done = effect()?;
        if done {
            changes.push((moment, change));
        }
        Ok(done)
    }

    /// One at a time, so that the list has the order of the effects.
    fn record<T>(&self, change: Change, effect: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut changes = self.changes.lock().unwrap();
        let moment = self.history.tick();
        let done = effect()?;
        changes.push((moment, change));
        Ok(done)
    }
}

impl Disk for Recorder {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let real = self.real(path);
        let mut changes = self.changes.lock().unwrap();
        let made = !real.exists();
        let moment = self.history.tick();
        let file = SystemDisk.open(&real, how)?;
        let id = std::fs::metadata(&real)?.ino();
        if made {
            changes.push((moment, Change::Made(path.to_owned(), id)));
        }
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
        self.recorder.record_if(Change::Written(self.id, bytes, offset), || self.file.write_direct_at(data, offset))
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

/// A run with threads on files of this machine: the list, how much of it is only the begin, and what the hosts know.
fn recorded_run(site: &Site, now_ns: &AtomicU64) -> (Vec<(Tick, Change)>, usize, Hosts) {
    let folder = tempfile::tempdir().unwrap();
    let mut hosts = Hosts::new(3, site.settings.volumes, site.settings.blocks);
    let history = Arc::clone(&hosts.history);
    let recorder = Recorder { below: folder.path().to_owned(), history, changes: Arc::default() };
    site.set_up(&recorder);
    let primary = site.start_primary(Arc::new(recorder.clone()));
    let random = &mut StdRng::seed_from_u64(7);
    hosts.prefill(&primary, std::thread::yield_now);
    hosts.flush(&primary, std::thread::yield_now);
    let filled = recorder.changes.lock().unwrap().len();
    let wanted = hosts.history.acked_count() + WRITES;
    while hosts.history.acked_count() < wanted {
        assert!(!hosts.all_stopped(), "no host meets an error: {:?}", primary.problem());
        for host in 0..hosts.count() {
            hosts.step(host, site, &primary, random);
        }
        now_ns.fetch_add(20_000, Ordering::SeqCst);
        std::thread::yield_now();
    }
    primary.stop();
    let changes = recorder.changes.lock().unwrap().clone();
    (changes, filled, hosts)
}

#[test]
fn a_loss_of_power_anywhere_in_a_real_run_leaves_what_was_flushed() {
    let ground = Ground {
        settings: Profile::short().settings,
        points: Points::deadly(&[]),
        memory: Arc::new(tempfile::Builder::new().prefix("tm").tempdir_in("/dev/shm").unwrap()),
        runtime: Arc::new(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()),
        now_ns: Arc::new(AtomicU64::new(1)),
    };
    let mut site = Site::new(NEAR, &ground);
    let (changes, begin, hosts) = recorded_run(&site, &ground.now_ns);
    // The run may have ended with writes in the buffer (its journal was full): they are lost with the memory.
    site.lost_memory();
    assert!(changes.len() > begin + BEGINNINGS, "{} changes", changes.len());
    let step = (changes.len() - begin).div_ceil(BEGINNINGS);
    site.disk = MemoryDisk::new();
    let mut files = Files::new();
    for (number, (_, change)) in changes.iter().enumerate() {
        change.play(&site.disk, &mut files).unwrap_or_else(|error| panic!("play {change:?}: {error}"));
        if number < begin || !(number - begin).is_multiple_of(step) {
            continue;
        }
        let moment = changes.get(number + 1).map_or(Tick::MAX, |(moment, _)| *moment);
        for seed in 0..4 {
            let what = format!("power lost (seed {seed}) after {} of {} changes", number + 1, changes.len());
            let mut twin = site.twin(Some(seed));
            let (primary, _) = twin.open_primary().unwrap_or_else(|reason| panic!("{what}: {reason}"));
            hosts.judge_power_loss(&what, &twin.read_all(&primary), moment);
        }
    }
}

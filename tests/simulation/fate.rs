//! How a process dies in the middle of what it does: the disk it works on counts what changes it, and at a chosen step the
//! process unwinds, before that step took effect or right after. Whoever made it work catches that.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tidemark_common::storage::aligned::is_whole_blocks;
use tidemark_common::storage::memory::MemoryDisk;
use tidemark_common::storage::{Disk, DiskFile, Open};

use crate::device::{Device, FileId, Writing};

/// What a dead process unwinds with.
struct Died;

/// Disk-changing steps of a whole run, counted over both sites, and at which of them whoever does it dies.
#[derive(Debug, Default)]
pub(crate) struct Points {
    steps: AtomicU64,
    /// Twice the step's number, one more to die after it.
    deaths: Vec<u64>,
    /// They count from here on.
    armed: AtomicBool,
    /// How many deaths came to pass.
    met: AtomicU64,
}

impl Points {
    pub(crate) fn deadly(deaths: &[u64]) -> Arc<Self> {
        Arc::new(Self { deaths: deaths.to_vec(), ..Self::default() })
    }

    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Twice the number of the next step.
    fn next(&self) -> Option<u64> {
        self.armed.load(Ordering::SeqCst).then(|| 2 * self.steps.fetch_add(1, Ordering::SeqCst))
    }

    fn is_deadly(&self, point: Option<u64>) -> bool {
        let deadly = point.is_some_and(|point| self.deaths.contains(&point));
        self.met.fetch_add(u64::from(deadly), Ordering::SeqCst);
        deadly
    }

    /// That somebody died, where somebody was to: else nothing was tried.
    pub(crate) fn assert_met(&self) {
        let met = self.met.load(Ordering::SeqCst);
        assert!(met > 0 || self.deaths.is_empty(), "nobody died at {:?} of {}", self.deaths, self.steps());
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }
}

/// The fate of one process.
#[derive(Debug, Clone)]
pub(crate) struct Fate {
    points: Arc<Points>,
    /// Of its own steps, how many are left; `u64::MAX`: all it wants.
    left: Arc<AtomicU64>,
    dead: Arc<AtomicBool>,
}

impl Fate {
    pub(crate) fn new(points: &Arc<Points>) -> Self {
        Self { points: Arc::clone(points), left: Arc::new(u64::MAX.into()), dead: Arc::default() }
    }

    /// It dies after so many more steps.
    pub(crate) fn doom(&self, steps: u64) {
        self.left.store(steps, Ordering::SeqCst);
    }

    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead.load(Ordering::SeqCst) { Err(io::Error::other("the process is dead")) } else { Ok(()) }
    }

    fn act<T>(&self, effect: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.alive()?;
        let point = self.points.next();
        let left = self.left.load(Ordering::SeqCst);
        if self.points.is_deadly(point) || left == 0 {
            self.die();
        }
        if left != u64::MAX {
            self.left.store(left - 1, Ordering::SeqCst);
        }
        let done = effect();
        if self.points.is_deadly(point.map(|point| point + 1)) {
            self.die();
        }
        done
    }

    fn die(&self) -> ! {
        self.kill();
        resume_unwind(Box::new(Died))
    }
}

/// Runs a step of a process. `None`: it died in it.
pub(crate) fn survives<T>(step: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(done) => Some(done),
        Err(payload) if payload.is::<Died>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// The disk as one process sees it.
#[derive(Debug, Clone)]
pub(crate) struct MortalDisk {
    disk: MemoryDisk,
    device: Arc<Device>,
    fate: Fate,
}

impl MortalDisk {
    pub(crate) fn new(disk: &MemoryDisk, device: &Arc<Device>, fate: &Fate) -> Self {
        Self { disk: disk.clone(), device: Arc::clone(device), fate: fate.clone() }
    }
}

impl Disk for MortalDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        self.fate.alive()?;
        let file = match self.disk.open(path, Open::Existing) {
            Ok(file) if how != Open::New => file,
            _ => self.fate.act(|| self.disk.open(path, how))?,
        };
        let (id, device, fate) = (self.device.file(path), Arc::clone(&self.device), self.fate.clone());
        Ok(Arc::new(MortalFile { file, id, device, fate }))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.fate.alive()?;
        self.disk.list(folder)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.device.syncs();
        self.fate.act(|| self.disk.rename(from, to).inspect(|()| self.device.renamed(from, to)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.fate.act(|| self.disk.remove(path).inspect(|()| self.device.removed(path)))
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.fate.alive()?;
        self.disk.create_folder(folder)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.device.syncs();
        self.fate.act(|| self.disk.sync_folder(folder))
    }
}

struct MortalFile {
    file: Arc<dyn DiskFile>,
    id: FileId,
    device: Arc<Device>,
    fate: Fate,
}

impl DiskFile for MortalFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.fate.alive()?;
        self.device.reads(self.id, offset, buffer.len())?;
        self.file.read_exact_at(buffer, offset)
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.fate.alive()?;
        if !self.device.has_cached() {
            return Ok(false);
        }
        self.device.reads(self.id, offset, buffer.len())?;
        self.file.read_cached_at(buffer, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let part = match self.device.writes(data.len()) {
            Writing::Whole => return self.fate.act(|| self.file.write_all_at(data, offset)),
            Writing::Parts(part) => part,
            Writing::Fails(part) => {
                let failed = Err(io::Error::other("the write stopped in the middle"));
                return self.fate.act(|| self.file.write_all_at(&data[..part], offset).and(failed));
            }
        };
        self.fate.act(|| self.file.write_all_at(&data[..part], offset))?;
        self.fate.act(|| self.file.write_all_at(&data[part..], offset + part as u64))
    }

    fn write_direct_at(&self, data: &[u8], offset: u64) -> io::Result<bool> {
        // The disk in memory takes them as it takes others.
        if !is_whole_blocks(data, offset) {
            return Ok(false);
        }
        self.write_all_at(data, offset).map(|()| true)
    }

    fn sync(&self) -> io::Result<()> {
        self.device.syncs();
        self.fate.act(|| self.file.sync())
    }

    fn size(&self) -> io::Result<u64> {
        self.fate.alive()?;
        self.file.size()
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        self.fate.act(|| self.file.grow(size))
    }

    fn zero(&self, offset: u64, length: u64, hole: bool) -> io::Result<()> {
        self.fate.act(|| self.file.zero(offset, length, hole))
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        self.fate.alive()?;
        self.file.next_data(offset)
    }
}

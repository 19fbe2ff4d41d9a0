//! The disk under the engine: one in memory, whose calls can be held, failed and ended by where they go.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::ThreadId;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tidemark_common::storage::memory::MemoryDisk;
use tidemark_common::storage::{Disk, DiskFile, Open};

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Changes bytes.
    Write,
    /// Makes them durable.
    Sync,
    /// Anything else.
    Other,
}

/// A disk in memory as one process sees it; clones are the same.
#[derive(Clone)]
pub(crate) struct StagedDisk {
    memory: MemoryDisk,
    stage: Arc<Stage>,
}

#[derive(Default)]
struct Stage {
    state: Mutex<State>,
    changed: Condvar,
    /// One sync at a time, so that one that is to fail is the one meant.
    syncing: Mutex<()>,
}

#[derive(Default)]
struct State {
    dead: bool,
    under_way: usize,
    held: Option<(Call, PathBuf)>,
    waiting: Vec<Call>,
    failing: Option<(Call, PathBuf)>,
    last_sync: Option<ThreadId>,
}

impl State {
    fn is_held(&self) -> bool {
        self.held.as_ref().is_some_and(|(call, _)| self.waiting.contains(call))
    }

    fn end_waiting(&mut self, call: Call) {
        if let Some(at) = self.waiting.iter().position(|waiting| *waiting == call) {
            self.waiting.swap_remove(at);
        }
    }
}

impl StagedDisk {
    /// What a new process sees of a disk.
    pub(crate) fn over(memory: &MemoryDisk) -> Self {
        Self { memory: memory.clone(), stage: Arc::default() }
    }

    /// The process dies: none of its calls is under way when this returns, and none has an effect from here on.
    pub(crate) fn kill(&self) {
        let mut state = self.stage.state.lock();
        state.dead = true;
        self.stage.changed.notify_all();
        self.stage.changed.wait_while(&mut state, |state| state.under_way > 0);
    }

    /// Calls of this kind under this folder wait from here on; those held before go on.
    pub(crate) fn hold(&self, call: Call, folder: &str) {
        self.stage.state.lock().held = Some((call, folder.into()));
        self.stage.changed.notify_all();
    }

    /// They go on.
    pub(crate) fn release(&self) {
        self.stage.state.lock().held = None;
        self.stage.changed.notify_all();
    }

    /// Returns when a call is being held.
    pub(crate) fn wait_held(&self) {
        let mut state = self.stage.state.lock();
        self.stage.changed.wait_while(&mut state, |state| !state.is_held());
    }

    /// Whether one is.
    pub(crate) fn is_held(&self) -> bool {
        self.stage.state.lock().is_held()
    }

    /// Who made the newest sync.
    pub(crate) fn last_sync(&self) -> Option<ThreadId> {
        self.stage.state.lock().last_sync
    }

    /// The next call of this kind under this folder fails.
    pub(crate) fn fail_next(&self, call: Call, folder: &str) {
        self.stage.state.lock().failing = Some((call, folder.into()));
    }

    /// Whether that has happened.
    pub(crate) fn has_failed(&self) -> bool {
        self.stage.state.lock().failing.is_none()
    }

    fn call<T>(&self, call: Call, path: &Path, act: impl FnOnce(bool) -> io::Result<T>) -> io::Result<T> {
        let stage = &self.stage;
        let mut state = stage.state.lock();
        let meant =
            |to: &Option<(Call, PathBuf)>| to.as_ref().is_some_and(|to| to.0 == call && path.starts_with(&to.1));
        while meant(&state.held) && !state.dead {
            state.waiting.push(call);
            stage.changed.notify_all();
            stage.changed.wait(&mut state);
            state.end_waiting(call);
        }
        if state.dead {
            return Err(io::Error::other("the process is dead"));
        }
        if call == Call::Sync {
            state.last_sync = Some(std::thread::current().id());
        }
        let fails = meant(&state.failing);
        if fails {
            state.failing = None;
        }
        state.under_way += 1;
        let done = MutexGuard::unlocked(&mut state, || act(fails));
        state.under_way -= 1;
        stage.changed.notify_all();
        done
    }
}

impl Disk for StagedDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.call(Call::Other, path, |_| self.memory.open(path, how))?;
        Ok(Arc::new(StagedFile { disk: self.clone(), path: path.to_owned(), file }))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.call(Call::Other, folder, |_| self.memory.list(folder))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Call::Other, from, |_| self.memory.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(Call::Other, path, |_| self.memory.remove(path))
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.call(Call::Other, folder, |_| self.memory.create_folder(folder))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.call(Call::Other, folder, |_| self.memory.sync_folder(folder))
    }
}

struct StagedFile {
    disk: StagedDisk,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
}

impl StagedFile {
    fn change(&self, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let failed = || Err(io::Error::other("a write that was to fail"));
        self.disk.call(Call::Write, &self.path, |fails| if fails { failed() } else { act() })
    }
}

impl DiskFile for StagedFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.call(Call::Other, &self.path, |_| self.file.read_exact_at(buffer, offset))
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.disk.call(Call::Other, &self.path, |_| self.file.read_cached_at(buffer, offset))
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.change(|| self.file.write_all_at(data, offset))
    }

    fn write_direct_at(&self, data: &[u8], offset: u64) -> io::Result<bool> {
        self.disk.call(Call::Write, &self.path, |fails| {
            if fails {
                Err(io::Error::other("a write that was to fail"))
            } else {
                self.file.write_direct_at(data, offset)
            }
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.call(Call::Sync, &self.path, |fails| {
            let _alone = self.disk.stage.syncing.lock();
            if fails {
                self.disk.memory.fail_next_sync(io::ErrorKind::Other);
            }
            self.file.sync()
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.disk.call(Call::Other, &self.path, |_| self.file.size())
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        self.change(|| self.file.grow(size))
    }

    fn zero(&self, offset: u64, length: u64, hole: bool) -> io::Result<()> {
        self.change(|| self.file.zero(offset, length, hole))
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        self.disk.call(Call::Other, &self.path, |_| self.file.next_data(offset))
    }
}

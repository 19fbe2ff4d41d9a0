//! A disk in memory that fails on purpose: what tests and simulation put under the engines.
//!
//! # Fault model
//!
//! What a real disk and file system may do, and this one does:
//!
//! | fault | how it shows |
//! |---|---|
//! | loss of power ([`MemoryDisk::crash`]) | each 512-byte sector written since its file's last sync holds what it held at that sync, or any later version of it, chosen sector by sector: lost, torn and reordered writes |
//! | the same, for sizes | a file's size is that at its last sync, or any later one |
//! | the same, for names | each name made, moved or removed since its folder's last sync happened or did not, independently; one rename happens as a whole |
//! | power gone in the middle ([`MemoryDisk::power_off_after`]) | the last call took effect, unsynced, and fails; so does every call after it |
//! | a full disk ([`MemoryDisk::limit_space`]) | a write that needs more fails with `StorageFull`, the part that fits written |
//! | a failing sync ([`MemoryDisk::fail_next_sync`]) | fails once, later ones succeed, as on Linux: the sectors written before it read well until a crash, and are durable only once they are written again |
//! | a failing sync of a folder ([`MemoryDisk::fail_folder_sync_after`]) | fails once; names are what they became, and durable with a later sync |
//! | no direct I/O ([`MemoryDisk::refuse_direct`]) | direct reads and writes are answered with `Ok(false)`; where they are taken, they are as others are |
//! | an unreadable sector ([`MemoryDisk::break_sector`]) | reads of it fail until it is written |
//! | silent damage ([`MemoryDisk::flip_bit`]) | a durable bit is another |
//!
//! What it does not do: tear inside a sector, lose what was synced, take time, or fail a removal. Making folders is durable at once.
//! A file's name is not made durable by syncing the file, only by its folder. A killed process is no crash: open the
//! same disk again. Everything is decided by the seed: the same calls and the same seed give the same disk.

mod chance;
mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use self::chance::Chance;
use self::content::Content;
pub use self::content::SECTOR;
use super::aligned::{BLOCK_BYTES, is_whole_blocks};
use super::{Disk, DiskFile, Open};

/// A file system in memory; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

type FileId = u64;

#[derive(Debug, Clone, Default)]
struct State {
    files: BTreeMap<FileId, Content>,
    names: BTreeMap<PathBuf, FileId>,
    durable_names: BTreeMap<PathBuf, FileId>,
    /// What happened to names since their folder's last sync, in order.
    pending: Vec<NameChange>,
    folders: BTreeSet<PathBuf>,
    faults: Faults,
}

#[derive(Debug, Clone, Default)]
struct Faults {
    space_bytes: Option<u64>,
    fail_next_sync: Option<io::ErrorKind>,
    /// So many syncs of folders pass, and one fails.
    folder_syncs_left: Option<u64>,
    effects_left: Option<u64>,
    effects: u64,
    off: bool,
    direct: Direct,
}

impl Faults {
    /// Counts a sync of a folder; an error when it is the one that is to fail.
    fn pass_folder_sync(&mut self) -> io::Result<()> {
        let left = self.folder_syncs_left;
        self.folder_syncs_left = left.and_then(|left| left.checked_sub(1));
        if left == Some(0) { Err(io::Error::other("the folder could not be synced")) } else { Ok(()) }
    }
}

/// Reads and writes past a page cache.
#[derive(Debug, Clone, Copy, Default)]
struct Direct {
    refused: bool,
    /// Blocks written so.
    blocks: u64,
    blocks_read: u64,
}

#[derive(Debug, Clone)]
enum NameChange {
    Made(PathBuf, FileId),
    Moved(PathBuf, PathBuf, FileId),
    Removed(PathBuf),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, FileId>) {
        match self {
            Self::Made(path, id) => {
                names.insert(path.clone(), *id);
            }
            Self::Moved(from, to, id) => {
                if names.get(from) == Some(id) {
                    names.remove(from);
                }
                names.insert(to.clone(), *id);
            }
            Self::Removed(path) => {
                names.remove(path);
            }
        }
    }

    fn is_in(&self, folder: &Path) -> bool {
        match self {
            Self::Made(path, _) | Self::Removed(path) | Self::Moved(_, path, _) => path.parent() == Some(folder),
        }
    }
}

impl MemoryDisk {
    /// An empty disk without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk after a loss of power now; this one fails every call from here on. Space limit and unreadable sectors stay.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut state = self.state.lock();
        let after = state.after_crash(&mut Chance::new(seed));
        state.faults.off = true;
        Self { state: Arc::new(Mutex::new(after)) }
    }

    /// The disk as the next process finds it when the one that used it has died: nothing is lost. This one fails every call from here
    /// on.
    #[must_use]
    pub fn outlive(&self) -> Self {
        let mut state = self.state.lock();
        let after = State { faults: Faults::default(), ..state.clone() };
        state.faults.off = true;
        Self { state: Arc::new(Mutex::new(after)) }
    }

    /// Another disk with the same content, unsynced parts and faults: for trying many crashes of one moment.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.state.lock().clone())) }
    }

    /// Lets so many more effects (writes, syncs, changes of names and sizes) pass whole; the one after them is the last.
    pub fn power_off_after(&self, effects: u64) {
        self.state.lock().faults.effects_left = Some(effects);
    }

    /// Effects so far.
    #[must_use]
    pub fn effects(&self) -> u64 {
        self.state.lock().faults.effects
    }

    /// Bytes all named files may take together; `None`: any.
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.state.lock().faults.space_bytes = bytes;
    }

    /// Bytes all named files take now, in whole sectors.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// The next sync of a file fails with this.
    pub fn fail_next_sync(&self, how: io::ErrorKind) {
        self.state.lock().faults.fail_next_sync = Some(how);
    }

    /// So many syncs of folders pass, by themselves or with a rename; the next one fails.
    pub fn fail_folder_sync_after(&self, passed: u64) {
        self.state.lock().faults.folder_syncs_left = Some(passed);
    }

    /// Files take no direct reads and writes from now on, as on some file systems.
    pub fn refuse_direct(&self) {
        self.state.lock().faults.direct.refused = true;
    }

    /// Blocks that came by direct writes so far.
    #[must_use]
    pub fn direct_blocks(&self) -> u64 {
        self.state.lock().faults.direct.blocks
    }

    /// Blocks that were read past a page cache so far.
    #[must_use]
    pub fn direct_blocks_read(&self) -> u64 {
        self.state.lock().faults.direct.blocks_read
    }

    /// Nothing fails any more but what is unreadable, or off.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        let Faults { effects, off, direct, .. } = state.faults;
        state.faults = Faults { effects, off, direct, ..Faults::default() };
    }

    /// The sector with this byte cannot be read until it is written.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn break_sector(&self, path: &Path, offset: u64) -> io::Result<()> {
        self.with(path, |content| content.break_sector(offset))
    }

    /// Turns one bit of a file over, durably: bit 0 is the lowest of byte 0.
    ///
    /// # Errors
    /// When there is no such file or bit.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> io::Result<()> {
        self.with(path, |content| content.flip_bit(bit))?
    }

    /// All bytes of a file.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn bytes_of(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.with(path, |content| content.to_vec())
    }

    /// Everything on it, to see whether it changed: paths and their bytes.
    #[must_use]
    pub fn everything(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let state = self.state.lock();
        let bytes = |id: &FileId| state.files.get(id).map(Content::to_vec).unwrap_or_default();
        state.names.iter().map(|(path, id)| (path.clone(), bytes(id))).collect()
    }

    fn with<T>(&self, path: &Path, action: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        let mut state = self.state.lock();
        let id = *state.names.get(path).ok_or_else(|| missing(path))?;
        state.files.get_mut(&id).map(action).ok_or_else(|| missing(path))
    }
}

impl State {
    fn after_crash(&self, chance: &mut Chance) -> Self {
        let mut names = self.durable_names.clone();
        let keep = chance.policy();
        for change in &self.pending {
            if keep.keeps(chance) {
                change.apply(&mut names);
            }
        }
        let mut files = BTreeMap::new();
        for id in names.values() {
            if let Some(content) = self.files.get(id) {
                files.insert(*id, content.after_crash(chance));
            }
        }
        let Faults { space_bytes, direct, .. } = self.faults;
        let faults = Faults { space_bytes, direct, ..Faults::default() };
        Self { files, durable_names: names.clone(), names, pending: Vec::new(), folders: self.folders.clone(), faults }
    }

    fn used_bytes(&self) -> u64 {
        let named: BTreeSet<FileId> = self.names.values().copied().collect();
        named.iter().filter_map(|id| self.files.get(id)).map(Content::used_bytes).sum()
    }

    fn alive(&self) -> io::Result<()> {
        if self.faults.off { Err(io::Error::other("the power is gone")) } else { Ok(()) }
    }

    /// Counts an effect that has just happened; an error when it was the last before the power went.
    fn effect(&mut self) -> io::Result<()> {
        self.faults.effects += 1;
        match &mut self.faults.effects_left {
            Some(0) => self.faults.off = true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.alive()
    }

    fn change(&mut self, change: NameChange) -> io::Result<()> {
        change.apply(&mut self.names);
        self.pending.push(change);
        self.effect()
    }

    fn check_folder(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new(""));
        if folder == Path::new("") || self.folders.contains(folder) { Ok(()) } else { Err(missing(folder)) }
    }

    fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        // The power goes before the sync has done anything: that it did part of it is what a crash decides.
        self.effect()?;
        self.faults.pass_folder_sync()?;
        let durable = &mut self.durable_names;
        self.pending.retain(|change| {
            let inside = change.is_in(folder);
            if inside {
                change.apply(durable);
            }
            !inside
        });
        Ok(())
    }

    /// How many of these bytes may still be written at this place.
    fn room(&self, id: FileId, offset: u64, length: u64) -> u64 {
        let (Some(limit), Some(content)) = (self.faults.space_bytes, self.files.get(&id)) else { return length };
        content.fitting(offset, length, limit.saturating_sub(self.used_bytes()))
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} is not there", path.display()))
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.alive()?;
        state.check_folder(path)?;
        let id = match (state.names.get(path).copied(), how) {
            (Some(_), Open::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Open::Existing) => return Err(missing(path)),
            (Some(id), _) => id,
            (None, _) => {
                let id = state.files.keys().next_back().map_or(0, |last| last + 1);
                state.files.insert(id, Content::default());
                state.change(NameChange::Made(path.to_owned(), id))?;
                id
            }
        };
        Ok(Arc::new(MemoryFile { state: Arc::clone(&self.state), id }))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        state.alive()?;
        state.check_folder(&folder.join("name"))?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(folder));
        let mut names: Vec<String> = inside.filter_map(|path| path.file_name()?.to_str()).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        state.check_folder(to)?;
        let id = *state.names.get(from).ok_or_else(|| missing(from))?;
        state.change(NameChange::Moved(from.to_owned(), to.to_owned(), id))?;
        to.parent().map_or(Ok(()), |folder| state.sync_folder(folder))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        if !state.names.contains_key(path) {
            return Err(missing(path));
        }
        state.change(NameChange::Removed(path.to_owned()))
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        state.folders.extend(folder.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        state.sync_folder(folder)
    }
}

/// An open file; it stays usable when its name goes.
#[derive(Debug)]
struct MemoryFile {
    state: Arc<Mutex<State>>,
    id: FileId,
}

impl MemoryFile {
    fn read<T>(&self, action: impl FnOnce(&Content) -> T) -> io::Result<T> {
        let state = self.state.lock();
        state.alive()?;
        state.files.get(&self.id).map(action).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Changes up to so many bytes from here, as far as there is space.
    fn change(&self, offset: u64, length: u64, action: impl FnOnce(&mut Content, u64)) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        let room = state.room(self.id, offset, length);
        if let Some(content) = state.files.get_mut(&self.id) {
            action(content, room);
        }
        state.effect()?;
        if room < length { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl DiskFile for MemoryFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read(|content| content.read(buffer, offset))?
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_exact_at(buffer, offset).map(|()| true)
    }

    fn read_direct_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        if !is_whole_blocks(buffer, offset) || self.state.lock().faults.direct.refused {
            return Ok(false);
        }
        self.read_exact_at(buffer, offset)?;
        self.state.lock().faults.direct.blocks_read += (buffer.len() / BLOCK_BYTES) as u64;
        Ok(true)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.change(offset, data.len() as u64, |content, room| {
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            content.write(data.get(..room).unwrap_or(data), offset);
        })
    }

    fn write_direct_at(&self, data: &[u8], offset: u64) -> io::Result<bool> {
        if !is_whole_blocks(data, offset) || self.state.lock().faults.direct.refused {
            return Ok(false);
        }
        self.write_all_at(data, offset)?;
        self.state.lock().faults.direct.blocks += (data.len() / BLOCK_BYTES) as u64;
        Ok(true)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        state.effect()?;
        let failed = state.faults.fail_next_sync.take();
        let Some(content) = state.files.get_mut(&self.id) else { return Ok(()) };
        if let Some(how) = failed {
            content.fail_sync();
            return Err(how.into());
        }
        content.sync();
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.read(Content::size)
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        self.change(0, 0, |content, _| content.grow(size))
    }

    fn zero(&self, offset: u64, length: u64, hole: bool) -> io::Result<()> {
        if hole {
            return self.change(offset, 0, |content, _| content.zero(offset, length, true));
        }
        self.change(offset, length, |content, room| content.zero(offset, room, false))
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        self.read(|content| content.next_data(offset))
    }
}

#[cfg(test)]
mod tests;

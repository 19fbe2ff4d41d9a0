//! One volume of a clone: what hosts wrote lies in a sparse file, its block map says what that is, all else is read from the
//! image.
//!
//! The map reaches its file only with a flush, and after the content: what a loss of power leaves is the clone as of the last
//! flush, with later writes or without them, block by block, as on any disk.
//!
//! A file whose sync failed reads well as long as the kernel has it in memory, and is another one behind that. The map has another name from
//! then on, by which whoever opens the clone later knows.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::clone_map::{BLOCK_BYTES, BlockState, CloneMap};
use super::image::{Image, ImageError, ImageVolume};
use crate::storage::{Disk, DiskFile, Open};

/// Bytes made zeroes at once: a client may ask for all of a large volume, and its map is to go to its file in between. A multiple of a block.
const ZERO_BYTES_MAX: u64 = 1 << 30;

/// Why a request on a clone failed.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// The image below.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The clone's own files.
    #[error("the files of the clone: {0}")]
    Io(#[from] io::Error),
    /// It was given so much and no more.
    #[error("the clone has used all of its {0} bytes: make it again with more --space")]
    Full(u64),
    /// All clones together were given so much and no more.
    #[error(
        "the clones of this appliance have used all of the {0} bytes that all_clones_bytes gives to them: delete some, or raise it"
    )]
    AllFull(u64),
}

/// The bytes that all volumes of a clone, or all clones, may take together.
#[derive(Debug)]
pub struct CloneSpace {
    limit: u64,
    used: AtomicU64,
    /// That of all clones, which this one is part of.
    all: Option<Arc<Self>>,
}

impl CloneSpace {
    /// So many bytes.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0), all: None }
    }

    /// So many bytes out of what all have.
    #[must_use]
    pub const fn within(limit: u64, all: Arc<Self>) -> Self {
        Self { limit, used: AtomicU64::new(0), all: Some(all) }
    }

    /// Bytes there may be.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes used now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    fn take(&self, bytes: u64) -> Result<(), CloneError> {
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.map_err(|_| CloneError::Full(self.limit))?;
        let of_all = self.all.as_ref().map_or(Ok(()), |all| all.take(bytes));
        of_all.map_err(|_| {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
            CloneError::AllFull(self.all.as_ref().map_or(0, |all| all.limit))
        })
    }

    /// Counts what is taken already, whatever the limits.
    fn found(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        if let Some(all) = &self.all {
            all.found(bytes);
        }
    }

    fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        if let Some(all) = &self.all {
            all.give(bytes);
        }
    }
}

impl Drop for CloneSpace {
    fn drop(&mut self) {
        if let Some(all) = &self.all {
            all.give(self.used());
        }
    }
}

/// One volume of a clone.
pub struct CloneVolume {
    image: Image,
    volume: ImageVolume,
    disk: Arc<dyn Disk>,
    map_path: PathBuf,
    data: Arc<dyn DiskFile>,
    map_file: Arc<dyn DiskFile>,
    map: Mutex<CloneMap>,
    /// One change at a time: parts of blocks are read, changed and written.
    changing: Mutex<()>,
    /// Whoever comes while another flushes waits for that.
    flushing: Mutex<()>,
    /// Why a flush failed: the kernel may have dropped what it could not write, so no later one is believed.
    broken: OnceLock<String>,
    space: Arc<CloneSpace>,
}

impl std::fmt::Debug for CloneVolume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloneVolume").field("volume", &self.volume).finish_non_exhaustive()
    }
}

/// A run of blocks in the same state.
struct Run {
    offset: u64,
    length: u64,
    state: BlockState,
}

/// What a map is called when nobody knows whether the disk has what it says.
fn doubtful(map_path: &Path) -> PathBuf {
    map_path.with_added_extension("doubtful")
}

/// Makes a file of a clone durable, or lets the map be known for what it is. A rename needs no room.
fn sync_or_doubt(disk: &dyn Disk, map_path: &Path, file: &dyn DiskFile) -> io::Result<()> {
    file.sync().inspect_err(|_| {
        if let Err(error) = disk.rename(map_path, &doubtful(map_path)) {
            tracing::error!(map = %map_path.display(), %error, "a clone that could not be synced is taken for sound by the next start: delete it");
        }
    })
}

impl CloneVolume {
    /// Opens a clone's volume in its folder, or makes it there.
    ///
    /// # Errors
    /// As the system says; `InvalidData` when it could not be synced once.
    pub fn open(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        image: &Image,
        volume: &ImageVolume,
        space: &Arc<CloneSpace>,
    ) -> io::Result<Self> {
        disk.create_folder(folder)?;
        let map_path = folder.join(format!("{}.map", volume.name));
        match disk.open(&doubtful(&map_path), Open::Existing) {
            Ok(_) => {
                let name = &volume.name;
                let why = format!(
                    "volume '{name}' of it could not be synced once, and nobody knows what the disk has of it: make the clone again"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let data = disk.open(&folder.join(format!("{}.data", volume.name)), Open::ExistingOrNew)?;
        let map_file = disk.open(&map_path, Open::ExistingOrNew)?;
        data.grow(volume.size.div_ceil(BLOCK_BYTES) * BLOCK_BYTES)?;
        // What a process that is gone has written may fail only now.
        sync_or_doubt(&**disk, &map_path, &*data)?;
        sync_or_doubt(&**disk, &map_path, &*map_file)?;
        disk.sync_folder(folder)?;
        let map = CloneMap::read(Arc::clone(&map_file))?;
        space.found(map.written() * BLOCK_BYTES);
        Ok(Self {
            image: image.clone(),
            volume: volume.clone(),
            disk: Arc::clone(disk),
            map_path,
            data,
            map_file,
            map: Mutex::new(map),
            changing: Mutex::default(),
            flushing: Mutex::default(),
            broken: OnceLock::new(),
            space: Arc::clone(space),
        })
    }

    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.volume.size
    }

    /// Its volume's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.volume.name
    }

    fn runs(&self, offset: u64, length: u64) -> io::Result<Vec<Run>> {
        let mut map = self.map.lock();
        let end = offset.saturating_add(length);
        let mut runs: Vec<Run> = Vec::new();
        let mut at = offset;
        while at < end {
            let block = at / BLOCK_BYTES;
            let next = ((block + 1) * BLOCK_BYTES).min(end);
            let state = map.state(block)?;
            match runs.last_mut().filter(|run| run.state == state) {
                Some(run) => run.length += next - at,
                None => runs.push(Run { offset: at, length: next - at, state }),
            }
            at = next;
        }
        Ok(runs)
    }

    /// Reads a range, waiting for disks where needed.
    ///
    /// # Errors
    /// [`CloneError`].
    pub fn read(&self, offset: u64, target: &mut [u8]) -> Result<(), CloneError> {
        let mut rest = target;
        for run in self.runs(offset, rest.len() as u64)? {
            let (part, behind) = rest.split_at_mut(usize::try_from(run.length).unwrap_or(0).min(rest.len()));
            match run.state {
                BlockState::Image => self.image.read(self.volume.index, run.offset, part)?,
                BlockState::Written => self.data.read_exact_at(part, run.offset)?,
                BlockState::Zero => part.fill(0),
            }
            rest = behind;
        }
        Ok(())
    }

    /// Writes a range.
    ///
    /// # Errors
    /// [`CloneError`]; of a range that spans blocks, some may have been written.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), CloneError> {
        self.write_parts(offset, bytes)?;
        Ok(self.bound_map()?)
    }

    fn write_parts(&self, offset: u64, bytes: &[u8]) -> Result<(), CloneError> {
        let _alone = self.changing.lock();
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let head = at % BLOCK_BYTES;
            let whole = rest.len() as u64 / BLOCK_BYTES * BLOCK_BYTES;
            let step = if head == 0 && whole > 0 { whole } else { (BLOCK_BYTES - head).min(rest.len() as u64) };
            let (part, behind) = rest.split_at(usize::try_from(step).unwrap_or(rest.len()).min(rest.len()));
            if step.is_multiple_of(BLOCK_BYTES) && head == 0 {
                self.write_blocks(at, part)?;
            } else {
                let mut block = self.block(at / BLOCK_BYTES)?;
                let from = usize::try_from(head).unwrap_or(0);
                if let Some(target) = block.get_mut(from..from + part.len()) {
                    target.copy_from_slice(part);
                }
                self.write_blocks(at - head, &block)?;
            }
            at += step;
            rest = behind;
        }
        Ok(())
    }

    /// The whole of a block; what lies behind the volume's end reads as zeroes.
    fn block(&self, block: u64) -> Result<Vec<u8>, CloneError> {
        let offset = block * BLOCK_BYTES;
        let inside = BLOCK_BYTES.min(self.volume.size.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(inside).unwrap_or(0)];
        self.read(offset, &mut bytes)?;
        bytes.resize(usize::try_from(BLOCK_BYTES).unwrap_or(0), 0);
        Ok(bytes)
    }

    fn write_blocks(&self, offset: u64, bytes: &[u8]) -> Result<(), CloneError> {
        let blocks = offset / BLOCK_BYTES..(offset + bytes.len() as u64).div_ceil(BLOCK_BYTES);
        let new = {
            let mut map = self.map.lock();
            let mut new = 0;
            for block in blocks.clone() {
                new += u64::from(map.state(block)? != BlockState::Written);
            }
            new
        };
        self.space.take(new * BLOCK_BYTES)?;
        if let Err(error) = self.data.write_all_at(bytes, offset) {
            self.space.give(new * BLOCK_BYTES);
            return Err(error.into());
        }
        let mut map = self.map.lock();
        for block in blocks {
            map.set(block, BlockState::Written)?;
        }
        Ok(())
    }

    /// A host that does not flush has the map in memory, which is bounded.
    fn bound_map(&self) -> io::Result<()> {
        let is_due = self.map.lock().is_to_be_saved();
        if is_due { self.flush() } else { Ok(()) }
    }

    /// Makes a range read as zeroes, and gives its space back.
    ///
    /// # Errors
    /// [`CloneError`].
    pub fn zero(&self, offset: u64, length: u64) -> Result<(), CloneError> {
        let (mut at, end) = (offset, offset.saturating_add(length));
        while at < end {
            let next = end.min((at / ZERO_BYTES_MAX + 1) * ZERO_BYTES_MAX);
            self.zero_parts(at, next - at)?;
            self.bound_map()?;
            at = next;
        }
        Ok(())
    }

    fn zero_parts(&self, offset: u64, length: u64) -> Result<(), CloneError> {
        let end = offset.saturating_add(length);
        let (first, last) = (offset.div_ceil(BLOCK_BYTES), end / BLOCK_BYTES);
        // The last block of a volume may be a short one.
        let last = if end == self.volume.size { end.div_ceil(BLOCK_BYTES) } else { last };
        if first >= last {
            return self.write(offset, &vec![0; usize::try_from(length).unwrap_or(0)]);
        }
        let (begin, behind) = (first * BLOCK_BYTES, (last * BLOCK_BYTES).min(end));
        if begin > offset {
            self.write(offset, &vec![0; usize::try_from(begin - offset).unwrap_or(0)])?;
        }
        if end > behind {
            self.write(behind, &vec![0; usize::try_from(end - behind).unwrap_or(0)])?;
        }
        let _alone = self.changing.lock();
        let (given, set) = {
            let mut map = self.map.lock();
            let before = map.written();
            let set = (first..last).try_for_each(|block| map.set(block, BlockState::Zero));
            (before - map.written(), set)
        };
        self.space.give(given * BLOCK_BYTES);
        set?;
        Ok(self.data.zero(begin, last * BLOCK_BYTES - begin, true)?)
    }

    /// Everything answered before is durable when this returns.
    ///
    /// # Errors
    /// As the system says.
    pub fn flush(&self) -> io::Result<()> {
        let _alone = self.flushing.lock();
        if let Some(why) = self.broken() {
            return Err(io::Error::other(why));
        }
        let changed = self.map.lock().take_changed();
        let sync = |file: &Arc<dyn DiskFile>| sync_or_doubt(&*self.disk, &self.map_path, &**file);
        let result = sync(&self.data).and_then(|()| {
            // Only now: a state that is durable says that its content is.
            changed.iter().try_for_each(|(at, bytes)| self.map_file.write_all_at(bytes, *at))?;
            if changed.is_empty() { Ok(()) } else { sync(&self.map_file) }
        });
        match &result {
            Ok(()) => self.map.lock().saved(&changed),
            Err(error) => {
                let name = &self.volume.name;
                let _ = self
                    .broken
                    .set(format!("volume '{name}' of it could not be flushed: {error}. Make the clone again"));
            }
        }
        result
    }

    /// Why no flush of it succeeds any more, if one has failed.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.broken.get().cloned()
    }

    /// How far from the begin of a range it is all zeroes or all not: (bytes, zeroes).
    ///
    /// # Errors
    /// [`CloneError`].
    pub fn status(&self, offset: u64, length: u64) -> Result<(u64, bool), CloneError> {
        let Some(run) = self.runs(offset, length)?.into_iter().next() else { return Ok((length, false)) };
        match run.state {
            BlockState::Zero => Ok((run.length, true)),
            BlockState::Written => Ok((run.length, false)),
            BlockState::Image => {
                let hole = self.image.hole(self.volume.index, offset, run.length)?;
                if hole > 0 { Ok((hole, true)) } else { Ok((run.length.min(super::export::DATA_STEP), false)) }
            }
        }
    }
}

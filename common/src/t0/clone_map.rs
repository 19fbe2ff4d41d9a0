//! The block map of a clone's volume: for each block whether it reads as the image does, was written, or is zeroes. Sectors of
//! the map's file come in and go out, each with its checksum; a sector of zeroes says that all of its blocks read as the image.
//!
//! In memory are sectors that are not in the file yet, which whoever writes keeps few by flushing, and some of those that are: a host that
//! discards a volume of 64 TiB changes eight million.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::sync::Arc;

use crate::record::crc32c;
use crate::storage::DiskFile;

/// Bytes of one block of a clone.
pub const BLOCK_BYTES: u64 = 4096;
const SECTOR: usize = 512;
const STATES: usize = SECTOR - 4;
/// Blocks whose states lie in one sector, four to a byte.
const SECTOR_BLOCKS: u64 = STATES as u64 * 4;

/// Sectors in memory that are in the file as well, and so many that are not before these are to go there: two MiB each, for 32 GiB of a volume.
pub const SECTORS_MAX: usize = 4096;

/// Where a block's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// As in the image.
    Image,
    /// In the clone's file.
    Written,
    /// Zeroes.
    Zero,
}

#[derive(Debug)]
struct Sector {
    states: [u8; STATES],
    /// Changed since it was taken the last time.
    dirty: bool,
    /// The file says the same.
    in_file: bool,
}

/// The states of a volume's blocks, as of the last change.
pub struct CloneMap {
    file: Arc<dyn DiskFile>,
    /// Where the file ends: behind it is nothing.
    file_bytes: u64,
    sectors: BTreeMap<u64, Sector>,
    /// Those of them that the file does not have.
    unsaved: usize,
    written: u64,
}

impl std::fmt::Debug for CloneMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloneMap")
            .field("sectors", &self.sectors.len())
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

const fn place(block: u64) -> (u64, usize, u32) {
    let within = block % SECTOR_BLOCKS;
    (block / SECTOR_BLOCKS, (within / 4) as usize, (within % 4) as u32 * 2)
}

fn check(number: u64, states: &[u8]) -> u32 {
    let mut all = number.to_le_bytes().to_vec();
    all.extend_from_slice(states);
    crc32c(&all)
}

/// What a sector of a file of so many bytes says.
fn stored(file: &dyn DiskFile, file_bytes: u64, number: u64) -> io::Result<[u8; STATES]> {
    let offset = number * SECTOR as u64;
    if offset + SECTOR as u64 > file_bytes {
        return Ok([0; STATES]);
    }
    let mut sector = [0; SECTOR];
    file.read_exact_at(&mut sector, offset)?;
    let (found, states) = sector.split_at(4);
    let states: [u8; STATES] = states.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
    if sector.iter().any(|byte| *byte != 0) && found != check(number, &states).to_le_bytes() {
        let what = format!("sector {number} of the clone's block map is damaged");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(states)
}

impl CloneMap {
    /// Reads a map's file.
    ///
    /// # Errors
    /// As the system says; `InvalidData` when a sector is not what was written.
    pub fn read(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let (size, mut written, mut at) = (file.size()?, 0, 0);
        while let Some((begin, end)) = file.next_data(at)? {
            let mut number = begin / SECTOR as u64;
            while number * (SECTOR as u64) < end.min(size) {
                let states = stored(&*file, size, number)?;
                let of = |byte: &u8| (0..4).filter(|block| byte >> (block * 2) & 3 == 1).count() as u64;
                written += states.iter().map(of).sum::<u64>();
                number += 1;
            }
            at = end.max(number * SECTOR as u64);
        }
        Ok(Self { file, file_bytes: size, sectors: BTreeMap::new(), unsaved: 0, written })
    }

    fn sector(&mut self, number: u64) -> io::Result<&mut Sector> {
        if self.sectors.len() - self.unsaved > SECTORS_MAX {
            self.sectors.retain(|_, sector| !sector.in_file);
        }
        match self.sectors.entry(number) {
            Entry::Occupied(there) => Ok(there.into_mut()),
            Entry::Vacant(room) => {
                let states = stored(&*self.file, self.file_bytes, number)?;
                Ok(room.insert(Sector { states, dirty: false, in_file: true }))
            }
        }
    }

    /// The state of a block.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn state(&mut self, block: u64) -> io::Result<BlockState> {
        let (number, byte, shift) = place(block);
        let states = self.sector(number)?.states.get(byte).copied().unwrap_or(0);
        Ok(match states >> shift & 3 {
            1 => BlockState::Written,
            2 => BlockState::Zero,
            _ => BlockState::Image,
        })
    }

    /// Changes the state of a block.
    ///
    /// # Errors
    /// As for [`Self::read`]; it is what it was then.
    pub fn set(&mut self, block: u64, state: BlockState) -> io::Result<()> {
        let before = self.state(block)?;
        let (number, byte, shift) = place(block);
        let bits = match state {
            BlockState::Image => 0,
            BlockState::Written => 1,
            BlockState::Zero => 2,
        };
        let sector = self.sector(number)?;
        if let Some(states) = sector.states.get_mut(byte) {
            *states = *states & !(3 << shift) | bits << shift;
            sector.dirty = true;
        }
        let was_in_file = std::mem::replace(&mut sector.in_file, false);
        self.unsaved += usize::from(was_in_file);
        self.written += u64::from(state == BlockState::Written);
        self.written -= u64::from(before == BlockState::Written);
        Ok(())
    }

    /// Blocks that were written.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Whether so much is in memory alone that it is to go to the file.
    #[must_use]
    pub const fn is_to_be_saved(&self) -> bool {
        self.unsaved > SECTORS_MAX
    }

    /// Sectors changed since the last time, as (place in the file, bytes).
    pub(crate) fn take_changed(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut changed = Vec::new();
        for (number, sector) in self.sectors.iter_mut().filter(|(_, sector)| sector.dirty) {
            sector.dirty = false;
            let mut bytes = check(*number, &sector.states).to_le_bytes().to_vec();
            bytes.extend_from_slice(&sector.states);
            changed.push((number * SECTOR as u64, bytes));
        }
        changed
    }

    /// These are in the file now.
    pub fn saved(&mut self, changed: &[(u64, Vec<u8>)]) {
        for (at, bytes) in changed {
            self.file_bytes = self.file_bytes.max(at + bytes.len() as u64);
            let sector = self.sectors.get_mut(&(at / SECTOR as u64));
            // Not what has changed meanwhile.
            if let Some(sector) = sector.filter(|sector| !sector.dirty && !sector.in_file) {
                sector.in_file = true;
                self.unsaved -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryDisk;
    use crate::storage::{Disk, Open};

    fn flush(map: &mut CloneMap, file: &dyn DiskFile) {
        let changed = map.take_changed();
        changed.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
        map.saved(&changed);
    }

    /// What a host does that discards a large volume, and reads it.
    #[test]
    fn of_a_large_volume_no_more_is_in_memory_than_there_is_for_it() {
        let file = MemoryDisk::new().open("map".as_ref(), Open::New).unwrap();
        let mut map = CloneMap::read(Arc::clone(&file)).unwrap();
        let sectors = 3 * SECTORS_MAX as u64;
        let state = |sector: u64| if sector.is_multiple_of(3) { BlockState::Written } else { BlockState::Zero };
        let mut most = 0;
        for sector in 0..sectors {
            map.set(sector * SECTOR_BLOCKS + 7, state(sector)).unwrap();
            most = most.max(map.sectors.len());
            if map.is_to_be_saved() {
                flush(&mut map, &*file);
            }
        }
        // One is changed once more in the middle of a flush.
        let (changed, last) = (map.take_changed(), sectors - 1);
        map.set(last * SECTOR_BLOCKS + 7, BlockState::Written).unwrap();
        changed.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
        map.saved(&changed);
        for round in 0..2 {
            for sector in 0..sectors {
                let expected = if sector == last { BlockState::Written } else { state(sector) };
                assert_eq!(map.state(sector * SECTOR_BLOCKS + 7).unwrap(), expected, "{sector}");
                assert_eq!(map.state(sector * SECTOR_BLOCKS + 8).unwrap(), BlockState::Image);
                most = most.max(map.sectors.len());
            }
            assert_eq!(map.written(), sectors / 3 + 1);
            assert!(most <= 2 * SECTORS_MAX + 2, "{most}");
            flush(&mut map, &*file);
            if round == 0 {
                map = CloneMap::read(Arc::clone(&file)).unwrap();
            }
        }
        file.write_all_at(&[9], 4 * SECTOR as u64 + 100).unwrap();
        assert!(CloneMap::read(file).is_err(), "damage is found when it is opened");
    }
}

//! The block map of a clone's volume: for each block whether it reads as the image does, was written, or is zeroes. Sectors of
//! the map's file come in and go out, each with its checksum; a sector of zeroes says that all of its blocks read as the image.

use std::collections::BTreeMap;
use std::io;

use crate::record::crc32c;
use crate::storage::DiskFile;

/// Bytes of one block of a clone.
pub const BLOCK_BYTES: u64 = 4096;
const SECTOR: usize = 512;
const STATES: usize = SECTOR - 4;
/// Blocks whose states lie in one sector, four to a byte.
const SECTOR_BLOCKS: u64 = STATES as u64 * 4;

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
    dirty: bool,
}

/// The states of a volume's blocks, as of the last change.
#[derive(Debug, Default)]
pub struct CloneMap {
    sectors: BTreeMap<u64, Sector>,
    written: u64,
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

impl CloneMap {
    /// Reads a map's file.
    ///
    /// # Errors
    /// As the system says; `InvalidData` when a sector is not what was written.
    pub fn read(file: &dyn DiskFile) -> io::Result<Self> {
        let mut map = Self::default();
        let size = file.size()?;
        let mut at = 0;
        while let Some((begin, end)) = file.next_data(at)? {
            let mut offset = begin / SECTOR as u64 * SECTOR as u64;
            while offset < end.min(size) && offset + SECTOR as u64 <= size {
                let mut sector = [0; SECTOR];
                file.read_exact_at(&mut sector, offset)?;
                map.take(offset / SECTOR as u64, &sector)?;
                offset += SECTOR as u64;
            }
            at = end.max(offset);
        }
        Ok(map)
    }

    fn take(&mut self, number: u64, sector: &[u8; SECTOR]) -> io::Result<()> {
        let (found, states) = sector.split_at(4);
        if sector.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let states: [u8; STATES] = states.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        if found != check(number, &states).to_le_bytes() {
            let what = format!("sector {number} of the clone's block map is damaged");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let written = |byte: &u8| (0..4).filter(|block| byte >> (block * 2) & 3 == 1).count() as u64;
        self.written += states.iter().map(written).sum::<u64>();
        self.sectors.insert(number, Sector { states, dirty: false });
        Ok(())
    }

    /// The state of a block.
    #[must_use]
    pub fn state(&self, block: u64) -> BlockState {
        let (sector, byte, shift) = place(block);
        let states = self.sectors.get(&sector).and_then(|sector| sector.states.get(byte)).copied().unwrap_or(0);
        match states >> shift & 3 {
            1 => BlockState::Written,
            2 => BlockState::Zero,
            _ => BlockState::Image,
        }
    }

    /// Changes the state of a block.
    pub fn set(&mut self, block: u64, state: BlockState) {
        let before = self.state(block);
        self.written += u64::from(state == BlockState::Written);
        self.written -= u64::from(before == BlockState::Written);
        let (number, byte, shift) = place(block);
        let sector = self.sectors.entry(number).or_insert(Sector { states: [0; STATES], dirty: false });
        let bits = match state {
            BlockState::Image => 0,
            BlockState::Written => 1,
            BlockState::Zero => 2,
        };
        if let Some(states) = sector.states.get_mut(byte) {
            *states = *states & !(3 << shift) | bits << shift;
            sector.dirty = true;
        }
    }

    /// Blocks that were written.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Sectors changed since the last time, as (place in the file, bytes).
    pub fn take_changed(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut changed = Vec::new();
        for (number, sector) in self.sectors.iter_mut().filter(|(_, sector)| sector.dirty) {
            sector.dirty = false;
            let mut bytes = check(*number, &sector.states).to_le_bytes().to_vec();
            bytes.extend_from_slice(&sector.states);
            changed.push((number * SECTOR as u64, bytes));
        }
        changed
    }
}

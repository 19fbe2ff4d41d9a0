//! What one file holds: its sectors as they read now, and what they may be after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::chance::Chance;

/// Bytes that are written as a whole or not at all.
pub const SECTOR: u64 = 512;
const SECTOR_BYTES: usize = 512;

type Sector = [u8; SECTOR_BYTES];

/// A sparse file; a sector that is not there is a hole.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    size: u64,
    sectors: BTreeMap<u64, Sector>,
    /// What sectors written since the last sync held before, oldest first: the first is durable.
    unsynced: BTreeMap<u64, Vec<Option<Sector>>>,
    /// The same for sectors that a failed sync left in doubt and that were not written since.
    doubtful: BTreeMap<u64, Vec<Option<Sector>>>,
    /// Sizes before each change since the last sync, oldest first.
    sizes: Vec<u64>,
    broken: BTreeSet<u64>,
}

impl Content {
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.sectors.len() as u64 * SECTOR
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or(0)];
        for (number, sector) in &self.sectors {
            let begin = usize::try_from(number * SECTOR).unwrap_or(usize::MAX);
            bytes.iter_mut().skip(begin).zip(sector).for_each(|(to, from)| *to = *from);
        }
        bytes
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.saturating_add(buffer.len() as u64);
        if end > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(bad) = self.broken.range(offset / SECTOR..end.div_ceil(SECTOR)).next() {
            return Err(io::Error::other(format!("the sector at {} cannot be read", bad * SECTOR)));
        }
        buffer.fill(0);
        for (number, sector) in self.sectors.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let begin = number * SECTOR;
            let from = offset.max(begin);
            let count = cast(end.min(begin + SECTOR) - from);
            let target = buffer.iter_mut().skip(cast(from - offset));
            target.zip(sector.iter().skip(cast(from - begin)).take(count)).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let within = cast(at % SECTOR);
            let (now, later) = rest.split_at(rest.len().min(SECTOR_BYTES - within));
            let mut sector = self.sectors.get(&(at / SECTOR)).copied().unwrap_or([0; SECTOR_BYTES]);
            sector.iter_mut().skip(within).zip(now).for_each(|(to, from)| *to = *from);
            self.put(at / SECTOR, Some(sector));
            at += now.len() as u64;
            rest = later;
        }
        if !data.is_empty() {
            self.grow(at);
        }
    }

    /// Zeroes inside the file's size; a hole gives whole sectors back.
    pub(super) fn zero(&mut self, offset: u64, length: u64, hole: bool) {
        let end = offset.saturating_add(length).min(self.size);
        let mut at = offset;
        while at < end {
            let next = end.min((at / SECTOR + 1) * SECTOR);
            if hole && at.is_multiple_of(SECTOR) && (next.is_multiple_of(SECTOR) || next == self.size) {
                self.put(at / SECTOR, None);
            } else {
                self.write(&vec![0; cast(next - at)], at);
            }
            at = next;
        }
    }

    pub(super) fn grow(&mut self, size: u64) {
        if size > self.size {
            self.sizes.push(self.size);
            self.size = size;
        }
    }

    fn put(&mut self, number: u64, sector: Option<Sector>) {
        let before = match sector {
            Some(sector) => self.sectors.insert(number, sector),
            None => self.sectors.remove(&number),
        };
        let doubtful = self.doubtful.remove(&number);
        let versions = self.unsynced.entry(number).or_insert_with(|| doubtful.unwrap_or_default());
        versions.push(before);
        self.broken.remove(&number);
    }

    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
        self.sizes.clear();
    }

    /// The system says no once and forgets: what was written is in doubt until it is written again.
    pub(super) fn fail_sync(&mut self) {
        self.doubtful.append(&mut self.unsynced);
    }

    pub(super) fn break_sector(&mut self, offset: u64) {
        self.broken.insert(offset / SECTOR);
    }

    pub(super) fn flip_bit(&mut self, bit: u64) -> io::Result<()> {
        let at = bit / 8;
        if at >= self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let sector = self.sectors.entry(at / SECTOR).or_insert([0; SECTOR_BYTES]);
        if let Some(byte) = sector.get_mut(cast(at % SECTOR)) {
            *byte ^= 1 << (bit % 8);
        }
        Ok(())
    }

    /// The begin of the first data at or after the offset, and where it ends.
    pub(super) fn next_data(&self, offset: u64) -> Option<(u64, u64)> {
        let mut numbers = self.sectors.range(offset / SECTOR..).map(|(number, _)| *number);
        let first = numbers.next().filter(|number| number * SECTOR < self.size)?;
        let mut end = first + 1;
        while numbers.next() == Some(end) {
            end += 1;
        }
        Some((offset.max(first * SECTOR), (end * SECTOR).min(self.size))).filter(|(begin, end)| begin < end)
    }

    /// How many bytes from here can be written when so many more bytes may be taken.
    pub(super) fn fitting(&self, offset: u64, length: u64, free: u64) -> u64 {
        let end = offset.saturating_add(length);
        let mut free = free;
        let mut at = offset;
        while at < end {
            if !self.sectors.contains_key(&(at / SECTOR)) {
                if free < SECTOR {
                    break;
                }
                free -= SECTOR;
            }
            at = end.min((at / SECTOR + 1) * SECTOR);
        }
        at - offset
    }

    /// What is found after a loss of power.
    pub(super) fn after_crash(&self, chance: &mut Chance) -> Self {
        let mut sectors = self.sectors.clone();
        let policy = chance.policy();
        for (number, versions) in self.unsynced.iter().chain(&self.doubtful) {
            if policy.keeps(chance) {
                continue;
            }
            match versions.get(chance.below(versions.len())) {
                Some(Some(sector)) => sectors.insert(*number, *sector),
                _ => sectors.remove(number),
            };
        }
        let size = if policy.keeps(chance) { None } else { self.sizes.get(chance.below(self.sizes.len())).copied() };
        let size = size.unwrap_or(self.size);
        sectors.retain(|number, _| number * SECTOR < size);
        if let Some(sector) = sectors.get_mut(&(size / SECTOR)) {
            sector.iter_mut().skip(cast(size % SECTOR)).for_each(|byte| *byte = 0);
        }
        Self { size, sectors, broken: self.broken.clone(), ..Self::default() }
    }
}

/// Lengths inside a buffer or a sector.
fn cast(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

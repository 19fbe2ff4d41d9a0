//! Whether the log of an XFS file system holds nothing that is not at its place: what was unmounted, is mounted read-only, is frozen, or
//! has rested for a while.
//!
//! ```text
//!  the log, a ring:  … │ record │ record │ record │ … older …       a record: header, then operations
//!                      ▲ tail            ▲ newest                   unmounted: one operation that says so
//!                      what a mount would do again                  frozen, at rest: the superblock's counters alone
//! ```
//!
//! The newest record says from where on a mount would do again what was logged; before that all is at its place. XFS writes a frozen
//! file system's log until nothing but a change of the superblock is left, so that a mount looks for files that were deleted
//! while open. What is read here of the superblock does not change while it is in use, and those files have no names.
//! Whatever else a record holds, and whatever is not understood, counts as a change that is not at its place.

use super::Place;
use crate::bytes::Bytes;

const MAGIC: u32 = 0xfeed_babe;
const BLOCK: u64 = 512;
/// Bytes of a log that are looked at: the largest there is.
const LOG_BYTES_MAX: u64 = 4 << 30;
const STEP: u64 = 1 << 20;
/// Records that are looked into: what rests has two or three.
const RECORDS_MAX: usize = 64;
/// Blocks of one record that are looked into: as many as the first block of its header has the first words of.
const RECORD_BLOCKS_MAX: u64 = 64;
/// Bytes of a record for each block of its header, when it has several.
const HEADER_COVERS: u64 = 32 << 10;
const OPERATION_BYTES: usize = 12;

const STARTS: u8 = 1;
const COMMITS: u8 = 2;
const UNMOUNTED: u8 = 0x20;
const LITTLE_ENDIAN: u32 = 1;
/// `TRAN`, the head of a transaction.
const TRANSACTION: u32 = 0x5452_414e;
/// A change of a block.
const BUFFER: u16 = 0x123c;

/// A log being read.
pub(super) struct Log<'a> {
    /// The file system.
    pub(super) place: &'a Place<'a>,
    /// Where in it the log begins.
    pub(super) begin: u64,
    /// Its bytes.
    pub(super) length: u64,
    /// Of the file system: other records are left from before it.
    pub(super) uuid: &'a [u8],
}

/// The header of a record.
struct Record {
    /// Round through the log, and block in it.
    number: u64,
    /// The first record that a mount would do again.
    tail: u64,
    /// Its header's first block.
    header: Vec<u8>,
    header_blocks: u64,
    data_blocks: u64,
    operations: u32,
}

impl Log<'_> {
    /// Whether everything is at its place.
    pub(super) fn is_clean(&self) -> Result<bool, String> {
        if self.length > LOG_BYTES_MAX {
            return Err("its XFS log is larger than there are".into());
        }
        let Some(newest) = self.newest()? else { return Ok(true) };
        if self.is_quiet(&newest)? == Some(Quiet::Unmounted) {
            return Ok(true);
        }
        let mut number = newest.tail;
        for _ in 0..RECORDS_MAX {
            let Some(record) = self.record(number & 0xffff_ffff)?.filter(|record| record.number == number) else {
                return Ok(false);
            };
            if self.is_quiet(&record)?.is_none() {
                return Ok(false);
            }
            if number >= newest.number {
                return Ok(number == newest.number);
            }
            number = self.behind(&record);
        }
        Ok(false)
    }

    /// The newest record is the one with the largest number; where it lies says nothing, the log is a ring.
    fn newest(&self) -> Result<Option<Record>, String> {
        let mut newest: Option<(u64, u64)> = None;
        let mut at = 0;
        while at < self.length {
            let bytes = self.place.read(self.begin + at, usize::try_from(STEP.min(self.length - at)).unwrap_or(0))?;
            for (block, number) in bytes.chunks_exact(512).zip(at / BLOCK..) {
                if let Some(record) = self.header(block)?
                    && newest.is_none_or(|(before, _)| record.number > before)
                {
                    newest = Some((record.number, number));
                }
            }
            at += STEP;
        }
        newest.map_or(Ok(None), |(_, block)| self.record(block))
    }

    fn record(&self, block: u64) -> Result<Option<Record>, String> {
        if block >= self.length / BLOCK { Ok(None) } else { self.header(&self.block(block)?) }
    }

    /// A block that begins a record of this file system.
    fn header(&self, block: &[u8]) -> Result<Option<Record>, String> {
        let head = Bytes::new(block, "its log");
        let version = head.be32(8)?;
        if head.be32(0)? != MAGIC || !matches!(version, 1 | 2) || head.part(304, 16)? != self.uuid {
            return Ok(None);
        }
        let covered = if version == 2 { u64::from(head.be32(320)?) } else { 0 };
        Ok(Some(Record {
            number: head.be64(16)?,
            tail: head.be64(24)?,
            header_blocks: covered.div_ceil(HEADER_COVERS).max(1),
            data_blocks: u64::from(head.be32(12)?).div_ceil(BLOCK),
            operations: if head.be32(300)? == LITTLE_ENDIAN { head.be32(40)? } else { u32::MAX },
            header: block.to_vec(),
        }))
    }

    /// Blocks are counted on behind the end.
    fn block(&self, number: u64) -> Result<Vec<u8>, String> {
        self.place.read(self.begin + number % (self.length / BLOCK) * BLOCK, 512)
    }

    /// The number of the record that follows another one.
    fn behind(&self, record: &Record) -> u64 {
        let blocks = self.length / BLOCK;
        let next = (record.number & 0xffff_ffff) + record.header_blocks + record.data_blocks;
        let round = (record.number >> 32) + next / blocks;
        (round << 32) | (next % blocks)
    }

    /// What a record has beside its header; `None` when not all of it is there.
    fn data(&self, record: &Record) -> Result<Option<Vec<u8>>, String> {
        let (round, first) = (record.number >> 32, (record.number & 0xffff_ffff) + record.header_blocks);
        let head = Bytes::new(&record.header, "its log");
        let mut data = Vec::new();
        for number in 0..record.data_blocks.min(RECORD_BLOCKS_MAX) {
            let mut block = self.block(first + number)?;
            // The first word of each block is the round it was written in; what it was is in the header.
            let written = round + (first + number) / (self.length / BLOCK);
            if u64::from(Bytes::new(&block, "its log").be32(0)?) != written {
                return Ok(None);
            }
            let word = head.part(44 + usize::try_from(number).unwrap_or(0) * 4, 4)?;
            if let Some(begin) = block.get_mut(..4) {
                begin.copy_from_slice(word);
            }
            data.extend_from_slice(&block);
        }
        Ok(Some(data))
    }

    /// Whether a record holds nothing that belongs elsewhere; `None` when it does.
    fn is_quiet(&self, record: &Record) -> Result<Option<Quiet>, String> {
        let Some(data) = self.data(record)? else { return Ok(None) };
        let data = Bytes::new(&data, "its log");
        let (mut at, mut of_superblock) = (0, 0);
        for _ in 0..record.operations {
            // What goes beyond what is looked into is not known to be quiet.
            let Ok(head) = data.below(at, OPERATION_BYTES) else { return Ok(None) };
            let (length, flags) = (usize::try_from(head.be32(4)?).unwrap_or(usize::MAX), head.u8(9)?);
            let Ok(body) = data.below(at + OPERATION_BYTES, length) else { return Ok(None) };
            at += OPERATION_BYTES + length;
            match flags {
                UNMOUNTED if record.operations == 1 => return Ok(Some(Quiet::Unmounted)),
                STARTS | COMMITS if length == 0 => {}
                0 if of_superblock > 0 => of_superblock -= 1,
                0 if length == 16 && body.u32(0)? == TRANSACTION => {}
                0 if length >= 20 && body.u16(0)? == BUFFER && body.u64(8)? == 0 => {
                    // Its parts follow, each an operation of its own.
                    of_superblock = body.u16(2)?.saturating_sub(1);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(Quiet::Superblock))
    }
}

/// Why nothing of a record is to be done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quiet {
    /// It says that the file system was unmounted.
    Unmounted,
    /// It changes the superblock alone.
    Superblock,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::memory::Bytes as Memory;

    const BLOCKS: u64 = 256;
    const UUID: [u8; 16] = [7; 16];

    /// A log in memory, and where its next record goes.
    struct Made {
        image: Memory,
        number: u64,
    }

    fn operation(flags: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; OPERATION_BYTES];
        bytes[4..8].copy_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        bytes[9] = flags;
        bytes.extend_from_slice(body);
        bytes
    }

    /// A change of a block, with what it is in two parts.
    fn change(kind: u16, block: u64) -> Vec<Vec<u8>> {
        let mut item = [kind.to_le_bytes(), 3_u16.to_le_bytes(), [0; 2], 1_u16.to_le_bytes()].concat();
        item.extend(block.to_le_bytes().into_iter().chain([0; 8]));
        let head = [TRANSACTION.to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat();
        // The parts look like anything, also like the head of an operation.
        let parts = [operation(0, &[0xff; 384]), operation(0, &[0x20; 900])];
        let mut all = vec![operation(STARTS, &[]), operation(0, &head), operation(0, &item)];
        all.extend(parts);
        all.push(operation(COMMITS, &[]));
        all
    }

    impl Made {
        fn at(number: u64) -> Self {
            Self { image: Memory::new(vec![0; usize::try_from(BLOCKS * BLOCK).unwrap()]), number }
        }

        fn block(&mut self, number: u64) -> &mut [u8] {
            let at = usize::try_from(number % BLOCKS * BLOCK).unwrap();
            &mut self.image.bytes[at..at + 512]
        }

        /// Adds a record; its number.
        fn add(&mut self, operations: &[Vec<u8>], tail: u64, covered: u32) -> u64 {
            let (number, mut data) = (self.number, operations.concat());
            data.resize(data.len().next_multiple_of(512), 0);
            let header_blocks = u64::from(covered.div_ceil(32 << 10));
            let (round, block) = (number >> 32, number & 0xffff_ffff);
            let mut head = vec![0; 512];
            head[..4].copy_from_slice(&MAGIC.to_be_bytes());
            head[8..12].copy_from_slice(&2_u32.to_be_bytes());
            head[12..16].copy_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
            head[16..24].copy_from_slice(&number.to_be_bytes());
            head[24..32].copy_from_slice(&tail.to_be_bytes());
            head[40..44].copy_from_slice(&u32::try_from(operations.len()).unwrap().to_be_bytes());
            head[300..304].copy_from_slice(&LITTLE_ENDIAN.to_be_bytes());
            head[304..320].copy_from_slice(&UUID);
            head[320..324].copy_from_slice(&covered.to_be_bytes());
            let mut next = block + header_blocks;
            for (bytes, word) in data.chunks_mut(512).zip(11..) {
                head[word * 4..word * 4 + 4].copy_from_slice(&bytes[..4]);
                let written = u32::try_from(round + next / BLOCKS).unwrap();
                bytes[..4].copy_from_slice(&written.to_be_bytes());
                self.block(next).copy_from_slice(bytes);
                next += 1;
            }
            self.block(block).copy_from_slice(&head);
            self.number = ((round + next / BLOCKS) << 32) | (next % BLOCKS);
            number
        }

        fn is_clean(&self) -> bool {
            let place = Place { image: &self.image, offset: 0, length: BLOCKS * BLOCK };
            (Log { place: &place, begin: 0, length: BLOCKS * BLOCK, uuid: &UUID }).is_clean().unwrap()
        }
    }

    const INODE: u16 = 0x123b;

    #[test]
    fn what_changes_nothing_but_the_superblock_is_at_its_place_wherever_it_lies_in_the_ring() {
        for covered in [32 << 10, 256 << 10] {
            for begin in [0, 100, BLOCKS - 12, BLOCKS - 6, BLOCKS - 1] {
                let mut log = Made::at((3 << 32) | begin);
                assert!(log.is_clean(), "an empty one");
                let busy = log.add(&change(INODE, 4), (3 << 32) | begin, covered);
                assert!(!log.is_clean(), "{begin}: an inode's change");
                let first = log.add(&change(BUFFER, 0), busy, covered);
                assert!(!log.is_clean(), "{begin}: the change before it would be done again");
                log.add(&change(BUFFER, 0), first, covered);
                assert!(log.is_clean(), "{begin}, {covered}: it is at its place now");
                let mut unmounted = Made { image: Memory::new(log.image.bytes.clone()), number: log.number };
                unmounted.add(&[operation(UNMOUNTED, &[0; 8])], log.number, covered);
                assert!(unmounted.is_clean(), "{begin}: unmounted");
                // Any other block is none of the superblock.
                let other = log.add(&change(BUFFER, 8), first, covered);
                assert!(!log.is_clean(), "{begin}: a change of another block");
                log.add(&change(BUFFER, 0), other, covered);
                assert!(!log.is_clean());
            }
        }
    }

    #[test]
    fn a_record_that_is_not_all_there_is_not_believed() {
        let mut log = Made::at((3 << 32) | 10);
        log.add(&change(BUFFER, 0), (3 << 32) | 10, 32 << 10);
        assert!(log.is_clean());
        // Its last block is of the round before.
        log.block(12)[..4].copy_from_slice(&2_u32.to_be_bytes());
        assert!(!log.is_clean());
        // Where the tail should be is something else.
        let mut log = Made::at((3 << 32) | 10);
        log.add(&change(BUFFER, 0), (3 << 32) | 5, 32 << 10);
        assert!(!log.is_clean());
        // A tail that is never reached, or lies behind it.
        let mut log = Made::at((3 << 32) | 10);
        log.add(&change(BUFFER, 0), (3 << 32) | 60, 32 << 10);
        assert!(!log.is_clean());
        // Operations beyond its end.
        let mut log = Made::at((3 << 32) | 10);
        log.add(&change(BUFFER, 0), (3 << 32) | 10, 32 << 10);
        log.block(10)[40..44].copy_from_slice(&99_u32.to_be_bytes());
        assert!(!log.is_clean());
    }
}

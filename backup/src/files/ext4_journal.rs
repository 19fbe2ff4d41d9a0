//! The journal of ext4 (jbd2): which blocks it holds that are not yet at their places.
//!
//! An image at a marker holds all writes up to one point, so a commit block that is there has everything before it there:
//! what a mount does by checksums is not needed to find where the journal ends.

use std::collections::BTreeMap;

use super::ext4::Ext4;
use crate::bytes::Bytes;
use crate::content::Content;

const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;
const WIDE: u32 = 2;
const CHECKS_2: u32 = 8;
const CHECKS_3: u32 = 16;
/// Revoking, 64 bit, both kinds of checksums. Not fast commits (32), nor asynchronous ones (4), whose commit block may be there before what it
/// commits: only checksums would tell.
const KNOWN: u32 = 1 | WIDE | CHECKS_2 | CHECKS_3;
const ESCAPED: u32 = 1;
const SAME_ID: u32 = 2;
const LAST: u32 = 8;
/// Blocks of a journal that are looked at.
const BLOCKS_MAX: u64 = 1 << 24;
/// Blocks that it names at most: each takes memory, and the blocks of a journal that a guest has made may all be the same one.
const NAMED_MAX: usize = 1 << 22;

/// Where a block lies in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    /// In the file system.
    pub(super) at: u64,
    /// Its first four bytes are written as zeroes, because they are those of a journal block.
    pub(super) escaped: bool,
}

/// A journal being read.
struct Journal<'a> {
    system: &'a Ext4<'a>,
    content: &'a Content,
    features: u32,
    first: u64,
    end: u64,
}

/// What one transaction says.
#[derive(Default)]
struct Transaction {
    blocks: Vec<(u64, Moved)>,
    revoked: Vec<u64>,
}

/// The blocks that lie in the journal.
pub(super) fn replay(system: &Ext4<'_>, content: &Content) -> Result<BTreeMap<u64, Moved>, String> {
    let mut journal = Journal { system, content, features: 0, first: 0, end: 1 };
    let bytes = journal.block(0)?;
    let head = Bytes::new(&bytes, "its superblock");
    let (kind, version_two) = (head.be32(4)?, head.be32(4)? == 4);
    if head.be32(0)? != MAGIC || !matches!(kind, 3 | 4) || u64::from(head.be32(12)?) != system.block_bytes() {
        return Err("its superblock is not one".into());
    }
    journal.features = if version_two { head.be32(0x28)? } else { 0 };
    journal.first = head.be32(20)?.into();
    journal.end = u64::from(head.be32(16)?).min(content.size / system.block_bytes()).min(BLOCKS_MAX);
    let start = u64::from(head.be32(28)?);
    if start == 0 {
        return Ok(BTreeMap::new());
    }
    if journal.features & !KNOWN != 0 {
        return Err(
            "it has features that are not known here (fast or asynchronous commits?): unmount or freeze the file system for the backup"
                .into(),
        );
    }
    if journal.first == 0 || start < journal.first || start >= journal.end {
        return Err("its superblock makes no sense".into());
    }
    journal.transactions(start, head.be32(24)?)
}

impl Journal<'_> {
    /// Where a block of the journal lies in the file system.
    fn place(&self, block: u64) -> Result<u64, String> {
        let at = block * self.system.block_bytes();
        let behind = self.content.runs.partition_point(|run| run.end() <= at);
        let run = self.content.runs.get(behind).filter(|run| run.at <= at).ok_or("a part of it is a hole")?;
        (run.from + (at - run.at))
            .checked_sub(self.system.place().offset)
            .ok_or_else(|| "it lies before its file system".into())
    }

    fn block(&self, block: u64) -> Result<Vec<u8>, String> {
        self.system.place().read(self.place(block)?, usize::try_from(self.system.block_bytes()).unwrap_or(0))
    }

    fn next(&self, block: u64) -> u64 {
        if block + 1 >= self.end { self.first } else { block + 1 }
    }

    fn transactions(&self, start: u64, sequence: u32) -> Result<BTreeMap<u64, Moved>, String> {
        let mut moved: BTreeMap<u64, Moved> = BTreeMap::new();
        let (mut at, mut sequence, mut open) = (start, sequence, Transaction::default());
        // It is a ring: once round is all there can be.
        let mut left = self.end - self.first;
        while left > 0 {
            let bytes = self.block(at)?;
            let block = Bytes::new(&bytes, "a block of it");
            if block.be32(0)? != MAGIC || block.be32(8)? != sequence {
                break;
            }
            let kind = block.be32(4)?;
            let mut passed = 1;
            match kind {
                DESCRIPTOR => passed += self.tags(&block, at, &mut open)?,
                REVOKE => self.revoked(&block, &mut open)?,
                COMMIT => {
                    // A revoked block is not to be written by this transaction or one before it.
                    moved.extend(open.blocks.drain(..));
                    for block in open.revoked.drain(..) {
                        moved.remove(&block);
                    }
                    sequence = sequence.wrapping_add(1);
                }
                _ => break,
            }
            if moved.len() + open.blocks.len() + open.revoked.len() > NAMED_MAX {
                return Err(format!(
                    "it names more than {NAMED_MAX} blocks: unmount or freeze the file system for the backup"
                ));
            }
            for _ in 0..passed {
                at = self.next(at);
            }
            left = left.saturating_sub(passed);
        }
        Ok(moved)
    }

    /// The blocks that follow a descriptor; how many.
    fn tags(&self, block: &Bytes<'_>, at: u64, open: &mut Transaction) -> Result<u64, String> {
        let wide = self.features & WIDE != 0;
        let check_bytes = if self.features & (CHECKS_2 | CHECKS_3) != 0 { 4 } else { 0 };
        let end = block.bytes.len().saturating_sub(check_bytes);
        let (mut tag, mut data, mut count) = (12, at, 0);
        loop {
            let (flags, high, length) = if self.features & CHECKS_3 != 0 {
                (block.be32(tag + 4)?, block.be32(tag + 8)?, 16)
            } else {
                let narrow = 8 + if self.features & CHECKS_2 != 0 { 2 } else { 0 };
                (
                    block.be16(tag + 6)?.into(),
                    if wide { block.be32(tag + 8)? } else { 0 },
                    narrow + if wide { 4 } else { 0 },
                )
            };
            let target = u64::from(block.be32(tag)?) | if wide { u64::from(high) << 32 } else { 0 };
            data = self.next(data);
            count += 1;
            open.blocks.push((target, Moved { at: self.place(data)?, escaped: flags & ESCAPED != 0 }));
            tag += length + if flags & SAME_ID == 0 { 16 } else { 0 };
            if flags & LAST != 0 || tag + length > end {
                return Ok(count);
            }
        }
    }

    fn revoked(&self, block: &Bytes<'_>, open: &mut Transaction) -> Result<(), String> {
        let end = usize::try_from(block.be32(12)?).unwrap_or(usize::MAX).min(block.bytes.len());
        let wide = self.features & WIDE != 0;
        let mut at = 16;
        while at + if wide { 8 } else { 4 } <= end {
            open.revoked.push(if wide { block.be64(at)? } else { block.be32(at)?.into() });
            at += if wide { 8 } else { 4 };
        }
        Ok(())
    }
}

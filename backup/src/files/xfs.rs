//! XFS as far as names and places of bytes go. Its log is not replayed: a file system whose log holds changes that are not at
//! their places is refused, and what to do is said (a freeze brings them there).

use super::xfs_log::Log;
use super::{FileSystem, Node, NodeKind, Place, Show};
use crate::bytes::Bytes;
use crate::content::{Content, RUNS_MAX, Run};
use crate::plan::Meta;

/// File types in directories, sparse inodes, another UUID in metadata, large times, many extents, exchanged ranges, parent
/// pointers.
const KNOWN: u32 = 1 | 2 | 4 | 8 | 32 | 64 | 128;
const FILE_TYPES: u32 = 1;
const FILE_TYPES_4: u32 = 0x200;
const BIG_TIME: u64 = 8;
const MANY_EXTENTS: u64 = 16;
const REAL_TIME: u16 = 1;
/// An attribute that says where the file is named, and is none that people give.
const PARENT: u8 = 8;
/// What lies in an inode whole.
const LOCAL: u8 = 1;
/// Where in a directory its index begins: all entries lie before.
const INDEX_AT: u64 = 32 << 30;
/// Bytes of a symbolic link that is believed, at most.
const LINK_BYTES_MAX: u64 = 1 << 16;

/// See the module.
pub(super) struct Xfs<'a> {
    place: Place<'a>,
    block_bytes: u64,
    group_blocks: u64,
    groups: u64,
    group_shift: u32,
    inode_bytes: u64,
    inode_shift: u32,
    root: u64,
    folder_block_bytes: usize,
    five: bool,
    file_types: bool,
}

/// The file system at a place, if it is one.
pub(super) fn open(place: Place<'_>) -> Result<Option<Xfs<'_>>, String> {
    let Ok(bytes) = place.read(0, 512) else { return Ok(None) };
    let block = Bytes::new(&bytes, "its superblock");
    if block.part(0, 4)? != b"XFSB" {
        return Ok(None);
    }
    let five = block.be16(100)? & 15 == 5;
    let incompatible = if five { block.be32(216)? } else { 0 };
    if incompatible & !KNOWN != 0 || !(4..=5).contains(&(block.be16(100)? & 15)) {
        return Err(format!(
            "its XFS file system uses features that are not known here ({incompatible:#x}): back up the volume or partition whole"
        ));
    }
    let block_bytes = u64::from(block.be32(4)?);
    let folder_shift = u32::from(block.u8(192)?);
    let system = Xfs {
        place,
        block_bytes,
        group_blocks: block.be32(84)?.into(),
        groups: block.be32(88)?.into(),
        group_shift: block.u8(124)?.into(),
        inode_bytes: block.be16(104)?.into(),
        inode_shift: block.u8(123)?.into(),
        root: block.be64(56)?,
        folder_block_bytes: usize::try_from(block_bytes).unwrap_or(0).checked_shl(folder_shift).unwrap_or(0),
        five,
        file_types: if five { incompatible & FILE_TYPES != 0 } else { block.be32(200)? & FILE_TYPES_4 != 0 },
    };
    let blocks = block.be64(8)?;
    let sound = (512..=65536).contains(&block_bytes)
        && block_bytes.is_power_of_two()
        && (256..=2048).contains(&system.inode_bytes)
        && system.group_shift < 32
        && system.inode_shift <= 8
        && system.inode_bytes.checked_shl(system.inode_shift) == Some(block_bytes)
        && system.group_blocks > 0
        && system.group_blocks <= 1 << system.group_shift
        && folder_shift <= 7
        && (512..=65536).contains(&system.folder_block_bytes)
        && blocks.checked_mul(block_bytes).is_some_and(|bytes| bytes <= place.length);
    if !sound {
        return Err("its XFS superblock makes no sense, or it is larger than its volume or partition".into());
    }
    let (log, log_blocks) = (block.be64(48)?, u64::from(block.be32(96)?));
    if log == 0 {
        return Err("its XFS log is on another device: back up the volume or partition whole".into());
    }
    let uuid = block.part(32, 16)?;
    let (begin, length) = (system.byte(log)?, log_blocks.saturating_mul(block_bytes));
    if !(Log { place: &place, begin, length, uuid }).is_clean()? {
        return Err(
            "its XFS file system was being written, and its log is not replayed here: freeze it on its host while the backup is asked for \
             (`fsfreeze --freeze MOUNTPOINT`, `tidemark backup create`, `fsfreeze --unfreeze MOUNTPOINT`), or back up the volume or \
             partition whole"
                .into(),
        );
    }
    Ok(Some(system))
}

impl Xfs<'_> {
    /// Where a block lies, in bytes from the begin of the file system.
    fn byte(&self, block: u64) -> Result<u64, String> {
        let (group, within) = (block >> self.group_shift, block & ((1 << self.group_shift) - 1));
        if group >= self.groups || within >= self.group_blocks {
            return Err(format!("it points to block {block}, which cannot be"));
        }
        Ok((group * self.group_blocks + within) * self.block_bytes)
    }

    fn block(&self, block: u64) -> Result<Vec<u8>, String> {
        self.place.read(self.byte(block)?, usize::try_from(self.block_bytes).unwrap_or(0))
    }

    fn inode(&self, number: u64) -> Result<Vec<u8>, String> {
        let within = number & ((1 << self.inode_shift) - 1);
        let at = self.byte(number >> self.inode_shift)? + within * self.inode_bytes;
        self.place.read(at, usize::try_from(self.inode_bytes).unwrap_or(0))
    }

    /// Extents as they lie in inodes and leaves.
    fn add(&self, records: &Bytes<'_>, count: usize, content: &mut Content) -> Result<(), String> {
        for record in 0..count {
            let (high, low) = (records.be64(record * 16)?, records.be64(record * 16 + 8)?);
            let unwritten = high >> 63 != 0;
            let at = ((high & (u64::MAX >> 1)) >> 9).checked_mul(self.block_bytes).ok_or("an extent makes no sense")?;
            let block = (high & 0x1ff) << 43 | low >> 21;
            let length = (low & 0x1f_ffff) * self.block_bytes;
            // Beyond the end of a file there may be blocks kept for it.
            let length = length.min(content.size.saturating_sub(at));
            if length == 0 {
                continue;
            }
            let last = content.runs.last().map_or(0, Run::end);
            if at < last || content.runs.len() >= RUNS_MAX {
                return Err("its extents overlap, or are too many".into());
            }
            // An extent lies in one group.
            let begin = self.byte(block)?;
            self.byte(block + (length - 1) / self.block_bytes)?;
            if !unwritten {
                content.push(Run { at, from: self.place.offset + begin, length });
            }
        }
        Ok(())
    }

    fn by_tree(&self, fork: &Bytes<'_>, content: &mut Content) -> Result<(), String> {
        let (level, count) = (fork.be16(0)?, usize::from(fork.be16(2)?));
        let pointers = 4 + fork.bytes.len().saturating_sub(4) / 16 * 8;
        let mut nodes = 0;
        let mut waiting = pointers_of(fork, pointers, count, level)?;
        let head = if self.five { 72 } else { 24 };
        let below = head + usize::try_from(self.block_bytes).unwrap_or(0).saturating_sub(head) / 16 * 8;
        while let Some((block, above)) = waiting.pop() {
            nodes += 1;
            let bytes = self.block(block)?;
            let node = Bytes::new(&bytes, "an extent tree");
            let (level, count) = (node.be16(4)?, usize::from(node.be16(6)?));
            let magic = node.part(0, 4)?;
            if level + 1 != above || nodes > super::TREE_NODES_MAX || (magic != b"BMAP" && magic != b"BMA3") {
                return Err("its extent tree is damaged".into());
            }
            if level == 0 {
                self.add(&node.below(head, node.bytes.len() - head)?, count, content)?;
            } else {
                waiting.extend(pointers_of(&node, below, count, level)?);
            }
        }
        Ok(())
    }

    fn short_folder(&self, bytes: &[u8], show: &mut Show<'_>) -> Result<(), String> {
        let folder = Bytes::new(bytes, "a directory");
        let (count, wide) = (folder.u8(0)?, folder.u8(1)? > 0);
        let number_bytes = if wide { 8 } else { 4 };
        let mut at = 2 + number_bytes;
        for _ in 0..count {
            let length = usize::from(folder.u8(at)?);
            let name = folder.part(at + 3, length)?;
            at += 3 + length + usize::from(self.file_types);
            show(name, if wide { folder.be64(at)? } else { folder.be32(at)?.into() })?;
            at += number_bytes;
        }
        Ok(())
    }

    fn folder_block(&self, bytes: &[u8], show: &mut Show<'_>) -> Result<(), String> {
        let block = Bytes::new(bytes, "a directory");
        let magic = block.part(0, 4)?;
        let end = match magic {
            b"XD2B" | b"XDB3" => {
                let index = usize::try_from(block.be32(bytes.len().saturating_sub(8))?).unwrap_or(usize::MAX);
                bytes.len().saturating_sub(8).checked_sub(index.saturating_mul(8)).ok_or("a directory is damaged")?
            }
            b"XD2D" | b"XDD3" => bytes.len(),
            _ => return Err("a directory is damaged".into()),
        };
        let mut at = if self.five { 64 } else { 16 };
        while at + 8 <= end {
            if block.be16(at)? == 0xffff {
                at += usize::from(block.be16(at + 2)?).max(8);
                continue;
            }
            let (number, length) = (block.be64(at)?, usize::from(block.u8(at + 8)?));
            let name = block.part(at + 9, length)?;
            if name != b"." && name != b".." {
                show(name, number)?;
            }
            at += (8 + 1 + length + usize::from(self.file_types) + 2).next_multiple_of(8);
        }
        Ok(())
    }
}

/// Blocks to visit, with their levels; in their order when they are taken from the end.
fn pointers_of(node: &Bytes<'_>, at: usize, count: usize, level: u16) -> Result<Vec<(u64, u16)>, String> {
    (0..count).rev().map(|index| Ok((node.be64(at + index * 8)?, level))).collect()
}

/// Whether an inode has attributes that people give. Where they lie outside of it, those that say where it is named are not told from others.
fn has_attributes(inode: &Bytes<'_>, core: usize, flags: u64) -> Result<bool, String> {
    let begin = core + usize::from(inode.u8(82)?) * 8;
    if begin == core {
        return Ok(false);
    }
    if inode.u8(83)? != LOCAL {
        let extents = if flags & MANY_EXTENTS != 0 { inode.be32(76)? } else { inode.be16(80)?.into() };
        return Ok(extents > 0);
    }
    let mut at = begin + 4;
    for _ in 0..inode.u8(begin + 2)? {
        if inode.u8(at + 2)? & PARENT == 0 {
            return Ok(true);
        }
        at += 3 + usize::from(inode.u8(at)?) + usize::from(inode.u8(at + 1)?);
    }
    Ok(false)
}

impl FileSystem for Xfs<'_> {
    fn root(&self) -> u64 {
        self.root
    }

    fn node(&self, number: u64) -> Result<Node, String> {
        let bytes = self.inode(number)?;
        let inode = Bytes::new(&bytes, "an inode");
        let (mode, version, format) = (inode.be16(2)?, inode.u8(4)?, inode.u8(5)?);
        if inode.be16(0)? != 0x494e || !(1..=3).contains(&version) {
            return Err(format!("inode {number} is not one"));
        }
        let kind = NodeKind::of(mode, number)?;
        let flags = if version == 3 { inode.be64(120)? } else { 0 };
        let modified = if flags & BIG_TIME != 0 {
            i64::try_from(inode.be64(40)? / 1_000_000_000).unwrap_or(0) - (1 << 31)
        } else {
            inode.be32(40)?.cast_signed().into()
        };
        let meta = Meta { mode: u32::from(mode & 0o7777), uid: inode.be32(8)?, gid: inode.be32(12)?, modified };
        let size = inode.be64(56)?;
        let core = if version == 3 { 176 } else { 100 };
        let has_attributes = has_attributes(&inode, core, flags).unwrap_or(true);
        let content = Content { size, runs: Vec::new() };
        let mut node = Node { number, kind, meta, content, inside: None, has_attributes };
        if node.kind == NodeKind::Other {
            node.content.size = 0;
            return Ok(node);
        }
        if inode.be16(90)? & REAL_TIME != 0 {
            return Err("it lies in the realtime section, which is not read here".into());
        }
        let attributes = usize::from(inode.u8(82)?) * 8;
        let fork_bytes = if attributes > 0 { attributes } else { bytes.len().saturating_sub(core) };
        let fork = inode.below(core, fork_bytes)?;
        let count = if flags & MANY_EXTENTS != 0 { inode.be64(24)? } else { inode.be32(76)?.into() };
        if node.kind == NodeKind::Link {
            // What it takes on the disk, with its headers: it is not cut to what it says without them.
            let blocks = size.div_ceil(self.block_bytes - self.link_head());
            node.content.size = blocks.saturating_mul(self.block_bytes);
        }
        match format {
            LOCAL => node.inside = Some(fork.part(0, usize::try_from(size).unwrap_or(usize::MAX))?.to_vec()),
            2 => self.add(&fork, usize::try_from(count).unwrap_or(usize::MAX), &mut node.content)?,
            3 => self.by_tree(&fork, &mut node.content)?,
            _ => return Err(format!("inode {number} keeps its content in no known form")),
        }
        if node.kind == NodeKind::Link && node.inside.is_none() {
            node.inside = Some(self.remote_link(&node.content, size)?);
        }
        Ok(node)
    }

    fn entries(&self, node: &Node, show: &mut Show<'_>) -> Result<(), String> {
        if let Some(inside) = &node.inside {
            return self.short_folder(inside, show);
        }
        let mut entries = node.content.clone();
        entries.size = entries.runs.iter().filter(|run| run.at < INDEX_AT).map(Run::end).max().unwrap_or(0);
        entries.runs.retain(|run| run.at < INDEX_AT);
        let block_bytes = self.folder_block_bytes as u64;
        super::blocks(&self.place, &entries, block_bytes, &mut |block| match block.iter().any(|byte| *byte != 0) {
            true => self.folder_block(block, show),
            false => Ok(()),
        })
    }
}

impl Xfs<'_> {
    /// Bytes before what a run of a link holds: a header, on version 5.
    const fn link_head(&self) -> u64 {
        if self.five { 56 } else { 0 }
    }

    /// A link that is too long for its inode.
    fn remote_link(&self, content: &Content, size: u64) -> Result<Vec<u8>, String> {
        if size > LINK_BYTES_MAX {
            return Err(format!("it has {size} bytes, which is more than there can be"));
        }
        let (size, head) = (usize::try_from(size).unwrap_or(0), usize::try_from(self.link_head()).unwrap_or(0));
        let mut link = Vec::new();
        for run in &content.runs {
            let whole = Content { size: run.length, runs: vec![Run { at: 0, ..*run }] };
            let bytes = super::content(&self.place, &whole, content.size)?;
            link.extend_from_slice(bytes.get(head..).unwrap_or_default());
        }
        if link.len() < size {
            return Err("a part of it is a hole".into());
        }
        link.truncate(size);
        Ok(link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::memory::Bytes as Memory;

    /// With blocks of 1 KiB the longest links take two of them, behind one header.
    #[test]
    fn a_link_of_two_blocks_is_read_to_its_end() {
        let target: Vec<u8> = (0..1000_u32).map(|at| b'a' + u8::try_from(at % 26).unwrap()).collect();
        let mut disk = vec![0; 64 << 10];
        // The inode lies in block 4, the link in blocks 10 and 11.
        let inode = &mut disk[4096..4608];
        inode[..2].copy_from_slice(b"IN");
        inode[2..4].copy_from_slice(&0xa1ff_u16.to_be_bytes());
        inode[4..6].copy_from_slice(&[3, 2]);
        inode[56..64].copy_from_slice(&1000_u64.to_be_bytes());
        inode[76..80].copy_from_slice(&1_u32.to_be_bytes());
        inode[184..192].copy_from_slice(&(10_u64 << 21 | 2).to_be_bytes());
        disk[10 * 1024 + 56..10 * 1024 + 1056].copy_from_slice(&target);
        let image = Memory::new(disk);
        let system = Xfs {
            place: Place { image: &image, offset: 0, length: 64 << 10 },
            block_bytes: 1024,
            group_blocks: 64,
            groups: 1,
            group_shift: 6,
            inode_bytes: 512,
            inode_shift: 1,
            root: 0,
            folder_block_bytes: 1024,
            five: true,
            file_types: true,
        };
        assert_eq!(system.node(8).unwrap().inside, Some(target));
    }

    #[test]
    fn where_a_file_is_named_is_no_attribute_that_is_missed() {
        let mut inode = vec![0; 512];
        let found = |inode: &[u8], flags| has_attributes(&Bytes::new(inode, "an inode"), 176, flags);
        assert_eq!(found(&inode, 0), Ok(false));
        // They begin 80 bytes behind the fields: one that says where it is named, with a name of 12 bytes and a value of one.
        (inode[82], inode[83]) = (10, LOCAL);
        inode[256..263].copy_from_slice(&[0, 30, 1, 0, 12, 1, PARENT]);
        assert_eq!(found(&inode, 0), Ok(false));
        // And another one behind it.
        inode[258] = 2;
        inode[276..279].copy_from_slice(&[1, 1, 2]);
        assert_eq!(found(&inode, 0), Ok(true));
        inode[83] = 2;
        assert_eq!(found(&inode, 0), Ok(false));
        inode[81] = 1;
        assert_eq!((found(&inode, 0), found(&inode, MANY_EXTENTS)), (Ok(true), Ok(false)));
        inode[79] = 1;
        assert_eq!(found(&inode, MANY_EXTENTS), Ok(true));
        inode[82] = 255;
        inode[83] = LOCAL;
        assert!(found(&inode, 0).is_err());
    }
}

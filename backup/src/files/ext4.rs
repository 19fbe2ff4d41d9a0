//! ext4 (and ext3, ext2) as far as names and places of bytes go. What its journal holds and has not yet written to its
//! place is read from the journal, as a mount would do it.

use std::collections::BTreeMap;

use super::ext4_attributes;
use super::ext4_journal::{Moved, replay};
use super::{FileSystem, Node, NodeKind, Place, Show};
use crate::bytes::Bytes;
use crate::content::{Content, RUNS_MAX, Run};
use crate::plan::Meta;

const MAGIC: u16 = 0xef53;
/// Where the superblock is.
const SUPERBLOCK: u64 = 1024;
const ROOT: u64 = 2;
const EXTENTS: u32 = 0x0008_0000;
const ENCRYPTED: u32 = 0x800;
const INLINE: u32 = 0x1000_0000;
/// What a reader must know and this one does: file types, recovery, meta groups, extents, 64 bit, multi-mount
/// protection, flexible groups, large attributes, checksum seed, large directories, data in inodes, encryption (of single
/// files, which are refused), case folding.
const KNOWN: u32 =
    0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;
const NEEDS_RECOVERY: u32 = 0x4;
const META_GROUPS: u32 = 0x10;
const WIDE: u32 = 0x80;
/// A compatible feature, and a bit of its state.
const JOURNAL: u32 = 0x4;
const UNMOUNTED: u16 = 1;
/// Compatible and read-only compatible features that say which groups begin with a copy of the superblock.
const TWO_COPIES: u32 = 0x200;
const FEW_COPIES: u32 = 0x1;

/// Which groups beside the first one begin with a copy of the superblock.
enum Copies {
    All,
    /// The second one, and those whose numbers are powers of 3, 5 and 7.
    Few,
    Two([u64; 2]),
}

/// See the module.
pub(super) struct Ext4<'a> {
    place: Place<'a>,
    is_settled: bool,
    block_bytes: u64,
    blocks: u64,
    inodes: u64,
    inodes_per_group: u64,
    inode_bytes: u64,
    descriptor_bytes: u64,
    /// Descriptors of groups lie together up to this block of them; those of later ones in the first of the groups they describe.
    meta_groups_from: u64,
    group_blocks: u64,
    copies: Copies,
    first_block: u64,
    /// Blocks that lie in the journal still.
    moved: BTreeMap<u64, Moved>,
}

/// The file system at a place, if it is one of these.
pub(super) fn open(place: Place<'_>) -> Result<Option<Ext4<'_>>, String> {
    let Ok(bytes) = place.read(SUPERBLOCK, 1024) else { return Ok(None) };
    let block = Bytes::new(&bytes, "its superblock");
    if block.u16(0x38)? != MAGIC {
        return Ok(None);
    }
    let system = described(place, &block)?;
    if block.u32(0x60)? & NEEDS_RECOVERY == 0 {
        return Ok(Some(system));
    }
    let journal = u64::from(block.u32(0xe0)?);
    if journal == 0 {
        return Err("its ext4 journal is on another device: unmount or freeze it for the backup".into());
    }
    let moved = replay(&system, &system.node(journal)?.content).map_err(|why| format!("its ext4 journal: {why}"))?;
    // The journal may hold the superblock too: of one that was grown a moment ago, it alone says how large it is.
    let system = Ext4 { moved, ..system };
    let bytes = system.meta(SUPERBLOCK, 1024)?;
    let now = described(place, &Bytes::new(&bytes, "its superblock"))?;
    Ok(Some(Ext4 { moved: system.moved, ..now }))
}

/// What a superblock says.
fn described<'a>(place: Place<'a>, block: &Bytes<'_>) -> Result<Ext4<'a>, String> {
    let incompatible = block.u32(0x60)?;
    if incompatible & !KNOWN != 0 {
        return Err(format!(
            "its ext4 file system uses features that are not known here ({}): back up the volume or partition whole",
            names(incompatible & !KNOWN)
        ));
    }
    let wide = incompatible & WIDE != 0;
    let shift = block.u32(0x18)?;
    if shift > 6 {
        return Err("its ext4 superblock makes no sense (block size)".into());
    }
    let high = if wide { u64::from(block.u32(0x150)?) << 32 } else { 0 };
    let dynamic = block.u32(0x4c)? > 0;
    let copies = match (block.u32(0x5c)? & TWO_COPIES != 0, block.u32(0x64)? & FEW_COPIES != 0) {
        (true, _) => Copies::Two([block.u32(0x24c)?.into(), block.u32(0x250)?.into()]),
        (false, true) => Copies::Few,
        (false, false) => Copies::All,
    };
    let system = Ext4 {
        place,
        is_settled: block.u32(0x5c)? & JOURNAL != 0 || block.u16(0x3a)? & UNMOUNTED != 0,
        block_bytes: 1024 << shift,
        blocks: u64::from(block.u32(4)?) | high,
        inodes: block.u32(0)?.into(),
        inodes_per_group: block.u32(0x28)?.into(),
        inode_bytes: if dynamic { block.u16(0x58)?.into() } else { 128 },
        descriptor_bytes: if wide { block.u16(0xfe)?.into() } else { 32 },
        meta_groups_from: if incompatible & META_GROUPS != 0 { block.u32(0x104)?.into() } else { u64::MAX },
        group_blocks: block.u32(0x20)?.into(),
        copies,
        first_block: block.u32(0x14)?.into(),
        moved: BTreeMap::new(),
    };
    let sound = system.inodes_per_group > 0
        && (128..=system.block_bytes).contains(&system.inode_bytes)
        && (32..=1024).contains(&system.descriptor_bytes)
        && system.blocks.checked_mul(system.block_bytes).is_some_and(|bytes| bytes <= place.length);
    if !sound {
        return Err("its ext4 superblock makes no sense, or it is larger than its volume or partition".into());
    }
    Ok(system)
}

/// Features as mke2fs calls them; others by their bits.
fn names(features: u32) -> String {
    const NAMES: [(u32, &str); 3] = [(0x1, "compression"), (0x8, "journal_dev"), (0x1000, "dirdata")];
    let name = |bit: u32| {
        let known = NAMES.iter().find(|(of, _)| *of == bit);
        known.map_or_else(|| format!("{bit:#x}"), |(_, name)| (*name).to_owned())
    };
    let bits = (0..u32::BITS).map(|shift| 1_u32 << shift).filter(|bit| features & bit != 0);
    bits.map(name).collect::<Vec<_>>().join(", ")
}

impl Ext4<'_> {
    /// Bytes of a block.
    pub(super) const fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// The place of the file system in its volume.
    pub(super) const fn place(&self) -> &Place<'_> {
        &self.place
    }

    fn is_block(&self, block: u64) -> bool {
        (self.first_block.max(1)..self.blocks).contains(&block)
    }

    fn block(&self, block: u64) -> Result<Vec<u8>, String> {
        if block >= self.blocks {
            return Err(format!("it points to block {block}, and has {}", self.blocks));
        }
        let length = usize::try_from(self.block_bytes).unwrap_or(0);
        let Some(moved) = self.moved.get(&block) else { return self.place.read(block * self.block_bytes, length) };
        let mut bytes = self.place.read(moved.at, length)?;
        if moved.escaped
            && let Some(head) = bytes.get_mut(..4)
        {
            head.copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
        }
        Ok(bytes)
    }

    /// Bytes that may lie across blocks.
    fn meta(&self, at: u64, length: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let (mut at, end) = (at, at.checked_add(length).ok_or("it points beyond its end")?);
        while at < end {
            let within = at % self.block_bytes;
            let some = (self.block_bytes - within).min(end - at);
            let block = self.block(at / self.block_bytes)?;
            let begin = usize::try_from(within).unwrap_or(0);
            bytes.extend_from_slice(Bytes::new(&block, "a block").part(begin, usize::try_from(some).unwrap_or(0))?);
            at += some;
        }
        Ok(bytes)
    }

    fn inode(&self, number: u64) -> Result<Vec<u8>, String> {
        self.meta(self.inode_at(number)?, self.inode_bytes)
    }

    /// Where an inode lies, in bytes.
    fn inode_at(&self, number: u64) -> Result<u64, String> {
        let index = number.checked_sub(1).filter(|index| *index < self.inodes);
        let index = index.ok_or_else(|| format!("it names inode {number}, which cannot be"))?;
        let (group, index) = (index / self.inodes_per_group, index % self.inodes_per_group);
        let at = self.descriptor_at(group).ok_or("its groups make no sense")?;
        let descriptor = self.meta(at, self.descriptor_bytes)?;
        let descriptor = Bytes::new(&descriptor, "a group's descriptor");
        let high = if self.descriptor_bytes >= 64 { u64::from(descriptor.u32(0x28)?) << 32 } else { 0 };
        let inodes = u64::from(descriptor.u32(8)?) | high;
        let at = inodes.checked_mul(self.block_bytes).and_then(|at| at.checked_add(index * self.inode_bytes));
        at.ok_or_else(|| "a group's descriptor makes no sense".into())
    }

    /// Where the descriptor of a group lies, in bytes.
    fn descriptor_at(&self, group: u64) -> Option<u64> {
        let per_block = self.block_bytes / self.descriptor_bytes;
        let block = group / per_block;
        if block < self.meta_groups_from {
            // In the block behind the one that holds the superblock, wherever blocks are counted from: with 1 KiB blocks and bigalloc, from 0.
            return Some((SUPERBLOCK / self.block_bytes + 1) * self.block_bytes + group * self.descriptor_bytes);
        }
        let first = block * per_block;
        // The same holds for what lies before the superblock here.
        let is_one_off = block == 0 && self.block_bytes == SUPERBLOCK && self.first_block == 0;
        let before = u64::from(self.has_superblock(first)) + u64::from(is_one_off);
        let at = first.checked_mul(self.group_blocks)?.checked_add(self.first_block + before)?;
        at.checked_mul(self.block_bytes)?.checked_add(group % per_block * self.descriptor_bytes)
    }

    fn has_superblock(&self, group: u64) -> bool {
        let is_power = |of: u64| {
            let mut power = of;
            while power < group {
                power *= of;
            }
            power == group
        };
        group == 0
            || match self.copies {
                Copies::All => true,
                Copies::Few => group == 1 || [3, 5, 7].into_iter().any(is_power),
                Copies::Two(two) => two.contains(&group),
            }
    }

    /// A file's content that lies in its inode. What the journal holds of that lies there.
    fn in_inode(&self, number: u64, size: u64, parts: [(usize, usize); 2]) -> Result<Content, String> {
        let at = self.inode_at(number)?;
        let (block, within) = (at / self.block_bytes, at % self.block_bytes);
        if within + self.inode_bytes > self.block_bytes {
            return Err("its inode lies in two blocks".into());
        }
        let block_at = self.moved.get(&block).map_or(block * self.block_bytes, |moved| moved.at);
        let mut content = Content { size, runs: Vec::new() };
        for (from, length) in parts {
            let at = content.runs.last().map_or(0, Run::end);
            let from = self.place.offset + block_at + within + from as u64;
            content.push(Run { at, from, length: (length as u64).min(size - at) });
        }
        Ok(content)
    }

    /// Where a file's bytes lie, by extents.
    fn by_extents(&self, root: &[u8], runs: &mut Runs<'_>) -> Result<(), String> {
        let mut nodes = 0;
        let mut waiting: Vec<(Option<u64>, Option<u16>)> = vec![(None, None)];
        while let Some((block, above)) = waiting.pop() {
            nodes += 1;
            let bytes = block.map(|block| self.block(block)).transpose()?;
            let node = Bytes::new(bytes.as_deref().unwrap_or(root), "an extent tree");
            let (entries, depth) = (usize::from(node.u16(2)?), node.u16(6)?);
            if node.u16(0)? != 0xf30a
                || above.is_some_and(|above| depth >= above)
                || depth > 5
                || nodes > super::TREE_NODES_MAX
            {
                return Err("its extent tree is damaged".into());
            }
            let mut below = Vec::new();
            for entry in 0..entries {
                let entry = node.below(12 + entry * 12, 12)?;
                if depth > 0 {
                    let child = u64::from(entry.u32(4)?) | u64::from(entry.u16(8)?) << 32;
                    below.push((Some(child), Some(depth)));
                    continue;
                }
                let (length, first) =
                    (u64::from(entry.u16(4)?), u64::from(entry.u32(8)?) | u64::from(entry.u16(6)?) << 32);
                // Beyond 32768 the extent is allocated and not written: it reads as zeroes.
                if length <= 32768 {
                    runs.add(entry.u32(0)?.into(), first, length)?;
                }
            }
            // In their order, with a stack.
            waiting.extend(below.into_iter().rev());
        }
        Ok(())
    }

    /// Where a file's bytes lie, by the block maps of ext2 and ext3.
    fn by_blocks(&self, root: &[u8], runs: &mut Runs<'_>) -> Result<(), String> {
        let root = Bytes::new(root, "a block map");
        for index in 0..12_u32 {
            let block = u64::from(root.u32(usize::try_from(index).unwrap_or(0) * 4)?);
            if block != 0 {
                runs.add(index.into(), block, 1)?;
            }
        }
        let per_block = self.block_bytes / 4;
        let mut first = 12;
        for (level, at) in [(1, 48), (2, 52), (3, 56)] {
            self.indirect(root.u32(at)?.into(), level, first, runs)?;
            first += per_block.pow(level);
        }
        Ok(())
    }

    fn indirect(&self, block: u64, level: u32, first: u64, runs: &mut Runs<'_>) -> Result<(), String> {
        if block == 0 || first * self.block_bytes >= runs.content.size {
            return Ok(());
        }
        runs.nodes += 1;
        if runs.nodes > super::TREE_NODES_MAX {
            return Err("its block map is damaged".into());
        }
        let per_entry = (self.block_bytes / 4).pow(level - 1);
        for (entry, index) in self.block(block)?.chunks_exact(4).zip(0_u64..) {
            let child = u64::from(Bytes::new(entry, "a block map").u32(0)?);
            let at = first + index * per_entry;
            match (child, level) {
                (0, _) => {}
                (_, 1) => runs.add(at, child, 1)?,
                _ => self.indirect(child, level - 1, at, runs)?,
            }
        }
        Ok(())
    }
}

/// A file's runs being put together.
struct Runs<'a> {
    system: &'a Ext4<'a>,
    content: Content,
    nodes: usize,
}

impl Runs<'_> {
    /// Blocks of the file and where they lie; those that the journal holds lie there.
    fn add(&mut self, first: u64, block: u64, blocks: u64) -> Result<(), String> {
        let end = block.checked_add(blocks).filter(|end| *end <= self.system.blocks && self.system.is_block(block));
        let end = end.ok_or_else(|| format!("it points to block {block}, which cannot be"))?;
        let bytes = self.system.block_bytes;
        let mut at = block;
        for (moved_block, moved) in self.system.moved.range(block..end) {
            self.push(first + (at - block), at * bytes, (moved_block - at) * bytes)?;
            if moved.escaped {
                return Err("a block of it is in the journal in a form that cannot be copied: freeze the file system for the backup".into());
            }
            self.push(first + (moved_block - block), moved.at, bytes)?;
            at = moved_block + 1;
        }
        self.push(first + (at - block), at * bytes, (end - at) * bytes)
    }

    fn push(&mut self, first: u64, from: u64, length: u64) -> Result<(), String> {
        let at = first.checked_mul(self.system.block_bytes).ok_or("an extent makes no sense")?;
        let last = self.content.runs.last().map_or(0, Run::end);
        let length = length.min(self.content.size.saturating_sub(at));
        if length == 0 {
            return Ok(());
        }
        if at < last || self.content.runs.len() >= RUNS_MAX {
            return Err("its extents overlap, or are too many".into());
        }
        self.content.push(Run { at, from: self.system.place.offset + from, length });
        Ok(())
    }
}

impl FileSystem for Ext4<'_> {
    fn root(&self) -> u64 {
        ROOT
    }

    fn is_settled(&self) -> bool {
        self.is_settled
    }

    fn node(&self, number: u64) -> Result<Node, String> {
        let bytes = self.inode(number)?;
        let inode = Bytes::new(&bytes, "an inode");
        let (mode, flags) = (inode.u16(0)?, inode.u32(0x20)?);
        let kind = NodeKind::of(mode, number)?;
        let size = u64::from(inode.u32(4)?) | u64::from(inode.u32(0x6c)?) << 32;
        // What ext3 has made of this size has attributes there.
        let has_epoch = self.inode_bytes >= 0x8c && inode.u16(0x80)? >= 0x8c - 0x80;
        let epoch = if has_epoch { i64::from(inode.u32(0x88)? & 3) << 32 } else { 0 };
        let meta = Meta {
            mode: u32::from(mode & 0o7777),
            uid: u32::from(inode.u16(2)?) | u32::from(inode.u16(0x78)?) << 16,
            gid: u32::from(inode.u16(0x18)?) | u32::from(inode.u16(0x7a)?) << 16,
            modified: i64::from(inode.u32(0x10)?.cast_signed()) + epoch,
        };
        let map = inode.part(0x28, 60)?;
        // In a block of their own, or in the inode; what makes no sense there is none that is kept either.
        let in_block = inode.u32(0x68)? != 0 || inode.u16(0x76)? != 0;
        let has_attributes = in_block || ext4_attributes::are_there(&inode).unwrap_or(true);
        let mut node = Node { number, kind, meta, content: Content::default(), inside: None, has_attributes };
        if node.kind == NodeKind::Other {
            return Ok(node);
        }
        if flags & ENCRYPTED != 0 {
            return Err("it is encrypted: back up the volume or partition whole".into());
        }
        if node.kind == NodeKind::Link && size < 60 && flags & EXTENTS == 0 {
            node.inside = Some(inode.part(0x28, usize::try_from(size).unwrap_or(0))?.to_vec());
            return Ok(node);
        }
        if flags & INLINE != 0 {
            return self.inline(node, &inode, size);
        }
        let mut runs = Runs { system: self, content: Content { size, runs: Vec::new() }, nodes: 0 };
        if flags & EXTENTS != 0 {
            self.by_extents(map, &mut runs)?
        } else {
            self.by_blocks(map, &mut runs)?
        }
        node.content = runs.content;
        Ok(node)
    }

    fn entries(&self, node: &Node, show: &mut Show<'_>) -> Result<(), String> {
        if let Some(inside) = &node.inside {
            return folder_block(inside, show);
        }
        super::blocks(&self.place, &node.content, self.block_bytes, &mut |block| folder_block(block, show))
    }
}

impl Ext4<'_> {
    /// What lies in its inode.
    fn inline(&self, mut node: Node, inode: &Bytes<'_>, size: u64) -> Result<Node, String> {
        let parts = ext4_attributes::content_parts(inode)?;
        if node.kind == NodeKind::File {
            node.content = self.in_inode(node.number, size, parts)?;
            return Ok(node);
        }
        let mut inside = Vec::new();
        for (from, length) in parts {
            inside.extend_from_slice(inode.part(from, length)?);
        }
        if node.kind == NodeKind::Folder {
            // Before its first entry stands the folder above it, which others have as an entry.
            inside.drain(..4);
        } else {
            inside.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        }
        node.inside = Some(inside);
        Ok(node)
    }
}

fn folder_block(bytes: &[u8], show: &mut Show<'_>) -> Result<(), String> {
    let block = Bytes::new(bytes, "a directory");
    let mut at = 0;
    while at + 8 <= bytes.len() {
        let (number, length) = (block.u32(at)?, usize::from(block.u16(at + 4)?));
        // 64 KiB does not fit into the field.
        let length = if matches!(length, 0 | 0xffff) && bytes.len() == 1 << 16 { 1 << 16 } else { length };
        if length < 8 {
            return Err("a directory is damaged".into());
        }
        let name = block.part(at + 8, usize::from(block.u8(at + 6)?))?;
        if number != 0 && name != b"." && name != b".." {
            show(name, u64::from(number))?;
        }
        at += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::memory::Bytes as Memory;

    fn entry(bytes: &mut [u8], at: usize, number: u8, length: u8, name: u8) {
        (bytes[at], bytes[at + 4], bytes[at + 6], bytes[at + 8]) = (number, length, 1, name);
    }

    /// Linux goes on in the attribute; what makes file systems gives such a directory a block.
    #[test]
    fn a_directory_in_its_inode_goes_on_in_its_attribute() {
        let image = Memory::new(vec![0; 4096]);
        let system = Ext4 {
            place: Place { image: &image, offset: 0, length: 4096 },
            is_settled: true,
            block_bytes: 4096,
            blocks: 1,
            inodes: 1,
            inodes_per_group: 1,
            inode_bytes: 256,
            descriptor_bytes: 32,
            meta_groups_from: u64::MAX,
            group_blocks: 1,
            copies: Copies::All,
            first_block: 0,
            moved: BTreeMap::new(),
        };
        let mut bytes = vec![0; 256];
        entry(&mut bytes, 0x2c, 11, 12, b'a');
        entry(&mut bytes, 0x38, 12, 44, b'b');
        // The attribute system.data: 12 bytes, 32 behind the begin of the list.
        bytes[0x80] = 32;
        bytes[0xa0..0xa8].copy_from_slice(&[0, 0, 2, 0xea, 4, 7, 32, 0]);
        bytes[0xac] = 12;
        bytes[0xb4..0xb8].copy_from_slice(b"data");
        entry(&mut bytes, 0xc4, 13, 12, b'c');
        let kind = NodeKind::Folder;
        let (meta, content) = (Meta::default(), Content::default());
        let node = Node { number: 1, kind, meta, content, inside: None, has_attributes: false };
        let node = system.inline(node, &Bytes::new(&bytes, "an inode"), 72).unwrap();
        let mut found = Vec::new();
        let mut show = |name: &[u8], number: u64| -> Result<(), String> {
            found.push((name.to_vec(), number));
            Ok(())
        };
        system.entries(&node, &mut show).unwrap();
        assert_eq!(found, [(b"a".to_vec(), 11), (b"b".to_vec(), 12), (b"c".to_vec(), 13)]);
    }
}

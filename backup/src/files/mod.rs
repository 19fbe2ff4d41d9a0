//! The files of a directory in a file system, read from an image: names, what they are, and where their bytes lie.
//!
//! Nothing is mounted, and nothing in the image is believed: a file system that makes no sense is an error that says where.

mod ext4;
mod ext4_attributes;
mod ext4_journal;
pub mod room;
mod xfs;
mod xfs_log;

use std::collections::BTreeSet;

use crate::content::Content;
use crate::image::Image;
use crate::names;
use crate::plan::Meta;
use room::Share;

/// Files and folders of one directory tree at most.
pub const FILES_MAX: usize = 1 << 20;
/// Memory that names, places and links of the files of all backups under way take at most.
pub const LIST_BYTES_MAX: usize = 1 << 30;
/// What one run of a file takes of that: itself, and what is made of it to compare it with others and to tell of it in the manifest.
const RUN_BYTES: usize = 96;
/// How deep folders lie in each other at most.
const DEPTH_MAX: usize = 1024;
/// Nodes of one file's extent tree at most.
const TREE_NODES_MAX: usize = 1 << 18;
/// Bytes of one directory at most.
const FOLDER_BYTES_MAX: u64 = 1 << 30;

/// Where a file system lies in a volume.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The volume.
    pub image: &'a dyn Image,
    /// Where it begins.
    pub offset: u64,
    /// The bytes it may use.
    pub length: u64,
}

impl Place<'_> {
    fn read(&self, at: u64, length: usize) -> Result<Vec<u8>, String> {
        if at.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(format!("it points to {at}, beyond its end"));
        }
        crate::bytes::read(self.image, self.offset.saturating_add(at), length)
    }
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// A file.
    File,
    /// A directory.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket: it has no content.
    Other,
}

impl NodeKind {
    /// By its mode, which says so in its highest four bits.
    fn of(mode: u16, inode: u64) -> Result<Self, String> {
        Ok(match mode >> 12 {
            0x8 => Self::File,
            0x4 => Self::Folder,
            0xa => Self::Link,
            0x1 | 0x2 | 0x6 | 0xc => Self::Other,
            _ => return Err(format!("inode {inode} is of no known kind")),
        })
    }
}

/// A file as its file system describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its inode's number.
    pub number: u64,
    /// What it is.
    pub kind: NodeKind,
    /// Owner, permissions, time.
    pub meta: Meta,
    /// Where its bytes lie.
    pub content: Content,
    /// Its bytes, when they lie in the inode itself.
    pub inside: Option<Vec<u8>>,
    /// It has extended attributes, which are not read.
    pub has_attributes: bool,
}

/// Takes a name of a directory, and its inode.
type Show<'a> = dyn FnMut(&[u8], u64) -> Result<(), String> + 'a;

/// A file system.
trait FileSystem {
    fn root(&self) -> u64;
    /// Whether what it says of its files is of one moment: not when it was in use and keeps no journal.
    fn is_settled(&self) -> bool {
        true
    }
    fn node(&self, number: u64) -> Result<Node, String>;
    /// Shows the names and inodes of a directory as they are read, without `.` and `..`; an error ends it.
    fn entries(&self, node: &Node, show: &mut Show<'_>) -> Result<(), String>;
}

/// A file of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the directory, as [`names::readable`] has it; empty for the directory itself.
    pub path: String,
    /// What it is.
    pub node: Node,
    /// For a symbolic link: where it leads.
    pub leads_to: Option<Vec<u8>>,
}

/// The files of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// All of them.
    pub entries: Vec<Entry>,
    /// What its file system says of them is of one moment.
    pub is_settled: bool,
}

impl Entry {
    /// Memory it takes.
    fn bytes(&self) -> usize {
        let links = [&self.leads_to, &self.node.inside].into_iter().flatten().map(Vec::len).sum::<usize>();
        size_of::<Self>() + self.path.len() + links + self.node.content.runs.len() * RUN_BYTES
    }
}

/// All files below a directory, which is named as [`names::readable`] has it, by name, each folder before what is in it. The memory for them is
/// taken.
///
/// # Errors
/// What is wrong with the file system, or that the directory is not there.
pub fn list(place: Place<'_>, directory: &str, share: &mut Share) -> Result<Listed, String> {
    let system = open(place)?;
    let system = system.as_ref();
    let mut node = system.node(system.root())?;
    let mut walked = String::new();
    for name in directory.split('/').filter(|name| !name.is_empty()) {
        if node.kind != NodeKind::Folder {
            return Err(format!("{walked} is no directory"));
        }
        walked = format!("{walked}/{name}");
        let (name, mut found) = (names::bytes(name), None);
        system.entries(&node, &mut |there, number| {
            found = found.or((there == name).then_some(number));
            Ok(())
        })?;
        let number = found.ok_or_else(|| format!("there is no {walked} in its file system"))?;
        node = system.node(number)?;
    }
    if node.kind != NodeKind::Folder {
        return Err(format!("{directory} is no directory: name the one it is in"));
    }
    let mut walk = Walk::of(place, system, share);
    walk.folder(String::new(), node, 0)?;
    Ok(Listed { entries: walk.found, is_settled: system.is_settled() })
}

fn open(place: Place<'_>) -> Result<Box<dyn FileSystem + '_>, String> {
    if let Some(system) = ext4::open(place)? {
        return Ok(Box::new(system));
    }
    if let Some(system) = xfs::open(place)? {
        return Ok(Box::new(system));
    }
    Err("there is no file system that can be read here (ext4 or XFS): back up the volume or partition whole".into())
}

struct Walk<'a> {
    place: Place<'a>,
    system: &'a dyn FileSystem,
    found: Vec<Entry>,
    /// Folders seen: one that is met twice is damage, and would go round for ever.
    folders: BTreeSet<u64>,
    /// Names that were read and not looked at yet.
    waiting: usize,
    share: &'a mut Share,
}

impl<'a> Walk<'a> {
    fn of(place: Place<'a>, system: &'a dyn FileSystem, share: &'a mut Share) -> Self {
        Self { place, system, found: Vec::new(), folders: BTreeSet::new(), waiting: 0, share }
    }

    fn folder(&mut self, path: String, node: Node, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX || !self.folders.insert(node.number) {
            return Err(format!("its directories are damaged: /{path} is inside itself"));
        }
        let names_max = FILES_MAX.saturating_sub(self.found.len() + self.waiting);
        let mut entries: Vec<(Vec<u8>, u64)> = Vec::new();
        self.system.entries(&node, &mut |name, number| {
            if entries.len() >= names_max {
                return Err(too_many());
            }
            entries.push((name.to_vec(), number));
            Ok(())
        })?;
        entries.sort();
        self.waiting += entries.len();
        self.push(Entry { path: path.clone(), node, leads_to: None })?;
        for (name, number) in entries {
            self.waiting -= 1;
            let name = readable(&name)?;
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            let node = self.system.node(number).map_err(|why| format!("/{path}: {why}"))?;
            match node.kind {
                NodeKind::Folder => self.folder(path, node, depth + 1)?,
                NodeKind::Link => {
                    let leads_to = Some(self.link(&node).map_err(|why| format!("/{path}: {why}"))?);
                    self.push(Entry { path, node, leads_to })?;
                }
                NodeKind::File | NodeKind::Other => self.push(Entry { path, node, leads_to: None })?,
            }
        }
        Ok(())
    }

    fn push(&mut self, entry: Entry) -> Result<(), String> {
        if self.found.len() + self.waiting >= FILES_MAX {
            return Err(too_many());
        }
        self.share.take(entry.bytes())?;
        self.found.push(entry);
        Ok(())
    }

    fn link(&self, node: &Node) -> Result<Vec<u8>, String> {
        match &node.inside {
            Some(bytes) => Ok(bytes.clone()),
            None => content(&self.place, &node.content, 4096),
        }
    }
}

fn too_many() -> String {
    format!("it has more than {FILES_MAX} files: back up the volume or partition whole")
}

/// A content of at most so many bytes.
fn content(place: &Place<'_>, content: &Content, most: u64) -> Result<Vec<u8>, String> {
    check_size(content, most)?;
    part(place, content, 0, content.size)
}

fn check_size(content: &Content, most: u64) -> Result<(), String> {
    if content.size > most {
        return Err(format!("it has {} bytes, which is more than there can be", content.size));
    }
    Ok(())
}

/// Shows the blocks of a directory one after the other, but for those that are holes: guests decide how large it is.
fn blocks(
    place: &Place<'_>,
    content: &Content,
    block_bytes: u64,
    show: &mut dyn FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    check_size(content, FOLDER_BYTES_MAX)?;
    let mut next = 0;
    for run in &content.runs {
        next = next.max(run.at / block_bytes * block_bytes);
        while next < run.end().min(content.size) {
            show(&part(place, content, next, block_bytes.min(content.size - next))?)?;
            next += block_bytes;
        }
    }
    Ok(())
}

/// So many bytes of a content; what is a hole reads as zeroes.
fn part(place: &Place<'_>, content: &Content, at: u64, length: u64) -> Result<Vec<u8>, String> {
    let end = at.saturating_add(length);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let first = content.runs.partition_point(|run| run.end() <= at);
    for run in content.runs.iter().skip(first).take_while(|run| run.at < end) {
        let (begin, stop) = (run.at.max(at), run.end().min(end));
        let target = usize::try_from(begin - at).unwrap_or(usize::MAX);
        let length = usize::try_from(stop - begin).unwrap_or(0);
        let Some(part) = bytes.get_mut(target..target.saturating_add(length)) else { continue };
        let from = run.from.saturating_add(begin - run.at);
        let from = from.checked_sub(place.offset).ok_or("it points before its begin")?;
        part.copy_from_slice(&place.read(from, length)?);
    }
    Ok(bytes)
}

/// A name as text, if there can be such a one.
fn readable(name: &[u8]) -> Result<String, String> {
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(format!("it has a file with an impossible name ({:?})", String::from_utf8_lossy(name)));
    }
    Ok(names::readable(name))
}

#[cfg(test)]
mod tests;

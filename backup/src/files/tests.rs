//! File systems made by their own tools, read back.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::content::Run;
use crate::image::memory::Bytes;
use crate::stop::Stop;

fn share(bytes: usize) -> Share {
    Share::of(Arc::new(room::Room::of(bytes)))
}

fn list(place: Place<'_>, directory: &str) -> Result<Vec<Entry>, String> {
    super::list(place, directory, &mut share(LIST_BYTES_MAX)).map(|listed| listed.entries)
}

/// Files of all kinds: empty, small, large, sparse, in fragments, many in one folder, deep ones, links.
fn tree(folder: &Path) {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write("empty", b"");
    write("small", b"hello");
    write("some", &[9; 120]);
    let large: Vec<u8> = (0..3_000_001_u32).map(|n| (n * 7 % 251) as u8).collect();
    write("deep/er/still/large", &large);
    for number in 0..900 {
        write(&format!("many/file-with-a-rather-long-name-{number:04}"), format!("{number}").as_bytes());
    }
    let sparse = std::fs::File::create(folder.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    for at in [0_u64, 5 << 20, 30 << 20] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", at + 100).unwrap();
    }
    symlink("deep/er", folder.join("short-link")).unwrap();
    symlink("x".repeat(100), folder.join("longer-link")).unwrap();
    symlink("x".repeat(200), folder.join("long-link")).unwrap();
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The tree in a file system, at an offset of a volume.
fn image(folder: &Path, make: impl Fn(&str, &str), offset: usize) -> Bytes {
    let source = folder.join("tree");
    if !source.exists() {
        tree(&source);
    }
    let path = folder.join("image");
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    make(path.to_str().unwrap(), source.to_str().unwrap());
    let mut bytes = vec![0xee; offset];
    bytes.extend(std::fs::read(&path).unwrap());
    Bytes::new(bytes)
}

fn place(image: &Bytes, offset: u64) -> Place<'_> {
    Place { image, offset, length: image.size() - offset }
}

/// What is in the folder itself: path, kind, bytes or target.
fn there(root: &Path, folder: &Path, found: &mut BTreeMap<String, (char, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            found.insert(name, ('d', Vec::new()));
            there(root, &path, found);
        } else if meta.is_symlink() {
            found.insert(name, ('l', std::fs::read_link(&path).unwrap().to_str().unwrap().into()));
        } else {
            found.insert(name, ('f', std::fs::read(&path).unwrap()));
        }
    }
}

fn assert_same(image: &Bytes, offset: u64, source: &Path) {
    let mut expected = BTreeMap::new();
    there(source, source, &mut expected);
    let place = place(image, offset);
    let mut found = BTreeMap::new();
    for entry in list(place, "/").unwrap() {
        if entry.path.is_empty() || entry.path == "lost+found" {
            continue;
        }
        let original = std::fs::symlink_metadata(source.join(&entry.path)).unwrap();
        assert_eq!(entry.node.meta.mode, original.mode() & 0o7777, "{}", entry.path);
        let what = match entry.node.kind {
            NodeKind::Folder => ('d', Vec::new()),
            NodeKind::Link => ('l', entry.leads_to.unwrap()),
            NodeKind::File => ('f', content(&place, &entry.node.content, 1 << 30).unwrap()),
            NodeKind::Other => ('o', Vec::new()),
        };
        found.insert(entry.path, what);
    }
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (path, what) in &expected {
        assert!(found[path] == *what, "{path} differs");
    }
}

fn ext4_of(options: &[&str], image: &str, source: &str) {
    run("mke2fs", &[&["-q", "-F", "-d", source], options, &[image]].concat());
}

fn ext4(options: &'static [&'static str]) -> impl Fn(&str, &str) {
    move |image, source| ext4_of(options, image, source)
}

#[test]
fn ext4_as_it_is_made_today() {
    let folder = tempfile::tempdir().unwrap();
    for options in [
        &["-t", "ext4"][..],
        &["-t", "ext4", "-b", "1024", "-I", "128"],
        &["-t", "ext4", "-O", "^64bit,^flex_bg,^metadata_csum"],
        &["-t", "ext4", "-b", "1024", "-O", "bigalloc"],
        &["-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "8192"],
        &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode"],
        &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,^sparse_super"],
        &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,sparse_super2,^64bit"],
        &["-t", "ext4", "-b", "1024", "-O", "bigalloc,meta_bg,^resize_inode"],
        &["-t", "ext3"],
        &["-t", "ext2", "-b", "1024"],
    ] {
        let image = image(folder.path(), ext4(options), 1 << 20);
        assert_same(&image, 1 << 20, &folder.path().join("tree"));
    }
}

#[test]
fn ext4_with_small_files_in_their_inodes() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("tree");
    tree(&source);
    // With this, mke2fs forgets a hole at a file's end.
    let sparse = std::fs::File::options().write(true).open(source.join("sparse")).unwrap();
    sparse.set_len((30 << 20) + 106).unwrap();
    for options in
        [&["-t", "ext4", "-O", "inline_data"][..], &["-t", "ext4", "-b", "1024", "-I", "512", "-O", "inline_data"]]
    {
        let image = image(folder.path(), |image, source| ext4_of(options, image, source), 1 << 20);
        assert_same(&image, 1 << 20, &source);
    }
}

#[test]
fn features_that_are_not_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut image = image(folder.path(), ext4(&["-t", "ext4"]), 0);
    image.bytes[1024 + 0x61] |= 0x10;
    let why = list(place(&image, 0), "/").unwrap_err();
    assert!(why.contains("(dirdata)") && why.contains("whole"), "{why}");
}

/// Hosts write what they have changed when they like: without a journal, what is there was never so.
#[test]
fn a_file_system_in_use_that_keeps_no_journal_is_not_of_one_moment() {
    let folder = tempfile::tempdir().unwrap();
    for (options, settled) in
        [(&["-t", "ext2"][..], false), (&["-t", "ext4", "-O", "^has_journal"], false), (&["-t", "ext3"], true)]
    {
        let mut made = image(folder.path(), |image, source| ext4_of(options, image, source), 0);
        let is_settled =
            |image: &Bytes| super::list(place(image, 0), "/", &mut share(LIST_BYTES_MAX)).unwrap().is_settled;
        assert!(is_settled(&made), "{options:?}: nobody has it");
        made.bytes[1024 + 0x3a] &= !1;
        assert_eq!(is_settled(&made), settled, "{options:?}: in use");
    }
}

fn with_attributes(image: &Bytes) -> Vec<String> {
    let entries = list(place(image, 0), "/").unwrap().into_iter();
    entries.filter(|entry| entry.node.has_attributes).map(|entry| entry.path).collect()
}

#[test]
fn files_with_extended_attributes_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let value = folder.path().join("value");
    std::fs::write(&value, [7; 900]).unwrap();
    for options in [&["-t", "ext4"][..], &["-t", "ext4", "-O", "inline_data"], &["-t", "ext3", "-I", "128"]] {
        let made = image(folder.path(), |image, source| ext4_of(options, image, source), 0);
        assert_eq!(with_attributes(&made), [""; 0], "{options:?}");
        // One that lies in its inode, where there is room, and one that does not.
        run("debugfs", &["-w", "-R", "ea_set small user.x yes", path.to_str().unwrap()]);
        let set = format!("ea_set -f {} some user.y", value.display());
        run("debugfs", &["-w", "-R", &set, path.to_str().unwrap()]);
        let altered = Bytes::new(std::fs::read(&path).unwrap());
        assert_eq!(with_attributes(&altered), ["small", "some"], "{options:?}");
    }
    let _ = image(folder.path(), xfs(&[]), 0);
    for (name, bytes) in [("small", "8"), ("some", "900")] {
        let (go, set) = (format!("path /{name}"), format!("attr_set -u x -v {bytes}"));
        run("xfs_db", &["-x", "-c", &go, "-c", &set, path.to_str().unwrap()]);
    }
    let altered = Bytes::new(std::fs::read(&path).unwrap());
    assert_eq!(with_attributes(&altered), ["small", "some"], "XFS");
}

/// ext3 kept four bytes more than ext2 in an inode of 256, and attributes where ext4 has more of its times.
#[test]
fn attributes_are_no_part_of_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let _ = image(folder.path(), ext4(&["-t", "ext4", "-O", "^metadata_csum"]), 0);
    let path = folder.path().join("image");
    for field in ["mtime_extra 3", "extra_isize 4"] {
        run("debugfs", &["-w", "-R", &format!("set_inode_field small {field}"), path.to_str().unwrap()]);
    }
    let altered = Bytes::new(std::fs::read(&path).unwrap());
    let found = list(place(&altered, 0), "/").unwrap().into_iter().find(|entry| entry.path == "small").unwrap();
    let original = std::fs::metadata(folder.path().join("tree/small")).unwrap();
    assert_eq!(found.node.meta.modified, original.mtime());
}

/// A journal whose blocks name others without an end takes no memory without an end.
#[test]
fn what_a_journal_names_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let make = ext4(&["-t", "ext4", "-b", "4096", "-O", "^64bit,^metadata_csum", "-J", "size=20"]);
    let mut image = image(folder.path(), make, 0);
    let journal = ext4::open(place(&image, 0)).unwrap().unwrap().node(8).unwrap().content;
    let mut revokes = vec![1; 4096];
    for (at, word) in [0xc03b_3998_u32, 5, 1, 4096].into_iter().enumerate() {
        revokes[at * 4..at * 4 + 4].copy_from_slice(&word.to_be_bytes());
    }
    let heads = journal.runs.iter().map(|run| usize::try_from(run.from).unwrap());
    let head = heads.clone().next().unwrap();
    for (from, run) in heads.zip(&journal.runs) {
        let blocks = (from..from + usize::try_from(run.length).unwrap()).step_by(4096);
        blocks.filter(|at| *at != head).for_each(|at| image.bytes[at..at + 4096].copy_from_slice(&revokes));
    }
    // It begins at its second block, with the first transaction.
    image.bytes[head + 24..head + 32].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
    image.bytes[1024 + 0x60] |= 4;
    let why = list(place(&image, 0), "/").unwrap_err();
    assert!(why.contains("it names more than"), "{why}");
}

#[test]
fn a_directory_that_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), ext4(&["-t", "ext4"]), 0);
    let why = |path| list(place(&image, 0), path).unwrap_err();
    assert_eq!(why("/deep/nowhere/x"), "there is no /deep/nowhere in its file system");
    assert_eq!(why("/small/x"), "/small is no directory");
    assert!(why("/small").contains("name the one it is in"));
    let below: Vec<_> = list(place(&image, 0), "/deep/er").unwrap().into_iter().map(|entry| entry.path).collect();
    assert_eq!(below, ["", "still", "still/large"]);
}

#[test]
fn a_directory_whose_name_is_no_text_is_named_as_its_member_is() {
    let folder = tempfile::tempdir().unwrap();
    for name in [&b"caf\xe9"[..], br"caf\xe9"] {
        let inside = folder.path().join("tree").join(OsStr::from_bytes(name));
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(inside.join("in"), name).unwrap();
    }
    let image: Arc<dyn Image> = Arc::new(image(folder.path(), ext4(&["-t", "ext4"]), 0));
    let images = crate::plan::Images::from([("a".into(), image)]);
    for path in [r"/caf\xe9", r"/caf\x5cxe9"] {
        let extents = crate::sets::parse(&[format!("a:{path}")]).unwrap();
        let set = crate::sets::resolve::DataSet { name: "s".into(), extents };
        let mut share = share(LIST_BYTES_MAX);
        let (members, _) = crate::sets::resolve::members(&[set], &images, &Stop::default(), &mut share).unwrap();
        let found: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(found, [format!("s/a{path}"), format!("s/a{path}/in")]);
    }
}

/// What a transaction of the journal changed and nobody wrote to its place yet is what is read.
#[test]
fn what_is_only_in_the_journal_of_ext4_is_read_there() {
    let folder = tempfile::tempdir().unwrap();
    for features in ["^metadata_csum", "metadata_csum", "metadata_csum,^64bit"] {
        let make = |image: &str, source: &str| {
            run("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "4096", "-O", features, "-d", source, image]);
        };
        let clean = image(folder.path(), make, 0);
        let path = folder.path().join("image");
        // The block of the root directory, with one name changed, goes into the journal alone.
        let root = list(place(&clean, 0), "/").unwrap().remove(0).node.content.runs[0];
        let (from, block) = (usize::try_from(root.from).unwrap(), root.from / 4096);
        let mut changed = clean.bytes[from..from + 4096].to_vec();
        let at = changed.windows(5).position(|name| name == b"small").unwrap();
        changed[at..at + 5].copy_from_slice(b"SMALL");
        let other = folder.path().join("block");
        std::fs::write(&other, &changed).unwrap();
        let commands = format!("jo\njw -b {block} {}\njc\n", other.display());
        let script = folder.path().join("script");
        std::fs::write(&script, commands).unwrap();
        run("debugfs", &["-w", "-f", script.to_str().unwrap(), path.to_str().unwrap()]);
        let dirty = Bytes::new(std::fs::read(&path).unwrap());
        let superblock_flag = dirty.bytes[1024 + 0x60];
        assert_ne!(superblock_flag & 4, 0, "{features}: the journal is not said to be needed");
        let names = |image: &Bytes| {
            list(place(image, 0), "/")
                .unwrap()
                .into_iter()
                .map(|entry| entry.path)
                .filter(|path| path.to_lowercase() == "small")
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&dirty), ["SMALL"], "{features}");
        // Without the journal the old name is there.

        let mut ignored = Bytes::new(dirty.bytes.clone());
        ignored.bytes[1024 + 0x60] = superblock_flag & !4;
        assert_eq!(names(&ignored), ["small"]);
        // With asynchronous commits nothing says that what lies before a commit is there.
        let mut asynchronous = Bytes::new(dirty.bytes.clone());
        let head = [0xc0_u8, 0x3b, 0x39, 0x98, 0, 0, 0, 4];
        let blocks = (0..asynchronous.bytes.len()).step_by(4096);
        let heads: Vec<_> = blocks.filter(|at| asynchronous.bytes[*at..*at + 8] == head).collect();
        assert_eq!(heads.len(), 1, "{features}: the journal's superblock");
        asynchronous.bytes[heads[0] + 0x2b] |= 4;
        let why = list(place(&asynchronous, 0), "/").unwrap_err();
        assert!(why.contains("asynchronous commits"), "{features}: {why}");
    }
}

/// A file system that was grown a moment ago says how large it is in its journal alone.
#[test]
fn the_superblock_too_is_read_in_the_journal_of_ext4() {
    let folder = tempfile::tempdir().unwrap();
    let clean = image(folder.path(), ext4(&["-t", "ext4", "-b", "4096", "-O", "^metadata_csum"]), 0);
    let path = folder.path().join("image");
    let (block, script) = (folder.path().join("block"), folder.path().join("script"));
    std::fs::write(&block, &clean.bytes[..4096]).unwrap();
    std::fs::write(&script, format!("jo\njw -b 0 {}\njc\n", block.display())).unwrap();
    run("debugfs", &["-w", "-f", script.to_str().unwrap(), path.to_str().unwrap()]);
    let mut dirty = Bytes::new(std::fs::read(&path).unwrap());
    assert_ne!(dirty.bytes[1024 + 0x60] & 4, 0, "the journal is not said to be needed");
    // Of all its inodes, the first sixteen, which are those of the root directory, the journal and a few more.
    dirty.bytes[1024..1028].copy_from_slice(&16_u32.to_le_bytes());
    assert_same(&dirty, 0, &folder.path().join("tree"));
    dirty.bytes[1024 + 0x60] &= !4;
    assert!(list(place(&dirty, 0), "/").unwrap_err().contains("which cannot be"));
}

/// XFS has no tool that copies a tree, but one that takes a description of it.
fn xfs(options: &'static [&'static str]) -> impl Fn(&str, &str) {
    move |image, source| {
        let description = format!("{image}.tree");
        std::fs::write(&description, format!("/\n0 0\nd--755 0 0\n{}$\n", described(Path::new(source)))).unwrap();
        std::fs::File::options().write(true).open(image).unwrap().set_len(400 << 20).unwrap();
        run("mkfs.xfs", &[&["-q", "-f", "-p", &description], options, &[image]].concat());
    }
}

fn described(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let mode = meta.mode() & 0o777;
        if meta.is_dir() {
            text += &format!("{name} d--{mode:03o} 0 0\n{}$\n", described(&path));
        } else if meta.is_symlink() {
            text += &format!("{name} l--777 0 0 {}\n", std::fs::read_link(&path).unwrap().display());
        } else {
            text += &format!("{name} ---{mode:03o} 0 0 {}\n", path.display());
        }
    }
    text
}

#[test]
fn xfs_as_it_is_made_today() {
    let folder = tempfile::tempdir().unwrap();
    for options in [
        &["-m", "crc=1"][..],
        &["-m", "crc=0,finobt=0,rmapbt=0,reflink=0"],
        &["-b", "size=1024", "-n", "size=8192"],
        &["-m", "rmapbt=1,bigtime=1", "-i", "nrext64=1,sparse=1"],
        &["-m", "crc=0,finobt=0,rmapbt=0,reflink=0", "-n", "ftype=0", "-i", "size=2048"],
    ] {
        let image = image(folder.path(), xfs(options), 1 << 20);
        assert_same(&image, 1 << 20, &folder.path().join("tree"));
    }
}

#[test]
fn an_xfs_whose_log_is_not_empty_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut image = image(folder.path(), xfs(&["-m", "crc=1"]), 0);
    let block = |at: usize| u64::from_be_bytes(image.bytes[at..at + 8].try_into().unwrap());
    let (log, shift) = (block(48), u32::from(image.bytes[124]));
    let group = u64::from(u32::from_be_bytes(image.bytes[84..88].try_into().unwrap()));
    let at = usize::try_from(((log >> shift) * group + (log & ((1 << shift) - 1))) * 4096).unwrap();
    assert_eq!(image.bytes[at..at + 4], [0xfe, 0xed, 0xba, 0xbe]);
    // A later record, of a file system in use.
    let mut record = image.bytes[at..at + 1024].to_vec();
    record[23] += 4;
    record[43] = 9;
    image.bytes[at + 2048..at + 3072].copy_from_slice(&record);
    assert!(list(place(&image, 0), "/").unwrap_err().contains("fsfreeze --freeze"));
}

/// What a guest makes of little: folders in each other, each with many names.
struct Deep;

impl FileSystem for Deep {
    fn root(&self) -> u64 {
        1
    }

    fn node(&self, number: u64) -> Result<Node, String> {
        let kind = if number < 100 { NodeKind::Folder } else { NodeKind::File };
        let (meta, content) = (Meta::default(), Content::default());
        Ok(Node { number, kind, meta, content, inside: None, has_attributes: false })
    }

    fn entries(&self, node: &Node, show: &mut Show<'_>) -> Result<(), String> {
        for file in 0..30_000_u64 {
            show(format!("file-{file}").as_bytes(), 100 + file)?;
        }
        show(b"a", node.number + 1)
    }
}

/// One directory with more names than there is memory for, and how many of them were shown.
struct Wide(std::cell::Cell<usize>);

impl FileSystem for Wide {
    fn root(&self) -> u64 {
        1
    }

    fn node(&self, number: u64) -> Result<Node, String> {
        Deep.node(number)
    }

    fn entries(&self, _: &Node, show: &mut Show<'_>) -> Result<(), String> {
        (100..).try_for_each(|number| {
            self.0.set(self.0.get() + 1);
            show(b"name", number)
        })
    }
}

#[test]
fn a_directory_without_an_end_is_left_in_its_middle() {
    let image = Bytes::new(Vec::new());
    let (mut whole, wide) = (share(LIST_BYTES_MAX), Wide(std::cell::Cell::default()));
    let mut walk = Walk::of(place(&image, 0), &wide, &mut whole);
    let why = walk.folder(String::new(), wide.node(wide.root()).unwrap(), 0).unwrap_err();
    assert!(why.contains("files"), "{why}");
    assert!(walk.found.is_empty() && wide.0.get() <= FILES_MAX + 1, "{} names", wide.0.get());
}

#[test]
fn the_memory_that_a_list_takes_is_bounded() {
    let image = Bytes::new(Vec::new());
    let mut whole = share(LIST_BYTES_MAX);
    let mut walk = Walk::of(place(&image, 0), &Deep, &mut whole);
    let why = walk.folder(String::new(), Deep.node(Deep.root()).unwrap(), 0).unwrap_err();
    assert!(why.contains("files"), "{why}");
    assert!(walk.found.len() < 100, "names that wait count: {}", walk.found.len());

    let mut small = share(2 * size_of::<Entry>() + 5 * RUN_BYTES);
    let mut walk = Walk::of(place(&image, 0), &Deep, &mut small);
    let run = Run { at: 0, from: 0, length: 1 };
    let entry = |path: &str, runs: usize| {
        let content = Content { size: 1, runs: vec![run; runs] };
        Entry { path: path.into(), node: Node { content, ..Deep.node(100).unwrap() }, leads_to: None }
    };
    walk.push(entry("a", 4)).unwrap();
    walk.push(entry(&"b".repeat(RUN_BYTES - 1), 0)).unwrap();
    assert!(walk.push(entry("", 0)).unwrap_err().contains("fragments"));
}

fn small_xfs() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    image(folder.path(), xfs(&["-b", "size=1024"]), 0).bytes
}

fn small_ext4() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let source = folder.path().join("source");
    std::fs::create_dir_all(source.join("x/y")).unwrap();
    std::fs::write(source.join("x/y/z"), vec![7; 300_000]).unwrap();
    std::fs::File::create(&path).unwrap().set_len(4 << 20).unwrap();
    ext4(&["-t", "ext4", "-b", "1024"])(path.to_str().unwrap(), source.to_str().unwrap());
    std::fs::read(&path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_damaged_xfs_never_panics(flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..4_u8), 1..60)) {
        // Large, so it is altered where it is, and put right again.
        static IMAGE: std::sync::LazyLock<parking_lot::Mutex<(Bytes, Vec<usize>)>> = std::sync::LazyLock::new(|| {
            let bytes = small_xfs();
            // Metadata: superblock, directories, inodes, trees.
            let magic = [&b"XFSB"[..], b"XDB3", b"XDD3", b"BMA3", b"XSLM", b"IN"];
            let heads = (0..bytes.len()).step_by(512).filter(|at| magic.iter().any(|magic| bytes[*at..].starts_with(magic)));
            let used = heads.flat_map(|at| at..at + 512).filter(|at| bytes[*at] != 0).collect();
            parking_lot::Mutex::new((Bytes::new(bytes), used))
        });
        let (image, used) = &mut *IMAGE.lock();
        let mut undo = Vec::new();
        for (at, value, how) in flips {
            let at = used[at.index(used.len())];
            let byte = image.bytes[at];
            undo.push((at, byte));
            image.bytes[at] = match how { 0 => value, 1 => 0xff, 2 => 0, _ => byte ^ (1 << (value % 8)) };
        }
        if let Ok(entries) = list(place(image, 0), "/") {
            for entry in entries.iter().take(50) {
                let _ = content(&place(image, 0), &entry.node.content, 1 << 22);
            }
        }
        for (at, byte) in undo.into_iter().rev() {
            image.bytes[at] = byte;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_damaged_file_system_never_panics(flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..4_u8), 1..60)) {
        static IMAGE: std::sync::LazyLock<(Vec<u8>, Vec<usize>)> = std::sync::LazyLock::new(|| {
            let bytes = small_ext4();
            let used = bytes.iter().enumerate().filter(|(_, byte)| **byte != 0 && **byte != 7).map(|(at, _)| at).collect();
            (bytes, used)
        });
        let mut bytes = IMAGE.0.clone();
        for (at, value, how) in flips {
            let at = IMAGE.1[at.index(IMAGE.1.len())];
            bytes[at] = match how { 0 => value, 1 => 0xff, 2 => 0, _ => bytes[at] ^ (1 << (value % 8)) };
        }
        let image = Bytes::new(bytes);
        if let Ok(entries) = list(place(&image, 0), "/") {
            for entry in entries {
                let _ = content(&place(&image, 0), &entry.node.content, 1 << 22);
            }
        }
    }
}

//! Restoring: members of a finished backup, all or those of one set, go back to volumes or into files.
//!
//! A backup is verified before it is restored: what is damaged overwrites nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, symlink};
use std::path::{Path, PathBuf};

use tidemark_common::storage::disk::make_folder;

use crate::archive::read::{Found, FoundKind, Taker};
use crate::attributes;
use crate::digest::Digest;
use crate::manifest::{KindSaid, Manifest, MemberSaid};
use crate::plan::Meta;
use crate::source::{Source, inside, verify_telling};

/// Of a folder that is restored into. Who may look into it is for the mask to say: what is restored is handed on to others.
const FOLDER_MODE: u32 = 0o777;

/// Takes what is restored to volumes.
pub trait VolumeWriter {
    /// Bytes of a volume.
    ///
    /// # Errors
    /// For people, why it cannot be written: there is none of that name, or it is not open here.
    fn size(&self, volume: &str) -> Result<u64, String>;
    /// Told again and again while the backup is verified, before everything else: bytes read, and bytes in all where that is known.
    ///
    /// # Errors
    /// Why it is not gone on with, for people.
    fn verifying(&mut self, done_bytes: u64, total_bytes: Option<u64>) -> Result<(), String>;
    /// Told before the first byte is changed: what is going to be, (first byte, bytes) by volume. From here on until
    /// [`VolumeWriter::complete`], what these volumes hold is neither what was there nor the backup.
    ///
    /// # Errors
    /// Why they cannot be overwritten, for people; nothing was changed.
    fn begin(&mut self, ranges: &Ranges) -> Result<(), String>;
    /// Writes data.
    ///
    /// # Errors
    /// Why it cannot, for people.
    fn write(&mut self, volume: &str, offset: u64, bytes: &[u8]) -> Result<(), String>;
    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// As [`VolumeWriter::write`].
    fn zero(&mut self, volume: &str, offset: u64, length: u64) -> Result<(), String>;
    /// All of it was written: makes it durable, and then says so.
    ///
    /// # Errors
    /// As [`VolumeWriter::write`].
    fn complete(&mut self) -> Result<(), String>;
}

/// Ranges by volume: (first byte, bytes).
pub type Ranges = BTreeMap<String, Vec<(u64, u64)>>;

/// What was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Members.
    pub members: usize,
    /// Bytes of data.
    pub data_bytes: u64,
}

/// A backup whose digests all agree, and its manifest. Who is told how many bytes were read may end it.
///
/// # Errors
/// What is wrong with it.
pub fn sound(source: &Source, tell: &mut dyn FnMut(u64) -> Result<(), String>) -> Result<Manifest, String> {
    let found = verify_telling(source, tell).map_err(|error| error.to_string())?;
    match found.bad.first() {
        Some((member, what)) => Err(format!("the backup is damaged: {member}: {what}. Nothing was restored")),
        None => Ok(found.manifest),
    }
}

/// Of a backup that was verified and has not all of it when it is read again.
const GONE: &str = "the backup changed while it was restored: some of its members are gone";

/// Of a member that was verified and is something else when it is read again.
fn not_as_verified(member: &str) -> String {
    format!("{member} is not what it was when it was verified: verify the backup again")
}

fn wanted(manifest: &Manifest, set: Option<&str>) -> Result<Vec<MemberSaid>, String> {
    let Some(set) = set else { return Ok(manifest.members.clone()) };
    let members: Vec<_> = manifest.members.iter().filter(|member| member.set == set).cloned().collect();
    if members.is_empty() {
        let sets: Vec<_> = manifest.sets.iter().map(|set| set.name.as_str()).collect();
        return Err(format!("the backup has no set '{set}'; it has {}", sets.join(", ")));
    }
    Ok(members)
}

/// Writes ranges back to where they were, on the volumes they were read from or on one other.
///
/// # Errors
/// What cannot be restored, and why. Before the first write, everything that can be checked is.
pub fn to_volumes(
    source: &Source,
    set: Option<&str>,
    onto: Option<&str>,
    volumes: &mut dyn VolumeWriter,
) -> Result<Restored, String> {
    let total_bytes = source.bytes();
    let manifest = sound(source, &mut |done_bytes| volumes.verifying(done_bytes, total_bytes))?;
    let members = wanted(&manifest, set)?;
    let first = members.first().map(|member| member.volume.clone());
    if let Some(onto) = onto
        && members.iter().any(|member| Some(&member.volume) != first.as_ref())
    {
        return Err(format!("it holds several volumes, which cannot all become '{onto}': name a --set with one"));
    }
    let mut ranges = Ranges::new();
    for member in &members {
        let volume = onto.unwrap_or(&member.volume);
        let (KindSaid::Range, Some(offset)) = (member.kind, member.offset) else {
            return Err(format!("{} is a file of a directory: restore it with --into FOLDER", member.name));
        };
        let size = volumes.size(volume)?;
        if offset.checked_add(member.size).is_none_or(|end| end > size) {
            return Err(format!(
                "volume '{volume}' has {size} bytes, and {} reaches from {offset} to {}: `tidemark volume resize` makes it larger",
                member.name,
                offset.saturating_add(member.size)
            ));
        }
        ranges.entry(volume.to_owned()).or_default().push((offset, member.size));
    }
    volumes.begin(&ranges)?;
    let mut taker = ToVolumes { members, onto, volumes, current: None, restored: Restored::default() };
    source.walk(&mut taker).map_err(|error| error.to_string())?;
    if taker.restored.members < taker.members.len() {
        return Err(GONE.into());
    }
    taker.volumes.complete()?;
    Ok(taker.restored)
}

struct ToVolumes<'a> {
    members: Vec<MemberSaid>,
    onto: Option<&'a str>,
    volumes: &'a mut dyn VolumeWriter,
    /// The member being restored, how far it is, and what was read of it.
    current: Option<(MemberSaid, u64, Digest)>,
    restored: Restored,
}

impl ToVolumes<'_> {
    /// Holes are part of the image: what was written there since goes.
    fn hole_up_to(&mut self, at: u64) -> Result<(), String> {
        let Some((member, done, _)) = &mut self.current else { return Ok(()) };
        let volume = self.onto.unwrap_or(&member.volume);
        if at > *done {
            self.volumes.zero(volume, member.offset.unwrap_or(0) + *done, at - *done)?;
            *done = at;
        }
        Ok(())
    }
}

impl Taker for ToVolumes<'_> {
    fn begin(&mut self, found: &Found) -> Result<(), String> {
        let member = self.members.iter().find(|member| member.name == found.name);
        self.current = member.map(|member| (member.clone(), 0, Digest::default()));
        Ok(())
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.hole_up_to(at)?;
        let Some((member, done, digest)) = &mut self.current else { return Ok(()) };
        let end = at.saturating_add(bytes.len() as u64);
        if end > member.size {
            return Err(format!("{} changed while it was restored", member.name));
        }
        self.volumes.write(self.onto.unwrap_or(&member.volume), member.offset.unwrap_or(0) + at, bytes)?;
        digest.add(at, bytes);
        *done = end;
        self.restored.data_bytes += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let Some(size) = self.current.as_ref().map(|(member, ..)| member.size) else { return Ok(()) };
        self.hole_up_to(size)?;
        let Some((member, _, digest)) = self.current.take() else { return Ok(()) };
        // Since it was verified it was read again: perhaps another file by now, or another answer of its disk.
        if digest.finish(size) != member.blake3 {
            return Err(not_as_verified(&member.name));
        }
        self.restored.members += 1;
        Ok(())
    }
}

/// Writes members as files below a folder.
///
/// # Errors
/// What cannot be restored, and why. What is there already is not overwritten.
pub fn to_folder(source: &Source, set: Option<&str>, folder: &Path) -> Result<Restored, String> {
    to_folder_telling(source, set, folder, &mut |_| {})
}

/// The same, which tells again and again how many bytes of data it has read: twice those of the source, first to verify it.
///
/// # Errors
/// See [`to_folder`].
pub fn to_folder_telling(
    source: &Source,
    set: Option<&str>,
    folder: &Path,
    tell: &mut dyn FnMut(u64),
) -> Result<Restored, String> {
    let mut done_bytes = 0;
    let manifest = sound(source, &mut |verified_bytes| {
        done_bytes = verified_bytes;
        tell(verified_bytes);
        Ok(())
    })?;
    let members = wanted(&manifest, set)?;
    refuse_what_is_there(&members, folder)?;
    if !folder.is_dir() {
        make_folder(folder, FOLDER_MODE).map_err(|error| format!("make {}: {error}", folder.display()))?;
    }
    let mut taker = Told { taker: ToFiles::of(members, folder), done_bytes, tell };
    source.walk(&mut taker).map_err(|error| error.to_string())?;
    taker.taker.ended()
}

/// Before the first file is made: half of a backup among other files is of use to nobody.
fn refuse_what_is_there(members: &[MemberSaid], folder: &Path) -> Result<(), String> {
    let files = members.iter().filter(|member| member.kind != KindSaid::Folder);
    let mut paths = files.filter_map(|member| Some(folder.join(inside(&member.readable_name())?)));
    match paths.find(|path| fs::symlink_metadata(path).is_ok()) {
        None => Ok(()),
        Some(path) => Err(format!(
            "{} is there already, and nothing is overwritten: name another folder, or remove it. Nothing was restored",
            path.display()
        )),
    }
}

/// Says how many bytes were handed on.
struct Told<'a, T> {
    taker: T,
    done_bytes: u64,
    tell: &'a mut dyn FnMut(u64),
}

impl<T: Taker> Taker for Told<'_, T> {
    fn begin(&mut self, found: &Found) -> Result<(), String> {
        self.taker.begin(found)
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.taker.data(at, bytes)?;
        self.done_bytes += bytes.len() as u64;
        (self.tell)(self.done_bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        self.taker.end()
    }
}

struct ToFiles<'a> {
    members: BTreeMap<String, MemberSaid>,
    /// Folders of the backup: nobody else sees into them until they have their permissions.
    private: BTreeSet<PathBuf>,
    folder: &'a Path,
    current: Option<Current>,
    /// Folders, and what they had: given to them when all that lies in them is there.
    folders: Vec<(PathBuf, Meta)>,
    /// Folders in which something was made: its name is not durable yet.
    named: BTreeSet<PathBuf>,
    /// How many have not what they had, and why the first has not.
    unset: Option<(usize, String)>,
    restored: Restored,
}

/// The member being taken out.
struct Current {
    name: String,
    path: PathBuf,
    file: Option<File>,
    kind: FoundKind,
    /// `None`: it is no file of a directory, and stays its maker's alone.
    meta: Option<Meta>,
    /// Bytes with holes.
    size: u64,
    /// What was read of it.
    digest: Digest,
}

impl<'a> ToFiles<'a> {
    fn of(members: Vec<MemberSaid>, folder: &'a Path) -> Self {
        let folders = members.iter().filter(|member| member.kind == KindSaid::Folder);
        Self {
            private: folders.filter_map(|member| inside(&member.readable_name())).collect(),
            members: members.into_iter().map(|member| (member.readable_name(), member)).collect(),
            folder,
            current: None,
            folders: Vec::new(),
            named: BTreeSet::new(),
            unset: None,
            restored: Restored::default(),
        }
    }

    /// Nothing more comes: what was restored.
    fn ended(mut self) -> Result<Restored, String> {
        // Before a folder is closed to us.
        self.sync_names()?;
        self.settle_folders();
        if self.restored.members < self.members.len() {
            return Err(GONE.into());
        }
        match self.unset {
            Some((count, first)) => Err(format!(
                "all files are restored, but {count} of them without the owner, permissions or time they had: {first}. Restore to a file system \
                 that has owners, as somebody who may set them"
            )),
            None => Ok(self.restored),
        }
    }

    fn make(&self, found: &Found, within: &Path) -> io::Result<Option<File>> {
        self.make_folders(within.parent().unwrap_or(Path::new("")))?;
        let path = self.folder.join(within);
        match &found.kind {
            FoundKind::Folder => self.make_folders(within).map(|()| None),
            FoundKind::Link(to) => symlink(OsStr::from_bytes(to), path).map(|()| None),
            FoundKind::File => {
                let file = attributes::create(&path)?;
                file.set_len(found.size)?;
                Ok(Some(file))
            }
        }
    }

    /// One by one: a link that an archive brought must not lead what follows out of the folder.
    fn make_folders(&self, within: &Path) -> io::Result<()> {
        let mut at = PathBuf::new();
        for part in within.components() {
            at.push(part);
            let mut builder = fs::DirBuilder::new();
            if self.private.contains(&at) {
                builder.mode(0o700);
            }
            let path = self.folder.join(&at);
            match builder.create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Err(_) if !fs::symlink_metadata(&path)?.is_dir() => {
                    return Err(io::Error::other(format!("{} is a link or a file, and no folder", path.display())));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Files are synced one by one; that they are there at all is known to their folders.
    fn sync_names(&self) -> Result<(), String> {
        self.named.iter().rev().try_for_each(|folder| {
            let synced = File::open(folder).and_then(|opened| opened.sync_all());
            synced.map_err(|error| format!("sync {}: {error}", folder.display()))
        })
    }

    fn settle_folders(&mut self) {
        // What lies deeper first: a folder may then be closed to us.
        self.folders.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (path, meta) in std::mem::take(&mut self.folders) {
            let set = File::open(&path).and_then(|folder| {
                attributes::set(&folder, &meta)?;
                folder.sync_all()
            });
            self.note(&path, set);
        }
    }

    fn note(&mut self, path: &Path, set: io::Result<()>) {
        if let Err(error) = set {
            let (count, _) = self.unset.get_or_insert_with(|| (0, format!("{}: {error}", path.display())));
            *count += 1;
        }
    }
}

impl Taker for ToFiles<'_> {
    fn begin(&mut self, found: &Found) -> Result<(), String> {
        self.current = None;
        let Some(member) = self.members.get(&found.name) else { return Ok(()) };
        // As it was verified; what this reading finds may be another one's.
        let meta = member.meta.or(found.meta).filter(|_| member.kind != KindSaid::Range);
        let within = inside(&found.name).ok_or_else(|| format!("'{}' leads out of the folder", found.name))?;
        let path = self.folder.join(&within);
        let file = self.make(found, &within).map_err(|error| format!("make {}: {error}", path.display()))?;
        self.named.extend(within.ancestors().skip(1).map(|above| self.folder.join(above)));
        let digest = Digest::default();
        self.current = Some(Current {
            name: found.name.clone(),
            path,
            file,
            kind: found.kind.clone(),
            meta,
            size: found.size,
            digest,
        });
        Ok(())
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        let Some(Current { path, file: Some(file), digest, .. }) = &mut self.current else { return Ok(()) };
        file.write_all_at(bytes, at).map_err(|error| format!("write {}: {error}", path.display()))?;
        digest.add(at, bytes);
        self.restored.data_bytes += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let Some(Current { name, path, file, kind, meta, size, mut digest }) = self.current.take() else {
            return Ok(());
        };
        if let FoundKind::Link(to) = &kind {
            digest.add(0, to);
        }
        // It was read again since it was verified. What is there of it stays its maker's alone.
        let verified = self.members.get(&name).map(|member| member.blake3.as_str());
        if verified != Some(digest.finish(size).as_str()) {
            return Err(not_as_verified(&name));
        }
        match (kind, meta) {
            (FoundKind::Folder, Some(meta)) => self.folders.push((path.clone(), meta)),
            (FoundKind::Link(_), Some(meta)) => self.note(&path, attributes::set_link(&path, &meta)),
            (FoundKind::File, Some(meta)) => {
                let set = file.as_ref().map_or(Ok(()), |file| attributes::set(file, &meta));
                self.note(&path, set);
            }
            (_, None) => {}
        }
        if let Some(file) = file {
            file.sync_all().map_err(|error| format!("sync {}: {error}", path.display()))?;
        }
        self.restored.members += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn said(bytes: &[u8]) -> MemberSaid {
        let (mut digest, size) = (Digest::default(), bytes.len() as u64);
        digest.add(0, bytes);
        MemberSaid {
            set: "s".into(),
            name: "s/a/file".into(),
            escaped: false,
            volume: "a".into(),
            kind: KindSaid::File,
            offset: None,
            size,
            data_bytes: size,
            meta: None,
            extents: Vec::new(),
            blake3: digest.finish(size),
        }
    }

    #[test]
    fn nothing_is_restored_among_files_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (said(b"one"), MemberSaid { name: "s/a/other".into(), ..said(b"two") });
        let members = [first, second];
        assert_eq!(refuse_what_is_there(&members, folder.path()), Ok(()));
        fs::create_dir_all(folder.path().join("s/a")).unwrap();
        assert_eq!(refuse_what_is_there(&members, folder.path()), Ok(()), "a folder is no file");
        symlink("nowhere", folder.path().join("s/a/other")).unwrap();
        let why = refuse_what_is_there(&members, folder.path()).unwrap_err();
        assert!(why.contains("s/a/other is there already") && why.contains("Nothing was restored"), "{why}");
    }

    /// A program of another user may have to read what is restored; files have their own permissions.
    #[test]
    fn a_folder_to_restore_into_is_as_open_as_the_mask_says() {
        let place = tempfile::tempdir().unwrap();
        make_folder(&place.path().join("above/new"), FOLDER_MODE).unwrap();
        fs::create_dir(place.path().join("other")).unwrap();
        let mode = |name: &str| fs::metadata(place.path().join(name)).unwrap().permissions().mode();
        assert_eq!([mode("above"), mode("above/new")], [mode("other"); 2]);
    }

    /// It is read a second time when it was verified.
    #[test]
    fn files_that_are_not_what_was_verified_are_not_called_restored() {
        let restored = |verified: &[u8], read: &[u8]| {
            let folder = tempfile::tempdir().unwrap();
            let mut taker = ToFiles::of(vec![said(verified)], folder.path());
            let size = read.len() as u64;
            taker.begin(&Found { name: "s/a/file".into(), kind: FoundKind::File, size, meta: None, headers: None })?;
            taker.data(0, read)?;
            taker.end()?;
            taker.ended()
        };
        assert_eq!(restored(b"same", b"same"), Ok(Restored { members: 1, data_bytes: 4 }));
        for read in [&b"name"[..], b"sam", b"same again"] {
            assert!(restored(b"same", read).unwrap_err().contains("s/a/file is not what it was"));
        }
        let folder = tempfile::tempdir().unwrap();
        let missing = ToFiles::of(vec![said(b"same")], folder.path()).ended();
        assert!(missing.unwrap_err().contains("are gone"));
    }

    /// A header that somebody has altered between the two readings gave a program another owner's rights.
    #[test]
    fn files_have_the_permissions_that_were_verified() {
        let folder = tempfile::tempdir().unwrap();
        let meta = |mode| Some(Meta { mode, uid: 0, gid: 0, modified: 7 });
        let mut taker = ToFiles::of(vec![MemberSaid { meta: meta(0o640), ..said(b"same") }], folder.path());
        let kind = FoundKind::File;
        taker.begin(&Found { name: "s/a/file".into(), kind, size: 4, meta: meta(0o4777), headers: None }).unwrap();
        taker.data(0, b"same").unwrap();
        taker.end().unwrap();
        taker.ended().unwrap();
        let found = fs::metadata(folder.path().join("s/a/file")).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o640);
    }

    /// A loss of power right behind it would take files that were said to be restored.
    #[test]
    fn nothing_is_called_restored_before_its_name_is_durable() {
        let folder = tempfile::tempdir().unwrap();
        let mut taker = ToFiles::of(vec![said(b"same")], folder.path());
        taker
            .begin(&Found { name: "s/a/file".into(), kind: FoundKind::File, size: 4, meta: None, headers: None })
            .unwrap();
        taker.data(0, b"same").unwrap();
        taker.end().unwrap();
        let named: Vec<_> = ["", "s", "s/a"].map(|within| folder.path().join(within)).into();
        assert_eq!(taker.named.iter().cloned().collect::<Vec<_>>(), named);
        fs::remove_dir_all(folder.path().join("s")).unwrap();
        let why = taker.ended().unwrap_err();
        assert!(why.starts_with("sync ") && why.contains("s/a"), "{why}");
    }
}

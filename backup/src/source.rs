//! Where a finished backup is: an archive in a file or coming in, or the files of a folder.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::archive::head::agrees;
use crate::archive::read::{ArchiveError, Found, FoundKind, Taker, walk};
use crate::archive::records::Records;
use crate::archive::{MANIFEST, MANIFEST_CHECK};
use crate::digest::Digest;
use crate::manifest::{KindSaid, Manifest, MemberSaid};
use crate::names;
use crate::plan::Meta;

/// Bytes read at once from a file of a folder.
const PIECE: usize = 256 << 10;

/// A backup to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An archive or a folder of raw files.
    Path(PathBuf),
    /// An archive on standard input.
    Input,
}

impl Source {
    /// Bytes of data that [`Self::walk`] hands on, about; `None` where that is not known before.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let Self::Path(path) = self else { return None };
        if path.is_dir() {
            let manifest = folder_manifest(path).ok()?;
            return Some(manifest.data_bytes());
        }
        let found = std::fs::metadata(path).ok()?;
        found.is_file().then_some(found.len())
    }

    /// Hands every member to the taker, and gives the manifest.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn walk(&self, taker: &mut dyn Taker) -> Result<Manifest, ArchiveError> {
        match self {
            Self::Input => {
                let mut input = io::stdin().lock();
                let manifest = walk(&mut input, taker)?;
                // Behind the last member an archive is padded: whoever still writes that is not to find a reader gone.
                io::copy(&mut input, &mut io::sink())?;
                Ok(manifest)
            }
            Self::Path(path) if path.is_dir() => walk_folder(path, taker),
            Self::Path(path) => walk(Records::new(open(path)?), taker),
        }
    }
}

fn open(path: &Path) -> Result<File, ArchiveError> {
    File::open(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())).into())
}

/// The manifest of a folder of raw files, which is complete when it has one.
///
/// # Errors
/// [`ArchiveError`].
pub(crate) fn folder_manifest(folder: &Path) -> Result<Manifest, ArchiveError> {
    let text = |name: &str| std::fs::read(folder.join(name));
    let missing = |error: io::Error| ArchiveError::Incomplete(format!("{}: {MANIFEST}: {error}", folder.display()));
    let (manifest, check) = (text(MANIFEST).map_err(missing)?, text(MANIFEST_CHECK).map_err(missing)?);
    if !check.starts_with(blake3::hash(&manifest).to_hex().as_bytes()) {
        return Err(damaged(MANIFEST, "its digest does not agree".into()));
    }
    Manifest::decode(&manifest).map_err(|what| damaged(MANIFEST, what))
}

fn damaged(name: &str, what: String) -> ArchiveError {
    ArchiveError::Damaged { name: name.into(), what }
}

/// Backups shown of a folder that holds some.
const SHOWN: usize = 5;

/// A folder that backups were made into holds each in a folder of its own.
fn check_single(folder: &Path) -> Result<(), ArchiveError> {
    if folder.join(MANIFEST).exists() {
        return Ok(());
    }
    let mut backups: Vec<PathBuf> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    backups.retain(|path| path.join(MANIFEST).exists() && path.extension().is_none_or(|extension| extension != "part"));
    if backups.is_empty() {
        return Ok(());
    }
    backups.sort();
    let mut names: Vec<String> = backups.iter().take(SHOWN).map(|path| path.display().to_string()).collect();
    if backups.len() > SHOWN {
        names.push("…".into());
    }
    Err(ArchiveError::NoBackup(format!(
        "this folder holds backups, and is none itself: name one of {}",
        names.join(", ")
    )))
}

fn walk_folder(folder: &Path, taker: &mut dyn Taker) -> Result<Manifest, ArchiveError> {
    check_single(folder)?;
    let manifest = folder_manifest(folder)?;
    for member in &manifest.members {
        let name = member.readable_name();
        let within = inside(&name).ok_or_else(|| damaged(&name, "its name leads out of the folder".into()))?;
        walk_file(&folder.join(within), name, member, taker)?;
    }
    Ok(manifest)
}

fn walk_file(path: &Path, name: String, member: &MemberSaid, taker: &mut dyn Taker) -> Result<(), ArchiveError> {
    let at_path =
        |error: io::Error| ArchiveError::from(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
    let kind = match member.kind {
        KindSaid::Range | KindSaid::File => FoundKind::File,
        KindSaid::Folder => FoundKind::Folder,
        KindSaid::Link => FoundKind::Link(std::fs::read_link(path).map_err(at_path)?.into_os_string().into_vec()),
    };
    let is_file = kind == FoundKind::File;
    let found = std::fs::symlink_metadata(path).map_err(at_path)?;
    let size = if is_file { found.len() } else { 0 };
    // What the files of a folder can have there need not be what they had.
    let meta = member.meta.unwrap_or_else(|| Meta {
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        modified: found.mtime(),
    });
    taker.begin(&Found { name, kind, size, meta: Some(meta), headers: None }).map_err(ArchiveError::Taker)?;
    if is_file && found.is_file() {
        copy_data(&open(path)?, size, taker)?;
    }
    taker.end().map_err(ArchiveError::Taker)
}

fn copy_data(file: &File, size: u64, taker: &mut dyn Taker) -> Result<(), ArchiveError> {
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => return Ok(()),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(error) => return Err(io::Error::from(error).into()),
        };
        // It may have grown since it was measured.
        let Some(left) = size.checked_sub(begin) else { return Ok(()) };
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
        let some = buffer.get_mut(..length).unwrap_or_default();
        file.read_exact_at(some, begin)?;
        taker.data(begin, some).map_err(ArchiveError::Taker)?;
        at = begin + length as u64;
    }
    Ok(())
}

/// A member's name, as [`names::readable`] has it, as a path that stays inside a folder.
#[must_use]
pub fn inside(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(OsString::from_vec(names::bytes(name)));
    let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    (plain && !name.is_empty()).then_some(path)
}

/// What `verify` found.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Verified {
    /// The manifest.
    pub manifest: Manifest,
    /// Members whose digest agrees.
    pub good: usize,
    /// What is wrong: (member, what).
    pub bad: Vec<(String, String)>,
}

/// Recomputes every digest, and compares that and the headers of an archive with the manifest.
///
/// # Errors
/// [`ArchiveError`].
pub fn verify(source: &Source) -> Result<Verified, ArchiveError> {
    verify_telling(source, &mut |_| Ok(()))
}

/// The same, which tells again and again how many bytes of data it has read; whoever is told may end it.
///
/// # Errors
/// [`ArchiveError`].
pub fn verify_telling(
    source: &Source,
    tell: &mut dyn FnMut(u64) -> Result<(), String>,
) -> Result<Verified, ArchiveError> {
    let mut telling = Telling { digests: Digests::default(), done_bytes: 0, tell };
    let manifest = source.walk(&mut telling)?;
    let digests = telling.digests;
    let mut bad = Vec::new();
    let mut seen = BTreeSet::new();
    for said in &manifest.members {
        if !seen.insert(said.readable_name()) {
            bad.push((said.name.clone(), "two members have this name".into()));
        }
    }
    let mut there = digests.done.into_iter();
    for said in &manifest.members {
        match there.next() {
            Some((found, _)) if found.name != said.readable_name() => {
                bad.push((said.name.clone(), format!("'{}' is in its place", found.name)));
                break;
            }
            Some((_, digest)) if digest != said.blake3 => {
                bad.push((said.name.clone(), "its content is not what was backed up".into()));
            }
            Some((found, _)) if found.headers.is_some_and(|headers| !agrees(&found, &headers, said)) => {
                bad.push((
                    said.name.clone(),
                    "its header (name, size, owner, permissions, time) is not what was written".into(),
                ));
            }
            Some(_) => {}
            None => bad.push((said.name.clone(), "it is missing".into())),
        }
    }
    bad.extend(there.take(10).map(|(found, _)| (found.name, "the manifest does not know it".into())));
    let good = manifest.members.len().saturating_sub(bad.len());
    Ok(Verified { manifest, good, bad })
}

/// All members, and their digests.
#[derive(Debug, Default)]
struct Digests {
    done: Vec<(Found, String)>,
    current: Option<(Found, Digest)>,
}

impl Taker for Digests {
    fn begin(&mut self, found: &Found) -> Result<(), String> {
        self.current = Some((found.clone(), Digest::default()));
        Ok(())
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        if let Some((_, digest)) = &mut self.current {
            digest.add(at, bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        if let Some((found, mut digest)) = self.current.take() {
            if let FoundKind::Link(to) = &found.kind {
                digest.add(0, to);
            }
            let digest = digest.finish(found.size);
            self.done.push((found, digest));
        }
        Ok(())
    }
}

/// The same, and tells how far it is.
struct Telling<'a> {
    digests: Digests,
    done_bytes: u64,
    tell: &'a mut dyn FnMut(u64) -> Result<(), String>,
}

impl Taker for Telling<'_> {
    fn begin(&mut self, found: &Found) -> Result<(), String> {
        self.digests.begin(found)
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.digests.data(at, bytes)?;
        self.done_bytes += bytes.len() as u64;
        (self.tell)(self.done_bytes)
    }

    fn end(&mut self) -> Result<(), String> {
        self.digests.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::write::ArchiveWriter;
    use crate::content::{Content, Run};
    use crate::form::Form;
    use crate::manifest::tests::of_nothing;
    use crate::plan::{Kind, Member};

    /// An archive of a file with holes, from before 1970, whose name is not ASCII.
    fn archive() -> Vec<u8> {
        let meta = Meta { mode: 0o644, uid: 1, gid: 2, modified: -9 };
        let (data, mut digest, mut bytes) = ([7_u8; 512], Digest::default(), Vec::<u8>::new());
        digest.add(4096, &data);
        let said = MemberSaid {
            set: "s".into(),
            name: "s/a/\u{e4}".into(),
            escaped: false,
            volume: "a".into(),
            kind: KindSaid::File,
            offset: None,
            size: 8192,
            data_bytes: 512,
            meta: Some(meta),
            extents: Vec::new(),
            blake3: digest.finish(8192),
        };
        let member = Member {
            set: said.set.clone(),
            name: said.name.clone(),
            volume: said.volume.clone(),
            kind: Kind::File(meta),
            content: Content { size: 8192, runs: vec![Run { at: 4096, from: 0, length: 512 }] },
        };
        let manifest = Manifest { members: vec![said], ..of_nothing("b") };
        let mut archive = ArchiveWriter::new(&mut bytes, 0);
        archive.begin(&member).unwrap();
        archive.data(4096, &data).unwrap();
        archive.end().unwrap();
        archive.finish(&manifest.encode().unwrap()).unwrap();
        bytes
    }

    /// It has no check of its own: other tools took out what it said, and a restore the time.
    #[test]
    fn every_altered_byte_of_a_pax_header_is_found_and_named_by_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.tar");
        let verified = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            verify(&Source::Path(path.clone()))
        };
        let bytes = archive();
        assert!(verified(&bytes).unwrap().bad.is_empty());
        let last = b"mtime=-9\n";
        let end = bytes.windows(last.len()).position(|window| window == last).unwrap() + last.len();
        for at in 512..end {
            for bit in [1, 16] {
                let mut altered = bytes.clone();
                altered[at] ^= bit;
                let named = match verified(&altered) {
                    Ok(found) => found.bad.first().map(|(name, _)| name.clone()),
                    Err(ArchiveError::Damaged { name, .. }) => Some(name),
                    Err(error) => panic!("{error}"),
                };
                let is_there = named.as_deref().is_some_and(|name| ["s/a/\u{e4}", "header 1"].contains(&name));
                assert!(is_there, "byte {at}: {named:?}");
            }
        }
    }

    #[test]
    fn a_file_that_grows_while_it_is_read_is_read_as_it_was_measured() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.write_all_at(b"later", 1 << 20).unwrap();
        copy_data(&file, 4096, &mut Digests::default()).unwrap();
    }
}

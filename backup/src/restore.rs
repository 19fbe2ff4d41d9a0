//! Restoring: members of a finished backup, all or those of one set, go back to volumes or into files.
//!
//! A backup is verified before it is restored: what is damaged overwrites nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use crate::archive::read::{Found, FoundKind, Taker};
use crate::manifest::{KindSaid, Manifest, MemberSaid};
use crate::source::{Source, inside, verify};

/// Takes what is restored to volumes.
pub trait VolumeWriter {
    /// Bytes of a volume; `None` when there is none of that name.
    fn size(&self, volume: &str) -> Option<u64>;
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

/// A backup whose digests all agree, and its manifest.
///
/// # Errors
/// What is wrong with it.
pub fn sound(source: &Source) -> Result<Manifest, String> {
    let found = verify(source).map_err(|error| error.to_string())?;
    match found.bad.first() {
        Some((member, what)) => Err(format!("the backup is damaged: {member}: {what}. Nothing was restored")),
        None => Ok(found.manifest),
    }
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
    let manifest = sound(source)?;
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
        let size =
            volumes.size(volume).ok_or_else(|| format!("there is no volume '{volume}' here that can be written"))?;
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
    taker.volumes.complete()?;
    Ok(taker.restored)
}

struct ToVolumes<'a> {
    members: Vec<MemberSaid>,
    onto: Option<&'a str>,
    volumes: &'a mut dyn VolumeWriter,
    /// The member being restored, and how far it is.
    current: Option<(MemberSaid, u64)>,
    restored: Restored,
}

impl ToVolumes<'_> {
    /// Holes are part of the image: what was written there since goes.
    fn hole_up_to(&mut self, at: u64) -> Result<(), String> {
        let Some((member, done)) = &mut self.current else { return Ok(()) };
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
        self.current = member.map(|member| (member.clone(), 0));
        Ok(())
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.hole_up_to(at)?;
        let Some((member, done)) = &mut self.current else { return Ok(()) };
        let end = at.saturating_add(bytes.len() as u64);
        if end > member.size {
            return Err(format!("{} changed while it was restored", member.name));
        }
        self.volumes.write(self.onto.unwrap_or(&member.volume), member.offset.unwrap_or(0) + at, bytes)?;
        *done = end;
        self.restored.data_bytes += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        if let Some(size) = self.current.as_ref().map(|(member, _)| member.size) {
            self.hole_up_to(size)?;
            self.restored.members += 1;
        }
        self.current = None;
        Ok(())
    }
}

/// Writes members as files below a folder.
///
/// # Errors
/// What cannot be restored, and why. What is there already is not overwritten.
pub fn to_folder(source: &Source, set: Option<&str>, folder: &Path) -> Result<Restored, String> {
    let manifest = sound(source)?;
    let members = wanted(&manifest, set)?;
    let mut taker = ToFiles {
        names: members.into_iter().map(|member| member.name).collect(),
        folder,
        current: None,
        restored: Restored::default(),
    };
    source.walk(&mut taker).map_err(|error| error.to_string())?;
    Ok(taker.restored)
}

struct ToFiles<'a> {
    names: std::collections::BTreeSet<String>,
    folder: &'a Path,
    current: Option<(PathBuf, Option<File>)>,
    restored: Restored,
}

impl ToFiles<'_> {
    fn make(&self, found: &Found, path: &Path) -> io::Result<Option<File>> {
        if let Some(above) = path.parent() {
            fs::create_dir_all(above)?;
            // A link that an archive brought must not lead what follows out of the folder.
            let (real, root) = (fs::canonicalize(above)?, fs::canonicalize(self.folder)?);
            if !real.starts_with(root) {
                return Err(io::Error::other("a link leads out of the folder"));
            }
        }
        match &found.kind {
            FoundKind::Folder => fs::create_dir_all(path).map(|()| None),
            FoundKind::Link(to) => symlink(to, path).map(|()| None),
            FoundKind::File => {
                let file = File::create_new(path)?;
                file.set_len(found.size)?;
                Ok(Some(file))
            }
        }
    }
}

impl Taker for ToFiles<'_> {
    fn begin(&mut self, found: &Found) -> Result<(), String> {
        self.current = None;
        if !self.names.contains(&found.name) {
            return Ok(());
        }
        let within = inside(&found.name).ok_or_else(|| format!("'{}' leads out of the folder", found.name))?;
        let path = self.folder.join(within);
        let made = fs::create_dir_all(self.folder).and_then(|()| self.make(found, &path));
        let file = made.map_err(|error| format!("make {}: {error}", path.display()))?;
        self.current = Some((path, file));
        Ok(())
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        let Some((path, Some(file))) = &self.current else { return Ok(()) };
        file.write_all_at(bytes, at).map_err(|error| format!("write {}: {error}", path.display()))?;
        self.restored.data_bytes += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        if let Some((path, file)) = self.current.take() {
            if let Some(file) = file {
                file.sync_all().map_err(|error| format!("sync {}: {error}", path.display()))?;
            }
            self.restored.members += 1;
        }
        Ok(())
    }
}

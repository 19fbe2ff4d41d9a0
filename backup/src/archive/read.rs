//! Reading an archive from anything that gives bytes in their order. The bytes may come from anybody (invariant 10).

use std::io::{self, BufRead, BufReader, Read};

use tar::{Archive, EntryType, Header};

use super::map::Decoder;
use super::{MANIFEST, MANIFEST_CHECK};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::names;
use crate::plan::Meta;

/// Bytes of a pax header that is believed, at most.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Bytes handed on at once.
const PIECE: usize = 256 << 10;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The bytes do not come.
    #[error("read the archive: {0}")]
    Read(#[from] io::Error),
    /// They make no sense.
    #[error("the archive is damaged at {name}: {what}")]
    Damaged {
        /// The member.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// Something is missing.
    #[error("the archive is not complete: {0}")]
    Incomplete(String),
    /// It is something else than a backup.
    #[error("{0}")]
    NoBackup(String),
    /// Whoever takes the members does not go on.
    #[error("{0}")]
    Taker(String),
}

/// A member as its headers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name, as [`names::readable`] has it.
    pub name: String,
    /// What tar calls it.
    pub kind: FoundKind,
    /// Bytes with holes.
    pub size: u64,
    /// Owner, permissions, time, where they are known.
    pub meta: Option<Meta>,
    /// Of a member of an archive.
    pub headers: Option<Headers>,
}

/// What is known of the headers that a member has in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Digest of the records of its pax header; of nothing where it has none.
    pub pax: blake3::Hash,
    /// Bytes it takes, with the map of its runs.
    pub stored: u64,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundKind {
    /// Bytes.
    File,
    /// A directory.
    Folder,
    /// A symbolic link and where it leads.
    Link(Vec<u8>),
}

/// Takes members as they come.
pub trait Taker {
    /// The next member.
    ///
    /// # Errors
    /// Why it does not go on, for people.
    fn begin(&mut self, found: &Found) -> Result<(), String>;
    /// Data at a place of its content.
    ///
    /// # Errors
    /// As [`Taker::begin`].
    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), String>;
    /// It is complete.
    ///
    /// # Errors
    /// As [`Taker::begin`].
    fn end(&mut self) -> Result<(), String>;
}

/// Hands every member to the taker, and gives the manifest.
///
/// # Errors
/// [`ArchiveError`].
pub fn walk(source: impl Read, taker: &mut dyn Taker) -> Result<Manifest, ArchiveError> {
    let mut archive = Archive::new(source);
    let mut extensions = Extensions::default();
    let mut manifest = None;
    for (number, entry) in archive.entries()?.raw(true).enumerate() {
        let mut entry = entry.map_err(|error| no_header(number, error))?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::XHeader => extensions = Extensions::read(&mut entry, number)?,
            EntryType::XGlobalHeader => {}
            _ => {
                let found = std::mem::take(&mut extensions);
                let name = found.name(&entry.path_bytes());
                let stored = entry.size();
                let reader = BufReader::with_capacity(PIECE, entry.take(stored));
                if name == MANIFEST {
                    manifest = Some(text(reader, &name, stored)?);
                } else if name == MANIFEST_CHECK {
                    let Some(manifest) = manifest else { break };
                    return checked(&manifest, &text(reader, &name, stored)?);
                } else {
                    hand_on(found, name, kind, stored, reader, taker)?;
                }
            }
        }
    }
    Err(ArchiveError::Incomplete("it has no manifest at its end: the backup broke off, or the file was cut".into()))
}

/// What the reader of headers says holds the bytes that it took for one, which may be anything.
fn no_header(number: usize, error: io::Error) -> ArchiveError {
    match (error.raw_os_error(), number) {
        (Some(_), _) => error.into(),
        (None, 0) => damaged("its begin", "this is no header of a tar archive: is it a backup?"),
        (None, number) => damaged(&header(number), "this is no header of a tar archive"),
    }
}

/// A header by its place among all of them.
fn header(number: usize) -> String {
    format!("header {}", number + 1)
}

fn damaged(name: &str, what: impl Into<String>) -> ArchiveError {
    ArchiveError::Damaged { name: name.into(), what: what.into() }
}

fn text(mut reader: impl Read, name: &str, stored: u64) -> Result<Vec<u8>, ArchiveError> {
    if stored > MANIFEST_BYTES_MAX {
        return Err(damaged(name, "it is too large"));
    }
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    if bytes.len() as u64 != stored {
        let missing = format!("it breaks off in {name}, {} of {stored} bytes into it", bytes.len());
        return Err(ArchiveError::Incomplete(missing));
    }
    Ok(bytes)
}

fn checked(manifest: &[u8], check: &[u8]) -> Result<Manifest, ArchiveError> {
    let digest = blake3::hash(manifest).to_hex();
    if !check.starts_with(digest.as_bytes()) {
        return Err(damaged(MANIFEST, "its digest does not agree"));
    }
    Manifest::decode(manifest).map_err(|what| damaged(MANIFEST, what))
}

/// The first record of a pax header, `LENGTH KEY=VALUE\n`, and what follows it. A value holds anything, ends of lines too.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().position(|byte| *byte == b' ')?;
    let length = std::str::from_utf8(bytes.get(..blank)?).ok()?.parse().ok()?;
    let (whole, rest) = bytes.split_at_checked(length)?;
    let said = whole.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = said.iter().position(|byte| *byte == b'=')?;
    Some((said.get(..equals)?, said.get(equals + 1..)?, rest))
}

/// What a pax header says of the member behind it.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    modified: Option<i64>,
    /// Of all that stands there.
    digest: Option<blake3::Hash>,
}

impl Extensions {
    fn read(entry: &mut impl Read, number: usize) -> Result<Self, ArchiveError> {
        let mut bytes = Vec::new();
        entry.take(EXTENSION_BYTES_MAX).read_to_end(&mut bytes)?;
        let mut found = Self { digest: Some(blake3::hash(&bytes)), ..Self::default() };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (key, value, after) =
                record(rest).ok_or_else(|| damaged(&header(number), "the records of this pax header make no sense"))?;
            let text = || std::str::from_utf8(value).ok();
            match key {
                b"path" => found.path = Some(value.to_vec()),
                b"linkpath" => found.link = Some(value.to_vec()),
                b"GNU.sparse.name" => found.sparse_name = Some(value.to_vec()),
                b"GNU.sparse.realsize" => found.sparse_size = text().and_then(|text| text.parse().ok()),
                b"mtime" => found.modified = text().and_then(|text| text.parse().ok()),
                _ => {}
            }
            rest = after;
        }
        Ok(found)
    }

    fn name(&self, in_header: &[u8]) -> String {
        names::readable(self.sparse_name.as_deref().or(self.path.as_deref()).unwrap_or(in_header))
    }

    fn meta(&self, header: &Header) -> Option<Meta> {
        let id = |id: io::Result<u64>| u32::try_from(id.ok()?).ok();
        let in_header = || i64::try_from(header.mtime().ok()?).ok();
        Some(Meta {
            mode: header.mode().ok()? & 0o7777,
            uid: id(header.uid())?,
            gid: id(header.gid())?,
            modified: self.modified.or_else(in_header)?,
        })
    }
}

fn hand_on<R: Read>(
    said: Extensions,
    name: String,
    kind: EntryType,
    stored: u64,
    mut reader: BufReader<io::Take<tar::Entry<'_, R>>>,
    taker: &mut dyn Taker,
) -> Result<(), ArchiveError> {
    let meta = said.meta(reader.get_ref().get_ref().header());
    let headers = Some(Headers { pax: said.digest.unwrap_or_else(|| blake3::hash(&[])), stored });
    let kind = match kind {
        EntryType::Directory => FoundKind::Folder,
        EntryType::Symlink => {
            let entry = reader.get_ref().get_ref();
            let there = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
            FoundKind::Link(said.link.or(there).unwrap_or_default())
        }
        EntryType::Regular | EntryType::Continuous => FoundKind::File,
        other => return Err(damaged(&name, format!("it is a member of a kind that no backup has ({other:?})"))),
    };
    let (size, runs) = match said.sparse_size {
        Some(size) => (size, sparse_runs(&mut reader, &name, size, stored)?),
        None => (stored, vec![(0, stored)]),
    };
    taker.begin(&Found { name: name.clone(), kind, size, meta, headers }).map_err(ArchiveError::Taker)?;
    for (at, length) in runs {
        copy_run(&mut reader, &name, at, length, taker)?;
    }
    taker.end().map_err(ArchiveError::Taker)
}

fn sparse_runs(reader: &mut impl BufRead, name: &str, size: u64, stored: u64) -> Result<Vec<(u64, u64)>, ArchiveError> {
    let mut map = Decoder::default();
    let mut byte = [0];
    while !map.is_complete() {
        reader.read_exact(&mut byte).map_err(|_| damaged(name, "its sparse map breaks off"))?;
        map.push(byte[0]).map_err(|what| damaged(name, what))?;
    }
    let taken = map.stored_bytes();
    let consumed = map.consumed();
    io::copy(&mut reader.take(taken - consumed), &mut io::sink())?;
    let runs = map.runs(size).map_err(|what| damaged(name, what))?;
    let data: u64 = runs.iter().map(|(_, length)| length).sum();
    if taken.checked_add(data) != Some(stored) {
        return Err(damaged(name, "its sparse map and its size do not agree"));
    }
    Ok(runs)
}

fn copy_run(
    reader: &mut impl BufRead,
    name: &str,
    at: u64,
    length: u64,
    taker: &mut dyn Taker,
) -> Result<(), ArchiveError> {
    let mut done = 0;
    while done < length {
        let some = reader.fill_buf()?;
        let left = usize::try_from(length - done).unwrap_or(usize::MAX);
        let some = some.get(..left.min(some.len())).unwrap_or_default();
        if some.is_empty() {
            return Err(ArchiveError::Incomplete(format!("it breaks off in {name}, {done} of {length} bytes into it")));
        }
        taker.data(at + done, some).map_err(ArchiveError::Taker)?;
        let taken = some.len();
        reader.consume(taken);
        done += taken as u64;
    }
    Ok(())
}

//! The headers before a member: a pax header where one is needed, then the ustar header.

use std::borrow::Cow;

use tar::{EntryType, Header};

use super::read::{Found, FoundKind, Headers};
use super::{BLOCK, padding};
use crate::manifest::{KindSaid, MemberSaid};
use crate::names;
use crate::plan::{Kind, Member, Meta};

/// What a header says.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) name: Cow<'a, [u8]>,
    pub(crate) kind: EntryType,
    pub(crate) link: Option<&'a [u8]>,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) modified: i64,
    /// Bytes in the archive.
    pub(crate) stored: u64,
    /// The size with holes, when a sparse map precedes the data.
    pub(crate) sparse: Option<u64>,
}

impl<'a> Head<'a> {
    /// A plain file.
    pub(crate) const fn file(name: &'a str, stored: u64, modified: i64) -> Self {
        let kind = EntryType::Regular;
        let name = Cow::Borrowed(name.as_bytes());
        Self { name, kind, link: None, mode: 0o600, owner: (0, 0), modified, stored, sparse: None }
    }

    /// A member of a plan.
    pub(crate) fn member(member: &'a Member, stored: u64, modified: i64) -> Self {
        let sparse = member.content.is_sparse().then_some(member.content.size);
        let name = Cow::Owned(names::bytes(&member.name));
        let mut head = Self { sparse, name, ..Self::file("", stored, modified) };
        let (kind, meta) = match &member.kind {
            Kind::Range { .. } => return head,
            Kind::File(meta) => (EntryType::Regular, meta),
            Kind::Folder(meta) => (EntryType::Directory, meta),
            Kind::Link(meta, target) => {
                head.link = Some(target.as_slice());
                (EntryType::Symlink, meta)
            }
        };
        head.kind = kind;
        head.mode = meta.mode & 0o7777;
        head.owner = (meta.uid, meta.gid);
        head.modified = meta.modified;
        head
    }

    /// The header blocks.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (records, name) = self.records();
        let mut blocks = Vec::new();
        if !records.is_empty() {
            let extension = self.block(b"PaxHeaders/member", EntryType::XHeader, records.len() as u64, None);
            blocks.extend_from_slice(extension.as_bytes());
            blocks.extend_from_slice(&records);
            blocks.resize(blocks.len() + usize::try_from(padding(records.len() as u64)).unwrap_or(0), 0);
        }
        blocks.extend_from_slice(self.block(&name, self.kind, self.stored, self.link).as_bytes());
        blocks
    }

    /// The records of its pax header, and the name in the other one.
    fn records(&self) -> (Vec<u8>, Vec<u8>) {
        let mut records = Vec::new();
        let mut name = self.name.to_vec();
        if [Some(&*self.name), self.link].into_iter().flatten().any(|path| std::str::from_utf8(path).is_err()) {
            // What follows is UTF-8, or else what this says: bytes.
            record(&mut records, "hdrcharset", b"BINARY");
        }
        if let Some(size) = self.sparse {
            record(&mut records, "GNU.sparse.major", b"1");
            record(&mut records, "GNU.sparse.minor", b"0");
            record(&mut records, "GNU.sparse.name", &self.name);
            record(&mut records, "GNU.sparse.realsize", size.to_string().as_bytes());
            let slash = self.name.iter().rposition(|byte| *byte == b'/');
            let (folder, file) = slash.map_or((&b"."[..], &*self.name), |at| {
                (self.name.get(..at).unwrap_or_default(), self.name.get(at + 1..).unwrap_or_default())
            });
            name = [folder, b"/GNUSparseFile.0/", file].concat();
        }
        if !fits(&name) {
            record(&mut records, "path", &name);
        }
        if let Some(link) = self.link.filter(|link| !fits(link)) {
            record(&mut records, "linkpath", link);
        }
        if self.stored >= 1 << 33 {
            record(&mut records, "size", self.stored.to_string().as_bytes());
        }
        if self.modified < 0 {
            record(&mut records, "mtime", self.modified.to_string().as_bytes());
        }
        (records, name)
    }

    fn block(&self, name: &[u8], kind: EntryType, size: u64, link: Option<&[u8]>) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(self.mode);
        header.set_uid(self.owner.0.into());
        header.set_gid(self.owner.1.into());
        header.set_mtime(u64::try_from(self.modified).unwrap_or(0));
        header.set_size(size);
        place(&mut header.as_old_mut().name, name);
        place(&mut header.as_old_mut().linkname, link.unwrap_or_default());
        header.set_cksum();
        header
    }
}

/// Whether the headers of a member in an archive are those it was given: what stands in a pax header has no check of its own, and other tools go by
/// all of it.
pub(crate) fn agrees(found: &Found, headers: &Headers, said: &MemberSaid) -> bool {
    let is_kind = match said.kind {
        KindSaid::Range | KindSaid::File => found.kind == FoundKind::File,
        KindSaid::Folder => found.kind == FoundKind::Folder,
        KindSaid::Link => matches!(found.kind, FoundKind::Link(_)),
    };
    let meta = said.meta.map(|meta| Meta { mode: meta.mode & 0o7777, ..meta });
    if !is_kind || found.size != said.size || meta.is_some() && found.meta != meta {
        return false;
    }
    let link = match &found.kind {
        FoundKind::Link(to) => Some(to.as_slice()),
        FoundKind::File | FoundKind::Folder => None,
    };
    let head = Head {
        name: Cow::Owned(names::bytes(&found.name)),
        link,
        sparse: (said.data_bytes < said.size).then_some(said.size),
        ..Head::file("", headers.stored, found.meta.map_or(0, |meta| meta.modified))
    };
    blake3::hash(&head.records().0) == headers.pax
}

/// Whether a path fits into the header itself: its other encodings are older than pax.
fn fits(path: &[u8]) -> bool {
    path.len() <= 100 && path.is_ascii()
}

fn place(field: &mut [u8], text: &[u8]) {
    let fitting = text.iter().take(field.len());
    field.iter_mut().zip(fitting).for_each(|(to, from)| *to = *from);
}

/// `LENGTH KEY=VALUE\n`, the length being that of the whole.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Bytes of the blocks that end an archive of so many bytes: two empty ones, and up to the end of the record.
pub(crate) const fn end(written: u64) -> u64 {
    let marked = written.saturating_add(2 * BLOCK);
    marked.next_multiple_of(super::RECORD) - written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_say_their_own_length() {
        for length in 1..400 {
            let mut records = Vec::new();
            record(&mut records, "path", &vec![b'x'; length]);
            let said: usize = std::str::from_utf8(&records).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, records.len());
        }
    }
}

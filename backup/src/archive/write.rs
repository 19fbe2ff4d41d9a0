//! Writing an archive to anything that takes bytes in their order.

use std::io::{self, Write};

use super::head::{Head, end};
use super::{MANIFEST, MANIFEST_CHECK, map, padding};
use crate::form::Form;
use crate::manifest::{MANIFEST_BYTES_MAX, too_large};
use crate::plan::Member;

/// Zeroes written at once.
static ZEROES: [u8; 10 << 10] = [0; 10 << 10];

/// An archive being written.
#[derive(Debug)]
pub struct ArchiveWriter<W> {
    target: W,
    written: u64,
    modified: i64,
    /// Bytes of the member still to come.
    left: u64,
    pad: u64,
}

impl<W: Write> ArchiveWriter<W> {
    /// An archive of things as they were at a time, seconds since 1970.
    pub const fn new(target: W, modified: i64) -> Self {
        Self { target, written: 0, modified, left: 0, pad: 0 }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.target.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn zeroes(&mut self, length: u64) -> io::Result<()> {
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        while left > 0 {
            let some = ZEROES.get(..left.min(ZEROES.len())).unwrap_or(&ZEROES);
            self.put(some)?;
            left -= some.len();
        }
        Ok(())
    }

    fn small(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let head = Head::file(name, bytes.len() as u64, self.modified).encode();
        self.put(&head)?;
        self.put(bytes)?;
        self.zeroes(padding(bytes.len() as u64))
    }
}

impl<W: Write> Form for ArchiveWriter<W> {
    fn begin(&mut self, member: &Member) -> io::Result<()> {
        let map = if member.content.is_sparse() { map::encode(&member.content) } else { Vec::new() };
        let data = member.content.data_bytes();
        let stored = data.saturating_add(map.len() as u64);
        self.put(&Head::member(member, stored, self.modified).encode())?;
        self.put(&map)?;
        self.left = data;
        self.pad = padding(stored);
        Ok(())
    }

    fn data(&mut self, _at: u64, bytes: &[u8]) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| io::Error::other("a member grew"))?;
        self.put(bytes)
    }

    fn end(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("a member is shorter than its header says"));
        }
        self.zeroes(self.pad)
    }

    fn finish(&mut self, manifest: &str) -> io::Result<()> {
        // A backup that nobody reads back is none.
        if manifest.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(io::Error::other(too_large(manifest.len() as u64, MANIFEST_BYTES_MAX)));
        }
        self.small(MANIFEST, manifest.as_bytes())?;
        let check = format!("{}  {MANIFEST}\n", blake3::hash(manifest.as_bytes()).to_hex());
        self.small(MANIFEST_CHECK, check.as_bytes())?;
        self.zeroes(end(self.written))?;
        self.target.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_whose_manifest_nobody_reads_is_not_finished() {
        // Zeroes that nobody wrote take no memory.
        let manifest = String::from_utf8(vec![0; usize::try_from(MANIFEST_BYTES_MAX).unwrap() + 1]).unwrap();
        let mut archive = ArchiveWriter::new(io::sink(), 0);
        assert!(archive.finish(&manifest).unwrap_err().to_string().contains("fewer files"));
    }
}

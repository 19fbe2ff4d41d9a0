//! Neighbouring ranges of one volume on their way to one write, out of wherever their data lies.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::UpdaterError;
use crate::extent::Extent;
use crate::storage::aligned::{AlignedBuffer, BLOCK_BYTES, is_whole_blocks};
use crate::volumes::VolumeFile;

/// Neighbouring ranges are joined up to this many bytes for one write past the page cache.
const DIRECT_BYTES_MAX: usize = 1 << 20;
/// And to this many through it: Linux makes folios of the page cache as large as the writes that fill them, and with some file
/// systems (ext4) each later small write into a folio walks over all of its blocks.
const CACHED_BYTES_MAX: usize = 64 << 10;
/// From so many bytes on a disk takes direct I/O as fast as the page cache does.
const DIRECT_BYTES_MIN: usize = 64 << 10;

/// See the module.
pub(super) struct Run<'a> {
    /// The raw data of the window's frames.
    data: &'a [&'a [u8]],
    volume: Option<Arc<VolumeFile>>,
    offset: u64,
    length: usize,
    /// Frames by their number, and what of their data.
    parts: Vec<(usize, Range<usize>)>,
    gathered: &'a mut AlignedBuffer,
    past_cache: bool,
}

impl<'a> Run<'a> {
    pub(super) const fn new(data: &'a [&'a [u8]], gathered: &'a mut AlignedBuffer, past_cache: bool) -> Self {
        Self { data, volume: None, offset: 0, length: 0, parts: Vec::new(), gathered, past_cache }
    }

    /// Adds a range whose data begins at a place of a frame's.
    pub(super) fn push(
        &mut self,
        volume: &Arc<VolumeFile>,
        extent: Extent,
        frame: usize,
        at: usize,
    ) -> Result<(), UpdaterError> {
        let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
        let same = self.volume.as_ref().is_some_and(|before| before.index == volume.index);
        let adjacent = same && self.offset + self.length as u64 == extent.offset;
        let bytes_max = if self.past_cache { DIRECT_BYTES_MAX } else { CACHED_BYTES_MAX };
        if !adjacent || self.length.saturating_add(length) > bytes_max {
            self.flush()?;
            self.volume = Some(Arc::clone(volume));
            self.offset = extent.offset;
        }
        match self.parts.last_mut().filter(|(before, part)| *before == frame && part.end == at) {
            Some((_, part)) => part.end = at.saturating_add(length),
            None => self.parts.push((frame, at..at.saturating_add(length))),
        }
        self.length += length;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), UpdaterError> {
        let Some(volume) = self.volume.take() else { return Ok(()) };
        let written = volume.change(|volume| self.write_to(volume));
        self.parts.clear();
        self.length = 0;
        written.map_err(|source| UpdaterError::Volume {
            action: "write",
            volume: volume.name.clone(),
            offset: self.offset,
            source,
        })
    }

    fn write_to(&mut self, volume: &VolumeFile) -> io::Result<()> {
        let part =
            |(frame, part): &(usize, Range<usize>)| self.data.get(*frame).and_then(|data| data.get(part.clone()));
        // The tables of a frame are checked: its extents lie within its data.
        let parts: Option<Vec<&[u8]>> = self.parts.iter().map(part).collect();
        let parts = parts.ok_or_else(|| io::Error::other("a frame has less data than its extents"))?;
        if self.past_cache && self.length >= DIRECT_BYTES_MIN && self.write_direct(volume, &parts)? {
            return Ok(());
        }
        match parts.as_slice() {
            [one] => write_in_steps(volume, one, self.offset),
            parts => volume.file.write_parts_at(parts, self.offset),
        }
    }

    fn write_direct(&mut self, volume: &VolumeFile, parts: &[&[u8]]) -> io::Result<bool> {
        if parts.iter().all(|part| is_whole_blocks(part, self.offset)) {
            return match parts {
                [one] => volume.file.write_direct_at(one, self.offset),
                parts => volume.file.write_direct_parts_at(parts, self.offset),
            };
        }
        // Odd lengths before them have moved whole blocks away from their borders.
        if !self.offset.is_multiple_of(BLOCK_BYTES as u64) || !self.length.is_multiple_of(BLOCK_BYTES) {
            return Ok(false);
        }
        self.gathered.clear();
        parts.iter().for_each(|part| self.gathered.extend_from_slice(part));
        volume.file.write_direct_at(self.gathered.as_slice(), self.offset)
    }
}

/// What is longer than a run through the page cache is one range.
fn write_in_steps(volume: &VolumeFile, data: &[u8], offset: u64) -> io::Result<()> {
    let mut at = offset;
    for step in data.chunks(CACHED_BYTES_MAX) {
        volume.file.write_all_at(step, at)?;
        at += step.len() as u64;
    }
    Ok(())
}

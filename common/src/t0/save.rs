//! Copy before write, by the updater: what a window is about to overwrite, and no era since the marker has, is read, appended to
//! the newest era's file, synced, entered into the concordance. Only then the volume is written.
//!
//! Hosts and replication come first: when something cannot be saved, eras end, the oldest first, until it can or none is left.
//! Before that, the volumes wait while a backup reads and the journal has room: what is not overwritten need not be saved.
//! An era ends durably (its file is removed) before the volume is written, so that no restart takes it for whole.
//! While the service stops none ends: the next start goes on from the journal, and may have more room.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::concordance::{RANGE_BYTES, Saved};
use super::eras::{Eras, State};
use super::side_file::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, PIECE_BYTES_MAX, Saving, SideError, SideFile, batch_bytes};
use super::space::Full;
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::journal::Position;
use crate::volumes::{VolumeFile, Volumes};

/// Content is saved in blocks of this many bytes: what file systems and databases write.
const BLOCK_BYTES: u64 = 4096;

impl Eras {
    /// Saves what ranges hold now, where an image needs it; `start` is where the volumes are. `false`: it cannot be saved, and may
    /// not have to be when it is tried again; nothing may be written until then.
    ///
    /// # Errors
    /// When images can neither be kept whole nor be ended; nothing may be written then.
    pub fn save(&self, start: Position, extents: &[Extent], volumes: &Volumes, may_wait: bool) -> io::Result<bool> {
        self.save_until(start, extents, volumes, may_wait, &AtomicBool::new(false))
    }

    /// [`Self::save`] for an updater that leaves what takes long when it is time to stop: `false` then, too.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn save_until(
        &self,
        start: Position,
        extents: &[Extent],
        volumes: &Volumes,
        may_wait: bool,
        stop: &AtomicBool,
    ) -> io::Result<bool> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let unsaved = self.unsaved(start, extents, volumes);
        let pieces = unsaved.into_iter().filter_map(|extent| Some(Pieces::of(volumes.get(extent.volume)?, extent)));
        for piece in pieces.flatten() {
            let piece = match piece {
                Ok(piece) => piece,
                Err(reason) => return self.cannot_read(start, &reason),
            };
            bytes += piece.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            batch.push(piece);
            if bytes >= BATCH_BYTES_MAX || batch.len() >= BATCH_ENTRIES_MAX {
                if !self.save_batch(start, &batch, may_wait)? {
                    return Ok(false);
                }
                batch.clear();
                bytes = 0;
                if self.active_file(start).is_none() {
                    // The images have ended: what follows is read for nobody.
                    break;
                }
                if stop.load(Ordering::Acquire) {
                    return Ok(false);
                }
            }
        }
        let saved = batch.is_empty() || self.save_batch(start, &batch, may_wait)?;
        if saved {
            self.squeeze(false);
        }
        Ok(saved)
    }

    /// Reads what [`Self::save`] will read, so that it finds it in memory: for who waits for the disk beside others, and saves one at a time.
    /// What cannot be read is told there.
    pub(crate) fn read_before(&self, start: Position, extents: &[Extent], volumes: &Volumes) {
        for extent in self.unsaved(start, extents, volumes) {
            volumes.get(extent.volume).into_iter().flat_map(|volume| Pieces::of(volume, extent)).for_each(drop);
        }
    }

    /// The blocks the ranges touch that are not saved in the era under way.
    fn unsaved(&self, start: Position, extents: &[Extent], volumes: &Volumes) -> Vec<Extent> {
        let state = self.state.read();
        let Some(active) = state.active(start) else { return Vec::new() };
        let begun = state.eras.iter().take_while(|era| era.number <= active.number);
        let needed: BTreeSet<VolumeIndex> = begun.flat_map(|era| era.volumes.iter().copied()).collect();
        let mut unsaved: Vec<Extent> = Vec::new();
        for extent in extents.iter().filter(|extent| needed.contains(&extent.volume)) {
            let Some(size) = volumes.get(extent.volume).map(|volume| volume.size()) else { continue };
            let offset = extent.offset / BLOCK_BYTES * BLOCK_BYTES;
            let end = extent.end().div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES).min(size);
            // Ranges that follow each other may share a block.
            let before = unsaved.last().filter(|last| last.volume == extent.volume).map_or(0, Extent::end);
            let offset = offset.max(before);
            let blocks = Extent { volume: extent.volume, offset, length: end.saturating_sub(offset) };
            let missing = active.concordance.pieces(blocks).filter(|piece| piece.location.is_none());
            for piece in missing.filter(|piece| piece.extent.length > 0) {
                unsaved.extend(state.still_needed(active.number, piece.extent));
            }
        }
        unsaved
    }

    /// From now on no image ends because what it needs cannot be saved: the volumes stay as they are instead, for good. For a service
    /// that stops: who starts it again has lost nothing.
    pub fn keep_all(&self) {
        self.kept.store(true, Ordering::Release);
    }

    fn are_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire)
    }

    /// What ranges hold cannot be read: all images end because of that, unless they are kept.
    fn cannot_read(&self, start: Position, reason: &str) -> io::Result<bool> {
        if self.are_kept() {
            return Ok(false);
        }
        self.end_all(start, reason)?;
        Ok(true)
    }

    fn save_batch(&self, start: Position, pieces: &[Saving], may_wait: bool) -> io::Result<bool> {
        let needed = batch_bytes(pieces);
        // Until what it came to is counted.
        let ranges = pieces.len() as u64 * RANGE_BYTES;
        loop {
            let Some(file) = self.active_file(start) else { return Ok(true) };
            if let Err(full) = self.parts.space.take(needed, ranges) {
                if self.are_kept() || may_wait && self.can_wait() {
                    self.squeeze(true);
                    return Ok(false);
                }
                self.end_oldest(&overwrote_more(full))?;
                continue;
            }
            match file.append(pieces, self.parts.outlive) {
                Ok(placed) => {
                    self.parts.space.give_memory(ranges);
                    self.enter(start, &placed);
                    return Ok(true);
                }
                Err(error) => {
                    self.parts.space.give(needed);
                    self.parts.space.give_memory(ranges);
                    if self.are_kept() {
                        return Ok(false);
                    }
                    self.append_failed(start, &error)?;
                }
            }
        }
    }

    /// A file whose write or sync failed takes nothing more: all that need it end.
    fn append_failed(&self, start: Position, error: &SideError) -> io::Result<()> {
        let hint = if error.is_no_space() { ". Make room on that disk, or lower side_store_bytes" } else { "" };
        self.end_all(start, &format!("{error}{hint}"))
    }

    fn active_file(&self, start: Position) -> Option<Arc<SideFile>> {
        self.state.read().active(start).and_then(|era| era.files.first().cloned())
    }

    fn enter(&self, start: Position, placed: &[(Extent, Saved)]) {
        let mut state = self.state.write();
        let number = state.active(start).map(|era| era.number);
        if let Some(era) = state.eras.iter_mut().find(|era| Some(era.number) == number) {
            for (extent, saved) in placed {
                era.concordance.add(*extent, *saved);
            }
        }
        self.recount(&state);
    }

    fn end_all(&self, start: Position, reason: &str) -> io::Result<()> {
        while self.state.read().active(start).is_some() {
            self.end_oldest(reason)?;
        }
        Ok(())
    }

    /// What lies behind a place is about to be cut from the journal: eras that begin there have no moment any more.
    ///
    /// # Errors
    /// What the disk said, or who is told; some of them may still be there then.
    pub fn end_after(&self, place: Position, reason: &str) -> io::Result<()> {
        let _window = self.window();
        loop {
            let later = self.state.read().eras.iter().rev().find(|era| era.begin > place).map(|era| era.number);
            let Some(number) = later else { break };
            self.end(number, reason)?;
        }
        let watch = self.watch.get().and_then(Weak::upgrade);
        watch.map_or(Ok(()), |watch| watch.on_cut(self.parts.group, place)).map_err(io::Error::other)
    }

    fn end_oldest(&self, reason: &str) -> io::Result<()> {
        let oldest = self.state.read().eras.first().map(|era| era.number);
        oldest.map_or(Ok(()), |number| self.end(number, reason))
    }

    fn remove_durably(&self, files: &[Arc<SideFile>]) -> io::Result<()> {
        for file in files {
            match self.parts.disk.remove(file.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.parts.disk.sync_folder(&self.parts.folder)
    }

    fn end(&self, number: u64, reason: &str) -> io::Result<()> {
        let files = {
            let state = self.state.read();
            let Some(era) = state.eras.iter().find(|era| era.number == number) else { return Ok(()) };
            era.files.clone()
        };
        // Its own first, which a record names, and durably: with that and without one of those it swallowed, a restart would take it for whole.
        let (own, swallowed) = files.split_at(files.len().min(1));
        for some in [own, swallowed].into_iter().filter(|some| !some.is_empty()) {
            self.remove_durably(some)?;
        }
        self.parts.space.give(files.iter().map(|file| file.bytes()).sum());
        {
            let mut state = self.state.write();
            state.eras.retain(|era| era.number != number);
            state.left.insert(number);
            self.recount(&state);
        }
        if let Some(watch) = self.watch.get().and_then(Weak::upgrade) {
            watch.on_era_ended(self.parts.group, number, reason);
        }
        Ok(())
    }
}

impl State {
    /// What of a range some era up to this one has not copied.
    fn still_needed(&self, newest: u64, extent: Extent) -> Vec<Extent> {
        let begun = self.eras.iter().take_while(|era| era.number <= newest);
        let mut copied = vec![extent];
        for era in begun.filter(|era| era.volumes.contains(&extent.volume)) {
            copied = copied.into_iter().flat_map(|part| era.copied.within(part).collect::<Vec<_>>()).collect();
        }
        let mut needed = Vec::new();
        let mut at = extent.offset;
        for part in copied {
            needed.push(Extent { offset: at, length: part.offset - at, ..extent });
            at = part.end();
        }
        needed.push(Extent { offset: at, length: extent.end() - at, ..extent });
        needed.retain(|part| part.length > 0);
        needed
    }

    /// The era under way where the volumes are: the newest that they have reached.
    fn active(&self, start: Position) -> Option<&super::eras::Era> {
        self.eras.iter().rev().find(|era| era.begin <= start)
    }
}

fn overwrote_more(full: Full) -> String {
    match full {
        Full::Disk { capacity, .. } => {
            format!("hosts overwrote more than the {capacity} bytes that side_store_bytes gives to images")
        }
        Full::Memory { capacity, .. } => {
            format!(
                "hosts overwrote more single ranges than there is memory for: memory_bytes in [images] is {capacity} bytes"
            )
        }
    }
}

/// What a range holds, a piece at a time: a range may be all of a volume, and no more of it than one batch is in memory.
struct Pieces {
    volume: Arc<VolumeFile>,
    left: Extent,
    /// Up to here there is data, as far as that was asked.
    data_end: u64,
}

impl Pieces {
    fn of(volume: Arc<VolumeFile>, extent: Extent) -> Self {
        Self { volume, left: extent, data_end: extent.offset }
    }

    fn read_next(&mut self) -> io::Result<Saving> {
        let (at, end) = (self.left.offset, self.left.end());
        if at >= self.data_end {
            let (begin, data_end) = self.volume.file.next_data(at)?.unwrap_or((end, end));
            let begin = begin.clamp(at, end);
            self.data_end = data_end.clamp(begin, end);
            if begin > at {
                return Ok(Saving { extent: self.take(begin - at), bytes: None });
            }
        }
        let length = (self.data_end - at).min(PIECE_BYTES_MAX);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.volume.file.read_exact_at(&mut bytes, at)?;
        let zero = bytes.iter().all(|byte| *byte == 0);
        Ok(Saving { extent: self.take(length), bytes: (!zero).then_some(bytes) })
    }

    fn take(&mut self, length: u64) -> Extent {
        let taken = Extent { length, ..self.left };
        self.left = Extent { offset: taken.end(), length: self.left.length - length, ..self.left };
        taken
    }
}

impl Iterator for Pieces {
    type Item = Result<Saving, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.length == 0 {
            return None;
        }
        let at = self.left.offset;
        let read = self.read_next();
        Some(read.map_err(|error| format!("volume '{}' cannot be read at {at}: {error}", self.volume.name)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::storage::memory::MemoryDisk;
    use crate::storage::{Disk, Open};

    const KIB: u64 = 1 << 10;

    #[test]
    fn pieces_are_the_range_with_its_holes() {
        let disk = MemoryDisk::new();
        disk.create_folder(Path::new("/volumes")).unwrap();
        let file = disk.open(Path::new("/volumes/a"), Open::New).unwrap();
        file.grow(1024 * KIB).unwrap();
        file.write_all_at(&[7; 100 << 10], 200 * KIB).unwrap();
        file.write_all_at(&[9; 4 << 10], 700 * KIB).unwrap();
        let volume = Arc::new(VolumeFile::new(VolumeIndex(1), "a".into(), file, 1024 * KIB));
        for (offset, end) in [(0, 1024), (0, 100), (210, 220), (250, 702), (200, 300), (704, 1024)] {
            let range = Extent { volume: VolumeIndex(1), offset: offset * KIB, length: (end - offset) * KIB };
            let mut at = range.offset;
            for piece in Pieces::of(Arc::clone(&volume), range) {
                let piece = piece.unwrap();
                assert_eq!(piece.extent.offset, at);
                at = piece.extent.end();
                let mut there = vec![0; usize::try_from(piece.extent.length).unwrap()];
                volume.file.read_exact_at(&mut there, piece.extent.offset).unwrap();
                match piece.bytes {
                    Some(bytes) => assert!(bytes == there && piece.extent.length <= PIECE_BYTES_MAX),
                    None => assert!(there.iter().all(|byte| *byte == 0)),
                }
            }
            assert_eq!(at, range.end(), "{offset} to {end} KiB");
        }
    }
}

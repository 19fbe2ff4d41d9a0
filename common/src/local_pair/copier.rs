//! A piece at a time to the target: from the source's file while the target follows, from the split's image when it stands.
//!
//! A region that is read counts as copied when the target is synced. While the target follows, its mark goes first, so that
//! what the updater writes meanwhile is marked again; when it stands, the mark goes last, because hosts read by it.

use super::bits::{Bits, VOLUME};
use super::error::{LocalPairError, volume_error};
use super::pair::LocalPair;
use super::states::{Event, follows, stands};
use crate::catalog::LocalPairRecord;
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::storage::pool::Room;
use crate::t0::Image;

/// Bytes read and written at once.
pub const PIECE_BYTES: u64 = 1 << 20;
/// Bytes of a run that is written past the page cache: shorter ones come one by one behind a busy host, and are sooner done through it.
const DIRECT_BYTES_MIN: usize = 256 << 10;
/// Bytes between two syncs of a target that follows.
const SYNC_BYTES: u64 = 16 << 20;
/// Bytes copied for one sync to a target that stands: a host that writes there may wait for that.
const STEP_BYTES: u64 = 4 << 20;
/// Bytes synced between two commits while the target follows: what a crash makes a copier do again.
const COMMIT_BYTES: u64 = 64 << 20;

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// So many bytes.
    Bytes(u64),
    /// Nothing differs, or nothing is to be done about it.
    Nothing,
}

impl LocalPair {
    /// Copies what can be copied in one step. When that fails, the pair says so in its state.
    pub fn step(&self) -> Copied {
        self.try_step().unwrap_or_else(|error| {
            let target = &self.parts.target.name;
            self.fail(&format!("{error}. Mend that, then `tidemark local-pair resync {target}` goes on"));
            Copied::Nothing
        })
    }

    fn try_step(&self) -> Result<Copied, LocalPairError> {
        let _one_step = self.copying.lock();
        let (state, size, cursor) = {
            let now = self.now.lock();
            (now.record.state, now.record.size, now.cursor)
        };
        let next = |bytes| Bits::runs(&self.now.lock().bits.differences, cursor, PIECE_BYTES, bytes, size);
        if follows(state) {
            match next(PIECE_BYTES).first() {
                Some(run) => {
                    if run.offset < cursor {
                        self.all_copied()?;
                    }
                    self.follow(*run)
                }
                None => self.all_copied().map(|()| Copied::Nothing),
            }
        } else if stands(state) {
            let runs = next(STEP_BYTES);
            if !runs.is_empty() && self.waits() {
                return Ok(Copied::Nothing);
            }
            self.carry(&runs)?;
            self.finish_era()?;
            let bytes = runs.iter().map(|run| run.length).sum();
            Ok(if bytes == 0 { Copied::Nothing } else { Copied::Bytes(bytes) })
        } else {
            Ok(Copied::Nothing)
        }
    }

    fn follow(&self, run: Extent) -> Result<Copied, LocalPairError> {
        {
            let mut now = self.now.lock();
            now.bits.differences.clear(run);
            now.bits.unsynced.mark(run);
            now.cursor = run.end();
        }
        self.copy_from_source(run)?;
        let (unsynced, rest) = {
            let now = self.now.lock();
            (now.bits.unsynced.bytes(), !now.bits.differences.is_empty())
        };
        if unsynced >= SYNC_BYTES || !rest {
            self.settle()?;
        }
        Ok(Copied::Bytes(run.length))
    }

    /// What was copied is there.
    fn settle(&self) -> Result<(), LocalPairError> {
        self.sync_target()?;
        let commit = {
            let mut now = self.now.lock();
            let synced = std::mem::take(&mut now.bits.unsynced);
            now.uncommitted += synced.bytes();
            now.uncommitted >= COMMIT_BYTES
        };
        if commit {
            self.keep()?;
            self.now.lock().uncommitted = 0;
        }
        Ok(())
    }

    /// Once around: all that differed when a copy or resync began has been copied, so it is over. What hosts have written since
    /// follows; were that waited for, busy hosts would never let it end.
    fn all_copied(&self) -> Result<(), LocalPairError> {
        if super::states::next(self.now.lock().record.state, Event::AllCopied).is_none() {
            return Ok(());
        }
        self.settle()?;
        self.change(|record, _| self.after(record, Event::AllCopied))
    }

    /// Copies from the split's image what the target lacks of some ranges, durably; `copying` is held.
    pub(super) fn carry(&self, runs: &[Extent]) -> Result<(), LocalPairError> {
        if runs.is_empty() {
            return Ok(());
        }
        let (image, index) = self.image();
        let image = image.ok_or(LocalPairError::Image(crate::t0::ImageError::Gone))?;
        for run in runs {
            self.copy_from_image(&image, index, *run)?;
        }
        self.sync_target()?;
        {
            // The catalogue, then memory: from then on hosts may write there, and no restart may show the image again.
            let _one_commit = self.kept.lock();
            let (record, mut bits) = {
                let now = self.now.lock();
                (now.record.clone(), now.bits.clone())
            };
            runs.iter().for_each(|run| bits.differences.clear(*run));
            self.parts.catalog.put_local_pair(&record, &bits.encode())?;
            let mut now = self.now.lock();
            runs.iter().for_each(|run| now.bits.differences.clear(*run));
            now.cursor = runs.last().map_or(0, Extent::end);
        }
        // Last: who reads the image looks at the mark again afterwards.
        runs.iter().for_each(|run| image.copied(Extent { volume: index, ..*run }));
        Ok(())
    }

    /// The target has all that it is to show: the era goes.
    fn finish_era(&self) -> Result<(), LocalPairError> {
        let is_needless = {
            let now = self.now.lock();
            now.record.era.is_some() && now.bits.differences.is_empty()
        };
        let mut era = None;
        if is_needless {
            self.change(|record, _| {
                era = record.era;
                Ok(LocalPairRecord { era: None, ..record.clone() })
            })?;
        }
        self.leave(era);
        Ok(())
    }

    fn copy_from_source(&self, run: Extent) -> Result<(), LocalPairError> {
        let source = &self.parts.source;
        let name = self.now.lock().record.source.clone();
        let data = source.next_data(run.offset).map_err(volume_error("read", &name, run.offset))?;
        if data.is_none_or(|(begin, _)| begin >= run.end()) {
            return self.zero_target(run);
        }
        let mut bytes = room(run);
        source.read_exact_at(&mut bytes, run.offset).map_err(volume_error("read", &name, run.offset))?;
        self.write_target(run.offset, &bytes)
    }

    fn copy_from_image(&self, image: &Image, index: VolumeIndex, run: Extent) -> Result<(), LocalPairError> {
        if image.hole(index, run.offset, run.length)? == run.length {
            return self.zero_target(run);
        }
        let mut bytes = room(run);
        image.read(index, run.offset, &mut bytes)?;
        self.write_target(run.offset, &bytes)
    }

    /// Long runs past the page cache: they are not read soon, and hosts would feel the kernel write them out.
    fn write_target(&self, offset: u64, bytes: &[u8]) -> Result<(), LocalPairError> {
        let target = &self.parts.target;
        let written = target.change(|target| {
            let past_cache = bytes.len() >= DIRECT_BYTES_MIN && target.file.write_direct_at(bytes, offset)?;
            if past_cache { Ok(()) } else { target.file.write_all_at(bytes, offset) }
        });
        written.map_err(volume_error("write", &target.name, offset))
    }

    /// Where the source has a hole, the target gets one.
    fn zero_target(&self, run: Extent) -> Result<(), LocalPairError> {
        let target = &self.parts.target;
        let data = target.file.next_data(run.offset).map_err(volume_error("read", &target.name, run.offset))?;
        if data.is_none_or(|(begin, _)| begin >= run.end()) {
            return Ok(());
        }
        let zeroed = target.change(|target| target.file.zero(run.offset, run.length, true));
        zeroed.map_err(volume_error("zero", &target.name, run.offset))
    }

    fn sync_target(&self) -> Result<(), LocalPairError> {
        let target = &self.parts.target;
        target.sync().map_err(volume_error("sync", &target.name, 0))
    }

    /// Copies what a target that is split lacks of a range, durably; nothing when it lacks nothing.
    ///
    /// # Errors
    /// [`LocalPairError`].
    pub fn bring(&self, extent: Extent) -> Result<(), LocalPairError> {
        let lacks = |extent| super::bits::pieces(&self.now.lock().bits.differences, extent).iter().any(|piece| piece.1);
        if !lacks(extent) {
            return Ok(());
        }
        let _one_step = self.copying.lock();
        let (differences, size) = {
            let now = self.now.lock();
            (now.bits.differences.clone(), now.record.size)
        };
        let regions = |offset: u64| offset / crate::limits::REGION_BYTES * crate::limits::REGION_BYTES;
        let mut runs = Vec::new();
        let mut at = regions(extent.offset);
        while let Some(run) = differences.next_run(VOLUME, at).filter(|run| run.offset < extent.end().min(size)) {
            let end = run.end().min(regions(extent.end() - 1) + crate::limits::REGION_BYTES).min(size);
            let end = end.min(run.offset + PIECE_BYTES);
            runs.push(super::bits::range(run.offset, end - run.offset));
            at = end;
        }
        self.carry(&runs)
    }
}

fn room(run: Extent) -> Room {
    Room::new(usize::try_from(run.length).unwrap_or(0))
}

const _: () = assert!(PIECE_BYTES.is_multiple_of(crate::limits::REGION_BYTES), "a piece is whole regions");

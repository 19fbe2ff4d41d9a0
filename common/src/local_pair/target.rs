//! What hosts read and write of a target that is split. What it still lacks is read from the split's image; before a host
//! writes there, it is copied. A write is marked, durably, before it happens.

use std::io;
use std::sync::Arc;

use super::bits::{VOLUME, holds, pieces, range};
use super::error::{LocalPairError, volume_error};
use super::pair::LocalPair;
use super::redirect::RedirectFile;
use super::states::stands;
use crate::catalog::LocalPairStateRecord;
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::journal::Position;
use crate::nbd::IoError;
use crate::t0::export::{DATA_STEP, disk_answer};
use crate::t0::{BlockVolume, Image, Joined};
use crate::volumes::{VolumeFile, Volumes};

/// How often a range is read again because the copier was faster.
const TRIES: usize = 100;

/// A target as hosts see it.
#[derive(Debug)]
pub struct TargetVolume(pub Arc<LocalPair>);

impl LocalPair {
    /// Reads a range of the target as it is to be seen.
    ///
    /// # Errors
    /// [`LocalPairError`].
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), LocalPairError> {
        let whole = range(offset, buffer.len() as u64);
        let mut left = vec![whole];
        for _ in 0..TRIES {
            let mut again = Vec::new();
            for (piece, lacks) in left.into_iter().flat_map(|extent| self.places(extent)) {
                let from = usize::try_from(piece.offset - offset).unwrap_or(usize::MAX);
                let to = from.saturating_add(usize::try_from(piece.length).unwrap_or(usize::MAX));
                let part = buffer.get_mut(from..to).unwrap_or_default();
                if !lacks {
                    let target = &self.parts.target;
                    target.file.read_exact_at(part, piece.offset).map_err(volume_error(
                        "read",
                        &target.name,
                        piece.offset,
                    ))?;
                } else if !self.read_lacking(piece, part)? {
                    again.push(piece);
                }
            }
            if again.is_empty() {
                return self.must_stand();
            }
            left = again;
        }
        Err(LocalPairError::Image(crate::t0::ImageError::Moving { index: VolumeIndex(0), offset }))
    }

    /// Looked at behind every reading: what a target that follows again has been given since is of no moment, and neither is what the source
    /// holds of one that stands still with an error.
    fn must_stand(&self) -> Result<(), LocalPairError> {
        let state = self.state();
        if stands(state) { Ok(()) } else { Err(LocalPairError::not_from(state)) }
    }

    /// A range as runs, each with whether the target lacks it. Behind the source's end all is the target's.
    pub(super) fn places(&self, extent: Extent) -> Vec<(Extent, bool)> {
        let now = self.now.lock();
        let inside = extent.end().min(now.record.size).max(extent.offset) - extent.offset;
        let mut places = pieces(&now.bits.differences, range(extent.offset, inside));
        if inside < extent.length {
            places.push((range(extent.offset + inside, extent.length - inside), false));
        }
        places
    }

    /// `false`: it was copied meanwhile, and what was read may be newer than the image.
    fn read_lacking(&self, piece: Extent, part: &mut [u8]) -> Result<bool, LocalPairError> {
        let (image, index) = self.image();
        let read = image.ok_or(crate::t0::ImageError::Gone).and_then(|image| image.read(index, piece.offset, part));
        if !self.lacks_all(piece) {
            return Ok(false);
        }
        read?;
        Ok(true)
    }

    /// The split's image, and which of its volumes is the source.
    pub(super) fn image(&self) -> (Option<Image>, VolumeIndex) {
        let now = self.now.lock();
        (now.image.clone(), VolumeIndex(now.record.source_index))
    }

    fn lacks_all(&self, piece: Extent) -> bool {
        holds(&self.now.lock().bits.differences, piece)
    }

    /// How far from an offset the target certainly reads as zeroes; 0 when there may be data at once.
    ///
    /// # Errors
    /// [`LocalPairError`].
    pub fn hole(&self, offset: u64, length: u64) -> Result<u64, LocalPairError> {
        let mut end = offset;
        for (piece, lacks) in self.places(range(offset, length)) {
            let zero = if lacks { self.hole_of_image(piece)? } else { self.hole_of_target(piece)? };
            end = piece.offset + zero;
            if zero < piece.length {
                break;
            }
        }
        self.must_stand()?;
        Ok(end - offset)
    }

    fn hole_of_image(&self, piece: Extent) -> Result<u64, LocalPairError> {
        let (image, index) = self.image();
        let Some(image) = image else { return Ok(0) };
        let hole = image.hole(index, piece.offset, piece.length);
        // Copied meanwhile: the target knows, and is asked next time.
        if self.lacks_all(piece) { Ok(hole?) } else { Ok(0) }
    }

    fn hole_of_target(&self, piece: Extent) -> Result<u64, LocalPairError> {
        let target = &self.parts.target;
        let data = target.file.next_data(piece.offset).map_err(volume_error("read", &target.name, piece.offset))?;
        Ok(data.map_or(piece.end(), |(begin, _)| begin).clamp(piece.offset, piece.end()) - piece.offset)
    }

    /// Whatever must be before a host's write: the rest of its regions is there, a crash knows of it, and who reads an older
    /// moment of the target has what it overwrites.
    fn write_with(
        self: &Arc<Self>,
        extent: Extent,
        write: impl FnOnce(&VolumeFile) -> io::Result<()>,
    ) -> Result<(), LocalPairError> {
        let _no_image_begins = self.writing.read();
        let state = self.state();
        if state != LocalPairStateRecord::Split {
            return Err(LocalPairError::not_from(state));
        }
        self.bring(extent)?;
        self.announce(extent)?;
        let target = &self.parts.target;
        let failed = |action| volume_error(action, &target.name, extent.offset);
        let saves = &self.parts.saves;
        let one_by_one = (!saves.are_none()).then(|| {
            let volumes = Volumes::default();
            volumes.insert(RedirectFile::volume(self));
            // Hosts write many at once: each waits for the disk beside the others, and for them only while what it read is saved.
            saves.read_before(saves.applied_position(), &[extent], &volumes);
            (saves.window(), volumes)
        });
        if let Some((_, volumes)) = &one_by_one {
            saves
                .save(saves.applied_position(), &[extent], volumes, false)
                .map_err(failed("save what is overwritten of"))?;
        }
        let written = target.change(write).map_err(failed("write"));
        drop(one_by_one);
        written
    }

    /// Begins an image of the target as it is now, for who reads it while hosts write. Each has a place of its own, which only this
    /// counts, so that no younger one joins an older one.
    ///
    /// # Errors
    /// [`LocalPairError`].
    pub fn begin_image(&self) -> Result<Joined, LocalPairError> {
        let _nobody_writes = self.hold_writes()?;
        self.begin_image_now()
    }

    /// The same, of one that nobody writes.
    fn begin_image_now(&self) -> Result<Joined, LocalPairError> {
        let saves = &self.parts.saves;
        let before = saves.applied_position();
        let at = Position { offset: before.offset + 1, ..before };
        saves.applied(at);
        Ok(saves.begin(&saves.hold(at), &[VOLUME].into())?)
    }

    /// A crash knows that the target is written here.
    fn announce(&self, extent: Extent) -> Result<(), LocalPairError> {
        {
            let mut now = self.now.lock();
            now.bits.target.mark(extent);
            if now.bits.is_ahead(extent) {
                return Ok(());
            }
        }
        let _one_commit = self.kept.lock();
        // Held: nobody writes where this commit would forget it.
        let mut now = self.now.lock();
        if now.bits.is_ahead(extent) {
            return Ok(());
        }
        let mut bits = now.bits.clone();
        bits.go_ahead(extent);
        self.parts.catalog.put_local_pair(&now.record, &bits.encode())?;
        now.bits = bits;
        Ok(())
    }
}

/// Images of several targets, all of one moment: a host's write to one of them, answered before it wrote to another, is in the image of the first when
/// that to the other is in the other's. Each comes once.
///
/// # Errors
/// [`LocalPairError`], and of which target; none has begun then.
pub fn begin_images(pairs: &[&LocalPair]) -> Result<Vec<Joined>, (String, LocalPairError)> {
    // In one order, whoever asks: two at once do not wait for each other.
    let mut order = pairs.to_vec();
    order.sort_by(|one, other| one.parts.target.name.cmp(&other.parts.target.name));
    let named = |pair: &LocalPair, error| (pair.parts.target.name.clone(), error);
    let held = order.iter().map(|pair| pair.hold_writes().map_err(|error| named(pair, error)));
    let _nobody_writes = held.collect::<Result<Vec<_>, _>>()?;
    let mut begun: Vec<(&LocalPair, Joined)> = Vec::new();
    for pair in pairs.iter().copied() {
        match pair.begin_image_now() {
            Ok(joined) => begun.push((pair, joined)),
            Err(error) => {
                begun.iter().for_each(|(pair, joined)| pair.parts.saves.leave(joined.era));
                return Err(named(pair, error));
            }
        }
    }
    Ok(begun.into_iter().map(|(_, joined)| joined).collect())
}

impl BlockVolume for TargetVolume {
    type Error = LocalPairError;

    fn name(&self) -> &str {
        &self.0.parts.target.name
    }

    fn size(&self) -> u64 {
        self.0.parts.target.size()
    }

    fn gives_back(&self) -> bool {
        self.0.parts.target.gives_back
    }

    fn read(&self, offset: u64, target: &mut [u8]) -> Result<(), LocalPairError> {
        self.0.read(offset, target)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), LocalPairError> {
        let extent = range(offset, bytes.len() as u64);
        self.0.write_with(extent, |target| target.file.write_all_at(bytes, offset))
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), LocalPairError> {
        self.0.write_with(range(offset, length), |target| target.file.zero(offset, length, true))
    }

    fn flush(&self) -> Result<(), LocalPairError> {
        let target = &self.0.parts.target;
        target.sync().map_err(volume_error("sync", &target.name, 0))
    }

    fn status(&self, offset: u64, length: u64) -> Result<(u64, bool), LocalPairError> {
        let hole = self.0.hole(offset, length)?;
        Ok(if hole > 0 { (hole, true) } else { (length.min(DATA_STEP), false) })
    }

    fn answer(error: &LocalPairError) -> IoError {
        match error {
            LocalPairError::Volume { source, .. } => disk_answer(source),
            LocalPairError::State { .. } => IoError::NotPermitted,
            _ => IoError::Io,
        }
    }
}

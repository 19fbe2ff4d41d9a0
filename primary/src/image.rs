//! What a group's volumes hold now: the write buffer over the journal over the volumes' files. Hosts and the differential
//! copy read through here.

use std::io;
use std::sync::Arc;

use tidemark_common::extent::Extent;
use tidemark_common::ids::VolumeIndex;
use tidemark_common::journal::{Journal, JournalError};
use tidemark_common::overlay::Piece;
use tidemark_common::overlay::location::{Location, read_journal};
use tidemark_common::overlay::run::RunError;
use tidemark_common::volumes::{VolumeFile, Volumes};

use crate::buffer::{Buffer, slice_of};

/// How often a read starts over because what it looked for was written back meanwhile.
const TRIES: usize = 100;
/// How far one look for zeroes goes: who asks has the rest of a volume before him, and asks again.
const HOLE_BYTES: u64 = 64 << 20;

/// Why a range could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The index of what is not yet in the volumes.
    #[error(transparent)]
    Index(#[from] RunError),
    /// The volume's file.
    #[error("read volume '{volume}' at {offset}: {source}")]
    Volume {
        /// The volume.
        volume: String,
        /// Where in it.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// No such volume in the group.
    #[error("the group has no volume {index}")]
    Unknown {
        /// Its index.
        index: VolumeIndex,
    },
    /// What was to be read kept moving.
    #[error("volume {index} at {offset}: what was to be read kept moving")]
    Moving {
        /// The volume.
        index: VolumeIndex,
        /// Where in it.
        offset: u64,
    },
}

/// The image of a running group.
#[derive(Debug, Clone)]
pub struct Image {
    /// The write buffer and its index.
    pub buffer: Arc<Buffer>,
    /// The journal the index points into.
    pub journal: Arc<Journal>,
    /// The volumes' files.
    pub volumes: Arc<Volumes>,
}

impl Image {
    /// Reads a range, waiting for disks where needed.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn read(&self, extent: Extent, target: &mut [u8]) -> Result<(), ImageError> {
        let volume = self.volumes.get(extent.volume).ok_or(ImageError::Unknown { index: extent.volume })?;
        for _ in 0..TRIES {
            let elsewhere = self.buffer.read(extent, target).pieces()?;
            if self.fill(&volume, extent, &elsewhere, target)? {
                return Ok(());
            }
        }
        Err(ImageError::Moving { index: extent.volume, offset: extent.offset })
    }

    /// Reads a range if that needs no waiting; `false` when it would.
    ///
    /// # Errors
    /// [`ImageError`].
    pub(crate) fn read_now(&self, volume: &VolumeFile, extent: Extent, target: &mut [u8]) -> Result<bool, ImageError> {
        let look = self.buffer.read(extent, target);
        let Some(pieces) = look.known_now() else { return Ok(false) };
        for piece in pieces {
            if piece.location.is_some() {
                return Ok(false);
            }
            let part = slice_of(target, extent, piece.extent);
            match volume.file.read_cached_at(part, piece.extent.offset) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(source) => return Err(volume_error(volume, piece.extent.offset, source)),
            }
        }
        Ok(true)
    }

    fn fill(
        &self,
        volume: &VolumeFile,
        whole: Extent,
        pieces: &[Piece<Location>],
        target: &mut [u8],
    ) -> Result<bool, ImageError> {
        for piece in pieces {
            let part = slice_of(target, whole, piece.extent);
            match piece.location {
                Some(Location::Journal(place)) => {
                    if !read_journal(&self.journal, &place, part)? {
                        return Ok(false);
                    }
                }
                Some(location) if location.is_zero() => part.fill(0),
                _ => {
                    let offset = piece.extent.offset;
                    volume.file.read_exact_at(part, offset).map_err(|source| volume_error(volume, offset, source))?;
                }
            }
        }
        Ok(true)
    }

    /// How far from the begin of the range it certainly reads as zeroes without any storage behind it; 0 when there may be
    /// data at once. How far to look is the image's choice.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn hole(&self, extent: Extent) -> Result<u64, ImageError> {
        let volume = self.volumes.get(extent.volume).ok_or(ImageError::Unknown { index: extent.volume })?;
        // Where the file has data, which is nearly everywhere, it does not matter what is newer: the index, which hosts wait for, may hold much.
        let length = file_hole(&volume, Extent { length: extent.length.min(HOLE_BYTES), ..extent })?;
        if length == 0 {
            return Ok(0);
        }
        let extent = Extent { length, ..extent };
        // Now the index first: what leaves it in between is in the file by then.
        let pieces = self.buffer.pieces(extent)?;
        let empty = file_hole(&volume, extent)?;
        let newer = pieces.iter().find(|piece| piece.location.is_some_and(|location| !location.is_zero()));
        Ok(newer.map_or(empty, |piece| (piece.extent.offset - extent.offset).min(empty)))
    }
}

/// How far from the begin of a range a volume's file has nothing.
fn file_hole(volume: &VolumeFile, extent: Extent) -> Result<u64, ImageError> {
    let data = volume.file.next_data(extent.offset).map_err(|source| volume_error(volume, extent.offset, source))?;
    let end = data.map_or(extent.end(), |(begin, _)| begin.clamp(extent.offset, extent.end()));
    Ok(end - extent.offset)
}

fn volume_error(volume: &VolumeFile, offset: u64, source: io::Error) -> ImageError {
    ImageError::Volume { volume: volume.name.clone(), offset, source }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use parking_lot::Mutex;
    use tidemark_common::clock::{Clock, SystemClock};
    use tidemark_common::ids::{Generation, GroupId, Seq};
    use tidemark_common::journal::{self, JournalOptions, Position};
    use tidemark_common::metrics::Metrics;
    use tidemark_common::overlay::unapplied::{Spill, Unapplied};
    use tidemark_common::storage::memory::MemoryDisk;
    use tidemark_common::storage::{Disk, Open};

    use super::*;
    use crate::ring::Ring;

    const GROUP: GroupId = GroupId([7; 16]);
    const VOLUME: VolumeIndex = VolumeIndex(1);
    const BYTES: u64 = 4 * HOLE_BYTES;

    const fn range(offset: u64, length: u64) -> Extent {
        Extent { volume: VOLUME, offset, length }
    }

    /// An image of a volume that begins with 4 KiB of data, over this index.
    fn image(directory: &Path, index: Unapplied) -> Image {
        let disk = Arc::new(MemoryDisk::new());
        let file = disk.open(Path::new("v"), Open::New).unwrap();
        file.grow(BYTES).unwrap();
        file.write_all_at(&[7; 4096], 0).unwrap();
        let volumes = Arc::new(Volumes::default());
        volumes.insert(VolumeFile::new(VOLUME, "v".into(), file, BYTES));
        let options = JournalOptions { segment_bytes: 1 << 20, capacity_bytes: 8 << 20 };
        let opened = journal::open(disk, Path::new("journal"), GROUP, options, None, &mut |_, _, _| {}).unwrap();
        let ring = Ring::create(&directory.join("ring"), 1 << 20, GROUP, Generation(1)).unwrap();
        let clock = Arc::new(SystemClock::new());
        let metrics = Metrics::new("east", "0", clock.wall()).group("g");
        let buffer = Arc::new(Buffer::new(ring, clock, Seq(1), index, metrics));
        Image { buffer, journal: Arc::clone(opened.writer.journal()), volumes }
    }

    /// Whoever copies a volume asks about the rest of it for each of its regions.
    #[test]
    fn one_look_for_zeroes_goes_so_far_and_no_further() {
        let directory = tempfile::tempdir().unwrap();
        let image = image(directory.path(), Unapplied::default());
        assert_eq!(image.hole(range(0, BYTES)).unwrap(), 0);
        assert_eq!(image.hole(range(4096, BYTES - 4096)).unwrap(), HOLE_BYTES);
        assert_eq!(image.hole(range(BYTES - 512, 512)).unwrap(), 512);
    }

    #[test]
    fn what_is_newer_is_not_looked_up_where_the_file_has_data() {
        let directory = tempfile::tempdir().unwrap();
        let disk = MemoryDisk::new();
        disk.create_folder(Path::new("g")).unwrap();
        let mut index = Unapplied::default();
        index.insert(range(0, 1 << 20), Location::JournalZero { frame: Position { segment: 1, offset: 512 } });
        let index = Mutex::new(index);
        Spill::new(Arc::new(disk.clone()), "g/index".into(), 0).bound(&index).unwrap();
        let image = image(directory.path(), index.into_inner());
        // From here on whoever looks it up gets an error.
        let _ = disk.crash(1);
        assert_eq!(image.hole(range(0, BYTES)).unwrap(), 0);
        assert!(matches!(image.hole(range(4096, 4096)), Err(ImageError::Index(_))));
    }
}

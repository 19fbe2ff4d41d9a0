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
    pub fn read_now(&self, volume: &VolumeFile, extent: Extent, target: &mut [u8]) -> Result<bool, ImageError> {
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
    /// data at once.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn hole(&self, extent: Extent) -> Result<u64, ImageError> {
        let volume = self.volumes.get(extent.volume).ok_or(ImageError::Unknown { index: extent.volume })?;
        // The index first: what leaves it in between is in the file by then.
        let pieces = self.buffer.pieces(extent)?;
        let data = volume.file.next_data(extent.offset);
        let data = data.map_err(|source| volume_error(&volume, extent.offset, source))?;
        let file_hole = data.map_or(extent.end(), |(begin, _)| begin.min(extent.end()));
        let newer = pieces.iter().find(|piece| piece.location.is_some_and(|location| !location.is_zero()));
        let end = newer.map_or(file_hole, |piece| piece.extent.offset.min(file_hole));
        Ok(end.saturating_sub(extent.offset))
    }
}

fn volume_error(volume: &VolumeFile, offset: u64, source: io::Error) -> ImageError {
    ImageError::Volume { volume: volume.name.clone(), offset, source }
}

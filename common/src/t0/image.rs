//! An image at a marker: reading it while the volumes go on changing.
//!
//! The updater saves, enters the concordance, then writes. So a range is read in this order: what was saved; what the volumes
//! miss, from the journal; the volume. And after reading the volume it is asked again whether the range was saved meanwhile,
//! and whether the image is there still.

use std::io;
use std::sync::Arc;

use super::concordance::Saved;
use super::eras::{Eras, Place, T0Error};
use super::side_file::SideError;
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::journal::{Journal, JournalError};
use crate::overlay::Piece;
use crate::overlay::location::{Location, read_journal};
use crate::overlay::run::RunError;
use crate::storage::DiskFile;

/// How often a range is read again because the updater was faster.
const TRIES: usize = 100;

/// Why a range of an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The era is gone: the image was deleted, or could not be kept.
    #[error("the image is gone: it was deleted, or what it needs could not be saved")]
    Gone,
    /// Nobody knows how far the volumes are.
    #[error("the group of the image does not run, and its volumes may not have reached it: `tidemark status` says why")]
    NotRunning,
    /// What was saved.
    #[error(transparent)]
    Side(#[from] SideError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What lies between the volumes and its moment.
    #[error(transparent)]
    Index(RunError),
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
    /// Outside of the image.
    #[error("the image has no volume {index}, or it ends before {end}")]
    Outside {
        /// The volume's index.
        index: VolumeIndex,
        /// The end of what was asked for.
        end: u64,
    },
    /// It is in a frame that is not in the journal yet.
    #[error("volume {index} at {offset}: what was to be read kept moving")]
    Moving {
        /// The volume.
        index: VolumeIndex,
        /// Where in it.
        offset: u64,
    },
}

impl From<T0Error> for ImageError {
    fn from(error: T0Error) -> Self {
        match error {
            T0Error::Index(error) => Self::Index(error),
            T0Error::NotRunning => Self::NotRunning,
            _ => Self::Gone,
        }
    }
}

/// One volume of an image.
#[derive(Clone)]
pub struct ImageVolume {
    /// Its index in the group's journal.
    pub index: VolumeIndex,
    /// Its name.
    pub name: String,
    /// Bytes at the marker.
    pub size: u64,
    /// The file or device.
    pub file: Arc<dyn DiskFile>,
}

impl std::fmt::Debug for ImageVolume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageVolume").field("name", &self.name).field("size", &self.size).finish_non_exhaustive()
    }
}

/// The image of a group's volumes at the begin of an era.
#[derive(Debug, Clone)]
pub struct Image {
    eras: Arc<Eras>,
    era: u64,
    volumes: Arc<[ImageVolume]>,
}

impl Image {
    /// The image at the begin of an era.
    #[must_use]
    pub fn new(eras: Arc<Eras>, era: u64, volumes: Vec<ImageVolume>) -> Self {
        Self { eras, era, volumes: volumes.into() }
    }

    /// Its only user has copied a range and will not read it again.
    pub fn copied(&self, extent: Extent) {
        self.eras.copied(self.era, extent);
    }

    /// Its volumes, in the group's order.
    #[must_use]
    pub fn volumes(&self) -> &[ImageVolume] {
        &self.volumes
    }

    /// One of them, by name.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&ImageVolume> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    /// Reads a range, waiting for disks where needed.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn read(&self, index: VolumeIndex, offset: u64, target: &mut [u8]) -> Result<(), ImageError> {
        let whole = Extent { volume: index, offset, length: target.len() as u64 };
        let volume = self.inside(whole)?;
        let mut left = vec![whole];
        for _ in 0..TRIES {
            let mut again = Vec::new();
            for extent in left {
                for piece in self.eras.locate(self.era, extent)? {
                    let from = usize::try_from(piece.extent.offset - offset).unwrap_or(usize::MAX);
                    let to = from.saturating_add(usize::try_from(piece.extent.length).unwrap_or(usize::MAX));
                    let part = target.get_mut(from..to).unwrap_or_default();
                    if !self.read_piece(volume, &piece, part)? {
                        again.push(piece.extent);
                    }
                }
            }
            if again.is_empty() {
                return Ok(());
            }
            left = again;
        }
        Err(ImageError::Moving { index, offset })
    }

    /// `false`: it was saved meanwhile, and what was read from the volume may be newer.
    fn read_piece(&self, volume: &ImageVolume, piece: &Piece<Place>, target: &mut [u8]) -> Result<bool, ImageError> {
        match &piece.location {
            Some(Place::Saved(Saved::Zero, _)) => target.fill(0),
            Some(Place::Saved(Saved::Data(place), file)) => {
                file.as_ref().ok_or(ImageError::Gone)?.read(place, target)?
            }
            Some(Place::Pending(location, journal)) => {
                return self.read_pending(volume, piece, location, journal, target);
            }
            None => return self.read_volume(volume, piece.extent, target),
        }
        Ok(true)
    }

    fn read_pending(
        &self,
        volume: &ImageVolume,
        piece: &Piece<Place>,
        location: &Location,
        journal: &Arc<Journal>,
        target: &mut [u8],
    ) -> Result<bool, ImageError> {
        match location {
            Location::Journal(place) if read_journal(journal, place, target)? => Ok(true),
            // The segment is gone, so the frame is in the volume.
            Location::Journal(_) | Location::Buffer { .. } => self.read_volume(volume, piece.extent, target),
            Location::JournalZero { .. } | Location::BufferZero { .. } => {
                target.fill(0);
                Ok(true)
            }
        }
    }

    fn read_volume(&self, volume: &ImageVolume, extent: Extent, target: &mut [u8]) -> Result<bool, ImageError> {
        let read = volume.file.read_exact_at(target, extent.offset);
        read.map_err(|source| ImageError::Volume { volume: volume.name.clone(), offset: extent.offset, source })?;
        Ok(!self.eras.is_saved(self.era, extent)?)
    }

    fn inside(&self, extent: Extent) -> Result<&ImageVolume, ImageError> {
        let volume = self.volumes.iter().find(|volume| volume.index == extent.volume);
        let outside = ImageError::Outside { index: extent.volume, end: extent.end() };
        volume.filter(|volume| extent.end() <= volume.size).ok_or(outside)
    }

    /// How far from the begin of a range it certainly reads as zeroes; 0 when there may be data at once.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn hole(&self, index: VolumeIndex, offset: u64, length: u64) -> Result<u64, ImageError> {
        let whole = Extent { volume: index, offset, length };
        let volume = self.inside(whole)?;
        let mut end = offset;
        for piece in self.eras.locate(self.era, whole)? {
            match &piece.location {
                Some(Place::Saved(Saved::Zero, _))
                | Some(Place::Pending(Location::JournalZero { .. } | Location::BufferZero { .. }, _)) => {}
                Some(_) => break,
                None => {
                    let data = volume.file.next_data(piece.extent.offset);
                    let failed = |source| ImageError::Volume { volume: volume.name.clone(), offset, source };
                    let data = data.map_err(failed)?.map_or(piece.extent.end(), |(begin, _)| begin);
                    let empty = Extent {
                        length: data.clamp(piece.extent.offset, piece.extent.end()) - piece.extent.offset,
                        ..piece.extent
                    };
                    if self.eras.is_saved(self.era, empty)? {
                        break;
                    }
                    if empty.length < piece.extent.length {
                        return Ok(empty.end() - offset);
                    }
                }
            }
            end = piece.extent.end();
        }
        Ok(end - offset)
    }
}

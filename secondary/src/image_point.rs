//! The moments at which an image of a copy may begin: a permitted marker that the volumes have not passed, or have passed without
//! anything having been written since.

use tidemark_common::journal::{JournalError, Position};
use tidemark_common::record::FrameKind;
use tidemark_common::t0::ImagePoint;

use crate::group::Secondary;

/// Why no image can begin.
#[derive(Debug, thiserror::Error)]
pub enum PointError {
    /// There is no usable copy.
    #[error("it has no usable copy here: its initial copy is not complete")]
    NoCopy,
    /// The marker is not held.
    #[error(
        "marker {asked} is not held here: an image can begin at {}. Without --marker it begins at the newest", held(*oldest, *newest)
    )]
    NotHeld {
        /// The marker asked for.
        asked: u64,
        /// The oldest that is held.
        oldest: u64,
        /// The newest that is held.
        newest: u64,
    },
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

fn held(oldest: u64, newest: u64) -> String {
    if oldest < newest { format!("markers {oldest} to {newest}") } else { format!("marker {newest}") }
}

impl Secondary {
    /// The moment of a marker, or of the newest permitted one. The volumes are not written beyond it while the answer lives.
    ///
    /// # Errors
    /// [`PointError`].
    pub fn image_point(&self, asked: Option<u64>) -> Result<ImagePoint, PointError> {
        let eras = self.eras();
        // Between two windows: until the barrier is there, the volumes stay where they are.
        let _window = eras.window();
        let permission = self.state().permission();
        let direct = permission.copy().is_some_and(|copy| copy.direct);
        let newest = permission.permitted().filter(|_| !direct).ok_or(PointError::NoCopy)?;
        let volumes = permission.volumes().map_or_else(|| self.files().specs(), |volumes| volumes.to_vec());
        let applied = eras.applied_position().max(self.floor());
        let number = asked.unwrap_or(newest.marker.number);
        let found = if number == newest.marker.number {
            Some((newest.marker.clone(), newest.end))
        } else {
            let marker = self.state().markers.get(number).filter(|marker| marker.number < newest.marker.number);
            marker.zip(self.state().markers.place(number))
        };
        let point = match found {
            Some((marker, end)) => self.moment(end, applied)?.map(|at| (marker, at)),
            None => None,
        };
        let Some((marker, at)) = point else {
            let oldest = self.oldest_image(applied, newest.marker.number)?;
            return Err(PointError::NotHeld { asked: number, oldest, newest: newest.marker.number });
        };
        Ok(ImagePoint { marker, barrier: eras.hold(at), volumes })
    }

    /// Where the image of a marker that ends at a place can begin now.
    fn moment(&self, end: Position, applied: Position) -> Result<Option<Position>, JournalError> {
        if end >= applied || !self.writes_between(end, applied)? {
            return Ok(Some(end.max(self.eras().applied_position())));
        }
        Ok(None)
    }

    fn writes_between(&self, from: Position, to: Position) -> Result<bool, JournalError> {
        let mut reader = self.journal().reader(from);
        while reader.position() < to {
            match reader.next_header() {
                Ok(Some((at, header))) if at < to => {
                    if header.kind != FrameKind::Control {
                        return Ok(true);
                    }
                }
                Ok(_) => break,
                Err(JournalError::Trimmed { .. }) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The oldest marker at which an image can begin now.
    fn oldest_image(&self, applied: Position, newest: u64) -> Result<u64, JournalError> {
        let markers = &self.state().markers;
        let mut oldest = newest;
        for marker in markers.all().iter().filter(|marker| marker.number < newest) {
            let Some(end) = markers.place(marker.number) else { break };
            if self.moment(end, applied)?.is_none() {
                break;
            }
            oldest = marker.number;
        }
        Ok(oldest)
    }
}

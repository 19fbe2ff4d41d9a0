//! Why something cannot be done with a pair.

use std::io;

use crate::api::local_pair::types::LocalPairState;
use crate::catalog::{CatalogError, LocalPairStateRecord};
use crate::differential::BitmapError;
use crate::t0::{ImageError, T0Error};

/// Why something cannot be done with a pair.
#[derive(Debug, thiserror::Error)]
pub enum LocalPairError {
    /// The catalogue.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Its bits.
    #[error(transparent)]
    Bits(#[from] BitmapError),
    /// They are not in the catalogue.
    #[error("its bitmaps are not in the catalogue")]
    NoBits,
    /// The image of the split.
    #[error("the image of the split cannot be read: {0}")]
    Image(#[from] ImageError),
    /// An era.
    #[error("the image of the split cannot begin: {0}")]
    Era(#[from] T0Error),
    /// A volume's file.
    #[error("{action} volume '{volume}' at {offset}: {source}")]
    Volume {
        /// What was tried.
        action: &'static str,
        /// The volume.
        volume: String,
        /// Where in it.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Not from that state.
    #[error("the pair is in state '{state}'")]
    State {
        /// The state it is in.
        state: &'static str,
    },
    /// What is to be restored is not all there.
    #[error("{bytes} bytes are still to be copied to the target")]
    Lacks {
        /// Bytes, regions counted whole.
        bytes: u64,
    },
    /// The target's disk does not answer.
    #[error(
        "what is being copied or written to volume '{target}' does not come to its end, so nothing was changed: see to the disk behind it, and try again"
    )]
    Stuck {
        /// The target.
        target: String,
    },
    /// Somebody still had it in hand.
    #[error("the pair was deleted")]
    Deleted,
    /// The source is not what it was.
    #[error(
        "volume '{volume}' is not in the image, or has another size than when the pair was made: delete the local pair and create it again"
    )]
    Changed {
        /// The source.
        volume: String,
    },
}

impl LocalPairError {
    /// Not from that state.
    #[must_use]
    pub fn not_from(state: LocalPairStateRecord) -> Self {
        Self::State { state: LocalPairState::from(state).name() }
    }
}

impl From<LocalPairError> for io::Error {
    fn from(error: LocalPairError) -> Self {
        let kind = match &error {
            LocalPairError::Volume { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// A range of the target's file that could not be used.
pub(super) fn volume_error(
    action: &'static str,
    volume: &str,
    offset: u64,
) -> impl FnOnce(io::Error) -> LocalPairError {
    let volume = volume.to_owned();
    move |source| LocalPairError::Volume { action, volume, offset, source }
}

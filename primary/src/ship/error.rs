//! Why a conversation ended, and who can do something about it.

use tidemark_common::catalog::CatalogError;
use tidemark_common::journal::JournalError;
use tidemark_common::link::{DialError, LinkError};
use tidemark_common::wire::handshake::HandshakeError;
use tidemark_common::wire::message::Refusal;

use crate::differences::DifferencesError;
use crate::feeder::FeedError;
use crate::image::ImageError;

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The peer cannot be reached, or it said goodbye.
    #[error("{0}")]
    Reach(String),
    /// Nobody answers.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer refused, or speaks another version.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The catalogue.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The pair's record.
    #[error(transparent)]
    Differences(#[from] DifferencesError),
    /// What was to be sent.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The peer ended it.
    #[error("the other side ended the conversation")]
    Ended,
    /// A resync finds no room over there.
    #[error(
        "{} MiB differ, and the copy's journal there has {} MiB for them beside the image that is kept until all have come: raise \
         journal_bytes in the configuration there and restart it, or give that image up with `tidemark pair resume {pair} --in-place`; \
         until then it stays usable",
        bytes >> 20, room >> 20
    )]
    Staging {
        /// The pair as commands name it.
        pair: String,
        /// What differs.
        bytes: u64,
        /// What the journal there has for it.
        room: u64,
    },
    /// A resync finds no more room over there.
    #[error(
        "the copy's journal there, {} MiB, is full of a resync that is not complete: hosts wrote more meanwhile than there was \
         room for beside the image that is kept until then; raise journal_bytes in the configuration there and restart it (the \
         resync goes on where it stands), or give that image up with `tidemark pair resume {pair} --in-place`; until then it stays usable",
        capacity_bytes >> 20
    )]
    Outgrown {
        /// The pair as commands name it.
        pair: String,
        /// What the journal there may hold.
        capacity_bytes: u64,
    },
    /// Only a person can help.
    #[error("{0}")]
    Stands(String),
    /// A panic ended it.
    #[error("{what} ended by a defect of Tidemark, and the log has its message; it is tried again by itself")]
    Defect {
        /// What it was.
        what: &'static str,
    },
    /// Told to stop.
    #[error("stopped")]
    Stopped,
}

impl ShipError {
    /// The journal's part in it.
    const fn journal(&self) -> Option<&JournalError> {
        match self {
            Self::Journal(error)
            | Self::Differences(DifferencesError::Journal(error))
            | Self::Feed(
                FeedError::Journal(error)
                | FeedError::Image(ImageError::Journal(error))
                | FeedError::Differences(DifferencesError::Journal(error)),
            ) => Some(error),
            _ => None,
        }
    }

    /// A record of the journal that was to be sent cannot be: what the volumes hold can be sent instead.
    pub(crate) const fn damaged_frame(&self) -> Option<&JournalError> {
        match self {
            Self::Feed(FeedError::Journal(error)) if error.is_of_the_records() => Some(error),
            _ => None,
        }
    }

    /// The disk did not give out what was to be sent.
    pub(crate) fn unreadable_frame(&self) -> Option<&JournalError> {
        match self {
            Self::Feed(FeedError::Journal(error)) if error.is_unreadable() => Some(error),
            _ => None,
        }
    }

    /// Whether a record of the journal is not what was written (invariant 9).
    pub(crate) fn is_damage(&self) -> bool {
        self.journal().is_some_and(JournalError::is_damage)
    }

    /// Whether it is tried again by itself, and that helps only once a person has done something.
    pub(crate) fn waits_for_a_person(&self) -> bool {
        let left = matches!(self, Self::Reach(_) | Self::Handshake(HandshakeError::Goodbye { .. }));
        left || matches!(self, Self::Staging { .. } | Self::Outgrown { .. } | Self::Defect { .. })
            || self.needs_a_person()
    }

    /// Whether trying again by itself cannot help.
    pub(crate) fn needs_a_person(&self) -> bool {
        match self {
            Self::Stands(_)
            | Self::Differences(DifferencesError::Unreadable { .. })
            | Self::Dial(DialError::WrongPeer { .. } | DialError::Itself { .. } | DialError::Refused { .. }) => true,
            Self::Handshake(HandshakeError::Refused(refused)) => {
                !matches!(refused.refusal, Refusal::Unready | Refusal::Suspended | Refusal::Damaged)
            }
            _ => self.journal().is_some_and(|error| !matches!(error, JournalError::Trimmed { .. })),
        }
    }
}

//! Who follows the volumes of a group: told of every window that was written, and asked to make durable what it knows before
//! the position that such windows are not written again from moves on.

use std::sync::{Arc, Weak};

use super::eras::Eras;
use crate::extent::Extent;
use crate::journal::Position;

/// See the module.
pub trait Follower: Send + Sync + 'static {
    /// The volumes were written, up to a place of the journal: *after* it happened, so that whoever has read too early learns of
    /// it. A window that was interrupted is written, and told, again.
    fn written(&self, end: Position, extents: &[Extent]);
    /// Makes durable what it was told.
    ///
    /// # Errors
    /// What happened; the position stays then.
    fn keep(&self) -> Result<(), String>;
}

impl Eras {
    /// One more follower, for as long as it lives.
    pub(crate) fn followed_by(&self, follower: Weak<dyn Follower>) {
        let mut followers = self.followers.write();
        followers.retain(|other| other.strong_count() > 0);
        followers.push(follower);
    }

    fn living(&self) -> Vec<Arc<dyn Follower>> {
        self.followers.read().iter().filter_map(Weak::upgrade).collect()
    }

    /// For the updater: a window was written.
    pub fn written(&self, end: Position, extents: &[Extent]) {
        self.living().iter().for_each(|follower| follower.written(end, extents));
    }

    /// For whoever records how far the volumes are, before that.
    ///
    /// # Errors
    /// What happened; the position must stay then.
    pub fn keep_followers(&self) -> Result<(), String> {
        self.living().iter().try_for_each(|follower| follower.keep())
    }
}

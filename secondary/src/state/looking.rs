//! Who looks at the image of a copy at a marker: a comparison. Told for as long as that lasts, because the volumes stand there meanwhile and the
//! journal fills, or what is overwritten is kept aside.

use std::sync::Arc;

use super::CopyState;
use crate::permission::Permitted;

/// Somebody looks at the image at a marker while this lives.
#[derive(Debug)]
pub struct Looking {
    state: Arc<CopyState>,
    at: Permitted,
}

impl CopyState {
    /// Somebody begins to look at the image at a marker.
    #[must_use]
    pub fn look_at(self: &Arc<Self>, at: Permitted) -> Looking {
        self.inner.lock().looked_at.push(at.clone());
        Looking { state: Arc::clone(self), at }
    }

    /// The oldest marker whose image somebody looks at.
    #[must_use]
    pub fn looked_at(&self) -> Option<Permitted> {
        self.inner.lock().looked_at.iter().min_by_key(|at| at.end).cloned()
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        let mut inner = self.state.inner.lock();
        if let Some(at) = inner.looked_at.iter().position(|at| *at == self.at) {
            inner.looked_at.swap_remove(at);
        }
    }
}

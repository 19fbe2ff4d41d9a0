//! Being told to stop, while waiting for anything.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Shared by who stops and who is stopped; the reason is for people.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<(Mutex<Option<String>>, Condvar)>);

impl Stop {
    /// Says so; the first reason stays.
    pub fn stop(&self, reason: impl Into<String>) {
        self.0.0.lock().get_or_insert_with(|| reason.into());
        self.0.1.notify_all();
    }

    /// Why it is to stop, if it is.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.0.0.lock().clone()
    }

    /// Waits so long, or until it is to stop; whether it is.
    #[must_use]
    pub fn wait(&self, at_most: Duration) -> bool {
        let mut reason = self.0.0.lock();
        if reason.is_none() {
            self.0.1.wait_for(&mut reason, at_most);
        }
        reason.is_some()
    }
}

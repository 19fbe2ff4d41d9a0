//! Notices that a connection is quiet: to give its memory back, and to end it when its client has stalled.
//!
//! One coarse timer instead of one for every request: it looks now and then whether anything moved since it looked last. So a
//! stall is noticed between the configured time and one look later. A connection with nothing to look for has no timer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// Longest time between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// What was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quiet {
    /// Nothing moved since the last look.
    Idle,
    /// Nothing moved for too long in the middle of a message.
    Stalled { seconds: u64 },
}

/// Watches one connection.
#[derive(Debug)]
pub(super) struct Watch {
    patience: Duration,
    look: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Something moved since the last look.
    moved: bool,
    /// For how long nothing has.
    quiet: Duration,
}

impl Watch {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, look: LOOK.min(patience), timer: None, moved: true, quiet: Duration::ZERO }
    }

    /// Something moved.
    pub(super) const fn moved(&mut self) {
        self.moved = true;
    }

    /// One more look, also when nothing moves.
    pub(super) fn look_again(&mut self) {
        self.timer = Some(Box::pin(sleep(self.look)));
    }

    /// Nothing has moved for at least one look.
    pub(super) const fn is_quiet(&self) -> bool {
        !self.moved && !self.quiet.is_zero()
    }

    /// Ready when there is something to do about the quiet. `waiting`: the client is in the middle of a message.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, waiting: bool) -> Poll<Quiet> {
        loop {
            if self.timer.is_none() && !self.moved && !waiting {
                return Poll::Pending;
            }
            let look = self.look;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(look)));
            ready!(timer.as_mut().poll(context));
            self.timer = None;
            if std::mem::take(&mut self.moved) {
                self.quiet = Duration::ZERO;
                // Whether it is quiet from now on is what the next look tells.
                self.look_again();
                continue;
            }
            self.quiet += look;
            if !waiting {
                return Poll::Ready(Quiet::Idle);
            }
            if self.quiet >= self.patience {
                return Poll::Ready(Quiet::Stalled { seconds: self.quiet.as_secs() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::*;

    /// It was looked for no more as soon as something had moved: no connection ever gave its memory back, none that lacked memory looked again, and
    /// who had gone with all requests under way was not noticed.
    #[tokio::test]
    async fn quiet_is_noticed_once_each_time_after_something_has_moved() {
        let mut watch = Watch::new(Duration::from_millis(10));
        for _ in 0..2 {
            watch.moved();
            assert!(!watch.is_quiet());
            let noticed = timeout(Duration::from_secs(20), poll_fn(|context| watch.poll(context, false))).await;
            assert_eq!(noticed, Ok(Quiet::Idle));
            assert!(watch.is_quiet() && watch.timer.is_none(), "nothing is looked for any more");
        }
    }
}

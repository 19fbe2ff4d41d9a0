//! The task of a pair: a step of copying after the other, no faster than its rate; in `reverse`, the restore of its source.
//!
//! When the side store is full, the volumes of the source's group wait for what the target still lacks: it is copied as fast as it goes.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::catalog::LocalPairStateRecord as State;
use tidemark_common::local_pair::Copied;
use tidemark_common::stage;
use tokio::sync::oneshot;

use super::Held;
use crate::roles::appliance::Appliance;

/// A target that follows waits so long for more to come: writes near to each other are copied, and synced, together.
const GATHER: Duration = Duration::from_millis(100);
/// How soon it is noticed that the copying has to hurry.
const LOOK: Duration = Duration::from_millis(50);
/// What is said while it does.
const HURRIES: &str = "the side store is full (side_store_bytes): what the target lacks is copied as fast as it can be, whatever its rate, \
     and the source's volume is written later, while the journal is less than half full";
/// How long the task waits for what cannot go on now.
pub(super) const RETRY: Duration = Duration::from_secs(1);

impl Appliance {
    /// Sets a pair to work.
    pub(super) fn start_local_pair(&self, held: &Arc<Held>) {
        let (Some(this), held) = (self.this.upgrade(), Arc::clone(held)) else { return };
        if held.missing.is_some() {
            return;
        }
        let working = Arc::clone(&held);
        let task = self.runtime.spawn(async move {
            tokio::select! {
                () = this.local_pairs.stop.cancelled() => {}
                () = working.ended.cancelled() => {}
                () = this.work_local_pair(&working) => {}
            }
        });
        *held.task.lock() = Some(task);
    }

    async fn work_local_pair(&self, held: &Arc<Held>) {
        loop {
            let state = held.pair.state();
            if state == State::Reverse {
                self.restore_source(held).await;
                continue;
            }
            let copied = self.step_local_pair(held).await;
            if held.pair.state() != state {
                self.settle_door(&held.pair.target().name).await;
            }
            match copied {
                Copied::Bytes(bytes) => self.keep_to_rate(held, bytes).await,
                Copied::Nothing => {
                    tell_hurry(held, false);
                    held.pair.work.notified().await;
                    tokio::time::sleep(GATHER).await;
                }
            }
        }
    }

    /// Waits as long as so many bytes last at the pair's rate, or until it has to hurry or is done.
    async fn keep_to_rate(&self, held: &Held, bytes: u64) {
        let next = self.clock.monotonic().saturating_add(lasts(bytes, held.pair.record().rate));
        loop {
            let is_split = held.pair.state() == State::Split;
            let hurries = is_split && held.pair.eras().is_squeezed();
            tell_hurry(held, hurries);
            let left = next.saturating_sub(self.clock.monotonic());
            // Somebody else may have had the rest copied: the image that is not needed any more goes now.
            let is_done = is_split && held.pair.figures().differential_bytes == 0;
            if hurries || is_done || left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    /// One step, on a thread that may wait for disks, and gives way to whatever answers hosts.
    ///
    /// # Cancel safety
    /// A step that was begun goes to its end.
    async fn step_local_pair(&self, held: &Arc<Held>) -> Copied {
        let Ok(_one_of_few) = self.local_pairs.steps.acquire().await else { return Copied::Nothing };
        let (tell, told) = oneshot::channel();
        let pair = Arc::clone(&held.pair);
        // Whoever asked may be gone: the step was made all the same.
        let step = move || {
            let _ = tell.send(pair.step());
        };
        if stage::in_background("copier", step).is_err() {
            let pair = Arc::clone(&held.pair);
            return tokio::task::spawn_blocking(move || pair.step()).await.unwrap_or(Copied::Nothing);
        }
        told.await.unwrap_or(Copied::Nothing)
    }
}

/// Says in the pair's state that it hurries, for as long as it does.
fn tell_hurry(held: &Held, hurries: bool) {
    let record = held.pair.record();
    let told = record.reason.as_deref() == Some(HURRIES);
    if hurries && !told {
        tracing::warn!(source = %record.source, target = %record.target, "{HURRIES}");
        held.pair.stands_because(Some(HURRIES.into()));
    } else if told && !hurries {
        tracing::info!(source = %record.source, target = %record.target, "the side store has room again: the pair keeps to its rate");
        held.pair.stands_because(None);
    }
}

/// How long so many bytes last at a rate.
pub(super) fn lasts(bytes: u64, rate: u64) -> Duration {
    let ns = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_bytes_per_second() {
        assert_eq!(lasts(1 << 20, 4 << 20), Duration::from_millis(250));
        assert_eq!(lasts(u64::MAX, 0), Duration::from_nanos(u64::MAX));
    }
}

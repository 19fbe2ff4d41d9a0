//! Markers of a group, and moments at which images of it may begin.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::api::types::{MarkerInfo, PairState};
use tidemark_common::journal::Position;
use tidemark_common::markers::info;
use tidemark_common::t0::{Eras, ImagePoint};
use tokio::sync::oneshot;

use super::Primary;
use crate::cut::{CutDone, CutError, CutRequest};
use crate::joint::in_time;
use crate::ship::Pair;

/// Between two looks at what pairs have.
const LOOK: Duration = Duration::from_millis(5);
/// All that is buffered comes into the journal before a marker: that takes its time on a slow disk, and never ends where the journal is full.
const MARKER_WITHIN: Duration = Duration::from_secs(60);

impl Primary {
    pub(crate) fn marker_place(&self, number: u64) -> Option<Position> {
        self.desk.markers.place(number)
    }

    /// Makes a marker now; resolves when it is durable.
    ///
    /// # Errors
    /// [`CutError`].
    pub async fn cut(&self, tag: Option<String>) -> Result<MarkerInfo, CutError> {
        self.cut_now(tag).await.map(|done| info(&done.marker))
    }

    async fn cut_now(&self, tag: Option<String>) -> Result<CutDone, CutError> {
        let (reply, done) = oneshot::channel();
        self.desk.ask_cut(CutRequest { tag, reply }, &self.image.buffer);
        self.await_cut(done).await
    }

    /// Waits for the marker of a cut that was asked for.
    pub(crate) async fn await_cut(
        &self,
        done: oneshot::Receiver<Result<CutDone, CutError>>,
    ) -> Result<CutDone, CutError> {
        let failed = |_| CutError::Failed { reason: self.held_up().unwrap_or_else(|| "the group is stopping".into()) };
        done.await.map_err(failed)?
    }

    /// Hosts are gone: a marker of everything they wrote, and permission for it from each pair that answers. Whoever calls this
    /// bounds the time it takes.
    ///
    /// # Errors
    /// [`CutError`].
    pub async fn hand_over_rest(&self) -> Result<(), CutError> {
        let captured = self.image.buffer.captured().0;
        let follows = |pair: &Arc<Pair>| {
            let status = pair.status();
            status.connected && matches!(status.state, PairState::Paired | PairState::CatchingUp)
        };
        let lacks = |pair: &Arc<Pair>| follows(pair) && pair.remote().permitted_seq < captured;
        if !self.pairs().iter().any(lacks) {
            return Ok(());
        }
        self.cut(None).await?;
        while self.pairs().iter().any(lacks) {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Makes a marker at which an image may begin: the volumes are not written beyond it while the answer lives.
    ///
    /// # Errors
    /// [`CutError`].
    pub async fn image_point(&self, tag: Option<String>) -> Result<ImagePoint, CutError> {
        let eras = self.eras()?;
        // What is durable now lies before the marker: the updater cannot pass it before we know where it lies.
        let _until_cut = eras.hold(self.image.journal.durable_end().position);
        let done = in_time(self, MARKER_WITHIN, self.cut_now(tag)).await?;
        Ok(ImagePoint { marker: done.marker, barrier: eras.hold(done.next), volumes: self.image.volumes.specs() })
    }

    /// What images of older moments need.
    pub(crate) fn eras(&self) -> Result<&Arc<Eras>, CutError> {
        let none = || CutError::Failed { reason: "this group keeps no images".into() };
        self.parts.eras.as_ref().ok_or_else(none)
    }

    pub(crate) const fn freeze_limit(&self) -> Duration {
        self.options.drain.freeze_limit
    }

    /// A marker that others wanted was given up, because hosts would have been held too long.
    pub(crate) fn on_abandoned(&self, took: Duration) {
        self.desk.freezes.abandon();
        self.parts.metrics.marker_abandoned(took);
    }

    /// The markers held, newest first.
    #[must_use]
    pub fn markers(&self) -> Vec<MarkerInfo> {
        self.desk.markers.all()
    }

    /// A marker by number, or the newest.
    #[must_use]
    pub fn marker(&self, number: Option<u64>) -> Option<MarkerInfo> {
        let markers = &self.desk.markers;
        number.map_or_else(|| markers.newest(), |number| markers.get(number)).as_ref().map(info)
    }
}

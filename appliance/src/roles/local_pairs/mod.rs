//! Pairs of a source and a target volume on this appliance.
//!
//! `open` (those of the catalogue, before groups start), `commands` (what operators do), `checks` (what is refused), `copying`
//! (a task per pair), `restore` (back to the source), `said` (what is told of them), `missing` (a target that cannot be opened).

mod checks;
mod commands;
mod copying;
mod missing;
mod open;
mod restore;
mod said;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Mutex, RwLock};
use tidemark_common::api::control::Reply;
use tidemark_common::api::local_pair::LocalPairControl;
use tidemark_common::api::local_pair::types::{LocalPairCreate, LocalPairSplit, LocalPairStatus};
use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::LocalPairStateRecord as State;
use tidemark_common::ids::GroupId;
use tidemark_common::journal::Position;
use tidemark_common::local_pair::{LocalPair, LocalPairError, TargetVolume};
use tidemark_common::nbd::Export;
use tidemark_common::t0::BlockExport;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::appliance::{Appliance, not_found};

/// Steps of copying at once: each has a piece in memory and keeps a disk busy.
const STEPS_MAX: usize = 4;

/// A pair that is there.
pub(crate) struct Held {
    pub(crate) pair: Arc<LocalPair>,
    /// Why its target cannot be used, when its backing is not there: nothing is copied, and what differs is still marked.
    pub(crate) missing: Option<String>,
    /// Why its source cannot be used: nothing is copied, and what is kept of the image of its split stays.
    no_source: Option<String>,
    /// Bytes still to be restored to the source.
    pub(crate) to_restore_bytes: AtomicU64,
    ended: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Held {
    fn new(pair: Arc<LocalPair>) -> Self {
        let (ended, task) = (CancellationToken::new(), Mutex::default());
        Self { pair, missing: None, no_source: None, to_restore_bytes: 0.into(), ended, task }
    }
}

/// All of them.
pub(crate) struct LocalPairs {
    held: RwLock<BTreeMap<String, Arc<Held>>>,
    stop: CancellationToken,
    steps: Semaphore,
}

impl Default for LocalPairs {
    fn default() -> Self {
        Self { held: RwLock::default(), stop: CancellationToken::new(), steps: Semaphore::new(STEPS_MAX) }
    }
}

impl LocalPairs {
    /// By target.
    pub(crate) fn all(&self) -> Vec<Arc<Held>> {
        self.held.read().values().cloned().collect()
    }

    /// The pair of a target.
    pub(crate) fn of_target(&self, name: &str) -> Option<Arc<Held>> {
        self.held.read().get(name).cloned()
    }

    /// The pairs of a source.
    pub(crate) fn of_source(&self, name: &str) -> Vec<Arc<Held>> {
        self.held.read().values().filter(|held| held.pair.record().source == name).cloned().collect()
    }

    /// The pairs whose sources are a group's, or one volume of it.
    pub(crate) fn of_group(&self, group: GroupId, volume: Option<&str>) -> Vec<Arc<Held>> {
        let fits = |held: &Arc<Held>| {
            let record = held.pair.record();
            record.group_id == group.0 && volume.is_none_or(|volume| record.source == volume)
        };
        self.held.read().values().filter(|held| fits(held)).cloned().collect()
    }

    /// Of a source that is being restored: from what, for people.
    pub(crate) fn restored(&self, source: &str) -> Option<String> {
        self.restored_from_other(source, "")
    }

    /// The same, unless it is from this target.
    fn restored_from_other(&self, source: &str, but: &str) -> Option<String> {
        let held = self.of_source(source);
        let mut targets =
            held.iter().filter(|held| held.pair.state() == State::Reverse).map(|held| &held.pair.target().name);
        let target = targets.find(|target| *target != but)?;
        Some(format!(
            "volume '{source}' is being restored from '{target}': `tidemark local-pair show {target}` tells how far that is"
        ))
    }

    fn get(&self, target: &str) -> Result<Arc<Held>, ErrorBody> {
        self.of_target(target).ok_or_else(|| {
            not_found(format!(
                "volume '{target}' is not the target of a local pair: `tidemark local-pair list` lists the pairs by their targets"
            ))
        })
    }

    /// The service stops: what is being copied is copied to the end of its piece.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        for held in self.all() {
            let task = held.task.lock().take();
            if let Some(task) = task {
                let _ = task.await;
            }
        }
    }
}

impl Appliance {
    /// What serves a volume because of a local pair, or why nothing does; `None` when no pair has a say in it.
    pub(crate) fn served_by_local_pair(&self, name: &str) -> Option<Result<Arc<dyn Export>, String>> {
        if let Some(held) = self.local_pairs.of_target(name) {
            return Some(Self::serve_target(&held));
        }
        self.local_pairs.restored(name).map(Err)
    }

    fn serve_target(held: &Held) -> Result<Arc<dyn Export>, String> {
        let record = held.pair.record();
        let (target, source) = (&record.target, &record.source);
        if let Some(missing) = &held.missing {
            return Err(format!("volume '{target}' cannot be used: {missing}"));
        }
        let what = match record.state {
            State::Split => {
                let about = format!(
                    "Tidemark volume {target}: {source} at marker {}, and what was written since",
                    record.marker
                );
                return Ok(Arc::new(BlockExport::new(Arc::new(TargetVolume(Arc::clone(&held.pair))), &about)));
            }
            State::Copy => "is being made its first copy",
            State::Pair => "follows it",
            State::Resync => "is being made equal to it again",
            State::Reverse => "is being restored to it",
            State::Error => "stands still with an error",
        };
        let show = format!("`tidemark local-pair show {target}`");
        Err(match record.state {
            State::Error | State::Reverse => {
                format!("volume '{target}' is the target of '{source}' and {what}: see {show}")
            }
            _ => format!(
                "volume '{target}' is the target of '{source}' and {what}: `tidemark local-pair split {target}` makes it an image"
            ),
        })
    }
}

impl Appliance {
    /// What was saved for a split is gone: what is no image any more is closed.
    pub(crate) fn local_pairs_lost_era(&self, group: GroupId, era: u64, reason: &str) {
        for held in self.local_pairs.of_group(group, None) {
            held.pair.on_era_ended(era, reason);
            self.close_broken(&held);
        }
    }

    /// A source leaves its group without anybody here having asked for it: what is written to it is not told from now on.
    pub(crate) fn break_local_pairs_of(&self, group: GroupId, volume: &str) {
        for held in self.local_pairs.of_group(group, Some(volume)) {
            let target = &held.pair.target().name;
            held.pair.fail(&format!(
                "volume '{volume}' left its group: `tidemark local-pair delete {target}` ends the pair"
            ));
            self.close_broken(&held);
        }
    }

    fn close_broken(&self, held: &Held) {
        let target = &held.pair.target().name;
        if let (State::Error, Ok(volume)) = (held.pair.state(), self.volume(target)) {
            volume.close(format!("the local pair of '{target}' stands still with an error"));
        }
    }

    /// Places in the journal lose their meaning.
    pub(crate) fn local_pairs_all_reached(&self, group: GroupId) -> Result<(), String> {
        self.tell_local_pairs(group, LocalPair::on_all_reached)
    }

    /// What lies behind a place is cut from the journal.
    pub(crate) fn local_pairs_cut(&self, group: GroupId, place: Position) -> Result<(), String> {
        self.tell_local_pairs(group, |pair| pair.on_cut(place))
    }

    fn tell_local_pairs(
        &self,
        group: GroupId,
        tell: impl Fn(&LocalPair) -> Result<(), LocalPairError>,
    ) -> Result<(), String> {
        for held in self.local_pairs.of_group(group, None) {
            match tell(&held.pair) {
                // It is just being deleted: nothing is known of it any more that could be wrong.
                Ok(()) | Err(LocalPairError::Deleted) => {}
                Err(error) => return Err(format!("local pair '{}': {error}", held.pair.target().name)),
            }
        }
        Ok(())
    }
}

impl LocalPairControl for Appliance {
    fn local_pair_create(&self, request: LocalPairCreate) -> Reply<'_, LocalPairStatus> {
        Box::pin(self.create_local_pair(request))
    }

    fn local_pair_split(&self, request: LocalPairSplit) -> Reply<'_, Vec<LocalPairStatus>> {
        Box::pin(self.split_local_pairs(request))
    }

    fn local_pair_resync(&self, target: String, force: bool) -> Reply<'_, LocalPairStatus> {
        Box::pin(async move { self.resync_local_pair(&target, force).await })
    }

    fn local_pair_reverse(&self, target: String) -> Reply<'_, LocalPairStatus> {
        Box::pin(async move { self.reverse_local_pair(&target).await })
    }

    fn local_pair_delete(&self, target: String, force: bool) -> Reply<'_, ()> {
        Box::pin(async move { self.delete_local_pair(&target, force).await })
    }

    fn local_pairs(&self) -> Reply<'_, Vec<LocalPairStatus>> {
        Box::pin(std::future::ready(Ok(self.local_pairs_now())))
    }

    fn local_pair(&self, volume: String) -> Reply<'_, LocalPairStatus> {
        Box::pin(std::future::ready(self.show_local_pair(&volume)))
    }
}

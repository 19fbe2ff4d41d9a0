//! `local-pair reverse`: what hosts wrote to either side since the split is written back to the source, as a host would, so that it
//! is captured and replicated like any write. Both are closed until that is done, also over a kill: it is done from the begin
//! then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemark_common::api::local_pair::types::LocalPairStatus;
use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::{LocalPairRecord, LocalPairStateRecord as State};
use tidemark_common::extent::Extent;
use tidemark_common::ids::GroupId;
use tidemark_common::local_pair::LocalPair;
use tidemark_common::nbd::{Export, ZeroMode};
use tidemark_common::rate::lasts;
use tidemark_primary::group::Primary;

use super::Held;
use super::checks::told;
use super::commands::close;
use super::copying::RETRY;
use crate::roles::appliance::{Appliance, refused};
use crate::roles::volumes::refuse_connected;

/// How often it is looked whether the updater is there.
const LOOK: Duration = Duration::from_millis(10);

impl Appliance {
    /// `local-pair reverse`.
    pub(super) async fn reverse_local_pair(&self, target: &str) -> Result<LocalPairStatus, ErrorBody> {
        let _alone = self.changing.lock().await;
        let held = self.usable(target)?;
        let record = held.pair.record();
        self.check_source(&record)?;
        self.primary(&record.group)?;
        let (source, volume) = (self.volume(&record.source)?, self.volume(target)?);
        self.refuse_being_restored(&record.source)?;
        self.refuse_half_restored(target)?;
        // Two at once would leave a source that is neither, and targets that follow it without knowing what differs.
        if let Some(reason) = self.local_pairs.restored_from_other(&record.source, target) {
            return Err(refused(reason));
        }
        // When it is restored, the target follows again, and is overwritten.
        self.refuse_backed_up(&held)?;
        refuse_connected(&record.source, &source, Some("it would change under them"))?;
        refuse_connected(target, &volume, Some("what they write would not be restored"))?;
        close(&source, format!("being restored from '{target}'")).await?;
        if let Err(error) = close(&volume, format!("'{}' is being restored from it", record.source)).await {
            self.settle_door(&record.source).await;
            return Err(error);
        }
        let done = tokio::task::block_in_place(|| held.pair.reverse());
        self.settle_door(&record.source).await;
        self.settle_door(target).await;
        done.map_err(|error| told(&held, "restored from", error))?;
        let status = self.local_pair_status(&held);
        let changed_bytes = status.source_changed_bytes.saturating_add(status.target_changed_bytes);
        let reason = status.reason.or_else(|| self.left_behind_by(&record.source, changed_bytes));
        Ok(LocalPairStatus { reason, ..status })
    }

    /// Copies that may not follow when so much of a source is restored.
    fn left_behind_by(&self, source: &str, bytes: u64) -> Option<String> {
        let warnings = self.copies_left_behind(std::iter::once((source, bytes)));
        (!warnings.is_empty()).then(|| warnings.join(". "))
    }

    /// Restores the source, and tries again for as long as that fails.
    pub(super) async fn restore_source(&self, held: &Arc<Held>) {
        while held.pair.state() == State::Reverse {
            if let Err(reason) = self.try_restore(held).await {
                let target = &held.pair.target().name;
                if let Some(left_out) = self.repeats.news(&format!("{target} {reason}"), self.clock.monotonic()) {
                    tracing::warn!(%target, %reason, left_out, "a source could not be restored; it is tried again");
                }
                held.pair.stands_because(State::Reverse, Some(reason));
                tokio::time::sleep(RETRY).await;
            }
        }
        let record = held.pair.record();
        self.settle_door(&record.source).await;
        self.settle_door(&record.target).await;
    }

    async fn try_restore(&self, held: &Arc<Held>) -> Result<(), String> {
        let record = held.pair.record();
        let message = |error: ErrorBody| error.message;
        let group = self.check_source(&record).map_err(message)?;
        if group.is_secondary() {
            // It was not told: a kill came between.
            return self.give_up_reverse(held);
        }
        let primary = self.primary(&record.group).map_err(message)?;
        self.wait_written_back(&primary, held).await?;
        let source = primary.export(&record.source).ok_or("the source is not in its group")?;
        let runs = held.pair.to_restore();
        let mut left: u64 = runs.iter().map(|run| run.length).sum();
        held.pair.stands_because(State::Reverse, self.left_behind_by(&record.source, left));
        for run in runs {
            held.to_restore_bytes.store(left, Ordering::Relaxed);
            restore(&held.pair, &*source, run).await?;
            left -= run.length;
            tokio::time::sleep(lasts(run.length, record.rate)).await;
        }
        // Durable before it counts: the journal writes it to the source's file, whatever happens.
        source.flush().await.map_err(|error| format!("flush volume '{}': {error}", record.source))?;
        let pair = Arc::clone(&held.pair);
        let restored = tokio::task::spawn_blocking(move || pair.restored()).await;
        held.to_restore_bytes.store(0, Ordering::Relaxed);
        restored.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// A group is a copy here from now on, and its volumes hold what another side has: were a restore gone on with when this side is primary
    /// again, it would take back what hosts have written meanwhile.
    pub(crate) fn give_up_reverses(&self, group: GroupId) {
        for held in self.local_pairs.of_group(group, None) {
            if let Err(reason) = self.give_up_reverse(&held) {
                tracing::error!(target = %held.pair.target().name, %reason, "a restore could not be given up; it is tried again");
            }
        }
    }

    fn give_up_reverse(&self, held: &Held) -> Result<(), String> {
        let LocalPairRecord { source, target, group, state, .. } = held.pair.record();
        if state != State::Reverse {
            return Ok(());
        }
        let reason = format!(
            "volume '{source}' was not restored to the end: group '{group}' is a copy here since, and holds what its primary has. \
             `tidemark local-pair resync {target}` lets the target follow it again"
        );
        held.pair.give_up_reverse(&reason).map_err(|error| error.to_string())?;
        tracing::warn!(%source, %target, "the restore of a source has been given up: its group is a copy here now");
        Ok(())
    }

    /// What hosts wrote is in the source's file, and so it is marked.
    async fn wait_written_back(&self, primary: &Arc<Primary>, held: &Held) -> Result<(), String> {
        let point = primary.image_point(None).await.map_err(|error| error.to_string())?;
        let place = point.barrier.place();
        drop(point);
        while held.pair.eras().applied_position() < place {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

async fn restore(pair: &Arc<LocalPair>, source: &dyn Export, run: Extent) -> Result<(), String> {
    let reading = Arc::clone(pair);
    let read = tokio::task::spawn_blocking(move || {
        if reading.hole(run.offset, run.length)? == run.length {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(run.length).unwrap_or(0)];
        reading.read(run.offset, &mut bytes).map(|()| Some(bytes))
    });
    let read = read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let written = match read {
        Some(bytes) => source.write(run.offset, &bytes, false).await,
        None => source.write_zeroes(run.offset, run.length, ZeroMode::default()).await,
    };
    written.map_err(|error| format!("write the source at {}: {error}", run.offset))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tidemark_common::api::local_pair::types::{LocalPairCreate, LocalPairSplit};
    use tidemark_common::api::types::Switchover;
    use tidemark_common::catalog::RoleRecord;

    use super::*;
    use crate::service::tests::{Faults, add_primary, add_volume, appliance};

    /// A source that is half restored for as long as a test lasts.
    async fn half_restored(directory: &Path) -> (Arc<Appliance>, Arc<Held>) {
        let appliance = appliance(directory, &Arc::new(Faults::default()));
        add_primary(&appliance, "g", "s").await;
        let target = add_volume(&appliance, "t").await;
        let request = LocalPairCreate { source: "s".into(), target: "t".into(), rate: Some(1) };
        appliance.create_local_pair(request).await.unwrap();
        appliance.split_local_pairs(LocalPairSplit { targets: vec!["t".into()] }).await.unwrap();
        let held = appliance.local_pairs.of_target("t").unwrap();
        while held.pair.figures().differential_bytes > 0 {
            tokio::task::yield_now().await;
        }
        target.door.write(0, &[1; 512], false).await.unwrap();
        appliance.reverse_local_pair("t").await.unwrap();
        (appliance, held)
    }

    /// As before it has begun: what hosts have written is written back first, which may take long.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_restore_that_has_not_begun_has_all_of_it_to_copy() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, held) = half_restored(directory.path()).await;
        held.to_restore_bytes.store(0, Ordering::Relaxed);
        assert_eq!(appliance.local_pair_status(&held).differential_bytes, 1 << 16);
    }

    fn assert_given_up(appliance: &Appliance, held: &Held) {
        let record = held.pair.record();
        assert_eq!(record.state, State::Error);
        assert!(record.reason.is_some_and(|reason| reason.contains("local-pair resync t")));
        assert!(appliance.local_pairs.restored("s").is_none());
    }

    /// Who takes over would serve it, and know nothing of it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_group_is_not_switched_over_while_a_volume_of_it_is_restored_from_its_target() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, held) = half_restored(directory.path()).await;
        let refused = appliance.switch_over("g", &Switchover { to: "west".into(), timeout_ms: 1000 }).await;
        let message = refused.unwrap_err().message;
        assert!(message.contains("being restored from 't'"), "{message}");
        assert_eq!(held.pair.state(), State::Reverse);
    }

    /// It may be primary again later, with what hosts have written elsewhere meanwhile.
    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_more_is_restored_to_a_group_that_became_a_copy() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, held) = half_restored(directory.path()).await;
        appliance.give_up_reverses(appliance.group("g").unwrap().keeper.id());
        assert_given_up(&appliance, &held);
        assert!(appliance.try_restore(&held).await.is_err(), "what was under way does not go on");
        assert_given_up(&appliance, &held);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_restore_that_a_kill_left_behind_in_a_copy_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, held) = half_restored(directory.path()).await;
        let group = appliance.group("g").unwrap();
        group.keeper.update(|record| record.role = RoleRecord::Secondary).unwrap();
        appliance.try_restore(&held).await.unwrap();
        assert_given_up(&appliance, &held);
    }
}

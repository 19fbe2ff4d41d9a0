//! What operators do with pairs on this appliance. Whoever takes an image away closes its door first and waits for the hosts
//! inside.

use std::sync::Arc;

use tidemark_common::api::local_pair::types::{LocalPairCreate, LocalPairSplit, LocalPairStatus};
use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::{LocalPairRecord, LocalPairStateRecord as State};
use tidemark_common::ids::GroupId;
use tidemark_common::local_pair::split::split;
use tidemark_common::local_pair::states::{Event, next};
use tidemark_common::local_pair::{LocalPair, LocalPairError};

use super::Held;
use super::checks::{Wanted, told};
use crate::roles::appliance::{Appliance, Group, Volume, failed, invalid, refused};
use crate::roles::groups::random_id;
use crate::roles::volumes::refuse_connected;

/// Bytes per second copied at most, when nothing is said.
const RATE: u64 = 256 << 20;

impl Appliance {
    /// `local-pair create`.
    pub(super) async fn create_local_pair(&self, request: LocalPairCreate) -> Result<LocalPairStatus, ErrorBody> {
        let _alone = self.changing.lock().await;
        let wanted = self.check_local_pair(&request)?;
        let record = self.new_record(&request, &wanted)?;
        let used = self.put_to_use(&request.target)?;
        close(&wanted.target, format!("the target of '{}'", request.source)).await?;
        let made =
            tokio::task::block_in_place(|| LocalPair::create(self.local_pair_parts(&record)?, record).map_err(failed));
        match made {
            Ok(pair) => {
                let held = Arc::new(Held::new(pair));
                self.local_pairs.held.write().insert(request.target.clone(), Arc::clone(&held));
                used.done();
                self.start_local_pair(&held);
                Ok(self.local_pair_status(&held))
            }
            Err(error) => {
                self.settle_door(&request.target).await;
                Err(error)
            }
        }
    }

    fn new_record(&self, request: &LocalPairCreate, wanted: &Wanted) -> Result<LocalPairRecord, ErrorBody> {
        Ok(LocalPairRecord {
            target: request.target.clone(),
            id: random_id()?,
            source: request.source.clone(),
            source_index: wanted.index,
            group: wanted.group.keeper.name(),
            group_id: wanted.group.keeper.id().0,
            size: wanted.source.file.size(),
            state: State::Copy,
            reason: None,
            since_ns: self.now_ns(),
            rate: request.rate.unwrap_or(RATE),
            era: None,
            begin: None,
            marker: 0,
            marker_ns: 0,
        })
    }

    /// `local-pair split`: all at one marker, or none.
    pub(super) async fn split_local_pairs(&self, request: LocalPairSplit) -> Result<Vec<LocalPairStatus>, ErrorBody> {
        let _alone = self.changing.lock().await;
        let held = self.to_split(&request.targets)?;
        let first = held.first().ok_or_else(|| invalid("name at least one target"))?;
        let mut groups: Vec<Arc<Group>> = Vec::new();
        for held in &held {
            let group = self.check_source(&held.pair.record())?;
            if !groups.iter().any(|known| Arc::ptr_eq(known, &group)) {
                groups.push(group);
            }
        }
        self.refuse_without_common_moment(&groups)?;
        let sources: Vec<String> = held.iter().map(|held| held.pair.record().source).collect();
        let points = self.image_points(&groups, &first.pair.target().name);
        let points = self.moment_of_whole(&sources, "A split", points).await?;
        let points: Vec<_> = points.into_values().collect();
        let pairs: Vec<_> = held.iter().map(|held| Arc::clone(&held.pair)).collect();
        let done = tokio::task::block_in_place(|| split(&pairs, &points));
        drop(points);
        done.map_err(|error| told(first, "split", error))?;
        for held in &held {
            self.settle_door(&held.pair.target().name).await;
        }
        Ok(held.iter().map(|held| self.local_pair_status(held)).collect())
    }

    fn to_split(&self, targets: &[String]) -> Result<Vec<Arc<Held>>, ErrorBody> {
        let mut found: Vec<Arc<Held>> = Vec::new();
        for target in targets {
            let held = self.usable(target)?;
            allowed(&held, "split", Event::Split)?;
            if !found.iter().any(|other| Arc::ptr_eq(other, &held)) {
                found.push(held);
            }
        }
        Ok(found)
    }

    /// A pair whose target can be used.
    pub(super) fn usable(&self, target: &str) -> Result<Arc<Held>, ErrorBody> {
        let held = self.local_pairs.get(target)?;
        if let Some(missing) = &held.missing {
            return Err(refused(format!("volume '{target}' cannot be used: {missing}")));
        }
        match &held.no_source {
            Some(why) => Err(refused(format!("the source of '{target}' cannot be used: {why}"))),
            None => Ok(held),
        }
    }

    /// `local-pair resync`.
    pub(super) async fn resync_local_pair(&self, target: &str, force: bool) -> Result<LocalPairStatus, ErrorBody> {
        let _alone = self.changing.lock().await;
        let held = self.usable(target)?;
        allowed(&held, "made equal again", Event::Resync)?;
        self.check_source(&held.pair.record())?;
        self.refuse_being_restored(target)?;
        self.refuse_backed_up(&held)?;
        let volume = self.volume(target)?;
        if !force {
            let why = "what they wrote would be overwritten (--force does that, and gives them errors)";
            refuse_connected(target, &volume, Some(why))?;
        }
        close(&volume, format!("'{target}' follows its source again")).await?;
        let done = tokio::task::block_in_place(|| held.pair.resync());
        self.settle_door(target).await;
        done.map_err(|error| told(&held, "made equal again", error))?;
        // What differs is overwritten, whoever wrote it.
        tokio::task::block_in_place(|| self.forget_restore(target)).map_err(failed)?;
        Ok(self.local_pair_status(&held))
    }

    /// `local-pair delete`.
    pub(super) async fn delete_local_pair(&self, target: &str, force: bool) -> Result<(), ErrorBody> {
        let _alone = self.changing.lock().await;
        let held = self.local_pairs.get(target)?;
        let record = held.pair.record();
        if !force {
            refuse_deletion(&held, &record)?;
            if let Ok(volume) = self.volume(target) {
                let why = "what they have open would be the image of nothing any more (--force does that, and they get errors meanwhile)";
                refuse_connected(target, &volume, Some(why))?;
            }
        }
        self.refuse_backed_up(&held)?;
        if let Ok(volume) = self.volume(target) {
            close(&volume, format!("the local pair of '{target}' is being deleted")).await?;
        }
        let done = tokio::task::block_in_place(|| held.pair.delete());
        if done.is_ok() {
            held.ended.cancel();
            let task = held.task.lock().take();
            if let Some(task) = task {
                let _ = task.await;
            }
            self.local_pairs.held.write().remove(target);
            self.remove_saves(GroupId(record.id));
        }
        self.settle_door(target).await;
        if record.state == State::Reverse {
            // Closed until now. Of any other the hosts are in, and are not waited for.
            self.settle_door(&record.source).await;
        }
        done.map_err(|error| told(&held, "deleted", error))
    }

    fn remove_saves(&self, id: GroupId) {
        // There only if a backup ever read it.
        let folder = self.saves_folder(id);
        if let Err(error) = std::fs::remove_dir(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "the folder of a pair that is gone could not be removed");
        }
    }

    /// What a backup reads does not go away under it.
    pub(super) fn refuse_backed_up(&self, held: &Held) -> Result<(), ErrorBody> {
        let record = held.pair.record();
        let Some(backup) = self.backups.using(GroupId(record.id)) else { return Ok(()) };
        Err(refused(format!(
            "backup '{backup}' reads volume '{}': wait for it, or `tidemark backup cancel {backup}`",
            record.target
        )))
    }
}

fn allowed(held: &Held, asked: &str, event: Event) -> Result<(), ErrorBody> {
    let state = held.pair.state();
    next(state, event).map(drop).ok_or_else(|| told(held, asked, LocalPairError::not_from(state)))
}

/// What is lost with a pair is lost only when that is said.
fn refuse_deletion(held: &Held, record: &LocalPairRecord) -> Result<(), ErrorBody> {
    let (source, target) = (&record.source, &record.target);
    let lacks = held.pair.figures().differential_bytes;
    match record.state {
        State::Reverse => Err(refused(format!(
            "volume '{source}' is half restored from '{target}': wait until it is a pair again. With --force '{source}' stays as it is now"
        ))),
        State::Split if lacks > 0 => Err(refused(format!(
            "{lacks} bytes of the image are still to be copied to '{target}': wait until nothing differs. With --force the image is lost"
        ))),
        _ => Ok(()),
    }
}

/// Waits for the hosts inside, but not without end; those that come find it closed.
pub(super) async fn close(volume: &Volume, reason: String) -> Result<(), ErrorBody> {
    let _nobody_inside = volume.hold_hosts().await?;
    volume.close(reason);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemark_common::nbd::Export;
    use tokio::time::timeout;

    use super::*;
    use crate::service::tests::{Faults, add_primary, add_volume, appliance, leave_half_restored};

    /// Long enough for what waits for nobody.
    const LIMIT: Duration = Duration::from_secs(60);

    /// A pair of `s` and `t` on an appliance, and the door of each.
    async fn paired(directory: &std::path::Path) -> (Arc<Appliance>, Arc<Volume>, Arc<Volume>) {
        let appliance = appliance(directory, &Arc::new(Faults::default()));
        let source = add_primary(&appliance, "g", "s").await;
        let target = add_volume(&appliance, "t").await;
        let request = LocalPairCreate { source: "s".into(), target: "t".into(), rate: None };
        appliance.create_local_pair(request).await.unwrap();
        (appliance, source, target)
    }

    /// It serves nothing until it is whole, but its target did.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_source_that_is_half_restored_is_not_split() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, ..) = paired(directory.path()).await;
        leave_half_restored(&appliance, "s");
        let split = || appliance.split_local_pairs(LocalPairSplit { targets: vec!["t".into()] });
        let why = split().await.unwrap_err().message;
        assert!(why.contains("'s' is half restored") && why.contains("would hold neither"), "{why}");
        assert_ne!(appliance.local_pairs.get("t").unwrap().pair.state(), State::Split);
        appliance.forget_restore("s").unwrap();
        split().await.unwrap();
    }

    /// Its journal is full, or its disk hangs; and who waited at its door would hold up all that come after him.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_pair_is_deleted_beside_requests_to_its_source_that_do_not_end() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, source, _) = paired(directory.path()).await;
        let inside = source.door.hold_within(Duration::ZERO).await.unwrap();
        timeout(LIMIT, appliance.delete_local_pair("t", true)).await.expect("nobody is waited for").unwrap();
        drop(inside);
        assert!(appliance.local_pairs_now().is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_pair_that_is_just_being_deleted_keeps_no_journal_from_being_cut() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, ..) = paired(directory.path()).await;
        let held = appliance.local_pairs.of_target("t").unwrap();
        let group = GroupId(held.pair.record().group_id);
        held.pair.delete().unwrap();
        assert_eq!(appliance.local_pairs_all_reached(group), Ok(()));
    }

    /// As the volume of a copy does when its primary's is resized.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_pair_whose_source_has_grown_says_that_it_cannot_be_split() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, source, _) = paired(directory.path()).await;
        let reason = || appliance.show_local_pair("t").unwrap().reason;
        assert_eq!(reason(), None);
        source.file.grow(2 << 20).unwrap();
        assert!(reason().is_some_and(|reason| reason.contains("cannot be split") && reason.contains("delete t")));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn requests_to_a_target_that_do_not_end_keep_no_other_change_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, _, target) = paired(directory.path()).await;
        appliance.split_local_pairs(LocalPairSplit { targets: vec!["t".into()] }).await.unwrap();
        let inside = target.door.hold_within(Duration::ZERO).await.unwrap();
        let refused = timeout(LIMIT, appliance.resync_local_pair("t", true)).await.expect("not without end");
        assert!(refused.unwrap_err().message.contains("nothing was changed"));
        drop(inside);
        assert_eq!(appliance.local_pairs.get("t").unwrap().pair.state(), State::Split);
        target.door.read(0, &mut [0; 512]).await.unwrap();
    }
}

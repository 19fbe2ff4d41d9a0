//! Giving up: a pair on its primary, a group on a side that is none. Volumes always stay, as volumes in no group.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::{Batch, CatalogError, GroupRecord, RoleRecord, VolumeRecord};
use tidemark_common::clock::from_unix_ns;
use tidemark_common::ids::{Generation, GroupId};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::storage::Disk;
use tidemark_secondary::group::Secondary;
use tidemark_secondary::permission::Permitted;

use super::appliance::{Appliance, Engine, Group, changing, failed, not_paired, refused};
use super::rejoin::Settled;
use super::stop_copy::STOPS_WITHIN;
use super::volumes::refuse_connected;

/// What a copy has and has not yet put into its volumes is there within this time, where nothing keeps it from that.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at that.
const LOOK: Duration = Duration::from_millis(5);

impl Appliance {
    /// `pair delete`: on the primary the pair, on the secondary the group itself.
    pub(crate) async fn delete_pair(&self, group: &str, peer: &str, force: bool) -> Result<(), ErrorBody> {
        let _alone = self.changing.lock().await;
        let found = self.group(group)?;
        let engine = found.engine.read().clone();
        let record = found.keeper.get();
        match engine {
            Engine::Primary(primary) => {
                if primary.delete_pair(peer).map_err(failed)? {
                    self.forget_comparison(&(found.keeper.id(), peer.into()), "its pair was deleted").await
                } else {
                    Err(refused(not_paired(group, peer)))
                }
            }
            Engine::Secondary(secondary) => {
                self.check_other_side(&record, peer)?;
                self.refuse_with_images(found.keeper.id(), None, "given up")?;
                // As long as this lives, the volumes go no further.
                let held = secondary.state().hold();
                if let Some(held) = held.as_ref().filter(|_| !force) {
                    self.wait_for_volumes(group, peer, &secondary, &held.permitted).await?;
                }
                self.stop_copy(&found, &secondary, "given up", STOPS_WITHIN).await?;
                let has_image = held.is_some();
                drop(held);
                // The journal goes: what is in the volumes is to be there for good.
                let forgotten = match tokio::task::block_in_place(|| secondary.files().sync()) {
                    Err((volume, _)) if has_image && !force => Err(may_have_dropped(group, &volume)),
                    _ => self.forget_group(group, &found, None).await,
                };
                if forgotten.is_err() {
                    // It is known still: it follows until that is tried again.
                    self.run_as_copy(&found);
                }
                forgotten
            }
            Engine::Failed(why) if record.role == RoleRecord::Primary => {
                self.check_other_side(&record, peer)?;
                if !force && self.kept_by_give_up(&found.keeper).is_none() {
                    return Err(may_hold_writes(group, &why.reason));
                }
                self.refuse_with_images(found.keeper.id(), None, "given up")?;
                // Its journal is kept aside, as a fenced one is: whoever took over has the next generation.
                let by = Generation(record.generation.saturating_add(1));
                self.forget_group(group, &found, Some(by)).await
            }
            Engine::Fenced { .. } => {
                self.check_other_side(&record, peer)?;
                self.refuse_with_images(found.keeper.id(), None, "given up")?;
                // An earlier try that set aside what the group had came through this.
                let is_settled = self.kept_by_give_up(&found.keeper).is_some();
                // A kill may have left what was answered in the buffer or the journal, and volumes half way to it.
                let settle = || self.settle_captured(&found);
                match (!is_settled).then(|| tokio::task::block_in_place(settle)) {
                    Some(Ok(Settled::NotWrittenBack { reason, .. }) | Err(reason)) if !force => {
                        return Err(refused(format!(
                            "group '{group}' is not given up: {reason}. Mend that and try again; or use --force: the volumes then stay as they \
                             are, at no moment that was, and the journal is kept aside"
                        )));
                    }
                    _ => {}
                }
                // As recorded: a give-up that does not end is found again by that.
                self.forget_group(group, &found, given_up_by(&record)).await
            }
            Engine::Changing { what, .. } => Err(changing(group, &what)),
            Engine::Failed(why) => {
                self.check_other_side(&record, peer)?;
                self.refuse_with_journal(&record, &why.reason, force)?;
                self.refuse_with_images(found.keeper.id(), None, "given up")?;
                self.forget_group(group, &found, None).await
            }
        }
    }

    /// The journal of a copy goes with it: its volumes are to hold the newest marker then.
    async fn wait_for_volumes(
        &self,
        group: &str,
        peer: &str,
        secondary: &Secondary,
        newest: &Permitted,
    ) -> Result<(), ErrorBody> {
        let deadline = self.clock.monotonic() + FOLLOWS_WITHIN;
        loop {
            let problem = match tokio::task::block_in_place(|| secondary.lacks(newest)) {
                Ok(false) => return Ok(()),
                Ok(true) => secondary.state().problem(),
                Err(error) => Some(error.to_string()),
            };
            let keeps_history = secondary.state().history().floor.is_some_and(|floor| floor < newest.end);
            if keeps_history || self.clock.monotonic() >= deadline {
                let why = match problem {
                    _ if keeps_history => "its history is kept there".to_owned(),
                    Some(problem) => format!("its volumes do not follow: {problem}"),
                    None => format!("its volumes do not follow within {FOLLOWS_WITHIN:?}"),
                };
                let holds = secondary.state().applied_position().marker.0;
                return Err(lacks(group, peer, holds, newest, &why));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// `group delete`: a primary that nobody copies from. Everything that was answered is in the volumes then.
    pub(crate) async fn delete_group(&self, name: &str) -> Result<(), ErrorBody> {
        let _alone = self.changing.lock().await;
        let found = self.group(name)?;
        let record = found.keeper.get();
        if let Some(pair) = record.pairs.first() {
            return Err(refused(format!(
                "group '{name}' is paired with '{}': `tidemark pair delete {name} --to {}` first",
                pair.peer, pair.peer
            )));
        }
        let engine = found.engine.read().clone();
        let primary = match engine {
            Engine::Primary(primary) => primary,
            Engine::Changing { what, .. } => return Err(changing(name, &what)),
            Engine::Failed(why) => return Err(may_hold_writes(name, &why.reason)),
            Engine::Secondary(_) | Engine::Fenced { .. } => {
                return Err(refused(format!("group '{name}' is not primary here: `tidemark pair delete` gives it up")));
            }
        };
        self.refuse_with_images(found.keeper.id(), None, "deleted")?;
        for member in &record.volumes {
            refuse_connected(&member.name, &*self.volume(&member.name)?, None)?;
        }
        // Known before anything is stopped, where it is.
        let stands = tokio::task::block_in_place(|| primary.problem().filter(|_| !primary.is_written_back()));
        if let Some(problem) = stands {
            return Err(not_written_back(name, &problem));
        }
        // Who connects from now on is refused, and what was answered goes to the volumes.
        let stopped = tokio::task::spawn_blocking(move || {
            primary.stop();
            let problem = || primary.problem().unwrap_or_else(|| "a volume could not be synced".into());
            (!primary.is_written_back()).then(problem)
        });
        let forgotten = match stopped.await.map_err(failed)? {
            Some(problem) => Err(not_written_back(name, &problem)),
            None => self.forget_group(name, &found, None).await,
        };
        if forgotten.is_err()
            && let Err(reason) = self.run_as_primary(&found)
        {
            tracing::error!(group = name, %reason, "a group that could not be deleted does not run");
        }
        forgotten
    }

    /// Who gives a group up names its other side: another name is a slip, and this cannot be undone.
    fn check_other_side(&self, record: &GroupRecord, peer: &str) -> Result<(), ErrorBody> {
        let primary = record.primary.and_then(|id| self.peer_by_id(&id));
        let sides: BTreeSet<String> = record.pairs.iter().map(|pair| pair.peer.clone()).chain(primary).collect();
        if sides.is_empty() || sides.contains(peer) {
            return Ok(());
        }
        let sides: Vec<String> = sides.into_iter().collect();
        let (group, sides) = (&record.name, sides.join("' and '"));
        Err(refused(format!("group '{group}' is not paired with '{peer}' but with '{sides}': nothing was changed")))
    }

    /// After an error the group is known still.
    async fn forget_group(&self, name: &str, group: &Group, fenced_by: Option<Generation>) -> Result<(), ErrorBody> {
        let id = group.keeper.id();
        let record = group.keeper.get();
        // Before the catalogue forgets: whatever fails here can be tried again.
        self.discard_unfinished(group);
        // Goes with what is set aside: there it is found by the group's name, too.
        self.note_lost(group)?;
        if let Some(by) = fenced_by {
            self.set_aside(id, by)?;
        }
        let ring = self.ring_path(id);
        let members = record.volumes.into_iter().map(|member| member.name);
        let volumes: BTreeSet<String> = members.chain(self.made_for(|group| group == name)).collect();
        group.keeper.forget(|| self.forget_records(name, id, &volumes)).map_err(failed)?;
        self.groups.write().remove(name);
        for name in volumes {
            if let Ok(volume) = self.volume(&name) {
                *volume.made_for.write() = None;
            }
            self.settle_door(&name).await;
        }
        self.remove_group_files(id, &ring);
        Ok(())
    }

    /// One step: the group, whose its volumes are, and when it is rehearsed.
    fn forget_records(&self, name: &str, id: GroupId, volumes: &BTreeSet<String>) -> Result<(), CatalogError> {
        let mut batch = Batch::new();
        batch.delete_group(name, id)?;
        for volume in volumes {
            if let Some(record) = self.catalog.volume(volume)?.filter(|record| record.group.is_some()) {
                batch.put_volume(&VolumeRecord { group: None, ..record })?;
            }
        }
        self.forget_with_schedule(name, batch)
    }

    /// What a fenced primary had not shipped stays on its disk (invariant 8), whatever becomes of the group.
    fn set_aside(&self, id: GroupId, fenced_by: Generation) -> Result<(), ErrorBody> {
        let kept = set_folder_aside(&*self.disk, &self.group_folder(id), &self.ring_path(id), fenced_by)?;
        if let Some(kept) = kept {
            tracing::warn!(kept = %kept.display(), "the journal of a group that was primary is kept");
        }
        Ok(())
    }

    /// Where a give-up that did not end has set aside what the group had, journal and all: only the group itself is left to be forgotten.
    pub(crate) fn kept_by_give_up(&self, keeper: &GroupKeeper) -> Option<PathBuf> {
        let by = given_up_by(&keeper.get())?;
        let folder = self.group_folder(keeper.id());
        let kept = kept_name(&folder, by);
        (!folder.exists() && kept.exists()).then_some(kept)
    }

    /// The service ended while a group was given up, as an operator had asked: that ends now, where it cannot go back any more.
    pub(crate) async fn end_give_up(&self, name: &str) {
        let _alone = self.changing.lock().await;
        let Ok(group) = self.group(name) else { return };
        let Some(kept) = self.kept_by_give_up(&group.keeper) else { return };
        match self.forget_group(name, &group, given_up_by(&group.keeper.get())).await {
            Ok(()) => {
                tracing::warn!(group = name, kept = %kept.display(), "the service had ended while this group was given up: that is done");
            }
            Err(error) => {
                tracing::error!(group = name, error = %error.message, "the group could not be given up to the end: `tidemark pair delete` tries it again");
            }
        }
    }

    /// A kill while a group was given up may leave its journal. Nothing in it is part of a copy that is made now: its markers would permit
    /// what the volumes of that do not hold.
    pub(crate) fn remove_left_over(&self, id: GroupId) -> Result<(), String> {
        let journal = self.journal_folder(id);
        if !journal.exists() {
            return Ok(());
        }
        tracing::warn!(journal = %journal.display(), "what is left of a group that was given up is removed");
        self.remove_group_files(id, &self.ring_path(id));
        if journal.exists() {
            return Err(format!(
                "the journal of a group that was given up here cannot be removed: remove {}",
                journal.display()
            ));
        }
        Ok(())
    }

    /// The journal and the write buffer of a group that is no more.
    pub(crate) fn remove_group_files(&self, id: GroupId, ring: &Path) {
        let folder = self.journal_folder(id);
        if let Err(error) = fs::remove_dir_all(&folder)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "the journal of a deleted group could not be removed");
        }
        // What was never shipped stays (invariant 8): then the folder is not empty.
        let kept = self.lost_folder(id);
        if fs::remove_dir(self.group_folder(id)).is_err() && kept.exists() {
            tracing::warn!(kept = %kept.display(), "what the group had not shipped is kept");
        }
        let _ = fs::remove_file(ring);
    }
}

/// A copy whose volumes hold an older marker than its journal is not given up.
fn lacks(group: &str, peer: &str, holds: u64, newest: &Permitted, why: &str) -> ErrorBody {
    let (number, time) = (newest.marker.number, from_unix_ns(newest.marker.time_ns));
    refused(format!(
        "group '{group}' is not given up: its volumes hold marker {holds}, and what came until marker {number} of {time:.3} is in its journal \
         alone, which goes with it ({why}). Where '{peer}' is there, have it follow, with `tidemark group set {group} --history off` on '{peer}' \
         if it has one. Or `tidemark failover {group}`, then `tidemark pair delete {group} --to {peer}` and `tidemark group delete {group}`, \
         puts all of it into the volumes. To have these as they are: --force"
    ))
}

/// Why a copy is not forgotten whose volumes may read otherwise than they were written.
fn may_have_dropped(group: &str, volume: &str) -> ErrorBody {
    refused(format!(
        "group '{group}' is not given up: volume '{volume}' could not be synced, and may have dropped what its journal has still. It is the copy as \
         before, and that is written again from the journal: see to the disk, then try again. To have the volumes as they are: --force"
    ))
}

/// Why a primary that cannot put into its volumes what it has captured is not forgotten.
fn not_written_back(group: &str, problem: &str) -> ErrorBody {
    refused(format!(
        "group '{group}' is not deleted: its journal could not be written back to its volumes ({problem}). Mend that, then try again"
    ))
}

/// Why a primary that failed is not forgotten.
fn may_hold_writes(group: &str, reason: &str) -> ErrorBody {
    refused(format!(
        "group '{group}' does not run, and its journal may hold writes that its volumes do not have: {reason}. Mend that and restart the \
         service; or, when a copy has been taken over, `tidemark pair delete {group} --to PEER --force` gives the group up here: the volumes \
         stay as they are, and the journal is kept aside"
    ))
}

/// By which generation a group that was primary is given up; `None`: it was a copy.
fn given_up_by(record: &GroupRecord) -> Option<Generation> {
    match record.role {
        RoleRecord::Fenced { by_generation } => Some(Generation(by_generation)),
        // As `delete_pair` names it.
        RoleRecord::Primary => Some(Generation(record.generation.saturating_add(1))),
        RoleRecord::Secondary => None,
    }
}

/// What a group had goes to a name that is free, with its write buffer in it. All of it is durable when this returns, also where an earlier try
/// came so far: nothing is set aside then. Under its old name it would be removed as left over when the group comes again.
fn set_folder_aside(disk: &dyn Disk, folder: &Path, ring: &Path, by: Generation) -> Result<Option<PathBuf>, ErrorBody> {
    let at = |action: &str, path: &Path, error: io::Error| failed(format!("{action} {}: {error}", path.display()));
    if !folder.exists() {
        let synced = folder.parent().map_or(Ok(()), |groups| disk.sync_folder(groups));
        return match synced {
            // There was never anything.
            Err(error) if error.kind() != ErrorKind::NotFound => Err(at("sync the folder of", folder, error)),
            _ => Ok(None),
        };
    }
    if ring.exists() {
        let kept = keep_copy(ring, &folder.join("ring")).and_then(|()| disk.sync_folder(folder));
        kept.map_err(|error| at("keep", ring, error))?;
    }
    let kept = free_name(folder, by);
    disk.rename(folder, &kept).map_err(|error| at("set aside", folder, error))?;
    if let Some(parent) = kept.parent() {
        disk.sync_folder(parent).map_err(|error| at("sync", parent, error))?;
    }
    Ok(Some(kept))
}

/// A ring lies in memory: its copy must be on the disk before the ring goes.
fn keep_copy(ring: &Path, copy: &Path) -> io::Result<()> {
    fs::copy(ring, copy)?;
    File::open(copy)?.sync_all()
}

/// The name for what a fenced group had.
fn kept_name(folder: &Path, by: Generation) -> PathBuf {
    folder.with_extension(format!("fenced-by-{by}.kept"))
}

/// A group may be fenced, given up and come back more than once: nothing that is kept is replaced.
fn free_name(folder: &Path, by: Generation) -> PathBuf {
    let first = kept_name(folder, by);
    let further = (2..).map(|number: u64| folder.with_extension(format!("fenced-by-{by}-{number}.kept")));
    std::iter::once(first).chain(further).find(|name| !name.exists()).unwrap_or_else(|| folder.with_extension("kept"))
}

#[cfg(test)]
pub(crate) mod tests;

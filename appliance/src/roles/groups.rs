//! Groups and pairs: making and changing them, and starting those of the catalogue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_common::api::types::{ErrorBody, GroupCreate, GroupSet, GroupStatus, PairStatus};
use tidemark_common::catalog::{CopyRecord, GroupRecord, GroupVolume, PairRecord, PairStateRecord, RoleRecord};
use tidemark_common::ids::{Generation, GroupId, VolumeIndex, check_name};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::limits::{INDEX_RANGES_MAX, INTERVAL_MS};
use tidemark_common::volumes::{VolumeFile, Volumes};
use tidemark_primary::differences::{encode_new, everything};
use tidemark_primary::drain::DrainSettings;
use tidemark_primary::group::{Primary, PrimaryOptions, PrimaryParts, on_full_record};
use tidemark_primary::recovery::{self, Taken};
use tidemark_primary::ship::Links;
use tidemark_secondary::damage::give_up_image;
use tidemark_secondary::group::{Secondary, SecondaryParts, StartError};
use tidemark_secondary::intake::CopyVolumes;

use super::appliance::{Appliance, Engine, Failure, Group, failed, invalid, refused};
use super::offers::Use;

/// A write waits this long at most in the buffer for company.
const DRAIN_DELAY: Duration = Duration::from_millis(10);

impl Appliance {
    /// Starts the groups of the catalogue. One that cannot start says why and does not hold up the others.
    pub(crate) async fn start_groups(&self) -> Result<(), tidemark_common::catalog::CatalogError> {
        for record in self.catalog.groups()? {
            // A pair may hear at once that it is fenced: who acts on that finds the group.
            let _alone = self.changing.lock().await;
            let name = record.name.clone();
            let keeper = Arc::new(GroupKeeper::new(self.catalog.clone(), record));
            let engine = tokio::task::block_in_place(|| self.start_engine(&keeper));
            if let Engine::Failed(reason) = &engine {
                tracing::error!(group = %name, %reason, "the group does not run");
            }
            if let Engine::Secondary(copy) = &engine {
                self.discard_uncut(copy);
            }
            self.add_group(keeper, engine);
        }
        let names: Vec<String> = self.groups.read().keys().cloned().collect();
        for name in &names {
            self.end_give_up(name).await;
        }
        names.iter().for_each(|name| self.look_for_takers(name));
        self.free_strays().await;
        Ok(())
    }

    /// A kill while a group was given up leaves volumes that were made for it: nothing holds them any more.
    async fn free_strays(&self) {
        for name in self.made_for(|_| true) {
            if self.group_of(&name).is_some() {
                continue;
            }
            match self.set_free(&name) {
                Ok(()) => self.settle_door(&name).await,
                Err(error) => {
                    tracing::error!(volume = %name, error = %error.message, "the volume stays closed to hosts")
                }
            }
        }
    }

    pub(crate) fn start_engine(&self, keeper: &Arc<GroupKeeper>) -> Engine {
        if let Some(by) = self.end_fence(keeper) {
            return Engine::Fenced { by };
        }
        let started = match keeper.get().role {
            RoleRecord::Primary => self.start_primary(keeper, None).map(Engine::Primary).map_err(Failure::from),
            RoleRecord::Secondary => self.start_secondary(keeper).map(Engine::Secondary),
            RoleRecord::Fenced { by_generation } => Ok(Engine::Fenced { by: Generation(by_generation) }),
        };
        started.unwrap_or_else(Engine::Failed)
    }

    /// A pair was refused by who has taken over, and a death came before that was recorded of the group, too (invariant 8): nothing is
    /// served here again. With which generation, who took over says when it is asked; it is the next one at least.
    fn end_fence(&self, keeper: &GroupKeeper) -> Option<Generation> {
        let record = keeper.get();
        let is_fenced = record.pairs.iter().any(|pair| pair.state == PairStateRecord::Fenced);
        if record.role != RoleRecord::Primary || !is_fenced {
            return None;
        }
        let (by, now_ns) = (Generation(record.generation).next(), self.now_ns());
        tracing::error!(group = %record.name, %by, "fenced: another appliance had taken over when the service ended");
        if let Err(error) = keeper.update(|record| record.fence(by.0, now_ns)) {
            tracing::error!(group = %record.name, %error, "the fence could not be recorded: it holds, and that is tried again by itself");
        }
        Some(by)
    }

    fn group_volumes(&self, keeper: &GroupKeeper) -> Result<Arc<Volumes>, String> {
        let volumes = Volumes::default();
        for member in keeper.get().volumes {
            let volume = self.volume(&member.name).map_err(|error| error.message)?;
            volumes.insert(Self::member_file(&member, &volume));
        }
        Ok(Arc::new(volumes))
    }

    fn member_file(member: &GroupVolume, volume: &super::appliance::Volume) -> VolumeFile {
        VolumeFile::new(
            VolumeIndex(member.index),
            member.name.clone(),
            Arc::clone(&volume.file.file),
            volume.file.size(),
        )
    }

    /// With the journal of a copy that was just taken over, if so.
    pub(crate) fn start_primary(
        &self,
        keeper: &Arc<GroupKeeper>,
        taken: Option<Taken>,
    ) -> Result<Arc<Primary>, String> {
        let this = self.this.upgrade().ok_or("the service is stopping")?;
        if let Some(kept) = self.kept_by_give_up(keeper) {
            let record = keeper.get();
            let (name, to) = (&record.name, record.pairs.first().map_or("PEER", |pair| pair.peer.as_str()));
            return Err(format!(
                "group '{name}' was being given up, and that did not end: what it had is kept in {}, and its volumes stay as they are. `tidemark pair \
                 delete {name} --to {to}` ends it",
                kept.display()
            ));
        }
        self.put_back_journal(keeper)?;
        let groups = &self.config.groups;
        let options = PrimaryOptions {
            journal_folder: self.journal_folder(keeper.id()),
            journal: self.journal_options(),
            ring_path: self.configured_ring_path(keeper.id()),
            boot: boot(),
            ring_bytes: groups.write_buffer_bytes,
            drain: DrainSettings { delay: DRAIN_DELAY, freeze_limit: groups.freeze_limit },
            heartbeat: self.config.replication.heartbeat_interval,
            index_ranges_max: INDEX_RANGES_MAX,
        };
        let parts = PrimaryParts {
            taken,
            disk: Arc::clone(&self.disk),
            clock: Arc::clone(&self.clock),
            links: this as Arc<dyn Links>,
            keeper: Arc::clone(keeper),
            volumes: self.group_volumes(keeper)?,
            runtime: self.runtime.clone(),
            appliance: self.identity.id().0,
            metrics: self.metrics.group(&keeper.name()),
            eras: Some(self.eras(keeper.id()).map_err(|error| error.message)?),
        };
        Primary::start(parts, options).map_err(|error| match error {
            recovery::StartError::Journal(error) => error.advised(),
            error => error.to_string(),
        })
    }

    pub(crate) fn start_secondary(&self, keeper: &Arc<GroupKeeper>) -> Result<Arc<Secondary>, Failure> {
        Secondary::start(self.secondary_parts(keeper)?).map_err(|error| {
            let journal = error.is_of_the_journal().then(|| error.is_damage());
            Failure { journal, ..error.to_string().into() }
        })
    }

    /// A copy that is stopped, or was none, runs as what its record says.
    pub(crate) fn run_as_copy(&self, group: &Group) {
        let started = tokio::task::block_in_place(|| self.start_secondary(&group.keeper));
        self.change_engine(group, started.map_or_else(Engine::Failed, Engine::Secondary));
    }

    /// A copy whose journal cannot be read gives up its image and starts: its primary copies what is missing (decision 12).
    pub(crate) fn start_without_image(&self, keeper: &Arc<GroupKeeper>) -> Result<Arc<Secondary>, Failure> {
        // Whatever keeps it from that may pass, as a full disk does: the primary orders it again.
        let again = |error: StartError| Failure { journal: Some(true), ..error.to_string().into() };
        give_up_image(&self.secondary_parts(keeper)?).map_err(again)?;
        self.start_secondary(keeper)
    }

    fn secondary_parts(&self, keeper: &Arc<GroupKeeper>) -> Result<SecondaryParts, String> {
        let this = self.this.upgrade().ok_or("the service is stopping")?;
        let record = keeper.get();
        let peer = record.primary.and_then(|id| self.peer_by_id(&id)).unwrap_or_else(|| "primary".into());
        let metrics = self.metrics.group(&record.name);
        Ok(SecondaryParts {
            disk: Arc::clone(&self.disk),
            clock: Arc::clone(&self.clock),
            keeper: Arc::clone(keeper),
            volumes: self.group_volumes(keeper)?,
            provider: this as Arc<dyn CopyVolumes>,
            journal_folder: self.journal_folder(keeper.id()),
            journal: self.journal_options(),
            index_ranges_max: INDEX_RANGES_MAX,
            appliance: self.config.name.clone(),
            pair_metrics: metrics.pair(&peer),
            metrics,
            eras: self.eras(keeper.id()).map_err(|error| error.message)?,
        })
    }

    /// `group create`.
    pub(crate) async fn create_group(&self, request: GroupCreate) -> Result<GroupStatus, ErrorBody> {
        let _alone = self.changing.lock().await;
        check_name(&request.name).map_err(|error| invalid(error.to_string()))?;
        if self.groups.read().contains_key(&request.name) {
            return Err(refused(format!("there is a group '{}' already", request.name)));
        }
        if request.volumes.is_empty() {
            return Err(invalid("a group needs at least one volume"));
        }
        if !INTERVAL_MS.contains(&request.interval_ms) {
            return Err(invalid("the interval between cuts must be between 10ms and 1d"));
        }
        let mut members: Vec<GroupVolume> = Vec::new();
        for (index, name) in (1..).zip(&request.volumes) {
            self.check_free(name)?;
            if members.iter().any(|member| member.name == *name) {
                return Err(invalid(format!("volume '{name}' is named twice")));
            }
            members.push(GroupVolume { index, name: name.clone() });
        }
        let record = GroupRecord {
            interval_ms: request.interval_ms,
            on_full: on_full_record(request.on_full),
            next_volume_index: members.last().map_or(1, |last| last.index + 1),
            volumes: members,
            history: request.history,
            ..GroupRecord::new(&request.name, random_id()?)
        };
        self.start_new_group(record).await?;
        self.group_status(&request.name)
    }

    /// `group set`.
    pub(crate) async fn set_group(&self, name: &str, request: &GroupSet) -> Result<GroupStatus, ErrorBody> {
        let _alone = self.changing.lock().await;
        if let Engine::Secondary(_) = &*self.group(name)?.engine.read() {
            return Err(refused(format!(
                "group '{name}' is a copy here: its primary says what is kept and done, set it there"
            )));
        }
        self.primary(name)?.set(request.history, request.on_full).map_err(failed)?;
        self.group_status(name)
    }

    /// Hosts are held at the doors while the group starts; what they wrote before is in the files and synced.
    async fn start_new_group(&self, record: GroupRecord) -> Result<(), ErrorBody> {
        let keeper = Arc::new(GroupKeeper::new(self.catalog.clone(), record.clone()));
        let members = record.volumes.iter();
        let doors: Vec<_> = members.map(|member| self.volume(&member.name)).collect::<Result<_, _>>()?;
        let mut held = Vec::new();
        for volume in &doors {
            held.push(volume.hold_hosts().await?);
        }
        let mut used = Vec::new();
        let started = tokio::task::block_in_place(|| -> Result<Arc<Primary>, ErrorBody> {
            for volume in &doors {
                volume.file.sync().map_err(|error| failed(format!("sync volume '{}': {error}", volume.file.name)))?;
            }
            for volume in &doors {
                used.push(self.put_to_use(&volume.file.name)?);
            }
            self.record_and_start(&keeper)
        })?;
        self.add_group(keeper, Engine::Primary(started));
        used.into_iter().for_each(Use::done);
        drop(held);
        Ok(())
    }

    /// In this order: a kill in the middle leaves a group that the next start makes, and no journal and write buffer that nobody knows of. One
    /// that cannot be recorded, or does not start, is none: nothing of it stays.
    fn record_and_start(&self, keeper: &Arc<GroupKeeper>) -> Result<Arc<Primary>, ErrorBody> {
        let (record, id) = (keeper.get(), keeper.id());
        self.catalog.put_group(&record).map_err(failed)?;
        self.start_primary(keeper, None).map_err(|why| {
            let ring = self.ring_path(id);
            let forget = || self.catalog.delete_group(&record.name, id);
            // What was made of it may have taken the last room.
            let forgotten = forget().or_else(|_| {
                self.remove_group_files(id, &ring);
                forget()
            });
            if let Err(error) = forgotten {
                // No other group gets its volumes: the next start finds both.
                self.add_group(Arc::clone(keeper), Engine::Failed(why.clone().into()));
                return failed(format!(
                    "{why}. That it is none could not be recorded: {error}. The next start of the service makes it"
                ));
            }
            self.remove_group_files(id, &ring);
            failed(why)
        })
    }

    /// A volume that may join a group.
    fn check_free(&self, name: &str) -> Result<(), ErrorBody> {
        self.volume(name)?;
        self.refuse_in_local_pair(name, "taken into a group")?;
        self.refuse_imaged(name)?;
        self.group_of(name)
            .map_or(Ok(()), |group| Err(refused(format!("volume '{name}' is in group '{group}' already"))))
    }

    /// `group add`.
    pub(crate) async fn add_to_group(&self, group: &str, name: &str, force: bool) -> Result<GroupStatus, ErrorBody> {
        let _alone = self.changing.lock().await;
        let primary = self.primary(group)?;
        self.check_free(name)?;
        let volume = self.volume(name)?;
        if !force {
            refuse_without_room(group, name, volume.file.size(), &primary)?;
        }
        let held = volume.hold_hosts().await?;
        volume.file.sync().map_err(|error| failed(format!("sync volume '{name}': {error}")))?;
        let used = self.put_to_use(name)?;
        let mut record = primary.keeper().get();
        // A side that took over before it was noted knows only of those that are there.
        let members: Vec<u32> = record.volumes.iter().map(|member| member.index).collect();
        record.note_indexes(members);
        let member = GroupVolume { index: record.next_volume_index, name: name.into() };
        let added = primary.add_volume(Self::member_file(&member, &volume)).await;
        // Also after an error: where that it has come could not be taken back, it is a member.
        self.settle_door_now(name);
        if added.is_ok() {
            used.done();
        } else {
            // Before hosts come in again.
            drop(used);
        }
        drop(held);
        added.map_err(failed)?;
        self.group_status(group)
    }

    /// What images need is saved only while a volume is written through its group.
    pub(crate) fn refuse_with_images(&self, group: GroupId, volume: Option<&str>, what: &str) -> Result<(), ErrorBody> {
        if let Some(backup) = self.backups.using(group) {
            let which = volume.map_or_else(|| "the group".into(), |name| format!("volume '{name}'"));
            return Err(refused(format!(
                "{which} cannot be {what} while backup '{backup}' reads the group: wait for it, or `tidemark backup cancel {backup}`"
            )));
        }
        if let Some(held) = self.local_pairs.of_group(group, volume).first() {
            let target = &held.pair.target().name;
            let which = volume.map_or_else(|| "the group".into(), |name| format!("volume '{name}'"));
            return Err(refused(format!(
                "{which} cannot be {what} while '{target}' is paired with it: `tidemark local-pair delete {target}` first"
            )));
        }
        let images = self.images_of(group, volume);
        if images.is_empty() {
            return Ok(());
        }
        let (which, names) =
            (volume.map_or_else(|| "the group".into(), |name| format!("volume '{name}'")), images.join("', '"));
        Err(refused(format!(
            "{which} cannot be {what} while there are images of it: delete '{names}' first (`tidemark t0 delete`, `tidemark clone delete`)"
        )))
    }

    /// `group remove`.
    pub(crate) async fn remove_from_group(&self, group: &str, name: &str) -> Result<GroupStatus, ErrorBody> {
        let _alone = self.changing.lock().await;
        let primary = self.primary(group)?;
        if self.group_of(name).as_deref() != Some(group) {
            return Err(refused(format!("volume '{name}' is not in group '{group}'")));
        }
        if primary.keeper().get().volumes.len() == 1 {
            return Err(refused(format!(
                "'{name}' is the last volume of group '{group}': `tidemark group delete {group}` deletes the group and keeps it"
            )));
        }
        self.refuse_with_images(primary.keeper().id(), Some(name), "taken out of its group")?;
        let volume = self.volume(name)?;
        let held = volume.hold_hosts().await?;
        // Hosts may have been waited for, and the group may be fenced by now.
        self.primary(group)?;
        // Before it leaves: one that this group was a copy of when it was made would be taken for a copy again when the group is one, and is
        // somebody else's by then.
        self.set_free(name)?;
        primary.remove_volume(name).await.map_err(failed)?;
        self.settle_door_now(name);
        drop(held);
        self.group_status(group)
    }

    /// `pair create`.
    pub(crate) async fn create_pair(&self, group: &str, peer: &str) -> Result<PairStatus, ErrorBody> {
        let _alone = self.changing.lock().await;
        let primary = self.primary(group)?;
        self.reach(peer).map_err(refused)?;
        if primary.pair(peer).is_some() {
            return Err(refused(format!("group '{group}' is paired with '{peer}' already")));
        }
        let volumes: Vec<(VolumeIndex, u64)> = primary.volume_sizes();
        let bitmap = everything(&volumes);
        let record =
            PairRecord { copy: Some(CopyRecord::first(bitmap.bytes())), ..PairRecord::new(peer, self.now_ns()) };
        self.catalog.put_bitmap(primary.keeper().id(), peer, &encode_new(&bitmap)).map_err(failed)?;
        primary.keeper().update(|group| group.pairs.push(record.clone())).map_err(failed)?;
        Ok(primary.add_pair(&record).status())
    }

    /// What a person should know before so many bytes are written at once to volumes: which copies may not follow, what that comes to, and
    /// what there is to do.
    pub(crate) fn copies_left_behind<'a>(&self, written: impl Iterator<Item = (&'a str, u64)>) -> Vec<String> {
        let mut groups = BTreeMap::<String, u64>::new();
        for (volume, bytes) in written {
            let Some(group) = self.group_of(volume) else { continue };
            let sum = groups.entry(group).or_default();
            *sum = sum.saturating_add(bytes);
        }
        let primaries = groups.iter().filter_map(|(group, bytes)| Some((group, *bytes, self.primary(group).ok()?)));
        primaries.flat_map(|(group, bytes, primary)| left_behind(group, bytes, &primary)).collect()
    }
}

fn left_behind(group: &str, bytes: u64, primary: &Primary) -> Vec<String> {
    let outrun = primary.pairs().into_iter().filter_map(|pair| Some((pair.outrun_by(bytes)?, pair)));
    let told = outrun.map(|((kept, room), pair)| {
        let peer = pair.peer();
        format!(
            "up to {} MiB are written to group '{group}', and its copy on '{peer}' may not follow as fast. The journal here keeps {} MiB for \
             it; beyond that what differs is copied, and the copy's journal there has {} MiB for that, beside the image that is kept. When \
             it comes to that, the pair stands with that image until a person acts: raise journal_bytes to at least {} MiB in the \
             configuration there and restart it, best now; or give that image up then with `tidemark pair resume {group} --to {peer} --in-place`",
            bytes >> 20,
            kept >> 20,
            room >> 20,
            // Three quarters of it are for what differs.
            bytes.div_ceil(3).saturating_mul(4).div_ceil(1 << 20)
        )
    });
    told.collect()
}

/// A pair whose copy finds no room to be staged in stands for all volumes of its group.
fn refuse_without_room(group: &str, name: &str, size: u64, primary: &Primary) -> Result<(), ErrorBody> {
    let found = primary.pairs().into_iter().find_map(|pair| Some((pair.finds_no_room(size)?, pair)));
    let Some((room, pair)) = found else { return Ok(()) };
    let peer = pair.peer();
    Err(refused(format!(
        "volume '{name}' has {} MiB to copy, and the copy's journal on '{peer}' has {} MiB for what differs, beside the image that is kept until \
         all has come: the pair would stand, with all volumes of the group. Raise journal_bytes in the configuration there and restart it \
         before; or add the volume with --force, and give that image up with `tidemark pair resume {group} --to {peer} --in-place`",
        size >> 20,
        room >> 20
    )))
}

/// This boot of the machine.
fn boot() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

/// A random id from the kernel.
pub(crate) fn random_id() -> Result<[u8; 16], ErrorBody> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| failed("the system gives no random numbers"))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tidemark_common::catalog::VolumeRecord;

    use super::*;
    use crate::service::tests::{Faults, add_primary, add_volume, appliance, group_of};

    /// A kill left a journal, and a write buffer in memory, that nobody knew of.
    #[test]
    fn a_group_is_recorded_before_anything_of_it_is_made() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let inside = runtime.enter();
        let appliance = appliance(directory.path(), &faults);
        runtime.block_on(add_volume(&appliance, "v"));
        let (hang, before) = (faults.hang.lock(), faults.writes.load(Ordering::Acquire));
        let makes = Arc::clone(&appliance);
        let made = runtime.spawn(async move { makes.create_group(group_of("g", &["v"])).await });
        while faults.writes.load(Ordering::Acquire) == before {
            std::thread::yield_now();
        }
        let (groups, rings) = (directory.path().join("groups"), appliance.ring_folder());
        let is_made = groups.exists() || rings.exists();
        drop(hang);
        runtime.block_on(made).unwrap().unwrap();
        assert!(!is_made && groups.exists() && rings.exists());
        runtime.block_on(appliance.stop_groups());
        drop(inside);
    }

    /// Its ring's folder has no place to be.
    #[tokio::test(flavor = "multi_thread")]
    async fn of_a_group_that_does_not_start_nothing_stays() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_volume(&appliance, "v").await;
        std::fs::write(appliance.ring_folder(), "in the way").unwrap();
        appliance.create_group(group_of("g", &["v"])).await.unwrap_err();
        assert!(appliance.groups.read().is_empty() && appliance.catalog.groups().unwrap().is_empty());
        let groups = std::fs::read_dir(directory.path().join("groups")).into_iter().flatten().flatten();
        assert!(groups.map(|group| group.path().join("journal")).all(|journal| !journal.exists()));
    }

    /// Of a side that took over: when it is the copy again, who has the volume by then is not made to lose it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_is_nobodys_copy_before_it_leaves_its_group() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_primary(&appliance, "g", "v").await;
        let volume = add_volume(&appliance, "w").await;
        appliance.add_to_group("g", "w", false).await.unwrap();
        let record = appliance.catalog.volume("w").unwrap().unwrap();
        appliance.catalog.put_volume(&VolumeRecord { group: Some("g".into()), ..record }).unwrap();
        *volume.made_for.write() = Some("g".into());
        // Nothing more comes into its journal.
        let primary = appliance.primary("g").unwrap();
        tokio::task::block_in_place(|| primary.stop());
        appliance.remove_from_group("g", "w").await.unwrap_err();
        assert_eq!(appliance.group_of("w").as_deref(), Some("g"));
        assert_eq!(appliance.catalog.volume("w").unwrap().unwrap().group, None);
        assert_eq!(*volume.made_for.read(), None);
    }
}

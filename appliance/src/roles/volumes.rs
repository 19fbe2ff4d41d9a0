//! Volumes: making, growing, deleting them, and opening those of the catalogue at start.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::RwLock;
use tidemark_common::api::types::{ErrorBody, VolumeCreate, VolumeStatus};
use tidemark_common::catalog::{CatalogError, VolumeRecord};
use tidemark_common::ids::{VolumeIndex, check_name};
use tidemark_common::limits::{SECTOR_BYTES, VOLUME_BYTES_MAX, VOLUMES_MAX};
use tidemark_common::nbd::Export;
use tidemark_common::plural::counted;
use tidemark_common::storage::{Claim, DiskFile, Open};
use tidemark_common::volumes::VolumeFile;
use tidemark_common::workers;
use tidemark_primary::direct::DirectVolume;
use tokio::sync::RwLockWriteGuard;

use super::appliance::{Appliance, Engine, Group, Unopened, Volume, failed, invalid, refused};
use super::door::{Closed, Door};

/// Hosts that are inside a volume's door come out within this time, or nothing is changed: all that operators change, failovers too, waits
/// meanwhile.
pub(super) const DOOR_TIMEOUT: Duration = Duration::from_secs(10);

impl Volume {
    /// Keeps hosts out for as long as the guard lives, once those inside have come out.
    pub(crate) async fn hold_hosts(&self) -> Result<RwLockWriteGuard<'_, ()>, ErrorBody> {
        let held = self.door.hold_within(DOOR_TIMEOUT).await;
        held.ok_or_else(|| refused(format!("requests to volume '{}' do not end: nothing was changed", self.file.name)))
    }
}

impl Appliance {
    /// Where the files of volumes are that this appliance makes.
    pub(super) fn volume_folder(&self) -> PathBuf {
        self.directory.join("volumes")
    }

    /// The file of one of them.
    pub(super) fn own_backing(&self, name: &str) -> PathBuf {
        self.volume_folder().join(format!("{name}.img"))
    }

    /// Opens the volumes of the catalogue. One that cannot be opened is left out and said so: its group does not start.
    pub(crate) fn open_volumes(&self) -> Result<(), CatalogError> {
        let records = self.catalog.volumes()?;
        self.end_deletions(&records);
        for record in records {
            match self.found(&record).and_then(|record| self.open_volume(&record)) {
                Ok(volume) => {
                    self.volumes.write().insert(record.name.clone(), volume);
                }
                Err(error) => {
                    tracing::error!(volume = %record.name, error = %error.message, "the volume cannot be opened");
                    let why = error.message;
                    self.unopened.write().insert(record.name.clone(), Unopened { record, why });
                }
            }
        }
        Ok(())
    }

    /// A volume's record with the place where its file is now. A file that this appliance made lies in its directory, and the
    /// directory may have been moved, or be a copy of another one, since the place was recorded.
    fn found(&self, record: &VolumeRecord) -> Result<VolumeRecord, ErrorBody> {
        let recorded = Path::new(&record.backing);
        let here = recorded.file_name().map(|name| self.volume_folder().join(name));
        let Some(here) = here.filter(|here| record.owned && here != recorded && here.exists()) else {
            return Ok(record.clone());
        };
        if is_same_file(recorded, &here) {
            return Ok(record.clone());
        }
        if recorded.exists() {
            return Err(failed(format!(
                "its file is known as {}, and there is another one of this name in {}: this directory is a copy of another \
                 appliance's. They have one identity, and would destroy each other's data: serve one of them only. To go on with \
                 this one, move the other directory away; to have two appliances, make this one anew with `tidemark init`",
                recorded.display(),
                self.volume_folder().display()
            )));
        }
        tracing::warn!(volume = %record.name, was = %recorded.display(), is = %here.display(), "the appliance's directory was moved: the volume's file is found in it");
        let found = VolumeRecord { backing: here.to_string_lossy().into_owned(), ..record.clone() };
        self.catalog.put_volume(&found).map_err(failed)?;
        Ok(found)
    }

    fn open_volume(&self, record: &VolumeRecord) -> Result<Arc<Volume>, ErrorBody> {
        let path = Path::new(&record.backing);
        let at = |error: std::io::Error| failed(format!("its backing {} cannot be opened: {error}", record.backing));
        let claim = self.disk.claim(path).map_err(at)?;
        let file = self.disk.open(path, Open::Existing).map_err(at)?;
        Self::over(record, file, Arc::new(claim))
    }

    /// A volume over a backing that is open.
    pub(crate) fn over(
        record: &VolumeRecord,
        file: Arc<dyn DiskFile>,
        claim: Arc<Claim>,
    ) -> Result<Arc<Volume>, ErrorBody> {
        let size = file.size().map_err(|error| failed(format!("measure {}: {error}", record.backing)))?;
        if size < record.size {
            return Err(failed(format!(
                "{} has {size} bytes and volume '{}' has {}: the backing shrank. Restore it before the volume is used",
                record.backing, record.name, record.size
            )));
        }
        Ok(Self::standalone(record, file, claim))
    }

    /// A volume as its record says. A copy volume is closed to hosts from its first moment.
    fn standalone(record: &VolumeRecord, file: Arc<dyn DiskFile>, claim: Arc<Claim>) -> Arc<Volume> {
        let file = Arc::new(VolumeFile::new(VolumeIndex(0), record.name.clone(), file, record.size));
        let behind: Arc<dyn Export> = match &record.group {
            Some(group) => Arc::new(Closed { size: record.size, reason: format!("a copy of group '{group}'") }),
            None => Arc::new(DirectVolume::new(Arc::clone(&file))),
        };
        Arc::new(Volume {
            file,
            door: Door::new(behind),
            claim,
            backing: record.backing.clone(),
            owned: record.owned,
            made_for: RwLock::new(record.group.clone()),
        })
    }

    /// `volume create`.
    pub(crate) async fn create_volume(&self, request: VolumeCreate) -> Result<VolumeStatus, ErrorBody> {
        let _alone = self.changing.lock().await;
        check_name(&request.name).map_err(|error| invalid(error.to_string()))?;
        check_size(request.size)?;
        let (backing, owned) = match &request.backing {
            Some(path) => (PathBuf::from(path), false),
            None => (self.own_backing(&request.name), true),
        };
        if !backing.is_absolute() {
            return Err(invalid(format!("the backing '{}' must be an absolute path", backing.display())));
        }
        let record = VolumeRecord {
            name: request.name.clone(),
            size: request.size,
            backing: backing.to_string_lossy().into_owned(),
            owned,
            group: None,
        };
        workers::wait(|| self.make_volume(&record))?;
        self.volume_status(&request.name)
    }

    /// Makes the file where there is none, records the volume, opens it.
    pub(crate) fn make_volume(&self, record: &VolumeRecord) -> Result<Arc<Volume>, ErrorBody> {
        if self.volumes.read().contains_key(&record.name)
            || self.catalog.volume(&record.name).map_err(failed)?.is_some()
        {
            return Err(refused(format!("there is a volume '{}' already", record.name)));
        }
        if self.volumes.read().len() >= VOLUMES_MAX {
            return Err(refused(format!("an appliance holds at most {VOLUMES_MAX} volumes")));
        }
        let path = PathBuf::from(&record.backing);
        self.check_unused(&path)?;
        let (file, claim) = self.backing(&path, record)?;
        let volume = Self::standalone(record, file, Arc::new(claim));
        self.catalog.put_volume(record).map_err(failed)?;
        self.volumes.write().insert(record.name.clone(), Arc::clone(&volume));
        Ok(volume)
    }

    /// One file behind two volumes would be two truths.
    fn check_unused(&self, path: &Path) -> Result<(), ErrorBody> {
        let volumes = self.catalog.volumes().map_err(failed)?;
        let user = volumes.into_iter().find(|volume| is_same_file(path, Path::new(&volume.backing)));
        user.map_or(Ok(()), |volume| {
            Err(refused(format!("{} is behind volume '{}' already", path.display(), volume.name)))
        })
    }

    fn backing(&self, path: &Path, record: &VolumeRecord) -> Result<(Arc<dyn DiskFile>, Claim), ErrorBody> {
        let at = |action: &str, error: std::io::Error| failed(format!("{action} {}: {error}", path.display()));
        if !record.owned {
            check_device(path)?;
        }
        if record.owned && self.is_left_over(path)? {
            tracing::warn!(path = %path.display(), "an empty file that no volume names is made anew");
            self.disk.remove(path).map_err(|error| at("remove", error))?;
        }
        match fs::metadata(path) {
            Ok(found) if found.is_file() || found.file_type().is_block_device() => {
                if record.owned {
                    return Err(refused(format!(
                        "{} is in the way: move it away, or name it with --backing",
                        path.display()
                    )));
                }
                let claim = self.disk.claim(path).map_err(|error| at("open", error))?;
                let file = self.disk.open(path, Open::Existing).map_err(|error| at("open", error))?;
                let size = file.size().map_err(|error| at("measure", error))?;
                if size < record.size {
                    return Err(refused(format!(
                        "{} has {size} bytes: a volume of {} bytes does not fit. Ask for at most its size",
                        path.display(),
                        record.size
                    )));
                }
                Ok((file, claim))
            }
            Ok(_) => Err(refused(format!("{} is neither a file nor a block device", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if let Some(folder) = path.parent().filter(|_| record.owned) {
                    self.disk.create_folder(folder).map_err(|error| at("make the folder of", error))?;
                }
                let file = self.disk.open(path, Open::New).map_err(|error| at("create", error))?;
                let claim = self.disk.claim(path).map_err(|error| at("lock", error))?;
                let grown = file.grow(record.size).and_then(|()| file.sync());
                if let Err(error) = grown {
                    let _ = self.disk.remove(path);
                    return Err(at("size", error));
                }
                if let Some(folder) = path.parent() {
                    self.disk.sync_folder(folder).map_err(|error| at("sync the folder of", error))?;
                }
                Ok((file, claim))
            }
            Err(error) => Err(at("look at", error)),
        }
    }

    /// Whether a file is what a kill between the making of a volume's file and its record leaves: nothing was ever written to
    /// it, and nothing refers to it.
    fn is_left_over(&self, path: &Path) -> Result<bool, ErrorBody> {
        let at = |action: &str, error: std::io::Error| failed(format!("{action} {}: {error}", path.display()));
        if !fs::metadata(path).is_ok_and(|found| found.is_file()) {
            return Ok(false);
        }
        let named = self.catalog.volumes().map_err(failed)?.iter().any(|other| Path::new(&other.backing) == path);
        if named {
            return Ok(false);
        }
        // Somebody who has just made it, and has not written to it, holds it.
        let _claim = self.disk.claim(path).map_err(|error| at("open", error))?;
        let file = self.disk.open(path, Open::Existing).map_err(|error| at("open", error))?;
        Ok(file.next_data(0).map_err(|error| at("look for data in", error))?.is_none())
    }

    /// The group a volume is in.
    pub(crate) fn group_of(&self, volume: &str) -> Option<String> {
        let opened = self.volumes.read().get(volume).and_then(|volume| volume.made_for.read().clone());
        let made_for = opened.or_else(|| self.unopened.read().get(volume)?.record.group.clone());
        let groups = self.groups.read();
        let holds = |group: &Group| group.keeper.get().volumes.iter().any(|member| member.name == volume);
        let member = groups.iter().find(|(_, group)| holds(group)).map(|(name, _)| name.clone());
        let is_copy = |group: &String| groups.get(group).is_some_and(|group| group.is_secondary());
        member.or_else(|| made_for.filter(is_copy))
    }

    /// A volume that was made as a copy for a group belongs to it no more.
    pub(crate) fn set_free(&self, name: &str) -> Result<(), ErrorBody> {
        if let Some(record) = self.catalog.volume(name).map_err(failed)?.filter(|record| record.group.is_some()) {
            self.catalog.put_volume(&VolumeRecord { group: None, ..record }).map_err(failed)?;
        }
        if let Ok(volume) = self.volume(name) {
            *volume.made_for.write() = None;
        }
        Ok(())
    }

    /// The volumes made as copies for groups that fit.
    pub(crate) fn made_for(&self, fits: impl Fn(&str) -> bool) -> Vec<String> {
        let volumes = self.volumes.read();
        let made = volumes.iter().filter(|(_, volume)| volume.made_for.read().as_deref().is_some_and(&fits));
        made.map(|(name, _)| name.clone()).collect()
    }

    /// `volume delete`.
    pub(crate) async fn delete_volume(&self, name: &str) -> Result<(), ErrorBody> {
        let _alone = self.changing.lock().await;
        let is_unopened = self.unopened.read().contains_key(name);
        let volume = if is_unopened { None } else { Some(self.volume(name)?) };
        if let Some(group) = self.group_of(name) {
            if self.group(&group)?.is_secondary() {
                return Err(refused(format!(
                    "volume '{name}' is the copy of a volume of group '{group}': take it out of the group on the primary, or give \
                     the group up here with `tidemark pair delete {group} --to PEER`"
                )));
            }
            return Err(refused(format!(
                "volume '{name}' is in group '{group}': `tidemark group remove {group} --volume {name}` first, or \
                 `tidemark group delete {group}` when it is the last"
            )));
        }
        self.refuse_in_local_pair(name, "deleted")?;
        self.refuse_imaged(name)?;
        self.refuse_being_restored(name)?;
        let Some(volume) = volume else { return self.forget_unopened(name) };
        refuse_connected(name, &volume, None)?;
        let reason = format!("volume '{name}' was deleted");
        volume.door.lead_to(Arc::new(Closed { size: volume.file.size(), reason })).await;
        if let Err(error) = workers::wait(|| self.forget_unless_adopted(name, &volume)) {
            // One that is known still: hosts have it until that is tried again.
            self.settle_door_now(name);
            return Err(error);
        }
        Ok(())
    }

    /// A volume whose backing is gone for good. What is there all the same could not be opened as this volume's, and stays.
    fn forget_unopened(&self, name: &str) -> Result<(), ErrorBody> {
        self.catalog.delete_volume(name).map_err(failed)?;
        self.offers.forget(name);
        self.restore_is_forgotten(name);
        self.unopened.write().remove(name);
        Ok(())
    }

    /// `volume resize`.
    pub(crate) async fn resize_volume(&self, name: &str, size: u64) -> Result<VolumeStatus, ErrorBody> {
        let _alone = self.changing.lock().await;
        let volume = self.volume(name)?;
        check_size(size)?;
        self.refuse_in_local_pair(name, "resized")?;
        self.refuse_imaged(name)?;
        if size < volume.file.size() {
            return Err(refused(format!("volume '{name}' has {} bytes: volumes only grow", volume.file.size())));
        }
        let primary = self.group_of(name).map(|group| self.primary(&group)).transpose()?;
        let not_grown = |why: String| failed(format!("{why}. The volume lies in {}", volume.backing));
        let announced = match &primary {
            Some(primary) => Some((primary, primary.announce_size(name, size).await.map_err(not_grown)?)),
            None => {
                let grown = workers::wait(|| volume.file.make_room(size));
                grown.map_err(|error| not_grown(format!("grow volume '{name}': {error}")))?;
                None
            }
        };
        // The catalogue before the hosts: what is written behind the old end is found again after a kill.
        self.record_size(name, size).map_err(failed)?;
        if let Some((primary, held)) = announced {
            primary.grow_volume(name, size, held).map_err(failed)?;
        }
        let grown = workers::wait(|| volume.file.grow(size));
        grown.map_err(|error| failed(format!("grow volume '{name}': {error}")))?;
        self.volume_status(name)
    }

    /// As large as this a volume is opened from now on, durably.
    pub(super) fn record_size(&self, name: &str, size: u64) -> Result<(), CatalogError> {
        match self.catalog.volume(name)? {
            Some(record) => self.catalog.put_volume(&VolumeRecord { size, ..record }),
            None => Ok(()),
        }
    }

    pub(crate) fn volume_status(&self, name: &str) -> Result<VolumeStatus, ErrorBody> {
        let volume = self.volume(name)?;
        Ok(self.status_of_open(name, &volume, self.group_of(name)))
    }

    /// Puts what serves it now behind a volume's door, once those inside have come out; or closes it, which waits for nobody.
    pub(crate) async fn settle_door(&self, name: &str) {
        let Ok(volume) = self.volume(name) else { return };
        let _alone = if self.served(name).is_ok() { Some(volume.door.hold().await) } else { None };
        self.settle_door_now(name);
    }

    /// The same where those inside get what they get, as where they are held already, or the door was closed.
    pub(crate) fn settle_door_now(&self, name: &str) {
        let Ok(volume) = self.volume(name) else { return };
        volume.door.settle(|| {
            let closed = |reason| -> Arc<dyn Export> { Arc::new(Closed { size: volume.file.size(), reason }) };
            self.served(name).unwrap_or_else(closed)
        });
    }

    /// What serves a volume now, or why nothing does.
    pub(crate) fn served(&self, name: &str) -> Result<Arc<dyn Export>, String> {
        let volume = self.volume(name).map_err(|error| error.message)?;
        if let Some(served) = self.served_by_local_pair(name) {
            return served;
        }
        let Some(group) = self.group_of(name) else {
            if let Some(reason) = self.imaged(name) {
                return Err(reason);
            }
            return Ok(Arc::new(DirectVolume::new(Arc::clone(&volume.file))));
        };
        let entry = self.group(&group).map_err(|error| error.message)?;
        let engine = entry.engine.read().clone();
        let fenced = |by| match entry.unanswered(by) {
            Some(asked) => {
                format!("group '{group}' is fenced here: {asked}. Open volume '{name}' where it is primary then")
            }
            None => format!(
                "group '{group}' is fenced here: generation {by} runs on another appliance. Open volume '{name}' there"
            ),
        };
        match engine {
            Engine::Primary(primary) => {
                if let Some(by) = entry.met() {
                    return Err(fenced(by));
                }
                primary.export(name).ok_or_else(|| format!("volume '{name}' is being taken into group '{group}'"))
            }
            Engine::Secondary(secondary) => {
                let primary = self.primary_of(&secondary);
                Err(format!(
                    "volume '{name}' is the copy of group '{group}' here: open it on the primary, '{}'. It is served here only \
                     after `tidemark failover {group}`",
                    primary.unwrap_or_else(|| "unknown".into())
                ))
            }
            Engine::Fenced { by } => Err(fenced(by)),
            Engine::Changing { what, .. } => {
                Err(format!("group '{group}' of volume '{name}' is being changed: {what}"))
            }
            Engine::Failed(reason) => Err(format!("group '{group}' of volume '{name}' does not run: {reason}")),
        }
    }
}

/// Also through another name: a link of either kind.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino(), found.rdev())).ok();
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(one) == real(other) || inode(one).is_some_and(|one| inode(other) == Some(one))
}

/// What is made below /dev is memory, whatever its name was to say, and is gone with the machine's next start.
fn check_device(path: &Path) -> Result<(), ErrorBody> {
    let folder = || path.parent().and_then(|folder| fs::canonicalize(folder).ok());
    let real = fs::canonicalize(path).ok().or_else(folder).unwrap_or_else(|| path.to_owned());
    if !real.starts_with("/dev") || fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device()) {
        return Ok(());
    }
    Err(refused(format!(
        "{} is no block device, and a file below /dev lies in this machine's memory and is gone when it starts again: correct the path \
         (`lsblk` lists the devices), or name a file on a disk",
        path.display()
    )))
}

fn check_size(size: u64) -> Result<(), ErrorBody> {
    if size == 0 {
        return Err(invalid("a volume of 0 bytes makes no sense"));
    }
    if !size.is_multiple_of(SECTOR_BYTES) {
        return Err(invalid(format!("the size {size} is not a multiple of {SECTOR_BYTES} bytes")));
    }
    if size > VOLUME_BYTES_MAX {
        return Err(invalid(format!(
            "the size {size} is larger than a volume may be: {VOLUME_BYTES_MAX} bytes (64 TiB)"
        )));
    }
    Ok(())
}

/// Hosts that are connected would not expect what is done to a volume; `why` says more than that.
pub(crate) fn refuse_connected(name: &str, volume: &Volume, why: Option<&str>) -> Result<(), ErrorBody> {
    let connections = volume.door.connections.load(Ordering::Relaxed);
    if connections == 0 {
        return Ok(());
    }
    let why = why.map_or_else(String::new, |why| format!(", and {why}"));
    let connections = counted(connections, "NBD connection");
    Err(refused(format!("volume '{name}' has {connections}{why}: disconnect the hosts first")))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};

    use parking_lot::Mutex;
    use tidemark_common::catalog::{GroupRecord, GroupVolume};
    use tidemark_common::storage::disk::SystemDisk;
    use tidemark_common::storage::filter::{self, Filter};

    use super::*;
    use crate::service::tests::{Faults, add_volume, appliance, appliance_on, copy_record};

    const LIMIT: Duration = Duration::from_secs(20);

    /// A disk on which a file grows as soon as nobody holds the gate.
    struct Slow {
        gate: Mutex<()>,
        begun: SyncSender<()>,
    }

    impl Filter for Slow {
        fn before_grow(&self, _size: u64) -> std::io::Result<()> {
            let _ = self.begun.send(());
            drop(self.gate.lock());
            Ok(())
        }
    }

    /// Two of them at once, on a machine with two processors, and peers and operators were answered no more.
    #[test]
    fn a_volume_that_waits_for_its_disk_keeps_no_thread_of_its_runtime() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let inside = runtime.enter();
        let (begun, begins) = sync_channel(16);
        let slow = Arc::new(Slow { gate: Mutex::new(()), begun });
        let appliance = appliance_on(directory.path(), &faults, filter::disk(Arc::new(SystemDisk), &slow));
        let hang = slow.gate.lock();
        let request = VolumeCreate { name: "v".into(), size: 1 << 20, backing: None };
        let makes = Arc::clone(&appliance);
        let making = runtime.spawn(async move { makes.create_volume(request).await });
        let begins_to = begins.recv_timeout(LIMIT);
        let (tell, told) = sync_channel(1);
        runtime.spawn(async move { tell.send(()) });
        let answered = told.recv_timeout(LIMIT);
        drop(hang);
        assert_eq!((begins_to, answered), (Ok(()), Ok(())), "no thread is left");
        runtime.block_on(making).unwrap().unwrap();
        drop(inside);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_whose_backing_is_gone_for_good_is_deleted_unless_a_group_has_it() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        for (name, group) in [("v", None), ("member", None), ("copy", Some("h".to_owned()))] {
            let backing = format!("/nowhere/{name}");
            let record = VolumeRecord { name: name.into(), size: 1 << 20, backing, owned: false, group };
            appliance.catalog.put_volume(&record).unwrap();
        }
        let volumes = vec![GroupVolume { index: 1, name: "member".into() }];
        let primary = GroupRecord { volumes, ..GroupRecord::new("g", [7; 16]) };
        [primary, copy_record("h", [8; 16])].iter().for_each(|group| appliance.catalog.put_group(group).unwrap());
        appliance.open_volumes().unwrap();
        appliance.start_groups().await.unwrap();
        for (name, group) in [("member", "group 'g'"), ("copy", "group 'h'")] {
            let refused = appliance.delete_volume(name).await.unwrap_err();
            assert!(refused.message.contains(group), "{refused:?}");
        }
        appliance.delete_volume("v").await.unwrap();
        assert!(appliance.catalog.volume("v").unwrap().is_none());
        let known: Vec<String> = appliance.status_now().volumes.into_iter().map(|volume| volume.name).collect();
        assert_eq!(known, ["copy", "member"]);
        assert!(appliance.delete_volume("v").await.unwrap_err().message.contains("there is no volume 'v'"));
        // Of a group that is given up it is a volume in none, with what is wrong with it.
        appliance.delete_pair("h", "east", false).await.unwrap();
        let left = appliance.status_now().volumes.into_iter().find(|volume| volume.name == "copy").unwrap();
        assert!(left.group.is_none() && left.problem.is_some(), "{left:?}");
        appliance.delete_volume("copy").await.unwrap();
        appliance.stop_groups().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_that_cannot_be_forgotten_is_served_until_it_can() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let volume = add_volume(&appliance, "v").await;
        faults.full.store(true, Ordering::Release);
        appliance.delete_volume("v").await.unwrap_err();
        volume.door.write(0, &[1; 512], false).await.unwrap();
        faults.full.store(false, Ordering::Release);
        appliance.delete_volume("v").await.unwrap();
        assert!(volume.door.write(0, &[1; 512], false).await.is_err(), "it is gone");
    }
}

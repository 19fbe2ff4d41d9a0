//! The images of this appliance: T0 copies and clones by name, what hosts open of them, and the eras they stand on.
//!
//! A record in the catalogue says that an image is there; its era's file says that it is whole. The record comes last when an
//! image is made and goes first when it is deleted, so that a kill in between leaves a file that nobody names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::{Batch, ImageKindRecord, ImageRecord};
use tidemark_common::ids::{GroupId, VolumeIndex};
use tidemark_common::journal::Position;
use tidemark_common::nbd::{Export, OpenError};
use tidemark_common::t0::{
    CloneExport, CloneSpace, CloneVolume, EraUser, Eras, ErasParts, ErasWatch, Image, ImageExport, ImageVolume,
    SideSpace,
};

use tidemark_common::local_pair::pair::era_user;

use super::appliance::{Appliance, failed, not_found};
use super::door::{Closed, Door};

/// One image, as it is served.
pub(crate) struct Held {
    pub(crate) record: RwLock<ImageRecord>,
    /// What hosts open, by volume.
    pub(crate) doors: BTreeMap<String, Arc<Door>>,
    /// A clone's own content.
    pub(crate) clone: Option<Cloned>,
}

/// What was written over an image.
pub(crate) struct Cloned {
    pub(crate) volumes: Vec<Arc<CloneVolume>>,
    pub(crate) space: Arc<CloneSpace>,
}

/// All images.
pub(crate) struct Images {
    pub(crate) space: Arc<SideSpace>,
    eras: Mutex<HashMap<GroupId, Arc<Eras>>>,
    pub(crate) held: RwLock<BTreeMap<String, Arc<Held>>>,
    /// Images that ended because their content could not be kept, since the start.
    pub(crate) ended: AtomicU64,
}

impl Images {
    /// None yet; what they may take together.
    pub(crate) fn new(side_store_bytes: u64) -> Self {
        Self {
            space: Arc::new(SideSpace::new(side_store_bytes)),
            eras: Mutex::default(),
            held: RwLock::default(),
            ended: AtomicU64::new(0),
        }
    }
}

impl Held {
    pub(crate) fn connections(&self) -> u64 {
        self.doors.values().map(|door| door.connections.load(Ordering::Relaxed)).sum()
    }

    /// Whoever is connected gets errors from here on, and is not waited for.
    pub(crate) fn close(&self, reason: &str) {
        for door in self.doors.values() {
            let size = door.info().size;
            door.lead_to_now(Arc::new(Closed { size, reason: reason.to_owned() }));
        }
    }
}

/// What an image needs of an era.
fn user(record: &ImageRecord) -> EraUser {
    let begin = record.begin.map_or_else(Position::default, |(segment, offset)| Position { segment, offset });
    let volumes = record.volumes.iter().map(|volume| VolumeIndex(volume.index)).collect();
    EraUser { era: record.era, begin, volumes }
}

impl Appliance {
    fn images_folder(&self) -> PathBuf {
        self.directory.join("images")
    }

    pub(crate) fn clone_folder(&self, name: &str) -> PathBuf {
        self.images_folder().join("clones").join(name)
    }

    fn eras_parts(&self, group: GroupId) -> ErasParts {
        ErasParts {
            disk: Arc::clone(&self.disk),
            folder: self.images_folder().join(group.to_string()),
            group,
            space: Arc::clone(&self.images.space),
        }
    }

    /// The eras of a group; there are some as soon as it runs.
    pub(crate) fn eras(&self, group: GroupId) -> Result<Arc<Eras>, ErrorBody> {
        if let Some(eras) = self.images.eras.lock().get(&group) {
            return Ok(Arc::clone(eras));
        }
        self.open_eras(group, &[], &[])
    }

    fn open_eras(&self, group: GroupId, records: &[ImageRecord], pairs: &[EraUser]) -> Result<Arc<Eras>, ErrorBody> {
        let users: Vec<EraUser> = records.iter().map(user).chain(pairs.iter().cloned()).collect();
        let (eras, lost) = Eras::open(self.eras_parts(group), &users).map_err(failed)?;
        let watch = self.this.upgrade().map(|this| this as Arc<dyn ErasWatch>);
        if let Some(watch) = watch {
            eras.watched_by(Arc::downgrade(&watch));
        }
        for (era, reason) in lost {
            for record in records.iter().filter(|record| record.era == era) {
                let broken = ImageRecord { broken: Some(reason.clone()), ..record.clone() };
                self.catalog.put_image(&broken).map_err(failed)?;
            }
        }
        self.images.eras.lock().insert(group, Arc::clone(&eras));
        Ok(eras)
    }

    /// Opens the images of the catalogue. Volumes are open already, groups are not started yet.
    pub(crate) fn open_images(&self) -> Result<(), ErrorBody> {
        let mut by_group: BTreeMap<GroupId, (Vec<ImageRecord>, Vec<EraUser>)> = BTreeMap::new();
        for record in self.catalog.images().map_err(failed)? {
            if record.broken.is_none() {
                by_group.entry(GroupId(record.group_id)).or_default().0.push(record);
            }
        }
        for record in self.catalog.local_pairs().map_err(failed)? {
            by_group.entry(GroupId(record.group_id)).or_default().1.extend(era_user(&record));
        }
        for (group, (records, pairs)) in by_group {
            self.open_eras(group, &records, &pairs)?;
        }
        for record in self.catalog.images().map_err(failed)? {
            let name = record.name.clone();
            let held = self.open_image(record.clone()).unwrap_or_else(|error| {
                tracing::error!(image = %name, error = %error.message, "an image cannot be served");
                Held {
                    record: RwLock::new(ImageRecord { broken: Some(error.message), ..record }),
                    doors: BTreeMap::new(),
                    clone: None,
                }
            });
            self.images.held.write().insert(name, Arc::new(held));
        }
        self.discard_clone_leftovers();
        Ok(())
    }

    /// A kill between a clone's files and its record, or the other way round, leaves a folder that nobody names.
    fn discard_clone_leftovers(&self) {
        let Ok(entries) = std::fs::read_dir(self.images_folder().join("clones")) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !self.images.held.read().contains_key(&name)
                && let Err(error) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "the files of a clone that is gone could not be removed");
            }
        }
    }

    /// Puts what a record describes behind doors.
    pub(crate) fn open_image(&self, record: ImageRecord) -> Result<Held, ErrorBody> {
        if record.broken.is_some() {
            return Ok(Held { record: RwLock::new(record), doors: BTreeMap::new(), clone: None });
        }
        let eras = self.eras(GroupId(record.group_id))?;
        let mut volumes = Vec::new();
        for volume in &record.volumes {
            let file = Arc::clone(&self.volume(&volume.name)?.file.file);
            let (index, name, size) = (VolumeIndex(volume.index), volume.name.clone(), volume.size);
            volumes.push(ImageVolume { index, name, size, file });
        }
        let image = Image::new(eras, record.era, volumes);
        let about = format!("Tidemark image of group {} at marker {}", record.group, record.marker);
        let (doors, clone) = match record.kind {
            ImageKindRecord::T0 => {
                let export = |name: &str| ImageExport::new(&image, name, &about);
                let names = record.volumes.iter().map(|volume| volume.name.clone());
                (names.filter_map(|name| Some((name.clone(), Door::new(Arc::new(export(&name)?))))).collect(), None)
            }
            ImageKindRecord::Clone { space_bytes } | ImageKindRecord::Drill { space_bytes } => {
                let cloned = self.open_clone(&record.name, &image, space_bytes)?;
                let door = |volume: &Arc<CloneVolume>| {
                    let export: Arc<dyn Export> = Arc::new(CloneExport::new(Arc::clone(volume), &about));
                    (volume.name().to_owned(), Door::new(export))
                };
                (cloned.volumes.iter().map(door).collect(), Some(cloned))
            }
        };
        Ok(Held { record: RwLock::new(record), doors, clone })
    }

    fn open_clone(&self, name: &str, image: &Image, limit: u64) -> Result<Cloned, ErrorBody> {
        let space = Arc::new(CloneSpace::new(limit));
        let folder = self.clone_folder(name);
        let open = |volume| CloneVolume::open(&*self.disk, &folder, image, volume, &space).map(Arc::new);
        let volumes: Result<Vec<_>, _> = image.volumes().iter().map(open).collect();
        let volumes = volumes.map_err(|error| failed(format!("open the files of clone '{name}': {error}")))?;
        Ok(Cloned { volumes, space })
    }

    /// One of the images.
    pub(crate) fn image(&self, name: &str) -> Result<Arc<Held>, ErrorBody> {
        let held = self.images.held.read().get(name).cloned();
        held.ok_or_else(|| {
            not_found(format!("there is no image '{name}': `tidemark t0 list` and `tidemark clone list` list them"))
        })
    }

    /// The door of `IMAGE/VOLUME`.
    pub(crate) fn image_door(&self, image: &str, volume: &str) -> Result<Arc<Door>, OpenError> {
        let unknown = || OpenError::Unknown { name: format!("{image}/{volume}") };
        let held = self.image(image).map_err(|_| unknown())?;
        if let Some(reason) = held.record.read().broken.clone() {
            return Err(OpenError::Refused { reason: format!("image '{image}' is broken: {reason}") });
        }
        held.doors.get(volume).cloned().ok_or_else(unknown)
    }

    /// Names of exports of images that can be opened now.
    pub(crate) fn image_exports(&self) -> Vec<String> {
        let held = self.images.held.read();
        let usable = held.iter().filter(|(_, held)| held.record.read().broken.is_none());
        usable.flat_map(|(name, held)| held.doors.keys().map(move |volume| format!("{name}/{volume}"))).collect()
    }

    /// Images that need a group or a volume of it, by name.
    pub(crate) fn images_of(&self, group: GroupId, volume: Option<&str>) -> Vec<String> {
        let held = self.images.held.read();
        let fits = |record: &ImageRecord| {
            let of = volume.is_none_or(|volume| record.volumes.iter().any(|member| member.name == volume));
            record.group_id == group.0 && record.broken.is_none() && of
        };
        held.iter().filter(|(_, held)| fits(&held.record.read())).map(|(name, _)| name.clone()).collect()
    }

    /// An image can no longer be read: hosts get errors, the record says why.
    fn break_image(&self, held: &Held, reason: &str) {
        let record = {
            let mut record = held.record.write();
            record.broken = Some(reason.to_owned());
            record.clone()
        };
        held.close(reason);
        self.images.ended.fetch_add(1, Ordering::Relaxed);
        tracing::error!(image = %record.name, group = %record.group, marker = record.marker, %reason, "an image is broken");
        if let Err(error) = self.catalog.put_image(&record) {
            // Its file is gone: a restart finds that out by itself.
            tracing::error!(image = %record.name, %error, "that could not be recorded");
        }
    }

    /// What was written to clones is on the disk before the service ends.
    pub(crate) fn flush_clones(&self) {
        let held: Vec<_> = self.images.held.read().values().cloned().collect();
        for volume in held.iter().filter_map(|held| held.clone.as_ref()).flat_map(|clone| &clone.volumes) {
            if let Err(error) = volume.flush() {
                tracing::error!(volume = volume.name(), %error, "what was written to a clone since its last flush may be lost");
            }
        }
    }

    /// Volumes of an image as a set.
    pub(crate) fn indexes(record: &ImageRecord) -> BTreeSet<VolumeIndex> {
        record.volumes.iter().map(|volume| VolumeIndex(volume.index)).collect()
    }
}

impl ErasWatch for Appliance {
    fn on_era_ended(&self, group: GroupId, era: u64, reason: &str) {
        self.backups.on_era_ended(group, era, reason);
        self.local_pairs_lost_era(group, era, reason);
        let held: Vec<_> = self.images.held.read().values().cloned().collect();
        for held in held {
            let hit = {
                let record = held.record.read();
                record.group_id == group.0 && record.era == era && record.broken.is_none()
            };
            if hit {
                self.break_image(&held, reason);
            }
        }
    }

    fn on_all_reached(&self, group: GroupId) -> Result<(), String> {
        self.local_pairs_all_reached(group)?;
        let held: Vec<_> = self.images.held.read().values().cloned().collect();
        let mut batch = Batch::new();
        for held in held.iter().filter(|held| held.record.read().group_id == group.0) {
            let mut record = held.record.write();
            record.begin = None;
            batch.put_image(&record).map_err(|error| error.to_string())?;
        }
        self.catalog.commit(batch).map_err(|error| error.to_string())
    }
}

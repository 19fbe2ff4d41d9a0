//! The images of this appliance: T0 copies and clones by name, what hosts open of them, and the eras they stand on.
//!
//! A record in the catalogue says that an image is there; its era's file says that it is whole. The record comes last when an
//! image is made and goes first when it is deleted, so that a kill in between leaves a file that nobody names.
//!
//! An image of several groups uses an era of each. It is whole or it is none: when one of them ends, it is broken, and leaves the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::{ImageKindRecord, ImageRecord, ImageRecords};
use tidemark_common::config::ImageConfig;
use tidemark_common::ids::{GroupId, VolumeIndex};
use tidemark_common::journal::Position;
use tidemark_common::limits::IMAGE_INDEX_RANGES_MAX;
use tidemark_common::nbd::{Export, OpenError};
use tidemark_common::t0::{
    CloneExport, CloneSpace, CloneVolume, EraUser, Eras, ErasParts, ErasWatch, Image, ImageExport, ImageVolume,
    SideSpace,
};

use tidemark_common::local_pair::pair::era_user;
use tidemark_common::updater::AppliedPosition;

use super::appliance::{Appliance, failed, not_found};
use super::door::{Closed, Door};
use super::image_ends::Lost;

/// One image, as it is served.
pub(crate) struct Held {
    /// What is known of it. Never locked while something is recorded: hosts that open it, and the updaters of its groups, do not wait for the
    /// catalogue's disk.
    pub(crate) record: RwLock<ImageRecords>,
    /// Held while something is recorded of it; whether it was deleted, so that nothing is any more. Taken before `record`.
    pub(crate) recording: Mutex<bool>,
    /// What hosts open, by volume.
    pub(crate) doors: BTreeMap<String, Arc<Door>>,
    /// A clone's own content.
    pub(crate) clone: Option<Cloned>,
    /// Its eras are left, or somebody is about to: nothing but that it is broken is recorded of it any more. Set while `record` or `recording`
    /// is locked.
    left: AtomicBool,
}

/// What was written over an image.
pub(crate) struct Cloned {
    pub(crate) volumes: Vec<Arc<CloneVolume>>,
    pub(crate) space: Arc<CloneSpace>,
}

/// All images.
pub(crate) struct Images {
    pub(crate) space: Arc<SideSpace>,
    /// What hosts have written over all clones.
    pub(crate) clone_space: Arc<CloneSpace>,
    eras: Mutex<HashMap<GroupId, Arc<Eras>>>,
    pub(crate) held: RwLock<BTreeMap<String, Arc<Held>>>,
    /// Images that ended because their content could not be kept, since the start.
    pub(crate) ended: AtomicU64,
}

impl Images {
    /// None yet; what they may take together.
    pub(crate) fn new(limits: &ImageConfig) -> Self {
        Self {
            space: Arc::new(SideSpace::new(limits.side_store_bytes).with_memory(limits.memory_bytes)),
            clone_space: Arc::new(CloneSpace::new(limits.all_clones_bytes)),
            eras: Mutex::default(),
            held: RwLock::default(),
            ended: AtomicU64::new(0),
        }
    }
}

impl Held {
    fn new(record: ImageRecords, doors: BTreeMap<String, Arc<Door>>, clone: Option<Cloned>) -> Self {
        let left = AtomicBool::new(record.is_broken());
        Self { record: RwLock::new(record), recording: Mutex::new(false), doors, clone, left }
    }

    /// Whether whoever asks is to leave its eras: they are left once, because others may use them.
    pub(crate) fn leaves(&self) -> bool {
        !self.left.swap(true, Ordering::AcqRel)
    }

    pub(super) fn is_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Why it can no longer be read, or what was written to it is not on the disk.
    pub(crate) fn broken(&self) -> Option<String> {
        let recorded = self.record.read().first.broken.clone();
        recorded.or_else(|| self.clone.as_ref()?.volumes.iter().find_map(|volume| volume.broken()))
    }

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
    pub(super) fn images_folder(&self) -> PathBuf {
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
            index_ranges_max: IMAGE_INDEX_RANGES_MAX,
            outlive: true,
        }
    }

    /// The eras of a group; there are some as soon as it runs.
    pub(crate) fn eras(&self, group: GroupId) -> Result<Arc<Eras>, ErrorBody> {
        if let Some(eras) = self.images.eras.lock().get(&group) {
            return Ok(Arc::clone(eras));
        }
        Ok(self.open_eras(group, &[])?.0)
    }

    /// The service stops: no image ends because of that. What cannot be saved now is not overwritten either, and stays in the journal.
    pub(crate) fn keep_images(&self) {
        self.images.eras.lock().values().for_each(|eras| eras.keep_all());
    }

    fn open_eras(&self, group: GroupId, users: &[EraUser]) -> Result<(Arc<Eras>, Vec<Lost>), ErrorBody> {
        let (eras, lost) = Eras::open(self.eras_parts(group), users).map_err(failed)?;
        // As long as no engine runs, that is all that is known of the volumes.
        eras.applied(AppliedPosition::of(self.catalog.applied(group).map_err(failed)?).position);
        let watch = self.this.upgrade().map(|this| this as Arc<dyn ErasWatch>);
        if let Some(watch) = watch {
            eras.watched_by(Arc::downgrade(&watch));
        }
        self.images.eras.lock().insert(group, Arc::clone(&eras));
        Ok((eras, lost.into_iter().map(|(era, reason)| (group, era, reason)).collect()))
    }

    /// Opens the images of the catalogue. Volumes are open already, groups are not started yet.
    pub(crate) fn open_images(&self) -> Result<(), ErrorBody> {
        let mut images = self.catalog.images().map_err(failed)?;
        let mut by_group: BTreeMap<GroupId, Vec<EraUser>> = BTreeMap::new();
        for part in images.iter().filter(|image| !image.is_broken()).flat_map(ImageRecords::parts) {
            by_group.entry(GroupId(part.group_id)).or_default().push(user(part));
        }
        for record in self.catalog.local_pairs().map_err(failed)? {
            by_group.entry(GroupId(record.group_id)).or_default().extend(era_user(&record));
        }
        let mut lost = Vec::new();
        for (group, users) in by_group {
            lost.extend(self.open_eras(group, &users)?.1);
        }
        for image in images.iter_mut().filter(|image| !image.is_broken()) {
            self.settle_lost(image, &lost)?;
        }
        for record in images {
            let name = record.first.name.clone();
            let held = self.open_image(record.clone()).unwrap_or_else(|error| {
                tracing::error!(image = %name, error = %error.message, "an image cannot be served");
                let held = Held::new(record, BTreeMap::new(), None);
                held.record.write().set_broken(&error.message);
                held
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
    pub(crate) fn open_image(&self, record: ImageRecords) -> Result<Held, ErrorBody> {
        if record.is_broken() {
            return Ok(Held::new(record, BTreeMap::new(), None));
        }
        let mut doors: BTreeMap<String, Arc<Door>> = BTreeMap::new();
        let mut cloned = None;
        for part in record.parts() {
            let image = self.image_of(part)?;
            let about = format!("Tidemark image of group {} at marker {}", part.group, part.marker);
            match part.kind {
                ImageKindRecord::T0 => {
                    let export = |name: &str| ImageExport::new(&image, name, &about);
                    let names = part.volumes.iter().map(|volume| volume.name.clone());
                    doors.extend(names.filter_map(|name| Some((name.clone(), Door::new(Arc::new(export(&name)?))))));
                }
                ImageKindRecord::Clone { space_bytes } | ImageKindRecord::Drill { space_bytes } => {
                    let door = |volume: &Arc<CloneVolume>| {
                        let export: Arc<dyn Export> = Arc::new(CloneExport::new(Arc::clone(volume), &about));
                        (volume.name().to_owned(), Door::new(export))
                    };
                    let whole = self.open_clone(&part.name, &image, space_bytes)?;
                    doors.extend(whole.volumes.iter().map(door));
                    cloned = Some(whole);
                }
            }
        }
        Ok(Held::new(record, doors, cloned))
    }

    /// What is shown of one group.
    fn image_of(&self, part: &ImageRecord) -> Result<Image, ErrorBody> {
        let eras = self.eras(GroupId(part.group_id))?;
        let mut volumes = Vec::new();
        for volume in &part.volumes {
            let file = Arc::clone(&self.volume(&volume.name)?.file.file);
            let (index, name, size) = (VolumeIndex(volume.index), volume.name.clone(), volume.size);
            volumes.push(ImageVolume { index, name, size, file });
        }
        Ok(Image::new(eras, part.era, volumes))
    }

    /// A clone is of one group.
    fn open_clone(&self, name: &str, image: &Image, limit: u64) -> Result<Cloned, ErrorBody> {
        let space = Arc::new(CloneSpace::within(limit, Arc::clone(&self.images.clone_space)));
        let folder = self.clone_folder(name);
        let open = |volume| CloneVolume::open(&self.disk, &folder, image, volume, &space).map(Arc::new);
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
        if let Some(reason) = held.broken() {
            return Err(OpenError::Refused { reason: format!("image '{image}' is broken: {reason}") });
        }
        held.doors.get(volume).cloned().ok_or_else(unknown)
    }

    /// Names of exports of images that can be opened now.
    pub(crate) fn image_exports(&self) -> Vec<String> {
        let held = self.images.held.read();
        let usable = held.iter().filter(|(_, held)| held.broken().is_none());
        usable.flat_map(|(name, held)| held.doors.keys().map(move |volume| format!("{name}/{volume}"))).collect()
    }

    /// Images that need a group or a volume of it, by name.
    pub(crate) fn images_of(&self, group: GroupId, volume: Option<&str>) -> Vec<String> {
        let held = self.images.held.read();
        let fits = |part: &ImageRecord| {
            let of = volume.is_none_or(|volume| part.volumes.iter().any(|member| member.name == volume));
            part.group_id == group.0 && part.broken.is_none() && of
        };
        held.iter().filter(|(_, held)| held.record.read().parts().any(fits)).map(|(name, _)| name.clone()).collect()
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

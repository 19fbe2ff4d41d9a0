//! The images of a backup: one freeze over all groups concerned, whose images are kept until the backup is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemark_backup::image::{Image as Readable, ImageError};
use tidemark_backup::manifest::{Moment as Said, VolumeSaid};
use tidemark_backup::plan::Images;
use tidemark_common::api::backup::types::WhileDifferential;
use tidemark_common::api::types::ErrorBody;
use tidemark_common::extent::Extent;
use tidemark_common::ids::{GroupId, VolumeIndex};
use tidemark_common::local_pair::LocalPair;
use tidemark_common::t0::{Eras, Image, ImagePoint, ImageVolume};

use crate::roles::appliance::{Appliance, refused};

/// As of when a backup is, and the images of its volumes.
pub(super) struct Moment {
    pub(super) images: Images,
    pub(super) said: Vec<Said>,
    held: Vec<Held>,
    /// Targets that are to lack nothing before it is copied.
    pub(super) wait_for: Vec<Arc<LocalPair>>,
    /// What targets lack is copied to them as it is read.
    pub(super) brings: bool,
}

impl Moment {
    /// The eras it uses.
    pub(super) fn eras(&self) -> Vec<(GroupId, u64)> {
        self.held.iter().map(|held| (held.group, held.era)).collect()
    }

    /// Whether what it reads cannot be kept for long: asked again and again.
    pub(super) fn squeezed(&self) -> Box<dyn Fn() -> bool + Send> {
        let eras: Vec<_> = self.held.iter().map(|held| Arc::clone(&held.eras)).collect();
        Box::new(move || eras.iter().any(|eras| eras.must_hurry()))
    }

    /// Between the first and the last cut.
    pub(super) fn skew_seconds(&self) -> f64 {
        let times = || self.said.iter().map(|said| said.time);
        match (times().min(), times().max()) {
            (Some(first), Some(last)) => last.duration_since(first).as_secs_f64(),
            _ => 0.0,
        }
    }
}

/// A user of an era, as long as it lives.
pub(super) struct Held {
    pub(super) group: GroupId,
    pub(super) eras: Arc<Eras>,
    pub(super) era: u64,
}

impl Held {
    /// A user that is done when its backup is.
    pub(super) fn new(group: GroupId, eras: &Arc<Eras>, era: u64) -> Self {
        eras.set_brief(era, true);
        Self { group, eras: Arc::clone(eras), era }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.eras.set_brief(self.era, false);
        // Nothing records it.
        self.eras.leave_for_good(self.era);
    }
}

/// One volume of a group's image.
pub(super) struct VolumeImage {
    pub(super) image: Image,
    pub(super) index: VolumeIndex,
    pub(super) size: u64,
}

impl Readable for VolumeImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.image.read(self.index, offset, buffer).map_err(|error| ImageError(error.to_string()))
    }

    fn hole(&self, offset: u64, length: u64) -> Result<u64, ImageError> {
        self.image.hole(self.index, offset, length).map_err(|error| ImageError(error.to_string()))
    }

    fn copied(&self, offset: u64, length: u64) {
        self.image.copied(Extent { volume: self.index, offset, length });
    }
}

impl Appliance {
    /// Images of these volumes, as they are now.
    pub(super) async fn moment(
        &self,
        backup: &str,
        volumes: &BTreeSet<String>,
        how: WhileDifferential,
    ) -> Result<Moment, String> {
        let names: Vec<String> = volumes.iter().cloned().collect();
        let taken = async { self.images_to_copy(backup, volumes, how).await.map_err(refused) };
        self.moment_of_whole(&names, "A backup", taken).await.map_err(|error| error.message)
    }

    async fn images_to_copy(
        &self,
        backup: &str,
        volumes: &BTreeSet<String>,
        how: WhileDifferential,
    ) -> Result<Moment, String> {
        let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut targets = Vec::new();
        for volume in volumes {
            self.volume(volume).map_err(|error| error.message)?;
            if let Some(held) = self.local_pairs.of_target(volume) {
                targets.push(held);
                continue;
            }
            let group = self.group_of(volume).ok_or_else(|| {
                format!(
                    "volume '{volume}' is in no group, so nothing says what it held at a moment: \
                     `tidemark group create NAME --volume {volume}` makes one"
                )
            })?;
            groups.entry(group).or_default().insert(volume.clone());
        }
        let taken = self.images_of_groups(backup, &groups).await?;
        let brings = how == WhileDifferential::Copy && !targets.is_empty();
        let mut moment =
            Moment { images: Images::new(), said: Vec::new(), held: Vec::new(), wait_for: Vec::new(), brings };
        for (held, said, images) in tokio::task::block_in_place(|| Self::images_of_targets(&targets, how))? {
            moment.held.push(held);
            say_once(&mut moment.said, said);
            moment.images.extend(images);
        }
        if how == WhileDifferential::Wait {
            moment.wait_for.extend(targets.iter().map(|target| Arc::clone(&target.pair)));
        }
        for (held, said, images) in taken {
            moment.held.push(held);
            moment.said.push(said);
            moment.images.extend(images);
        }
        Ok(moment)
    }

    async fn images_of_groups(
        &self,
        backup: &str,
        groups: &BTreeMap<String, BTreeSet<String>>,
    ) -> Result<Vec<(Held, Said, Images)>, String> {
        let text = |error: ErrorBody| error.message;
        let found: Result<Vec<_>, _> = groups.keys().map(|group| self.group(group)).collect();
        let found = found.map_err(text)?;
        let mut points = self.image_points(&found, backup).await.map_err(text)?;
        let mut taken = Vec::new();
        for (found, (group, volumes)) in found.iter().zip(groups) {
            let id = found.keeper.id();
            let point = points.remove(&id).ok_or_else(|| format!("group '{group}' has no moment"))?;
            let eras = self.eras(id).map_err(text)?;
            let begun = tokio::task::block_in_place(|| self.use_era(group, volumes, &eras, point));
            taken.push(begun.map_err(|why| format!("group '{group}': {why}"))?);
        }
        Ok(taken)
    }

    fn use_era(
        &self,
        group: &str,
        volumes: &BTreeSet<String>,
        eras: &Arc<Eras>,
        point: ImagePoint,
    ) -> Result<(Held, Said, Images), String> {
        let wanted: Vec<_> = point.volumes.iter().filter(|spec| volumes.contains(&spec.name)).collect();
        // A copy may have it for later markers alone.
        if let Some(missing) = volumes.iter().find(|name| !wanted.iter().any(|spec| spec.name == **name)) {
            return Err(format!("volume '{missing}' is not part of it at marker {}", point.marker.number));
        }
        let indices = wanted.iter().map(|spec| VolumeIndex(spec.index)).collect();
        let joined = eras.begin(&point.barrier, &indices).map_err(|error| error.to_string())?;
        let held = Held::new(self.group(group).map_err(|error| error.message)?.keeper.id(), eras, joined.era);
        let mut of_image = Vec::new();
        for spec in &wanted {
            let file = Arc::clone(&self.volume(&spec.name).map_err(|error| error.message)?.file.file);
            of_image.push(ImageVolume {
                index: VolumeIndex(spec.index),
                name: spec.name.clone(),
                size: spec.size,
                file,
            });
        }
        let image = Image::new(Arc::clone(eras), joined.era, of_image);
        let images = wanted.iter().map(|spec| {
            let volume = VolumeImage { image: image.clone(), index: VolumeIndex(spec.index), size: spec.size };
            (spec.name.clone(), Arc::new(volume) as Arc<dyn Readable>)
        });
        let time = jiff::Timestamp::from_nanosecond(point.marker.time_ns.into()).unwrap_or_default();
        let volumes = wanted.iter().map(|spec| VolumeSaid { name: spec.name.clone(), size: spec.size }).collect();
        let said = Said { group: group.into(), marker: point.marker.number, time, volumes };
        Ok((held, said, images.collect()))
    }
}

/// Targets of one split have one moment.
fn say_once(said: &mut Vec<Said>, next: Said) {
    match said.iter_mut().find(|before| before.group == next.group && before.marker == next.marker) {
        Some(before) => before.volumes.extend(next.volumes),
        None => said.push(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::tests::{add_primary, appliance};

    /// It was said not to be there, and status showed it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_that_came_behind_the_moment_is_said_to_be_no_part_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let appliance = appliance(directory.path(), &Arc::default());
        add_primary(&appliance, "g", "a").await;
        let group = appliance.group("g").unwrap();
        let id = group.keeper.id();
        let mut points = appliance.image_points(&[group], "b").await.unwrap();
        let point = points.remove(&id).unwrap();
        let (eras, marker) = (appliance.eras(id).unwrap(), point.marker.number);
        let volumes = BTreeSet::from(["a".to_owned(), "late".to_owned()]);
        let why = appliance.use_era("g", &volumes, &eras, point).map(drop).unwrap_err();
        assert_eq!(why, format!("volume 'late' is not part of it at marker {marker}"));
        assert!(eras.are_none());
    }
}

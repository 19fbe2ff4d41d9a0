//! What operators do with images: `t0`, `clone`, and the clone of a drill.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_common::api::types::{CloneCreate, ErrorBody, ImageKind, ImageState, ImageStatus, T0Create};
use tidemark_common::catalog::{ImageKindRecord, ImageRecord, ImageVolumeRecord};
use tidemark_common::ids::{GroupId, check_name};
use tidemark_common::t0::{ImagePoint, T0Error};
use tidemark_primary::joint;
use tidemark_secondary::group::Secondary;
use tidemark_secondary::image_point::{Asked, PointError};
use tidemark_secondary::permission::Permitted;

use super::appliance::{Appliance, Engine, Group, failed, invalid, refused};
use super::images::Held;

/// What an image is wanted of.
struct Wanted {
    group: Arc<Group>,
    /// Some of the group's volumes; all when it is empty.
    volumes: Vec<String>,
}

impl Appliance {
    /// `t0 create`.
    pub(crate) async fn create_t0(&self, request: T0Create) -> Result<ImageStatus, ErrorBody> {
        let wanted = self.wanted(&request.of)?;
        let _alone = self.changing.lock().await;
        self.make_image(&request.name, &wanted, ImageKindRecord::T0, Asked::Newest).await
    }

    /// `clone create`.
    pub(crate) async fn create_clone(&self, request: CloneCreate) -> Result<ImageStatus, ErrorBody> {
        let wanted = self.wanted(std::slice::from_ref(&request.of))?;
        let space_bytes = request.space_bytes.unwrap_or(self.config.images.clone_bytes);
        let _alone = self.changing.lock().await;
        let asked = asked(request.marker, request.time)?;
        self.make_image(&request.name, &wanted, ImageKindRecord::Clone { space_bytes }, asked).await
    }

    /// The clone of a drill.
    pub(crate) async fn create_drill_clone(
        &self,
        name: &str,
        group: &str,
        marker: Option<u64>,
    ) -> Result<ImageStatus, ErrorBody> {
        let wanted = Wanted { group: self.group(group)?, volumes: Vec::new() };
        let space_bytes = self.config.images.clone_bytes;
        let _alone = self.changing.lock().await;
        self.make_image(name, &wanted, ImageKindRecord::Drill { space_bytes }, asked(marker, None)?).await
    }

    /// A group, or volumes of one group.
    fn wanted(&self, of: &[String]) -> Result<Wanted, ErrorBody> {
        let mut found: Option<(String, Arc<Group>)> = None;
        let mut volumes = Vec::new();
        for name in of {
            let group = if self.groups.read().contains_key(name) {
                name.clone()
            } else {
                self.volume(name).map_err(|_| {
                    super::appliance::not_found(format!(
                        "there is no group and no volume '{name}': `tidemark status` lists them"
                    ))
                })?;
                volumes.push(name.clone());
                self.group_of(name).ok_or_else(|| {
                    refused(format!(
                        "volume '{name}' is in no group, and only groups have moments: `tidemark group create` makes one of it"
                    ))
                })?
            };
            match &found {
                Some((other, _)) if *other != group => {
                    return Err(refused(format!(
                        "'{name}' is of group '{group}' and others named are of group '{other}': an image shows one group at one moment. Make one image of each"
                    )));
                }
                Some(_) => {}
                None => found = Some((group.clone(), self.group(&group)?)),
            }
            if self.groups.read().contains_key(name) && of.len() > 1 {
                return Err(invalid(format!("name the group '{name}' alone, or volumes of it")));
            }
        }
        let (_, group) = found.ok_or_else(|| invalid("name a group, or volumes of one"))?;
        Ok(Wanted { group, volumes })
    }

    fn check_image_name(&self, name: &str) -> Result<(), ErrorBody> {
        check_name(name).map_err(|error| invalid(error.to_string()))?;
        if self.images.held.read().contains_key(name) {
            return Err(refused(format!(
                "there is an image '{name}' already: choose another name, or delete that one"
            )));
        }
        Ok(())
    }

    async fn make_image(
        &self,
        name: &str,
        wanted: &Wanted,
        kind: ImageKindRecord,
        asked: Asked,
    ) -> Result<ImageStatus, ErrorBody> {
        self.check_image_name(name)?;
        let point = self.image_point(&wanted.group, name, asked).await?;
        let record = self.image_record(name, wanted, kind, &point)?;
        let held = tokio::task::block_in_place(|| self.begin_image(record, &point))?;
        self.images.held.write().insert(name.to_owned(), Arc::clone(&held));
        Ok(self.image_status(&held))
    }

    /// The moment of an image; the updater stands there until it is begun.
    pub(crate) async fn image_point(&self, group: &Group, name: &str, asked: Asked) -> Result<ImagePoint, ErrorBody> {
        let engine = group.engine.read().clone();
        let of = group.keeper.name();
        match engine {
            Engine::Secondary(secondary) => {
                tokio::task::block_in_place(|| held_point(&secondary, &of, asked)).map(|(_, point)| point)
            }
            _ => {
                let primary = self.primary(&of)?;
                if asked != Asked::Newest {
                    return Err(refused(format!(
                        "group '{of}' is primary here, and its volumes have passed {asked}: without --at an image begins at a new \
                         marker; older ones may be held on its secondary"
                    )));
                }
                primary.image_point(Some(format!("image {name}"))).await.map_err(failed)
            }
        }
    }

    /// The moments of several groups. Those that are primary here have one and the same: all their gates are closed together. A
    /// copy has the moment of its own primary.
    pub(crate) async fn image_points(
        &self,
        groups: &[Arc<Group>],
        name: &str,
    ) -> Result<BTreeMap<GroupId, ImagePoint>, ErrorBody> {
        let mut points = BTreeMap::new();
        let mut primaries = Vec::new();
        for group in groups {
            let engine = group.engine.read().clone();
            match engine {
                Engine::Primary(primary) if groups.len() > 1 => primaries.push(primary),
                _ => drop(points.insert(group.keeper.id(), self.image_point(group, name, Asked::Newest).await?)),
            }
        }
        let tag = format!("image {name}");
        points.extend(joint::image_points(&primaries, Some(&tag)).await.map_err(failed)?);
        Ok(points)
    }

    /// Volumes of several groups have one moment where these are primary.
    pub(crate) fn refuse_without_common_moment(&self, groups: &[Arc<Group>]) -> Result<(), ErrorBody> {
        let copy = groups.iter().find(|group| !matches!(&*group.engine.read(), Engine::Primary(_)));
        match copy.filter(|_| groups.len() > 1) {
            Some(copy) => Err(refused(format!(
                "group '{}' is not primary here, and copies of several groups have no common moment: name volumes of one group, or \
                 do it where the groups are primary",
                copy.keeper.name()
            ))),
            None => Ok(()),
        }
    }

    fn image_record(
        &self,
        name: &str,
        wanted: &Wanted,
        kind: ImageKindRecord,
        point: &ImagePoint,
    ) -> Result<ImageRecord, ErrorBody> {
        let all = || wanted.volumes.is_empty();
        let specs = point.volumes.iter().filter(|spec| all() || wanted.volumes.contains(&spec.name));
        let volumes: Vec<_> = specs
            .map(|spec| ImageVolumeRecord { index: spec.index, name: spec.name.clone(), size: spec.size })
            .collect();
        if let Some(missing) = wanted.volumes.iter().find(|name| !volumes.iter().any(|volume| volume.name == **name)) {
            let marker = point.marker.number;
            return Err(refused(format!("volume '{missing}' is not part of the group at marker {marker}")));
        }
        Ok(ImageRecord {
            name: name.into(),
            kind,
            group: wanted.group.keeper.name(),
            group_id: wanted.group.keeper.id().0,
            era: 0,
            begin: None,
            marker: point.marker.number,
            boundary_seq: point.marker.boundary_seq,
            time_ns: point.marker.time_ns,
            tag: point.marker.tag.clone(),
            created_ns: i64::try_from(self.clock.wall().as_nanosecond()).unwrap_or(i64::MAX),
            volumes,
            broken: None,
        })
    }

    /// The era, the files, the record, in this order: what a kill leaves in between is removed at the next start.
    fn begin_image(&self, record: ImageRecord, point: &ImagePoint) -> Result<Arc<Held>, ErrorBody> {
        let eras = self.eras(GroupId(record.group_id))?;
        let joined = eras.begin(&point.barrier, &Self::indexes(&record)).map_err(|error| match error {
            T0Error::Side(error) if error.is_no_space() => {
                failed(format!("{error}: make room there, or delete other images"))
            }
            error => failed(error),
        })?;
        let begin = Some((joined.begin.segment, joined.begin.offset));
        let record = ImageRecord { era: joined.era, begin, ..record };
        let opened = self.open_image(record.clone());
        let made = opened.and_then(|held| self.catalog.put_image(&record).map_err(failed).map(|()| Arc::new(held)));
        made.inspect_err(|_| {
            eras.leave(joined.era);
            self.remove_clone_files(&record.name);
        })
    }

    fn remove_clone_files(&self, name: &str) {
        let folder = self.clone_folder(name);
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "the files of a clone could not be removed; the next start does it");
        }
    }

    /// `t0 delete`, `clone delete`.
    pub(crate) async fn delete_image(&self, name: &str, force: bool) -> Result<(), ErrorBody> {
        let _alone = self.changing.lock().await;
        let held = self.image(name)?;
        let connections = held.connections();
        if connections > 0 && !force {
            return Err(refused(format!(
                "image '{name}' has {connections} NBD connections: end them first, or use --force, which gives them errors"
            )));
        }
        self.catalog.delete_image(name).map_err(failed)?;
        self.images.held.write().remove(name);
        held.close(&format!("image '{name}' was deleted"));
        let record = held.record.read().clone();
        if record.broken.is_none() {
            let eras = self.eras(GroupId(record.group_id))?;
            tokio::task::block_in_place(|| eras.leave(record.era));
        }
        self.remove_clone_files(name);
        Ok(())
    }

    /// All images, for status.
    pub(crate) fn images_now(&self) -> Vec<ImageStatus> {
        let held: Vec<_> = self.images.held.read().values().cloned().collect();
        held.iter().map(|held| self.image_status(held)).collect()
    }

    pub(crate) fn image_status(&self, held: &Held) -> ImageStatus {
        let record = held.record.read().clone();
        let (kind, space_bytes) = match record.kind {
            ImageKindRecord::T0 => (ImageKind::T0, 0),
            ImageKindRecord::Clone { space_bytes } => (ImageKind::Clone, space_bytes),
            ImageKindRecord::Drill { space_bytes } => (ImageKind::Drill, space_bytes),
        };
        let time = |ns: i64| jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
        let created = time(record.created_ns);
        let eras = self.eras(GroupId(record.group_id)).ok().filter(|_| record.broken.is_none());
        let exports = record.volumes.iter().map(|volume| self.nbd_uri(&format!("{}/{}", record.name, volume.name)));
        ImageStatus {
            exports: exports.collect(),
            name: record.name,
            kind,
            group: record.group,
            marker: record.marker,
            marker_time: time(record.time_ns),
            created,
            age_seconds: (self.clock.wall() - created).total(jiff::Unit::Second).unwrap_or(0.0).max(0.0),
            state: if record.broken.is_some() { ImageState::Broken } else { ImageState::Ready },
            reason: record.broken,
            volumes: record.volumes.into_iter().map(|volume| volume.name).collect(),
            connections: held.connections(),
            saved_bytes: eras.map_or(0, |eras| eras.bytes_of(record.era)),
            written_bytes: held.clone.as_ref().map_or(0, |clone| clone.space.used()),
            space_bytes,
        }
    }

    /// How a host opens an export here.
    pub(crate) fn nbd_uri(&self, export: &str) -> String {
        let address = self.addresses.get().and_then(|addresses| addresses.nbd.first().cloned()).unwrap_or_default();
        match address.strip_prefix("unix:") {
            Some(path) => format!("nbd+unix:///{export}?socket={}", escaped(path)),
            None => format!("nbd://{address}/{export}"),
        }
    }
}

/// The moment that a request names.
pub(crate) fn asked(marker: Option<u64>, time: Option<jiff::Timestamp>) -> Result<Asked, ErrorBody> {
    match (marker, time) {
        (None, None) => Ok(Asked::Newest),
        (Some(number), None) => Ok(Asked::Marker(number)),
        (None, Some(time)) => Ok(Asked::Time(i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX))),
        (Some(_), Some(_)) => Err(invalid("name a marker or a time, not both")),
    }
}

/// A moment that a copy holds.
pub(crate) fn held_point(secondary: &Secondary, of: &str, asked: Asked) -> Result<(Permitted, ImagePoint), ErrorBody> {
    secondary.image_point(asked).map_err(|error| {
        let more = match &error {
            PointError::NotHeld { .. } => {
                format!(". `tidemark group set {of} --history 24h` on its primary has older ones kept from then on")
            }
            _ => String::new(),
        };
        refused(format!("group '{of}': {error}{more}"))
    })
}

/// A path inside of a URI.
fn escaped(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/');
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    path.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_blanks_stays_one_path() {
        assert_eq!(escaped("/srv/a b/nbd.sock?x"), "/srv/a%20b/nbd.sock%3Fx");
    }
}

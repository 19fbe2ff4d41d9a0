//! What operators do with images: `t0`, `clone`, and the clone of a drill.

use std::sync::Arc;

use tidemark_common::api::types::{CloneCreate, ErrorBody, GroupMoment, ImageKind, ImageState, ImageStatus, T0Create};
use tidemark_common::catalog::{ImageKindRecord, ImageRecord, ImageRecords, ImageVolumeRecord};
use tidemark_common::clock::from_unix_ns;
use tidemark_common::ids::{GroupId, check_name};
use tidemark_common::plural::counted;
use tidemark_common::t0::{CloneError, Eras, ImagePoint, T0Error};
use tidemark_secondary::image_point::Asked;

use super::appliance::{Appliance, Group, failed, invalid, not_found, refused};
use super::image_moments::{Points, asked};
use super::images::Held;

/// What an image is wanted of.
pub(super) struct Wanted {
    pub(super) group: Arc<Group>,
    /// Some of the group's volumes; all when it is empty.
    volumes: Vec<String>,
}

impl Wanted {
    /// All that it shows, by name.
    fn volumes(&self) -> Vec<String> {
        if self.volumes.is_empty() {
            return self.group.keeper.get().volumes.into_iter().map(|member| member.name).collect();
        }
        self.volumes.clone()
    }
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
        self.make_image(name, &[wanted], ImageKindRecord::Drill { space_bytes }, asked(marker, None)?).await
    }

    /// Groups, and volumes of groups.
    fn wanted(&self, of: &[String]) -> Result<Vec<Wanted>, ErrorBody> {
        let mut found: Vec<Wanted> = Vec::new();
        for name in of {
            let (group, volume) = if self.groups.read().contains_key(name) {
                (name.clone(), None)
            } else {
                (self.imaged_group(name)?, Some(name.clone()))
            };
            let group = self.group(&group)?;
            match (found.iter_mut().find(|known| Arc::ptr_eq(&known.group, &group)), volume) {
                (None, volume) => found.push(Wanted { group, volumes: volume.into_iter().collect() }),
                (Some(known), Some(volume)) if !known.volumes.is_empty() => known.volumes.push(volume),
                _ => return Err(invalid(format!("name group '{}' once, or volumes of it", group.keeper.name()))),
            }
        }
        if found.is_empty() { Err(invalid("name a group, or volumes of one")) } else { Ok(found) }
    }

    /// The group of a volume that an image is wanted of.
    fn imaged_group(&self, volume: &str) -> Result<String, ErrorBody> {
        self.volume(volume).map_err(|_| {
            not_found(format!("there is no group and no volume '{volume}': `tidemark status` lists them"))
        })?;
        self.group_of(volume).ok_or_else(|| {
            refused(format!(
                "volume '{volume}' is in no group, and only groups have moments: `tidemark group create` makes one of it"
            ))
        })
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

    /// A clone that cannot be written is none.
    fn check_room_for_clone(&self) -> Result<(), ErrorBody> {
        let space = &self.images.clone_space;
        if space.used() < space.limit() {
            return Ok(());
        }
        Err(refused(CloneError::AllFull(space.limit()).to_string()))
    }

    async fn make_image(
        &self,
        name: &str,
        wanted: &[Wanted],
        kind: ImageKindRecord,
        asked: Asked,
    ) -> Result<ImageStatus, ErrorBody> {
        self.check_image_name(name)?;
        if kind != ImageKindRecord::T0 {
            self.check_room_for_clone()?;
        }
        let volumes: Vec<String> = wanted.iter().flat_map(Wanted::volumes).collect();
        let points = self.moment_of_whole(&volumes, "An image", self.points_of(name, wanted, asked)).await?;
        let record = self.image_records(name, wanted, kind, &points)?;
        let held = tokio::task::block_in_place(|| self.begin_image(record, &points))?;
        self.images.held.write().insert(name.to_owned(), Arc::clone(&held));
        Ok(self.image_status(&held))
    }

    fn image_records(
        &self,
        name: &str,
        wanted: &[Wanted],
        kind: ImageKindRecord,
        points: &Points,
    ) -> Result<ImageRecords, ErrorBody> {
        let created_ns = self.now_ns();
        let part = |wanted: &Wanted| {
            let volumes = volumes_of(wanted, point_of(points, wanted)?)?;
            let marker = &point_of(points, wanted)?.marker;
            Ok(ImageRecord {
                name: name.into(),
                kind,
                group: wanted.group.keeper.name(),
                group_id: wanted.group.keeper.id().0,
                era: 0,
                begin: None,
                marker: marker.number,
                boundary_seq: marker.boundary_seq,
                time_ns: marker.time_ns,
                tag: marker.tag.clone(),
                created_ns,
                volumes,
                broken: None,
            })
        };
        let (first, others) = wanted.split_first().ok_or_else(|| invalid("name a group, or volumes of one"))?;
        Ok(ImageRecords { first: part(first)?, others: others.iter().map(part).collect::<Result<_, ErrorBody>>()? })
    }

    /// The eras, the files, the record, in this order: what a kill leaves in between is removed at the next start.
    fn begin_image(&self, mut record: ImageRecords, points: &Points) -> Result<Arc<Held>, ErrorBody> {
        let mut begun = Vec::new();
        let alone = self.without_leftovers(&record.first.name);
        let made = alone.and_then(|()| self.begin_parts(&mut record, points, &mut begun)).and_then(|()| {
            let held = self.open_image(record.clone())?;
            self.catalog.put_image(&record).map_err(failed)?;
            Ok(Arc::new(held))
        });
        made.inspect_err(|_| {
            begun.iter().for_each(|(eras, era)| eras.leave(*era));
            self.remove_clone_files(&record.first.name);
        })
    }

    /// An era for each group.
    fn begin_parts(
        &self,
        record: &mut ImageRecords,
        points: &Points,
        begun: &mut Vec<(Arc<Eras>, u64)>,
    ) -> Result<(), ErrorBody> {
        for part in record.parts_mut() {
            let point = points.get(&GroupId(part.group_id)).ok_or_else(|| no_moment(&part.group))?;
            let eras = self.eras(GroupId(part.group_id))?;
            let joined = eras.begin(&point.barrier, &Self::indexes(part)).map_err(|error| match error {
                T0Error::Side(error) if error.is_no_space() => {
                    failed(format!("{error}: make room there, or delete other images"))
                }
                error @ (T0Error::Full(_) | T0Error::Crowded) => refused(error.to_string()),
                error => failed(error),
            })?;
            (part.era, part.begin) = (joined.era, Some((joined.begin.segment, joined.begin.offset)));
            begun.push((eras, joined.era));
        }
        Ok(())
    }

    /// Files of a clone that was deleted, and that could not be removed then, are not those of the next one of its name.
    fn without_leftovers(&self, name: &str) -> Result<(), ErrorBody> {
        let folder = self.clone_folder(name);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let why = format!(
                    "{error}: remove {}, which an earlier clone left, or name this one otherwise",
                    folder.display()
                );
                Err(failed(why))
            }
            _ => Ok(()),
        }
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
                "image '{name}' has {}: disconnect the hosts first, or use --force, which gives them errors",
                counted(connections, "NBD connection")
            )));
        }
        let leaves = tokio::task::block_in_place(|| {
            // Whoever finds it broken now does not record it again.
            let mut is_deleted = held.recording.lock();
            self.catalog.delete_image(name).map_err(failed)?;
            *is_deleted = true;
            Ok::<_, ErrorBody>(held.leaves())
        })?;
        self.images.held.write().remove(name);
        held.close(&format!("image '{name}' was deleted"));
        if leaves {
            tokio::task::block_in_place(|| self.leave_eras(&held, Eras::leave_for_good));
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
        let ImageRecord { name, kind, group, marker, time_ns, created_ns, .. } = record.first.clone();
        let broken = held.broken();
        let (kind, space_bytes) = match kind {
            ImageKindRecord::T0 => (ImageKind::T0, 0),
            ImageKindRecord::Clone { space_bytes } => (ImageKind::Clone, space_bytes),
            ImageKindRecord::Drill { space_bytes } => (ImageKind::Drill, space_bytes),
        };
        let moment = |part: &ImageRecord| GroupMoment {
            group: part.group.clone(),
            marker: part.marker,
            time: from_unix_ns(part.time_ns),
        };
        let saved = |part: &ImageRecord| self.eras(GroupId(part.group_id)).map_or(0, |eras| eras.bytes_of(part.era));
        let volumes: Vec<String> =
            record.parts().flat_map(|part| &part.volumes).map(|volume| volume.name.clone()).collect();
        let created = from_unix_ns(created_ns);
        ImageStatus {
            exports: volumes.iter().map(|volume| self.nbd_uri(&format!("{name}/{volume}"))).collect(),
            name,
            kind,
            group,
            marker,
            marker_time: from_unix_ns(time_ns),
            moments: record.parts().map(moment).collect(),
            created,
            age_seconds: (self.clock.wall() - created).total(jiff::Unit::Second).unwrap_or(0.0).max(0.0),
            state: if broken.is_some() { ImageState::Broken } else { ImageState::Ready },
            saved_bytes: if record.is_broken() { 0 } else { record.parts().map(saved).sum() },
            reason: broken,
            volumes,
            connections: held.connections(),
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

fn no_moment(group: &str) -> ErrorBody {
    failed(format!("group '{group}' has no moment"))
}

fn point_of<'a>(points: &'a Points, wanted: &Wanted) -> Result<&'a ImagePoint, ErrorBody> {
    points.get(&wanted.group.keeper.id()).ok_or_else(|| no_moment(&wanted.group.keeper.name()))
}

/// The volumes that are wanted of a group, as they were at a moment.
fn volumes_of(wanted: &Wanted, point: &ImagePoint) -> Result<Vec<ImageVolumeRecord>, ErrorBody> {
    let all = wanted.volumes.is_empty();
    let specs = point.volumes.iter().filter(|spec| all || wanted.volumes.contains(&spec.name));
    let volumes: Vec<_> =
        specs.map(|spec| ImageVolumeRecord { index: spec.index, name: spec.name.clone(), size: spec.size }).collect();
    match wanted.volumes.iter().find(|name| !volumes.iter().any(|volume| volume.name == **name)) {
        Some(missing) => {
            let (group, marker) = (wanted.group.keeper.name(), point.marker.number);
            Err(refused(format!("volume '{missing}' is not part of group '{group}' at marker {marker}")))
        }
        None => Ok(volumes),
    }
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
    use crate::service::tests::{add_primary, appliance, leave_half_restored};

    /// It serves nothing until it is whole, but its image did.
    #[tokio::test(flavor = "multi_thread")]
    async fn no_image_is_made_of_a_volume_that_is_half_restored() {
        let directory = tempfile::tempdir().unwrap();
        let appliance = appliance(directory.path(), &Arc::default());
        add_primary(&appliance, "g", "a").await;
        leave_half_restored(&appliance, "a");
        let make = || appliance.create_t0(T0Create { name: "i".into(), of: vec!["g".into()] });
        let why = make().await.unwrap_err().message;
        assert!(why.contains("'a' is half restored") && why.contains("would hold neither"), "{why}");
        assert!(appliance.images_now().is_empty());
        appliance.forget_restore("a").unwrap();
        make().await.unwrap();
    }

    #[test]
    fn a_path_with_blanks_stays_one_path() {
        assert_eq!(escaped("/srv/a b/nbd.sock?x"), "/srv/a%20b/nbd.sock%3Fx");
    }
}

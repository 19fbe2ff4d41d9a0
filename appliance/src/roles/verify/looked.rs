//! The copy's side of a comparison: its image stands, and digests of it are told, for as long as the primary asks. Nothing of it
//! is kept over a restart (decision 17).

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::ids::VolumeIndex;
use tidemark_common::limits::REGION_BYTES;
use tidemark_common::link::{Connection, ControlReceiver, ControlSender};
use tidemark_common::t0::{Eras, Image, ImageVolume};
use tidemark_common::verify::{RegionDigest, digests};
use tidemark_common::wire::handshake::{Versions, agree};
use tidemark_common::wire::message::{Message, Refusal, Refused, Verify};
use tidemark_secondary::group::Secondary;
use tidemark_secondary::image_point::Asked;
use tidemark_secondary::state::{Hold, Looking};

use super::super::appliance::{Appliance, Engine};
use super::compare::{BATCH, HELD_TIMEOUT, LOOK};

/// The copy has applied what it permitted within this time, or nothing can be compared. Under full load it is that far behind.
const REACH_TIMEOUT: Duration = Duration::from_secs(120);
const _: () = assert!(REACH_TIMEOUT.as_secs() < HELD_TIMEOUT.as_secs(), "who asks hears from the copy why");
/// A primary that asks nothing for so long lets the copy go on.
const SILENCE: Duration = Duration::from_secs(120);

impl Appliance {
    /// The copy's side: holds its image, and tells digests, for as long as the primary asks.
    pub(crate) async fn let_verify(
        &self,
        connection: &Connection,
        control: &ControlSender,
        incoming: &mut ControlReceiver,
        first: &Verify,
    ) -> Result<(), Refused> {
        agree(Versions::OURS, Versions { min: first.version_min, max: first.version_max })?;
        let secondary = self.copy_of(connection, first)?;
        let refuse = |message: String| Refused { refusal: Refusal::Unready, message, generation: 0 };
        let Some(mut looked) = self.look_for(connection, &secondary).await.map_err(refuse)? else { return Ok(()) };
        let mut reply = Message::Held { marker: looked.marker() };
        loop {
            if secondary.state().is_stopping() {
                // Who runs the group from now on writes the volumes: what was read may be neither of the marker nor of a copy.
                return Ok(());
            }
            control.send(&reply).await.map_err(|error| refuse(error.to_string()))?;
            let next = tokio::time::timeout(SILENCE, incoming.recv()).await;
            reply = match next {
                Ok(Ok(Some(Message::Ask { volume, offset, regions }))) => {
                    let told = tokio::task::block_in_place(|| looked.digests(&secondary, volume, offset, regions));
                    Message::Digests { digests: told.map_err(refuse)? }
                }
                Ok(Ok(Some(Message::Verify(_)))) => {
                    drop(looked);
                    let Some(next) = self.look_for(connection, &secondary).await.map_err(refuse)? else {
                        return Ok(());
                    };
                    looked = next;
                    Message::Held { marker: looked.marker() }
                }
                // The end, in good order or not: the hold goes with it.
                _ => return Ok(()),
            };
        }
    }

    fn copy_of(&self, connection: &Connection, request: &Verify) -> Result<Arc<Secondary>, Refused> {
        let here = &self.config.name;
        let refuse = |message: String| Refused { refusal: Refusal::Conflict, message, generation: 0 };
        let group = self.group_asked_for(&request.group)?;
        let record = group.keeper.get();
        let Engine::Secondary(secondary) = group.engine.read().clone() else {
            return Err(refuse(format!("group '{}' is no copy on '{here}'", record.name)));
        };
        if record.primary != Some(connection.peer().0) || record.generation != request.generation {
            return Err(refuse(format!(
                "group '{}' on '{here}' is the copy of another appliance or generation",
                record.name
            )));
        }
        Ok(secondary)
    }

    /// `None`: who asked is gone, and the copy goes on.
    async fn look_for(&self, connection: &Connection, secondary: &Arc<Secondary>) -> Result<Option<Looked>, String> {
        tokio::select! {
            looked = self.look(secondary) => looked.map(Some),
            _ = connection.closed() => Ok(None),
        }
    }

    /// The copy volumes, held at their marker; with a history they are behind on purpose, and an image is looked at instead.
    async fn look(&self, secondary: &Arc<Secondary>) -> Result<Looked, String> {
        if secondary.state().history().floor.is_none() {
            return self.hold(secondary).await;
        }
        tokio::task::block_in_place(|| {
            let (permitted, point) = secondary.image_point(Asked::Newest).map_err(|error| error.to_string())?;
            let eras = self.eras(secondary.keeper().id()).map_err(|error| error.message)?;
            let indexes = point.volumes.iter().map(|spec| VolumeIndex(spec.index)).collect();
            let era = eras.begin(&point.barrier, &indexes).map_err(|error| error.to_string())?.era;
            let files = point.volumes.iter().filter_map(|spec| secondary.files().get(VolumeIndex(spec.index)));
            let volumes = files.map(|file| ImageVolume {
                index: file.index,
                name: file.name.clone(),
                size: file.size(),
                file: Arc::clone(&file.file),
            });
            let image = Image::new(Arc::clone(&eras), era, volumes.collect());
            let told = secondary.state().look_at(permitted);
            Ok(Looked::Image { marker: point.marker.number, image, _era: LeavesEra { eras, era }, _told: told })
        })
    }

    async fn hold(&self, secondary: &Secondary) -> Result<Looked, String> {
        let hold = secondary.state().hold();
        let hold = hold.ok_or("there is no image yet: the initial copy is not complete")?;
        let told = secondary.state().look_at(hold.permitted.clone());
        let deadline = self.clock.monotonic() + REACH_TIMEOUT;
        while !hold.is_reached() {
            if self.clock.monotonic() >= deadline {
                return Err(format!("marker {} is not applied yet: try again", hold.permitted.marker.number));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(Looked::Volumes { hold, _told: told })
    }
}

/// What the copy's side tells digests of.
enum Looked {
    Volumes { hold: Hold, _told: Looking },
    Image { marker: u64, image: Image, _era: LeavesEra, _told: Looking },
}

/// The user of an era, for as long as it lives; no record names it, so a restart forgets it.
struct LeavesEra {
    eras: Arc<Eras>,
    era: u64,
}

impl Drop for LeavesEra {
    fn drop(&mut self) {
        self.eras.leave(self.era);
    }
}

impl Looked {
    const fn marker(&self) -> u64 {
        match self {
            Self::Volumes { hold, .. } => hold.permitted.marker.number,
            Self::Image { marker, .. } => *marker,
        }
    }

    fn digests(
        &self,
        secondary: &Secondary,
        volume: u32,
        offset: u64,
        count: u32,
    ) -> Result<Vec<RegionDigest>, String> {
        let Self::Image { image, .. } = self else { return digests_of(secondary, volume, offset, count) };
        let index = VolumeIndex(volume);
        let found = image.volumes().iter().find(|found| found.index == index);
        let found = found.ok_or_else(|| format!("there is no volume {volume} here"))?;
        check_question(offset, count)?;
        let hole = |offset, length| image.hole(index, offset, length).map_err(std::io::Error::other);
        let read = |offset, target: &mut [u8]| image.read(index, offset, target).map_err(std::io::Error::other);
        let count = usize::try_from(count).unwrap_or(0);
        digests::<std::io::Error>(found.size, offset, count, hole, read).map_err(|error| error.to_string())
    }
}

fn check_question(offset: u64, count: u32) -> Result<(), String> {
    if !offset.is_multiple_of(REGION_BYTES) || u64::from(count) > BATCH {
        return Err("a question that makes no sense".into());
    }
    Ok(())
}

fn digests_of(secondary: &Secondary, volume: u32, offset: u64, count: u32) -> Result<Vec<RegionDigest>, String> {
    let file = secondary.files().get(VolumeIndex(volume)).ok_or_else(|| format!("there is no volume {volume} here"))?;
    check_question(offset, count)?;
    let hole = |offset: u64, length: u64| {
        let data = file.file.next_data(offset)?;
        Ok(data.map_or(length, |(begin, _)| begin.saturating_sub(offset).min(length)))
    };
    let read = |offset: u64, target: &mut [u8]| file.file.read_exact_at(target, offset);
    let count = usize::try_from(count).unwrap_or(0);
    digests::<std::io::Error>(file.size(), offset, count, hole, read)
        .map_err(|error| format!("read volume '{}': {error}", file.name))
}

#[cfg(test)]
mod tests {
    use tidemark_common::catalog::Batch;
    use tidemark_common::ids::GroupId;
    use tidemark_common::lease::{Lease, LeaseKind, leases};
    use tidemark_common::markers::kept;
    use tidemark_common::record::MarkerRecord;

    use super::*;
    use crate::roles::stop_copy::tests::copy_of;
    use crate::service::tests::{Faults, appliance, copy_record};

    /// The volumes stood, the journal filled, and what was said of that sent people to `tidemark leases`, where nothing was.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_comparison_is_a_lease_where_the_copy_is_too() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let record = copy_record("g", [7; 16]);
        let marker = MarkerRecord { number: 7, boundary_seq: 0, time_ns: 0, freeze_ns: 0, tag: None };
        let mut batch = Batch::new();
        batch.put_group(&record).unwrap();
        batch.put_markers(GroupId(record.id), &[kept(&marker)]).unwrap();
        appliance.catalog.commit(batch).unwrap();
        appliance.start_groups().await.unwrap();
        let group = appliance.group("g").unwrap();
        let copy = copy_of(&group);
        let held = || leases(&appliance.status_now(), appliance.clock.wall());
        assert!(held().is_empty());
        let looked = appliance.look(&copy).await.unwrap();
        let [lease]: [Lease; 1] = held().try_into().unwrap();
        assert_eq!((lease.kind, lease.group.as_str(), lease.marker), (LeaseKind::Comparison, "g", Some(7)));
        assert!(lease.bytes.is_some() && lease.ends_with.contains("verify g --to alone --suspend"), "{lease:?}");
        drop(looked);
        assert!(held().is_empty());
        appliance.stop_groups().await;
    }
}

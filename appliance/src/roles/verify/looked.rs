//! The copy's side of a comparison: its image stands, and digests of it are told, for as long as the primary asks. Nothing of it
//! is kept over a restart (decision 17).

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::clock::within;
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

use super::super::appliance::{Appliance, refuse};
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
        let caller = connection.peer().0;
        let copy = self.group_asked_for(&first.group)?.copy_for(caller, first.generation, &self.config.name);
        let secondary = copy.map_err(|message| refuse(Refusal::Conflict, 0, message))?;
        let unready = |message: String| refuse(Refusal::Unready, 0, message);
        let Some(mut looked) = self.look_for(connection, &secondary).await.map_err(unready)? else { return Ok(()) };
        let mut reply = Message::Held { marker: looked.marker() };
        loop {
            if secondary.state().is_stopping() {
                // Who runs the group from now on writes the volumes: what was read may be neither of the marker nor of a copy.
                return Ok(());
            }
            control.send(&reply).await.map_err(|error| unready(error.to_string()))?;
            reply = match within(&*self.clock, SILENCE, incoming.recv()).await {
                Some(Ok(Some(Message::Ask { volume, offset, regions }))) => {
                    let told = tokio::task::block_in_place(|| looked.digests(&secondary, volume, offset, regions));
                    Message::Digests { digests: told.map_err(unready)? }
                }
                Some(Ok(Some(Message::Verify(_)))) => {
                    drop(looked);
                    let Some(next) = self.look_for(connection, &secondary).await.map_err(unready)? else {
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
pub(super) mod tests {
    use std::pin::pin;

    use tidemark_common::catalog::{Batch, GroupRecord};
    use tidemark_common::clock::{Clock, HandClock};
    use tidemark_common::ids::GroupId;
    use tidemark_common::lease::{Lease, LeaseKind, leases};
    use tidemark_common::markers::kept;
    use tidemark_common::record::MarkerRecord;

    use super::*;
    use crate::roles::dirty::tests::endpoint;
    use crate::service::tests::{Faults, appliance, appliance_by, copy_of, copy_record};

    /// What comes of something while so much time passes again and again: who still waits then does so for ever.
    pub(in super::super) async fn while_time_passes<T>(
        clock: &HandClock,
        time: Duration,
        what: impl Future<Output = T>,
    ) -> T {
        let mut what = pin!(what);
        for _ in 0..4_000 {
            clock.set(clock.monotonic() + time);
            if let Ok(came) = tokio::time::timeout(LOOK, what.as_mut()).await {
                return came;
            }
        }
        panic!("it is waited for without end")
    }

    /// A copy at marker 7, which has no volumes.
    fn add_copy(appliance: &Appliance, record: &GroupRecord) {
        let marker = MarkerRecord { number: 7, boundary_seq: 0, time_ns: 0, freeze_ns: 0, tag: None };
        let mut batch = Batch::new();
        batch.put_group(record).unwrap();
        batch.put_markers(GroupId(record.id), &[kept(&marker)]).unwrap();
        appliance.catalog.commit(batch).unwrap();
    }

    /// A primary that hangs does not end a conversation: the copy stood with it, and its journal filled.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_stands_for_who_asks_and_goes_on_when_nothing_was_asked_for_two_minutes() {
        let (directory, clock) = (tempfile::tempdir().unwrap(), Arc::new(HandClock::default()));
        let appliance = appliance_by(directory.path(), &Arc::<Faults>::default(), Arc::clone(&clock));
        let ((primary_id, near), (id, far)) = (endpoint(), endpoint());
        add_copy(&appliance, &GroupRecord { primary: Some(primary_id.0), ..copy_record("g", [7; 16]) });
        appliance.start_groups().await.unwrap();
        let held = || leases(&appliance.status_now(), appliance.clock.wall()).len();
        let address = far.local_addr().unwrap().to_string();
        let (dialed, accepted) = tokio::join!(near.dial(&address, id), far.accept());
        let (primary, connection) = (dialed.unwrap(), accepted.unwrap());
        let (control, mut answers) = primary.open_control().await.unwrap();
        let (version_min, version_max) = (Versions::OURS.min, Versions::OURS.max);
        let asks = Verify { version_min, version_max, group: [7; 16], generation: 1 };
        control.send(&Message::Verify(asks.clone())).await.unwrap();
        let (answering, mut incoming) = connection.accept_control().await.unwrap();
        incoming.recv().await.unwrap();
        let (copy, first) = (Arc::clone(&appliance), asks.clone());
        let verifying =
            tokio::spawn(async move { copy.let_verify(&connection, &answering, &mut incoming, &first).await });
        assert!(matches!(answers.recv().await, Ok(Some(Message::Held { marker: 7 }))));
        clock.set(SILENCE - Duration::from_nanos(1));
        control.send(&Message::Verify(asks)).await.unwrap();
        assert!(matches!(answers.recv().await, Ok(Some(Message::Held { marker: 7 }))), "it still stands");
        assert_eq!(held(), 1);
        while_time_passes(&clock, SILENCE, verifying).await.unwrap().unwrap();
        assert_eq!(held(), 0);
        appliance.stop_groups().await;
    }

    /// The volumes stood, the journal filled, and what was said of that sent people to `tidemark leases`, where nothing was.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_comparison_is_a_lease_where_the_copy_is_too() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_copy(&appliance, &copy_record("g", [7; 16]));
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
